"""Returns, advantages and the linear baseline.

Numbers worked by hand; lambda 1 gives the discounted return less the value, lambda 0 the one-step
errors; nothing flows back over an end; numpy and torch agree; arguments are not written to. The
baseline equals a ridge regression by hand and numpy's least squares, for each task alone, whatever
fills up the batch.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from meta_rl.policy_gradient.returns import (
    discounted_returns,
    generalized_advantages,
    linear_baseline,
)

REWARDS = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
VALUES = np.array([[0.5, 0.5], [1.0, 1.0], [1.5, 1.5]])
# The first column runs on to the end, the second one ends after its second step.
NEXT_VALUES = np.array([[1.0, 1.0], [1.5, 0.0], [0.0, 0.0]])
ENDS = np.array([[False, False], [False, True], [True, True]])


def test_returns_worked_by_hand() -> None:
    """Discount 1/2: 1 + 2/2 + 3/4 = 2.75; where the second step ends, 1 + 2/2 = 2, and 2 and 3."""
    kept = REWARDS.copy()
    returns = discounted_returns(REWARDS, ENDS, 0.5)
    assert returns.T.tolist() == [[2.75, 3.5, 3.0], [2.0, 2.0, 3.0]]
    tensors = discounted_returns(torch.as_tensor(REWARDS), torch.as_tensor(ENDS), 0.5)
    assert tensors.T.tolist() == returns.T.tolist()
    np.testing.assert_array_equal(REWARDS, kept)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_are_sums_up_to_the_end(discount: float) -> None:
    rewards, _, _, ends = random_arrays()
    returns = discounted_returns(rewards, ends, discount)
    for n in range(4):
        for t in range(7):
            end = next((s for s in range(t, 7) if ends[s, n]), 6)
            powers = discount ** np.arange(end - t + 1)
            assert returns[t, n] == pytest.approx((powers * rewards[t : end + 1, n]).sum())


def test_numbers_worked_by_hand() -> None:
    """Errors are 1, 1.75, 1.5 and 1, 1, 1.5; what flows back is a quarter."""
    advantages = generalized_advantages(REWARDS, VALUES, NEXT_VALUES, ENDS, 0.5, 0.5)
    assert advantages.T.tolist() == [[1.53125, 2.125, 1.5], [1.25, 1.0, 1.5]]


def random_arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.standard_normal((3, 7, 4))
    return [rewards, values, next_values, rng.random((7, 4)) < 0.3]


def test_lambda_zero_gives_one_step_errors() -> None:
    rewards, values, next_values, ends = random_arrays()
    advantages = generalized_advantages(rewards, values, next_values, ends, 0.9, 0.0)
    np.testing.assert_allclose(advantages, rewards + 0.9 * next_values - values)


def test_lambda_one_gives_the_discounted_return_less_the_value() -> None:
    """The return up to the end of the sequence, or to the value after the last step."""
    rewards, values, next_values, ends = random_arrays()
    next_values[:-1] = np.where(ends[:-1], next_values[:-1], values[1:])  # one value function
    advantages = generalized_advantages(rewards, values, next_values, ends, 0.9, 1.0)
    for n in range(4):
        for t in range(7):
            end = next((s for s in range(t, 7) if ends[s, n]), 6)
            steps = np.arange(end - t + 1)
            earned = (0.9**steps * rewards[t : end + 1, n]).sum()
            earned += 0.9 ** (end - t + 1) * next_values[end, n]
            assert advantages[t, n] == pytest.approx(earned - values[t, n])


def test_nothing_flows_back_over_an_end() -> None:
    rewards, values, next_values, _ = random_arrays()
    ends = np.zeros((7, 4), dtype=bool)
    ends[3] = True
    first = generalized_advantages(rewards, values, next_values, ends, 0.9, 0.95)
    rewards[4:] += 100.0
    second = generalized_advantages(rewards, values, next_values, ends, 0.9, 0.95)
    np.testing.assert_array_equal(first[:4], second[:4])
    assert (second[4:] > first[4:] + 99).all()


def test_numpy_and_torch_agree_and_leave_their_arguments() -> None:
    arrays = random_arrays()
    kept = [array.copy() for array in arrays]
    tensors = [torch.as_tensor(array) for array in kept]
    ours = generalized_advantages(*arrays, 0.9, 0.95)
    theirs = generalized_advantages(*tensors, 0.9, 0.95)
    assert isinstance(theirs, torch.Tensor)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12)
    for array, tensor, copied in zip(arrays, tensors, random_arrays(), strict=True):
        np.testing.assert_array_equal(array, copied)
        np.testing.assert_array_equal(tensor.numpy(), copied)


def test_integer_rewards_of_one_step() -> None:
    one = np.ones((1, 1))
    advantages = generalized_advantages(np.array([[2]]), one, one, one > 2, 0.5, 1.0)
    assert advantages.tolist() == [[1.5]]


def task_steps(num_tasks: int = 3, num_steps: int = 40) -> list[torch.Tensor]:
    """Observations ``[M, S, 2]``, times, returns and a full mask, ``[M, S]``."""
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((num_tasks, num_steps, 2))
    times = np.tile(10 * np.arange(num_steps) % 200, (num_tasks, 1))
    returns = 10.0 * rng.standard_normal((num_tasks, num_steps))
    mask = np.ones((num_tasks, num_steps), dtype=bool)
    return [torch.as_tensor(part) for part in (observations, times, returns, mask)]


def features_of(observations: np.ndarray, times: np.ndarray) -> np.ndarray:
    """As the paper writes them, for one task."""
    t = times[:, None] / 100.0
    return np.hstack([observations, observations**2, t, t**2, t**3, np.ones_like(t)])


def test_baseline_is_a_ridge_regression() -> None:
    """``(XᵀX + 1e-5 I)⁻¹ Xᵀ y`` for each task alone, and so close to numpy's least squares."""
    observations, times, returns, mask = task_steps()
    values = linear_baseline(observations, times, returns, mask)
    for task in range(3):
        x, y = features_of(observations[task].numpy(), times[task].numpy()), returns[task].numpy()
        ridge = np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y)
        np.testing.assert_allclose(values[task].numpy(), x @ ridge, rtol=1e-6, atol=1e-6)
        free = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        np.testing.assert_allclose(values[task].numpy(), free, atol=1e-2)
        # At its minimum, half the regression's loss rises in every direction.
        residual = x.T @ (values[task].numpy() - y) + 1e-5 * ridge
        np.testing.assert_allclose(residual, 0.0, atol=1e-6)


