"""RL² with PPO: loss and batch against hand-worked numbers, and what shapes an iteration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from meta_rl import TaskFuncEnv, TaskVectorEnv
from meta_rl.agents.rl2 import RL2
from meta_rl.rollout import Rollout

from .probe_families import (
    ActionReward,
    EarlyEnd,
    ObservationReward,
    ObservationTarget,
    RememberedEpisode,
    RememberedPull,
)

SMALL = {"num_minibatches": 2, "num_epochs": 2, "policy_kwargs": {"hidden_size": 8}, "seed": 0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Watch(BaseCallback):
    """Keep what ``look(model)`` gives after each collection, before the update."""

    def __init__(self, look: Callable[[RL2], Any]) -> None:
        super().__init__()
        self.look = look
        self.seen: list[Any] = []

    def _on_rollout_end(self) -> None:
        self.seen.append(self.look(self.model))

    def _on_step(self) -> bool:
        return True


def loss_batch(model: RL2, ratios: list[float], advantages: list[float]) -> dict[str, Tensor]:
    """One step of as many trials, whose actions have these probability ratios."""
    num = len(ratios)
    obs = torch.randn(
        (1, num, model.observation_space.shape[0]), generator=torch.Generator().manual_seed(1)
    )
    actions = torch.arange(num)[None] % 2
    with torch.no_grad():
        memory = model.policy.initial_state(num)
        values, log_probs, _ = model.policy.evaluate_actions(obs, actions, memory)
    return {
        "obs": obs,
        "actions": actions,
        "log_probs": log_probs - torch.tensor([ratios]).log(),
        "advantages": torch.tensor([advantages]),
        "values": values,
        "returns": values + torch.tensor([[1.0, -2.0, 0.0, 3.0][:num]]),
    }


def small_model(**changes: Any) -> RL2:
    return RL2(env=TaskVectorEnv(ActionReward, 4), **{**SMALL, **changes})


def gradients(model: RL2, loss: Tensor) -> list[Tensor]:
    parameters = list(model.policy.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


class TestLoss:
    def test_parts_equal_numbers_worked_by_hand(self) -> None:
        """Clipping at 0.2 on both sides, for both signs of the advantage.

        Objectives ``min(ratio * A, clip(ratio) * A)``: A=2: 1.5 -> 1.2 * 2 = 2.4,
        0.5 -> 0.5 * 2 = 1; A=-2: 1.5 -> -3, 0.5 -> 0.8 * -2 = -1.6. Mean -0.3, so the policy loss
        is 0.3. Value loss (1 + 4 + 0 + 9) / 4 = 3.5. All four ratios lie outside the clip range. A
        policy with a zero last layer has the entropy log 2.
        """
        model = small_model(clip_range=0.2, entropy_coefficient=0.1, value_coefficient=0.5)
        torch.nn.init.zeros_(model.policy.actor.weight)
        ratios = [1.5, 0.5, 1.5, 0.5]
        batch = loss_batch(model, ratios, [2.0, 2.0, -2.0, -2.0])
        loss, report = model.loss(batch)
        assert report["policy_loss"].item() == pytest.approx(0.3, abs=1e-5)
        assert report["value_loss"].item() == pytest.approx(3.5, abs=1e-5)
        assert report["entropy"].item() == pytest.approx(math.log(2.0), abs=1e-6)
        assert loss.item() == pytest.approx(0.3 + 0.5 * 3.5 - 0.1 * math.log(2.0), abs=1e-5)
        assert report["loss"].item() == loss.item()
        assert report["clip_fraction"].item() == 1.0
        kl = np.mean([ratio - 1 - math.log(ratio) for ratio in ratios])
        assert report["approx_kl"].item() == pytest.approx(kl, abs=1e-5)

    def test_value_loss_is_relative_to_the_scale_of_returns(self) -> None:
        """With the scale 2 the critic's outputs count twice, and the loss is 3.5 / 2²."""
        model = small_model()
        before = loss_batch(model, [1.0] * 4, [0.0] * 4)["values"]
        model.policy.return_scale.fill_(2.0)
        batch = loss_batch(model, [1.0] * 4, [0.0] * 4)
        torch.testing.assert_close(batch["values"], 2 * before)
        assert model.loss(batch)[1]["value_loss"].item() == pytest.approx(0.875, abs=1e-5)

    def test_ratios_inside_the_clip_range_are_kept(self) -> None:
        """1.1 and 0.9 stay: objectives 1.1 * 1 and 0.9 * -1, mean 0.1."""
        model = small_model(clip_range=0.2)
        _, report = model.loss(loss_batch(model, [1.1, 0.9], [1.0, -1.0]))
        assert report["policy_loss"].item() == pytest.approx(-0.1, abs=1e-5)
        assert report["clip_fraction"].item() == 0.0

    def test_gradient_at_ratio_one_is_the_policy_gradient(self) -> None:
        """There the gradient of the loss is that of ``-A log pi`` (value and entropy left out)."""
        model = small_model(value_coefficient=0.0, entropy_coefficient=0.0)
        batch = loss_batch(model, [1.0] * 4, [1.0, -0.5, 2.0, 0.25])
        ours = gradients(model, model.loss(batch)[0])
        memory = model.policy.initial_state(4)
        _, log_probs, _ = model.policy.evaluate_actions(batch["obs"], batch["actions"], memory)
        expected = gradients(model, -(batch["advantages"] * log_probs).mean())
        assert sum(g.abs().sum().item() for g in expected) > 0.01
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("ratio", "advantage", "moves"),
        [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False)],
    )
    def test_gradient_vanishes_where_the_clipped_part_is_smaller(
        self, ratio: float, advantage: float, moves: bool
    ) -> None:
        """An action that became likelier gains no more, one that became rarer loses no more."""
        model = small_model(value_coefficient=0.0, entropy_coefficient=0.0)
        loss, _ = model.loss(loss_batch(model, [ratio], [advantage]))
        assert any(g.abs().sum() > 0 for g in gradients(model, loss)) == moves

    def test_entropy_of_a_normal_policy(self) -> None:
        """``log(2 pi e) / 2`` per dimension, plus the logarithm of the standard deviation."""
        env = TaskVectorEnv(ObservationTarget, 4)
        kwargs = {"hidden_size": 8, "log_std_init": 0.5}
        model = RL2(env=env, **{**SMALL, "policy_kwargs": kwargs})
        watch = Watch(lambda model: model.loss(model._batch)[1])
        model.learn(4, watch)
        expected = 0.5 * math.log(2 * math.pi * math.e) + 0.5
        assert watch.seen[0]["entropy"].item() == pytest.approx(expected, abs=1e-5)

    def test_value_gradient_reaches_the_shared_memory(self) -> None:
        """One memory for policy and critic: the value loss alone moves the recurrent weights."""
        model = small_model(value_coefficient=1.0)
        loss, report = model.loss(loss_batch(model, [1.0] * 4, [0.0] * 4))
        assert report["policy_loss"].item() == 0.0
        names = [name for name, _ in model.policy.named_parameters()]
        moved = dict(zip(names, gradients(model, loss), strict=True))
        assert moved["core.rnn.weight_ih_l0"].abs().sum() > 0
        assert moved["actor.weight"].abs().sum() == 0


