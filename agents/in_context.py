"""What agents that learn in context from data share: the network, and supervised training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.arguments import check_count, check_counts, check_number
from meta_rl.compute.finite_state import guarded_step
from meta_rl.histories import Histories, History, HistoryEncoder, play_history
from meta_rl.histories.encoding import check_fits
from meta_rl.memory import make_memory_core
from meta_rl.on_policy.actor_critic import ActorCritic, ActorState
from meta_rl.rollout import Rollout, check_rollout
from meta_rl.vector.sb3_view import TrainingSteps
from meta_rl.vector.task_batch import task_batch
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .experts import find_expert


class SequencePolicy(ActorCritic):
    """A causal sequence model from the trial so far to the next action.

    Each step is one input: the last transition (previous observation, action, reward and done
    flag), the observation that asks for an action, and a clock, the step t as ``t / span`` and
    ``log(1 + t) / log(1 + span)``. The critic of the base class is not trained.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        core: Name in :data:`meta_rl.memory.MEMORY_CORES`.
        hidden_size: Size of the core.
        digits: Numbers of values of the digits that a discrete observation is split into, whose
            product is the number of observations: ``(9, 9)`` for row and column of a cell ``9 y +
            x`` (default: no split).
        temperature: Divisor, above 0, of the logits that actions are drawn by (for a ``Box``:
            factor of the standard deviation). Below 1, likely actions become more likely.
        least_chance: Probability, in [0, 1), below which a discrete action is never drawn. A small
            one spares long trials the errors of the model.
        generator: Generator that draws the first weights and, later, the actions.
        memory_span: Number of steps of the longest history: the unit of the clock, and the core's
            longest time scale.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        core: str = "attention",
        hidden_size: int = 64,
        digits: Sequence[int] | None = None,
        temperature: float = 1.0,
        least_chance: float = 0.0,
        generator: torch.Generator,
        memory_span: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        self.temperature = check_number("temperature", temperature, above=0.0)
        self.least_chance = check_number("least_chance", least_chance, least=0.0, below=1.0)
        self.seen = seen = observation_space.shape[0] - self.num_outputs - 3
        split = torch.eye(seen) if digits is None else digit_codes(seen, digits)
        self.split: Tensor
        self.register_buffer("split", split)
        self.span: Tensor
        self.register_buffer("span", torch.tensor(float(memory_span or 1)))
        inputs = 2 * split.shape[1] + self.num_outputs + 2 + 2
        self.core = make_memory_core(core, inputs, check_count("hidden_size", hidden_size))
        self.core.set_time_scales(memory_span or 1, self.make_heads(self.core.output_size))

    def initial_state(self, num: int) -> ActorState:
        """Returns the core's first state, the clock, and no previous observation."""
        zeros = self.split.new_zeros(num, 1 + self.split.shape[1])
        return (*self.core.initial_state(num), zeros[:, :1], zeros[:, 1:])

    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Takes one step; the trial is forgotten where a new one begins."""
        begins = obs[:, -1] > 0
        clock, before = (part.masked_fill(begins[:, None], 0.0) for part in state[-2:])
        now = obs[:, : self.seen] @ self.split
        inputs = self._inputs(obs, now, before, clock)
        outputs, after = self.core.step(inputs, self.core.reset(state[:-2], begins))
        return outputs, (*after, clock + 1.0, now)

    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Runs over whole trials ``[T, N, O]``, from their first step on."""
        now = obs[..., : self.seen] @ self.split
        before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
        steps = torch.arange(len(obs), device=obs.device, dtype=obs.dtype)
        clock = steps[:, None, None].expand(-1, obs.shape[1], 1)
        return self.core(self._inputs(obs, now, before, clock), state[:-2])[0]

    def _inputs(self, obs: Tensor, now: Tensor, before: Tensor, clock: Tensor) -> Tensor:
        times = [clock / self.span, clock.log1p() / self.span.log1p()]
        return torch.cat([now, before, obs[..., self.seen : -1], *times], dim=-1)

    def distribution(self, hidden: Tensor) -> Distribution:
        """Returns the distribution that actions are drawn by, with the temperature."""
        policy = super().distribution(hidden)
        if isinstance(policy, Categorical):
            chances = (policy.logits / self.temperature).softmax(dim=-1)
            least = chances.max(dim=-1, keepdim=True).values.clamp(max=self.least_chance)
            return Categorical(probs=chances.where(chances >= least, 0.0), validate_args=False)
        spread = policy.stddev * self.temperature
        return Independent(
            Normal(policy.mean, spread, validate_args=False), len(self.action_space.shape or ())
        )

    def surprise(self, obs: Tensor, labels: Tensor) -> Tensor:
        """Returns minus the log-probabilities of actions ``[T, N, ...]``: ``[T, N]``."""
        hidden = self.features(obs, self.initial_state(obs.shape[1]))
        return -super().distribution(hidden).log_prob(labels)


def digit_codes(size: int, digits: Sequence[int]) -> Tensor:
    """Returns the digits of the numbers below ``size``, one-hot: ``[size, sum of digits]``.

    Raises:
        ValueError: The product of the numbers of values is not ``size``.
    """
    values = check_counts("digits", digits)
    if np.prod(values) != size:
        raise ValueError(f"digits: {values} have {np.prod(values)} values, but there are {size}")
    parts = np.unravel_index(np.arange(size), values)
    return torch.cat(
        [torch.eye(n)[torch.as_tensor(part)] for n, part in zip(values, parts, strict=True)], dim=1
    )


class Player:
    """A policy that plays histories, as :meth:`InContextAgent.predict`, without copies of states.

    Args:
        policy: The policy, which draws its actions.
    """

    wrap_env = staticmethod(AppendPreviousStep)

    def __init__(self, policy: SequencePolicy) -> None:
        self.policy = policy

    @torch.inference_mode()
    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """Returns actions, clipped to a ``Box``, and the next state; the given one is used up."""
        obs = torch.as_tensor(observation, device=self.policy.device)
        state = self.policy.initial_state(len(obs)) if state is None else state
        actions, _, _, state = self.policy(obs, state)
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
        num_minibatches: int = 4,
        num_epochs: int = 1,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, learning_rate, meta_batch_size=meta_batch_size, **settings)
        self.histories = None if histories is None else str(histories)
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
        span = {"memory_span": None if self.env is None else self.trial_steps()}
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

    def trial_steps(self) -> int:
        """Returns the number of steps of a history that the network sees, T."""
        env = task_batch(self.task_env)
        return env.horizon * env.episodes_per_trial

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

    def _read(self, callback: BaseCallback) -> tuple[History, bool]:
        """Draws histories from the data set."""
        if self._data_set is None:
            found = Histories(str(self.histories))
            base = self._base_env
            spaces_of = base.single_observation_space, base.single_action_space
            check_fits(found.batch([0]), *spaces_of, name=str(self.histories))
            if found.num_steps != self.source_steps():
                raise ValueError(
                    f"{self.histories}: histories of {found.num_steps} steps, not of "
                    f"{self.source_steps()}"
                )
            self._data_set = found
        history = self._data_set.draw(self.n_envs, self.rng)
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
