"""VariBAD: its belief, its two losses, and the optimum of probes that need a belief."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from meta_rl import TaskFuncEnv, TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.varibad import VariBAD, belief_changes
from meta_rl.memory import MEMORY_CORES
from meta_rl.rollout import Rollout

from ..learning import Learned
from .probe_families import (
    ConstantReward,
    RememberedEpisode,
    RememberedPull,
)

SMALL: dict[str, Any] = {"hidden_size": 6, "latent_size": 2, "decoder_size": 8}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(
    family: Any = RememberedEpisode,
    num_envs: int = 4,
    policy: dict[str, Any] | None = None,
    **changes: Any,
) -> VariBAD:
    settings = {"num_minibatches": 2, "num_epochs": 2, "seed": 0, "device": "cpu"}
    kwargs = {"policy_kwargs": {**SMALL, **(policy or {})}}
    return VariBAD(env=TaskVectorEnv(family, num_envs), **{**settings, **kwargs, **changes})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestBelief:
    """The state that ``predict`` threads."""

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_steps_equal_the_whole_trial(self, core: str) -> None:
        """Mean and variance after each step; ``adapt`` between the steps changes nothing."""
        model = make_model(policy={"core": core})
        obs = draw(7, 4, *model.observation_space.shape)
        obs[..., -1] = 0.0
        means, log_variances = (part.detach() for part in model.policy.beliefs(obs))
        state, rollout = None, Rollout(*[np.zeros((1, 4))] * 6)
        for t in range(7):
            _, state = model.predict(obs[t].numpy(), state)
            state = model.adapt(rollout, state)
            mean, variance = model.belief(state)
            np.testing.assert_allclose(mean, means[t], atol=1e-5)
            np.testing.assert_allclose(variance, log_variances[t].exp(), rtol=1e-4)
        assert means.std(dim=0).min() > 1e-4  # the belief moves

    def test_a_new_trial_begins_with_a_new_belief(self) -> None:
        """Where the observation marks it, and nowhere else."""
        model = make_model()
        obs = draw(2, 4, *model.observation_space.shape)
        obs[..., -1] = 0.0
        _, before = model.predict(obs[0].numpy())
        marked = obs[1].clone()
        marked[1, -1] = 1.0
        mean, _ = model.belief(model.predict(marked.numpy(), before)[1])
        kept, _ = model.belief(model.predict(obs[1].numpy(), before)[1])
        fresh, _ = model.belief(model.predict(obs[1].numpy())[1])
        np.testing.assert_allclose(mean[1], fresh[1], atol=1e-6)
        np.testing.assert_allclose(mean[[0, 2, 3]], kept[[0, 2, 3]], atol=1e-6)
        assert np.abs(kept - fresh).max() > 1e-4

    def test_before_the_first_step_it_is_the_unit_normal(self) -> None:
        mean, variance = make_model().belief(make_model().policy.initial_state(3))
        np.testing.assert_array_equal(mean, np.zeros((3, 2)))
        np.testing.assert_array_equal(variance, np.ones((3, 2)))


class TestLosses:
    def test_changes_of_the_belief_are_divergences_from_the_belief_before(self) -> None:
        """The closed form of normal distributions; the first prior is the unit normal."""
        means, spreads = draw(5, 3, 2), draw(5, 3, 2, seed=1).exp()
        changes = belief_changes(means, spreads)
        mean, spread = torch.zeros(3, 2), torch.ones(3, 2)
        for t in range(5):
            ratio = (spreads[t] / spread).square() + ((means[t] - mean) / spread).square()
            expected = 0.5 * (ratio - 1.0).sum(dim=-1) + (spread / spreads[t]).log().sum(dim=-1)
            torch.testing.assert_close(changes[t], expected)
            mean, spread = means[t], spreads[t]

    @pytest.mark.parametrize("values", [None, [0.0, 1.0], [-1.0, 0.0, 1.0]])
    @pytest.mark.parametrize("states", [False, True])
    @torch.no_grad()
    def test_surprise_equals_a_loop_over_beliefs_and_steps(
        self, values: list[float] | None, states: bool
    ) -> None:
        """Minus the log-likelihood of every step, past and future, from every latent."""
        model = make_model(policy={"reward_values": values, "decode_states": states})
        policy, latents = model.policy, draw(3, 4, 2)
        obs, following = draw(5, 4, 6), draw(5, 4, 6, seed=1)  # 1 seen, 2 actions, r, done, mark
        reward = torch.randint(2, (5, 4), generator=torch.Generator().manual_seed(2)).float()
        following[..., -3] = reward
        got = policy.surprise(obs, following, latents)
        assert got.shape == (3, 4)
        for e, n in np.ndindex(3, 4):
            total = torch.zeros(())
            for t in range(5):
                moved = torch.cat([obs[t, n, :1], following[t, n, 1:3]])
                step = torch.cat([moved, following[t, n, :1]])
                out = policy.rewards(step[None, None], latents[e, n][None, None])[0, 0, 0]
                if values is None:
                    total += 0.5 * (out[0] - reward[t, n]).square()
                else:
                    total -= out.log_softmax(dim=0)[values.index(reward[t, n].item())]
                if states:
                    change = policy.states(moved[None, None], latents[e, n][None, None])
                    error = change[0, 0, 0] - (following[t, n, :1] - obs[t, n, :1])
                    total += 0.5 * error.square().sum()
            torch.testing.assert_close(got[e, n], total)

    def test_each_loss_trains_its_own_part(self) -> None:
        """With one learning rate 0, the other part alone moves."""
        for changes, moves in (
            ({"inference_learning_rate": 0.0}, {"acting", "actor", "critic"}),
            ({"learning_rate": 0.0}, {"embedding", "core", "posterior", "rewards", "states"}),
        ):
            model = make_model(policy={"decode_states": True}, **changes)
            before = {name: part.clone() for name, part in model.policy.named_parameters()}
            scale = model.policy.return_scale.clone()
            model.learn(2 * 4 * 4)
            after = dict(model.policy.named_parameters())
            changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
            if "learning_rate" in changes:  # PopArt rescales the critic
                assert scale != model.policy.return_scale
                changed -= {"critic"}
            assert changed == moves

    def test_the_update_begins_with_the_actions_own_probabilities(self) -> None:
        """Beliefs are computed anew in PPO's first epoch: they equal those that were acted on."""
        model = make_model(num_epochs=1, num_minibatches=1)
        model.learn(3 * 4 * 4)
        assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)
        assert model.logger.name_to_value["train/clip_fraction"] == 0.0

    def test_elbo_terms_draws_so_many_beliefs(self, monkeypatch: Any) -> None:
        model = make_model(elbo_terms=2)
        seen = []
        surprise = model.policy.surprise
        monkeypatch.setattr(
            model.policy, "surprise", lambda *args: seen.append(args[2].shape) or surprise(*args)
        )
        model.learn(4 * 4)
        assert seen == [(2, 64, 2)] * 10


