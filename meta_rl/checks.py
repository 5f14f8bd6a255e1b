"""Conformance checks for task environments; they are public, for families of your own."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from meta_rl.arguments import check_count, checked
from meta_rl.definition import TaskFuncEnv
from meta_rl.make import find_env_id
from meta_rl.task_env import TaskEnv, TaskVectorEnv
from meta_rl.tasks import FiniteTasks, TaskSplit, as_tasks, take_tasks

NUM_ENVS = 4
NUM_STEPS = 50
NUM_DRAWS = 20


@checked
def check_task_env(env_id: str, *, seed: int = 0, **kwargs: Any) -> None:
    """Checks that a task environment fulfils its contract.

    The checks run in this order:

    1. Gymnasium's ``check_env`` passes. Before it, for a :class:`meta_rl.TaskFuncEnv`, the reward
       terms of a batch have one number for each sub-environment.
    2. The task split draws tasks inside its space, and the same tasks for the same generator. A
       training distribution has at least two tasks, and other generators draw other tasks.
    3. A task that is set persists over resets, and ``info["task"]`` reports it.
    4. A task outside the space is refused.
    5. The same seed gives the same episode. Where the first observation depends on the seed, the
       resets that follow without a seed begin differently too.
    6. Every step's info has reward terms, whose names begin with ``reward_``, such as
       ``info["reward_goal"]``; they sum to the reward.
    7. For a :class:`meta_rl.TaskFuncEnv`, every sub-environment of the native batch gives the same
       results as a batch of one with the same random numbers.

    Args:
        env_id: Environment id, with or without ``meta_rl/`` and the version.
        seed: Seed of the environment, the tasks and the random actions (default: 0).
        **kwargs: Arguments of the environment.

    Raises:
        AssertionError: A check failed; the error states which one, and where.
        ValueError: The id is unknown, or its environment has no tasks.
    """
    name = find_env_id(env_id)
    check_count("seed", seed, least=0)
    with warnings.catch_warnings():
        # Gymnasium warns of unbounded observations, which its own robots have too.
        warnings.filterwarnings("ignore", message=r".*space m\w+imum value is -?infinity")
        made = gym.make(name, **kwargs).unwrapped
        if isinstance(made, TaskEnv):
            _check_leading_axis(made.definition, seed)
        check_env(made, skip_render_check=True)
    env: gym.Env = gym.make(name, **kwargs)
    if not hasattr(env.unwrapped, "task_split"):
        raise ValueError(f"{name} has no task_split, so that there are no tasks to check")
    try:
        _check_task_split(env, seed)
        _check_task_persists(env, seed)
        _check_task_refused(env)
        _check_seeding(env, seed)
        _check_reward_terms(env, seed)
        if isinstance(env.unwrapped, TaskEnv):
            _check_batches_agree(env.unwrapped.definition, seed)
    finally:
        env.close()


def _split(env: gym.Env) -> TaskSplit:
    return env.get_wrapper_attr("task_split")


def _check_task_split(env: gym.Env, seed: int) -> None:
    split = _split(env)
    for name in ("train", "validation", "test", "ood"):
        tasks = getattr(split, name)
        if tasks is None:
            assert name == "ood", f"the task split has no {name}"
            continue
        assert tasks.space == split.space, f"{name} tasks have a space of their own: {tasks.space}"
        drawn = [tasks.sample_tasks(5, np.random.default_rng(seed)) for _ in range(2)]
        as_tasks(split.space, drawn[0], num_tasks=5)
        assert _equal(*drawn), f"{name}: the same generator gives different tasks"
    _check_tasks_differ(split, seed)


def _check_tasks_differ(split: TaskSplit, seed: int) -> None:
    """Checks that draws of training tasks differ, unless the list has one task only."""
    if isinstance(split.train, FiniteTasks) and len(split.train) == 1:
        return
    first, other = (
        split.train.sample_tasks(NUM_DRAWS, np.random.default_rng([seed, i])) for i in range(2)
    )
    differ = any(not _equal(take_tasks(first, 0), take_tasks(first, i)) for i in range(NUM_DRAWS))
    assert differ, f"train: {NUM_DRAWS} draws are all the task {take_tasks(first, 0)}"
    assert not _equal(first, other), "train: two different generators give the same tasks"


def _check_task_persists(env: gym.Env, seed: int) -> None:
    tasks = _split(env).train.sample_tasks(2, np.random.default_rng(seed))
    for i in range(2):
        task = take_tasks(tasks, i)
        _, info = env.reset(seed=seed, options={"task": task})
        assert "task" in info, 'reset returns no info["task"]'
        assert _equal(info["task"], task), f"task {task} was set, but info has {info['task']}"
        for again in (None, seed + 1):
            _, info = env.reset(seed=again)
            assert _equal(info["task"], task), f"a task did not persist over reset(seed={again})"


def _check_task_refused(env: gym.Env) -> None:
    for wrong in (np.full((2, 3, 5, 7), np.nan), "no task"):
        try:
            env.reset(options={"task": wrong})
        except ValueError as error:
            space = str(_split(env).space)
            named = space in str(error) or "expected a dict with keys" in str(error)
            assert named, f"the error for a wrong task does not name its space: {error}"
        else:
            raise AssertionError(f"the task {wrong!r} is outside the space, but was accepted")


def _check_seeding(env: gym.Env, seed: int) -> None:
    def episode() -> list[Any]:
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        record = [observation]
        done = False
        while not done and len(record) < 3 * NUM_STEPS:
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
            record += [observation, reward, done]
        return record

    first, second = episode(), episode()
    same = len(first) == len(second) and all(map(_equal, first, second))
    assert same, "the same seed gives different episodes"
    _check_first_states_differ(env, seed)


def _check_first_states_differ(env: gym.Env, seed: int) -> None:
    """Checks that resets without a seed differ, where first observations are random at all."""
    task = take_tasks(_split(env).train.sample_tasks(1, np.random.default_rng(seed)), 0)
    options = {"task": task}
    seeded = [env.reset(seed=seed + i, options=options)[0] for i in range(NUM_DRAWS)]
    if all(_equal(seeded[0], one) for one in seeded):
        return  # a fixed first state
    resets = [env.reset()[0] for _ in range(NUM_DRAWS)]
    assert any(not _equal(resets[0], one) for one in resets), (
        f"the first observation depends on the seed, but {NUM_DRAWS} resets without a seed all "
        "begin with the same one: draw it from self.np_random (or rng), which is not seeded again"
    )


def _check_reward_terms(env: gym.Env, seed: int) -> None:
    env.action_space.seed(seed)
    env.reset(seed=seed)
    for step in range(NUM_STEPS):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        terms = {key: value for key, value in info.items() if key.startswith("reward_")}
        _check_terms_named(info)
        total = sum(terms.values())
        assert np.isclose(float(reward), total), (
            f"step {step}: reward {reward}, but its terms sum to {total}"
        )
        if terminated or truncated:
            env.reset()


def _check_terms_named(info: dict[str, Any]) -> None:
    assert any(name.startswith("reward_") for name in info), (
        "every step's info needs the terms of the reward, with names that begin with "
        f"reward_, such as info['reward_goal']; it has {sorted(info)}"
    )


def _check_leading_axis(definition: TaskFuncEnv, seed: int) -> None:
    """Checks the shapes of reward terms; an error of Gymnasium's would not name the term."""
    batch = TaskVectorEnv(definition, NUM_ENVS, autoreset_mode=AutoresetMode.DISABLED)
    batch.action_space.seed(seed)
    batch.reset(seed=seed)
    _, rewards, *_, infos = batch.step(batch.action_space.sample())
    _check_terms_named({name: value for name, value in infos.items() if name[0] != "_"})
    for name, term in infos.items():
        assert not name.startswith("reward_") or np.shape(term) == (NUM_ENVS,), (
            f"reward_terms: {name} has shape {np.shape(term)} in a batch of {NUM_ENVS}, but has to "
            f"have one number for each sub-environment, ({NUM_ENVS},)"
        )
    assert np.shape(rewards) == (NUM_ENVS,), (
        f"reward_terms: they sum to the shape {np.shape(rewards)} in a batch of {NUM_ENVS}, but "
        f"have to give one number for each sub-environment, ({NUM_ENVS},)"
    )


