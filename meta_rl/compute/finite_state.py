"""Guards of what is learned: in a step, after every update, and before every save."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from meta_rl.compute import ranks


class _Part(NamedTuple):
    """A tensor among those that are learned.

    Attributes:
        name: Name of the tensor in a message.
        value: The tensor itself.
        may_mask: Whether negative infinity is allowed, as in the buffers of attention masks.
    """

    name: str
    value: Any
    may_mask: bool = False


class NonFiniteError(FloatingPointError):
    """An error for rows of a batch whose numbers are not finite.

    Args:
        what: Description of the fault, such as ``"a chance is not finite"``.
        rows: Indices of the rows.

    Attributes:
        rows: Indices of the rows.
    """

    def __init__(self, what: str, rows: np.ndarray) -> None:
        super().__init__(what)
        self.rows = rows


def check_chances(chances: Tensor) -> Tensor:
    """Returns the chances of actions, ``[N, A]``, if all are finite.

    Raises:
        NonFiniteError: A chance is not finite, so that no action can be drawn.
    """
    if not chances.isfinite().all():
        broken = ~chances.isfinite().all(dim=1)
        raise NonFiniteError(
            "an action's chance is not finite", broken.nonzero()[:, 0].cpu().numpy()
        )
    return chances


def finite_gradients(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    gradients: Sequence[Tensor] | None = None,
    max_norm: float | None = None,
) -> Tensor:
    """Sets and clips the gradients of an optimiser's parameters.

    With several ranks, they are the means over the ranks.

    Args:
        optimizer: The optimiser.
        loss: Loss, a scalar.
        gradients: Gradients of the loss with respect to the optimiser's parameters (default:
            computed by ``loss.backward()``).
        max_norm: Largest norm of all gradients together; larger ones are scaled to it (default:
            no limit).

    Returns:
        Whether the loss and that norm are finite, a bool tensor without dimensions.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    if gradients is None:
        loss.backward()
    else:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    found = [p.grad for p in parameters if p.grad is not None]
    if ranks.together():
        loss, *means = ranks.mean([loss, *found])
        for gradient, value in zip(found, means, strict=True):
            gradient.copy_(value)
    norm = get_total_norm(found)
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return loss.detach().isfinite() & norm.isfinite()


def guarded_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    stop: Callable[[str, Tensor | None], NoReturn],
    gradients: Sequence[Tensor] | None = None,
    max_norm: float | None = None,
) -> None:
    """Takes an optimiser's step, unless its loss or a gradient is not finite.

    :func:`meta_rl.compute.cuda_graph.recorded_step` is the same within a CUDA graph.

    Args:
        optimizer: The optimiser.
        loss: Loss, a scalar.
        stop: Function that raises the error; its arguments are ``"loss"`` or ``"gradient"``, and
            the loss.
        gradients: Gradients, as for :func:`finite_gradients`.
        max_norm: Largest norm of the gradients, as for :func:`finite_gradients`.
    """
    if not finite_gradients(optimizer, loss, gradients, max_norm):
        stop("gradient" if loss.isfinite() else "loss", loss)
    optimizer.step()


SMALL = 2**14
"""Largest number of entries of a tensor that is copied to be summed with others."""


