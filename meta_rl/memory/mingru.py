"""The minimal gated recurrent unit, whose gates do not read the memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_rl.memory import MemoryCore, MemoryState, time_scales


class MinGRUCore(MemoryCore):
    """Minimal gated recurrent unit (Feng et al., 2024, "Were RNNs all we needed?", section 3.1).

        ``z_t = σ(W_z x_t + b_z)``, ``c_t = W_c x_t + b_c``, ``h_t = (1 - z_t) h_{t-1} + z_t c_t``

    Gates and candidates do not depend on the memory. The products of all steps are therefore one
    matrix product, and only an interpolation of ``[N, H]`` is left for each step. Whatever has to
    be computed from the memory and the input together needs layers before or after this core.

    The state is ``(h,)``, ``h`` of shape ``[N, H]``.
    """

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.gates = nn.Linear(input_size, 2 * hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Returns zeros."""
        return (self.gates.weight.new_zeros(num, self.output_size),)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        gates, candidates = self.gates(inputs).chunk(2, dim=-1)
        memory, outputs = state[0], []
        for gate, candidate in zip(gates.sigmoid(), candidates, strict=True):
            memory = torch.lerp(memory, candidate, gate)
            outputs.append(memory)
        return torch.stack(outputs), (memory,)

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the gate, which lets the memory go where it is open."""
        self.gates.bias[: self.output_size] = -time_scales(self.output_size, longest, generator)
