"""Trust-region steps.

Conjugate gradients equal a direct solve, in as many iterations as there are distinct eigenvalues; a
step on a quadratic problem is the one worked by hand; no step exceeds its bounds or lowers the
objective, whatever the objective; a step that cannot be made leaves the parameters; parts survive
flattening.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from meta_rl.inner_loop import Params
from meta_rl.policy_gradient.trust_region import (
    Trial,
    TrustRegionStep,
    flatten,
    natural_direction,
    trust_region_step,
    unflatten,
)


def random_matrix(size: int, seed: int = 0) -> Tensor:
    """Symmetric and positive definite, float64."""
    factor = torch.randn(
        (size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return factor @ factor.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


class TestDirection:
    @pytest.mark.parametrize("damping", [0.0, 0.5])
    def test_equals_a_direct_solve(self, damping: float) -> None:
        matrix = random_matrix(8)
        gradient = torch.linspace(-1.0, 2.0, 8, dtype=torch.float64)
        direction, squared = natural_direction(
            gradient, lambda v: matrix @ v, num_iterations=30, damping=damping
        )
        damped = matrix + damping * torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close(
            direction, torch.linalg.solve(damped, gradient), rtol=1e-8, atol=1e-8
        )
        assert squared == pytest.approx((direction @ damped @ direction).item())

    def test_takes_an_iteration_for_every_eigenvalue(self) -> None:
        """With three of them, three are enough and two are not; each is one product."""
        values = torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0, 9.0], dtype=torch.float64)
        gradient = torch.tensor([1.0, -2.0, 3.0, 0.5, 1.0, 1.0], dtype=torch.float64)
        calls = []

        def curvature(vector: Tensor) -> Tensor:
            calls.append(vector)
            return values * vector

        exact, _ = natural_direction(gradient, curvature, num_iterations=3, damping=0.0)
        torch.testing.assert_close(exact, gradient / values)
        assert len(calls) == 3
        rough, _ = natural_direction(gradient, curvature, num_iterations=2, damping=0.0)
        assert (rough - gradient / values).abs().max() > 1e-3

    def test_float32_stays_float32(self) -> None:
        direction, _ = natural_direction(torch.ones(3), lambda v: 2.0 * v, damping=0.0)
        assert direction.dtype == torch.float32
        assert direction.tolist() == pytest.approx([0.5] * 3)


def step_on(
    params: Params, objective: Any, matrix: Tensor, **kwargs: Any
) -> tuple[TrustRegionStep, list[Trial]]:
    """A step on an objective of the flat parameters, whose divergence is ``d·H d / 2`` exactly.

    That before adaptation is ``d·d / 2``.
    """
    start = flatten(params)
    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf), leaf)
    tried = []

    def evaluate(candidate: Params) -> Trial:
        moved = flatten(candidate) - start
        kl = (0.5 * moved @ matrix @ moved).item()
        initial_kl = (0.5 * moved @ moved).item()
        improvement = (objective(flatten(candidate)) - objective(start)).item()
        tried.append(Trial(improvement, kl, initial_kl))
        return tried[-1]

    step = trust_region_step(
        params,
        unflatten(gradient, params),
        lambda v: unflatten(matrix @ flatten(v), v),
        evaluate,
        **{"max_kl": 0.01, "damping": 0.0, **kwargs},
    )
    return step, tried


def params_of(*values: float) -> Params:
    """All but the last as one parameter, the last as another."""
    vector = torch.tensor(values, dtype=torch.float64)
    return {"first": vector[:-1].clone(), "last": vector[-1:].clone()}


class TestStep:
    def test_quadratic_worked_by_hand(self) -> None:
        """H = diag(1, 4), g = (1, 2): the direction is (1, 1/2), its squared length 1 + 1 = 2.

        With δ = 0.01, the step is sqrt(2 * 0.01 / 2) = 0.1 times that: (0.1, 0.05). The objective
        is linear and rises by 0.1 + 2 * 0.05 = 0.2; the divergence is the bound. A hair of rounding
        could put it above; the bound of the check is a little wider.
        """
        matrix = torch.tensor([1.0, 4.0], dtype=torch.float64).diag()
        slope = torch.tensor([1.0, 2.0], dtype=torch.float64)
        step, tried = step_on(params_of(3.0, -1.0), lambda x: slope @ x, matrix)
        scale = 0.8**step.backtracks
        assert step.accepted
        assert step.backtracks <= 1  # where rounding decides
        assert tried[0] == pytest.approx((0.2, 0.01, 0.5 * (0.1**2 + 0.05**2)))
        assert step.params["first"].item() == pytest.approx(3.0 + 0.1 * scale)
        assert step.params["last"].item() == pytest.approx(-1.0 + 0.05 * scale)
        assert step.trial == tried[-1]
        assert step.trial.improvement == pytest.approx(0.2 * scale)
        assert step.trial.kl == pytest.approx(0.01 * scale**2)

    def test_is_shortened_until_the_initial_policy_keeps_its_bound(self) -> None:
        """The problem worked by hand: a full step has 0.00625 before adaptation.

        With 0.8^n of it that is 0.00625 * 0.64^n, which is below 0.001 at n = 5: 0.00067.
        """
        matrix = torch.tensor([1.0, 4.0], dtype=torch.float64).diag()
        slope = torch.tensor([1.0, 2.0], dtype=torch.float64)
        step, tried = step_on(
            params_of(3.0, -1.0), lambda x: slope @ x, matrix, max_initial_kl=0.001
        )
        assert step.accepted
        assert step.backtracks == 5
        assert [trial.initial_kl for trial in tried] == pytest.approx(
            [0.00625 * 0.64**n for n in range(6)]
        )
        assert step.trial == tried[-1]

    def test_is_shortened_until_the_objective_rises(self) -> None:
        """x - 30 x² / 2 from 0 with H = 1: a full step of sqrt(2 * 0.02) = 0.2 would lose 0.4.

        It rises below 2 / 30 = 0.0667: 0.2 * 0.8^n at n = 5, which is 0.0655.
        """
        step, tried = step_on(
            {"x": torch.zeros(1, dtype=torch.float64)},
            lambda x: (x - 15.0 * x.square()).sum(),
            torch.eye(1, dtype=torch.float64),
            max_kl=0.02,
        )
        assert step.accepted
        assert step.backtracks == 5
        assert step.params["x"].item() == pytest.approx(0.2 * 0.8**5)
        assert [trial.improvement > 0 for trial in tried] == [False] * 5 + [True]

    def test_bound_and_objective_of_categorical_policies(self) -> None:
        """True divergences, which the quadratic model of the full step does not know."""
        backtracks = [self.step_of_categorical_policies(seed) for seed in range(20)]
        assert sum(count > 0 for count in backtracks) > 3  # full steps that were too long
        assert backtracks.count(0) > 3

    def step_of_categorical_policies(self, seed: int) -> int:
        generator = torch.Generator().manual_seed(seed)
        logits = 2.0 * torch.randn((3, 4), generator=generator, dtype=torch.float64)
        reward = torch.randn((3, 4), generator=generator, dtype=torch.float64)
        old = Categorical(logits=logits)
        max_kl = 0.5  # far from where the model is good
        kls = []

        def kl(values: Tensor) -> Tensor:
            return kl_divergence(old, Categorical(logits=values)).mean()

        def objective(values: Tensor) -> Tensor:
            return (values.softmax(dim=-1) * reward).sum(dim=-1).mean()

        def evaluate(candidate: Params) -> Trial:
            kls.append(kl(candidate["logits"]).item())
            return Trial((objective(candidate["logits"]) - objective(logits)).item(), kls[-1])

        def curvature(vector: Params) -> Params:
            _, product = torch.autograd.functional.hvp(kl, logits, vector["logits"])
            return {"logits": product}

        gradient = torch.autograd.functional.jacobian(objective, logits)
        step = trust_region_step(
            {"logits": logits}, {"logits": gradient}, curvature, evaluate, max_kl=max_kl
        )
        assert step.accepted
        assert 0.0 < kl(step.params["logits"]).item() <= max_kl
        assert step.trial.kl == kl(step.params["logits"]).item()
        assert objective(step.params["logits"]) > objective(logits)
        assert all(value > max_kl for value in kls[:-1])
        return step.backtracks

    @pytest.mark.parametrize(
        "trial",
        [
            Trial(-1.0, 0.0),
            Trial(0.0, 0.0),
            Trial(1.0, 1.0),
            Trial(1.0, 0.0, 1.0),
            Trial(math.nan, 0.0),
            Trial(1.0, math.nan),
            Trial(1.0, 0.0, math.nan),
        ],
        ids=str,
    )
    def test_none_is_accepted(self, trial: Trial) -> None:
        """The objective falls, or stays, or a bound is broken, or one of them is unknown."""
        tried = []

        def evaluate(candidate: Params) -> Trial:
            tried.append(candidate["x"].item())
            return trial

        params = {"x": torch.zeros(1)}
        gradient = {"x": torch.ones(1)}
        step = trust_region_step(
            params,
            gradient,
            lambda v: v,
            evaluate,
            max_kl=0.5,
            max_initial_kl=0.5,
            damping=0.0,
            max_backtracks=3,
            backtrack_factor=0.5,
        )
        assert step == TrustRegionStep(params, False, Trial(0.0, 0.0), 3)
        assert step.params is params
        assert tried == [1.0, 0.5, 0.25, 0.125]

    def test_no_gradient_no_step(self) -> None:
        params = {"x": torch.ones(2)}

        def never(*args: Any) -> Any:
            raise AssertionError

        step = trust_region_step(params, {"x": torch.zeros(2)}, never, never, max_kl=0.1)
        assert step == TrustRegionStep(params, False, Trial(0.0, 0.0), 0)

    def test_no_direction_of_ascent(self) -> None:
        """Negative curvature, which a mean divergence cannot have at its minimum."""
        params = {"x": torch.ones(2)}
        step = trust_region_step(
            params,
            {"x": torch.ones(2)},
            lambda v: {"x": -v["x"]},
            lambda p: Trial(1.0, 0.0),
            max_kl=0.1,
        )
        assert not step.accepted
        assert step.params is params

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    def test_a_direction_that_is_not_finite_stops(self, bad: float) -> None:
        params = {"x": torch.ones(2)}
        with pytest.raises(FloatingPointError, match="natural gradient is not finite"):
            trust_region_step(
                params,
                {"x": torch.ones(2)},
                lambda v: {"x": bad * v["x"]},
                lambda p: Trial(1.0, 0.0),
                max_kl=0.1,
            )

    def test_nothing_is_written_to(self) -> None:
        params = params_of(1.0, 2.0, 3.0)
        step, _ = step_on(params, lambda x: x.sum(), torch.eye(3, dtype=torch.float64))
        assert step.accepted
        assert flatten(params).tolist() == [1.0, 2.0, 3.0]


def test_parts_survive_flattening() -> None:
    values = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7.0), "c": torch.ones(1)}
    flat = flatten(values)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 7, 1]
    back = unflatten(flat, values)
    assert list(back) == ["b", "a", "c"]
    for name, value in values.items():
        assert torch.equal(back[name], value)
        assert back[name].shape == value.shape
