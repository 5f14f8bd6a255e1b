"""The density of a Gaussian variable that is clipped to an interval, with fast derivatives.

An action at a bound of its space has the probability of all values beyond that bound (Fujita and
Maeda, "Clipped Action Policy Gradient", 2018), which is a formula of its own. The derivatives of
both formulas are computed together with the values, as one function, the *score*. The derivative
of the score is a polynomial in the score.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

DEEP = -8.0
"""Below this argument, Φ comes from functions that do not underflow, but are 20 times slower."""


def log_density(scaled: Tensor, side: Tensor) -> Tensor:
    """Computes ``-s²/2`` inside the interval, and the log-probability of a tail at a bound.

    Args:
        scaled: Standardised actions ``s = (action - mean) / std``, ``[...]``.
        side: Position of each action, ``[...]``: -1 at the lower bound, 1 at the upper bound, 0
            between them.

    Returns:
        ``[...]``: ``log Φ(s)`` at the lower bound and ``log Φ(-s)`` at the upper bound. Inside, the
        log-density is this value plus ``-log std - log(2π)/2``, which the caller adds.
    """
    return _LogDensity.apply(scaled, side)[0]


class _LogDensity(Function):
    """The values and the *score*, their negative derivative with respect to ``scaled``.

    The score is s inside the interval, and ``side φ(t)/Φ(t)`` with ``t = -side s`` at a bound.
    """

    apply: Any  # PyTorch declares no types for it

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
        if bool(deep.any()):  # erfcx(x) is exp(x²) erfc(x), which does not underflow
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
    def backward(ctx: Any, grad: Tensor | None, grad_score: Tensor | None) -> Any:
        scaled, side, score = ctx.saved_tensors
        total = None if grad is None else -grad * score
        if grad_score is not None:
            # With r = φ/Φ, r' = -r (t + r): here r = side score, t = -side s, and side² = 1.
            second = grad_score * torch.where(side == 0, 1.0, score * (score - scaled))
            total = second if total is None else total + second
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Any, Any]:
        moved = (
            arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        )
        return _LogDensity.apply(*moved), (0, 0)
