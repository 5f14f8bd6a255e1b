"""The Neural Turing Machine: a controller that reads and writes a memory by attention.

Graves, Wayne and Danihelka, "Neural Turing machines", 2014 (arXiv:1410.5401). Equation numbers are
those of the paper.

Shapes: M sequences side by side, N slots of width W, R reading heads, H heads of any kind, I
features of an input, O of an output, C units of the controller.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_choice, check_count
from meta_rl.memory import MemoryCore, MemoryState, time_scales

CONTROLLERS = ("lstm", "feedforward")
EPSILON = 1e-6
"""Added to the product of lengths in a cosine, so that an empty slot is similar to no key."""


class NTMState(NamedTuple):
    """The state that the machine carries from step to step.

    Attributes:
        memory: Slots of the memory, ``[M, N, W]``.
        reads: Rows that the reading heads read last, ``[M, R, W]``.
        weights: Weights of the heads over the slots, reading heads first, ``[M, H, N]``.
        hidden: Hidden units of the controller, ``[M, C]``.
        cell: Cell of an LSTM controller, ``[M, C]``, or ``[M, 0]`` for a feed-forward one.
    """

    memory: Tensor
    reads: Tensor
    weights: Tensor
    hidden: Tensor
    cell: Tensor

    def take(self, index: Tensor) -> NTMState:
        """Returns the states of the sequences at ``index``, which may repeat."""
        return NTMState(*(part.index_select(0, index) for part in self))


def cosines(memory: Tensor, keys: Tensor) -> Tensor:
    """Returns the cosine of each key with each slot, ``[M, H, N]`` (equation 6)."""
    lengths = keys.norm(dim=-1)[:, :, None] * memory.norm(dim=-1)[:, None, :]
    return keys @ memory.transpose(1, 2) / (lengths + EPSILON)


def content_weights(memory: Tensor, keys: Tensor, strengths: Tensor) -> Tensor:
    """Computes attention to the slots that are similar to the keys (equation 5).

    Args:
        memory: Slots of the memory, ``[M, N, W]``.
        keys: Keys, ``[M, H, W]``.
        strengths: Strengths β > 0 of the keys, ``[M, H]``.

    Returns:
        Weights ``[M, H, N]``, which sum to one over the slots.
    """
    return torch.softmax(strengths[..., None] * cosines(memory, keys), dim=-1)


def interpolate(content: Tensor, previous: Tensor, gates: Tensor) -> Tensor:
    """Interpolates between the weights by content and those of the step before (equation 7).

    Args:
        content: Weights by content, ``[M, H, N]``.
        previous: Weights of the step before, ``[M, H, N]``.
        gates: Gates g in [0, 1], ``[M, H]``; 1 is content alone.
    """
    return torch.lerp(previous, content, gates[..., None])


def shift(weights: Tensor, kernels: Tensor) -> Tensor:
    """Shifts attention around the ring of slots by a circular convolution (equation 8).

    Args:
        weights: Weights over the slots, ``[M, H, N]``.
        kernels: Weights of the shifts by -r to r slots, ``[M, H, 2 r + 1]``.
    """
    reach = kernels.shape[-1] // 2
    moved = [weights.roll(offset - reach, dims=-1) for offset in range(kernels.shape[-1])]
    return torch.einsum("mhnk,mhk->mhn", torch.stack(moved, dim=-1), kernels)


def sharpen(weights: Tensor, powers: Tensor) -> Tensor:
    """Sharpens weights that shifts have blurred: ``w^γ``, divided by its sum (equation 9).

    Args:
        weights: Weights over the slots, not negative, ``[M, H, N]``.
        powers: Exponents γ ≥ 1, ``[M, H]``.
    """
    raised = weights.clamp(min=1e-12) ** powers[..., None]  # keeps the slope at 0 finite
    return raised / raised.sum(dim=-1, keepdim=True)


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Erases and then adds; the order of the heads does not matter (equations 3 and 4).

    Args:
        memory: Slots of the memory, ``[M, N, W]``.
        weights: Weights of the writing heads, ``[M, H, N]``.
        erase: Erase vectors with values in [0, 1], ``[M, H, W]``.
        add: Add vectors, ``[M, H, W]``.
    """
    kept = (1 - weights[..., None] * erase[:, :, None, :]).prod(dim=1)
    return memory * kept + weights.transpose(1, 2) @ add


