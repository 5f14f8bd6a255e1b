"""Adaptation of one trained agent to one task, for use after meta-training.

:meth:`meta_rl.MetaAlgorithm.adapt_to` is the method for users. An evaluation over many tasks is
:func:`meta_rl.evaluate_adaptation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count, check_flag
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.make import as_task_vec, make_task_vec
from meta_rl.rollout import Rollout, Step, collect_episodes, stack_batches, true_successors
from meta_rl.tasks import FiniteTasks, TaskSplit, add_task_axis, as_task, count_tasks, take_tasks
from meta_rl.vector.task_batch import NumpyView, numpy_view, task_batch


class Adaptation(NamedTuple):
    """The result of an adaptation to one task; ``state, returns = ...`` unpacks it.

    Attributes:
        state: State for ``predict``, whose leaves have one task on their leading axis.
        returns: Return of each episode, float64 ``[num_episodes]``. The first one is earned before
            the agent has adapted to anything. Where the agent adapts to several episodes at a time
            (MAML-TRPO, ProMP), each is their mean.
    """

    state: Any
    returns: np.ndarray


class Adaptable(Protocol):
    """The part of an agent that :func:`adapt_to_task` needs."""

    observation_space: Any
    action_space: Any
    pools_episodes: ClassVar[bool]
    adapts_by_step: ClassVar[bool]
    envs_per_task: int
    env_id: str | None
    env_kwargs: dict[str, Any]

    def wrap_env(self, env: VectorEnv) -> VectorEnv:
        """Returns task environments as the agent sees them."""
        ...

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Returns the state after some data of the task."""
        ...

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Returns actions and the state."""
        ...


def open_task(agent: Adaptable, env_or_task: Any, task: Any = None) -> VectorEnv:
    """Makes the batch of one task in which an agent acts, with the agent's own wrappers.

    Args:
        agent: Trained agent.
        env_or_task: A task of the agent's own family; a Gymnasium environment; an environment id;
            or what this function returned before.
        task: Task to set in the environment (default: the task that the environment has).

    Raises:
        TypeError: An environment is needed, and something else is given.
        ValueError: The environment has other spaces or no tasks to set, the task is outside its
            space, or the agent was not trained on an environment id.
    """
    batch: Any
    if isinstance(env_or_task, gym.Env):
        has_tasks = hasattr(env_or_task.unwrapped, "task_split") and task is not None
        own = None if has_tasks else _OneTask(env_or_task, *_only_task(agent, task))
        batch = env_or_task if own is None else own
        task = task if own is None else own.task
    elif isinstance(env_or_task, VectorEnv):
        batch = env_or_task
    elif isinstance(env_or_task, str):
        batch = make_task_vec(env_or_task, 1, _num_columns(agent))
    else:
        if task is not None:
            raise TypeError(f"expected an environment before the task, got {env_or_task!r}")
        batch, task = _own_family(agent), env_or_task
    if not isinstance(batch, NumpyView):
        batch = numpy_view(agent.wrap_env(as_task_vec(batch)))
    _check_spaces(agent, batch)
    _set_task(batch, task)
    return batch


def adapt_to_task(
    agent: Adaptable,
    env_or_task: Any,
    task: Any = None,
    num_episodes: int | None = None,
    *,
    deterministic: bool = False,
    seed: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Adaptation:
    """Adapts an agent to one task; see :meth:`meta_rl.MetaAlgorithm.adapt_to`.

    Args:
        agent: Trained agent.
        env_or_task: Task or environment.
        task: Task to set in the environment (default: the task that the environment has).
        num_episodes: Number of episodes (default: ``episodes_per_trial``).
        deterministic: Whether the most likely actions are taken (default: False).
        seed: Seed of the environment and of the agent's draws (default: none).
        on_step: Function that is called before every step with the number of the episode, from 0,
            and that of the repetition, where a single environment plays the episodes of an agent
            that adapts to several at a time (default: none).
    """
    check_flag("deterministic", deterministic)
    if seed is not None:
        check_count("seed", seed, least=0)
    env = open_task(agent, env_or_task, task)
    base = task_batch(env)
    default = _episodes_per_trial(agent, base) if num_episodes is None else num_episodes
    episodes = check_count("num_episodes", default)
    randomness = LearnerRandomness(agent)
    try:
        with randomness.kept():
            randomness.seed(np.random.SeedSequence(seed))
            return _Trial(agent, env, deterministic, seed, on_step).run(episodes)
    finally:
        if not isinstance(env_or_task, gym.Env | VectorEnv):
            env.close()


class _Trial:
    """A trial on one task: episodes, and an adaptation after each (bandits: after each step)."""

    def __init__(
        self,
        agent: Adaptable,
        env: VectorEnv,
        deterministic: bool,
        seed: int | None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.agent = agent
        self.env = env
        self.deterministic = deterministic
        self.by_step = task_batch(env).adaptation_unit == "step" and agent.adapts_by_step
        self.repeats = _num_columns(agent) // env.num_envs
        self.on_step = on_step
        self.state: Any = None
        self._place = (0, 0)  # numbers of the episode and of the repetition
        self._observations: Any = self.env.reset(seed=seed)[0]
        self._start = np.ones(env.num_envs, dtype=bool)

    def run(self, num_episodes: int) -> Adaptation:
        tell = getattr(self.agent, "adapt_to_tasks", None)
        if tell is not None:
            self.state = tell(task_batch(self.env).tasks)
        returns = [self._adapted_to_episode(number) for number in range(num_episodes)]
        return Adaptation(self.state, np.array(returns, dtype=np.float64))

    def _adapted_to_episode(self, number: int) -> float:
        rollouts = [self._episode((number, repeat)) for repeat in range(self.repeats)]
        if not self.by_step:
            self.state = self.agent.adapt(_side_by_side(rollouts), self.state)
        columns = [np.where(_mask(one), one.rewards, 0.0).sum(axis=0) for one in rollouts]
        return float(np.mean(columns))

    def _episode(self, place: tuple[int, int]) -> Rollout:
        """Plays one episode in every sub-environment; the next one has begun when it returns."""
        self._place = place
        self._start[:] = True
        latest: Any = None

        def watch(step: Step) -> bool:
            nonlocal latest
            if self.by_step:
                self._adapt_to_step(step)
            latest = step.following
            return True

        rollout = collect_episodes(self.env, self._act, self._observations, watch=watch)
        together = rollout.mask is None or rollout.mask[-1].all()
        self._observations = latest if together else self.env.reset()[0]
        return rollout

    def _act(self, observations: Any) -> tuple[Any, dict[str, Any]]:
        self._seen = observations
        if self.on_step is not None:
            self.on_step(*self._place)
        actions, self.state = self.agent.predict(
            observations, self.state, self._start, self.deterministic
        )
        self._start = np.zeros_like(self._start)
        return actions, {}

    def _adapt_to_step(self, step: Step) -> None:
        done = step.terminated | step.truncated
        successors = true_successors(step.following, done, step.infos)
        parts = (self._seen, step.actions, step.rewards, step.terminated, step.truncated)
        rollout = Rollout(*(stack_batches([part]) for part in (*parts, successors)))
        self.state = self.agent.adapt(rollout, self.state)


class _OneTask(gym.Env):
    """A view of an environment as one with a single task, which is the task that it has.

    Args:
        env: Environment, whose task is never set.
        space: Space of the task.
        task: Task, for agents that are told it.
    """

    def __init__(self, env: gym.Env, space: spaces.Space, task: Any) -> None:
        self.env, self.task = env, task
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode, self.spec = env.metadata, env.render_mode, env.spec
        base = env.unwrapped
        self.horizon = getattr(base, "horizon", None) or np.iinfo(np.int64).max
        self.adaptation_unit = getattr(base, "adaptation_unit", "episode")
        self.episodes_per_trial = getattr(base, "episodes_per_trial", 0)
        only = FiniteTasks(space, add_task_axis(task))
        self.task_split = TaskSplit(only, only, only)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.env.step(action)

    def render(self) -> Any:
        return self.env.render()


def _own_family(agent: Adaptable) -> VectorEnv:
    """Makes a batch of the environment that the agent was trained on, by its id."""
    if agent.env_id is None:
        raise ValueError(
            f"this {type(agent).__name__} was not trained on an environment id, so that a task "
            "alone does not tell its environment: call adapt_to(env, task)"
        )
    if agent.env_id not in gym.registry:  # a file names it, and a file imports nothing
        raise ValueError(
            f"the agent was trained on {agent.env_id}, which is not registered: import the module "
            "that registers it first, or call adapt_to(env, task)"
        )
    return make_task_vec(agent.env_id, 1, _num_columns(agent), **agent.env_kwargs)


def _num_columns(agent: Adaptable) -> int:
    """Returns the number of episodes that the agent adapts to at a time."""
    return agent.envs_per_task if agent.pools_episodes else 1


def _only_task(agent: Adaptable, task: Any) -> tuple[spaces.Space, Any]:
    """Returns space and task of an environment in which no task is set."""
    if not hasattr(agent, "adapt_to_tasks"):
        if task is not None:
            raise ValueError("the environment has no task_split, so that no task can be set in it")
        return spaces.Discrete(1), np.int64(0)
    if task is None:
        raise ValueError(f"{type(agent).__name__} is told the task: call adapt_to(env, task)")
    space: Any = agent.task_space  # type: ignore[attr-defined]
    return space, as_task(space, task)


def _check_spaces(agent: Adaptable, env: VectorEnv) -> None:
    if env.num_envs not in (1, _num_columns(agent)):
        raise ValueError(
            f"expected a batch of one task with 1 or {_num_columns(agent)} sub-environments, got "
            f"{env.num_envs}"
        )
    for name in ("observation", "action"):
        wanted = getattr(agent, f"{name}_space")
        given = getattr(env, f"single_{name}_space")
        if wanted != given:
            raise ValueError(
                f"the agent was trained with the {name} space {wanted}, but the environment has "
                f"{given}"
            )


def _set_task(env: VectorEnv, task: Any) -> None:
    """Sets one task, so that a trial on it begins at the next reset."""
    base = task_batch(env)
    if task is not None:
        base.set_tasks(add_task_axis(as_task(base.task_split.space, task)))
        return
    tasks = base.tasks if base.pending_tasks is None else base.pending_tasks
    if tasks is None:
        raise ValueError("which task? Give it: adapt_to(env, task)")
    first = take_tasks(tasks, [0])
    for i in range(count_tasks(tasks)):
        if not _same(take_tasks(tasks, [i]), first):
            raise ValueError("the sub-environments have different tasks; adapt_to needs one task")
    base.set_tasks(first)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return all(_same(left[key], right[key]) for key in left)
    return bool(np.array_equal(left, right))


def _episodes_per_trial(agent: Adaptable, base: Any) -> int:
    """Returns the length of a trial, in episodes: the environment's, or else the agent's."""
    if base.episodes_per_trial:
        return int(base.episodes_per_trial)
    trained = getattr(agent, "env", None)
    return 1 if trained is None else int(task_batch(trained.task_env).episodes_per_trial)


def _mask(rollout: Rollout) -> np.ndarray:
    return np.ones(rollout.rewards.shape, dtype=bool) if rollout.mask is None else rollout.mask


def _side_by_side(rollouts: list[Rollout]) -> Rollout:
    """Joins rollouts as columns of one task, padded to the longest with copies of the last step."""
    length = max(len(one.rewards) for one in rollouts)

    def joined(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: joined([part[key] for part in parts]) for key in parts[0]}
        times = np.arange(length)
        return np.concatenate([part[np.minimum(times, len(part) - 1)] for part in parts], axis=1)

    names = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    made = Rollout(*(joined([getattr(one, name) for one in rollouts]) for name in names))
    masks = [np.pad(_mask(one), ((0, length - len(one.rewards)), (0, 0))) for one in rollouts]
    made.mask = np.concatenate(masks, axis=1)
    made.envs_per_task = made.rewards.shape[1]
    return made