def _check_batches_agree(definition: TaskFuncEnv, seed: int) -> None:
    """Compares a batch with as many batches of one, which get the batch's random numbers."""
    rng = np.random.default_rng(seed)
    tasks = definition.task_split.train.sample_tasks(NUM_ENVS, rng)
    batch = TaskVectorEnv(definition, NUM_ENVS, autoreset_mode=AutoresetMode.DISABLED)
    singles = [
        TaskVectorEnv(definition, 1, autoreset_mode=AutoresetMode.DISABLED) for _ in range(NUM_ENVS)
    ]
    recorder = _Recorder(rng)
    batch.set_tasks(tasks)
    batch.np_random = recorder
    batch.action_space.seed(seed)
    record: list[tuple[Any, ...]] = [(None, batch.reset()[0])]
    for _ in range(min(NUM_STEPS, definition.horizon)):
        actions = batch.action_space.sample()
        record.append((actions, *batch.step(actions)[:4]))
        if (record[-1][3] | record[-1][4]).any():
            break
    for i, single in enumerate(singles):
        single.set_tasks(take_tasks(tasks, [i]))
        single.np_random = _Replay(recorder.draws, i)
        for step, (actions, *outcome) in enumerate(record):
            got = [single.reset()[0]] if actions is None else single.step(actions[[i]])[:4]
            for what, alone, together in zip(
                ("observation", "reward", "terminated", "truncated"), got, outcome, strict=False
            ):
                assert _close(alone, take_tasks(together, [i])), (
                    f"step {step}, sub-environment {i}: {what} is {take_tasks(together, [i])} in "
                    f"the batch of {NUM_ENVS}, but {alone} in a batch of one"
                )