class FiniteState:
    """An agent or a learner whose parameters and optimisers are known to be finite.

    Loss and gradients are checked before every step (:func:`guarded_step`). What is learned is
    checked after every update and before every save, so that no file holds NaN or infinity.

    Attributes:
        divides_over_ranks: Whether several ranks can share its training (:mod:`.ranks`).
    """

    divides_over_ranks: ClassVar[bool] = False

    @abstractmethod
    def learned(self) -> dict[str, Any]:
        """Returns what is learned, by name: modules, optimisers and dictionaries of tensors."""

    def stop_before_step(self, what: str, loss: Tensor | None = None) -> NoReturn:
        """Stops the training before a step on numbers that are not finite.

        Args:
            what: Name of the numbers, such as ``"loss"``.
            loss: The loss, for the message (default: it is not known).

        Raises:
            FloatingPointError: Always; the message names the iteration and the loss.
        """
        value = "" if loss is None else f" (the loss is {loss.detach().mean().item():.6g})"
        raise FloatingPointError(
            f"{type(self).__name__}: the {what} of iteration {self.current_iteration} is not "
            f"finite{value}; no step was taken on it. Lower the step sizes"
        )

    @property
    @abstractmethod
    def current_iteration(self) -> int:
        """Number of the iteration that is being trained, from 1."""

    def check_update(self, iteration: int, loss: Any = None) -> None:
        """Stops after an update if something that is learned is not finite.

        All ranks then have the parameters of rank 0.

        Args:
            iteration: Number of the iteration, from 1.
            loss: The loss of the update, for the message (default: it is not known).

        Raises:
            FloatingPointError: The message names the iteration, the tensor and the loss.
        """
        broken = broken_part(self.learned())
        if broken is not None:
            value = loss.item() if isinstance(loss, Tensor) else loss
            found = "" if loss is None else f" (the loss was {value:.6g})"
            raise FloatingPointError(
                f"{type(self).__name__}: {broken} is not finite after the update of iteration "
                f"{iteration}{found}. Lower the step sizes"
            )
        if ranks.together():
            parts = [v for v in self.learned().values() if not isinstance(v, Optimizer)]
            ranks.keep_equal([v for part in parts for v in _values(part) if _has_fractions(v)])

    def check_saved(self, iteration: int) -> None:
        """Refuses to save what is not finite.

        Args:
            iteration: Number of iterations so far.

        Raises:
            FloatingPointError: The message names the tensor.
        """
        broken = broken_part(self.learned())
        if broken is not None:
            raise FloatingPointError(
                f"{type(self).__name__} is not saved: {broken} is not finite after iteration "
                f"{iteration}"
            )


def is_finite(values: Any) -> Tensor:
    """Tells whether all numbers in a nest of tensors are finite: a bool tensor on their device."""
    return torch.stack([leaf.isfinite().all() for leaf in tree_leaves(values)]).all()


def broken_part(learned: Mapping[str, Any]) -> str | None:
    """Returns the name of the first tensor that is not finite; ``None`` if all are.

    A buffer may hold negative infinity, as attention masks do.

    Args:
        learned: Modules, optimisers and dictionaries of tensors, by name.
    """
    values = [v for owner in learned.values() for v in _values(owner) if _has_fractions(v)]
    with torch.no_grad():
        if not values or _summary(values).isfinite():
            return None
        parts = [part for name, owner in learned.items() for part in _parts(name, owner)]
        return next((part.name for part in parts if not _is_fine(part)), None)


def _values(owner: Any) -> list[Any]:
    """Returns the values of a module, an optimiser or a dictionary, fast as without names."""
    if isinstance(owner, nn.Module):
        return [*owner.parameters(), *owner.buffers()]
    if isinstance(owner, torch.optim.Optimizer):
        return [v for s in owner.state.values() for key, v in s.items() if key != "step"]
    return list(owner.values())


def _parts(name: str, owner: Any) -> list[_Part]:
    """Returns the tensors of a module, an optimiser or a dictionary, with their names."""
    if isinstance(owner, nn.Module):
        found = [_Part(f"{name}.{key}", value) for key, value in owner.named_parameters()]
        found += [_Part(f"{name}.{key}", value, True) for key, value in owner.named_buffers()]
    elif isinstance(owner, torch.optim.Optimizer):
        states = owner.state.values()
        found = [_Part(f"{key} of {name}", v) for state in states for key, v in state.items()]
    else:
        found = [_Part(f"{name}.{key}", value) for key, value in owner.items()]
    return [part for part in found if _has_fractions(part.value)]


def _has_fractions(value: Any) -> bool:
    """Tells whether a value is a tensor that can hold NaN."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _summary(values: list[Tensor]) -> Tensor:
    """Returns a number that is not finite if a value is not; it may also overflow."""
    if values[0].device.type != "cpu":  # a few kernels in all
        return get_total_norm([value for value in values if value.numel()], norm_type=math.inf)
    real = [torch.view_as_real(v) if v.is_complex() else v for v in values]
    sums = [value.sum(dtype=torch.float32) for value in real if value.numel() > SMALL]
    small = [value.flatten() for value in real if value.numel() <= SMALL]
    if small:  # a copy takes less time than as many sums
        sums.append(torch.cat(small).sum(dtype=torch.float32))
    return torch.stack(sums).sum()


def _is_fine(part: _Part) -> bool:
    fine = part.value.isfinite()
    if part.may_mask and part.value.is_floating_point():
        fine |= part.value.isneginf()
    return bool(fine.all())