def hand_rollout(rewards: list[float], values: list[float], ended: list[bool]) -> Rollout:
    """One sub-environment, three steps."""
    steps = len(rewards)
    column = np.array(rewards)[:, None]
    observations = np.zeros((steps, 1, 6), dtype=np.float32)
    return Rollout(
        observations,
        np.zeros((steps, 1), dtype=np.int64),
        column,
        np.array(ended)[:, None],
        np.zeros((steps, 1), dtype=bool),
        observations,
        extras={
            "raw_actions": torch.zeros((steps, 1), dtype=torch.int64),
            "values": torch.tensor(values)[:, None],
            "log_probs": torch.zeros((steps, 1)),
        },
    )


class TestBatch:
    def test_advantages_equal_numbers_worked_by_hand(self) -> None:
        """Discount and lambda 0.5, rewards 1, 0, 2, values 0.5, 1, 0.25, an episode ends inside.

        delta_2 = 2 - 0.25 = 1.75 (nothing follows the trial: no bootstrap),
        delta_1 = 0 + 0.5 * 0.25 - 1 = -0.875, delta_0 = 1 + 0.5 * 1 - 0.5 = 1;
        A_2 = 1.75, A_1 = -0.875 + 0.25 * 1.75 = -0.4375, A_0 = 1 + 0.25 * -0.4375 = 0.890625: the
        end of the episode after the second step cuts nothing.
        """
        model = small_model(discount=0.5, gae_lambda=0.5, normalize_advantages=False)
        first = hand_rollout([1.0, 0.0, 2.0], [0.5, 1.0, 0.25], [False, True, True])
        second = hand_rollout([0.0, 0.0, 4.0], [0.0, 0.0, 0.0], [False, False, True])
        batch = model._as_batch([first, second])
        expected = torch.tensor([[0.890625, 0.25], [-0.4375, 1.0], [1.75, 4.0]])
        torch.testing.assert_close(batch["advantages"], expected)
        torch.testing.assert_close(batch["returns"], expected + batch["values"])
        assert batch["obs"].shape == (3, 2, 6)  # trials side by side

    def test_advantages_are_normalised_over_the_iteration(self) -> None:
        """To mean 0 and standard deviation 1; the returns keep their scale."""
        model = small_model(discount=0.5, gae_lambda=0.5, normalize_advantages=True)
        rollout = hand_rollout([1.0, 0.0, 2.0], [0.5, 1.0, 0.25], [False, True, True])
        batch = model._as_batch([rollout])
        assert batch["advantages"].mean().item() == pytest.approx(0.0, abs=1e-6)
        assert batch["advantages"].std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
        expected = torch.tensor([[1.390625], [0.5625], [2.0]])
        torch.testing.assert_close(batch["returns"], expected)

    def test_scale_follows_the_returns(self) -> None:
        """Their root mean square first, then a tenth of the way to the latest each time."""
        model = small_model(discount=0.5, gae_lambda=0.5)
        first = hand_rollout([1.0, 0.0, 2.0], [0.5, 1.0, 0.25], [False, True, True])
        second = hand_rollout([0.0, 0.0, 4.0], [0.0, 0.0, 0.0], [False, False, True])
        batches = ([1.390625, 0.5625, 2.0], [0.25, 1, 4])
        sizes = [np.sqrt(np.mean(np.square(returns))) for returns in batches]
        model._as_batch([first])
        assert model.policy.return_scale.item() == pytest.approx(sizes[0], rel=1e-5)
        model._n_updates = 1
        model._as_batch([second])
        expected = 0.9 * sizes[0] + 0.1 * sizes[1]
        assert model.policy.return_scale.item() == pytest.approx(expected, rel=1e-5)

    def test_credit_passes_the_ends_of_episodes(self) -> None:
        """Of a real collection, with lambda 1, returns are those of the whole trial."""
        env = TaskVectorEnv(EarlyEnd, 8)
        model = RL2(env=env, **SMALL, discount=0.8, gae_lambda=1.0, normalize_advantages=False)
        watch = Watch(lambda model: {k: part.clone() for k, part in model._batch.items()})
        model.learn(8 * 8, watch)
        obs, returns = watch.seen[0]["obs"], watch.seen[0]["returns"]
        assert obs.shape[:2] == (8, 8)  # two episodes of up to four steps make a trial of eight
        ends = obs[1:, :, -2]
        assert ends.sum(dim=0).max() > 2  # episodes ended early, and more of them fitted in
        assert 0 < ends.mean() < 1
        # A reward is seen one step later; the last one is its own return.
        rewards = torch.cat([obs[1:, :, -3], returns[-1:]])
        powers = 0.8 ** torch.arange(8.0)
        expected = [(powers[: 8 - t, None] * rewards[t:]).sum(dim=0).tolist() for t in range(8)]
        torch.testing.assert_close(returns, torch.tensor(expected), rtol=1e-5, atol=1e-5)

    def test_a_trial_is_marked_once(self) -> None:
        """The mark stands at the first step only, also where episodes end within the trial."""
        model = RL2(env=TaskVectorEnv(EarlyEnd, 8), **SMALL)
        watch = Watch(lambda model: model._batch["obs"].clone())
        model.learn(8 * 8 * 2, watch)
        assert len(watch.seen) == 2
        for obs in watch.seen:
            assert (obs[0, :, -1] == 1).all()
            assert (obs[1:, :, -1] == 0).all()
            assert (obs[1:, :, -2] == 1).any()  # episodes ended

    @pytest.mark.parametrize("core", ["gru", "lstm"])
    @pytest.mark.parametrize("embedding", [(), (8, 4)])
    @pytest.mark.parametrize("family", [EarlyEnd, RememberedPull, ObservationTarget])
    def test_evaluation_reproduces_the_collection(
        self, core: str, embedding: tuple[int, ...], family: type[TaskFuncEnv]
    ) -> None:
        """Before an update, whole-trial evaluation gives the values and log-probabilities again.

        The critic's scale follows the returns in between, and keeps its values.
        """
        kwargs: dict[str, Any] = {"core": core, "hidden_size": 8, "embedding": embedding}
        if family is ObservationTarget:
            kwargs["log_std_init"] = 1.0  # so that many actions are clipped at 2
        env = TaskVectorEnv(family, 16)
        model = RL2(env=env, **{**SMALL, "policy_kwargs": kwargs}, normalize_advantages=False)

        def look(model: RL2) -> tuple[Tensor, ...]:
            batch = model._batch
            memory = model.policy.initial_state(batch["obs"].shape[1])
            with torch.no_grad():
                values, log_probs, _ = model.policy.evaluate_actions(
                    batch["obs"], batch["actions"], memory
                )
            stored = batch["values"]
            return values, stored, log_probs, batch["log_probs"], batch["actions"]

        watch = Watch(look)
        steps = family.horizon * family.episodes_per_trial
        model.learn(3 * 16 * steps, watch)
        assert len(watch.seen) == 3
        for values, stored_values, log_probs, stored_log_probs, _ in watch.seen:
            torch.testing.assert_close(values, stored_values, rtol=0, atol=2e-6)
            torch.testing.assert_close(log_probs, stored_log_probs, rtol=0, atol=5e-6)
        if isinstance(model.action_space, spaces.Box):
            assert any((actions.abs() > 2).any() for *_, actions in watch.seen)  # as drawn


