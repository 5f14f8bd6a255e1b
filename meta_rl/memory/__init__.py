"""Memory cores: recurrent networks that carry an agent's state through a trial."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_count

MemoryState: TypeAlias = tuple[Tensor, ...]
"""State of a core: a tuple of tensors, each with the batch as its leading axis, ``[N, ...]``."""


class MemoryCore(nn.Module, ABC):
    """A recurrent network over time-major sequences.

    Attributes:
        input_size: Number of features of an input, I.
        output_size: Number of features of an output, H.
        gains: Gains of the orthogonal first weights, by the name of the layer (default: 1).
    """

    input_size: int
    output_size: int
    gains: ClassVar[dict[str, float]] = {}

    @abstractmethod
    def initial_state(self, num: int) -> MemoryState:
        """Returns the state before the first input, for ``num`` sequences."""

    @abstractmethod
    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over a part of a sequence in which no trial begins.

        Args:
            inputs: Inputs, ``[T, N, I]``.
            state: State before the first input.

        Returns:
            Outputs ``[T, N, H]`` and the state after the last input.
        """

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws the first weights: orthogonal blocks, one for each gate; biases are zero.

        One-dimensional weights, such as the scales of a ``LayerNorm``, keep their first values. A
        core that needs other weights overrides this.
        """
        for name, parameter in self.named_parameters():
            layer, _, kind = name.rpartition(".")
            if parameter.dim() >= 2:
                for block in parameter.split(self.output_size):
                    nn.init.orthogonal_(block, self.gains.get(layer, 1.0), generator=generator)
            elif kind != "weight":
                nn.init.zeros_(parameter)

    @abstractmethod
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the gates so that units forget over 1 to ``longest`` steps.

        Chrono initialisation (Tallec and Ollivier, 2018, section 3) sets them to ``log(u)`` with
        ``u`` uniform over 1 to ``longest - 1``. With zero biases all units forget half of their
        state in a step, and the gradient of earlier steps vanishes.

        Args:
            longest: Longest time scale, in steps.
            generator: Generator of the draws.
        """

    def step(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Takes one step: maps inputs ``[N, I]`` to outputs ``[N, H]`` and the next state.

        Within ``torch.inference_mode()`` a core may write into the state that it is given.
        """
        outputs, state = self(inputs[None], state)
        return outputs[0], state

    def reset(self, state: MemoryState, begins: Tensor) -> MemoryState:
        """Returns the state with the initial one where a trial begins (bool ``[N]``)."""
        first = self.initial_state(len(begins))
        return tuple(
            torch.where(begins.view(-1, *[1] * (old.dim() - 1)), new, old)
            for old, new in zip(state, first, strict=True)
        )


def time_scales(size: int, longest: int, generator: torch.Generator) -> Tensor:
    """Draws biases ``[size]`` of gates that forget over 1 to ``longest`` steps."""
    drawn = torch.rand(size, generator=generator, device=generator.device)
    return torch.log(1.0 + drawn * max(longest - 2, 0))


class GRUCore(MemoryCore):
    """Gated recurrent unit (Cho et al., 2014); the state is ``(h,)``, ``h`` of shape ``[N, H]``."""

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.GRU(input_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Returns zeros."""
        return (next(self.parameters()).new_zeros(num, self.output_size),)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        outputs, hidden = self.rnn(inputs, state[0][None])
        return outputs, (hidden[0],)

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the update gate, which keeps the memory."""
        _, keep, _ = self.rnn.get_parameter("bias_hh_l0").chunk(3)
        keep.copy_(time_scales(self.output_size, longest, generator))


class LSTMCore(MemoryCore):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); the state is ``(h, c)``."""

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.LSTM(input_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Returns zeros."""
        zeros = next(self.parameters()).new_zeros(num, self.output_size)
        return (zeros, zeros)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        outputs, (hidden, cell) = self.rnn(inputs, (state[0][None], state[1][None]))
        return outputs, (hidden[0], cell[0])

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the forget gate; those of the input gate get the negative values."""
        enter, keep, _, _ = self.rnn.get_parameter("bias_hh_l0").chunk(4)
        keep.copy_(time_scales(self.output_size, longest, generator))
        enter.copy_(-keep)


MEMORY_CORES: dict[str, str | Callable[[int, int, int], MemoryCore]] = {
    "gru": GRUCore,
    "lstm": LSTMCore,
    "mingru": "meta_rl.memory.mingru:MinGRUCore",
    "attention": "meta_rl.memory.attention:AttentionCore",
    "associative": "meta_rl.memory.associative:AssociativeCore",
    "ntm": "meta_rl.memory.ntm:NTMCore",
}
"""Cores by name. Add your own: a callable ``core(input_size, hidden_size, key_size)``, or its
``"module:name"``."""


def __getattr__(name: str) -> Any:
    """Imports the cores that have files of their own."""
    for home in MEMORY_CORES.values():
        if isinstance(home, str) and home.endswith(f":{name}"):
            return resolve_name(home)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_memory_core(
    name: str, input_size: int, hidden_size: int, key_size: int | None = None
) -> MemoryCore:
    """Makes the core called ``name``.

    Args:
        name: Name in :data:`MEMORY_CORES`.
        input_size: Number of features of an input.
        hidden_size: Size of the memory.
        key_size: Number of an input's first features that tell where the agent is (default: all).
            Cores that look nothing up do not use it.

    Raises:
        ValueError: The core is unknown; the message lists the names that exist.
    """
    if name not in MEMORY_CORES:
        near = difflib.get_close_matches(name, MEMORY_CORES)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown memory core {name!r}: {hint}{', '.join(MEMORY_CORES)} exist")
    core = MEMORY_CORES[name]
    make: Any = resolve_name(core) if isinstance(core, str) else core
    sizes = (input_size, hidden_size, input_size if key_size is None else key_size)
    names = ("input_size", "hidden_size", "key_size")
    made: MemoryCore = make(*map(check_count, names, sizes))
    return made
