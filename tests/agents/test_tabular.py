"""Classical learners on tabular MDPs.

Planning equals hand-worked numbers and brute force; beliefs equal the conjugate formulas; posterior
sampling has the right moments and concentrates; no learner beats value iteration; states are never
written to; seeds fix actions; bad input is refused.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from meta_rl.agents.tabular import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyMDP,
    RandomActions,
    ValueIteration,
    mdp_learners,
)
from meta_rl.agents.tabular_beliefs import (
    EMPIRICAL_PRIOR,
    BeliefState,
    TabularPrior,
    mean_transitions,
    posterior,
)
from meta_rl.agents.tabular_planning import (
    finite_horizon_q_values,
    optimistic_expectation,
    optimistic_q_values,
)
from meta_rl.rollout import Rollout

# State 0: action 0 pays 1 and stays, action 1 pays 0 and goes to state 1 with probability 1/2.
# State 1: action 0 pays 4 and goes back, action 1 pays 0 and stays.
TWO_STATES = {
    "rewards": np.array([[[1.0, 0.0], [4.0, 0.0]]]),
    "transitions": np.array([[[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]]]),
}
MODEL_BASED = {
    "psrl": lambda rng: PSRL(3, 2, 4, rng=rng),
    "opsrl": lambda rng: OPSRL(3, 2, 4, rng=rng, num_samples=3),
    "ucrl2": lambda rng: UCRL2(3, 2, 4, rng=rng),
    "beb": lambda rng: BEB(3, 2, 4, rng=rng),
    "beb to go": lambda rng: BEB(3, 2, 4, rng=rng, steps_to_go=True),
    "greedy": lambda rng: EpsilonGreedyMDP(3, 2, 4, rng=rng, epsilon=0.0),
    "epsilon": lambda rng: EpsilonGreedyMDP(3, 2, 4, rng=rng, epsilon=0.3),
}


def draw_tasks(num_tasks: int, sizes: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    """Processes of the distribution of the paper, of any size."""
    rng = np.random.default_rng(seed)
    table = (num_tasks, *sizes)
    return {
        "rewards": rng.normal(1.0, 1.0, table),
        "transitions": rng.dirichlet(np.ones(sizes[0]), table),
    }


def make_rollout(
    observations: Any, actions: Any, rewards: Any, next_observations: Any, **changes: Any
) -> Rollout:
    """Lists ``[T][N]`` as a rollout whose last step is terminal."""
    rewards = np.asarray(rewards, dtype=float)
    ends = np.zeros(rewards.shape, dtype=bool)
    ends[-1] = True
    fields = {
        "observations": np.asarray(observations),
        "actions": np.asarray(actions),
        "rewards": rewards,
        "terminated": ends,
        "truncated": np.zeros_like(ends),
        "next_observations": np.asarray(next_observations),
    }
    return Rollout(**(fields | changes))


def random_rollout(num_steps: int, num_tasks: int, seed: int) -> Rollout:
    """Nonsense that is possible, with 3 states and 2 actions."""
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_tasks)
    return make_rollout(
        rng.integers(3, size=shape),
        rng.integers(2, size=shape),
        rng.normal(size=shape),
        rng.integers(3, size=shape),
    )


def play(
    learner: Any, tasks: dict[str, np.ndarray], horizon: int, num_episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Total returns ``[N]``, actions ``[episodes, T, N]`` and the last state."""
    rng = np.random.default_rng(seed)
    num = len(tasks["rewards"])
    every = np.arange(num)
    state = learner.adapt_to_tasks(tasks) if hasattr(learner, "adapt_to_tasks") else None
    totals, taken = np.zeros(num), []
    for _ in range(num_episodes):
        cells, actions, rewards = [np.zeros(num, dtype=np.int64)], [], []
        for step in range(horizon):
            action, state = learner.predict(cells[-1], state, np.full(num, step == 0))
            rows = tasks["transitions"][every, cells[-1], action].cumsum(axis=1)[:, :-1]
            rewards.append(tasks["rewards"][every, cells[-1], action] + rng.standard_normal(num))
            actions.append(action)
            cells.append((rng.random((num, 1)) >= rows).sum(axis=1))
        rollout = make_rollout(np.array(cells[:-1]), np.array(actions), rewards, cells[1:])
        state = learner.adapt(rollout, state)
        totals += rollout.rewards.sum(axis=0)
        taken.append(rollout.actions)
    return totals, np.array(taken), state


