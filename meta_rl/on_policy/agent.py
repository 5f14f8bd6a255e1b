"""The base of on-policy agents: whole trials on fresh tasks, advantages, and PPO's updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor, nn

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.arguments import check_count, check_number, plain
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import guarded_step
from meta_rl.on_policy.actor_critic import ActorCritic
from meta_rl.rollout import Rollout, check_rollout, collect_rollout, generalized_advantages
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.sb3_view import TrainingSteps
from meta_rl.vector.task_batch import batch_arrays, task_batch
from meta_rl.wrappers.previous_step import AppendPreviousStep


class OnPolicyAgent(MetaAlgorithm):
    """Base class of agents that learn from whole trials by proximal policy optimisation.

    A subclass defines its networks by ``policy_aliases``, whose classes derive from
    :class:`meta_rl.on_policy.actor_critic.ActorCritic`. It may replace the loss (:meth:`loss`) and
    the values of next states in the advantage estimate (:meth:`what_follows`).

    The policy sees the previous action, reward and done flag beside the observation, and the mark
    of a new trial (:class:`meta_rl.wrappers.previous_step.AppendPreviousStep`). A trial is
    ``episodes_per_trial * horizon`` steps (both of the environment). All trials have the same
    length, so that nothing is padded: an episode that ends early makes room for one more.

    Letters: T steps of a trial, O numbers in an observation.

    Args:
        policy: Policy class, or its name in ``policy_aliases``.
        env: Environment id, or batch of task environments.
        learning_rate: Step size of Adam: a number, or a function of the remaining progress, which
            falls from 1 to 0.
        meta_batch_size: Number of tasks at a time, M, where ``env`` is an id.
        trials_per_env: Number of trials that each sub-environment runs in an iteration, each on a
            new task.
        trial_growth: Fraction of the training, 0 to 1, in which trials grow from a tenth of their
            steps to all (in whole episodes; bandits, in pulls). Short trials are easier to learn,
            and long ones build on them. 0 trains on whole trials only.
        num_minibatches: Number of minibatches in an epoch; each consists of whole trials.
        num_epochs: Number of passes over the data of an iteration.
        discount: Discount of a trial's rewards, 0 to 1.
        gae_lambda: Parameter λ of generalized advantage estimation, 0 to 1.
        clip_range: Bound, above 0, on the change of the probability ratio that the loss rewards.
        normalize_advantages: Whether the advantages of an iteration are scaled to mean 0 and
            standard deviation 1.
        entropy_coefficient: Weight of the entropy bonus, at least 0: a number, or a function of the
            remaining progress.
        value_coefficient: Weight of the value loss, at least 0. The loss is the mean squared error
            of returns that are divided by a running mean of their root mean square.
        max_grad_norm: Largest norm of the gradient, above 0; larger gradients are scaled down.
        target_kl: Mean KL divergence, above 0. The epochs of an iteration end when it reaches 1.5
            times this number; ``None`` for no limit.
        **settings: Further arguments of :class:`meta_rl.MetaAlgorithm`.

    Raises:
        ValueError: A setting is refused by the base class, or there are more minibatches than
            trials.
    """

    policy: ActorCritic
    divides_over_ranks = True

    def __init__(
        self,
        policy: str | type[ActorCritic] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        meta_batch_size: int = 512,
        trials_per_env: int = 1,
        trial_growth: float = 0.0,
        num_minibatches: int = 8,
        num_epochs: int = 8,
        discount: float = 0.99,
        gae_lambda: float = 0.3,
        clip_range: float = 0.2,
        normalize_advantages: bool = True,
        entropy_coefficient: float | Schedule = 0.0,
        value_coefficient: float = 2.0,
        max_grad_norm: float = 1.0,
        target_kl: float | None = None,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, learning_rate, meta_batch_size=meta_batch_size, **settings)
        self.trials_per_env = check_count("trials_per_env", trials_per_env)
        self.trial_growth = trial_growth
        self.num_minibatches = check_count("num_minibatches", num_minibatches)
        self.num_epochs = check_count("num_epochs", num_epochs)
        self.discount = discount
        self.gae_lambda = gae_lambda
        self.clip_range = clip_range
        self.normalize_advantages = normalize_advantages
        self.entropy_coefficient = plain(entropy_coefficient)
        self.value_coefficient = value_coefficient
        self.max_grad_norm = max_grad_norm
        self.target_kl = target_kl
        self._check_settings()
        if _init_setup_model:
            self._setup_model()

    def _check_settings(self) -> None:
        for name in ("discount", "gae_lambda", "trial_growth"):
            check_number(name, getattr(self, name), least=0.0, most=1.0)
        check_number("value_coefficient", self.value_coefficient, least=0.0)
        bonus = min(self.entropy_schedule(1.0), self.entropy_schedule(0.0))
        check_number("entropy_coefficient", bonus, least=0.0)
        for name in ("clip_range", "max_grad_norm", "target_kl"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0.0)

    @property
    def entropy_schedule(self) -> FloatSchedule:
        """The weight of the bonus for a random policy, by the remaining progress."""
        return FloatSchedule(self.entropy_coefficient)

    def _check_num_envs(self, num_envs: int) -> None:
        super()._check_num_envs(num_envs)
        trials = num_envs * self.trials_per_env
        if self.num_minibatches > trials:
            raise ValueError(f"num_minibatches={self.num_minibatches}, but only {trials} trials")
        if ranks.together() and num_envs % self.num_minibatches:
            raise ValueError(
                f"{num_envs} trials of each rank are no multiple of num_minibatches="
                f"{self.num_minibatches}, so that the ranks cannot share the minibatches equally"
            )

    @classmethod
    def wrap_env(cls, env: VectorEnv) -> VectorEnv:
        """Appends the previous step to the observation."""
        return env if isinstance(env, AppendPreviousStep) else AppendPreviousStep(env)

    def _make_networks(self) -> None:
        make_policy: Any = self.policy_class
        kwargs = {"generator": self.generator, **self._policy_defaults(), **self.policy_kwargs}
        self.policy = make_policy(self.observation_space, self.action_space, **kwargs)
        self.policy.to(self.device)
        self.policy.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=self.lr_schedule(1), eps=1e-5, fused=True
        )

    def _policy_defaults(self) -> dict[str, Any]:
        """Returns the agent's own defaults of the policy's arguments."""
        return {}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_batch"]

    def whole_trial(self) -> int:
        """Returns the number of steps of a whole trial."""
        return task_batch(self.task_env).trial_steps()

    def trial_steps(self) -> int:
        """Returns the number of steps of a trial, T, at this point of the training."""
        return task_batch(self.task_env).trial_steps(self._grown(self.trial_growth))

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Runs whole trials on new training tasks; returns ``False`` if a callback stops it."""
        callback.on_rollout_start()
        num_steps = self.trial_steps()
        rollouts = []
        for _ in range(self.trials_per_env):
            rollout, continues = self._run_trials(num_steps, callback)
            if not continues:
                return False
            rollouts.append(rollout)
        self._batch = self._as_batch(rollouts)
        totals = [rollout.rewards.sum(axis=0) for rollout in rollouts]
        mean = array_namespace(totals[0]).concat(totals).mean()
        self.logger.record("rollout/trial_return", ranks.mean_number(float(mean)))
        callback.on_rollout_end()
        return True

    def _run_trials(self, num_steps: int, callback: BaseCallback) -> tuple[Rollout, bool]:
        observations = self.begin_tasks()
        state = self.policy.initial_state(self.n_envs)
        steps = TrainingSteps(self, callback)
        arrays = batch_arrays(self.task_env)

        def act(observations: Any) -> tuple[Any, dict[str, Tensor]]:
            nonlocal state
            obs = self._as_tensor(observations)
            actions, values, log_probs, state = self.policy(obs, state, draws=self.row_draws)
            taken = arrays.converted(self.policy.clip(actions).to(arrays.device))
            return taken, {"raw_actions": actions, "values": values, "log_probs": log_probs}

        with torch.inference_mode():
            rollout, _ = collect_rollout(
                self.task_env, steps.watched(act), num_steps, observations, watch=steps
            )
        return rollout, not ranks.any_of(not steps.going_on)

    def _as_batch(self, rollouts: list[Rollout]) -> dict[str, Tensor]:
        """Joins all trials, ``[T, trials, ...]``, with their advantages and returns."""

        def joined(name: str) -> Tensor:
            return torch.cat([self._as_tensor(part.extras[name]) for part in rollouts], dim=1)

        values = joined("values")
        advantages = torch.cat([self._advantages(rollout) for rollout in rollouts], dim=1)
        returns = advantages + values
        self._update_return_scale(returns)
        if self.normalize_advantages:
            mean, spread = ranks.mean_and_spread(advantages)  # finite for a single step, too
            advantages = (advantages - mean) / (spread + 1e-8)
        return {
            "obs": torch.cat([self._as_tensor(part.observations) for part in rollouts], dim=1),
            "actions": joined("raw_actions"),
            "log_probs": joined("log_probs"),
            "values": values,
            "advantages": advantages,
            "returns": returns,
        }

    def _as_tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(values, device=self.device)

    def _advantages(self, rollout: Rollout) -> Tensor:
        rewards = self._as_tensor(rollout.rewards).float()
        values = self._as_tensor(rollout.extras["values"])
        following, ends = self.what_follows(rollout, values)
        decays = self.discount, self.gae_lambda
        return generalized_advantages(rewards, values, following, ends, *decays)

    def what_follows(self, rollout: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values of the next states, and which steps end the sum of rewards.

        By default the return is that of the whole trial: it continues across the ends of episodes
        and stops at the end of the trial, whose last step is not bootstrapped.

        Args:
            rollout: Trials, ``[T, N]``.
            values: Values of the states by the critic, ``[T, N]``.

        Returns:
            The values, and bool steps that end the sum, ``[T, N]`` each.
        """
        ends = torch.zeros_like(values, dtype=torch.bool)
        ends[-1] = True
        return torch.cat([values[1:], torch.zeros_like(values[:1])]), ends

    def _update_return_scale(self, returns: Tensor) -> None:
        """Updates the running mean of the returns' root mean square, from the first one on."""
        latest = ranks.mean(returns.square().mean()).sqrt().clamp(min=1e-3)
        if self._n_updates > 0:
            latest = torch.lerp(self.policy.return_scale, latest, 0.1)
        self.policy.rescale_returns(latest)

    def train(self) -> None:
        """Runs epochs of clipped policy updates, on minibatches of whole trials."""
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        reports: list[Tensor] = []
        for _ in range(self.num_epochs):
            for trials in self._minibatches(self._batch["obs"].shape[1]):
                loss, report = self.loss({k: part[:, trials] for k, part in self._batch.items()})
                guarded_step(optimizer, loss, self.stop_before_step, max_norm=self.max_grad_norm)
                reports.append(torch.stack(list(report.values())))
            self._n_updates += 1
            if self.target_kl is not None:
                latest = ranks.mean(torch.stack(reports[-self.num_minibatches :]).mean(dim=0))
                if latest[list(report).index("approx_kl")] > 1.5 * self.target_kl:
                    break
        means = ranks.mean(torch.stack(reports).mean(dim=0)).tolist()
        for name, value in zip(report, means, strict=True):
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/epochs", len(reports) // self.num_minibatches)
        returns, values = self._batch["returns"], self._batch["values"]
        spreads = [ranks.mean_and_spread(part)[1] for part in (returns - values, returns)]
        unexplained = (spreads[0] / spreads[1]).square()
        self.logger.record("train/explained_variance", 1.0 - unexplained.item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _minibatches(self, num_trials: int) -> Sequence[Tensor]:
        """Draws the trials of each minibatch of an epoch.

        With ranks, each minibatch gets one of every ``num_minibatches`` neighbouring trials. So all
        ranks have equally many trials in it, and it has the same trials for any number of ranks.

        Args:
            num_trials: Number of trials of this rank.
        """
        num = self.num_minibatches
        if not ranks.together():
            order = torch.randperm(num_trials, generator=self.generator, device=self.device)
            return order.tensor_split(num)
        shape = (self.n_envs * ranks.size() // num, self.trials_per_env, num)
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        order = ranks.own(drawn).transpose(0, 1).reshape(-1, num).argsort(dim=1, stable=True)
        first = torch.arange(0, num_trials, num, device=self.device)
        return (first[:, None] + order).unbind(dim=1)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes PPO's loss (Schulman et al., 2017, equations 7 and 9), and its parts.

        Args:
            batch: Tensors of whole trials: ``obs`` ``[T, trials, O]``, ``actions``, and
                ``log_probs``, ``advantages`` and ``returns`` ``[T, trials]``.

        Returns:
            The loss, and numbers for the log; ``approx_kl`` has to be among them.
        """
        values, log_probs, entropy = self.policy.evaluate_actions(
            batch["obs"], batch["actions"], self.policy.initial_state(batch["obs"].shape[1])
        )
        log_ratio = log_probs - batch["log_probs"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        policy_loss = -torch.min(ratio * batch["advantages"], clipped * batch["advantages"]).mean()
        scale = self.policy.return_scale
        value_loss = nn.functional.mse_loss(values / scale, batch["returns"] / scale)
        bonus = self.entropy_schedule(self._current_progress_remaining) * entropy.mean()
        loss = policy_loss + self.value_coefficient * value_loss - bonus
        with torch.no_grad():
            report = {
                "loss": loss,
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy.mean(),
                "approx_kl": (ratio - 1.0 - log_ratio).mean(),
                "clip_fraction": (clipped != ratio).float().mean(),
            }
        return loss, report

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Returns the state as it is: the state from :meth:`predict` has seen the data already."""
        check_rollout(rollout)
        return state
