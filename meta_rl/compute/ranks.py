"""A training by several processes, its *ranks*, which ``torchrun`` starts on one or more hosts.

All ranks have the same parameters and the same generators, and draw the same meta-batch. Each rank
keeps its own share of the tasks (:func:`own`), and gradients are averaged over the ranks
(:func:`mean`). Shares are equal, so that the mean over ranks is the mean over all tasks.

Without ``torchrun``, and outside of :func:`joined`, there is one rank: every function returns what
it is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from meta_rl.compute.rank_watch import START, Watch, open_store

Nest = TypeVar("Nest")

PATIENCE = timedelta(hours=6)
"""Limit of a collective operation. Dead ranks are found by :class:`Watch`, much earlier."""


class RankError(RuntimeError):
    """The ranks cannot go on together."""


class LostRankError(RankError):
    """Another rank is gone, or no longer answers."""


class OtherRankError(Exception):
    """This rank ends because another one did, which says why."""


@dataclass(frozen=True)
class _Ranks:
    rank: int
    size: int


_now: _Ranks | None = None


def launched() -> bool:
    """Tells whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def together() -> bool:
    """Tells whether this process is one of the ranks of a training, be it the only one."""
    return _now is not None


def size() -> int:
    """Returns the number of ranks."""
    return 1 if _now is None else _now.size


def num_on_host() -> int:
    """Returns the number of ranks on this host, which share its cores."""
    return 1 if _now is None else int(os.environ["LOCAL_WORLD_SIZE"])


def is_first() -> bool:
    """Tells whether this is rank 0, which alone writes files and messages."""
    return _now is None or _now.rank == 0


@contextmanager
def joined() -> Iterator[None]:
    """Joins the ranks that ``torchrun`` started, within the context.

    A program of your own that trains under ``torchrun`` does all its work in it. Agents and
    learners that are made within it belong to all ranks together, and ``learn`` has to be called by
    all of them alike.

    Raises:
        LostRankError: Another rank is gone; only the first rank that notices raises it.
        OtherRankError: Another rank has raised the error to report.
    """
    global _now
    if not launched():
        yield
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = open_store(timedelta(seconds=START), host_it=rank == 0)
    watch = Watch(rank, count)
    done = False
    try:
        _connect(store, rank, count)
        _now = _Ranks(rank, count)
        yield
        done = True
    except KeyboardInterrupt as error:
        if rank:
            raise OtherRankError("interrupted") from error
        raise
    except Exception as error:
        if not watch.claim():
            raise OtherRankError("another rank failed first") from error
        if isinstance(error, LostRankError):
            silent = " and ".join(watch.silent_ranks()) or "another rank"
            raise LostRankError(f"{silent} no longer answers") from error
        raise
    finally:
        _now = None
        watch.stop(wait=done)
        if dist.is_initialized():
            dist.destroy_process_group()


