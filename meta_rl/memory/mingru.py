"""The minimal gated recurrent unit, whose gates do not read the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        outputs: Tensor = Interpolation.apply(  # type: ignore[no-untyped-call]
            gates.sigmoid(), candidates, state[0]
        )
        return outputs, (outputs[-1],)

    @torch.no_grad()
    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the biases of the gate, which lets the memory go where it is open."""
        self.gates.bias[: self.output_size] = -time_scales(self.output_size, longest, generator)


class Interpolation(torch.autograd.Function):
    """The recurrence ``h_t = (1 - z_t) h_{t-1} + z_t c_t`` of :class:`MinGRUCore`.

    Its gradient is one product and sum for each step, ``dh_{t-1} += (1 - z_t) dh_t``, and a few
    products over all steps. Autograd's own needs a dozen small tensors for each step.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, candidates: Tensor, first: Tensor) -> Tensor:
        """Maps gates z and candidates c, ``[T, N, H]``, and the first memory to all memories."""
        outputs = torch.empty_like(candidates, memory_format=torch.contiguous_format)
        memory = first
        for gate, candidate, output in zip(gates, candidates, outputs, strict=True):
            memory = torch.lerp(memory, candidate, gate, out=output)
        ctx.save_for_backward(gates, candidates, first, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps the gradient of the memories to those of gates, candidates and first memory."""
        gates, candidates, first, outputs = ctx.saved_tensors
        kept, total = 1.0 - gates, gradient.clone(memory_format=torch.contiguous_format)
        steps, keeps = total.unbind(), kept.unbind()
        for t in range(len(steps) - 1, 0, -1):
            steps[t - 1].addcmul_(keeps[t], steps[t])
        change = candidates.clone()
        change[0] -= first
        change[1:] -= outputs[:-1]
        return change.mul_(total), total * gates, steps[0] * keeps[0]
