"""Proximal Meta-Policy Search (Rothfuss et al., 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.func import grad

from meta_rl.arguments import check_count, check_number
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import guarded_step
from meta_rl.inner_loop import Params, adapt
from meta_rl.policy_gradient.agent import PolicyGradientAgent
from meta_rl.policy_gradient.batch import Batch, check_finite, over_tasks
from meta_rl.policy_gradient.policy import TaskPolicy


class ProMP(PolicyGradientAgent):
    """Agent that is MAML with low-variance meta-gradients and a proximal outer update.

    Rothfuss, Lee, Clavera, Asfour and Abbeel, "ProMP: Proximal Meta-Policy Search", 2019,
    algorithm 1. The inner objective is the likelihood ratio (equation 6), so that the gradient of
    the meta-objective credits the episodes before adaptation. The outer objective is clipped as in
    PPO (equation 9), minus a penalty on the divergence of the policies of the inner loop from those
    that sampled (equation 8). A few steps of Adam on the same data maximise it.

    Args:
        policy: Policy class, or ``"MlpPolicy"`` for :class:`.TaskPolicy`.
        env: An environment id, or a batch of task environments.
        learning_rate: Step size of Adam: a number, or a function of the remaining progress (1 to
            0).
        num_inner_steps: Number of inner steps that are trained through, at least 1.
        num_outer_steps: Number of steps of Adam on the data of an iteration.
        clip_range: Bound ε, above 0, on the change of the probability ratio after adaptation.
        inner_kl_coefficient: Weight η of the penalty, from 0 on.
        **settings: Further arguments of the base classes,
            :class:`meta_rl.policy_gradient.agent.PolicyGradientAgent` and
            :class:`meta_rl.MetaAlgorithm`.
    """

    def __init__(
        self,
        policy: str | type[TaskPolicy] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        num_inner_steps: int = 1,
        num_outer_steps: int = 5,
        clip_range: float = 0.3,
        inner_kl_coefficient: float = 5e-4,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        num_inner_steps = check_count("num_inner_steps", num_inner_steps)
        super().__init__(policy, env, learning_rate, num_inner_steps=num_inner_steps, **settings)
        self.num_outer_steps = check_count("num_outer_steps", num_outer_steps)
        self.clip_range = clip_range
        self.inner_kl_coefficient = inner_kl_coefficient
        check_number("clip_range", clip_range, above=0.0)
        check_number("inner_kl_coefficient", inner_kl_coefficient, least=0.0)
        if _init_setup_model:
            self._setup_model()

    def _make_networks(self) -> None:
        super()._make_networks()
        self.policy.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=self.lr_schedule(1), fused=True
        )

    loss_column: ClassVar[str] = "train/objective"

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def train(self) -> None:
        """Takes steps of Adam on the clipped objective after adaptation."""
        self._update_learning_rate(self.policy.optimizer)
        supports, query = self.supports_and_query()
        for _ in range(self.num_outer_steps):
            params = self.policy.parameters_by_name()
            gradients, (objectives, divergences) = over_tasks(
                grad(self.objective, has_aux=True),
                *(params, supports, query),
            )
            check_finite("a gradient", gradients, self.place_in_training)
            gradient, objective, divergence = ranks.mean_over_tasks(
                (gradients, objectives, divergences)
            )
            steps = [-gradient[name] for name, _ in self.policy.named_parameters()]
            guarded_step(self.policy.optimizer, -objective, self.stop_before_step, steps)
            self._n_updates += 1
        self.logger.record("train/objective", objective.item())
        self.logger.record("train/inner_kl", divergence.item())
        if not self.policy.is_discrete:
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def objective(
        self, params: Params, supports: list[Batch], query: Batch
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Computes the objective of one task (equation 10).

        Returns:
            The objective to differentiate, and a pair for the log: the objective and the mean
            divergence in the inner loop.
        """
        divergence = torch.zeros((), device=query.obs.device)
        for support in supports:
            divergence = divergence + self.kl(params, support)
            params = adapt(self.inner_loss, params, support, lr=self.inner_lr)
        divergence = divergence / len(supports)
        outputs = self.policy.outputs(params, query.obs)
        log_probs = self.policy.log_prob(outputs, query.actions)
        ratio = (log_probs - query.old_log_probs).exp()
        clipped = ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        surrogate = query.mean(torch.min(ratio * query.advantages, clipped * query.advantages))
        objective = surrogate - self.inner_kl_coefficient * divergence
        return objective, (objective, divergence)