def test_baseline_of_one_constant() -> None:
    """Three steps of zeros at time 0 with the mean return 3: 9 / (3 + 1e-5), by hand."""
    zeros = torch.zeros(1, 3, 2)
    returns = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    values = linear_baseline(zeros, torch.zeros(1, 3), returns, torch.ones(1, 3, dtype=bool))
    assert values.tolist()[0] == pytest.approx([9 / (3 + 1e-5)] * 3, rel=1e-9)


def test_baseline_finds_what_it_can_express() -> None:
    """A return that is a combination of its features, of every kind."""
    observations, times, _, mask = task_steps()
    x, y, t = observations[..., 0], observations[..., 1], times / 100.0
    returns = 2.0 * x - y + 0.5 * x**2 - y**2 + 3.0 - 4.0 * t + 20.0 * t**2 - 9.0 * t**3
    values = linear_baseline(observations, times, returns, mask)
    torch.testing.assert_close(values, returns, rtol=0, atol=1e-3)


def test_baseline_clips_observations() -> None:
    """At 10: what is beyond counts as 10."""
    observations, times, returns, mask = task_steps()
    observations[:, ::3] *= 100.0
    clipped = observations.clamp(-10, 10)
    assert (clipped != observations).any()
    torch.testing.assert_close(
        linear_baseline(observations, times, returns, mask),
        linear_baseline(clipped, times, returns, mask),
    )


def test_baseline_does_not_see_what_fills_up() -> None:
    """A task of fewer steps has the values of its steps alone, and 0 elsewhere."""
    observations, times, returns, mask = task_steps()
    mask[1, ::3] = False
    values = linear_baseline(observations, times, returns, mask)
    kept = [part[1:2, mask[1]] for part in (observations, times, returns, mask)]
    torch.testing.assert_close(values[1:2, mask[1]], linear_baseline(*kept))
    assert (values[1, ~mask[1]] == 0).all()
    other = returns.clone()
    other[1, ~mask[1]] += 1000.0
    torch.testing.assert_close(linear_baseline(observations, times, other, mask), values)


def test_baseline_gives_the_kind_of_the_returns() -> None:
    observations, times, returns, mask = task_steps()
    values = linear_baseline(observations.float(), times, returns.float(), mask)
    assert values.dtype == torch.float32
    expected = linear_baseline(observations, times, returns, mask)
    torch.testing.assert_close(values, expected.float(), rtol=1e-3, atol=1e-3)


def test_baseline_depends_on_its_inputs_alone() -> None:
    """What lay in the memory before does not matter, to the last bit."""
    rng = np.random.default_rng(1)
    inputs = task_steps(4, 200)
    inputs[0] = torch.as_tensor(rng.standard_normal((4, 200, 17)))
    expected = linear_baseline(*inputs)
    for _ in range(30):
        left = [torch.randint(-5, 5, (int(size),)) for size in rng.integers(4, 400, size=40)]
        del left
        assert torch.equal(linear_baseline(*inputs), expected)


def test_baseline_of_a_singular_system() -> None:
    """Equal features and large times: rounding leaves no Cholesky factor with a ridge of 1e-5."""
    observations, times, returns, mask = task_steps(2, 400)
    observations = torch.full((2, 400, 5), 10.0, dtype=torch.float64)
    for scale in (1.0, 1e4, 1e6):
        values = linear_baseline(observations, scale * times, returns, mask)
        assert torch.isfinite(values).all()
        residual = (returns - values).mean(dim=1)  # the constant is a feature: no mean is left
        torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-3)
