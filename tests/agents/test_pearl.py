"""PEARL: losses against hand-worked numbers, a probe, resuming, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from meta_rl import TaskFuncEnv, TaskVectorEnv, evaluate_adaptation, make_task_vec
from meta_rl.agents.multi_task_sac import MultiTaskSAC, OracleSAC
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.pearl.encoders import GivenLatent
from meta_rl.agents.pearl.inference import LatentState
from meta_rl.agents.pearl.losses import with_latents
from meta_rl.cli import Train, main, run_config
from meta_rl.cli.settings import settings_for
from meta_rl.rollout import Rollout
from meta_rl.tasks import count_tasks

from ..learning import Learned
from .probe_families import (
    ActionReward,
    EarlyEnd,
    HiddenSign,
    HiddenTarget,
    ObservationTarget,
)

SMALL: dict[str, Any] = {
    "num_train_tasks": 6,
    "initial_steps": 4,
    "prior_steps": 4,
    "posterior_steps": 2,
    "extra_steps": 2,
    "updates_per_iteration": 3,
    "tasks_per_update": 3,
    "batch_size": 4,
    "context_size": 3,
    "buffer_size": 600,
    "seed": 0,
    "policy_kwargs": {"hidden_sizes": (8, 8), "encoder_sizes": (8,), "latent_size": 2},
}
FIRST = 6 * 4  # steps of a first iteration: initial ones on six tasks ...
ITERATION = 2 * 8  # ... and of each iteration, on two tasks


@pytest.fixture(autouse=True)
def _own_draws() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_pearl(
    family: type[TaskFuncEnv] = HiddenSign,
    algorithm: type[PEARL] = PEARL,
    num_envs: int = 2,
    policy: dict[str, Any] | None = None,
    **changes: Any,
) -> PEARL:
    settings = {**SMALL, **changes}
    settings["policy_kwargs"] = {**SMALL["policy_kwargs"], **(policy or {})}
    return algorithm(env=TaskVectorEnv(family, num_envs), **settings)


def rollout_of(observations: Any, actions: Any, rewards: Any, mask: Any = None) -> Rollout:
    """Steps ``[T, N]``; every one ends an episode."""
    rewards = np.asarray(rewards, dtype=np.float64)
    observations = np.asarray(observations, dtype=np.float32)
    ended = np.ones(rewards.shape, dtype=bool)
    actions = np.asarray(actions, dtype=np.float32)
    return Rollout(observations, actions, rewards, ended, ~ended, observations, mask)


def random_rollout(steps: int, num: int, seed: int = 0) -> Rollout:
    rng = np.random.default_rng(seed)
    shape = (steps, num, 1)
    return rollout_of(rng.normal(size=shape), rng.uniform(-2, 2, shape), rng.normal(size=shape[:2]))


def part_of(rollout: Rollout, steps: Any) -> Rollout:
    parts = [rollout.observations, rollout.actions, rollout.rewards, rollout.terminated]
    parts += [rollout.truncated, rollout.next_observations]
    return Rollout(*(part[steps] for part in parts))


def parameters(model: PEARL) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in model.policy.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


class TestAdapt:
    def test_state_holds_the_product_of_the_transitions_factors(self) -> None:
        """Against the encoder's factors, multiplied one by one; actions are scaled from [-2, 2]."""
        model = make_pearl()
        rollout = random_rollout(5, 3)
        mean, variance = model.posterior(model.adapt(rollout))
        for task in range(3):
            precision, weighted = np.zeros(2), np.zeros(2)
            for step in range(5):
                row = [
                    rollout.observations[step, task, 0],
                    rollout.actions[step, task, 0] / 2.0,
                    rollout.rewards[step, task],
                ]
                factor = model.policy.encoder.factors(torch.tensor([[row]], dtype=torch.float32))
                factor_mean, factor_variance = (f[0, 0].detach().numpy() for f in factor)
                precision += 1.0 / factor_variance
                weighted += factor_mean / factor_variance
            np.testing.assert_allclose(variance[task], 1.0 / precision, rtol=1e-5)
            np.testing.assert_allclose(mean[task], weighted / precision, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("encoder", ["product", "recurrent"])
    def test_adapting_in_parts_equals_adapting_at_once(self, encoder: str) -> None:
        """Any split of the transitions gives the same posterior, and the same count of episodes."""
        model = make_pearl(policy={"encoder": encoder, "next_observation": True})
        rollout = random_rollout(7, 3)
        whole = model.adapt(rollout)
        state = None
        for steps in (slice(0, 1), slice(1, 5), slice(5, 7)):
            state = model.adapt(part_of(rollout, steps), state)
        np.testing.assert_array_equal(state.episodes, 7)
        np.testing.assert_array_equal(state.episodes, whole.episodes)
        for ours, theirs in zip(model.posterior(state), model.posterior(whole), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
            assert np.ptp(ours) > 0

    def test_order_of_transitions_does_not_matter(self) -> None:
        """The product encoder's posterior is permutation-invariant; the recurrent one's is not."""
        rollout = random_rollout(6, 2)
        shuffled = part_of(rollout, np.array([3, 0, 5, 1, 4, 2]))
        product = make_pearl()
        for ours, theirs in zip(
            product.posterior(product.adapt(rollout)),
            product.posterior(product.adapt(shuffled)),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        recurrent = make_pearl(policy={"encoder": "recurrent"})
        means = [recurrent.posterior(recurrent.adapt(r))[0] for r in (rollout, shuffled)]
        assert not np.allclose(*means, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("encoder", ["product", "recurrent"])
    def test_masked_steps_are_left_out(self, encoder: str) -> None:
        """Also where they are not numbers, in the middle, and where nothing else is there."""
        model = make_pearl(policy={"encoder": encoder})
        rollout = random_rollout(4, 3)
        keep = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
        rollout.mask = keep
        rollout.rewards[~keep] = np.nan if encoder == "product" else 1e3
        state = model.adapt(rollout)
        np.testing.assert_array_equal(state.episodes, [2, 4, 0])
        mean, variance = model.posterior(state)
        for task in range(2):
            alone = part_of(rollout, keep[:, task])
            expected = model.posterior(model.adapt(alone))
            np.testing.assert_allclose(mean[task], expected[0][task], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(variance[task], expected[1][task], rtol=1e-5)
        np.testing.assert_array_equal(mean[2], 0.0)  # the prior
        np.testing.assert_array_equal(variance[2], 1.0)

    def test_adapt_changes_neither_its_argument_nor_the_agent(self) -> None:
        model = make_pearl()
        before = parameters(model)
        state = model.adapt(random_rollout(3, 2))
        kept = [np.array(leaf) for leaf in (state.latent, state.episodes, *state.belief)]
        model.adapt(random_rollout(3, 2, seed=1), state)
        model.predict(np.zeros((2, 1)), state, np.ones(2, dtype=bool))
        leaves = (state.latent, state.episodes, *state.belief)
        assert all(np.array_equal(leaf, old) for leaf, old in zip(leaves, kept, strict=True))
        assert same(parameters(model), before)
        assert all(len(leaf) == 2 for leaf in leaves)

    def test_the_first_episodes_explore_by_the_prior(self) -> None:
        """Of many tasks with the same data, z has the prior's spread up to the second episode."""
        model = make_pearl(exploration_episodes=2)
        episode = rollout_of(*(np.ones((1, 4000, 1)),) * 2, np.ones((1, 4000)))
        state = None
        spreads, means = [], []
        for _ in range(3):
            state = model.adapt(episode, state)
            spreads.append(state.latent.std(axis=0))
            means.append(state.latent.mean(axis=0))
        np.testing.assert_allclose(spreads[0], 1.0, atol=0.05)
        np.testing.assert_allclose(means[0], 0.0, atol=0.06)
        mean, variance = model.posterior(state)
        np.testing.assert_allclose(spreads[2], np.sqrt(variance[0]), rtol=0.05)
        np.testing.assert_allclose(means[2], mean[0], atol=0.05)
        assert (spreads[2] < 0.8).all()  # three factors of variance log 2 each: 0.48
        mean_model = make_pearl(test_latent="mean")
        known = mean_model.adapt(episode)
        np.testing.assert_allclose(known.latent, mean_model.posterior(known)[0], atol=1e-6)
        assert mean_model.initial_state(4000).latent.std() > 0.9  # before, a sample of the prior


class TestPredict:
    def test_latent_is_held_through_an_episode(self) -> None:
        """It is drawn anew where an episode starts, and there only."""
        model = make_pearl()
        _, state = model.predict(np.zeros((3, 1)), None, np.ones(3, dtype=bool))
        _, held = model.predict(np.zeros((3, 1)), state, np.zeros(3, dtype=bool))
        np.testing.assert_array_equal(held.latent, state.latent)
        _, anew = model.predict(np.zeros((3, 1)), held, np.array([True, False, True]))
        changed = (anew.latent != held.latent).all(axis=1)
        np.testing.assert_array_equal(changed, [True, False, True])
        _, kept = model.predict(np.zeros((3, 1)), anew)
        np.testing.assert_array_equal(kept.latent, anew.latent)

    def test_deterministic_actions_are_a_function_of_observation_and_latent(self) -> None:
        """The mode, ``2 tanh(mean)`` on [-2, 2]; one observation gives one action."""
        model = make_pearl()
        observation = np.array([[0.3], [0.3]])
        actions, state = model.predict(observation, deterministic=True)
        again, _ = model.predict(observation, state, deterministic=True)
        np.testing.assert_array_equal(actions, again)
        inputs = torch.cat([torch.tensor([[0.3], [0.3]]), torch.from_numpy(state.latent)], dim=1)
        expected = 2.0 * model.policy.actor(inputs)[:, :1].tanh()
        np.testing.assert_allclose(actions, expected.detach().numpy(), atol=1e-6)
        assert actions.dtype == np.float32
        single, _ = model.predict(observation[0])
        assert single.shape == (1,)
        drawn, _ = model.predict(observation, state)
        assert (drawn != actions).all()
        assert (np.abs(drawn) <= 2.0).all()

    def test_actions_and_log_probabilities_equal_torchs(self) -> None:
        """A squashed normal, also far out, where 1 - tanh² is 0 in single precision."""
        policy = make_pearl().policy
        inputs, noise = torch.randn(50, 3), 3.0 * torch.randn(50, 1)
        actions, log_probs, mean, log_std = policy.actions(inputs, noise)
        normal = Normal(mean.double(), log_std.double().exp())
        squashed = TransformedDistribution(normal, TanhTransform())
        raw = mean.double() + log_std.double().exp() * noise
        expected = Independent(normal, 1).log_prob(raw)
        expected -= TanhTransform().log_abs_det_jacobian(raw, raw.tanh()).sum(dim=-1)
        torch.testing.assert_close(log_probs.double(), expected, rtol=1e-4, atol=1e-4)
        near = raw.abs()[:, 0] < 2
        assert near.sum() > 5
        direct = squashed.log_prob(raw.tanh())[:, 0]
        torch.testing.assert_close(log_probs[near].double(), direct[near], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(actions, raw.tanh().float())
        far = policy.actions(inputs, torch.full((50, 1), 40.0))[1]
        assert far.isfinite().all()


def constant(network: torch.nn.Module, values: list[float]) -> None:
    """Make a network give these numbers, whatever its input."""
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    last = list(network.parameters())[-1]
    last.data.copy_(torch.tensor(values).view(last.shape))


def rows_of(model: PEARL, rewards: list[list[float]], terminals: list[list[float]]) -> Tensor:
    """Rows ``[M, B, D]`` with these training rewards; the context's rewards are others."""
    rows = torch.randn(len(rewards), len(rewards[0]), model.replay.row_size)
    rows[..., model.replay.columns[4]] = torch.tensor(rewards)[..., None]
    rows[..., model.replay.columns[5]] = torch.tensor(terminals)[..., None]
    return rows


class TestLosses:
    def test_critic_loss_equals_numbers_worked_by_hand(self) -> None:
        """Scale 5, discount 0.5, V = 4, Q = 1 and 2.

        Reward 1: target 5 + 2 = 7, errors 36 + 25 = 61. Reward -1, terminal: target -5, errors
        36 + 49 = 85. Reward 0: target 2, errors 1 + 0 = 1. Reward 0, terminal: 1 + 4 = 5.
        """
        model = make_pearl(reward_scale=5.0, discount=0.5)
        constant(model.policy.critics, [1.0, 2.0])
        constant(model.policy.target, [4.0])
        rows = rows_of(model, [[1.0, -1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
        belief = model.policy.encoder.initial_belief(2)
        noise = torch.randn(2, 2)
        losses, latents, kl = model.losses.critic_loss(
            rows, torch.randn(2, 3, 3), belief, noise, torch.zeros(4, 1)
        )
        torch.testing.assert_close(losses, torch.tensor([73.0, 3.0]))
        assert latents.shape == (2, 2)
        assert kl.shape == (2,)

    def test_twin_target_equals_numbers_worked_by_hand(self) -> None:
        """Without a value network: the smaller of 4 and 3, less temperature 2 times log pi'.

        A mean of 0, a standard deviation of 1 and noise 0 give tanh 0 = 0 with the log-probability
        -log(2 pi) / 2 = -0.9189: V = 3 + 1.8379 = 4.8379, the target of reward 1 is 5 + 2.4189.
        """
        model = make_pearl(
            reward_scale=5.0,
            discount=0.5,
            entropy_coefficient=2.0,
            policy={"value_network": False},
        )
        constant(model.policy.critics, [0.0, 1.0])
        constant(model.policy.target, [4.0, 3.0])
        constant(model.policy.actor, [0.0, 0.0])
        belief = model.policy.encoder.initial_belief(1)
        losses, _, _ = model.losses.critic_loss(
            rows_of(model, [[1.0]], [[0.0]]),
            torch.randn(1, 3, 3),
            belief,
            torch.randn(1, 2),
            torch.zeros(1, 1),
        )
        target = 5.0 + 0.5 * (3.0 + math.log(2 * math.pi))
        assert losses.item() == pytest.approx(target**2 + (1.0 - target) ** 2, rel=1e-5)

    def test_actor_loss_equals_numbers_worked_by_hand(self) -> None:
        """Q = 3 and 2, V = 1, temperature 2, mean 0.5 and log deviation 0 (regularised by 0.001).

        Noise 0: log pi = -log(2 pi) / 2 - log(1 - tanh(0.5)²). Policy: 2 log pi - 2 + 0.001 * 0.25;
        value: (1 - (2 - 2 log pi))²; temperature, learned: -log 2 * (log pi - 1).
        """
        model = make_pearl(entropy_coefficient="auto")
        constant(model.policy.critics, [3.0, 2.0])
        constant(model.policy.value, [1.0])
        constant(model.policy.actor, [0.5, 0.0])
        model.policy.log_temperature.data.fill_(math.log(2.0))
        losses, report = model.losses.actor_loss(
            torch.randn(1, 1, 6), torch.randn(1, 2), torch.zeros(1, 1)
        )
        log_prob = -0.5 * math.log(2 * math.pi) - math.log(1.0 - math.tanh(0.5) ** 2)
        policy = 2.0 * log_prob - 2.0 + 0.001 * 0.25
        value = (1.0 - (2.0 - 2.0 * log_prob)) ** 2
        expected = policy + value - math.log(2.0) * (log_prob - 1.0)
        assert losses.item() == pytest.approx(expected, rel=1e-5)
        assert report["policy_loss"].item() == pytest.approx(policy, rel=1e-5)
        assert report["value_loss"].item() == pytest.approx(value, rel=1e-5)
        assert report["entropy"].item() == pytest.approx(-log_prob, rel=1e-5)
        assert report["temperature"].item() == pytest.approx(2.0)
        losses.sum().backward()
        assert model.policy.log_temperature.grad.item() == pytest.approx(
            -(log_prob - 1.0), rel=1e-5
        )

    def test_who_learns_from_what(self) -> None:
        """Critics and encoder from the critics' loss; actor and value network from the other."""
        model = make_pearl()
        rows, context = torch.randn(3, 4, 6), torch.randn(3, 3, 3)
        belief, noise = model.policy.encoder.initial_belief(3), torch.randn(3, 2)
        losses, latents, _ = model.losses.critic_loss(
            rows, context, belief, noise, torch.zeros(12, 1)
        )
        losses.sum().backward()
        parts = {name: getattr(model.policy, name) for name in ("critics", "encoder", "actor")}
        parts |= {"value": model.policy.value, "target": model.policy.target}

        def moved() -> set[str]:
            found = {
                name
                for name, part in parts.items()
                if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
            }
            model.policy.zero_grad(set_to_none=True)
            return found

        assert moved() == {"critics", "encoder"}
        model.losses.actor_loss(rows, latents.detach(), torch.randn(12, 1))[0].sum().backward()
        assert moved() == {"actor", "value"}

    def test_the_policys_gradient_passes_through_the_critics_to_the_action(self) -> None:
        """Against the gradient of unfrozen critics."""
        model = make_pearl()
        inputs = torch.randn(20, 4, requires_grad=True)
        frozen = model.policy.critics(inputs, frozen=True).amin(0).sum()
        free = model.policy.critics(inputs).amin(0).sum()
        one, other = (torch.autograd.grad(part, inputs)[0] for part in (frozen, free))
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0

    def test_twin_critics_equal_two_networks(self) -> None:
        """Evaluated layer by layer, one critic at a time."""
        critics = make_pearl().policy.critics
        inputs = torch.randn(5, 4)
        expected = []
        for i in range(2):
            hidden = inputs
            for layer in range(3):
                hidden = hidden @ critics.weights[layer][i] + critics.biases[layer][i]
                hidden = torch.relu(hidden) if layer < 2 else hidden
            expected.append(hidden)
        torch.testing.assert_close(critics(inputs), torch.stack(expected))

    def test_latents_stand_beside_their_tasks_rows(self) -> None:
        joined = with_latents(torch.arange(4.0).view(2, 2, 1), torch.tensor([[10.0], [20.0]]))
        expected = torch.tensor([[0.0, 10.0], [1.0, 10.0], [2.0, 20.0], [3.0, 20.0]])
        torch.testing.assert_close(joined, expected)

    def test_target_follows_the_value_network(self) -> None:
        """By ``target_rate`` of the way, after the step."""
        model = make_pearl(target_rate=0.25)
        model.learn(FIRST)  # has data now
        before = [p.clone() for p in model.policy.target.parameters()]
        model.update()
        for old, new, value in zip(
            before, model.policy.target.parameters(), model.policy.value.parameters(), strict=True
        ):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * value)


class TestCollection:
    def test_what_an_iteration_stores(self) -> None:
        """Initial steps on every task; then, on two, context from the first phases only."""
        model = make_pearl(meta_batch_size=2)
        model.learn(FIRST)
        assert model.num_timesteps == FIRST + ITERATION
        assert model._n_updates == 3
        written = np.sort(model.replay.written)
        np.testing.assert_array_equal(written, [4, 4, 4, 4, 12, 12])
        visited = model.replay.written == 12
        np.testing.assert_array_equal(model.replay.context_length, np.where(visited, 6, 4))
        np.testing.assert_array_equal(model.replay.context_start[visited], 4)
        rows = model.replay.data.view(6, 100, -1).numpy()
        for task, count in enumerate(model.replay.written):
            action, reward = rows[task, :count, 1], rows[task, :count, 2]
            right = (action > 0) == (model.train_tasks[task, 0] > 0)
            np.testing.assert_array_equal(reward, right)  # of this task, with scaled actions
            np.testing.assert_array_equal(rows[task, :count, 4], reward)
            np.testing.assert_array_equal(rows[task, :count, 5], 1.0)
            assert (np.abs(action) < 1).all()
            assert not rows[task, count:].any()

    @pytest.mark.parametrize("envs_per_task", [1, 2])
    def test_tasks_with_the_fewest_transitions_are_first(self, envs_per_task: int) -> None:
        """Two of six tasks in each iteration: all were visited once after three of them."""
        model = make_pearl(
            num_envs=2 * envs_per_task, envs_per_task=envs_per_task, task_choice="fewest"
        )
        model.learn(FIRST + 3 * ITERATION)
        np.testing.assert_array_equal(model.replay.written, 12)
        model.learn(1, reset_num_timesteps=False)
        np.testing.assert_array_equal(np.sort(model.replay.written), [12, 12, 12, 12, 20, 20])

    def test_random_tasks_come_unevenly(self) -> None:
        written = make_pearl(seed=0, num_envs=2).learn(FIRST + 9 * ITERATION).replay.written
        assert written.min() < 4 + 3 * 8 < written.max()

    def test_truncation_is_not_terminal(self) -> None:
        """Only true ends stop the bootstrap; the successor is that of the old episode."""
        model = PEARL(
            env="SparsePointNavigation",
            meta_batch_size=4,
            **{**SMALL, "initial_steps": 20, "prior_steps": 20, "buffer_size": 80 * 60},
            env_kwargs={"horizon": 5},
            training_reward="dense_reward",
        ).learn(1600)
        rows = model.replay.data.view(80, 60, -1)[:, :20].numpy()
        parts = [rows[..., columns] for columns in model.replay.columns]
        assert not parts[5].any()
        moved = parts[3] - parts[0]
        np.testing.assert_allclose(moved, 0.1 * parts[1], atol=1e-6)
        ends = parts[3][:, 4::5]
        np.testing.assert_array_equal(parts[0][:, 5::5], 0.0)  # the next episode's first
        assert np.abs(ends).max() > 0
        distance = np.linalg.norm(parts[3] - model.train_tasks[:, None], axis=-1)
        np.testing.assert_allclose(parts[4][..., 0], -distance, atol=1e-6)  # dense, to learn from
        sparse = np.where(distance <= 0.2, 1.0 - distance, 0.0)
        np.testing.assert_allclose(parts[2][..., 0], sparse, atol=1e-6)  # sparse, in the context

    def test_latent_is_drawn_anew_at_each_episode(self) -> None:
        """Episodes that end early, in one column only, draw for that column only."""
        model = make_pearl(EarlyContinuous, num_envs=3, initial_steps=40)
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        act = model.policy.act

        def watched(observations: np.ndarray, latents: Tensor, *args: Any) -> np.ndarray:
            seen.append((observations[:, 0].copy(), latents.numpy().copy()))
            return act(observations, latents, *args)

        model.policy.act = watched  # type: ignore[method-assign]
        model.learn(240)
        first = [i for i in range(1, 40)]
        fresh = np.array([seen[i][0] == 0 for i in first])
        changed = np.array([(seen[i][1] != seen[i - 1][1]).any(axis=1) for i in first])
        np.testing.assert_array_equal(changed, fresh)
        assert 0 < fresh.mean() < 1
        assert (fresh.any(axis=1) & ~fresh.all(axis=1)).any()

    def test_sub_environments_of_a_task_share_its_steps(self) -> None:
        model = make_pearl(num_envs=4, envs_per_task=2)
        model.learn(FIRST)
        assert model.meta_batch_size == 2
        assert model.num_timesteps == FIRST + ITERATION
        np.testing.assert_array_equal(np.sort(model.replay.written), [4, 4, 4, 4, 12, 12])

    def test_tasks_of_a_list_are_the_training_tasks(self) -> None:
        env = make_task_vec("SparsePointNavigation", 2)
        model = PEARL(env=env, **{**SMALL, "buffer_size": 80 * 10})
        np.testing.assert_array_equal(model.train_tasks, env.unwrapped.task_split.train.tasks)
        assert count_tasks(make_pearl(num_train_tasks=6).train_tasks) == 6

    def test_more_sub_environments_than_tasks(self) -> None:
        """The same task twice in a batch: its columns are stored one behind the other."""
        model = make_pearl(num_envs=4, num_train_tasks=2)
        model.learn(FIRST)
        np.testing.assert_array_equal(model.replay.written, [8 + 16, 8 + 16])
        np.testing.assert_array_equal(model.replay.context_length, 12)


class EarlyContinuous(EarlyEnd):
    """An action above 0 ends the episode; the observation counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def observation(self, state: Any, rng: Any, params: Any) -> np.ndarray:
        return (state.steps[:, None] / self.horizon).astype(np.float32)

    def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
        return type(state)(np.where(action[:, 0] > 0, self.horizon, state.steps + 1))

    def earned(self, steps: np.ndarray, action: Any, params: Any) -> Any:
        return action[:, 0] > 0


PROBE: dict[str, Any] = {
    "num_train_tasks": 40,
    "initial_steps": 8,
    "prior_steps": 16,
    "posterior_steps": 0,
    "extra_steps": 16,
    "updates_per_iteration": 50,
    "tasks_per_update": 16,
    "batch_size": 16,
    "context_size": 2,
    "buffer_size": 40 * 1000,
    "learning_rate": 3e-3,
    "kl_weight": 0.01,
    "reward_scale": 5.0,
    "target_rate": 0.05,
    "policy_kwargs": {"hidden_sizes": (32, 32), "encoder_sizes": (32,), "latent_size": 2},
}


class ShiftedTarget(HiddenTarget):
    """Where to go is in [1/2, 3/2], and cannot be seen: 1 is the best for one who does not know."""

    def earned(self, steps: np.ndarray, action: Any, params: Any) -> Any:
        return super().earned(steps, action, self.target(params))

    @staticmethod
    def target(params: Any) -> Any:
        return 1.0 + params / 2.0


def probed(
    algorithm: type[PEARL],
    iterations: int,
    seed: int,
    family: type[TaskFuncEnv] = HiddenSign,
    **changes: Any,
) -> np.ndarray:
    """What it earns on held-out tasks after training on others, ``[64, 3]``."""
    settings = {**PROBE, "seed": seed, **changes}
    settings["policy_kwargs"] = {**PROBE["policy_kwargs"], **changes.get("policy_kwargs", {})}
    model = algorithm(env=TaskVectorEnv(family, 8), **settings)
    for part in range(iterations):
        model.learn(320 if part == 0 else 1, log_interval=None, reset_num_timesteps=part == 0)
    result = evaluate_adaptation(
        model, TaskVectorEnv(family, 64), num_tasks=64, deterministic=True, seed=seed
    )
    return result.values


@pytest.mark.learning
class TestProbe:
    """Only the context tells the sign of the task: 1/2 before it, 1 after it."""

    def test_context_reveals_the_task(self, seed: int, learned: Learned) -> None:
        values = probed(PEARL, 40, seed, test_latent="mean")
        assert 0.2 < values[:, 0].mean() < 0.8  # 64 tasks with a sample of the prior each
        learned("after one step", values[:, 1].mean(), at_least=0.9)
        learned("after two steps", values[:, 2].mean(), at_least=0.9)

    @pytest.mark.parametrize(
        "changes",
        [
            {"policy_kwargs": {"encoder": "recurrent"}},
            {"entropy_coefficient": "auto", "policy_kwargs": {"value_network": False}},
        ],
        ids=["recurrent", "twin targets and a learned temperature"],
    )
    def test_variants_learn_it_too(
        self, changes: dict[str, Any], seed: int, learned: Learned
    ) -> None:
        """A single step may leave some tasks in doubt, two do not."""
        values = probed(PEARL, 32, seed, test_latent="mean", **changes)
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("after one step", values[:, 1].mean(), at_least=0.8)
        learned("after two steps", values[:, 2].mean(), at_least=0.9)

    def test_without_context_the_mean_task_is_learned(self, seed: int, learned: Learned) -> None:
        """It goes to the mean target, and can do no better; an untrained one stays at 0."""
        values = probed(MultiTaskSAC, 8, seed, ShiftedTarget)
        tests = TaskVectorEnv(ShiftedTarget, 64).task_split.test
        tasks = tests.sample_tasks(64, np.random.default_rng(0))
        spread = np.var(ShiftedTarget.target(tasks))
        assert values.mean() <= -spread + 1e-6  # the best that is the same for all tasks
        learned("reward", values.mean(), at_least=-0.3)  # -0.08 at best

    def test_oracle_knows_the_task_from_the_start(self, seed: int, learned: Learned) -> None:
        learned("reward", probed(OracleSAC, 12, seed).mean(), at_least=0.9)


class TestResume:
    @pytest.mark.parametrize(
        ("algorithm", "policy", "changes"),
        [
            (PEARL, {}, {}),
            (
                PEARL,
                {"encoder": "recurrent", "value_network": False},
                {"entropy_coefficient": "auto"},
            ),
            (MultiTaskSAC, {}, {}),
            (OracleSAC, {}, {}),
        ],
    )
    def test_training_goes_on_as_if_undisturbed(
        self,
        algorithm: type[PEARL],
        policy: dict[str, Any],
        changes: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        """learn, save, load, learn ends like learn, learn: bit for bit, with the replay."""
        model = make_pearl(algorithm=algorithm, policy=policy, **changes)
        model.learn(FIRST + 2 * ITERATION)
        model.save(tmp_path / "model")
        at_save = parameters(model)
        model.learn(2 * ITERATION, reset_num_timesteps=False)
        loaded = algorithm.load(tmp_path / "model", env=TaskVectorEnv(HiddenSign, 2))
        assert same(parameters(loaded), at_save)
        loaded.learn(2 * ITERATION, reset_num_timesteps=False)
        assert same(parameters(loaded), parameters(model))
        assert not same(parameters(loaded), at_save)
        assert torch.equal(loaded.replay.data, model.replay.data)
        assert loaded.num_timesteps == model.num_timesteps == FIRST + 4 * ITERATION
        assert loaded.rng.bit_generator.state == model.rng.bit_generator.state
        for name in ("optimizer", "critic_optimizer"):
            ours = getattr(model.policy, name).state_dict()["state"]
            theirs = getattr(loaded.policy, name).state_dict()["state"]
            for key, entry in ours.items():
                torch.testing.assert_close(theirs[key], entry, rtol=0, atol=0)

    def test_without_the_replay_training_begins_with_first_transitions(
        self, tmp_path: Path
    ) -> None:
        model = make_pearl(save_replay=False).learn(FIRST)
        model.save(tmp_path / "model")
        loaded = PEARL.load(tmp_path / "model", env=TaskVectorEnv(HiddenSign, 2))
        assert same(parameters(loaded), parameters(model))
        np.testing.assert_array_equal(loaded.train_tasks, model.train_tasks)
        assert loaded.replay.is_empty
        loaded.learn(FIRST, reset_num_timesteps=False)
        assert loaded.num_timesteps == 2 * (FIRST + ITERATION)

    @pytest.mark.parametrize("algorithm", [PEARL, OracleSAC])
    def test_loaded_agent_acts_the_same_without_an_environment(
        self, algorithm: type[PEARL], tmp_path: Path
    ) -> None:
        model = make_pearl(algorithm=algorithm).learn(FIRST)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model")
        assert loaded.env is None
        results = [
            evaluate_adaptation(agent, TaskVectorEnv(HiddenSign, 8), num_tasks=8, seed=1).values
            for agent in (model, loaded)
        ]
        np.testing.assert_array_equal(*results)

    def test_the_seed_decides(self) -> None:
        """The same seed gives the same parameters and replay, another one others."""
        first, again = (make_pearl().learn(FIRST + 2 * ITERATION) for _ in range(2))
        assert same(parameters(first), parameters(again))
        assert torch.equal(first.replay.data, again.replay.data)
        assert not same(parameters(first), parameters(make_pearl(seed=1).learn(FIRST)))

    def test_another_family_brings_its_own_tasks(self) -> None:
        model = make_pearl(ObservationTarget).learn(FIRST)
        model.set_env(TaskVectorEnv(OppositeTarget, 2))
        assert model.replay.is_empty
        tasks = model.train_tasks
        model.set_env(TaskVectorEnv(OppositeTarget, 3))
        assert model.train_tasks is tasks
        model.learn(FIRST)
        assert not model.replay.is_empty


class OppositeTarget(ObservationTarget):
    """Another family in the same spaces."""


class Poisoned(HiddenSign):
    """Its reward is not a number on tasks above 0 once ``poisoned`` is set."""

    poisoned = False

    def earned(self, steps: np.ndarray, action: Any, params: Any) -> Any:
        bad = self.poisoned & (params[:, 0] > 0)
        return np.where(bad, np.nan, super().earned(steps, action, params))


def test_weight_of_the_bottleneck_by_steps(tmp_path: Path) -> None:
    """A training with the weight changed by hand after an iteration is the same one."""
    changes = {"buffer_size": 6000}
    scheduled = make_pearl(kl_weight=[[0, 2.0], [FIRST + ITERATION, 0.01]], **changes)
    assert scheduled.current_kl_weight == 2.0
    scheduled.learn(FIRST)
    assert scheduled.num_timesteps == FIRST + ITERATION
    assert scheduled.current_kl_weight == 2.0  # of the updates that came before
    scheduled.save(tmp_path / "model")
    by_hand = PEARL.load(tmp_path / "model", env=TaskVectorEnv(HiddenSign, 2))
    by_hand.kl_weight = 0.01
    for model in (scheduled, by_hand):
        model.learn(1, reset_num_timesteps=False)
        assert model.current_kl_weight == 0.01
    assert same(parameters(scheduled), parameters(by_hand))


class TestStartFrom:
    """PEARL on top of an agent that was trained without context."""

    @pytest.mark.parametrize("value_network", [True, False])
    def test_acts_alike_and_goes_on(self, value_network: bool) -> None:
        policy = {"value_network": value_network}
        other = make_pearl(ObservationTarget, MultiTaskSAC, policy=policy).learn(FIRST)
        model = make_pearl(ObservationTarget, policy=policy, seed=1).start_from(other)
        observations = np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32)
        rows = torch.from_numpy(observations)
        latents = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
        found = []
        for one, z in ((other, torch.zeros(5, 2)), (model, latents)):
            networks = one.policy
            judged = networks.critics(torch.cat([rows, rows, z], dim=1))
            inputs = torch.cat([rows, z], dim=1)
            value = judged if networks.value is None else networks.value(inputs)
            acted = networks.act(observations, z, deterministic=True)
            found.append((torch.from_numpy(acted), judged, value))
        assert all(map(torch.equal, *found))
        assert torch.equal(model.replay.data, other.replay.data)
        steps = other.num_timesteps
        assert model.num_timesteps == steps
        model.learn(ITERATION, reset_num_timesteps=False)
        assert model.num_timesteps == steps + ITERATION
        assert model.policy.actor[0].weight[:, -2:].abs().max() > 0  # z comes to matter

    def test_moments_are_taken_over(self) -> None:
        other = make_pearl(algorithm=MultiTaskSAC).learn(FIRST)
        model = make_pearl(seed=1).start_from(other)
        for name in ("optimizer", "critic_optimizer"):
            known = getattr(other.policy, name).state.values()
            taken = getattr(model.policy, name).state.values()
            assert len(known) == len(taken) > 0
            for one, copy in zip(known, taken, strict=True):
                assert torch.equal(one["exp_avg"], copy["exp_avg"])
                assert one["exp_avg"].data_ptr() != copy["exp_avg"].data_ptr()

    def test_refused(self) -> None:
        other = make_pearl(algorithm=MultiTaskSAC)
        with pytest.raises(ValueError, match="an agent without context is wanted, got PEARL"):
            make_pearl().start_from(make_pearl())
        with pytest.raises(ValueError, match="an agent without context is wanted, got OracleSAC"):
            make_pearl().start_from(make_pearl(algorithm=OracleSAC))
        with pytest.raises(ValueError, match=r"a replay buffer of 6 tasks .* does not fit into 5"):
            make_pearl(num_train_tasks=5).start_from(other)
        with pytest.raises(ValueError, match=r"trained on .*HiddenSign, but this agent is on"):
            make_pearl(ObservationTarget).start_from(other)
        with pytest.raises(ValueError, match=r"the networks have other sizes: actor\.0\.weight"):
            make_pearl(policy={"hidden_sizes": (9, 8)}).start_from(other)

    @pytest.mark.parametrize(
        "settings", [{"num_train_tasks": 5}, {"policy": {"hidden_sizes": (8, 9)}}]
    )
    def test_refused_changes_nothing(self, settings: dict[str, Any]) -> None:
        """Neither where the replay does not fit, nor where a network does not."""
        other = make_pearl(algorithm=MultiTaskSAC).learn(FIRST)
        model = make_pearl(**settings)
        before = parameters(model)
        with pytest.raises(ValueError, match="does not fit"):
            model.start_from(other)
        assert same(parameters(model), before)
        assert model.replay.is_empty
        assert model.num_timesteps == 0


class TestNotFinite:
    def test_reward(self, tmp_path: Path) -> None:
        """The training stops, names the task, and the checkpoint from before is whole."""
        env = TaskVectorEnv(Poisoned, 6)
        model = PEARL(env=env, **SMALL).learn(FIRST)
        model.save(tmp_path / "model")
        before = parameters(model)
        env.definition.poisoned = True
        bad = np.flatnonzero(model.train_tasks[:, 0] > 0)
        assert 0 < len(bad) < 6
        pattern = rf"reward is not finite in iteration 2, update 3, on training task {bad[0]} \(\["
        with pytest.raises(FloatingPointError, match=pattern):
            model.learn(1, reset_num_timesteps=False)
        assert model.replay.data.isfinite().all()
        assert same(parameters(model), before)
        assert same(parameters(PEARL.load(tmp_path / "model")), before)

    def test_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loss that overflows: before the step, with the tasks whose loss it is."""
        model = make_pearl().learn(FIRST)
        model.replay.data[300:400, model.replay.columns[4]] = 1e30  # task 3
        before = parameters(model)
        tasks = torch.tensor([0, 3, 1])
        monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: tasks)
        message = r"the loss is not finite .* on training task 3 \("
        with pytest.raises(FloatingPointError, match=message):
            model.update()
        assert same(parameters(model), before)

    def test_gradient(self) -> None:
        """Finite losses with a gradient that is not."""
        model = make_pearl().learn(FIRST)
        weight = next(model.policy.critics.parameters())
        weight.register_hook(lambda grad: grad * torch.nan)
        before = weight.clone()
        with pytest.raises(
            FloatingPointError,
            match=r"the gradient of a loss of [-0-9.e]+ is not finite in iteration 2",
        ):
            model.update()
        assert torch.equal(weight, before)


class TestSettings:
    @pytest.mark.parametrize("name", settings_for("pearl"))
    def test_shipped_settings_are_taken(self, name: str) -> None:
        """Names and kinds by the command line, and a buffer that holds all the steps."""
        config = run_config(Train("pearl", name), PEARL)
        settings = dict(config.algorithm_kwargs)
        each = sum(settings[f"{part}_steps"] for part in ("prior", "posterior", "extra"))
        assert settings["buffer_size"] >= 150 * max(each, settings["initial_steps"])

    def test_from_the_command_line(self, tmp_path: Path, capsys: Any) -> None:
        """A run is trained, resumed with its replay, and evaluated."""
        small = ["initial_steps=20", "prior_steps=20", "posterior_steps=20", "envs_per_task=5"]
        small += ["batch_size=4", "context_size=4", "updates_per_iteration=1"]
        small += ["policy.hidden_sizes=[8]"]
        command = ["train", "pearl", "SparsePointNavigation", "--out", str(tmp_path), "--quiet"]
        command += ["--device", "cpu", "--param", *small, "--checkpoint-interval", "0"]
        command += ["--eval-tasks", "4"]
        assert main([*command, "--total-timesteps", "1700"]) == 0
        assert main([*command, "--total-timesteps", "1900", "--resume"]) == 0
        loaded = PEARL.load(tmp_path / "checkpoint.zip")
        assert loaded.num_timesteps == 1600 + 2 * 160
        assert not loaded.replay.is_empty
        assert "PEARL, 1 training x 4 test tasks" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "algorithm"), [("multi_task_sac", MultiTaskSAC), ("oracle_sac", OracleSAC)]
    )
    def test_baselines_from_the_command_line(
        self, name: str, algorithm: type[PEARL], tmp_path: Path, capsys: Any
    ) -> None:
        """They take the settings of PEARL, but for its encoder."""
        own = run_config(Train(name, "SparsePointNavigation"), algorithm)
        pearl = run_config(Train("pearl", "SparsePointNavigation"), PEARL)
        assert own.algorithm == name
        assert dataclasses.replace(own, algorithm="pearl") == pearl
        command = ["train", name, "SparsePointNavigation", "--out", str(tmp_path), "--quiet"]
        command += ["--device", "cpu", "--total-timesteps", "8000", "--eval-tasks", "4"]
        command += ["--param", "initial_steps=100", "prior_steps=100", "posterior_steps=0"]
        command += ["updates_per_iteration=1", "batch_size=4", "context_size=4"]
        assert main([*command, "policy.hidden_sizes=[8]"]) == 0
        loaded = algorithm.load(tmp_path / "checkpoint.zip")
        assert isinstance(loaded.policy.encoder, GivenLatent)
        assert f"{algorithm.__name__}, 1 training x 4 test tasks" in capsys.readouterr().out


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"context_size": 0}, "context_size has to be a whole number of at least 1, got 0"),
            ({"extra_steps": -1}, "extra_steps has to be a whole number of at least 0, got -1"),
            ({"discount": 1.5}, r"discount has to be in \[0, 1\], got 1.5"),
            ({"kl_weight": -1.0}, r"kl_weight has to be at least 0, got -1.0"),
            ({"kl_weight": [[0, -1.0]]}, r"kl_weight has to be at least 0, got -1.0"),
            ({"kl_weight": [[5, 1.0]]}, "pairs of steps and weight that begin with 0 steps, got"),
            ({"kl_weight": [[0, 1.0], [9, 1], [8, 1]]}, "kl_weight is a number, or pairs of steps"),
            ({"kl_weight": [[0, 1.0, 2.0]]}, "kl_weight is a number, or pairs of steps"),
            ({"kl_weight": []}, "kl_weight is a number, or pairs of steps"),
            ({"kl_weight": [1]}, "kl_weight is a number, or pairs of steps"),
            ({"entropy_coefficient": "much"}, "entropy_coefficient: 'auto' or a number above 0"),
            ({"entropy_coefficient": 0.0}, "entropy_coefficient: 'auto' or a number above 0"),
            ({"test_latent": "mode"}, "test_latent: 'sample' or 'mean', got 'mode'"),
            ({"task_choice": "oldest"}, "task_choice: 'random' or 'fewest', got 'oldest'"),
            (
                {"prior_steps": 5, "envs_per_task": 2},
                "prior_steps=5 is no multiple of envs_per_task=2",
            ),
            ({"buffer_size": 40}, "buffer_size=40 is too small: 6 tasks .* need 48"),
            ({"policy": {"encoder": "products"}}, "unknown encoder 'products': product exist"),
            (
                {"training_reward": "dense"},
                r"infos have no 'dense'; they have \['reward_probe', 'task'\]",
            ),
        ],
    )
    def test_settings(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_pearl(**changes).learn(FIRST)

    def test_discrete_actions(self) -> None:
        with pytest.raises(ValueError, match=r"PEARL takes actions in Box, not Discrete\(2\)"):
            make_pearl(ActionReward)

    def test_state_and_observation_of_another_size(self) -> None:
        model = make_pearl()
        state = model.initial_state(3)
        with pytest.raises(ValueError, match="expected a LatentState of 2 tasks, got 3"):
            model.predict(np.zeros((2, 1)), state)
        with pytest.raises(ValueError, match="expected a LatentState of 2 tasks, got 3"):
            model.adapt(random_rollout(1, 2), state)
        with pytest.raises(ValueError, match="expected a LatentState of 2 tasks, got tuple"):
            model.predict(np.zeros((2, 1)), (np.zeros(2),))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"observation: expected shape \(N, 1\), got \(2, 3\)"):
            model.predict(np.zeros((2, 3)))
        assert isinstance(state, LatentState)
