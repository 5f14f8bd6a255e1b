"""The recurrent actor-critic: when its memory is reset, what it draws, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from meta_rl.agents.rl2 import RecurrentActorCritic
from meta_rl.memory import MEMORY_CORES, make_memory_core

SIZE = 6  # of an observation, its last column the mark of a new trial
DISCRETE = spaces.Discrete(3)
BOX = spaces.Box(np.array([[-1.0, -2.0]], np.float32), np.array([[1.0, 2.0]], np.float32))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_policy(
    actions: spaces.Discrete | spaces.Box = DISCRETE, seed: int = 0, **kwargs: Any
) -> RecurrentActorCritic:
    generator = torch.Generator().manual_seed(seed)
    even = kwargs.get("core") == "attention"  # needs an even size
    settings = {"hidden_size": 6 if even else 5, "generator": generator, **kwargs}
    return RecurrentActorCritic(spaces.Box(-np.inf, np.inf, (SIZE,)), actions, **settings)


def observe(num: int, mark: float = 0.0, seed: int = 0) -> np.ndarray:
    observations = np.random.default_rng(seed).normal(size=(num, SIZE)).astype(np.float32)
    observations[:, -1] = mark
    return observations


class TestMemory:
    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_episode_start_does_not_reset(self, core: str) -> None:
        """A trial's memory outlives its episodes: ``episode_start`` changes nothing at all."""
        policy = make_policy(core=core)
        _, state = policy.predict(observe(4), deterministic=True)
        for start in (np.ones(4, dtype=bool), np.zeros(4, dtype=bool)):
            action, following = policy.predict(observe(4, seed=1), state, start, deterministic=True)
            expected, carried = policy.predict(observe(4, seed=1), state, None, deterministic=True)
            np.testing.assert_array_equal(action, expected)
            for leaf, same in zip(following, carried, strict=True):
                np.testing.assert_array_equal(leaf, same)
        _, fresh = policy.predict(observe(4, seed=1), None, deterministic=True)
        assert np.abs(fresh[-1] - following[-1]).max() > 1e-3  # it did remember

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_the_mark_resets_where_it_stands(self, core: str) -> None:
        """Rows with the mark go on as if new, whatever the state; the others keep theirs."""
        policy = make_policy(core=core)
        _, state = policy.predict(observe(4), deterministic=True)
        following = observe(4, seed=1)
        following[[1, 3], -1] = 1.0
        _, mixed = policy.predict(following, state, deterministic=True)
        _, kept = policy.predict(observe(4, seed=1), state, deterministic=True)
        _, fresh = policy.predict(observe(4, seed=1), None, deterministic=True)
        for got, old, new in zip(mixed, kept, fresh, strict=True):
            np.testing.assert_allclose(got[[1, 3]], new[[1, 3]], atol=1e-6)
            np.testing.assert_allclose(got[[0, 2]], old[[0, 2]], atol=1e-6)
        assert np.abs(fresh[-1] - kept[-1]).max() > 1e-3

    def test_the_mark_is_no_input(self) -> None:
        """It resets, and nothing more: in a first step it makes no difference."""
        policy = make_policy()
        _, marked = policy.predict(observe(4, mark=1.0), deterministic=True)
        _, unmarked = policy.predict(observe(4, mark=0.0), deterministic=True)
        np.testing.assert_array_equal(marked, unmarked)

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_steps_equal_whole_sequences(self, core: str) -> None:
        """A core run step by step gives the outputs and the state of one run over all of it."""
        memory = make_memory_core(core, 3, 4)
        inputs = torch.randn((7, 2, 3), generator=torch.Generator().manual_seed(0))
        whole, final = memory(inputs, memory.initial_state(2))
        state, outputs = memory.initial_state(2), []
        for step in inputs:
            output, state = memory.step(step, state)
            outputs.append(output)
        torch.testing.assert_close(torch.stack(outputs), whole)
        torch.testing.assert_close(state, final)

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_state_has_a_leading_task_axis(self, core: str) -> None:
        """Every leaf is ``[N, ...]``, and the rows do not mix."""
        policy = make_policy(core=core)
        observations = observe(5)
        _, together = policy.predict(observations, deterministic=True)
        for leaf in together:
            assert leaf.shape[0] == 5
        for i in range(5):
            _, alone = policy.predict(observations[i : i + 1], deterministic=True)
            for one, all_of_them in zip(alone, together, strict=True):
                np.testing.assert_allclose(one[0], all_of_them[i], atol=1e-6)

    def test_the_state_of_the_caller_is_left_alone(self) -> None:
        """Predicting, also with the mark, writes into no array that it was given."""
        policy = make_policy()
        state = (np.ones((4, 5), dtype=np.float32),)
        observations = observe(4, mark=1.0)
        copy = observations.copy()
        policy.predict(observations, state)
        assert (state[0] == 1.0).all()
        np.testing.assert_array_equal(observations, copy)

    def test_the_cache_of_attention_is_not_written_in_the_callers_state(self) -> None:
        """Two branches from one state do not see each other."""
        policy = make_policy(core="attention", hidden_size=6)
        _, state = policy.predict(observe(4))
        kept = [leaf.copy() for leaf in state]
        one, other = observe(4, seed=1), observe(4, seed=2)
        _, first = policy.predict(one, state)
        policy.predict(other, state)
        for leaf, before in zip(state, kept, strict=True):
            np.testing.assert_array_equal(leaf, before)
        for leaf, again in zip(first, policy.predict(one, state)[1], strict=True):
            np.testing.assert_array_equal(leaf, again)

    def test_unknown_core(self) -> None:
        """Names the near match and what exists."""
        with pytest.raises(ValueError, match=r"unknown memory core 'gruu': did you mean 'gru'"):
            make_policy(core="gruu")


