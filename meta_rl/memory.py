"""Memory cores: what a recurrent agent carries through a trial, behind one interface."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from meta_rl.few_shot.ntm import NTM, NTMState

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

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
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

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
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


class AssociativeCore(MemoryCore):
    """What happened where the agent was before: fast weights, looked up by the observation.

    A transition is stored under the observation in which it began, and found again wherever the
    agent meets a similar one:

        ``key_t = softmax(K o_t)``, ``M_t = M_{t-1} + key_{t-1} v_t^T``, ``read_t = M_t^T key_t``,

    with ``v_t = relu(W [x_{t-1}, x_t])``. This is linear attention (Katharopoulos et al., 2020,
    section 3.4), that is, fast weights (Schmidhuber, 1992), with one map for keys and queries.
    Beside the sum ``read``, the agent sees its mean and how much was stored there. A second layer
    stores what the first one knew when it got there, so that values travel backwards.

    No matrix product waits for the step before: a whole sequence is a few large products.

    The state is ``(previous input, sum of keys, M of each layer)``: ``[N, I]``, ``[N, K]`` and
    ``[N, K, V]``.

    Attributes:
        num_keys: Size of keys, K.
        value_size: Size of what is stored, V.
        num_layers: Layers.
    """

    num_keys = 32
    value_size = 64
    num_layers = 2
    gains: ClassVar[dict[str, float]] = {"key": 20.0}  # observations are told apart from the start

    def __init__(self, input_size: int, hidden_size: int, key_size: int) -> None:
        super().__init__()
        self.input_size, self.key_size = input_size, key_size
        known = [2 * input_size] + [2 * input_size + hidden_size] * (self.num_layers - 1)
        read_size = 2 * self.value_size + 1
        self.output_size = hidden_size + read_size
        self.key = nn.Linear(key_size, self.num_keys)
        self.value = nn.ModuleList(nn.Linear(size, self.value_size) for size in known)
        self.mix = nn.ModuleList(nn.Linear(read_size + size, hidden_size) for size in known)

    def initial_state(self, num: int) -> MemoryState:
        """Zeros."""
        zeros = self.key.weight.new_zeros
        memories = [zeros(num, self.num_keys, self.value_size) for _ in range(self.num_layers)]
        return (zeros(num, self.input_size), zeros(num, self.num_keys), *memories)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        before, stored_keys, *memories = state
        sequence = torch.cat([before[None], inputs])
        pairs = torch.cat([sequence[:-1], inputs], dim=-1)
        keys = self.key(sequence[..., : self.key_size]).softmax(dim=-1).transpose(0, 1)
        begun = sequence[:-1].any(dim=-1).T[..., None]  # before the first input there is nothing
        written, looked_up = keys[:, :-1] * begun, keys[:, 1:]
        similar = (looked_up @ written.mT).tril()  # [N, T, T]: step t finds those up to t
        amount = (similar.sum(dim=-1) + (looked_up @ stored_keys[..., None])[..., 0])[..., None]
        known = pairs
        for layer, memory in enumerate(memories):
            values = self.value[layer](known).relu().transpose(0, 1)
            total = similar @ values + looked_up @ memory
            memories[layer] = memory + written.mT @ values
            read = torch.cat([0.3 * total, total / (amount + 0.1), amount.log1p()], dim=-1)
            read = read.transpose(0, 1)
            mixed = self.mix[layer](torch.cat([read, known], dim=-1)).relu()
            known = torch.cat([pairs, mixed], dim=-1)
        return torch.cat([mixed, read], dim=-1), (
            inputs[-1],
            stored_keys + written.sum(dim=1),
            *memories,
        )

    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Nothing is forgotten."""


class NTMCore(MemoryCore):
    """A Neural Turing Machine; the state is :class:`meta_rl.few_shot.ntm.NTMState`.

    Its memory has 32 slots of 16 numbers. It runs step by step: slower than the other cores.
    """

    slots = 32
    width = 16

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.cell = NTM(
            input_size, hidden_size, slots=self.slots, width=self.width, hidden=hidden_size
        )

    def initial_state(self, num: int) -> MemoryState:
        """An almost empty memory."""
        return self.cell.initial_state(num)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Run ``[T, N, I]``."""
        outputs, now = [], NTMState(*state)
        for step in inputs:
            output, now = self.cell(step, now)
            outputs.append(output)
        return torch.stack(outputs), now

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Of the controller's forget gate; the input gate gets the negative."""
        enter, keep, _, _ = self.cell.controller.get_parameter("bias_hh").chunk(4)
        keep.copy_(_time_scales(self.output_size, longest, generator))
        enter.copy_(-keep)


MEMORY_CORES: dict[str, Callable[[int, int, int], MemoryCore]] = {
    "gru": GRUCore,
    "lstm": LSTMCore,
    "associative": AssociativeCore,
    "ntm": NTMCore,
}
"""Cores by name; add your own: ``core(input_size, hidden_size, key_size)``."""


def make_memory_core(
    name: str, input_size: int, hidden_size: int, key_size: int | None = None
) -> MemoryCore:
    """The core called ``name``.

    Args:
        name: In :data:`MEMORY_CORES`.
        input_size: Features of an input.
        hidden_size: Of the memory.
        key_size: How many of the first features of an input tell where the agent is; all by
            default. Cores that look nothing up do not use it.

    Raises:
        ValueError: Unknown; lists what exists.
    """
    if name not in MEMORY_CORES:
        near = difflib.get_close_matches(name, MEMORY_CORES)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown memory core {name!r}: {hint}{', '.join(MEMORY_CORES)} exist")
    return MEMORY_CORES[name](input_size, hidden_size, key_size or input_size)