class NTM(nn.Module):
    """The machine as a pure recurrent cell: ``output, state = cell(input, state)``.

    In a step the controller sees the input and the last reads; the writing heads write; the reading
    heads read the changed memory; the output is a linear map of the controller's units and of the
    reads. At first the memory is almost empty (``1e-6``; Collier and Beel, "Implementing neural
    Turing machines", 2018) and all heads are at slot 0; the first reads are learned.

    Args:
        input_size: Number of features of an input, I.
        output_size: Number of features of an output, O.
        slots: Number of slots of the memory, N.
        width: Width of a slot, W.
        read_heads: Number of reading heads, R.
        write_heads: Number of writing heads.
        hidden: Number of units of the controller, C.
        controller: Kind of the controller: ``"lstm"`` or ``"feedforward"``.
        reach: Maximum number of slots that a head moves in a step, to each side.

    Raises:
        ValueError: A count is below one, the controller is unknown, or shifts go around the ring.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        hidden: int = 100,
        controller: str = "lstm",
        reach: int = 1,
    ) -> None:
        super().__init__()
        self.slots, self.width = check_count("slots", slots), check_count("width", width)
        self.read_heads = check_count("read_heads", read_heads)
        self.write_heads = check_count("write_heads", write_heads)
        self.reach = check_count("reach", reach, least=0)
        width, reach = self.width, self.reach
        if 2 * reach + 1 > slots:
            raise ValueError(f"reach={reach}: such shifts go around the ring of {slots} slots")
        self.hidden = hidden = check_count("hidden", hidden)
        output_size = check_count("output_size", output_size)
        self.is_lstm = controller == "lstm"
        check_choice("controller", controller, CONTROLLERS)
        inputs = check_count("input_size", input_size) + self.read_heads * width
        self.controller: nn.Module = (
            nn.LSTMCell(inputs, hidden) if self.is_lstm else nn.Linear(inputs, hidden)
        )
        heads = self.read_heads + self.write_heads
        self.addressing = nn.Linear(hidden, heads * (width + 3 + 2 * reach + 1))
        self.writing = nn.Linear(hidden, self.write_heads * 2 * width)
        self.first_reads = nn.Parameter(torch.zeros(self.read_heads, width))
        self.head = nn.Linear(hidden + self.read_heads * width, output_size)

    def initial_state(self, num: int) -> NTMState:
        """Returns the state before the first input, for ``num`` sequences."""
        new = self.first_reads.new_zeros
        weights = new(num, self.read_heads + self.write_heads, self.slots)
        weights[..., 0] = 1
        return NTMState(
            memory=new(num, self.slots, self.width) + 1e-6,
            reads=self.first_reads.tanh().expand(num, -1, -1),
            weights=weights,
            hidden=new(num, self.hidden),
            cell=new(num, self.hidden if self.is_lstm else 0),
        )

    def forward(self, inputs: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """Takes one step.

        Args:
            inputs: Inputs, ``[M, I]``.
            state: State after the step before.

        Returns:
            Outputs ``[M, O]`` and the new state.
        """
        hidden, cell = self._control(torch.cat([inputs, state.reads.flatten(1)], dim=1), state)
        weights = self._address(hidden, state)
        erase, add = self.writing(hidden).view(len(hidden), 2, self.write_heads, -1).unbind(1)
        memory = write(state.memory, weights[:, self.read_heads :], erase.sigmoid(), add.tanh())
        reads = weights[:, : self.read_heads] @ memory
        outputs = self.head(torch.cat([hidden, reads.flatten(1)], dim=1))
        return outputs, NTMState(memory, reads, weights, hidden, cell)

    def _control(self, inputs: Tensor, state: NTMState) -> tuple[Tensor, Tensor]:
        if not self.is_lstm:
            return self.controller(inputs).tanh(), state.cell
        hidden, cell = self.controller(inputs, (state.hidden, state.cell))
        return hidden, cell

    def _address(self, hidden: Tensor, state: NTMState) -> Tensor:
        """Returns the weights of all heads ``[M, H, N]``.

        They come from content, interpolation, shift and sharpening, in this order.
        """
        given = self.addressing(hidden).view(*state.weights.shape[:2], -1)
        keys, scalars, kernels = given.split([self.width, 3, 2 * self.reach + 1], dim=-1)
        strengths, gates, powers = scalars.unbind(dim=-1)
        content = content_weights(state.memory, keys.tanh(), functional.softplus(strengths))
        gated = interpolate(content, state.weights, gates.sigmoid())
        moved = shift(gated, kernels.softmax(dim=-1))
        return sharpen(moved, 1 + functional.softplus(powers))


class NTMCore(MemoryCore):
    """A core with a Neural Turing Machine; its state is :class:`NTMState`.

    Its memory has 32 slots of 16 numbers. It runs step by step, and is slower than other cores.
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
        """Returns a state with an almost empty memory."""
        return self.cell.initial_state(num)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        outputs, now = [], NTMState(*state)
        for step in inputs:
            output, now = self.cell(step, now)
            outputs.append(output)
        return torch.stack(outputs), now

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the controller's forget gate; the input gate gets the negative."""
        enter, keep, _, _ = self.cell.controller.get_parameter("bias_hh").chunk(4)
        keep.copy_(time_scales(self.output_size, longest, generator))
        enter.copy_(-keep)