# Planning


def test_value_iteration_of_two_states_by_hand() -> None:
    """Last step: Q = r, so V = (1, 4). Before it: Q(0, .) = (1 + 1, 0 + (1 + 4) / 2)."""
    q = finite_horizon_q_values(**TWO_STATES, horizon=3)
    assert q.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(q[0, 2], [[1, 0], [4, 0]])
    np.testing.assert_allclose(q[0, 1], [[2.0, 2.5], [5.0, 4.0]])
    np.testing.assert_allclose(q[0, 0], [[3.5, 3.75], [6.5, 5]])


def test_bonus_is_counted_once_for_each_step_to_go() -> None:
    """Bonus 10 for (0, 0): nothing at the last step, 10 with one step to go, 20 with two."""
    bonus = np.array([[[10.0, 0.0], [0.0, 0.0]]])
    q = finite_horizon_q_values(**TWO_STATES, horizon=3, bonus_per_step_to_go=bonus)
    np.testing.assert_allclose(q[0, 2, 0, 0], 1)
    np.testing.assert_allclose(q[0, 1, 0, 0], 2 + 10)
    np.testing.assert_allclose(q[0, 0, 0, 0], 1 + 20 + 12)


def test_value_iteration_equals_the_best_of_all_policies() -> None:
    """All 2 ** (2 * 3) non-stationary deterministic policies, evaluated forward."""
    tasks = draw_tasks(6, (2, 2), seed=1)
    horizon = 3
    values = []
    for choice in itertools.product(range(2), repeat=2 * horizon):
        policy = np.array(choice).reshape(horizon, 2)
        occupancy = np.tile([1.0, 0.0], (6, 1))
        value = np.zeros(6)
        for step in range(horizon):
            rewards = tasks["rewards"][:, [0, 1], policy[step]]
            value += (occupancy * rewards).sum(axis=1)
            rows = tasks["transitions"][:, [0, 1], policy[step]]
            occupancy = np.einsum("ns,nsp->np", occupancy, rows)
        values.append(value)
    optimal = ValueIteration(2, 2, horizon).optimal_return(tasks)
    np.testing.assert_allclose(optimal, np.max(values, axis=0))


def test_optimistic_expectation_by_hand() -> None:
    """Slack 0.6 moves 0.3 from the worst states (value 0, then 1) to the best."""
    transitions = np.array([[[[0.2, 0.5, 0.3]]]])
    best = optimistic_expectation(transitions, np.array([[0.0, 10.0, 1.0]]), np.array([[[0.6]]]))
    np.testing.assert_allclose(best, 0.8 * 10 + 0.2 * 1)
    everything = optimistic_expectation(
        transitions, np.array([[0.0, 10.0, 1.0]]), np.array([[[3.0]]])
    )
    np.testing.assert_allclose(everything, 10)