class TestNetworks:
    def test_first_policy_is_nearly_uniform(self) -> None:
        """The small gain of the actor leaves all actions within a percent of each other."""
        policy = make_policy(hidden_size=32)
        obs = torch.from_numpy(observe(64))
        hidden, _ = policy.core.step(policy.embedding(obs[:, :-1]), policy.initial_state(64))
        probabilities = policy.distribution(hidden).probs
        assert (probabilities - 1 / 3).abs().max() < 0.01
        assert (probabilities - 1 / 3).abs().max() > 0  # but it does depend on the observation

    @pytest.mark.parametrize(("core", "gates"), [("gru", 3), ("lstm", 4)])
    def test_gates_are_orthogonal_each(self, core: str, gates: int) -> None:
        """The recurrent weights of each gate are an orthogonal matrix, and all biases are 0."""
        policy = make_policy(core=core)
        blocks = policy.core.rnn.weight_hh_l0.detach().split(5)
        assert len(blocks) == gates
        for block in blocks:
            torch.testing.assert_close(block @ block.T, torch.eye(5), atol=1e-5, rtol=0)
        biases = [p for name, p in policy.named_parameters() if "bias" in name]
        assert len(biases) == 4
        assert all((bias == 0).all() for bias in biases)

    def test_first_weights_come_from_the_generator(self) -> None:
        """The same seed gives the same weights, whatever the global generator holds."""
        torch_state = torch.get_rng_state()
        try:
            torch.manual_seed(1)
            first = make_policy(seed=3, embedding=(4,)).state_dict()
            torch.manual_seed(2)
            second = make_policy(seed=3, embedding=(4,)).state_dict()
        finally:
            torch.set_rng_state(torch_state)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        other = make_policy(seed=4, embedding=(4,)).state_dict()
        assert not torch.equal(first["actor.weight"], other["actor.weight"])

    def test_scales_of_a_norm_are_kept(self) -> None:
        """A LayerNorm before the memory lets its input through: its scales stay 1."""
        policy = make_policy(embedding=(4,))
        policy.embedding.append(torch.nn.LayerNorm(4))
        policy.make_heads(5)
        obs = torch.from_numpy(observe(9))[:, :-1]
        assert policy.embedding(obs).std() > 0.5

    def test_embedding_layers(self) -> None:
        """ReLU layers of the given sizes stand before the memory."""
        policy = make_policy(embedding=(7, 4))
        assert [layer.out_features for layer in policy.embedding[::2]] == [7, 4]
        assert policy.core.input_size == 4
        assert (policy.embedding(torch.from_numpy(observe(9))[:, :-1]) >= 0).all()

    def test_layers_after_the_memory(self) -> None:
        """Tanh layers read the memory's output and input, in steps as in whole trials."""
        policy = make_policy(core="mingru", embedding=(4,), hidden_sizes=(7, 3))
        obs = torch.from_numpy(np.stack([observe(9, seed=seed) for seed in range(3)]))
        features = policy.features(obs, policy.initial_state(9))
        assert features.shape == (3, 9, 3)
        assert policy.actor.in_features == 3
        inputs = policy.embedding(obs[..., :-1])
        memory, _ = policy.core(inputs, policy.initial_state(9))
        first, _, second, _ = policy.reading
        expected = second(first(torch.cat([memory, inputs], dim=-1)).tanh()).tanh()
        torch.testing.assert_close(features, expected)
        state = policy.initial_state(9)
        for t in range(3):
            stepped, state = policy.step(obs[t], state)
            torch.testing.assert_close(stepped, features[t])

    def test_rescaling_keeps_the_values(self) -> None:
        """Critic's weights and bias times 2 / 5, outputs times 5 / 2: the same, also twice over."""
        policy = make_policy()
        hidden = torch.randn((50, 5), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            policy.critic.bias.fill_(0.7)
            policy.return_scale.fill_(2.0)
            values, weight = policy.values(hidden), policy.critic.weight.clone()
            policy.rescale_returns(torch.tensor(5.0))
            assert policy.return_scale.item() == 5.0
            torch.testing.assert_close(policy.critic.weight, 0.4 * weight)
            assert policy.critic.bias.item() == pytest.approx(0.28)
            torch.testing.assert_close(policy.values(hidden), values)
            policy.rescale_returns(torch.tensor(0.01))
            torch.testing.assert_close(policy.values(hidden), values)

    def test_log_std_is_kept(self) -> None:
        """One parameter per action dimension starts at ``log_std_init``."""
        policy = make_policy(BOX, log_std_init=-0.5)
        assert policy.log_std.tolist() == [-0.5, -0.5]


class TestActions:
    def test_draws_follow_the_probabilities(self) -> None:
        """20,000 draws of actions with probabilities 0.2, 0.3 and 0.5 (5 standard errors)."""
        policy = make_policy()
        with torch.no_grad():
            policy.actor.weight.zero_()
            policy.actor.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
        actions, _ = policy.predict(observe(20_000))
        expected = np.array([0.2, 0.3, 0.5])
        error = np.sqrt(expected * (1 - expected) / 20_000)
        assert (np.abs(np.bincount(actions) / 20_000 - expected) < 5 * error).all()
        best, _ = policy.predict(observe(10), deterministic=True)
        assert (best == 2).all()

    def test_draws_of_a_normal_policy(self) -> None:
        """Mean and standard deviation (before clipping), and the log-probability's closed form."""
        policy = make_policy(BOX, log_std_init=math.log(0.3))
        with torch.no_grad():
            policy.actor.weight.zero_()
            policy.actor.bias.copy_(torch.tensor([0.5, -1.0]))
            obs = torch.from_numpy(observe(20_000))
            actions, _, log_probs, _ = policy(obs, policy.initial_state(20_000))
        assert actions.shape == (20_000, 1, 2)
        mean = torch.tensor([0.5, -1.0])
        assert (actions[:, 0].mean(dim=0) - mean).abs().max() < 5 * 0.3 / math.sqrt(20_000)
        assert (actions[:, 0].std(dim=0) - 0.3).abs().max() < 0.01
        z = (actions[:, 0] - mean) / 0.3
        expected = (-0.5 * z**2 - math.log(0.3 * math.sqrt(2 * math.pi))).sum(dim=1)
        torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)

    def test_discrete_log_probabilities(self) -> None:
        """Of the actions that were drawn: the logarithm of their probabilities."""
        policy = make_policy()
        with torch.no_grad():
            policy.actor.weight.zero_()
            policy.actor.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
            obs = torch.from_numpy(observe(50))
            actions, _, log_probs, _ = policy(obs, policy.initial_state(50))
        assert len(actions.unique()) == 3
        torch.testing.assert_close(log_probs.exp(), torch.tensor([0.2, 0.3, 0.5])[actions])

    def test_actions_are_clipped_to_their_box(self) -> None:
        """Predicted ones lie in the space and have its dtype; drawn ones may lie outside."""
        policy = make_policy(BOX, log_std_init=2.0)
        actions, _ = policy.predict(observe(100))
        assert actions.shape == (100, 1, 2)
        assert actions.dtype == np.float32
        assert all(action in BOX for action in actions)
        assert (actions == BOX.high).any()
        assert (actions == BOX.low).any()

    def test_draws_come_from_the_generator(self) -> None:
        """The generator's state alone decides; deterministic actions do not touch it."""
        policy = make_policy()
        state = policy.generator.get_state()
        first, _ = policy.predict(observe(50))
        policy.generator.set_state(state)
        second, _ = policy.predict(observe(50))
        third, _ = policy.predict(observe(50))
        np.testing.assert_array_equal(first, second)
        assert (second != third).any()
        state = policy.generator.get_state()
        policy.predict(observe(50), deterministic=True)
        assert torch.equal(policy.generator.get_state(), state)

    def test_a_single_observation(self) -> None:
        """``[O]`` gives one action without a batch axis; the state keeps its leading axis."""
        for space in (DISCRETE, BOX):
            policy = make_policy(space)
            action, state = policy.predict(observe(1)[0], deterministic=True)
            assert action.shape == space.shape
            batched, _ = policy.predict(observe(1), deterministic=True)
            np.testing.assert_array_equal(action, batched[0])
            assert state[0].shape == (1, 5)
            policy.predict(observe(1)[0], state)

    def test_float64_observations(self) -> None:
        """Are taken as float32."""
        policy = make_policy()
        double, _ = policy.predict(observe(4).astype(np.float64), deterministic=True)
        single, _ = policy.predict(observe(4), deterministic=True)
        np.testing.assert_array_equal(double, single)

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_float64_states(self, core: str) -> None:
        """Are taken in their own type, float32 or a counter's, as a state may come from a file."""
        policy = make_policy(core=core)
        _, state = policy.predict(observe(4), deterministic=True)
        double = tuple(leaf.astype(np.float64) for leaf in state)
        ours, following = policy.predict(observe(4, seed=1), double, deterministic=True)
        theirs, expected = policy.predict(observe(4, seed=1), state, deterministic=True)
        np.testing.assert_array_equal(ours, theirs)
        for leaf, expected_leaf in zip(following, expected, strict=True):
            assert leaf.dtype == expected_leaf.dtype
            assert leaf.dtype in (np.float32, np.int64)
            np.testing.assert_array_equal(leaf, expected_leaf)


