"""PEARL's collection of transitions from training tasks, with latents held through episodes."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.compute import ranks
from meta_rl.rollout import Rollout, collect_rollout
from meta_rl.tasks import Tasks, count_tasks, take_tasks
from meta_rl.vector.sb3_view import Stop, TrainingSteps
from meta_rl.vector.task_batch import task_batch
from meta_rl.vector.tensor_draws import CopiedDraws

from .encoders import Belief, RecurrentEncoder
from .networks import LatentActorCritic
from .replay import TaskReplay, as_rows


class LatentActor:
    """Actor of a batch of sub-environments on training tasks, with a latent for each.

    Letters: N sub-environments, L latent, A action.

    Args:
        policy: Networks of the agent.
        tasks: Index of each sub-environment's task, ``[N]``, or those of all ranks.
        observations: First observations, ``[N, ...]``.
        draws: Streams of the sub-environments' random numbers (default: the policy's generator).

    Attributes:
        tasks: Index of each sub-environment's task, of this rank.
        all_tasks: Index of each sub-environment's task, of all ranks.
        latents: Latent z of each sub-environment, ``[N, L]``.
        starts: True where an episode begins with the next step, bool ``[N]``.
    """

    def __init__(
        self,
        policy: LatentActorCritic,
        tasks: np.ndarray,
        observations: np.ndarray,
        draws: CopiedDraws | None = None,
    ) -> None:
        self.policy, self.observations, self.draws = policy, observations, draws
        self.tasks, self.all_tasks = ranks.own(tasks), tasks
        num = len(self.tasks)
        self.latents = torch.zeros(num, policy.latent_size, device=policy.device)
        self.starts = np.ones(num, dtype=bool)
        self._held = torch.zeros(num, policy.action_size, device=policy.device)

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the Gaussians ``[N, L]`` that z is drawn from where an episode begins."""
        self.mean, self.deviation = mean, variance.sqrt()

    def act(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Chooses the policy's actions, for :func:`meta_rl.rollout.collect_rollout`."""
        if self.starts.any():
            if self.draws is None:
                noise = self.policy.noise(*self.mean.shape)
            else:  # each row draws where its own episode begins, whatever the others do
                noise = torch.zeros_like(self.mean)
                size = (self.starts.sum(), noise.shape[1])
                begun = self.draws[self.starts]
                noise[self.starts] = begun.standard_normal(size).float()
            drawn = self.mean + self.deviation * noise
            self.latents = torch.where(self._new_episodes(), drawn, self.latents)
        return self._unscaled(self.policy.act(observations, self.latents, False, self.draws))

    def act_held(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Chooses uniform actions, and holds each through an episode."""
        if self.starts.any():
            if self.draws is None:
                random = torch.rand(
                    self._held.shape, generator=self.policy.generator, device=self._held.device
                )
            else:
                random = torch.zeros_like(self._held)
                size = (self.starts.sum(), random.shape[1])
                random[self.starts] = self.draws[self.starts].random(size).float()
            self._held = torch.where(self._new_episodes(), 2.0 * random - 1.0, self._held)
        shape = self.policy.action_space.shape or ()
        return self._unscaled(self._held.cpu().numpy().reshape(-1, *shape))

    def on_done(self, done: np.ndarray) -> None:
        """Notes which episodes have ended with a step, bool ``[N]``."""
        self.starts = done

    def _new_episodes(self) -> Tensor:
        return torch.from_numpy(self.starts)[:, None].to(self.latents.device)

    def _unscaled(self, scaled: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.policy.unscaled(scaled), {"scaled_actions": scaled}


class TaskCollection(MetaAlgorithm):
    """Mixin of PEARL that collects transitions from a list of training tasks into a replay.

    Its settings are arguments of :class:`meta_rl.agents.pearl.PEARL`.

    Attributes:
        train_tasks: List of training tasks.
        replay: Replay of their transitions.
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
        """Fixes the list of training tasks, which is the family's or is drawn once."""
        if self.train_tasks is not None:  # those of a loaded agent
            return
        train = task_batch(self.task_env).task_split.train
        self.task_space = train.space
        listed = getattr(train, "tasks", None)  # of FiniteTasks
        drawn = listed is None
        self.train_tasks = train.sample_tasks(self.num_train_tasks, self.rng) if drawn else listed

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
        """Changes the environment; another family brings its own tasks, and an empty replay."""
        family = self.family
        super().set_env(env, force_reset)
        if self.family != family:
            self.train_tasks = None
            self._freeze_tasks()
            self._make_replay()

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Collects from training tasks: with z from the prior, then from the posterior."""
        callback.on_rollout_start()
        if self.replay.is_empty and not self._collect_first(callback):
            return False
        actor = self._begin(self._choose_tasks())
        rollouts: dict[str, list[Rollout]] = {"prior": [], "posterior": []}
        watch = TrainingSteps(self, callback, self._stop_at(actor))
        for kind, steps, to_context in (
            ("prior", self.prior_steps, True),
            ("posterior", self.posterior_steps, True),
            ("posterior", self.extra_steps, False),
        ):
            for num_steps in self._step_counts(kind, steps // self.envs_per_task):
                rollout = self._collect(actor, kind, num_steps, to_context, watch)
                if not watch.going_on:
                    return False
                rollouts[kind].append(rollout)
        self._log_rollouts(rollouts)
        callback.on_rollout_end()
        return True

    def _choose_tasks(self) -> np.ndarray:
        """Chooses an iteration's training tasks ``[M]``; all come once before any comes twice."""
        num_tasks = count_tasks(self.train_tasks)
        passes = -(-self.meta_batch_size // num_tasks)
        orders = [self.rng.permutation(num_tasks) for _ in range(passes)]
        if self.task_choice == "fewest":  # equal counts stay in random order
            counts = self.replay.written
            orders = [order[np.argsort(counts[order], kind="stable")] for order in orders]
        return np.concatenate(orders)[: self.meta_batch_size]

    def _step_counts(self, kind: str, steps: int) -> list[int]:
        """Returns numbers of steps: all at once for the prior, by episodes for the posterior.

        The posterior is inferred anew before each of them.
        """
        if kind == "prior" or steps == 0:
            return [steps] if steps else []
        horizon = task_batch(self.task_env).horizon
        return [min(horizon, steps - begin) for begin in range(0, steps, horizon)]

    def check_length(self, num_steps: int) -> str:
        """Refuses a training that would end within the first steps on the training tasks."""
        if not self.replay.is_empty:
            return ""
        batches = self._first_batches()
        first = batches.size * self.initial_steps
        text = (
            f"{first} steps (initial_steps={self.initial_steps} on each of "
            f"{count_tasks(self.train_tasks)} training tasks, in batches of {batches.shape[1]}) "
            "come before the first update"
        )
        if 0 < num_steps < first:
            raise ValueError(
                f"{num_steps} steps are too few: {text}; ask for more steps (total_timesteps), or "
                "lower initial_steps"
            )
        return text

    def _first_batches(self) -> np.ndarray:
        """Returns all training tasks in batches; earlier tasks fill up the last batch."""
        num_tasks = count_tasks(self.train_tasks)
        batches = -(-num_tasks // self.meta_batch_size)
        order = np.arange(batches * self.meta_batch_size) % num_tasks
        return order.reshape(batches, -1)

    def _collect_first(self, callback: BaseCallback) -> bool:
        """Collects each training task's first transitions, and says so."""
        self.logger.info(self.check_length(0))
        steps = self.initial_steps // self.envs_per_task
        batches = self._first_batches()
        for i, tasks in enumerate(batches, start=1):
            actor = self._begin(tasks)
            watch = TrainingSteps(self, callback, self._stop_at(actor))
            self._collect(actor, "initial", steps, True, watch)
            if not watch.going_on:
                return False
            self.logger.info(f"first steps: batch {i} of {len(batches)} is done")
        return True

    def _begin(self, tasks: np.ndarray) -> LatentActor:
        """Sets training tasks ``[M]``, forgets their contexts, and begins an episode on each."""
        task_batch(self.task_env).set_tasks(take_tasks(self.train_tasks, ranks.own(tasks)))
        observations = self.reset_envs()
        self.replay.begin_context(tasks)
        columns = np.repeat(tasks, self.envs_per_task)
        return LatentActor(self.policy, columns, observations, self.row_draws)

    @torch.no_grad()
    def _collect(
        self, actor: LatentActor, kind: str, num_steps: int, to_context: bool, watch: TrainingSteps
    ) -> Rollout:
        """Acts for some steps and stores them; z is drawn anew where an episode begins."""
        tasks = torch.from_numpy(actor.tasks).to(self.device)
        belief = self.first_belief(tasks)
        if kind == "posterior":
            everyone = torch.from_numpy(actor.all_tasks).to(self.device)
            belief = self.policy.encoder.update(belief, self.sample_context(everyone))
        actor.follow(*self.policy.encoder.posterior(belief))
        held = kind == "initial" and self.initial_actions == "held"
        names = [] if self.training_reward is None else [self.training_reward]
        rollout, actor.observations = collect_rollout(
            self.task_env,
            watch.watched(actor.act_held if held else actor.act),
            num_steps,
            actor.observations,
            on_done=actor.on_done,
            watch=watch,
            info_names=names,
        )
        if ranks.any_of(not watch.going_on):
            watch.going_on = False
        if watch.going_on or not ranks.together():
            self._store(actor, rollout, to_context)
        return rollout

    def _store(self, actor: LatentActor, rollout: Rollout, to_context: bool) -> None:
        """Stores a rollout; every rank keeps the transitions of all ranks."""
        rewards = rollout.rewards
        learned_from = (
            rewards if self.training_reward is None else rollout.extras[self.training_reward]
        )
        actions = rollout.extras["scaled_actions"]
        rows = as_rows(rollout, actions, rewards, learned_from)
        finite = rows.isfinite().all(dim=2).all(dim=0).numpy()
        if not finite.all():
            self._stop("an observation, action or reward is not finite", actor.tasks[~finite])
        everything = torch.from_numpy(ranks.gathered(rows.numpy(), axis=1))
        self.replay.add(actor.all_tasks, everything.to(self.device), to_context)

    def _stop_at(self, actor: LatentActor) -> Stop:
        """How the training stops where numbers of a column are not finite."""
        return lambda what, columns: self._stop(what, actor.tasks[columns])

    def _stop(self, what: str, tasks: np.ndarray) -> NoReturn:
        """Stops the training, before anything that is not finite is stored or saved."""
        which = [f"{i} ({take_tasks(self.train_tasks, int(i))})" for i in np.unique(tasks)]
        shown = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
        iteration = self._num_iterations + (0 if self._updating else 1)  # train() counts first
        raise FloatingPointError(
            f"{what} in iteration {iteration}, update {self._n_updates}, on training task {shown}"
        )

    def _log_rollouts(self, rollouts: dict[str, list[Rollout]]) -> None:
        """Logs the mean return of an episode, and of a trial that is made of such episodes."""
        means = {}
        for kind, parts in rollouts.items():
            if parts:
                ended = sum((part.terminated | part.truncated).sum() for part in parts)
                earned = sum(part.rewards.sum() for part in parts)
                sums = [ranks.mean_number(each) * ranks.size() for each in (earned, ended)]
                means[kind] = sums[0] / max(sums[1], 1)
                self.logger.record(f"rollout/{kind}_return", means[kind])
        episodes = task_batch(self.task_env).episodes_per_trial
        explored = min(max(self.exploration_episodes, 1), episodes)
        later = means.get("posterior", means["prior"])
        trial = explored * means["prior"] + (episodes - explored) * later
        self.logger.record("rollout/trial_return", trial)

    def first_belief(self, tasks: Tensor) -> Belief:
        """Returns the belief about training tasks (int64 ``[M]``) before any transition."""
        return self.policy.encoder.initial_belief(len(tasks))

    def sample_context(self, tasks: Tensor) -> Tensor:
        """Draws recent transitions of tasks ``[M]`` as the encoder reads them, ``[M, C, D]``."""
        in_order = isinstance(self.policy.encoder, RecurrentEncoder)
        rows = self.replay.sample_context(
            tasks, self.context_size, self.generator, in_order=in_order
        )
        return rows[..., : self.policy.context_size]
