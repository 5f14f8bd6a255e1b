"""A Neural Turing Machine as the memory of a recurrent agent."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_rl.few_shot.ntm import NTM, NTMState
from meta_rl.memory import MemoryCore, MemoryState, time_scales


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
        """Set the biases of the controller's forget gate; the input gate gets the negative."""
        enter, keep, _, _ = self.cell.controller.get_parameter("bias_hh").chunk(4)
        keep.copy_(time_scales(self.output_size, longest, generator))
        enter.copy_(-keep)
