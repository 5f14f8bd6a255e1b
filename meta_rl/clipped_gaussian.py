"""The density of a Gaussian variable that is clipped to an interval, differentiable at low cost.

Actions at the bounds of their space stand for all the values beyond (Fujita and Maeda, "Clipped
Action Policy Gradient", 2018), and have a formula of their own. The derivative of both formulas is
one function, the *score*, found with the value; its own derivative is algebra of itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

DEEP = -8.0
"""Below it, Φ is left to functions that do not underflow, and that are 20 times slower."""


def log_density(scaled: Tensor, side: Tensor) -> Tensor:
    """``-s²/2`` inside the interval, and the logarithm of the probability of what lies beyond.

    Args:
        scaled: ``s = (action - mean) / std``, ``[...]``.
        side: Where the action is: -1 at the lower bound, 1 at the upper one, 0 between, ``[...]``.

    Returns:
        ``[...]``: ``log Φ(s)`` at the lower bound and ``log Φ(-s)`` at the upper one. Inside, the
        logarithm of the density lacks ``-log std - log(2π)/2``.
    """
    return _LogDensity.apply(scaled, side)[0]


class _LogDensity(Function):
    """The values, and the *score*: what they lose by ``scaled``.

    That is s inside, and ``side φ(t)/Φ(t)`` with ``t = -side s`` beyond.
    """

    apply: Any  # PyTorch's, which has no types

    @staticmethod
    def forward(scaled: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        inside = side == 0
        t = -side * scaled
        tail = torch.erfc(t.abs().mul_(math.sqrt(0.5))).mul_(0.5)  # Φ(-|t|)
        low = t < 0
        values = torch.where(low, tail.log(), (-tail).log1p())
        ratio = t.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        ratio.div_(torch.where(low, tail, 1.0 - tail))
        deep = t < DEEP
        if bool(deep.any()):  # erfcx is erfc without its factor exp(-t²/2)
            t = t[deep]
            values[deep] = torch.special.log_ndtr(t)
            ratio[deep] = math.sqrt(2 / math.pi) / torch.special.erfcx(-t * math.sqrt(0.5))
        values = torch.where(inside, scaled.square().mul_(-0.5), values)
        return values, torch.where(inside, scaled, ratio.mul_(side))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, by_score: Tensor | None) -> Any:
        scaled, side, score = ctx.saved_tensors
        total = None if grad is None else -grad * score
        if by_score is not None:
            # With r = φ/Φ, r' = -r (t + r): here r = side score, t = -side s, and side² = 1.
            bent = by_score * torch.where(side == 0, 1.0, score * (score - scaled))
            total = bent if total is None else total + bent
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Any, Any]:
        moved = (
            arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        )
        return _LogDensity.apply(*moved), (0, 0)
