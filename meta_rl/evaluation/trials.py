"""Trials of a learner on a batch of held-out tasks, each with its own random streams.

The result of a task's trial depends only on the learner, the task and the seed, for two reasons:

* Every sub-environment has a seed of its own, and a new one for every episode.
* The learner acts on blocks of a fixed number of sub-environments. A task has a fixed place in its
  block, and the block has its own random streams. Where a block's other tasks are not being played,
  copies fill their places. So every operation has the same shape, whatever batch is stepped. This
  is needed because a matrix product of one row rounds differently from one of several rows.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.rollout import Rollout, acting, named_infos, stack_batches, true_successors
from meta_rl.tasks import take_tasks
from meta_rl.vector.task_batch import task_batch

SHORT_HORIZON = 50
SHORT_BLOCK, LONG_BLOCK, LEAST_BLOCK = 1024, 64, 8
"""Number of sub-environments in a block with short episodes, with long episodes (robots), and the
least number. Large blocks are faster for a thousand tasks, small blocks for thirty."""
NUMBERS_IN_BLOCK = 2**15
"""Largest size of a block's observations, unless the block has the least number already."""

_LEARNER, _ENVIRONMENT = 1, 2  # first parts of the spawn keys


class Trials:
    """The trials of a learner, one on each task of a batch.

    Args:
        learner: Learner, as in :func:`meta_rl.evaluate_adaptation`.
        env: Batch of task environments, with the learner's wrappers.
        envs_per_task: Number of sub-environments of each task, which are neighbours in the batch.
        deterministic: Whether the learner takes its most likely actions.
        seed: Seed of the evaluation.
        randomness: Generators of the learner.
    """

    def __init__(
        self,
        learner: Any,
        env: VectorEnv,
        envs_per_task: int,
        *,
        deterministic: bool,
        seed: int,
        randomness: LearnerRandomness,
    ) -> None:
        self.learner = learner
        self.env = env
        self.envs_per_task = envs_per_task
        self.deterministic = deterministic
        self.seed = seed
        self.randomness = randomness
        self._tells_success = False  # by any info so far
        self.by_step = adapts_by_step(learner, env)
        self.horizon = task_batch(env).horizon
        self.tasks_per_block = max(1, block_size(env) // envs_per_task)

    def run(
        self, first_task: int, num_tasks: int, num_episodes: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Runs a trial on every task that is set in the batch.

        Args:
            first_task: Position of the batch's first task among all tasks of the evaluation.
            num_tasks: Number of tasks that are scored; the other sub-environments are ignored.
            num_episodes: Number of episodes in a trial.

        Returns:
            Rewards and successes, ``[num_tasks * envs_per_task, points]`` each; ``None`` in place
            of successes where infos have no ``success``.
        """
        with using_up_states(self.learner):
            return self._run(first_task, num_tasks, num_episodes)

    def _run(
        self, first_task: int, num_tasks: int, num_episodes: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        blocks = self._blocks(first_task, num_tasks)
        columns: list[np.ndarray] = []
        successes: list[np.ndarray] = []
        for episode in range(num_episodes):
            reset: Any = self.env.reset  # Gymnasium's signature has no list of seeds
            observations, _ = reset(seed=self._env_seeds(blocks, episode))
            for block in blocks:
                block.begin(episode)
            earned, succeeded = self._run_episode(blocks, observations)
            columns.extend(earned)
            successes.extend(succeeded)
        scored = slice(num_tasks * self.envs_per_task)
        values = np.stack(columns, axis=1)[scored]
        return values, np.stack(successes, axis=1)[scored] if self._tells_success else None

    def _blocks(self, first_task: int, num_tasks: int) -> list[_Block]:
        places = np.arange(first_task, first_task + num_tasks)
        numbers = places // self.tasks_per_block
        present = np.unique(numbers)
        return [
            _Block(self, int(number), np.flatnonzero(numbers == number), places, len(present) == 1)
            for number in present
        ]

    def _env_seeds(self, blocks: list[_Block], episode: int) -> list[int]:
        """Returns a seed for each sub-environment; sub-environments that are not scored get 0."""
        seeds = np.zeros(self.env.num_envs, dtype=np.uint32)
        for block in blocks:
            own = block.stream(_ENVIRONMENT, episode).generate_state(block.size)
            seeds[block.rows] = own[block.places]
        return [int(seed) for seed in seeds]

    def _run_episode(
        self, blocks: list[_Block], observations: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Steps all until the last episode ends; later steps reach neither learner nor result."""
        scored = np.zeros(self.env.num_envs, dtype=bool)
        for block in blocks:
            scored[block.rows] = True
        active = scored
        start = np.ones(self.env.num_envs, dtype=bool)
        columns: list[np.ndarray] = []
        successes: list[np.ndarray] = []
        steps: list[tuple[Any, ...]] = []
        while active.any():
            actions = self._actions(blocks, observations, start, active)
            following, rewards, terminated, truncated, infos = self.env.step(actions)
            done = terminated | truncated
            successors = true_successors(following, done, infos)
            step = (observations, actions, rewards, terminated, truncated, successors, active)
            steps.append(step)
            observations, start = following, np.zeros_like(done)  # no later episode counts
            columns.append(np.where(active, rewards, 0.0))
            succeeded = told_success(infos, done)
            self._tells_success |= bool(succeeded)
            successes.append(active & succeeded[0] if succeeded else np.zeros_like(active))
            if self.by_step:
                self._adapt(blocks, steps)
                steps = []
            active = active & ~done
        if not self.by_step:
            self._adapt(blocks, steps)
            # Added step by step, as the rounding of np.sum depends on the size of the batch.
            columns = [functools.reduce(np.add, columns)]
            successes = [np.any(successes, axis=0)]
        return columns, successes

    def _actions(
        self, blocks: list[_Block], observations: Any, start: np.ndarray, active: np.ndarray
    ) -> np.ndarray:
        with acting(self.env):
            parts = [block.predict(observations, start, active) for block in blocks]
        first = np.asarray(parts[0])
        actions = np.empty((self.env.num_envs, *first.shape[1:]), dtype=first.dtype)
        actions[:] = first[0]  # for sub-environments that are not scored
        for block, part in zip(blocks, parts, strict=True):
            actions[block.rows] = part
        return actions

    def _adapt(self, blocks: list[_Block], steps: list[tuple[Any, ...]]) -> None:
        if not hasattr(self.learner, "adapt"):
            return
        parts = [stack_batches(list(part)) for part in zip(*steps, strict=True)]
        length = 1 if self.by_step else max(len(steps), self.horizon)
        for block in blocks:
            block.adapt(parts, length)


class _Block:
    """A block of tasks at fixed places, for which the learner acts in one call.

    Attributes:
        size: Number of sub-environments in the block, played or not.
        rows: Indices of the batch's sub-environments that are played in the block.
        places: Places of these sub-environments in the block.
        index: Index of the batch's sub-environment that fills each place of the block.
        state: State of the learner.
    """

    def __init__(
        self, trials: Trials, number: int, present: np.ndarray, tasks: np.ndarray, alone: bool
    ) -> None:
        self.trials = trials
        self.number = number
        self.alone = alone
        per_task = trials.envs_per_task
        self.num_tasks = trials.tasks_per_block
        self.size = self.num_tasks * per_task
        task_at = np.full(self.num_tasks, present[0])
        task_at[tasks[present] % self.num_tasks] = present
        self.index = _sub_environments(task_at, per_task)
        self.rows = _sub_environments(present, per_task)
        self.places = _sub_environments(tasks[present] % self.num_tasks, per_task)
        self.state: Any = None
        self._randomness: Any = None

    def stream(self, use: int, episode: int) -> np.random.SeedSequence:
        """Returns the seed sequence of one use of this block in one episode."""
        key = (use, self.number, episode)
        return np.random.SeedSequence(self.trials.seed, spawn_key=key)

    def begin(self, episode: int) -> None:
        """Seeds the learner for an episode, and tells the tasks to a learner that is told them."""
        randomness = self.trials.randomness
        randomness.seed(self.stream(_LEARNER, episode))
        tell = getattr(self.trials.learner, "adapt_to_tasks", None)
        if episode == 0 and tell is not None:
            self.state = tell(take_tasks(task_batch(self.trials.env).tasks, self.index))
        if not self.alone:
            self._randomness = randomness.state

    def predict(self, observations: Any, start: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Returns the actions of the played sub-environments; updates the state of active ones."""
        active = active[self.index]
        # The states of those whose episode has ended must survive a learner that writes into them.
        state = self.state if active.all() else copy.deepcopy(self.state)
        with self._own_randomness():
            actions, following = self.trials.learner.predict(
                take_tasks(observations, self.index),
                state=state,
                episode_start=start[self.index],
                deterministic=self.trials.deterministic,
            )
        self._update_state(active, following)
        actions = np.asarray(actions)
        if actions.shape[:1] != (self.size,):
            raise ValueError(
                f"predict got {self.size} observations: expected as many actions on the first "
                f"axis, got shape {actions.shape}"
            )
        return actions[self.places]

    def adapt(self, steps: list[Any], length: int) -> None:
        """Lets the learner adapt to steps (time-major parts), padded to a fixed length."""
        parts = [_padded(part, self.index, length) for part in steps]
        mask = parts.pop() & (np.arange(length) < len(steps[-1]))[:, None]
        rollout = Rollout(*parts)
        rollout.mask, rollout.envs_per_task = mask, self.trials.envs_per_task
        with self._own_randomness():
            following = self.trials.learner.adapt(rollout, self.state)
        self._update_state(mask.any(axis=0), following)

    def _update_state(self, active: np.ndarray, following: Any) -> None:
        axis = _task_axis(self.trials.learner)
        self.state = _keep_inactive(active, following, self.state, axis, self.num_tasks)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Sets the learner's generators to this block's streams within the context."""
        if self.alone:
            yield
            return
        randomness = self.trials.randomness
        randomness.state = self._randomness
        yield
        self._randomness = randomness.state


@contextmanager
def using_up_states(learner: Any) -> Iterator[None]:
    """Lets a network write into the states that it is given, which trials do not use again."""
    policy: Any = getattr(learner, "policy", None)
    if not hasattr(policy, "uses_up_states"):
        yield
        return
    before, policy.uses_up_states = policy.uses_up_states, True
    try:
        yield
    finally:
        policy.uses_up_states = before


def block_size(env: VectorEnv) -> int:
    """Returns the number of sub-environments in a block, which depends only on the family.

    Args:
        env: Batch of task environments, with the learner's wrappers.
    """
    most = SHORT_BLOCK if task_batch(env).horizon < SHORT_HORIZON else LONG_BLOCK
    fitting = NUMBERS_IN_BLOCK // max(1, spaces.flatdim(env.single_observation_space))
    return max(LEAST_BLOCK, min(most, 2 ** int(np.log2(max(1, fitting)))))


def told_success(infos: dict[str, Any], done: np.ndarray) -> list[np.ndarray]:
    """Returns the success in this step: a list of one bool array ``[N]``, or an empty list.

    Args:
        infos: Infos of a step of a batch; those of ended episodes are in ``final_info``.
        done: Whether each episode ended, bool ``[N]``.
    """
    if "success" not in infos and "success" not in infos.get("final_info", {}):
        return []
    return [named_infos(infos, done, ["success"])["success"] > 0]


def adapts_by_step(learner: Any, env: VectorEnv) -> bool:
    """Tells whether a learner adapts after every step (bandits: every pull), or every episode."""
    by_step = task_batch(env).adaptation_unit == "step"
    return by_step and getattr(learner, "adapts_by_step", True)


def _sub_environments(tasks: np.ndarray, envs_per_task: int) -> np.ndarray:
    """Returns the indices of the tasks' sub-environments, one task after the other."""
    return (tasks[:, None] * envs_per_task + np.arange(envs_per_task)).reshape(-1)


def _padded(part: Any, index: np.ndarray, length: int) -> Any:
    """Takes sub-environments of a time-major part, and pads it with its last step to a length."""
    if isinstance(part, dict):
        return {key: _padded(value, index, length) for key, value in part.items()}
    times = np.minimum(np.arange(length), len(part) - 1)
    return part[times[:, None], index]


def _task_axis(learner: Any) -> int:
    """Returns the axis of the tasks in the leaves of the learner's state."""
    # Recurrent policies of sb3-contrib have their layers on the first axis, tasks on the second.
    recurrent = hasattr(getattr(learner, "policy", None), "lstm_hidden_state_shape")
    axis = getattr(learner, "state_task_axis", 1 if recurrent else 0)
    return check_count("state_task_axis", axis, least=0)


def _keep_inactive(active: np.ndarray, new: Any, old: Any, axis: int, num_tasks: int) -> Any:
    """Returns the new state of active sub-environments (or tasks), the old one of the others."""
    if old is None or new is None or new is old or active.all():
        return new
    if isinstance(new, dict):
        return {k: _keep_inactive(active, new[k], old[k], axis, num_tasks) for k in new}
    if isinstance(new, tuple | list):
        leaves = [
            _keep_inactive(active, n, o, axis, num_tasks) for n, o in zip(new, old, strict=True)
        ]
        return type(new)(*leaves) if hasattr(new, "_fields") else type(new)(leaves)
    shape = tuple(np.shape(new))
    if len(shape) <= axis or shape[axis] not in (len(active), num_tasks):
        raise ValueError(
            f"episodes end at different times, and so a state has to be kept for each task: its "
            f"leaves need {len(active)} sub-environments (or {num_tasks} tasks) on axis {axis}, "
            f"got {type(new).__name__} of shape {shape}; the learner's attribute state_task_axis "
            "names another axis"
        )
    going_on = np.any(active.reshape(shape[axis], -1), axis=1)
    mask = going_on.reshape(-1, *[1] * (len(shape) - axis - 1))
    if isinstance(new, torch.Tensor):
        return torch.where(torch.as_tensor(mask, device=new.device), new, old)
    return np.where(mask, new, old)
