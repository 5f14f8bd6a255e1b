"""Sub-environments in blocks, each of which a process steps in turn."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from meta_rl.tasks import check_count, take_tasks

EnvFns = Sequence[Callable[[], gym.Env]]


class ProcessBlocks(VectorEnv):
    """What Gymnasium's ``SyncVectorEnv`` does, with blocks of sub-environments in processes.

    Gymnasium's ``AsyncVectorEnv`` has a process for each sub-environment. Here it has one for each
    block, so that hundreds of sub-environments need no more processes than there are cores, and
    those of a block can share what is costly. Autoreset is ``SAME_STEP``. The results do not depend
    on the number of processes.

    Args:
        env_fns: Makers of the sub-environments, N. A block is neighbours; sizes differ by one.
        num_processes: At most N are started. By default one for each core.
        context: How they start, as in :mod:`multiprocessing`.

    Raises:
        ValueError: A count below one.
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
        """How many there are."""
        return len(self._blocks)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes; sub-environment ``i`` gets ``seed + i`` or ``seed[i]``."""
        results = self._processes.call("reset_block", seed, options)
        observations, infos = zip(*results, strict=True)
        return self._joined(observations), self._joined_infos(infos)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all sub-environments."""
        results = self._processes.call("step_block", actions)
        observations, *outcome, infos = zip(*results, strict=True)
        rewards, terminated, truncated = (np.concatenate(parts) for parts in outcome)
        joined = self._joined(observations)
        return joined, rewards, terminated, truncated, self._joined_infos(infos)

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute of each sub-environment, to the value at its place in ``values``."""
        self._processes.call("set_block_attr", name, values)

    def render(self) -> tuple[Any, ...]:
        """One frame per sub-environment."""
        return tuple(frame for frames in self._processes.call("render_block") for frame in frames)

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes; arguments as of ``AsyncVectorEnv.close``."""
        self._processes.close(**kwargs)

    def _joined(self, parts: Sequence[Any]) -> Any:
        space = self.single_observation_space
        single = [
            observation
            for block, part in zip(self._blocks, parts, strict=True)
            for observation in iterate(batch_space(space, block.stop - block.start), part)
        ]
        together: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, single, together)

    def _joined_infos(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One dict of arrays ``[N, ...]``; blocks may lack keys that others have."""
        joined: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part):
            values = [part.get(key) for part in parts]
            known = next(value for value in values if value is not None)
            if isinstance(known, dict):
                joined[key] = self._joined_infos([value or {} for value in values])
                continue
            nothing = None if known.dtype == object else 0
            joined[key] = np.full((self.num_envs, *known.shape[1:]), nothing, known.dtype)
            for block, value in zip(self._blocks, values, strict=True):
                if value is not None:
                    joined[key][block] = value
        return joined


class _Block(gym.Env):
    """A block as the one environment of its process, which gets calls and gives back batches."""

    def __init__(self, env_fns: EnvFns, place: slice) -> None:
        # The others are made at the first call, which only the block in a process gets: Gymnasium
        # makes one in the main process to look at its spaces.
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
        if isinstance(seed, int):
            seed = seed + self._place.start
        elif seed is not None:
            seed = list(seed[self._place])
        self._latest, infos = self._envs.reset(seed=seed, options=options)
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
    """Picklable, for processes."""

    def __init__(self, env_fns: EnvFns, place: slice) -> None:
        self.env_fns, self.place = env_fns, place

    def __call__(self) -> gym.Env:
        return _Block(self.env_fns, self.place)


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
