"""The base of agents that learn from histories, by supervision, how to act in context."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.arguments import check_count, check_kind, check_number
from meta_rl.compute.finite_state import guarded_step
from meta_rl.histories import Histories, History, HistoryEncoder, play_history
from meta_rl.rollout import Rollout, check_rollout
from meta_rl.vector.sb3_view import TrainingSteps
from meta_rl.vector.task_batch import task_batch
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .experts import find_expert
from .sequence_policy import SequencePolicy


class Player:
    """A policy that plays histories: as an agent's ``predict``, without copies of its state.

    Args:
        policy: The policy.
        likeliest: Whether it takes its most likely actions; by default, it draws them.
    """

    wrap_env = staticmethod(AppendPreviousStep)

    def __init__(self, policy: SequencePolicy, likeliest: bool = False) -> None:
        self.policy, self.likeliest = policy, likeliest

    @torch.inference_mode()
    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """Returns actions, clipped to a ``Box``, and the next state; the given one is used up."""
        obs = torch.as_tensor(observation, device=self.policy.device)
        state = self.policy.initial_state(len(obs)) if state is None else state
        actions, _, _, state = self.policy(obs, state, self.likeliest)
        return self.policy.clip(actions).cpu().numpy(), state


class InContextAgent(MetaAlgorithm):
    """Base class of agents that learn from histories, by supervision, how to act in context.

    An iteration takes a batch of histories, of a learner that acts in the environment or from a
    data set, and trains the network to predict a label at each step. An agent says what the labels
    are (:meth:`labels`), and which learner makes the histories (:meth:`source`).

    Args:
        policy: Policy class, or its name in ``policy_aliases``.
        env: An environment id, or a batch of task environments.
        learning_rate: Step size of AdamW: a number, or a function of the remaining progress (1 to
            0).
        meta_batch_size: Number of histories in an iteration, M, where ``env`` is an id.
        histories: Folder of a data set by :func:`meta_rl.histories.collect_histories` to learn
            from; ``None`` lets the source act in the environment. Its steps count as those of an
            environment.
        trial_growth: Fraction of the training, 0 to 1, in which histories grow from a tenth of
            their steps to all (in whole episodes; bandits, in pulls). Short histories are cheap,
            and tell most about the first steps. 0 learns from whole histories only; with a data
            set, it has to be 0.
        num_minibatches: Number of parts, of whole histories, that an epoch goes through.
        num_epochs: Number of passes over the histories of an iteration.
        weight_decay: Decay of the weights, from 0 on, in units of the learning rate.
        max_grad_norm: Largest norm of the gradient, above 0; larger gradients are scaled down.
        **settings: Further arguments of :class:`meta_rl.MetaAlgorithm`.

    Raises:
        ValueError: A setting is refused by the base class, there are more minibatches than
            histories, or the data set is damaged or of other spaces.
    """

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": SequencePolicy}
    policy: SequencePolicy

    def __init__(
        self,
        policy: str | type[SequencePolicy] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        meta_batch_size: int = 256,
        histories: str | Path | None = None,
        trial_growth: float = 0.0,
        num_minibatches: int = 4,
        num_epochs: int = 1,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, learning_rate, meta_batch_size=meta_batch_size, **settings)
        if histories is not None:
            check_kind("histories", histories, (str, Path), "the folder of a data set")
        self.histories = None if histories is None else str(histories)
        self.trial_growth = check_number("trial_growth", trial_growth, least=0.0, most=1.0)
        if self.histories is not None and self.trial_growth > 0:
            raise ValueError("trial_growth has to be 0 with histories: they have their length")
        self.num_minibatches = check_count("num_minibatches", num_minibatches)
        self.num_epochs = check_count("num_epochs", num_epochs)
        self.weight_decay = check_number("weight_decay", weight_decay, least=0.0)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, above=0.0)
        self._data_set: Histories | None = None
        if _init_setup_model:
            self._setup_model()
            for name in self.experts():
                self.find(name)  # refuses unknown names

    def _check_num_envs(self, num_envs: int) -> None:
        super()._check_num_envs(num_envs)
        if self.num_minibatches > num_envs:
            raise ValueError(
                f"num_minibatches={self.num_minibatches}, but only {num_envs} histories"
            )

    @classmethod
    def wrap_env(cls, env: VectorEnv) -> VectorEnv:
        """Appends the previous step to the observation."""
        return env if isinstance(env, AppendPreviousStep) else AppendPreviousStep(env)

    def _make_networks(self) -> None:
        make_policy: Any = self.policy_class
        span = {"memory_span": None if self.env is None else self.whole_trial()}
        kwargs = {"generator": self.generator, **span, **self.policy_kwargs}
        self.policy = make_policy(self.observation_space, self.action_space, **kwargs)
        self.policy.to(self.device)
        self.policy.optimizer = torch.optim.AdamW(
            self.policy.parameters(), self.lr_schedule(1), weight_decay=self.weight_decay
        )

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_batch", "_data_set"]

    def whole_trial(self) -> int:
        """Returns the number of steps of a whole trial."""
        return task_batch(self.task_env).trial_steps()

    def trial_steps(self) -> int:
        """Returns the number of steps of a history, T, at this point of the training."""
        return task_batch(self.task_env).trial_steps(self._grown(self.trial_growth))

    @property
    def _base_env(self) -> VectorEnv:
        """The environment without this agent's wrapper."""
        env: Any = self.task_env
        return env.env if isinstance(env, AppendPreviousStep) else env

    @abstractmethod
    def experts(self) -> list[str]:
        """Returns the names in :mod:`meta_rl.agents.experts` that the training needs."""

    def find(self, name: str, rng: np.random.Generator | None = None) -> Any:
        """Makes an expert of the environment by its name.

        Args:
            name: Name in :mod:`meta_rl.agents.experts`.
            rng: Generator of its draws (default: one with a fixed seed).

        Raises:
            ValueError: The environment has no such expert.
        """
        rng = np.random.default_rng(0) if rng is None else rng
        return find_expert(self._base_env, name, rng, self.source_steps())

    def fresh_rng(self) -> np.random.Generator:
        """Returns a new generator, seeded by the agent's own."""
        return np.random.default_rng(self.rng.integers(2**63))

    @abstractmethod
    def source(self) -> Any:
        """Returns the learner that makes the histories of an iteration."""

    @abstractmethod
    def labels(self, history: History) -> Any:
        """Returns the actions to predict, ``[T, N, ...]``."""

    def player(self) -> Player:
        """Returns the agent itself as the player of histories."""
        return Player(self.policy)

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Takes the histories of an iteration; ``False`` where the callback stops it."""
        callback.on_rollout_start()
        if self.histories is None:
            history, going_on = self._play(callback)
        else:
            history, going_on = self._read(callback)
        if not going_on:
            return False
        history = self.kept(history)
        base = self._base_env
        encode = HistoryEncoder(base.single_observation_space, base.single_action_space)
        self._batch = {
            "obs": torch.as_tensor(encode(history), device=self.device),
            "labels": torch.as_tensor(self.labels(history), device=self.device),
        }
        self.logger.record("rollout/trial_return", float(history.rewards.sum(axis=0).mean()))
        callback.on_rollout_end()
        return True

    def _play(self, callback: BaseCallback) -> tuple[History, bool]:
        """Lets the source act on fresh training tasks."""
        self.begin_tasks()
        steps = TrainingSteps(self, callback)
        history = play_history(
            self.source(),
            self._base_env,
            self.source_steps(),
            seed=int(self.rng.integers(2**31)),
            watch=steps,
            watched=steps.watched,
        )
        return history, steps.going_on

    def source_steps(self) -> int:
        """Returns the number of steps of a history that the source makes."""
        return self.trial_steps()

    def kept(self, history: History) -> History:
        """Returns the part of the source's histories that is learned from: by default, all."""
        return history

    def check_length(self, num_steps: int) -> str:
        """Refuses a data set that is damaged or does not fit, before a training begins."""
        if self.histories is not None:
            self.open_data_set()
        return super().check_length(num_steps)

    def open_data_set(self) -> Histories:
        """Opens the data set.

        Raises:
            FileNotFoundError: There is no such data set.
            ValueError: It is damaged, of other spaces, or of another number of steps.
        """
        if self._data_set is None:
            found = Histories(str(self.histories))
            base = self._base_env
            found.check_fits(base.single_observation_space, base.single_action_space)
            if found.num_steps != self.source_steps():
                raise ValueError(
                    f"{self.histories}: histories of {found.num_steps} steps, not of "
                    f"{self.source_steps()}"
                )
            self._data_set = found
        return self._data_set

    def _read(self, callback: BaseCallback) -> tuple[History, bool]:
        """Draws histories from the data set."""
        history = self.open_data_set().draw(self.n_envs, self.rng)
        self.num_timesteps += history.rewards.size
        callback.update_locals(locals())
        return history, bool(callback.on_step())

    def train(self) -> None:
        """Raises the log-probability of the labels, on minibatches of whole histories."""
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        obs, labels = self._batch["obs"], self._batch["labels"]
        losses: list[Tensor] = []
        for _ in range(self.num_epochs):
            order = torch.randperm(obs.shape[1], generator=self.generator, device=self.device)
            for part in order.tensor_split(self.num_minibatches):
                loss = self.policy.surprise(obs[:, part], labels[:, part]).mean()
                guarded_step(optimizer, loss, self.stop_before_step, max_norm=self.max_grad_norm)
                losses.append(loss.detach())
            self._n_updates += 1
        self.logger.record("train/loss", torch.stack(losses).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Returns the state as it is: the state from :meth:`predict` has seen the data already."""
        check_rollout(rollout)
        return state