def test_optimistic_expectation_equals_linear_programming() -> None:
    """Maximise p v over the simplex with |p - p_hat|_1 <= slack, as a linear program."""
    rng = np.random.default_rng(2)
    centres = rng.dirichlet(np.ones(4), (5, 1, 1))
    values = rng.normal(size=(5, 4))
    values[0, :2] = values[0].max()  # a tie
    slack = rng.uniform(0.0, 2.0, (5, 1, 1))
    ours = optimistic_expectation(centres, values, slack)
    for i in range(5):
        centre, zeros, ones = centres[i, 0, 0], np.zeros((1, 4)), np.ones((1, 4))
        bounds = np.block([[np.eye(4), -np.eye(4)], [-np.eye(4), -np.eye(4)], [zeros, ones]])
        program = linprog(
            -np.append(values[i], np.zeros(4)),
            A_ub=bounds,
            b_ub=np.concatenate([centre, -centre, slack[i, 0]]),
            A_eq=np.hstack([ones, zeros]),
            b_eq=[1.0],
        )
        np.testing.assert_allclose(ours[i, 0, 0], -program.fun, atol=1e-8)


def test_extended_value_iteration_by_hand_and_at_its_limits() -> None:
    """No slack gives value iteration; full slack lets every step reach the best state."""
    none = optimistic_q_values(**TWO_STATES, slack=np.zeros((1, 2, 2)), horizon=3)
    np.testing.assert_allclose(none, finite_horizon_q_values(**TWO_STATES, horizon=3))
    full = optimistic_q_values(**TWO_STATES, slack=np.full((1, 2, 2), 2.0), horizon=3)
    np.testing.assert_allclose(full[0, 0], [[1 + 8, 8], [4 + 8, 8]])
    half = optimistic_q_values(**TWO_STATES, slack=np.full((1, 2, 2), 0.5), horizon=2)
    np.testing.assert_allclose(half[0, 0], [[1 + 1.75, 3.25], [4 + 1.75, 4]])


def test_oracle_follows_the_optimal_policy() -> None:
    """In state 0: go for state 1 while two steps are left, take the 1 at the last."""
    learner = ValueIteration(2, 2, 3)
    state = learner.adapt_to_tasks(TWO_STATES)
    actions = []
    for _ in range(4):
        action, state = learner.predict(np.array([0]), state)
        actions.append(action[0])
    assert actions == [1, 1, 0, 1]  # the fourth step starts the next episode


# Beliefs


def test_posterior_by_hand() -> None:
    """Two rewards 3 and 6 in (0, 1) of task 0; the terminal step's transition does not count."""
    learner = EpsilonGreedyMDP(2, 2, 3, rng=np.random.default_rng(0), epsilon=0.0)
    rollout = make_rollout(
        observations=[[0, 1], [0, 1], [1, 1]],
        actions=[[1, 0], [1, 0], [0, 0]],
        rewards=[[3, 0], [6, 0], [5, 0]],
        next_observations=[[0, 1], [1, 1], [1, 1]],
    )
    state = learner.adapt(rollout)
    belief = posterior(TabularPrior(), state)
    np.testing.assert_allclose(belief.reward_mean[0], [[1, (1 + 3 + 6) / 3], [(1 + 5) / 2, 1]])
    np.testing.assert_allclose(belief.reward_precision[0], [[1, 3], [2, 1]])
    np.testing.assert_allclose(belief.dirichlet[0, 0, 1], [2, 2])
    np.testing.assert_allclose(belief.dirichlet[0, 1, 0], [1, 1])
    np.testing.assert_allclose(belief.dirichlet[1, 1, 0], [1, 3])
    np.testing.assert_allclose(mean_transitions(belief)[1, 1, 0], [0.25, 0.75])
    np.testing.assert_allclose(belief.reward_mean[1, 1, 0], 1 / 4)


def test_posterior_weighs_noise_and_prior_precision() -> None:
    """tau_0 = 4, mu_0 = 2, tau = 0.5, one reward 10: (8 + 5) / 4.5."""
    prior = TabularPrior(2.0, 4.0, 0.5, 0.1)
    learner = EpsilonGreedyMDP(1, 1, 1, rng=np.random.default_rng(0), prior=prior)
    state = learner.adapt(make_rollout([[0]], [[0]], [[10.0]], [[0]]))
    np.testing.assert_allclose(posterior(prior, state).reward_mean, 13 / 4.5)
    np.testing.assert_allclose(posterior(prior, state).reward_precision, 4.5)


