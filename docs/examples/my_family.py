"""A new family of tasks: one class, and one line that registers it.

python docs/examples/my_family.py
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

import meta_rl
from meta_rl.definition import zeros_for
from meta_rl.tasks import Tasks, held_out_split


class GuessState(NamedTuple):
    """The last guesses, ``[N, 1]``."""

    guess: np.ndarray


class HiddenNumber(meta_rl.TaskFuncEnv):
    """Guess a hidden number between -1 and 1; the reward is the negative error."""

    horizon = 10
    observation_space = spaces.Box(-1, 1, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    task_split = held_out_split(
        meta_rl.UniformTasks(spaces.Box(-1, 1, (1,), np.float64)), num_test=100, seed=0
    )

    def initial(self, rng: np.random.Generator, params: Tasks) -> GuessState:
        """No guess yet; ``params`` are the ``N`` tasks, ``[N, 1]``."""
        return GuessState(zeros_for(params, (1,)))

    def transition(
        self, state: GuessState, action: Any, rng: np.random.Generator, params: Tasks
    ) -> GuessState:
        """The actions ``[N, 1]`` are the next guesses."""
        xp = array_namespace(action)
        return GuessState(xp.astype(action.clip(-1.0, 1.0), xp.float64))

    def observation(self, state: GuessState, rng: np.random.Generator, params: Tasks) -> Any:
        """The last guess, and nothing of the hidden number."""
        return state.guess

    def reward_terms(
        self,
        state: GuessState,
        action: Any,
        next_state: GuessState,
        rng: np.random.Generator,
        params: Tasks,
    ) -> dict[str, Any]:
        """One named term of the reward, ``[N]``; the reward is the sum of all."""
        return {"reward_error": -abs(next_state.guess - params)[:, 0]}


meta_rl.register_task_env("examples/HiddenNumber-v0", f"{__name__}:HiddenNumber")


def main() -> float:
    """Check the family, and see what guessing 0 earns: -0.5 a step, on average."""
    meta_rl.check_task_env("examples/HiddenNumber-v0")
    env = meta_rl.make_task_vec("examples/HiddenNumber-v0", num_tasks=10_000)
    env.reset(seed=0)
    rewards = env.step(np.zeros((10_000, 1), dtype=np.float32))[1]
    return float(rewards.mean())


if __name__ == "__main__":
    print(f"a constant guess of 0 earns {main():.3f} a step")
