"""Trust-region steps: a natural gradient by conjugate gradients, and a line search.

Parameters are dictionaries of tensors; nothing is written into a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from meta_rl.inner_loop import Params


class Trial(NamedTuple):
    """How a candidate of the line search compares with the old parameters.

    Attributes:
        improvement: By how much the objective rises.
        kl: Mean KL divergence of the policies whose objective it is, in nats.
        initial_kl: Mean KL divergence of the policy before adaptation, in nats.
    """

    improvement: float
    kl: float
    initial_kl: float = 0.0


@dataclass(frozen=True)
class TrustRegionStep:
    """Where a step ended.

    Attributes:
        params: The new parameters; the old ones where no step was accepted.
        accepted: Whether the line search found a step that improves within the bounds.
        trial: The step that was taken; zeros where none was.
        backtracks: How often the step was shortened.
    """

    params: Params
    accepted: bool
    trial: Trial
    backtracks: int


def natural_direction(
    gradient: Tensor,
    curvature: Callable[[Tensor], Tensor],
    *,
    num_iterations: int = 10,
    damping: float = 1e-5,
    tolerance: float = 1e-10,
) -> tuple[Tensor, float]:
    """Solve ``(H + damping I) x = gradient`` by conjugate gradients, from 0.

    The libraries' solvers do not serve here: sb3-contrib's begins at a draw from the global
    generator, and scipy's wakes threads of numpy's that make torch's wait (2.5 times slower on two
    cores).

    Args:
        gradient: Flat, ``[P]``.
        curvature: ``v -> H v``, H symmetric and positive semidefinite: of the KL divergence.
        num_iterations: At most; each takes one product.
        damping: Added to the diagonal of H.
        tolerance: Stop where the squared residual has fallen by this factor.

    Returns:
        x ``[P]``, and ``x·(H + damping I)x``.
    """
    x, product = torch.zeros_like(gradient), torch.zeros_like(gradient)  # of the matrix with x
    residual, search = gradient.clone(), gradient.clone()
    squared = residual.dot(residual)
    enough = tolerance * squared
    for _ in range(num_iterations):
        along = curvature(search) + damping * search
        step = squared / search.dot(along)
        x, product = x + step * search, product + step * along
        residual = residual - step * along
        before, squared = squared, residual.dot(residual)
        if squared <= enough:
            break
        search = residual + squared / before * search
    return x, x.dot(product).item()


def trust_region_step(
    params: Params,
    gradient: Params,
    curvature: Callable[[Params], Params],
    evaluate: Callable[[Params], Trial],
    *,
    max_kl: float,
    max_initial_kl: float = math.inf,
    num_iterations: int = 10,
    damping: float = 1e-5,
    max_backtracks: int = 15,
    backtrack_factor: float = 0.8,
) -> TrustRegionStep:
    """One step of TRPO (Schulman et al., "Trust Region Policy Optimization", 2015, appendix C).

    The natural gradient is scaled to the bound by its quadratic model, then shortened until the
    surrogate objective rises and the true divergences keep their bounds.

    Args:
        params: The old parameters; not written to.
        gradient: Of the objective, by the same names.
        curvature: Products with the Hessian of the mean KL divergence at ``params``.
        evaluate: Compares candidate parameters with the old ones, on all data.
        max_kl: Bound δ on the mean KL divergence, in nats, above 0; it scales the full step.
        max_initial_kl: Bound on the divergence before adaptation, in nats, above 0; none by
            default. Only the line search knows it.
        num_iterations: Of conjugate gradients.
        damping: Added to the diagonal of the Hessian.
        max_backtracks: Tries of the line search, less one.
        backtrack_factor: What a try is shorter than the one before.

    Raises:
        FloatingPointError: The direction is not finite.
    """
    none = Trial(0.0, 0.0)
    flat = flatten(gradient)
    if not bool(flat.any()):
        return TrustRegionStep(params, False, none, 0)
    direction, squared_length = natural_direction(
        flat,
        lambda vector: flatten(curvature(unflatten(vector, params))),
        num_iterations=num_iterations,
        damping=damping,
    )
    if not math.isfinite(squared_length):
        raise FloatingPointError("the natural gradient is not finite")
    if squared_length <= 0.0:  # the solve broke down: no direction of ascent
        return TrustRegionStep(params, False, none, 0)
    full_step = unflatten(direction * math.sqrt(2.0 * max_kl / squared_length), params)
    for backtracks in range(max_backtracks + 1):
        scale = backtrack_factor**backtracks
        candidate = {name: value + scale * full_step[name] for name, value in params.items()}
        trial = evaluate(candidate)
        kept = trial.kl <= max_kl and trial.initial_kl <= max_initial_kl
        if trial.improvement > 0.0 and kept:  # false for nan
            return TrustRegionStep(candidate, True, trial, backtracks)
    return TrustRegionStep(params, False, none, max_backtracks)


def flatten(values: Params) -> Tensor:
    """All entries as one vector, ``[P]``, in the order of the names."""
    return torch.cat([value.reshape(-1) for value in values.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """The parts of a vector, with the names and shapes of ``like``."""
    parts = vector.split([value.numel() for value in like.values()])
    return {n: part.view_as(like[n]) for n, part in zip(like, parts, strict=True)}