def test_one_rollout_equals_its_parts_and_masked_steps_do_not_count() -> None:
    """Any T may be adapted to, and padding may hold nonsense."""
    learner = BEB(3, 2, 4, rng=np.random.default_rng(0))
    whole = random_rollout(4, 2, seed=3)
    parts = None
    for step in range(4):
        parts = learner.adapt(
            Rollout(*(getattr(whole, name)[[step]] for name in list(vars(whole))[:6])), parts
        )
    at_once = learner.adapt(whole)
    assert parts is not None
    mask = np.ones((6, 2), dtype=bool)
    mask[4:] = False
    padded = make_rollout(
        *(
            np.concatenate([getattr(whole, name), np.full((2, 2), bad)])
            for name, bad in (
                ("observations", -1),
                ("actions", 99),
                ("rewards", np.nan),
                ("next_observations", -1),
            )
        ),
        terminated=np.concatenate([whole.terminated, np.zeros((2, 2), dtype=bool)]),
        mask=mask,
    )
    for other in (parts, learner.adapt(padded)):
        for name in ("reward_counts", "reward_sums", "transition_counts", "q_values"):
            np.testing.assert_allclose(getattr(other, name), getattr(at_once, name))
    assert at_once.transition_counts.sum() == 2 * 3


def test_optimistic_learners_plan_with_the_documented_bonuses() -> None:
    """One step, one state, two actions, the first tried 3 times with mean reward 2."""
    rng = np.random.default_rng(0)
    observations, actions = [[0]] * 3, [[0]] * 3
    rollout = make_rollout(observations, actions, [[1.0], [2.0], [3.0]], observations)
    beb = BEB(1, 2, 1, rng=rng, beta=12.0).adapt(rollout)
    # Posterior mean 7 / 4; of 3 transitions the terminal one is not counted: n = 1 + 2.
    np.testing.assert_allclose(beb.q_values[0, 0, 0], [7 / 4 + 12 / 4, 1 + 12 / 2])
    to_go = BEB(1, 2, 2, rng=rng, beta=12.0, steps_to_go=True).adapt(rollout)
    last, bonus = np.array([7 / 4 + 1 / 5, 1 + 1 / 2]), np.array([12 / 4, 12 / 2])
    np.testing.assert_allclose(to_go.q_values[0, 1, 0], last)
    np.testing.assert_allclose(to_go.q_values[0, 0, 0], last + bonus + last.max())
    ucrl2 = UCRL2(1, 2, 1, rng=rng, scale=0.5, delta=0.1, prior=TabularPrior(0.0, 1e-12))
    q = ucrl2.adapt(rollout).q_values[0, 0, 0]
    log_term = np.log(2 * 1 * 2 * (2 + 1) / 0.1)  # the plan for the second episode
    np.testing.assert_allclose(
        q, [2 + 0.5 * np.sqrt(4 * log_term / 3), 0.5 * np.sqrt(4 * log_term)]
    )


def test_posterior_samples_have_the_moments_of_the_belief() -> None:
    """One step: Q is the sampled mean reward, N(posterior mean, 1 / precision)."""
    learner = PSRL(1, 1, 1, rng=np.random.default_rng(4))
    num = 20_000
    zeros = np.zeros((3, num), dtype=np.int64)
    state = learner.adapt(make_rollout(zeros, zeros, np.full((3, num), 5.0), zeros))
    samples = state.q_values[:, 0, 0, 0]
    np.testing.assert_allclose(samples.mean(), (1 + 15) / 4, atol=4 * 0.5 / np.sqrt(num))
    np.testing.assert_allclose(samples.std(), 0.5, rtol=0.02)


