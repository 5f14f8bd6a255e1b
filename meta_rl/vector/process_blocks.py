"""A vector environment whose sub-environments are stepped in blocks, one process each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from meta_rl.arguments import check_count
from meta_rl.compute import ranks
from meta_rl.tasks import take_tasks

EnvFns = Sequence[Callable[[], gym.Env]]


class ProcessBlocks(VectorEnv):
    """A vector environment like Gymnasium's ``SyncVectorEnv``, with blocks in processes.

    Gymnasium's ``AsyncVectorEnv`` has a process for each sub-environment. Here there is one for
    each block. So hundreds of sub-environments need no more processes than there are cores, and the
    sub-environments of a block can share costly objects. The autoreset mode is ``SAME_STEP``. The
    results do not depend on the number of processes.

    Args:
        env_fns: Functions that make the N sub-environments. A block has neighbouring ones, and
            block sizes differ by at most one.
        num_processes: Largest number of processes (default: one for each core); at most N start.
        context: Start method of the processes (default: that of :mod:`multiprocessing`).

    Raises:
        ValueError: A count is below one.
    """

    def __init__(
        self, env_fns: EnvFns, num_processes: int | None = None, *, context: str | None = None
    ) -> None:
        self.num_envs = check_count("num_envs", len(env_fns))
        if num_processes is None:
            num_processes = count_cores()
        num = min(self.num_envs, check_count("num_processes", num_processes))
        ends = [self.num_envs * i // num for i in range(num + 1)]
        self._blocks = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._processes = AsyncVectorEnv(
            [_BlockMaker(env_fns[block], block) for block in self._blocks],
            shared_memory=False,
            context=context,
            autoreset_mode=AutoresetMode.DISABLED,  # blocks reset by themselves
        )
        processes = self._processes
        self.metadata = {**processes.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = processes.render_mode
        self.single_observation_space = processes.single_observation_space
        self.single_action_space = processes.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def num_processes(self) -> int:
        """The number of processes."""
        return len(self._blocks)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes; sub-environment ``i`` gets ``seed + i`` or ``seed[i]``."""
        results = self._processes.call("reset_block", seed, options)
        observations, infos = zip(*results, strict=True)
        return self._merge_observations(observations), self._merge_infos(infos)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all sub-environments."""
        results = self._processes.call("step_block", actions)
        observations, *outcome, infos = zip(*results, strict=True)
        rewards, terminated, truncated = (np.concatenate(parts) for parts in outcome)
        joined = self._merge_observations(observations)
        return joined, rewards, terminated, truncated, self._merge_infos(infos)

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Sets an attribute of each sub-environment to the value at its position in ``values``."""
        self._processes.call("set_block_attr", name, values)

    def render(self) -> tuple[Any, ...]:
        """Renders one frame per sub-environment."""
        return tuple(frame for frames in self._processes.call("render_block") for frame in frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes; takes the arguments of ``AsyncVectorEnv.close``."""
        self._processes.close(**kwargs)

    def _merge_observations(self, parts: Sequence[Any]) -> Any:
        space = self.single_observation_space
        single = [
            observation
            for block, part in zip(self._blocks, parts, strict=True)
            for observation in iterate(batch_space(space, block.stop - block.start), part)
        ]
        together: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, single, together)

    def _merge_infos(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merges the infos of blocks, which may have different keys, to arrays ``[N, ...]``."""
        joined: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part):
            values = [part.get(key) for part in parts]
            known = next(value for value in values if value is not None)
            if isinstance(known, dict):
                joined[key] = self._merge_infos([value or {} for value in values])
                continue
            nothing = None if known.dtype == object else 0
            joined[key] = np.full((self.num_envs, *known.shape[1:]), nothing, known.dtype)
            for block, value in zip(self._blocks, values, strict=True):
                if value is not None:
                    joined[key][block] = value
        return joined


class _Block(gym.Env):
    """A block as the one environment of its process, whose methods return batches."""

    def __init__(self, env_fns: EnvFns, place: slice) -> None:
        # The others are made at the first call, which only the block in a process gets: Gymnasium
        # makes another block in the main process to read its spaces.
        first = env_fns[0]()
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.metadata, self.render_mode = first.metadata, first.render_mode
        self._place = place
        self._env_fns = [lambda: first, *env_fns[1:]]
        self._made: SyncVectorEnv | None = None
        self._latest: Any = None

    @property
    def _envs(self) -> SyncVectorEnv:
        if self._made is None:
            self._made = SyncVectorEnv(
                self._env_fns, copy=False, autoreset_mode=AutoresetMode.SAME_STEP
            )
        return self._made

    def reset_block(
        self, seed: int | Sequence[int] | None, options: dict[str, Any] | None
    ) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        if "reset_mask" in options:
            options["reset_mask"] = options["reset_mask"][self._place]
            if not options["reset_mask"].any():
                return self._latest, {}
        own: Any = seed
        if isinstance(seed, int):
            own = seed + self._place.start
        elif seed is not None:
            own = list(seed[self._place])
        self._latest, infos = self._envs.reset(seed=own, options=options)
        return self._latest, infos

    def step_block(self, actions: Any) -> tuple[Any, ...]:
        self._latest, *outcome = self._envs.step(take_tasks(actions, self._place))
        return self._latest, *outcome

    def set_block_attr(self, name: str, values: Sequence[Any]) -> None:
        self._envs.set_attr(name, list(values[self._place]))

    def render_block(self) -> tuple[Any, ...]:
        return self._envs.render()

    def close(self) -> None:
        (self._made or self._env_fns[0]()).close()


class _BlockMaker:
    """A picklable function that makes a block, for processes."""

    def __init__(self, env_fns: EnvFns, place: slice) -> None:
        self.env_fns, self.place = env_fns, place

    def __call__(self) -> gym.Env:
        return _Block(self.env_fns, self.place)


def count_cores() -> int:
    """Returns the number of cores that this process may use; ranks of one host share them."""
    allowed = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // ranks.num_on_host())
