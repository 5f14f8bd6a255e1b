"""The base class of gradient-based meta-RL agents: their data, and the inner gradient step."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.arguments import check_count, check_finite_array, check_kind, check_number
from meta_rl.compute import ranks
from meta_rl.inner_loop import Params, adapt, autograd_gradient, in_chunks, of_every_task, summed
from meta_rl.policy_gradient.batch import (
    Batch,
    Place,
    by_task,
    check_finite,
    mean_returns,
    merged_steps,
    normalised,
    packed,
    some_steps,
    tasks_at_a_time,
)
from meta_rl.policy_gradient.policy import Outputs, TaskPolicy
from meta_rl.policy_gradient.returns import linear_baseline
from meta_rl.rollout import (
    Rollout,
    check_rollout,
    collect_episodes,
    discounted_returns,
    generalized_advantages,
)
from meta_rl.tasks import take_tasks
from meta_rl.vector.sb3_view import TrainingSteps
from meta_rl.vector.task_batch import task_batch

DATA = ("_supports", "_path", "_query", "_query_returns")
"""Attributes that hold the data of the latest iteration; checkpoints do not contain them."""

INNER_LOSSES = ("log_likelihood", "likelihood_ratio")


class FastWeights(NamedTuple):
    """The state of a gradient-based agent, which :meth:`PolicyGradientAgent.adapt` returns.

    Attributes:
        params: Parameters of each task's policy, ``[M, ...]`` each.
        num_steps: Number of gradient steps so far, ``[M]``.
    """

    params: Params
    num_steps: Tensor


class PolicyGradientAgent(MetaAlgorithm):
    """Base class of agents whose policy adapts by gradient steps on its own episodes.

    An iteration samples ``envs_per_task`` episodes of every task with the initial parameters, takes
    a step of the vanilla policy gradient on them, samples again with the fast weights, and so on
    ``num_inner_steps`` times (Finn et al., 2017, algorithm 3). All tasks adapt and act at once.

    A fixed horizon counts as the end of an episode: the value after it is 0, and the time is a
    feature of the baseline. Advantages are normalised for each task.

    Args:
        policy: Policy class, or ``"MlpPolicy"`` for :class:`.TaskPolicy`.
        env: Environment id, or batch of task environments.
        learning_rate: Step size of the outer optimiser, where the algorithm has one.
        meta_batch_size: Number of tasks at a time, M, where ``env`` is an id.
        envs_per_task: Number of episodes of each task for a gradient step, B.
        inner_lr: Step size α of the inner loop.
        num_inner_steps: Number of inner steps in training. With 0, one policy is trained for all
            tasks (the pre-trained baseline), which still adapts by gradient steps afterwards.
        later_inner_lr: Step size of the steps after those (default: half of ``inner_lr``, as in
            the evaluation of the MAML paper).
        discount: Discount factor of rewards, from 0 to 1.
        gae_lambda: Parameter λ of generalized advantage estimation, from 0 to 1.
        **settings: Further arguments of :class:`meta_rl.MetaAlgorithm`; ``policy_kwargs`` are
            ``hidden_sizes``, ``activation``, ``log_std_init`` and ``output_scale``.

    Attributes:
        inner_loss_kind: Name of the inner loss: ``"log_likelihood"`` (Finn et al., 2017), or
            ``"likelihood_ratio"``, whose second derivative keeps the effect of the step on the
            sampled trajectories (Rothfuss et al., "ProMP: Proximal Meta-Policy Search", 2019,
            equation 6).
        first_order: Whether inner gradients are treated as constants.
    """

    inner_loss_kind: str = "likelihood_ratio"
    first_order: bool = False

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": TaskPolicy}
    policy: TaskPolicy
    adapts_by_step = False
    pools_episodes = True
    divides_over_ranks = True

    def __init__(
        self,
        policy: str | type[TaskPolicy],
        env: GymEnv | VectorEnv | str | None,
        learning_rate: float | Schedule,
        *,
        meta_batch_size: int = 40,
        envs_per_task: int = 20,
        inner_lr: float = 0.1,
        num_inner_steps: int = 1,
        later_inner_lr: float | None = None,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        **settings: Any,
    ) -> None:
        if isinstance(policy, str):  # Stable-Baselines3 refuses the name with Dict observations
            policy = self.policy_aliases.get(policy, policy)
        self.envs_per_task = check_count("envs_per_task", envs_per_task)
        super().__init__(policy, env, learning_rate, meta_batch_size=meta_batch_size, **settings)
        self.inner_lr = inner_lr
        self.num_inner_steps = check_count("num_inner_steps", num_inner_steps, least=0)
        self.later_inner_lr = inner_lr / 2 if later_inner_lr is None else later_inner_lr
        self.discount = discount
        self.gae_lambda = gae_lambda
        check_number("inner_lr", inner_lr, above=0.0)
        check_number("later_inner_lr", self.later_inner_lr, above=0.0)
        check_number("discount", discount, least=0.0, most=1.0)
        check_number("gae_lambda", gae_lambda, least=0.0, most=1.0)

    def _make_networks(self) -> None:
        make_policy: Any = self.policy_class
        kwargs = {"generator": self.generator, **self.policy_kwargs}
        self.policy = make_policy(self.observation_space, self.action_space, **kwargs)
        self.policy.to(self.device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *DATA]

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Samples, adapts and samples again, on new training tasks."""
        callback.on_rollout_start()
        self._iteration = self._num_iterations + 1
        observations = self.begin_tasks()
        self._supports: list[Batch] = []
        self._path: list[Params] = []  # fast weights after each inner step
        state: FastWeights | None = None
        returns = []
        for step in range(self.num_inner_steps + 1):
            if step:
                observations = self.reset_envs()
            rollout, going_on = self._run_episodes(observations, state, callback)
            if not going_on:
                return False
            batch = self.as_batch(rollout, state)
            returns.append(ranks.gathered(mean_returns(rollout)))
            if step < self.num_inner_steps:
                self._supports.append(batch)
                state = self._step_inner(batch, state, self.place_in_training)
                self._path.append(state.params)
        self._query, self._query_returns = batch, returns[-1]
        self._log_returns(returns)
        callback.on_rollout_end()
        return True

    def _run_episodes(
        self, observations: Any, state: FastWeights | None, callback: BaseCallback
    ) -> tuple[Rollout, bool]:
        steps = TrainingSteps(self, callback)
        parameters = self.policy.parameters_by_name() if state is None else state.params
        parameters = {  # memory layout for fast products with rows of observations
            name: value.mT.contiguous().mT if name.endswith("weight") else value
            for name, value in parameters.items()
        }

        def act(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            outputs = self._outputs(observations, parameters, stacked=state is not None)
            actions = self.policy.draw(outputs, draws=self.row_draws)
            return actions, {"policy_outputs": outputs[0].cpu().numpy()}

        with torch.inference_mode():
            rollout = collect_episodes(
                self.task_env,
                steps.watched(act),
                observations,
                keep_successors=False,
                watch=steps,
            )
        rollout.envs_per_task = self.envs_per_task
        own_length = len(rollout.rewards)
        length, stopped = ranks.largest(own_length, not steps.going_on)
        self.num_timesteps += (length - own_length) * self.n_envs * ranks.size()
        return rollout, not stopped

    def _outputs(self, observations: Any, params: Params, *, stacked: bool) -> Outputs:
        """Returns the policy's outputs, ``[N, ...]``; fast weights act on M equal blocks of N."""
        obs = self.policy.flat(observations)
        if not stacked:
            return self.policy.outputs(params, obs)
        by_task = obs.unflatten(0, (len(next(iter(params.values()))), -1))
        return tuple(part.flatten(0, 1) for part in self.policy.outputs(params, by_task))

    def place_in_training(self, index: int) -> str:
        """Describes a task of the meta-batch for an error."""
        task = take_tasks(task_batch(self.task_env).tasks, index * self.envs_per_task)
        return f"task {index} ({task}) of the meta-batch in iteration {self._iteration}"

    def as_batch(
        self, rollout: Rollout, state: FastWeights | None, place: Place | None = None
    ) -> Batch:
        """Groups a rollout's steps by task, with advantages and the acting policy's outputs.

        Args:
            rollout: Episodes of a meta-batch.
            state: Fast weights that acted; ``None`` for the initial parameters.
            place: Function that describes a task in an error (default: by its place in training).

        Raises:
            FloatingPointError: A reward or an observation is not finite.
        """
        on_device, per_task = partial(torch.as_tensor, device=self.device), rollout.envs_per_task
        rewards, mask = on_device(rollout.rewards), rollout.mask
        obs = self.policy.flat(merged_steps(rollout.observations)).unflatten(0, rewards.shape)
        real = torch.ones_like(rewards, dtype=torch.bool) if mask is None else on_device(mask)
        if mask is not None:
            rewards, obs = torch.where(real, rewards, 0.0), torch.where(real[..., None], obs, 0.0)
        for what, sums in (("a reward", rewards.sum(0)), ("an observation", obs.sum((0, 2)))):
            check_finite(what, sums.unflatten(0, (-1, per_task)), place or self.place_in_training)
        ends = on_device(rollout.terminated) | on_device(rollout.truncated)
        ends[-1] = True
        advantages = self._advantages(obs, rewards.float(), ends, real, per_task)
        parts = [obs, self.policy.as_units(rollout.actions), advantages]
        if mask is None and "policy_outputs" in rollout.extras:
            parts.append(on_device(rollout.extras["policy_outputs"]))
        parts, real = [by_task(part, per_task) for part in parts], by_task(real, per_task)
        parts, real = packed(parts, real)
        return self._with_old_outputs(real, state, *parts)

    def _advantages(
        self, obs: Tensor, rewards: Tensor, ends: Tensor, real: Tensor, per_task: int
    ) -> Tensor:
        """Returns the advantages of all steps, normalised for each task, ``[T, N]``."""
        num_steps, num_envs = rewards.shape
        returns = discounted_returns(rewards, ends, self.discount)
        times = torch.arange(num_steps, device=self.device)[:, None].expand(-1, num_envs)
        fitted = linear_baseline(*(by_task(x, per_task) for x in (obs, times, returns, real)))
        values = fitted.unflatten(1, (num_steps, per_task)).transpose(0, 1).flatten(1)
        following = torch.cat([values[1:], torch.zeros_like(values[:1])]) * ~ends
        advantages = generalized_advantages(
            rewards, values, following, ends, self.discount, self.gae_lambda
        )
        return normalised(advantages, real, per_task)

    @torch.no_grad()
    def _with_old_outputs(
        self, real: Tensor, state: FastWeights | None, obs: Tensor, actions: Tensor,
        advantages: Tensor, acted: Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """Adds the outputs of the policy that acted, which are computed if they were not kept."""
        own = self.policy.parameters_by_name()
        params = of_every_task(own, len(real)) if state is None else state.params
        if acted is not None:
            old = self.policy.with_spread(params, acted)
        else:
            chunk_size = tasks_at_a_time(real)
            old = in_chunks(self.policy.outputs, params, obs, chunk_size=chunk_size)
        log_probs = self.policy.log_prob(old, actions)
        return Batch(obs, actions, advantages, real.float(), old, log_probs)

    def inner_loss(self, params: Params, support: Batch) -> Tensor:
        """Computes the negative objective of the vanilla policy gradient, for one task."""
        outputs = self.policy.outputs(params, support.obs)
        log_probs = self.policy.log_prob(outputs, support.actions)
        if self.inner_loss_kind == "likelihood_ratio":
            return -support.mean((log_probs - support.old_log_probs).exp() * support.advantages)
        return -support.mean(log_probs * support.advantages)

    def step(self, params: Params, support: Batch, lr: float | None = None) -> Params:
        """Makes a gradient step of every task's parameters, ``[M, ...]``; it is differentiable."""
        return adapt(
            summed(self.inner_loss),
            params,
            support,
            lr=self.inner_lr if lr is None else lr,
            first_order=self.first_order,
            gradient=autograd_gradient,
        )

    def stepped(self, params: Params, support: Batch, lr: float | None = None) -> Params:
        """Makes :meth:`step` for a few tasks at a time."""
        chunk_size = tasks_at_a_time(support.mask)
        return in_chunks(partial(self.step, lr=lr), params, support, chunk_size=chunk_size)

    def surrogate(self, params: Params, query: Batch) -> Tensor:
        """Computes the importance-weighted objective of one task, at adapted parameters."""
        return self.surrogate_and_kl(params, query)[0]

    def kl(self, params: Params, query: Batch) -> Tensor:
        """Computes the mean KL divergence of one task's policy from the policy that acted."""
        return query.mean(self.policy.kl(query.old, self.policy.outputs(params, query.obs)))

    def surrogate_and_kl(self, params: Params, query: Batch) -> tuple[Tensor, Tensor]:
        """Computes :meth:`surrogate` and :meth:`kl` in one pass through the network."""
        outputs = self.policy.outputs(params, query.obs)
        log_probs = self.policy.log_prob(outputs, query.actions)
        value = query.mean((log_probs - query.old_log_probs).exp() * query.advantages)
        return value, query.mean(self.policy.kl(query.old, outputs))

    def _step_inner(self, batch: Batch, state: FastWeights | None, place: Place) -> FastWeights:
        """Makes one inner step of every task."""
        num_tasks = len(batch.mask)
        if state is None:
            params = of_every_task(self.policy.parameters_by_name(), num_tasks)
            done = torch.zeros(num_tasks, dtype=torch.int64)
        else:
            params, done = state.params, state.num_steps
        trained = int(done.max()) < max(self.num_inner_steps, 1)
        params = self.stepped(params, batch, self.inner_lr if trained else self.later_inner_lr)
        check_finite("an inner gradient", params, place)
        return FastWeights(params, done + 1)

    def adapt(self, rollout: Rollout, state: FastWeights | None = None) -> FastWeights:
        """Makes one policy-gradient step for every task, on the given episodes.

        Args:
            rollout: Episodes that the policy with this state played, one in each column;
                ``rollout.envs_per_task`` neighbouring columns share a task.
            state: Fast weights of the steps before; ``None`` (default) starts from the meta-trained
                parameters.

        Returns:
            The fast weights, leaves ``[M, ...]``.

        Raises:
            FloatingPointError: A reward, an observation or a gradient is not finite.
            ValueError: The state is for another number of tasks, or the columns are not a whole
                number of tasks.
        """
        check_rollout(rollout)
        self._check_state(state)
        columns, per_task = rollout.rewards.shape[1], rollout.envs_per_task
        if columns % per_task:
            raise ValueError(f"{columns} columns: no whole number of tasks with {per_task} each")
        if state is not None and len(state.num_steps) != columns // per_task:
            raise ValueError(
                f"a state of {len(state.num_steps)} tasks, but a rollout of {columns // per_task} "
                f"({columns} columns, {per_task} for each task)"
            )

        def place(index: int) -> str:
            return f"task {index} of {columns // per_task}"

        with ranks.alone():
            return self._step_inner(self.as_batch(rollout, state, place), state, place)

    def predict(
        self,
        observation: Any,
        state: FastWeights | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, FastWeights | None]:
        """Chooses actions with the adapted parameters of each task.

        Args:
            observation: Observations ``[N, ...]``, or one observation.
            state: Result of :meth:`adapt`, with N observations in M equal blocks; ``None``
                (default) acts as before adaptation.
            episode_start: Ignored; the policy has no memory.
            deterministic: Whether the most likely action is taken (default: False).

        Returns:
            Actions inside the action space, and the unchanged state.

        Raises:
            ValueError: Observations have another shape, or their number is not a multiple of the
                number of tasks.
        """
        self._check_state(state)
        single = self._is_single(observation)
        batch = (
            tree_map(lambda part: np.asarray(part)[None], observation) if single else observation
        )
        params = self.policy.parameters_by_name() if state is None else state.params
        self._check_observation(batch, state)
        with torch.inference_mode():
            outputs = self._outputs(batch, params, stacked=state is not None)
            actions = self.policy.draw(outputs, deterministic)
        return (actions[0] if single else actions), state

    def _check_state(self, state: Any) -> None:
        if state is not None:
            check_kind("state", state, FastWeights, "None, or what adapt gives")

    def _is_single(self, observation: Any) -> bool:
        """Tells whether this is one observation, and not a batch."""
        space = self.observation_space
        if isinstance(space, spaces.Dict) and isinstance(observation, dict):
            key, space = next(iter(space.spaces.items()))
            observation = observation.get(key)
        return np.shape(observation) == space.shape

    def _check_observation(self, batch: Any, state: FastWeights | None) -> None:
        space = self.observation_space
        parts: dict[str, Any] = {"observation": space}
        values: Any = {"observation": batch}
        if isinstance(space, spaces.Dict):
            parts, values = dict(space.spaces), batch
        if not isinstance(values, dict) or not parts.keys() <= values.keys():
            raise ValueError(f"observation: expected a dict of {sorted(parts)}")
        counts = set()
        for key, part in parts.items():
            shape = np.shape(values[key])
            if shape[1:] != part.shape or not shape:
                raise ValueError(f"{key}: expected shape {('N', *(part.shape or ()))}, got {shape}")
            counts.add(shape[0])
            check_finite_array(key, values[key])
        if len(counts) != 1:
            raise ValueError(f"observation: parts of different lengths, {sorted(counts)}")
        num = counts.pop()
        if state is not None and num % len(state.num_steps):
            raise ValueError(
                f"{num} observations are no equal blocks for {len(state.num_steps)} tasks"
            )

    def _log_returns(self, returns: list[np.ndarray]) -> None:
        for step, values in enumerate(returns):
            self.logger.record(f"rollout/return_after_{step}_steps", values.mean())
        self.logger.record("rollout/trial_return", float(np.sum([r.mean() for r in returns])))

    @abstractmethod
    def train(self) -> None:
        """Makes the outer update, on ``_supports`` and ``_query``."""

    def supports_and_query(self) -> tuple[list[Batch], Batch]:
        """Returns the data of the latest iteration."""
        return self._supports, self._query

    def part_of_steps(self, fraction: float) -> tuple[list[Batch], Batch]:
        """Returns a fraction of the real steps, drawn without replacement for every task."""
        batches = [*self._supports, self._query]
        most = max(batch.mask.shape[1] for batch in batches)
        order = torch.randperm(most, generator=self.generator, device=self.device)
        rank = order.argsort()
        chosen = [some_steps(batch, rank, fraction) for batch in batches]
        return chosen[:-1], chosen[-1]
