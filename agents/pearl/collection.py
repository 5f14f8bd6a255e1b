"""Collecting transitions of training tasks, on latent variables that are held through episodes."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.rollout import Rollout, collect_rollout
from meta_rl.task_batch import task_batch
from meta_rl.tasks import FiniteTasks, Tasks, count_tasks, take_tasks
from meta_rl.training_steps import Stop, TrainingSteps

from .encoders import Belief, RecurrentEncoder
from .networks import LatentActorCritic
from .replay import TaskReplay, as_rows


class LatentActor:
    """Columns of sub-environments at work on training tasks.

    Letters: N columns, L latent, A action.

    Args:
        policy: The networks.
        tasks: Index of each column's task, ``[N]``.
        observations: The first, ``[N, ...]``.

    Attributes:
        latents: z of each column, ``[N, L]``.
        starts: True where an episode begins with the next step, bool ``[N]``.
    """

    def __init__(
        self, policy: LatentActorCritic, tasks: np.ndarray, observations: np.ndarray
    ) -> None:
        self.policy, self.tasks, self.observations = policy, tasks, observations
        num = len(tasks)
        self.latents = torch.zeros(num, policy.latent_size, device=policy.device)
        self.starts = np.ones(num, dtype=bool)
        self._held = torch.zeros(num, policy.action_size, device=policy.device)

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """From now on, draw z from these Gaussians ``[N, L]`` where an episode begins."""
        self.mean, self.deviation = mean, variance.sqrt()

    def act(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Choose the policy's actions, for :func:`meta_rl.rollout.collect_rollout`."""
        if self.starts.any():
            drawn = self.mean + self.deviation * self.policy.noise(*self.mean.shape)
            self.latents = torch.where(self._begins(), drawn, self.latents)
        return self._for_the_environment(self.policy.act(observations, self.latents))

    def act_held(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Choose uniform actions, and hold each through an episode."""
        if self.starts.any():
            random = torch.rand(
                self._held.shape, generator=self.policy.generator, device=self._held.device
            )
            self._held = torch.where(self._begins(), 2.0 * random - 1.0, self._held)
        shape = self.policy.action_space.shape or ()
        return self._for_the_environment(self._held.cpu().numpy().reshape(-1, *shape))

    def on_done(self, done: np.ndarray) -> None:
        """Note which episodes a step ended, bool ``[N]``."""
        self.starts = done

    def _begins(self) -> Tensor:
        return torch.from_numpy(self.starts)[:, None].to(self.latents.device)

    def _for_the_environment(self, scaled: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.policy.unscaled(scaled), {"scaled_actions": scaled}


class TaskCollection(MetaAlgorithm):
    """The half of PEARL that collects: from a list of training tasks, into their replay.

    Its settings are arguments of :class:`meta_rl.agents.pearl.PEARL`.

    Attributes:
        train_tasks: The training tasks.
        replay: Their transitions.
    """

    policy: LatentActorCritic
    train_tasks: Tasks
    replay: TaskReplay
    task_choice: str
    num_train_tasks: int
    initial_steps: int
    initial_actions: str
    prior_steps: int
    posterior_steps: int
    extra_steps: int
    context_size: int
    buffer_size: int
    training_reward: str | None
    exploration_episodes: int
    _updating = False

    def _freeze_tasks(self) -> None:
        """The list of training tasks: the family's, or drawn once."""
        if self.train_tasks is not None:  # a loaded agent's
            return
        train = task_batch(self.task_env).task_split.train
        self.task_space = train.space
        if isinstance(train, FiniteTasks):
            self.train_tasks = train.tasks
        else:
            self.train_tasks = train.sample_tasks(self.num_train_tasks, self.rng)

    def _make_replay(self) -> None:
        num_tasks = count_tasks(self.train_tasks)
        self.replay = TaskReplay(
            num_tasks,
            self.buffer_size,
            self.policy.observation_size,
            self.policy.action_size,
            self.device,
        )
        columns = -(-self.meta_batch_size // num_tasks)  # of the same task, at most
        steps = self.prior_steps + self.posterior_steps + self.extra_steps
        least = columns * max(steps, self.initial_steps)
        if self.replay.capacity < least:
            raise ValueError(
                f"buffer_size={self.buffer_size} is too small: {num_tasks} tasks with up to "
                f"{least} steps of each in an iteration need {num_tasks * least}"
            )

    def set_env(self, env: GymEnv | VectorEnv | str, force_reset: bool = True) -> None:
        """Change the environment; another family brings its own tasks, and an empty replay."""
        family = self.family
        super().set_env(env, force_reset)
        if self.family != family:
            self.train_tasks = None
            self._freeze_tasks()
            self._make_replay()

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Collect from training tasks: with z from the prior, then from the posterior."""
        callback.on_rollout_start()
        if self.replay.is_empty and not self._collect_first(callback):
            return False
        work = self._begin(self._choose_tasks())
        rollouts: dict[str, list[Rollout]] = {"prior": [], "posterior": []}
        watch = TrainingSteps(self, callback, self._stop_at(work))
        for kind, steps, to_context in (
            ("prior", self.prior_steps, True),
            ("posterior", self.posterior_steps, True),
            ("posterior", self.extra_steps, False),
        ):
            for stretch in self._stretches(kind, steps // self.envs_per_task):
                rollout = self._collect(work, kind, stretch, to_context, watch)
                if not watch.going_on:
                    return False
                rollouts[kind].append(rollout)
        self._log_rollouts(rollouts)
        callback.on_rollout_end()
        return True

    def _choose_tasks(self) -> np.ndarray:
        """Training tasks ``[M]`` of an iteration: each once, before any comes twice."""
        num_tasks = count_tasks(self.train_tasks)
        passes = -(-self.meta_batch_size // num_tasks)
        orders = [self.rng.permutation(num_tasks) for _ in range(passes)]
        if self.task_choice == "fewest":  # of equal ones, at random
            counts = self.replay.written
            orders = [order[np.argsort(counts[order], kind="stable")] for order in orders]
        return np.concatenate(orders)[: self.meta_batch_size]

    def _stretches(self, kind: str, steps: int) -> list[int]:
        """Lengths of stretches: one for the prior, and by episodes for the posterior.

        The posterior is inferred anew before each stretch.
        """
        if kind == "prior" or steps == 0:
            return [steps] if steps else []
        horizon = task_batch(self.task_env).horizon
        return [min(horizon, steps - begin) for begin in range(0, steps, horizon)]

    def _collect_first(self, callback: BaseCallback) -> bool:
        """Collect the first transitions of every training task; the last batch is filled up."""
        num_tasks = count_tasks(self.train_tasks)
        batches = -(-num_tasks // self.meta_batch_size)
        order = np.arange(batches * self.meta_batch_size) % num_tasks
        steps = self.initial_steps // self.envs_per_task
        for tasks in order.reshape(batches, -1):
            work = self._begin(tasks)
            watch = TrainingSteps(self, callback, self._stop_at(work))
            self._collect(work, "initial", steps, True, watch)
            if not watch.going_on:
                return False
        return True

    def _begin(self, tasks: np.ndarray) -> LatentActor:
        """Set training tasks ``[M]``, forget their contexts, and begin an episode on each."""
        task_batch(self.task_env).set_tasks(take_tasks(self.train_tasks, tasks))
        observations, _ = self.task_env.reset(seed=int(self.rng.integers(2**31)))
        self.replay.begin_context(tasks)
        return LatentActor(self.policy, np.repeat(tasks, self.envs_per_task), observations)

    @torch.no_grad()
    def _collect(
        self, work: LatentActor, kind: str, num_steps: int, to_context: bool, watch: TrainingSteps
    ) -> Rollout:
        """Act on a stretch and store it; z is drawn anew where an episode begins."""
        tasks = torch.from_numpy(work.tasks).to(self.device)
        belief = self.first_belief(tasks)
        if kind == "posterior":
            belief = self.policy.encoder.update(belief, self.sample_context(tasks))
        work.follow(*self.policy.encoder.posterior(belief))
        held = kind == "initial" and self.initial_actions == "held"
        names = [] if self.training_reward is None else [self.training_reward]
        rollout, work.observations = collect_rollout(
            self.task_env,
            watch.watched(work.act_held if held else work.act),
            num_steps,
            work.observations,
            on_done=work.on_done,
            watch=watch,
            info_names=names,
        )
        self._store(work.tasks, rollout, to_context)
        return rollout

    def _store(self, tasks: np.ndarray, rollout: Rollout, to_context: bool) -> None:
        rewards = rollout.rewards
        learned_from = (
            rewards if self.training_reward is None else rollout.extras[self.training_reward]
        )
        actions = rollout.extras["scaled_actions"]
        rows = as_rows(rollout, actions, rewards, learned_from).to(self.device)
        finite = rows.isfinite().all(dim=2).all(dim=0).cpu().numpy()
        if not finite.all():
            self._stop("an observation, action or reward is not finite", tasks[~finite])
        self.replay.add(tasks, rows, to_context)

    def _stop_at(self, work: LatentActor) -> Stop:
        """How the training stops where numbers of a column are not finite."""
        return lambda what, columns: self._stop(what, work.tasks[columns])

    def _stop(self, what: str, tasks: np.ndarray) -> NoReturn:
        """Stop the training, before anything that is not finite is stored or saved."""
        which = [f"{i} ({take_tasks(self.train_tasks, int(i))})" for i in np.unique(tasks)]
        shown = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
        iteration = self._num_iterations + (0 if self._updating else 1)  # train() counts first
        raise FloatingPointError(
            f"{what} in iteration {iteration}, update {self._n_updates}, on training task {shown}"
        )

    def _log_rollouts(self, rollouts: dict[str, list[Rollout]]) -> None:
        """Log the mean return of an episode, and of a trial that is made of such episodes."""
        means = {}
        for kind, parts in rollouts.items():
            if parts:
                ended = sum((part.terminated | part.truncated).sum() for part in parts)
                means[kind] = sum(part.rewards.sum() for part in parts) / max(ended, 1)
                self.logger.record(f"rollout/{kind}_return", means[kind])
        episodes = task_batch(self.task_env).episodes_per_trial
        explored = min(max(self.exploration_episodes, 1), episodes)
        later = means.get("posterior", means["prior"])
        trial = explored * means["prior"] + (episodes - explored) * later
        self.logger.record("rollout/trial_return", trial)

    def first_belief(self, tasks: Tensor) -> Belief:
        """The belief about training tasks (int64 ``[M]``) before any transition."""
        return self.policy.encoder.initial_belief(len(tasks))

    def sample_context(self, tasks: Tensor) -> Tensor:
        """Recent transitions of tasks ``[M]``, as the encoder reads them: ``[M, C, D]``."""
        in_order = isinstance(self.policy.encoder, RecurrentEncoder)
        rows = self.replay.sample_context(
            tasks, self.context_size, self.generator, in_order=in_order
        )
        return rows[..., : self.policy.context_size]