def _connect(store: Any, rank: int, count: int) -> None:
    kind, hook = _backend(), sys.excepthook
    try:
        dist.init_process_group(kind, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except RuntimeError as error:
        raise LostRankError(f"the ranks do not find each other: {error}") from error
    finally:
        sys.excepthook = hook  # PyTorch's own writes the rank before each line


def _backend() -> str:
    """Returns gloo, with NCCL for GPUs if every rank of this host has its own."""
    if not torch.cuda.is_available():
        return "gloo"
    local, num = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    torch.cuda.set_device(local % num)
    alone = int(os.environ["LOCAL_WORLD_SIZE"]) <= num
    return "cpu:gloo,cuda:nccl" if alone and dist.is_nccl_available() else "gloo"


@contextmanager
def alone() -> Iterator[None]:
    """Makes this rank the only one within the context, for work that the others do not share."""
    global _now
    before, _now = _now, None
    try:
        yield
    finally:
        _now = before


def share(what: str, total: int) -> int:
    """Returns the number of parts of a whole that each rank has.

    Args:
        what: Name of the number, for the error.
        total: Number of parts of all ranks together.

    Raises:
        ValueError: The parts cannot be divided equally.
    """
    if total % size():
        raise ValueError(f"{what}={total} is no multiple of the {size()} ranks")
    return total // size()


def own_slice(total: int) -> slice:
    """Returns this rank's share of ``total`` parts, which are divided equally."""
    if _now is None:
        return slice(0, total)
    num = share("the number of parts", total)
    return slice(_now.rank * num, (_now.rank + 1) * num)


def own(values: Nest) -> Nest:
    """Returns this rank's share of arrays or tensors with a leading axis that is divided."""
    if _now is None:
        return values
    return tree_map(lambda leaf: leaf[own_slice(len(leaf))], values)


def mean(values: Nest) -> Nest:
    """Averages a nest of tensors over the ranks, in one message; the result has no graph."""
    if _now is None:
        return values
    leaves, spec = tree_flatten(values)
    flat = torch.cat([leaf.detach().reshape(-1) for leaf in leaves])
    _collective(dist.all_reduce, flat)
    flat /= size()
    parts = flat.split([leaf.numel() for leaf in leaves])
    pairs = zip(parts, leaves, strict=True)
    return tree_unflatten([part.view(leaf.shape).to(leaf.dtype) for part, leaf in pairs], spec)


def mean_over_tasks(values: Nest) -> Nest:
    """Averages a nest of tensors ``[M, ...]`` over all ranks' tasks.

    The tasks are added in an order that does not depend on the number of ranks, if that is a power
    of two: the sum of the first half, plus that of the second half. So the result is the same to
    the last bit. Robots need it, since contacts amplify rounding: within an episode, a difference
    in the eighth digit becomes one in the second.
    """
    if _now is None:
        return tree_map(lambda leaf: leaf.mean(dim=0), values)
    leaves, spec = tree_flatten(values)
    sums = torch.cat([_sum_by_halves(leaf.detach()).reshape(-1) for leaf in leaves])
    parts = [torch.empty_like(sums) for _ in range(size())]
    _collective(dist.all_gather, parts, sums)
    total = _sum_by_halves(torch.stack(parts)) / (len(leaves[0]) * size())
    split = total.split([leaf[0].numel() for leaf in leaves])
    pairs = zip(split, leaves, strict=True)
    return tree_unflatten([part.view(leaf.shape[1:]) for part, leaf in pairs], spec)


def _sum_by_halves(values: Tensor) -> Tensor:
    """Adds the slices of the leading axis, the two halves first."""
    half = len(values) // 2
    if not half:
        return values[0]
    return _sum_by_halves(values[:half]) + _sum_by_halves(values[half:])


def differentiable_mean(values: Tensor) -> Tensor:
    """Averages a tensor over the ranks, as a part of the graph of losses that are averaged too."""
    return values if _now is None else _Mean.apply(values)


class _Mean(torch.autograd.Function):
    """The mean over ranks, whose gradient is the mean over ranks of the losses' gradients."""

    apply: Any  # PyTorch declares no types for it

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return mean(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mean(gradient)


def mean_number(value: float) -> float:
    """Averages a number over the ranks."""
    return value if _now is None else float(mean(torch.tensor(value, dtype=torch.float64)))


def mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (with ``correction=0``) over all ranks' values."""
    if _now is None:
        return values.mean(), values.std(correction=0)
    centre = mean(values.mean())
    return centre, mean((values - centre).square().mean()).sqrt()


def largest(*values: int) -> list[int]:
    """Returns the largest over the ranks of each of some whole numbers."""
    if _now is None:
        return list(values)
    found = torch.tensor(values, dtype=torch.int64)
    _collective(dist.all_reduce, found, dist.ReduceOp.MAX)
    return found.tolist()


def any_of(value: bool) -> bool:
    """Tells whether a statement is true for some rank."""
    return bool(largest(int(value))[0])


def gathered(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Concatenates the ranks' arrays, which have equal shapes, in the order of the ranks."""
    if _now is None:
        return values
    mine = torch.from_numpy(np.ascontiguousarray(values))
    parts = [torch.empty_like(mine) for _ in range(size())]
    _collective(dist.all_gather, parts, mine)
    return torch.cat(parts, dim=axis).numpy()


def from_first(text: str) -> str:
    """Returns the text that rank 0 gives."""
    if _now is None:
        return text
    content = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    length = torch.tensor([len(content)])
    _collective(dist.broadcast, length, 0)
    if not is_first():
        content = torch.empty(int(length), dtype=torch.uint8)
    _collective(dist.broadcast, content, 0)
    return bytes(content.tolist()).decode()


def same_seed(seed: int | None) -> int | None:
    """Returns the seed, or for ``None`` one that rank 0 draws from the system's entropy."""
    if _now is None or seed is not None:
        return seed
    return int(from_first(str(np.random.SeedSequence().entropy)))


@torch.no_grad()
def keep_equal(tensors: Sequence[Tensor]) -> None:
    """Gives all ranks the values of rank 0, so that rounding on other processors does not add up.

    Raises:
        RankError: The values differ by more than rounding.
    """
    if _now is None or size() == 1 or not tensors:
        return
    mine = torch.cat([value.detach().reshape(-1).to(torch.float32) for value in tensors])
    first = mine.clone()
    _collective(dist.broadcast, first, 0)
    if torch.equal(mine, first):
        return
    if not torch.allclose(mine, first, rtol=1e-3, atol=1e-4):
        raise RankError("the ranks' parameters differ: are their hosts' versions the same?")
    for value, part in zip(tensors, first.split([v.numel() for v in tensors]), strict=True):
        value.copy_(part.view(value.shape))


def check_divisible(learner: Any) -> None:
    """Refuses a learner whose training cannot be divided, if there are several ranks.

    Args:
        learner: Agent or few-shot learner, with the attribute ``divides_over_ranks``.

    Raises:
        ValueError: Its training cannot be divided.
    """
    if together() and not learner.divides_over_ranks:
        raise ValueError(
            f"{type(learner).__name__} does not train on several ranks: start it without torchrun"
        )


def _collective(function: Callable[..., Any], *args: Any) -> None:
    """Runs a collective operation, which fails if another rank is gone.

    Raises:
        LostRankError: Another rank is gone.
    """
    try:
        function(*args)
    except RuntimeError as error:
        raise LostRankError(f"another rank is gone: {str(error).partition(chr(10))[0]}") from error
