"""Tests of learning: their verdict, trainings without learning, and the table of their margins."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from meta_rl.agents.promp import ProMP
from meta_rl.few_shot import MAML, Reptile

from . import seeds
from .agents.small_agents import parameters, same
from .agents.small_maml import make_model
from .few_shot.small_data import blob_split, mlp
from .learning import Learned, without_updates


class TestVerdict:
    def test_scores_within_their_bounds_pass(self) -> None:
        learned = Learned()
        learned("reward", 0.9, at_least=0.9)
        learned("error", torch.tensor(0.1), at_most=0.2)
        learned.verdict()

    def test_all_scores_that_miss_are_told(self) -> None:
        learned = Learned()
        learned("reward", 0.5, at_least=0.9)
        learned("accuracy", 1.0, at_least=0.9)
        learned("error", math.nan, at_most=0.2)
        with pytest.raises(pytest.fail.Exception) as caught:
            learned.verdict()
        assert str(caught.value) == "reward: 0.5 is not ≥ 0.9\nerror: nan is not ≤ 0.2"

    def test_a_test_of_learning_reports_a_score(self) -> None:
        with pytest.raises(pytest.fail.Exception, match="has to report a score"):
            Learned().verdict()

    def test_a_score_has_one_bound_and_a_name_of_its_own(self) -> None:
        learned = Learned()
        learned("reward", 1.0, at_least=0.9)
        with pytest.raises(ValueError, match="reward: two scores of a test have the same name"):
            learned("reward", 1.0, at_least=0.9)
        for given in ({}, {"at_least": 0.0, "at_most": 1.0}):
            with pytest.raises(ValueError, match="a score has one bound, at_least or at_most"):
                learned("error", 1.0, **given)


class TestWithoutUpdates:
    def test_optimisers(self) -> None:
        """They do nothing to the parameters, and work again afterwards."""
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight], lr=0.1)
        weight.grad = torch.ones(3)
        with without_updates():
            optimizer.step()
            assert torch.equal(weight, torch.ones(3))
        optimizer.step()
        assert torch.allclose(weight, torch.full((3,), 0.9))

    @pytest.mark.parametrize("make", [make_model, lambda: make_model(algorithm=ProMP)])
    def test_agents_that_adapt_by_gradient_steps(self, make: Any) -> None:
        model = make()
        first = parameters(model)
        with without_updates():
            model.learn(100)
        assert model._n_updates > 0
        assert same(parameters(model), first)
        model.learn(100, reset_num_timesteps=False)
        assert not same(parameters(model), first)

    @pytest.mark.parametrize("kind", [MAML, Reptile])
    def test_few_shot_learners(self, kind: Any) -> None:
        learner = kind(mlp(3), 0.1, seed=0, device="cpu")
        first = {name: value.detach().clone() for name, value in learner.params.items()}
        with without_updates():
            learner.learn(blob_split(), 2)
        assert all(torch.equal(value, first[name]) for name, value in learner.params.items())
        learner.learn(blob_split(), 2)
        assert not any(torch.equal(value, first[name]) for name, value in learner.params.items())


def score(learned: list[float], without: list[float], **bound: float) -> dict[str, Any]:
    """A score with these values, as the table keeps it."""
    runs = {run.name: learned[i % len(learned)] for i, run in enumerate(seeds.RUNS) if run.learning}
    for i, run in enumerate(run for run in seeds.RUNS if not run.learning):
        runs[run.name] = without[i % len(without)]
    return {"at_least": None, "at_most": None, **bound, "runs": runs}


def rows(scores: dict[str, Any]) -> dict[str, Any]:
    outcomes = {run.name: "passed" if run.learning else "failed" for run in seeds.RUNS}
    return {"a": {"outcomes": outcomes, "scores": scores}}


class TestMargins:
    @pytest.mark.parametrize(
        ("learned", "bound", "needed"),
        [
            ([0.9, 1.0], {"at_least": 0.8}, 0.1),  # as far as 0.9 is from 1
            ([1.0], {"at_least": 0.8}, 0.024),  # 3 % of 1 - 0.2
            ([-0.9, -1.0], {"at_most": -0.8}, 0.1),
        ],
    )
    def test_what_is_needed(
        self, learned: list[float], bound: dict[str, float], needed: float
    ) -> None:
        sign = math.copysign(1.0, learned[0])
        margin = seeds.margin_of(score(learned, [sign * 0.1, sign * 0.2], **bound))
        assert margin.needed == pytest.approx(needed)
        assert margin.worst == learned[0]
        assert margin.margin == pytest.approx(abs(learned[0]) - 0.8)
        assert margin.without == pytest.approx(sign * 0.2)

    @pytest.mark.parametrize(
        ("found", "complaint"),
        [
            (score([0.9, 1.0], [0.2], at_least=0.75), None),
            (score([0.9, 1.0], [0.2], at_least=0.85), "≥ 0.85 is 0.05 from the worst score 0.9,"),
            (score([0.9, 1.0], [0.2, 0.8], at_least=0.75), "no score misses its bound: without"),
            (score([0.02, 0.01], [0.6], at_most=0.1), None),
            (score([0.02, 0.01], [0.6], at_most=0.03), "≤ 0.03 is 0.01 from the worst score 0.02,"),
        ],
    )
    def test_the_rule(self, found: dict[str, Any], complaint: str | None) -> None:
        told = "\n".join(seeds.complaints(rows({"reward": found})))
        assert complaint in told if complaint else not told

    def test_outcomes_and_missing_runs(self) -> None:
        found = rows({"reward": score([0.9], [0.2], at_least=0.7)})
        first, untrained = seeds.RUNS[0], next(run for run in seeds.RUNS if not run.learning)
        found["a"]["outcomes"] |= {first.name: "failed", untrained.name: "passed"}
        assert seeds.complaints(found) == [
            "a: has not passed: default, seed 0",
            "a: has not failed: without learning, seed 0",
        ]
        del found["a"]["outcomes"][first.name]
        assert seeds.complaints(found) == ["a: was not run with default, seed 0"]


def test_the_committed_table_has_every_test_of_learning(request: pytest.FixtureRequest) -> None:
    """And keeps the rule; otherwise run ``make test-seeds``."""
    kept = json.loads(seeds.TABLE.read_text(encoding="utf-8"))["rows"]
    assert not seeds.complaints(kept)
    collected = {
        item.nodeid for item in request.session.items if item.get_closest_marker("learning")
    }
    assert collected <= kept.keys()


@pytest.mark.slow
def test_every_test_of_learning_fails_without_learning() -> None:
    """By its scores, with the committed seed."""
    run = seeds.Run(0, learning=False)
    found: dict[str, Any] = {}
    seeds.add(found, run, seeds.played(run, (), "auto"))
    assert len(found) > 30
    wrong = {test: told for test, row in found.items() if (told := seeds.wrong_in(run, row))}
    assert not wrong
