"""The base of meta-RL agents: Stable-Baselines3's interface over batches of tasks."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from meta_rl.adaptation import Adaptation, adapt_to_task, open_task
from meta_rl.arguments import (
    MOST_RATE,
    PassedOnArguments,
    check_choice,
    check_count,
    check_kind,
    check_number,
    check_seed,
    checked,
    plain,
)
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import FiniteState
from meta_rl.compute.torch_state import find_device, set_generator_state
from meta_rl.files.saved_agent import SavedAgent
from meta_rl.make import (
    as_task_vec,
    family_name,
    find_env_id,
    make_task_vec,
)
from meta_rl.rollout import Rollout
from meta_rl.vector.sb3_view import TaskVecEnvView
from meta_rl.vector.streams import TaskStreams
from meta_rl.vector.task_batch import numpy_view, task_batch
from meta_rl.vector.tensor_draws import CopiedDraws


class MetaAlgorithm(PassedOnArguments, FiniteState, SavedAgent):
    """Base class of agents, whose training is a loop of :meth:`collect_rollouts` and :meth:`train`.

    Every iteration draws a meta-batch of tasks from the training split and resets the environment
    with a new seed. An iteration depends only on the parameters, the optimisers and the generators
    :attr:`rng` and :attr:`generator`, all of which :meth:`save` keeps. Hence a run that was killed
    and resumed ends with the parameters of an undisturbed one. Global generators are never seeded.

    Where ``torchrun`` started several ranks (:mod:`meta_rl.compute.ranks`), each rank steps an
    equal share of the meta-batch. All random numbers of a sub-environment, those of its actions
    included, then come from streams of its own, so that the result does not depend on the number of
    ranks.

    Args:
        policy: Policy class, or its name in ``policy_aliases``.
        env: Environment id, :class:`meta_rl.TaskVectorEnv`, argument of
            :func:`meta_rl.make.as_task_vec`, or view of a batch by :func:`meta_rl.sb3_env`.
        learning_rate: Step size of the outer optimiser: a number, or a function of the remaining
            progress (1 to 0).
        meta_batch_size: Number of tasks at a time, M, where ``env`` is an id; otherwise it is the
            number of sub-environments divided by :attr:`envs_per_task`.
        env_kwargs: Arguments of the environment, where ``env`` is an id (default: none).
        policy_kwargs: Arguments of the policy (default: none).
        stats_window_size: Number of episodes in the logged means (default: 100).
        tensorboard_log: Folder of TensorBoard events (default: no events are written).
        verbose: Amount of output: 0 for none (default), 1 for the training log, 2 for more.
        seed: Seed of both generators (default: from the system's entropy).
        device: Device of the networks (default: a GPU if there is one).
        **settings: Arguments of the base class, by name, where a subclass passes them on.

    Attributes:
        envs_per_task: Number of sub-environments of each task, B (1 unless a subclass sets it).
        action_spaces: Classes of the action spaces that the algorithm can handle.
        row_draws: Streams of the actions' random numbers, one for each sub-environment; ``None``
            without ranks, where :attr:`generator` draws them.

    Raises:
        ValueError: A name is unknown, a count is below one, a number is outside its range, the
            action space is not supported, or there is no environment (only :meth:`load` works
            without one).
    """

    envs_per_task: int = 1
    action_spaces: ClassVar[tuple[type[gym.Space], ...]] = (spaces.Discrete, spaces.Box)
    loss_column: ClassVar[str] = "train/loss"
    adapts_by_step: ClassVar[bool] = True
    """Whether the agent adapts after every step of families whose adaptation unit is a step."""
    pools_episodes: ClassVar[bool] = False
    """Whether :meth:`adapt` takes episodes of ``envs_per_task`` sub-environments as one task."""
    policy: Any
    env: TaskVecEnvView | None
    row_draws: CopiedDraws | None = None

    def __init__(
        self,
        policy: str | type[Any],
        env: GymEnv | VectorEnv | str | None,
        learning_rate: float | Schedule,
        *,
        meta_batch_size: int,
        env_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        ranks.check_divisible(self)
        self.meta_batch_size = check_count("meta_batch_size", meta_batch_size)
        self.env_kwargs: dict[str, Any] = plain(dict(env_kwargs or {}))  # checkpoints hold them
        self.family: str | None = None
        self.env_id = _registered_id(env)
        check_count("stats_window_size", stats_window_size)
        check_count("verbose", verbose, least=0)
        check_seed(seed)
        if isinstance(policy, str):
            check_choice("policy", policy, self.policy_aliases)
        else:
            check_kind("policy", policy, type, "a class, or a name")
        device = find_device(device)
        if not callable(learning_rate):
            check_number("learning_rate", learning_rate, least=0.0, most=MOST_RATE)
        if isinstance(env, str):
            env = self._make_env(env)
        super().__init__(
            policy,
            None if env is None else self._wrap_env(env),
            plain(learning_rate),
            policy_kwargs=plain(policy_kwargs),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.rng = np.random.default_rng(0)
        self._seeded = False
        self.generator = torch.Generator(self.device)
        self._generator_state: np.ndarray | None = None
        self._num_iterations = 0
        if env is not None:
            if not isinstance(self.action_space, self.action_spaces):
                names = ", ".join(space.__name__ for space in self.action_spaces)
                raise ValueError(
                    f"{type(self).__name__} takes actions in {names}, not {self.action_space}"
                )
            self.family = family_name(self.task_env)

    def _make_env(self, env_id: str) -> VectorEnv:
        """Makes this rank's share of the sub-environments."""
        num_tasks = ranks.share("meta_batch_size", self.meta_batch_size)
        return make_task_vec(env_id, num_tasks, self.envs_per_task, **self.env_kwargs)

    def _check_num_envs(self, num_envs: int) -> None:
        """Refuses a number of sub-environments that the settings do not divide."""
        if num_envs % self.envs_per_task:
            raise ValueError(
                f"{num_envs} sub-environments are no whole number of tasks with "
                f"envs_per_task={self.envs_per_task} each"
            )

    @classmethod
    def wrap_env(cls, env: VectorEnv) -> VectorEnv:
        """Returns task environments as this agent sees them: with numpy arrays, by default."""
        return numpy_view(env)

    @classmethod
    def _wrap_env(cls, env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> TaskVecEnvView:
        """Returns Stable-Baselines3's view of task environments in any form."""
        if isinstance(env, VecEnv) and not isinstance(env, TaskVecEnvView):
            raise ValueError(
                f"{cls.__name__} needs tasks: give an environment id, a TaskVectorEnv or "
                f"meta_rl.sb3_env(...), not a {type(env).__name__}"
            )
        return TaskVecEnvView(cls.wrap_env(as_task_vec(getattr(env, "task_env", env))))

    @property
    def task_env(self) -> VectorEnv:
        """The batch of task environments that the agent rolls out on.

        Raises:
            ValueError: The agent was made or loaded without an environment.
        """
        if self.env is None:
            raise ValueError(f"this {type(self).__name__} has no environment: call set_env(env)")
        return self.env.task_env

    def set_env(self, env: GymEnv | VectorEnv | str, force_reset: bool = True) -> None:
        """Replaces the environment by one with the same spaces.

        Args:
            env: Environment in any form that the constructor takes; an id makes as many
                sub-environments as before.
            force_reset: Not used, but an argument of Stable-Baselines3; every iteration begins with
                a reset.

        Raises:
            ValueError: The spaces differ, or the settings do not divide the number of
                sub-environments; the agent keeps its environment.
        """
        env_id = _registered_id(env)
        if isinstance(env, str):
            env = self._make_env(env)
        view = self._wrap_env(env)
        check_for_correct_spaces(view, self.observation_space, self.action_space)
        self._check_num_envs(view.num_envs)
        self.n_envs = view.num_envs  # Stable-Baselines3 allows no other
        super().set_env(view, force_reset)
        self.meta_batch_size = self.n_envs // self.envs_per_task * ranks.size()
        self.family = family_name(self.task_env)
        self.env_id = env_id

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds the agent's generators; ``None`` takes a seed from the system's entropy."""
        sequence = np.random.SeedSequence(ranks.same_seed(seed))
        self.rng = np.random.default_rng(sequence)
        self.generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        self._seeded = True

    def _setup_model(self) -> None:
        """Seeds a new agent, and makes the networks."""
        if not hasattr(self, "observation_space"):  # neither loaded nor of an environment
            raise ValueError(f"{type(self).__name__} needs an environment; only load does without")
        self._setup_lr_schedule()
        if self.env is not None:  # a loaded agent may have another number of sub-environments
            self._check_num_envs(self.n_envs)
            self.meta_batch_size = self.n_envs // self.envs_per_task * ranks.size()
        if not self._seeded:
            self.set_random_seed(self.seed)
        with torch.random.fork_rng(devices=[]):  # PyTorch draws weights, which are then replaced
            self._make_networks()
        if self._generator_state is not None:
            set_generator_state(self.generator, torch.from_numpy(self._generator_state))

    @abstractmethod
    def _make_networks(self) -> None:
        """Makes the policy and its optimisers; :attr:`generator` draws the first weights."""

    def _grown(self, growth: float) -> float:
        """Returns the share of a trial's steps that grows from 0.1 to 1 in a part of the training.

        Args:
            growth: Fraction of the training in which it grows, 0 to 1.
        """
        done = 1.0 - self._current_progress_remaining
        return 1.0 if done >= growth else max(0.1, done / growth)

    def begin_tasks(self) -> Any:
        """Draws and sets a meta-batch of training tasks, and returns the first observations."""
        tasks = task_batch(self.task_env).task_split.train.sample_tasks(
            self.meta_batch_size, self.rng
        )
        task_batch(self.task_env).set_tasks(ranks.own(tasks))
        return self.reset_envs()

    def reset_envs(self) -> Any:
        """Begins episodes with a new seed in all sub-environments; returns first observations."""
        seed = int(self.rng.integers(2**31))
        if not ranks.together():
            return self.task_env.reset(seed=seed)[0]
        rows = ranks.own(np.arange(self.n_envs * ranks.size(), dtype=np.uint64))
        seeds = np.uint64(seed << 32) + rows
        self.row_draws = CopiedDraws(TaskStreams(seeds + np.uint64(1 << 63)), self.device)
        reset: Any = self.task_env.reset  # Gymnasium's signature has no list of seeds
        return reset(seed=seeds.tolist())[0]

    def check_length(self, num_steps: int) -> str:
        """Refuses a training that would end before its first update.

        Args:
            num_steps: Number of environment steps of the training.

        Returns:
            Description of the steps before the first iteration; empty if there are none.

        Raises:
            ValueError: The settings need more steps.
        """
        return ""

    @abstractmethod
    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Collects the data of an iteration; returns ``False`` if the callback stops training."""

    @abstractmethod
    def train(self) -> None:
        """Makes the outer update, on the data of :meth:`collect_rollouts`."""

    @abstractmethod
    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Learns the tasks from a little data.

        Args:
            rollout: Experience of M tasks.
            state: State to adapt further (default: the state before any data).

        Returns:
            State, each leaf of which has a leading task axis.
        """

    def open_task(self, env_or_task: Any, task: Any = None) -> VectorEnv:
        """Makes the batch of one task in which the agent acts, with its own wrappers.

        Its observations are those that :meth:`predict` takes: agents with memory see the previous
        step too.

        Args:
            env_or_task: A task, an environment or an id, as in :meth:`adapt_to`.
            task: Task to set in the environment (default: the task that the environment has).
        """
        return open_task(self, env_or_task, task)

    def adapt_to(
        self,
        env_or_task: Any,
        task: Any = None,
        num_episodes: int | None = None,
        *,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> Adaptation:
        """Adapts the trained agent to one task: plays episodes of it, and learns from each.

        The agent's parameters and generators stay as they are. To go on acting on the task with an
        agent that sees the previous step, make the batch first: ``env = model.open_task(my_env)``,
        ``state, returns = model.adapt_to(env)``.

        Args:
            env_or_task: A task of the family that the agent was trained on by its id; or a
                Gymnasium environment with the spaces of the training, whose episodes end; or an
                environment id; or a batch from :meth:`open_task`.
            task: Task to set in the environment (default: the task that the environment has).
            num_episodes: Number of episodes (default: ``episodes_per_trial`` of the environment, or
                of the agent's own). Agents that adapt to ``envs_per_task`` episodes at a time play
                so many each time.
            deterministic: Whether the most likely actions are taken (default: False).
            seed: Seed of the environment and of the agent's draws (default: the environment is not
                seeded, and the draws are fresh).

        Returns:
            The state for :meth:`predict`, and the return of each episode ``[num_episodes]``.

        Raises:
            TypeError: An environment is needed, and something else is given.
            ValueError: The environment has other spaces, the task is outside its space or cannot
                be set, or the agent was not trained on an environment id.
        """
        return adapt_to_task(
            self, env_or_task, task, num_episodes, deterministic=deterministic, seed=seed
        )

    @checked
    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Meta-trains the agent.

        Args:
            total_timesteps: Least number of environment steps, over all sub-environments; the last
                iteration is completed.
            callback: Callbacks of Stable-Baselines3; ``on_rollout_start`` is called between
                iterations (default: none). They may evaluate the agent at any time, but in
                ``on_step`` only on another environment than that of the training.
            log_interval: Number of iterations between two lines of the log (default: 1); ``None``
                for no log.
            tb_log_name: Name of the run in TensorBoard (default: name of the algorithm).
            reset_num_timesteps: Whether the count of steps begins at 0 (default: True); otherwise
                the steps are added to the former count.
            progress_bar: Whether a progress bar is shown, by tqdm and rich (default: False).

        Raises:
            FloatingPointError: A reward, an observation, an action, a loss, a gradient or a
                parameter is not finite.
            ValueError: A number is out of its range, the training would end before its first
                update, a callback resets its environment in a rollout, or there is no environment.
        """
        check_count("total_timesteps", total_timesteps, least=0)
        for one in callback if isinstance(callback, list) else [callback]:
            if not (one is None or callable(one)):
                check_kind("callback", one, BaseCallback, "a callback of Stable-Baselines3")
        if log_interval is not None:
            check_count("log_interval", log_interval)
        tasks = task_batch(self.task_env)  # refuses a missing environment
        self.check_length(total_timesteps)
        total_timesteps, callback = self._setup_learn(
            total_timesteps,
            callback,
            reset_num_timesteps,
            tb_log_name or type(self).__name__,
            progress_bar and ranks.is_first(),
        )
        if reset_num_timesteps:
            self._num_iterations = 0
        callback.on_training_start(locals(), globals())
        try:
            while self.num_timesteps < total_timesteps and self.collect_rollouts(callback):
                self._num_iterations += 1
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self.train()
                self.check_update(
                    self._num_iterations, self.logger.name_to_value.get(self.loss_column)
                )
                if log_interval is not None and self._num_iterations % log_interval == 0:
                    self.dump_logs()
        finally:
            tasks.set_tasks(None)
        callback.on_training_end()
        return self

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self._custom_logger or (self.tensorboard_log is not None and ranks.is_first()):
            return super()._setup_learn(*args, **kwargs)
        # Stable-Baselines3's own logger would leave a temporary folder behind.
        shown = self.verbose and ranks.is_first()
        self.set_logger(Logger(None, [HumanOutputFormat(sys.stdout)] if shown else []))
        try:
            return super()._setup_learn(*args, **kwargs)
        finally:
            self._custom_logger = False

    def dump_logs(self) -> None:
        """Writes a line of the log."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        steps = self.num_timesteps - self._num_timesteps_at_start
        for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
            if self.ep_info_buffer:
                mean = float(np.mean([episode[key] for episode in self.ep_info_buffer]))
                self.logger.record(f"rollout/{name}", mean)
        self.logger.record("time/iterations", self._num_iterations, exclude="tensorboard")
        self.logger.record("time/fps", int(steps / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    @property
    def current_iteration(self) -> int:
        """Number of the iteration that is being trained, from 1."""
        return self._num_iterations

    def learned(self) -> dict[str, Any]:
        """Returns what is learned, by name: the networks and their optimisers."""
        parts = {name: recursive_getattr(self, name) for name in self._get_torch_save_params()[0]}
        kinds = (torch.nn.Module, torch.optim.Optimizer)
        return {name: part for name, part in parts.items() if isinstance(part, kinds)}


def _registered_id(env: Any) -> str | None:
    """Returns the id that an environment is given by, without a module; ``None`` for objects."""
    return find_env_id(env).rpartition(":")[2] if isinstance(env, str) else None
