"""Memory cores: what a recurrent agent carries through a trial, behind one interface."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

MemoryState: TypeAlias = tuple[Tensor, ...]
"""Every leaf has the batch as its leading axis: ``[N, ...]``."""


class MemoryCore(nn.Module, ABC):
    """A recurrent network over time-major sequences.

    Attributes:
        input_size: Features of an input, I.
        output_size: Features of an output, H.
        gains: Of the orthogonal first weights of its layers, by their names; 1 elsewhere.
    """

    input_size: int
    output_size: int
    gains: ClassVar[dict[str, float]] = {}

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


class SlotCore(MemoryCore):
    """Slots that are written and read by gates which see transitions, and not the memory.

    An input holds where the last step led to, but not where it was taken; beside the input before,
    it is the whole transition (state, action, reward, next state), as PEARL's context encoder sees
    it (Rakelly et al., 2019). A ReLU layer makes features ``e`` of it, and

        ``keep = sigmoid(gate(e))``, ``c = keep * c + (1 - keep) * write(e)``,
        ``y = sigmoid(select(e)) * c``, ``output = [y, relu(read([y, e]))]``.

    That is minGRU (Feng et al., 2024, section 3.1.1) with an LSTM's output gate: a table of what
    was met where. Since no gate sees the memory, all matrix products of a sequence are one: several
    times faster than a GRU. The gates start far apart, so that slots differ at once.

    The state is ``(c, previous input)``, ``[N, 2 H]`` and ``[N, I]`` for ``hidden_size`` H; outputs
    have ``3 H`` features.
    """

    gains: ClassVar[dict[str, float]] = {"pair": 3.0, "gate": 8.0, "write": 3.0, "select": 8.0}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, 3 * hidden_size
        self.num_slots = 2 * hidden_size
        self.pair = nn.Linear(2 * input_size, hidden_size)
        self.gate = nn.Linear(hidden_size, self.num_slots)
        self.write = nn.Linear(hidden_size, self.num_slots)
        self.select = nn.Linear(hidden_size, self.num_slots)
        self.read = nn.Linear(self.num_slots + hidden_size, hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Zeros."""
        like = self.pair.weight
        return (like.new_zeros(num, self.num_slots), like.new_zeros(num, self.input_size))

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        slots, before = state
        pairs = torch.cat([torch.cat([before[None], inputs[:-1]]), inputs], dim=-1)
        features = self.pair(pairs).relu()
        keep = self.gate(features).sigmoid()
        written = (1.0 - keep) * self.write(features)
        history = []
        for kept, new in zip(keep.unbind(), written.unbind(), strict=True):
            slots = torch.addcmul(new, kept, slots)
            history.append(slots)
        selected = self.select(features).sigmoid() * torch.stack(history)
        read = self.read(torch.cat([selected, features], dim=-1)).relu()
        return torch.cat([selected, read], dim=-1), (slots, inputs[-1])

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Of the gate that keeps."""
        self.gate.bias.copy_(_time_scales(self.num_slots, longest, generator))


MEMORY_CORES: dict[str, Callable[[int, int], MemoryCore]] = {
    "gru": GRUCore,
    "lstm": LSTMCore,
    "slots": SlotCore,
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
