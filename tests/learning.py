"""What tests of learning share: scores beside their bounds, and trainings without learning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class Learned:
    """Takes the scores of one test with their bounds; the test fails at its end where one misses.

    So a test reports all of its scores, also those after the first that misses.
    """

    def __init__(self) -> None:
        self.scores: list[dict[str, Any]] = []

    def __call__(
        self,
        what: str,
        score: Any,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Take one score.

        Args:
            what: Names the score in the table.
            score: A number, or an array or tensor that holds a single one.
            at_least: Lowest score that passes.
            at_most: Highest score that passes; either this or the other is given.
        """
        if (at_least is None) == (at_most is None):
            raise ValueError(f"{what}: a score has one bound, at_least or at_most")
        if any(what == other["what"] for other in self.scores):
            raise ValueError(f"{what}: two scores of a test have the same name")
        self.scores.append(
            {"what": what, "score": float(score), "at_least": at_least, "at_most": at_most}
        )

    def verdict(self) -> None:
        """Fail the test where a score misses its bound, or where there is none."""
        if not self.scores:
            pytest.fail("a test of learning has to report a score: learned(...)", pytrace=False)
        missed = [describe(score) for score in self.scores if not holds(score)]
        if missed:
            pytest.fail("\n".join(missed), pytrace=False)


def holds(score: dict[str, Any]) -> bool:
    """Whether a score reaches its bound; nan never does."""
    low, high = score["at_least"], score["at_most"]
    return bool(score["score"] <= high if low is None else score["score"] >= low)


def bound_of(score: dict[str, Any]) -> str:
    """The bound of a score as text: ``≥ 0.9`` or ``≤ 0.1``."""
    low, high = score["at_least"], score["at_most"]
    return f"≤ {high:g}" if low is None else f"≥ {low:g}"


def describe(score: dict[str, Any]) -> str:
    """One line about a score that misses."""
    return f"{score['what']}: {score['score']:.4g} is not {bound_of(score)}"


def _kept(parameters: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(parameter, parameter.detach().clone()) for parameter in parameters]


@torch.no_grad()
def _put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    for parameter, value in kept:
        parameter.copy_(value)


@contextmanager
def without_updates() -> Iterator[None]:
    """Every update leaves the parameters as they were; all the rest of a training goes on.

    Covers all optimisers of PyTorch, and the two learners that write their parameters themselves.
    """
    from meta_rl.agents.maml_trpo import MAMLTRPO  # here: other tests need not wait for them
    from meta_rl.few_shot import Reptile

    before: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def keep(optimizer: Any, *_: Any) -> None:
        groups = optimizer.param_groups
        before[id(optimizer)] = _kept(part for group in groups for part in group["params"])

    def put_back(optimizer: Any, *_: Any) -> None:
        _put_back(before.pop(id(optimizer)))

    with ExitStack() as stack:
        for register, hook in (
            (register_optimizer_step_pre_hook, keep),
            (register_optimizer_step_post_hook, put_back),
        ):
            stack.callback(register(hook).remove)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(MAMLTRPO, "train", _undone(MAMLTRPO.train, lambda m: m.policy.parameters()))
        patch.setattr(Reptile, "update", _undone(Reptile.update, lambda m: m.params.values()))
        yield


def _undone(
    update: Callable[..., Any], parameters: Callable[[Any], Iterable[Tensor]]
) -> Callable[..., Any]:
    """The update, after which the parameters are put back."""

    def undone(learner: Any, *args: Any) -> Any:
        kept = _kept(parameters(learner))
        report = update(learner, *args)
        _put_back(kept)
        return report

    return undone
