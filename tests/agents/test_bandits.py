"""Classical learners on bandits.

Beliefs equal the conjugate formulas; indices equal hand-worked numbers; samples have the moments of
the belief; the Bayes optimum is reached by its own policy and passed by none; tasks do not mix;
states are never written to; seeds fix actions; bad input is refused.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import meta_rl
from meta_rl.agents.bandit_beliefs import BanditState, BetaBelief, NormalBelief
from meta_rl.agents.bandits import (
    UCB1,
    BayesOptimal,
    BestArm,
    EpsilonGreedy,
    GittinsIndex,
    Greedy,
    OptimisticThompson,
    RandomArms,
    ThompsonSampling,
    bandit_learners,
)
from meta_rl.agents.gittins import bayes_optimal_plan
from meta_rl.rollout import Rollout

LEARNERS = {
    "random": lambda rng: RandomArms(3, rng=rng),
    "greedy": lambda rng: Greedy(3, rng=rng),
    "epsilon": lambda rng: EpsilonGreedy(3, rng=rng, epsilon=0.3),
    "ucb1": lambda rng: UCB1(3, rng=rng, c=0.5),
    "thompson": lambda rng: ThompsonSampling(3, rng=rng),
    "optimistic": lambda rng: OptimisticThompson(3, rng=rng, num_samples=4),
    "gittins": lambda rng: GittinsIndex(3, 8, rng=rng),
    "bayes": lambda rng: BayesOptimal(3, 8, rng=rng),
}
SAMPLING = ("random", "epsilon", "thompson", "optimistic")


def generator(seed: int = 0) -> np.random.Generator:
    """A fresh one."""
    return np.random.default_rng(seed)


def pulls_of(actions: Any, rewards: Any, mask: Any = None) -> Rollout:
    """Lists ``[T][N]`` as a rollout; what learners do not look at is zero."""
    actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=float)
    nothing, never = np.zeros(rewards.shape, dtype=int), np.zeros(rewards.shape, dtype=bool)
    return Rollout(nothing, actions, rewards, never, never, nothing, mask=mask)


def seen(pulls: Any, wins: Any) -> BanditState:
    """A state from lists ``[N][A]``."""
    return BanditState(np.array(pulls), np.array(wins, dtype=float))


def play(learner: Any, tasks: np.ndarray, num_pulls: int, seed: int) -> tuple[Any, Any]:
    """Total rewards ``[N]`` and arms ``[T, N]`` of Bernoulli bandits."""
    rng = generator(seed)
    num = len(tasks)
    state = learner.adapt_to_tasks(tasks) if hasattr(learner, "adapt_to_tasks") else None
    totals, taken = np.zeros(num), []
    for _ in range(num_pulls):
        arms, state = learner.predict(np.zeros(num, dtype=int), state)
        rewards = (rng.random(num) < tasks[np.arange(num), arms]).astype(float)
        state = learner.adapt(pulls_of([arms], [rewards]), state)
        totals += rewards
        taken.append(arms)
    return totals, np.array(taken)


# Beliefs


def test_beta_posterior_by_hand() -> None:
    """Task 0: arm 1 paid 2 of 3; task 1: arm 0 paid 0 of 2."""
    learner = Greedy(2, rng=generator())
    state = learner.adapt(
        pulls_of([[1, 0], [1, 0], [1, 1]], [[1, 0], [0, 0], [1, 1]]),
    )
    np.testing.assert_array_equal(state.pulls, [[0, 3], [2, 1]])
    np.testing.assert_array_equal(state.reward_sums, [[0, 2], [0, 1]])
    np.testing.assert_allclose(BetaBelief().mean(state), [[1 / 2, 3 / 5], [1 / 4, 2 / 3]])
    np.testing.assert_allclose(BetaBelief().observations(state), [[2, 5], [4, 3]])
    np.testing.assert_allclose(BetaBelief(3, 1).mean(state)[0], [3 / 4, 5 / 7])


def test_normal_posterior_by_hand() -> None:
    """Prior N(2, 1/4), noise variance 4: the prior is worth 16 rewards."""
    belief = NormalBelief(prior_mean=2.0, prior_std=0.5, reward_std=2.0)
    state = seen([[4, 0]], [[22.0, 0.0]])
    np.testing.assert_allclose(belief.observations(state), [[20, 16]])
    np.testing.assert_allclose(belief.mean(state), [[(32 + 22) / 20, 2]])
    draws = belief.sample(state, generator(), 40_000)[:, 0]
    np.testing.assert_allclose(draws.mean(axis=0), [2.7, 2.0], atol=0.01)
    np.testing.assert_allclose(draws.std(axis=0), [2 / np.sqrt(20), 0.5], rtol=0.02)


def test_beta_samples_have_the_moments_of_the_belief() -> None:
    """Beta(3, 2): mean 3 / 5, variance 6 / (25 * 6)."""
    draws = BetaBelief().sample(seen([[3]], [[2]]), generator(1), 40_000)
    assert draws.shape == (40_000, 1, 1)
    np.testing.assert_allclose(draws.mean(), 3 / 5, atol=0.005)
    np.testing.assert_allclose(draws.var(), 1 / 25, rtol=0.03)


@pytest.mark.parametrize("belief", [BetaBelief(), NormalBelief(0.3, 0.5, 2.0)])
def test_log_densities_are_those_of_the_samples(belief: Any) -> None:
    """Integrated over a grid, exp(log-density) has the mean and the variance of the draws."""
    state = seen([[3]], [[2]])
    grid = np.linspace(0, 1, 4001) if isinstance(belief, BetaBelief) else np.linspace(-4, 4, 4001)
    weights = np.exp(belief.log_density(grid[:, None, None], state))[:, 0, 0]
    weights /= weights.sum()
    draws = belief.sample(state, generator(2), 40_000)
    np.testing.assert_allclose(weights @ grid, belief.mean(state)[0, 0], atol=1e-3)
    variance = weights @ grid**2 - (weights @ grid) ** 2
    np.testing.assert_allclose(draws.var(), variance, rtol=0.03)


@pytest.mark.parametrize("name", LEARNERS)
def test_one_rollout_equals_its_parts_and_masked_pulls_do_not_count(name: str) -> None:
    """Any T may be adapted to, and padding may hold nonsense."""
    learner = LEARNERS[name](generator())
    rng = generator(3)
    arms, rewards = rng.integers(3, size=(5, 4)), rng.integers(2, size=(5, 4)).astype(float)
    whole = learner.adapt(pulls_of(arms, rewards))
    parts = None
    for t in range(5):
        parts = learner.adapt(pulls_of(arms[[t]], rewards[[t]]), parts)
    mask = np.ones((6, 4), dtype=bool)
    mask[5] = False
    bad_arms, bad_rewards = np.full((1, 4), 99), np.full((1, 4), np.nan)
    padded = learner.adapt(
        pulls_of(np.append(arms, bad_arms, 0), np.append(rewards, bad_rewards, 0), mask)
    )
    assert parts is not None
    for other in (parts, padded):
        np.testing.assert_array_equal(other.pulls, whole.pulls)
        np.testing.assert_array_equal(other.reward_sums, whole.reward_sums)
    assert whole.pulls.sum() == 20


# Indices


def test_ucb1_by_hand() -> None:
    """7 pulls: counts 2 + 5 and 2 + 2; the bonus of c = 0.5 is sqrt(2 ln 7 / count) / 2."""
    state = seen([[5, 2]], [[3, 1]])
    bounds = UCB1(2, rng=generator(), c=0.5).scores(state)
    log7 = 1.9459101090932196
    expected = [4 / 7 + 0.5 * np.sqrt(2 * log7 / 7), 2 / 4 + 0.5 * np.sqrt(2 * log7 / 4)]
    np.testing.assert_allclose(bounds, [expected])
    # Before the first pull, and after it, there is no bonus: ln 1 = 0.
    none, one = seen([[0, 0]], [[0, 0]]), seen([[1, 0]], [[1, 0]])
    np.testing.assert_allclose(UCB1(2, rng=generator()).scores(none), [[1 / 2, 1 / 2]])
    np.testing.assert_allclose(UCB1(2, rng=generator()).scores(one), [[2 / 3, 1 / 2]])
    gaussian = UCB1(2, rng=generator(), c=1.0, belief=NormalBelief(reward_std=3.0))
    np.testing.assert_allclose(
        gaussian.scores(state)[0, 1], 1 / 11 + 3 * np.sqrt(2 * log7 / (9 + 2))
    )


def test_exploration_rate_of_epsilon_greedy() -> None:
    """ε / 2 of the pulls go to the worse of two arms; deterministic ones do not explore."""
    learner = EpsilonGreedy(2, rng=generator(4), epsilon=0.4)
    num = 10_000
    state = seen([[0, 1]] * num, [[0, 1]] * num)
    arms, _ = learner.predict(np.zeros(num, dtype=int), state)
    np.testing.assert_allclose(1 - arms.mean(), 0.4 / 2, atol=0.02)
    arms, _ = learner.predict(np.zeros(num, dtype=int), state, deterministic=True)
    assert arms.all()


def test_ties_are_broken_at_random_and_random_arms_are_uniform() -> None:
    """Arms 0 and 2 tie with posterior mean 1 / 2, arm 1 is worse."""
    num = 10_000
    state = seen([[2, 1, 0]] * num, [[1, 0, 0]] * num)
    arms, _ = Greedy(3, rng=generator(5)).predict(np.zeros(num, dtype=int), state)
    np.testing.assert_allclose(np.bincount(arms) / num, [0.5, 0, 0.5], atol=0.02)
    first, _ = Greedy(3, rng=generator(5)).predict(np.zeros(num, dtype=int), state, None, True)
    assert not first.any()
    for deterministic in (False, True):
        arms, _ = RandomArms(3, rng=generator(6)).predict(
            np.zeros(num, dtype=int), state, deterministic=deterministic
        )
        np.testing.assert_allclose(np.bincount(arms) / num, 1 / 3, atol=0.02)


def test_thompson_sampling_matches_probabilities() -> None:
    """P(Beta(2, 1) > Beta(1, 1)) = 2 / 3."""
    num = 10_000
    state = seen([[1, 0]] * num, [[1, 0]] * num)
    arms, _ = ThompsonSampling(2, rng=generator(7)).predict(np.zeros(num, dtype=int), state)
    np.testing.assert_allclose((arms == 0).mean(), 2 / 3, atol=0.02)


def test_optimistic_thompson_keeps_the_likeliest_draw() -> None:
    """One arm, Beta(2, 1): density 2x, so the likeliest of m draws is the largest, 2m / (2m + 1).

    With many draws it finds the posterior mode, which may lie in another arm than the mean.
    """
    state = seen([[1]] * 20_000, [[1]] * 20_000)
    draws = OptimisticThompson(1, rng=generator(8), num_samples=3).scores(state)
    np.testing.assert_allclose(draws.mean(), 6 / 7, atol=0.005)
    state = seen([[20, 20]] * 200, [[13, 7]] * 200)
    many = OptimisticThompson(2, rng=generator(9), num_samples=2000).scores(state)
    np.testing.assert_allclose(many.mean(axis=0), [13 / 20, 7 / 20], atol=0.01)


def test_gittins_learner_uses_the_pulls_that_are_left() -> None:
    """(5, 3) has the higher mean, (0, 0) more to learn; on the last pull the mean decides."""
    # One of three pulls made, two left: indices 7 / 10 and 5 / 9 (worked out in test_gittins.py).
    short = GittinsIndex(2, 3, rng=generator()).scores(seen([[1, 0]], [[1, 0]]))
    np.testing.assert_allclose(short, [[7 / 10, 5 / 9]], atol=1e-5)
    learner = GittinsIndex(2, 60, rng=generator())
    early, late = seen([[8, 0]], [[5, 0]]), seen([[59, 0]], [[32, 0]])
    assert learner.predict([0], early)[0] == 1
    np.testing.assert_allclose(learner.scores(late), [[33 / 61, 1 / 2]], atol=1e-6)
    over = seen([[80, 5]], [[40, 5]])
    np.testing.assert_allclose(learner.scores(over), [[41 / 82, 6 / 7]])
    both = BanditState(*(np.concatenate(pair) for pair in zip(early, over, strict=True)))
    np.testing.assert_allclose(learner.scores(both)[1], [41 / 82, 6 / 7])
    np.testing.assert_allclose(learner.scores(both)[0], learner.scores(early)[0])


def test_bayes_optimal_goes_on_greedily_after_the_trial() -> None:
    """The values are posterior means then, also for beliefs that no trial has."""
    learner = BayesOptimal(2, 3, rng=generator())
    np.testing.assert_allclose(
        learner.scores(seen([[3, 0], [40, 2]], [[1, 0], [10, 2]])),
        [[2 / 5, 1 / 2], [11 / 42, 3 / 4]],
    )


# Behaviour


def test_bayes_optimal_policy_earns_its_value_and_none_earns_more() -> None:
    """20,000 bandits of 4 arms and 8 pulls: all learners between random and the optimum."""
    tasks = generator(10).random((20_000, 4))
    optimum = bayes_optimal_plan(4, 8).value
    means = {}
    for name, learner in bandit_learners(4, 8, generator(11)).items():
        totals, _ = play(learner, tasks, 8, seed=12)
        error = totals.std() / np.sqrt(len(totals))
        means[name] = totals.mean()
        if name == "bayes-optimal":
            assert abs(means[name] - optimum) < 3.5 * error
        elif name != "best-arm":
            assert means[name] < optimum + 3.5 * error
    np.testing.assert_allclose(means["random"], 8 / 2, atol=0.05)
    np.testing.assert_allclose(means["best-arm"], 8 * 4 / 5, atol=0.05)
    # Differences of learners on the same bandits; the Gittins index is all but optimal.
    assert optimum - means["gittins"] < 0.05
    for worse, better in (
        ("random", "thompson"),
        ("thompson", "optimistic-thompson"),
        ("optimistic-thompson", "greedy"),
    ):
        assert means[worse] + 0.1 < means[better], (worse, better)


def test_exploring_pays_in_long_trials() -> None:
    """60 pulls: the planned and the tuned learner pass greedy, far beyond the noise of 0.2."""
    tasks = generator(13).random((4000, 10))
    learners = bandit_learners(10, 60, generator(14))
    means = {
        name: play(learners[name], tasks, 60, seed=15)[0].mean()
        for name in ("greedy", "ucb1", "gittins")
    }
    assert means["gittins"] > means["greedy"] + 1.0
    assert means["ucb1"] > means["greedy"] + 1.0


def test_gaussian_learners_learn() -> None:
    """Evaluated by the evaluator: random earns 0, the oracle 10 times the mean of the best of 5."""
    learners = bandit_learners(5, 10, generator(16), family="gaussian")
    assert "gittins" not in learners
    assert "bayes-optimal" not in learners
    env = meta_rl.make_task_vec("meta_rl/GaussianBandit-v0", 500, num_arms=5)
    means = {
        name: meta_rl.evaluate_adaptation(learner, env, 500, seed=17).total.mean()
        for name, learner in learners.items()
    }
    best = env.task_split.test.sample_tasks(1000, generator()).max(axis=1).mean()
    np.testing.assert_allclose(means["best-arm"], 10 * best, atol=0.6)
    np.testing.assert_allclose(means["random"], 0, atol=1.2)
    assert all(means[name] > 2.5 for name in learners if name != "random")


def test_evaluator_runs_every_learner_and_repeats_itself() -> None:
    """The same seed gives the same result, another one another."""
    learners = bandit_learners(num_arms=3, horizon=5, rng=generator(18))
    assert set(learners) == {
        *("random", "greedy", "epsilon-greedy", "ucb1", "thompson", "optimistic-thompson"),
        *("gittins", "bayes-optimal", "best-arm"),
    }
    for learner in learners.values():
        first, again, other = (
            meta_rl.evaluate_adaptation(
                learner, "meta_rl/BernoulliBandit-v0", 50, seed=seed, num_arms=3, horizon=5
            ).values
            for seed in (1, 1, 2)
        )
        assert first.shape == (50, 5)
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


def test_tuned_numbers_are_those_of_the_nearest_setting() -> None:
    """By ratios; the table of 500 pulls serves longer trials, which have no Gittins index."""
    short, long = (bandit_learners(6, horizon, generator()) for horizon in (20, 600))
    assert (short["epsilon-greedy"].epsilon, short["ucb1"].c) == (0.0, 0.1)
    assert (long["epsilon-greedy"].epsilon, long["ucb1"].c) == (0.1, 0.3)
    assert "gittins" in short
    assert not {"gittins", "bayes-optimal"} & set(long)


@pytest.mark.parametrize("name", LEARNERS)
def test_same_seed_same_actions(name: str) -> None:
    """Learners that sample differ with the seed; no global randomness is used."""
    tasks = generator(19).random((50, 3))
    taken = []
    for seed in (1, 1, 2):
        taken.append(play(LEARNERS[name](generator(seed)), tasks, 8, seed=20)[1])
    np.testing.assert_array_equal(taken[0], taken[1])
    assert (taken[0] != taken[2]).any()  # ties, at least: the first pull


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in SAMPLING])
def test_order_of_tasks_and_of_arms_does_not_matter(name: str) -> None:
    """Scores of permuted tasks and arms are the permuted scores; alone or in a batch."""
    rng = generator(21)
    learner = LEARNERS[name](rng)
    pulls = rng.multinomial(6, [1 / 3] * 3, size=20)
    state = BanditState(pulls, rng.binomial(pulls, 0.5).astype(float))
    scores = learner.scores(state)
    assert scores.shape == (20, 3)
    tasks, arms = rng.permutation(20), rng.permutation(3)
    moved = learner.scores(BanditState(*(leaf[tasks][:, arms] for leaf in state)))
    np.testing.assert_allclose(moved, scores[tasks][:, arms], rtol=1e-12)
    alone = learner.scores(BanditState(*(leaf[[4]] for leaf in state)))
    np.testing.assert_allclose(alone, scores[[4]], rtol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_states_are_not_written_to(name: str) -> None:
    """Read-only arrays survive adapt and predict; every leaf is [N, A]."""
    learner = LEARNERS[name](generator())
    state = learner.adapt(pulls_of([[0, 1, 2, 2, 0]], [[1, 0, 1, 0, 1]]))
    for leaf in state:
        assert leaf.shape == (5, 3)
        leaf.setflags(write=False)
    arms, following = learner.predict(np.zeros(5, dtype=int), state, np.ones(5, dtype=bool))
    assert arms.shape == (5,)
    assert following is state
    after = learner.adapt(pulls_of([arms], [[1] * 5]), state)
    assert state.pulls.sum() == 5
    assert after.pulls.sum() == 10


def test_oracle_pulls_the_best_arm() -> None:
    """And keeps what it was told."""
    oracle = BestArm(3)
    state = oracle.adapt_to_tasks(np.array([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]]))
    assert oracle.adapt(pulls_of([[0, 0]], [[0, 0]]), state) is state
    np.testing.assert_array_equal(oracle.predict(np.zeros(2), state)[0], [1, 0])


def test_task_env_fits() -> None:
    """The spaces of the environment are those that the learner speaks."""
    env = gym.make("meta_rl/BernoulliBandit-v0", num_arms=3, horizon=5)
    observation, _ = env.reset(seed=0)
    arms, _ = LEARNERS["gittins"](generator()).predict(np.array([observation]))
    assert env.action_space.contains(arms[0])


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rng: Greedy(0, rng=rng), "num_arms has to be a whole number of at least 1"),
        (lambda rng: EpsilonGreedy(2, rng=rng, epsilon=1.1), "epsilon has to be .*in"),
        (lambda rng: EpsilonGreedy(2, rng=rng, epsilon=float("nan")), "epsilon has to be .*in"),
        (lambda rng: UCB1(2, rng=rng, c=-0.1), "c has to be at least 0"),
        (lambda rng: OptimisticThompson(2, rng=rng, num_samples=0), "num_samples has to be"),
        (lambda rng: GittinsIndex(2, 501, rng=rng), "horizon has to be at most 500"),
        (lambda rng: GittinsIndex(2, 0, rng=rng), "horizon has to be"),
        (lambda rng: BayesOptimal(5, 100, rng=rng), "use the Gittins index"),
        (
            lambda rng: bandit_learners(2, 3, rng, family="cauchy"),
            "family is one of bernoulli, gaussian",
        ),
        (lambda rng: BetaBelief(0, 1), "successes and failures must be above 0"),
        (lambda rng: NormalBelief(prior_std=0), "prior_std and reward_std must be above 0"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ValueError, match=message):
        make(generator())


@pytest.mark.parametrize(
    ("arms", "rewards", "mask", "message"),
    [
        ([[0, 3]], [[1, 1]], None, r"actions must lie in 0 .. 2"),
        ([[0, -1]], [[1, 1]], None, r"actions must lie in 0 .. 2"),
        ([[0.0, 1.0]], [[1, 1]], None, "actions must be integers"),
        ([[0, 1]], [[1, 0.5]], None, "must be 0 or 1"),
        ([[0, 1]], [[1, np.nan]], None, "must be 0 or 1"),
        ([0, 1], [1, 1], None, r"one shape \[T, N\]"),
        ([[0, 1]], [[1, 1], [1, 1]], None, r"one shape \[T, N\]"),
        ([[0, 1]], [[1, 1]], np.ones(2, dtype=bool), r"mask must have shape \[1, 2\]"),
    ],
)
def test_bad_rollouts_are_refused(arms: Any, rewards: Any, mask: Any, message: str) -> None:
    """The message names the array."""
    with pytest.raises(ValueError, match=message):
        Greedy(3, rng=generator()).adapt(pulls_of(arms, rewards, mask))


def test_bad_calls_are_refused() -> None:
    """Observations, states of another batch, infinite rewards, oracles that were told nothing."""
    learner = Greedy(3, rng=generator())
    state = learner.adapt(pulls_of([[0, 1]], [[1, 0]]))
    with pytest.raises(ValueError, match="state holds 2 tasks of 3 arms"):
        learner.predict(np.zeros(3, dtype=int), state)
    with pytest.raises(ValueError, match="the learner has 4 arms"):
        Greedy(4, rng=generator()).predict(np.zeros(2, dtype=int), state)
    with pytest.raises(ValueError, match="state holds 2 tasks, but the rollout 1"):
        learner.adapt(pulls_of([[0]], [[1]]), state)
    with pytest.raises(ValueError, match=r"observation must have shape \[N\]"):
        learner.predict(0)
    gaussian = Greedy(3, rng=generator(), belief=NormalBelief())
    with pytest.raises(ValueError, match="rewards must be finite"):
        gaussian.adapt(pulls_of([[0]], [[np.inf]]))
    oracle = BestArm(3)
    with pytest.raises(ValueError, match="needs to be told the tasks"):
        oracle.predict(np.zeros(2))
    with pytest.raises(ValueError, match=r"tasks must have shape \[N, 3\]"):
        oracle.adapt_to_tasks(np.ones((2, 4)))
    with pytest.raises(ValueError, match="state holds 2 tasks, but observation 1"):
        oracle.predict(np.zeros(1), oracle.adapt_to_tasks(np.ones((2, 3))))