class _Recorder(np.random.Generator):
    """A generator that records its draws; each needs the batch as its leading axis."""

    NOT_DRAWS = ("bit_generator", "bytes", "permutation", "shuffle", "spawn")
    METHODS = {n for n in dir(np.random.Generator) if not n.startswith("_")}.difference(NOT_DRAWS)

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng.bit_generator)
        self.draws: list[np.ndarray] = []
        self.inside = False  # within a draw, which numpy may make from other draws

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in _Recorder.METHODS or self.inside:
            return method

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.inside = True
            try:
                draws = method(*args, **kwargs)
            finally:
                self.inside = False
            assert np.ndim(draws) and len(draws) == NUM_ENVS, (
                f"rng.{name} drew shape {np.shape(draws)}: the leading axis of every draw has to "
                f"be the batch ({NUM_ENVS}), or sub-environments share random numbers"
            )
            self.draws.append(np.array(draws))
            return draws

        return recorded


class _Replay(np.random.Generator):
    """A generator that replays the recorded draws of one sub-environment."""

    def __init__(self, draws: list[np.ndarray], index: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.rest = [draw[[index]] for draw in reversed(draws)]

    def __getattribute__(self, name: str) -> Any:
        if name not in _Recorder.METHODS:
            return super().__getattribute__(name)

        def replayed(*args: Any, **kwargs: Any) -> Any:
            assert self.rest, f"a batch of one draws more random numbers than a batch of {NUM_ENVS}"
            return self.rest.pop()

        return replayed


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return np.array_equal(left, right)


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return all(_close(left[key], right[key]) for key in left)
    return np.allclose(left, right, rtol=1e-6, atol=1e-8)
