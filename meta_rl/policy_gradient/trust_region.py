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
    """The comparison of a candidate of the line search with the old parameters.

    Attributes:
        improvement: Increase of the objective.
        kl: Mean KL divergence of the adapted policies, in nats.
        initial_kl: Mean KL divergence of the policy before adaptation, in nats (default: 0).
    """

    improvement: float
    kl: float
    initial_kl: float = 0.0


@dataclass(frozen=True)
class TrustRegionStep:
    """The result of a trust-region step.

    Attributes:
        params: New parameters; the old ones if no step was accepted.
        accepted: Whether the line search found a step that improves the objective within the
            bounds.
        trial: Comparison of the accepted step with the old parameters; zeros if there is none.
        backtracks: Number of times that the step was shortened.
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
    """Solves ``(H + damping I) x = gradient`` by conjugate gradients, starting from 0.

    Two libraries' solvers are not used: that of sb3-contrib starts from a draw from the global
    generator, and that of scipy uses numpy's threads, for which torch's threads wait (2.5 times
    slower on two cores).

    Args:
        gradient: Gradient as a vector, ``[P]``.
        curvature: Function ``v -> H v``, where H is symmetric and positive semidefinite, such as
            the Hessian of a KL divergence.
        num_iterations: Largest number of iterations, one product each (default: 10).
        damping: Number that is added to the diagonal of H (default: 1e-5).
        tolerance: Factor by which the squared residual has to fall for an early stop (default:
            1e-10).

    Returns:
        The solution x ``[P]``, and ``x·(H + damping I)x``.
    """
    x, product = torch.zeros_like(gradient), torch.zeros_like(gradient)  # matrix times x
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
    """Makes a TRPO step (Schulman et al., "Trust Region Policy Optimization", 2015, appendix C).

    The natural gradient is scaled so that the quadratic model of the KL divergence equals the
    bound. Then the step is shortened until the surrogate objective rises and the true divergences
    are within their bounds.

    Args:
        params: Old parameters; they are not written to.
        gradient: Gradient of the objective, by the same names.
        curvature: Function that multiplies by the Hessian of the mean KL divergence at ``params``.
        evaluate: Function that compares candidate parameters with the old ones, on all data.
        max_kl: Bound δ on the mean KL divergence, in nats, above 0; it scales the full step.
        max_initial_kl: Bound on the divergence before adaptation, in nats, above 0 (default:
            none). Only the line search uses it.
        num_iterations: Largest number of iterations of conjugate gradients (default: 10).
        damping: Number that is added to the diagonal of the Hessian (default: 1e-5).
        max_backtracks: Largest number of times that the step is shortened (default: 15).
        backtrack_factor: Factor by which each retry of the line search shrinks the step (default:
            0.8).

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
    if squared_length <= 0.0:  # the solver found no direction of ascent
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
    """Concatenates all entries to one vector, ``[P]``, in the order of the names."""
    return torch.cat([value.reshape(-1) for value in values.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Splits a vector into tensors with the names and shapes of ``like``."""
    parts = vector.split([value.numel() for value in like.values()])
    return {n: part.view_as(like[n]) for n, part in zip(like, parts, strict=True)}