class TestIteration:
    def test_trials_per_env(self) -> None:
        """Each sub-environment runs so many trials in an iteration, on other tasks each."""
        model = RL2(env=TaskVectorEnv(ObservationReward, 4), **SMALL, trials_per_env=3)
        watch = Watch(lambda model: model._batch["obs"][0, :, 0].clone())
        model.learn(12, watch)
        assert len(watch.seen) == 1
        assert len(watch.seen[0].unique()) == 12  # the observation is the task
        assert model.num_timesteps == 12

    def test_learning_rate_schedule(self) -> None:
        """The optimiser's rate follows the remaining progress: 0.75, 0.5, 0.25 and 0 of four."""
        rates: list[float] = []
        model = small_model(learning_rate=lambda remaining: 0.01 * remaining + 1e-4)
        update = model.train

        def train() -> None:
            update()
            rates.append(model.policy.optimizer.param_groups[0]["lr"])

        model.train = train
        model.learn(16)
        np.testing.assert_allclose(rates, [0.0076, 0.0051, 0.0026, 0.0001])

    def test_target_kl_stops_the_epochs(self) -> None:
        """One epoch where any movement is too much, all of them where none is."""
        for target_kl, epochs in ((1e-12, 1), (1e6, 5), (None, 5)):
            model = small_model(target_kl=target_kl, num_epochs=5, learning_rate=0.1)
            model.learn(4)
            assert model._n_updates == epochs

    def test_gradients_are_scaled_down(self) -> None:
        """A step of plain descent at rate 1 is as long as the largest norm."""
        model = small_model(max_grad_norm=0.01, num_epochs=1, num_minibatches=1)
        model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=1.0)
        model.lr_schedule = lambda remaining: 1.0
        before = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        model.learn(4)
        after = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
        assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)

    def test_trials_grow(self) -> None:
        """From a tenth of the steps, rounded up to whole episodes, or pulls of a bandit, to all."""
        pulls = RL2(env=TaskVectorEnv(RememberedPull, 4), **SMALL, trial_growth=0.5)
        episodes = RL2(env=TaskVectorEnv(RememberedEpisode, 4), **SMALL, trial_growth=0.5)
        for done, of_pulls, of_episodes in ((0.0, 1, 2), (0.25, 2, 2), (0.3, 3, 4), (0.5, 4, 4)):
            pulls._current_progress_remaining = 1.0 - done
            episodes._current_progress_remaining = 1.0 - done
            assert pulls.trial_steps() == of_pulls
            assert episodes.trial_steps() == of_episodes

    def test_grown_trials_are_run(self) -> None:
        """The lengths of the collected trials never fall, and reach the whole trial."""
        model = RL2(env=TaskVectorEnv(RememberedPull, 4), **SMALL, trial_growth=0.5)
        watch = Watch(lambda model: len(model._batch["obs"]))
        model.learn(100, watch)
        assert watch.seen == sorted(watch.seen)
        assert watch.seen[0] == 1
        assert {2, 3, 4} <= set(watch.seen)

    def test_adapting_is_the_identity(self) -> None:
        """All learning happens in the memory that predict returns."""
        rollout = hand_rollout([0.0], [0.0], [True])
        state = (np.ones((1, 8)),)
        assert small_model().adapt(rollout, state) is state
        assert small_model().adapt(rollout) is None

    @pytest.mark.parametrize(
        ("bad", "named"),
        [
            ({"num_minibatches": 5}, "num_minibatches=5, but only 4 trials"),
            ({"num_minibatches": 0}, "num_minibatches"),
            ({"num_epochs": -1}, "num_epochs"),
            ({"trials_per_env": 0}, "trials_per_env"),
            ({"trials_per_env": 1.5}, "trials_per_env"),
            ({"trial_growth": 1.5}, "trial_growth"),
            ({"trial_growth": -0.1}, "trial_growth"),
            ({"discount": 1.01}, "discount has to be in [0, 1], got 1.01"),
            ({"discount": -0.1}, "discount"),
            ({"discount": math.nan}, "discount"),
            ({"gae_lambda": 1.01}, "gae_lambda"),
            ({"gae_lambda": -0.1}, "gae_lambda"),
            ({"clip_range": 0.0}, "clip_range has to be above 0, got 0.0"),
            ({"entropy_coefficient": -0.1}, "entropy_coefficient has to be at least 0"),
            pytest.param(
                {"entropy_coefficient": lambda left: left - 0.1},
                "entropy_coefficient",
                id="falling",
            ),
            ({"value_coefficient": -0.1}, "value_coefficient"),
            ({"max_grad_norm": 0.0}, "max_grad_norm"),
            ({"target_kl": -0.1}, "target_kl"),
            ({"meta_batch_size": -1}, "meta_batch_size"),
            ({"policy_kwargs": {"core": "gur"}}, "did you mean 'gru'"),
            ({"policy_kwargs": {"hidden_size": 0}}, "hidden_size"),
            ({"policy": "CnnPolicy"}, "CnnPolicy"),
            ({"learning_rate": -1.0}, "learning_rate"),
        ],
        ids=str,
    )
    def test_bad_settings_are_refused(self, bad: dict[str, Any], named: str) -> None:
        """Bad counts, more minibatches than trials, fractions outside [0, 1], unknown names."""
        with pytest.raises(ValueError, match=re.escape(named)):
            small_model(**bad)

    def test_one_trial_of_one_step(self) -> None:
        """The smallest batch there is leaves the parameters finite."""
        model = RL2(env=TaskVectorEnv(ActionReward, 1), **{**SMALL, "num_minibatches": 1}).learn(2)
        assert all(parameter.isfinite().all() for parameter in model.policy.parameters())

    def test_as_many_minibatches_as_trials(self) -> None:
        """One trial each is allowed; trials count over trials_per_env."""
        small_model(num_minibatches=4).learn(4)
        small_model(num_minibatches=8, trials_per_env=2).learn(4)