def test_sampled_transitions_have_the_mean_of_the_belief() -> None:
    """Two steps, known rewards 0 and 1: Q of (0, first step) is the sampled p(1 | 0)."""
    sure = TabularPrior(0.0, 1e12, 1e12)
    learner = PSRL(2, 1, 2, rng=np.random.default_rng(5), prior=sure)
    num = 20_000
    cells = np.array([[0], [0], [0], [1]]) * np.ones(num, dtype=np.int64)
    following = np.array([[1], [1], [1], [0]]) * np.ones(num, dtype=np.int64)
    rewards = 1e3 * cells.astype(float)  # averaged with a prior of equal weight: 500
    state = learner.adapt(make_rollout(cells, np.zeros_like(cells), rewards, following))
    probability = state.q_values[:, 0, 0, 0] / 500
    np.testing.assert_allclose(probability.mean(), 4 / 5, atol=4 * 0.17 / np.sqrt(num))
    np.testing.assert_allclose(probability.std(), np.sqrt(0.8 * 0.2 / 6), rtol=0.03)


def test_optimistic_samples_are_the_maximum_of_single_ones() -> None:
    """The mean of the largest of two standard normals is 1 / sqrt(pi)."""
    learner = OPSRL(1, 1, 1, rng=np.random.default_rng(6), num_samples=2)
    samples = learner.initial_state(20_000).q_values[:, 0, 0, 0]
    np.testing.assert_allclose(samples.mean(), 1 + 1 / np.sqrt(np.pi), atol=0.03)


def test_psrl_concentrates_on_the_true_process() -> None:
    """After many episodes its values are near the optimal ones, and so is what it earns."""
    tasks = draw_tasks(20, (3, 2), seed=7)
    oracle = ValueIteration(3, 2, 4)
    learner = PSRL(3, 2, 4, rng=np.random.default_rng(8))
    truth = oracle.optimal_return(tasks)
    before = learner.initial_state(20).q_values[:, 0, 0].max(axis=-1)
    _, _, state = play(learner, tasks, 4, 300, seed=9)
    after = state.q_values[:, 0, 0].max(axis=-1)
    assert np.abs(after - truth).mean() < 0.3 < np.abs(before - truth).mean()


# Behaviour


def test_no_learner_beats_value_iteration_and_all_learn() -> None:
    """Mean return per task is at most the optimum beyond noise; learners beat random actions."""
    sizes, horizon, num_episodes, num_tasks = (4, 3), 5, 20, 200
    tasks = draw_tasks(num_tasks, sizes, seed=10)
    learners = mdp_learners(*sizes, horizon, np.random.default_rng(11))
    optimum = ValueIteration(*sizes, horizon).optimal_return(tasks).mean() * num_episodes
    means = {
        name: play(learner, tasks, horizon, num_episodes, seed=12)[0].mean()
        for name, learner in learners.items()
    }
    noise = np.sqrt(horizon * num_episodes / num_tasks) * 2  # rewards and transitions
    assert len(means) == 12
    assert max(means.values()) < optimum + 4 * noise
    assert abs(means["Value iteration"] - optimum) < 4 * noise
    for name, mean in means.items():
        if name != "Random":
            assert mean > means["Random"] + 10, name
    assert means["Value iteration"] > means["PSRL"] + 10