class TestRecentTrials:
    def test_the_last_trials_are_kept(self) -> None:
        """The newest are last, with their true rewards and actions."""
        model = make_model(buffer_trials=6)
        model.learn(4 * 4)
        assert model.recent.shape == (4, 4, 2 * 6)
        first = model.recent.clone()
        model.learn(4 * 4, reset_num_timesteps=False)
        assert model.recent.shape == (4, 6, 2 * 6)
        assert torch.equal(model.recent[:, :2], first[:, 2:])
        obs, following = model.recent.chunk(2, dim=-1)
        assert (following[..., 1:3].sum(dim=-1) == 1.0).all()  # also of the last step
        assert torch.equal(obs[1:, :, 1:-1], following[:-1, :, 1:-1])

    def test_growing_trials_replace_shorter_ones(self) -> None:
        model = make_model(trial_growth=0.9)
        model.learn(8 * 4 * 4)
        assert model.recent.shape[0] == 4

    def test_a_resumed_training_equals_an_undisturbed_one(self, tmp_path: Path) -> None:
        one, other = make_model(), make_model()
        one.learn(2 * 4 * 4).save(tmp_path / "model")
        loaded = VariBAD.load(tmp_path / "model", env=TaskVectorEnv(RememberedEpisode, 4))
        for model in (one, loaded):
            model.learn(2 * 4 * 4, reset_num_timesteps=False)
        parts = loaded.policy.state_dict()
        for name, part in one.policy.state_dict().items():
            assert torch.equal(part, parts[name]), name
        assert not torch.equal(one.policy.posterior.weight, other.policy.posterior.weight)
        assert torch.equal(one.recent, loaded.recent)


class TestArguments:
    def test_rewards_that_are_no_class_are_refused(self) -> None:
        model = make_model(ConstantReward, policy={"reward_values": [0.0, 0.5]})
        with pytest.raises(ValueError, match=r"reward_values are \[0.0, 0.5\], but a reward is 1"):
            model.learn(4)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("kl_weight", -1.0), ("inference_updates", 0), ("elbo_terms", 0), ("buffer_trials", 0)],
    )
    def test_numbers_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=name):
            make_model(**{name: value})


def trained(family: type[TaskFuncEnv], iterations: int, seed: int, **changes: Any) -> VariBAD:
    """An agent after so many iterations on a probe."""
    settings = {
        "learning_rate": 1e-2,
        "inference_learning_rate": 1e-2,
        "kl_weight": 0.01,
        "num_epochs": 4,
        "discount": 0.9,
        "gae_lambda": 0.9,
        "policy": {"hidden_size": 16, "decoder_size": 16, "hidden_sizes": (16,)},
        "seed": seed,
    }
    model = make_model(family, 64, **{**settings, **changes})
    return model.learn(iterations * 64 * model.trial_steps(), log_interval=None)


def earned(model: VariBAD, family: type[TaskFuncEnv]) -> np.ndarray:
    """What the likeliest actions earn on the test tasks, ``[tasks, points]``."""
    env = TaskVectorEnv(family, 64)
    return evaluate_adaptation(model, env, deterministic=True, seed=model.seed).values


def falling(left: float) -> float:
    """A learning rate that falls to 0."""
    return 1e-2 * left


@pytest.mark.learning
class TestProbes:
    """What only a belief solves, since the policy has no memory of its own."""

    def test_belief_over_pulls(self, seed: int, learned: Learned) -> None:
        """The arm that the first reward tells is pulled at the end, over two pulls that pay 0."""
        values = earned(trained(RememberedPull, 120, seed, learning_rate=falling), RememberedPull)
        assert 0.2 < values[:, 0].mean() < 0.8  # the first is a guess: there are both tasks
        learned("last reward", values[:, 3].mean(), at_least=0.9)

    def test_belief_over_episodes(self, seed: int, learned: Learned) -> None:
        """What the first episode told is known in the second."""
        values = earned(
            trained(RememberedEpisode, 120, seed, learning_rate=falling), RememberedEpisode
        )
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("second episode", values[:, 1].mean(), at_least=0.9)