class TestRefusals:
    @pytest.mark.parametrize("shape", [(4, SIZE - 1), (4, SIZE + 1), (SIZE - 1,), (2, 2, SIZE), ()])
    def test_wrong_observation_shape(self, shape: tuple[int, ...]) -> None:
        """Says what was expected, what came, and how to get there."""
        message = (
            rf"expected shape \(N, {SIZE}\).*previous_step=True.*got \({shape[0] if shape else ''}"
        )
        with pytest.raises(ValueError, match=message):
            make_policy().predict(np.zeros(shape, dtype=np.float32))

    @pytest.mark.parametrize(
        "state",
        [
            (),
            (np.zeros((3, 5), np.float32),),
            (np.zeros((4, 6), np.float32),),
            (np.zeros(5, np.float32),),
            (np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32)),
        ],
        ids=["none", "another batch", "another size", "no batch", "of an LSTM"],
    )
    def test_wrong_state(self, state: tuple[np.ndarray, ...]) -> None:
        """Says which shapes were expected, and which came."""
        with pytest.raises(ValueError, match=r"state: expected leaves of shapes \[\(4, 5\)\], got"):
            make_policy().predict(observe(4), state)

    def test_forward_gives_what_it_promises(self) -> None:
        """Actions, values and log-probabilities ``[N]``, and a state of the same structure."""
        policy = make_policy(core="lstm")
        obs: Tensor = torch.from_numpy(observe(4))
        actions, values, log_probs, state = policy(obs, policy.initial_state(4))
        assert actions.shape == values.shape == log_probs.shape == (4,)
        assert [leaf.shape for leaf in state] == [(4, 5), (4, 5)]


def test_a_memory_span_sets_the_time_scales() -> None:
    plain, spanning = make_policy(), make_policy(memory_span=100)
    biases = [policy.core.rnn.bias_hh_l0.chunk(3) for policy in (plain, spanning)]
    assert not torch.cat(biases[0]).any()
    assert biases[1][1].max() > 1.0
    assert not biases[1][0].any()
    assert not biases[1][2].any()