@pytest.mark.parametrize("name", MODEL_BASED)
def test_same_seed_same_actions(name: str) -> None:
    """Another seed gives other actions; the batch is large enough for ties and samples to show."""
    tasks = draw_tasks(30, (3, 2), seed=13)
    first, again, other = (
        play(MODEL_BASED[name](np.random.default_rng(seed)), tasks, 4, 3, seed=14)[1]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", MODEL_BASED)
def test_states_are_not_written_to_and_have_a_task_axis(name: str) -> None:
    """Frozen arrays survive adapt and predict; every leaf has length N."""
    learner = MODEL_BASED[name](np.random.default_rng(0))
    state: BeliefState = learner.adapt(random_rollout(4, 5, seed=15))
    copies = [leaf.copy() for leaf in state]
    for leaf in state:
        assert leaf.shape[0] == 5
        leaf.setflags(write=False)
    learner.adapt(random_rollout(4, 5, seed=16), state)
    _, following = learner.predict(np.zeros(5, dtype=int), state, np.ones(5, dtype=bool))
    for leaf, copy in zip(state, copies, strict=True):
        np.testing.assert_array_equal(leaf, copy)
    np.testing.assert_array_equal(following.step, 1)


@pytest.mark.parametrize("name", MODEL_BASED)
def test_tasks_do_not_mix(name: str) -> None:
    """A belief updated in a batch equals the one updated alone."""
    learner = MODEL_BASED[name](np.random.default_rng(0))
    rollout = random_rollout(4, 3, seed=17)
    alone = Rollout(*(getattr(rollout, field)[:, [1]] for field in list(vars(rollout))[:6]))
    batch, single = learner.adapt(rollout), learner.adapt(alone)
    for name_ in ("reward_counts", "reward_sums", "transition_counts"):
        np.testing.assert_array_equal(getattr(batch, name_)[[1]], getattr(single, name_))


def test_episode_start_and_the_horizon_restart_the_plan() -> None:
    """Some tasks may restart early; after H steps all start anew."""
    learner = BEB(3, 2, 4, rng=np.random.default_rng(0))
    cells = np.zeros(2, dtype=int)
    _, state = learner.predict(cells)
    _, state = learner.predict(cells, state, episode_start=np.array([True, False]))
    np.testing.assert_array_equal(state.step, [1, 2])
    for _ in range(3):
        _, state = learner.predict(cells, state)
    np.testing.assert_array_equal(state.step, [4, 1])


def test_epsilon_and_determinism() -> None:
    """Exploration has the rate of its definition; ``deterministic`` removes it and ties."""
    learner = EpsilonGreedyMDP(1, 2, 1, rng=np.random.default_rng(18), epsilon=0.4)
    num = 10_000
    zeros = np.zeros((1, num), dtype=int)
    state = learner.adapt(make_rollout(zeros, zeros, np.full((1, num), 9.0), zeros))
    actions, _ = learner.predict(zeros[0], state)
    np.testing.assert_allclose(actions.mean(), 0.4 / 2, atol=0.02)
    actions, _ = learner.predict(zeros[0], state, deterministic=True)
    assert not actions.any()
    ties, _ = EpsilonGreedyMDP(1, 2, 1, rng=np.random.default_rng(19), epsilon=0.0).predict(
        zeros[0]
    )
    np.testing.assert_allclose(ties.mean(), 0.5, atol=0.03)


def test_random_actions_are_uniform() -> None:
    """Each action as often as any other, whatever was seen."""
    learner = RandomActions(3, 4, 2, rng=np.random.default_rng(20))
    state = learner.adapt(random_rollout(2, 8000, seed=21))
    actions, state = learner.predict(np.zeros(8000, dtype=int), state)
    np.testing.assert_allclose(np.bincount(actions) / 8000, 0.25, atol=0.02)
    np.testing.assert_array_equal(state.step, 1)


def test_greedy_without_a_prior_keeps_what_paid() -> None:
    """An untried action is worth 0 to it, so a reward of 0.5 is enough; the prior says 1."""
    rollout = make_rollout([[0]], [[0]], [[0.5]], [[0]])
    rng = np.random.default_rng(22)
    empirical = EpsilonGreedyMDP(1, 2, 1, rng=rng, epsilon=0.0, prior=EMPIRICAL_PRIOR)
    believing = EpsilonGreedyMDP(1, 2, 1, rng=rng, epsilon=0.0)
    assert empirical.predict(np.array([0]), empirical.adapt(rollout))[0][0] == 0
    assert believing.predict(np.array([0]), believing.adapt(rollout))[0][0] == 1


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rng: PSRL(0, 2, 3, rng=rng), "num_states has to be a whole number of at least 1"),
        (lambda rng: PSRL(2, 2, 1.5, rng=rng), "horizon has to be a whole number"),
        (
            lambda rng: OPSRL(2, 2, 3, rng=rng, num_samples=0),
            "num_samples has to be a whole number of at least 1",
        ),
        (lambda rng: BEB(2, 2, 3, rng=rng, beta=-1), "beta has to be at least 0"),
        (
            lambda rng: UCRL2(2, 2, 3, rng=rng, scale=float("nan")),
            "scale has to be a finite number at least 0",
        ),
        (lambda rng: UCRL2(2, 2, 3, rng=rng, delta=1), "delta has to be above 0 and below 1"),
        (lambda rng: EpsilonGreedyMDP(2, 2, 3, rng=rng, epsilon=1.1), "epsilon has to be in"),
        (lambda rng: PSRL(2, 2, 3, rng=rng, prior=TabularPrior(0, 0)), "above 0"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ValueError, match=message):
        make(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.full((4, 2), 3)}, r"observations must lie in 0 .. 2"),
        ({"actions": np.full((4, 2), 2)}, r"actions must lie in 0 .. 1"),
        ({"actions": np.full((4, 2), 0.5)}, "actions must be integers"),
        ({"next_observations": np.full((4, 2), -1)}, "next_observations must lie in"),
        ({"rewards": np.full((4, 2), np.nan)}, "rewards must be finite"),
        ({"rewards": np.zeros(4)}, r"rewards must have shape \[T, N\]"),
        ({"actions": np.zeros((3, 2), dtype=int)}, r"actions must have shape \[4, 2\]"),
        ({"mask": np.ones(4, dtype=bool)}, r"mask must have shape \[4, 2\]"),
    ],
)
def test_bad_rollouts_are_refused(changes: dict[str, Any], message: str) -> None:
    """The message names the array."""
    learner = BEB(3, 2, 4, rng=np.random.default_rng(0))
    rollout = random_rollout(4, 2, seed=23)
    for name, value in changes.items():
        setattr(rollout, name, value)
    with pytest.raises(ValueError, match=message):
        learner.adapt(rollout)


