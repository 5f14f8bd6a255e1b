"""Memory cores: what a recurrent agent carries through a trial, behind one interface."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

MemoryState: TypeAlias = tuple[Tensor, ...]
"""Every leaf has the batch as its leading axis: ``[N, ...]``."""


class MemoryCore(nn.Module, ABC):
    """A recurrent network over time-major sequences.

    Attributes:
        input_size: Features of an input, I.
        output_size: Features of an output, H.
    """

    input_size: int
    output_size: int

    @abstractmethod
    def initial_state(self, num: int) -> MemoryState:
        """The state before the first input, for ``num`` sequences."""

    @abstractmethod
    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run a whole stretch in which no trial begins.

        Args:
            inputs: ``[T, N, I]``.
            state: Before the first input.

        Returns:
            Outputs ``[T, N, H]`` and the state after the last input.
        """

    @abstractmethod
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Set the gates' biases such that units forget over 1 to ``longest`` steps.

        Chrono initialisation (Tallec and Ollivier, 2018, section 3): ``log(u)``, ``u`` uniform over
        1 to ``longest - 1``. With zero biases all units forget half in a step, and what happened
        long before has no gradient to learn from.
        """

    def step(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """One step: inputs ``[N, I]`` to outputs ``[N, H]`` and the next state."""
        outputs, state = self(inputs[None], state)
        return outputs[0], state

    def reset(self, state: MemoryState, begins: Tensor) -> MemoryState:
        """The initial state where ``begins`` (bool ``[N]``) says so, the given one elsewhere."""
        first = self.initial_state(len(begins))
        return tuple(
            torch.where(begins.view(-1, *[1] * (old.dim() - 1)), new, old)
            for old, new in zip(state, first, strict=True)
        )


def _time_scales(size: int, longest: int, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(size, generator=generator, device=generator.device)
    return torch.log(1.0 + drawn * max(longest - 2, 0))


class GRUCore(MemoryCore):
    """Gated recurrent unit (Cho et al., 2014); the state is ``(h,)``, ``h`` of shape ``[N, H]``."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.GRU(input_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Zeros."""
        return (next(self.parameters()).new_zeros(num, self.output_size),)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        outputs, hidden = self.rnn(inputs, state[0][None])
        return outputs, (hidden[0],)

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Of the update gate, which keeps the memory."""
        _, keep, _ = self.rnn.get_parameter("bias_hh_l0").chunk(3)
        keep.copy_(_time_scales(self.output_size, longest, generator))


class LSTMCore(MemoryCore):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); the state is ``(h, c)``."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.rnn = nn.LSTM(input_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Zeros."""
        zeros = next(self.parameters()).new_zeros(num, self.output_size)
        return (zeros, zeros)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        outputs, (hidden, cell) = self.rnn(inputs, (state[0][None], state[1][None]))
        return outputs, (hidden[0], cell[0])

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Of the forget gate; the input gate gets the negative."""
        enter, keep, _, _ = self.rnn.get_parameter("bias_hh_l0").chunk(4)
        keep.copy_(_time_scales(self.output_size, longest, generator))
        enter.copy_(-keep)


class TransitionGRUCore(MemoryCore):
    """A GRU that reads pairs of successive inputs, through one ReLU layer of H units.

    An input holds where the last step led to, but not where it was taken. Beside the input before,
    it is the whole transition (state, action, reward, next state), as the context encoder of PEARL
    sees it (Rakelly et al., 2019): the layer can tell what was done where, so that the memory has
    not to. The state is ``(h, previous input)``, ``[N, H]`` and ``[N, I]``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.pair = nn.Linear(2 * input_size, hidden_size)
        self.gru = GRUCore(hidden_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Zeros."""
        like = self.pair.weight
        return (like.new_zeros(num, self.output_size), like.new_zeros(num, self.input_size))

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        before = torch.cat([state[1][None], inputs[:-1]])
        pairs = self.pair(torch.cat([before, inputs], dim=-1)).relu()
        outputs, hidden = self.gru(pairs, state[:1])
        return outputs, (*hidden, inputs[-1])

    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Of the GRU."""
        self.gru.set_time_scales(longest, generator)


MEMORY_CORES: dict[str, Callable[[int, int], MemoryCore]] = {
    "gru": GRUCore,
    "lstm": LSTMCore,
    "transition-gru": TransitionGRUCore,
}
"""Cores by name; add your own: ``core(input_size, hidden_size)``."""


def make_memory_core(name: str, input_size: int, hidden_size: int) -> MemoryCore:
    """The core called ``name``.

    Raises:
        ValueError: Unknown; lists what exists.
    """
    if name not in MEMORY_CORES:
        near = difflib.get_close_matches(name, MEMORY_CORES)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown memory core {name!r}: {hint}{', '.join(MEMORY_CORES)} exist")
    return MEMORY_CORES[name](input_size, hidden_size)
