"""ProMP.

The objective equals a loop over tasks and real steps; its gradient finite differences; the clipped
surrogate and the penalty are worked by hand; steps raise the objective. It learns a hidden target
that only adaptation can find. Same seed, same result; a loaded agent goes on bit for bit; what is
not finite stops with its task and iteration; bad settings are refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from meta_rl import TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.promp import ProMP
from meta_rl.inner_loop import Params, adapt
from meta_rl.policy_gradient.trust_region import flatten, unflatten

from ..families import Corridor, PushedCorridor
from ..learning import Learned
from .probe_families import HiddenTarget
from .small_agents import parameters, same
from .small_maml import EPISODES, TASKS, collected, in_double, looped_step, make_model, one_task

FAMILIES = [Corridor, PushedCorridor]


def promp(family: Any = Corridor, **changes: Any) -> ProMP:
    return make_model(family, ProMP, **changes)


def looped(model: ProMP, params: Params) -> list[tuple[Tensor, Tensor]]:
    """Objective and mean inner divergence of each task, over its real steps."""
    found = []
    for task in range(TASKS):
        fast, divergences = params, []
        for batch in model._supports:
            support = one_task(batch, task)
            real = support.mask > 0
            new = model.policy.distribution(model.policy.outputs(fast, support.obs[real]))
            old = model.policy.distribution(tuple(part[real] for part in support.old))
            divergences.append(kl_divergence(old, new).mean())
            fast = looped_step(model, fast, support, create_graph=True)
        query = one_task(model._query, task)
        real = query.mask > 0
        log_probs = model.policy.log_prob(
            model.policy.outputs(fast, query.obs[real]), query.actions[real]
        )
        ratio = (log_probs - query.old_log_probs[real]).exp()
        low, high = 1.0 - model.clip_range, 1.0 + model.clip_range
        terms = [
            r * a if (r <= high if a >= 0 else r >= low) else (high if a >= 0 else low) * a
            for r, a in zip(ratio, query.advantages[real], strict=True)
        ]
        divergence = torch.stack(divergences).mean()
        value = torch.stack(terms).mean() - model.inner_kl_coefficient * divergence
        found.append((value, divergence))
    return found


class TestObjective:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("num_inner_steps", [1, 2])
    def test_equals_a_loop(self, family: type, num_inner_steps: int) -> None:
        """Away from the policy that sampled, where ratios are clipped and divergences positive."""
        model = in_double(
            collected(
                promp(
                    family,
                    num_inner_steps=num_inner_steps,
                    clip_range=0.15,
                    inner_kl_coefficient=0.7,
                )
            )
        )
        start = model.policy.parameters_by_name()
        generator = torch.Generator().manual_seed(0)
        params = {
            name: value + 0.2 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in start.items()
        }
        leaf = flatten(params).requires_grad_()
        expected = looped(model, unflatten(leaf, params))
        for task, (value, divergence) in enumerate(expected):
            supports = [one_task(batch, task) for batch in model._supports]
            query = one_task(model._query, task)
            ours, (again, inner) = model.objective(unflatten(leaf, params), supports, query)
            assert ours.item() == again.item()
            torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(inner, divergence, rtol=1e-10, atol=1e-12)
            gradients = [torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in (ours, value)]
            torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
            assert inner > 1e-3
        query = model._query
        fast = params
        for batch in model._supports:
            fast = adapt(model.inner_loss, fast, one_task(batch, 0), lr=model.inner_lr)
        outputs = model.policy.outputs(fast, query.obs[0])
        ratio = (model.policy.log_prob(outputs, query.actions[0]) - query.old_log_probs[0]).exp()
        assert ((ratio - 1.0).abs() > 0.15).any()
        assert ((ratio - 1.0).abs() < 0.15).any()

    def test_gradient_at_the_start_is_the_surrogates(self) -> None:
        """There nothing is clipped, and divergences are at their minimum."""
        model = in_double(collected(promp(PushedCorridor, inner_kl_coefficient=5.0)))
        params = model.policy.parameters_by_name()
        for task in range(TASKS):
            support, query = one_task(model._supports[0], task), one_task(model._query, task)

            def ours(values: Tensor, support: Any = support, query: Any = query) -> Tensor:
                return model.objective(unflatten(values, params), [support], query)[0]

            def plain(values: Tensor, support: Any = support, query: Any = query) -> Tensor:
                start = unflatten(values, params)
                fast = adapt(model.inner_loss, start, support, lr=model.inner_lr)
                return model.surrogate(fast, query)

            start = flatten(params)
            found, expected = (
                torch.autograd.functional.jacobian(function, start) for function in (ours, plain)
            )
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
            along = torch.linspace(-1.0, 1.0, len(start), dtype=torch.float64)
            numeric = (ours(start + 1e-6 * along) - ours(start - 1e-6 * along)) / 2e-6
            assert (found @ along).item() == pytest.approx(numeric.item(), abs=1e-6)

    @pytest.mark.parametrize("task_chunk", [1, 2])
    def test_chunks_agree(self, task_chunk: int) -> None:
        models = [collected(promp(task_chunk=chunk)) for chunk in (None, task_chunk)]
        for model in models:
            model.train()
        for one, other in zip(*(parameters(model).values() for model in models), strict=True):
            torch.testing.assert_close(one, other)


class TestTraining:
    @pytest.mark.learning
    def test_steps_raise_the_objective(self, seed: int, learned: Learned) -> None:
        """On the data of the iteration, by Adam; the log has the last step's own."""
        model = collected(promp(num_outer_steps=10, learning_rate=0.01, seed=seed))

        def mean() -> float:
            params = model.policy.parameters_by_name()
            params = {name: value.clone().requires_grad_() for name, value in params.items()}
            return float(np.mean([value.item() for value, _ in looped(model, params)]))

        before = mean()
        model.train()
        assert model._n_updates == 10
        learned("gain", mean() - before, at_least=0.01)
        logged = model.logger.name_to_value["train/objective"]
        learned("logged gain", logged - before, at_least=0.01)
        learned("logged divergence", model.logger.name_to_value["train/inner_kl"], at_least=1e-6)

    def test_learning_rate_schedule(self) -> None:
        model = promp(learning_rate=lambda left: 0.01 * left)
        model.learn(200)
        assert model.policy.optimizer.param_groups[0]["lr"] < 0.01

    @pytest.mark.learning
    def test_learns_a_hidden_target(self, seed: int, learned: Learned) -> None:
        """On held-out tasks: -1/3 is the best without adaptation; untrained, it is below -0.8."""
        env = TaskVectorEnv(HiddenTarget, 16 * 20)
        model = ProMP(
            env=env,
            learning_rate=0.01,
            envs_per_task=20,
            inner_lr=0.1,
            policy_kwargs={"hidden_sizes": (16,), "activation": "tanh", "log_std_init": -0.5},
            seed=seed,
        )
        tests = TaskVectorEnv(HiddenTarget, 64 * 20)
        model.learn(40 * 2 * env.num_envs)
        after = evaluate_adaptation(model, tests, 64, 3, seed=seed).values.mean(axis=0)
        learned("after two steps", after[2], at_least=-0.2)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_loaded_agent_goes_on_as_if_undisturbed(self, family: type, tmp_path: Path) -> None:
        """learn, save, load, learn ends with the parameters of learn, learn: bit for bit."""
        model = promp(family, num_inner_steps=2, clip_range=0.2).learn(200)
        again = promp(family, num_inner_steps=2, clip_range=0.2).learn(200)
        assert same(parameters(model), parameters(again))
        model.save(tmp_path / "model")
        at_save = parameters(model)
        loaded = ProMP.load(tmp_path / "model", env=TaskVectorEnv(family, TASKS * EPISODES))
        assert same(parameters(loaded), at_save)
        assert loaded.clip_range == 0.2
        for part in (model, loaded):
            part.learn(200, reset_num_timesteps=False)
        assert same(parameters(loaded), parameters(model))
        assert not same(parameters(loaded), at_save)
        assert loaded._n_updates == model._n_updates
        assert not same(parameters(promp(family, seed=1)), parameters(promp(family)))

    @pytest.mark.parametrize(("call", "what"), [(0, "an inner gradient"), (1, "a gradient")])
    def test_what_is_not_finite_stops(self, call: int, what: str) -> None:
        model = promp(HiddenTarget)
        as_batch, batches = model.as_batch, []

        def broken(rollout: Any, state: Any) -> Any:
            batches.append(as_batch(rollout, state))
            if len(batches) == 3 + call:  # the second iteration's
                batches[-1].advantages[2, 0] = math.nan
            return batches[-1]

        model.as_batch = broken
        pattern = rf"^{what} is not finite: task 2 \(\[.*\]\) of the meta-batch in iteration 2$"
        with pytest.raises(FloatingPointError, match=pattern):
            model.learn(10_000)
        assert all(p.isfinite().all() for p in model.policy.parameters())


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"clip_range": 0.0}, "clip_range has to be above 0, got 0.0"),
        ({"inner_kl_coefficient": -1.0}, "inner_kl_coefficient has to be at least 0"),
        ({"num_inner_steps": 0}, "num_inner_steps has to be a whole number of at least 1"),
        ({"num_outer_steps": 0}, "num_outer_steps has to be a whole number of at least 1"),
        ({"task_chunk": 0}, "task_chunk has to be a whole number of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"inner_lr": -1.0}, "inner_lr has to be above 0"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        promp(**bad)