def test_bad_calls_are_refused() -> None:
    """Observations, states of another batch, oracles that were told nothing, models that clash."""
    learner = BEB(3, 2, 4, rng=np.random.default_rng(0))
    state = learner.initial_state(2)
    with pytest.raises(ValueError, match=r"observation must lie in 0 .. 2"):
        learner.predict(np.array([3, 0]), state)
    with pytest.raises(ValueError, match=r"observation must have shape \[N\]"):
        learner.predict(np.zeros((2, 3), dtype=int), state)
    with pytest.raises(ValueError, match="state holds 2 tasks, but observation 3"):
        learner.predict(np.zeros(3, dtype=int), state)
    with pytest.raises(ValueError, match="episode_start must have shape"):
        learner.predict(np.zeros(2, dtype=int), state, np.array([True]))
    with pytest.raises(ValueError, match="state holds 2 tasks, but the rollout 5"):
        learner.adapt(random_rollout(4, 5, seed=24), state)
    oracle = ValueIteration(3, 2, 4)
    with pytest.raises(ValueError, match="needs to be told the tasks"):
        oracle.predict(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="3 states and 2 actions"):
        oracle.adapt_to_tasks(TWO_STATES)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        finite_horizon_q_values(**TWO_STATES, horizon=0)
    with pytest.raises(ValueError, match="transitions must have shape"):
        finite_horizon_q_values(TWO_STATES["rewards"], np.ones((1, 2, 2, 3)), 2)
    with pytest.raises(ValueError, match="no negative entry"):
        optimistic_q_values(**TWO_STATES, slack=np.full((1, 2, 2), -0.1), horizon=2)
