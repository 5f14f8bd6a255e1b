"""Advantage estimates.

Numbers worked by hand; lambda 1 gives the discounted return less the value, lambda 0 the one-step
errors; nothing flows back over an end; numpy and torch agree; arguments are not written to.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from meta_rl.returns import generalized_advantages

REWARDS = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
VALUES = np.array([[0.5, 0.5], [1.0, 1.0], [1.5, 1.5]])
# The first column runs on to the end, the second one ends after its second step.
NEXT_VALUES = np.array([[1.0, 1.0], [1.5, 0.0], [0.0, 0.0]])
ENDS = np.array([[False, False], [False, True], [True, True]])


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
