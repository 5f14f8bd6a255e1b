"""A Neural Turing Machine as the memory of a recurrent agent."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_rl.few_shot.ntm import NTM, NTMState
from meta_rl.memory import MemoryCore, MemoryState, time_scales


class NTMCore(MemoryCore):
    """A core with a Neural Turing Machine; its state is :class:`meta_rl.few_shot.ntm.NTMState`.

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
