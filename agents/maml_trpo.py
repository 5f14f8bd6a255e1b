"""MAML with trust-region policy optimisation as the outer update (Finn et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from meta_rl.arguments import check_choice, check_count, check_number
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import is_finite
from meta_rl.inner_loop import (
    Params,
    autograd_gradient,
    in_chunks,
    of_every_task,
    pull_back,
    task_gradients,
)
from meta_rl.policy_gradient.agent import INNER_LOSSES, PolicyGradientAgent
from meta_rl.policy_gradient.batch import Batch, check_finite, tasks_at_a_time
from meta_rl.policy_gradient.policy import TaskPolicy
from meta_rl.policy_gradient.trust_region import Trial, trust_region_step


class MAMLTRPO(PolicyGradientAgent):
    """Agent that meta-learns a policy's initial parameters (MAML, with TRPO as outer update).

    Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    2017, algorithm 3. The objective is the mean over tasks of the return *after* adaptation; the
    outer update is a TRPO step on its importance-weighted surrogate, under a bound on the mean
    divergence of the adapted policies from those that sampled. A second bound is on the policy
    before adaptation. Without it the initial policy can collapse while the adapted policies hardly
    change: once it always takes the same action, its episodes no longer tell tasks apart.

    The meta-gradient is exact: it goes through the inner loop (``first_order`` leaves the second
    derivatives out). The products with the Hessian of the divergence are exact too: at the old
    parameters the gradient of the divergence with respect to the adapted ones vanishes, hence
    ``H v = Jᵀ F J v`` with the inner loop's Jacobian J and the Fisher matrix F of the adapted
    policy. They are computed on ``curvature_fraction`` of the steps, as TRPO proposes; the line
    search uses all steps.

    Args:
        policy: Policy class, or ``"MlpPolicy"`` for :class:`.TaskPolicy`.
        env: An environment id, or a batch of task environments.
        inner_loss: Loss of the inner loop, ``"log_likelihood"`` or ``"likelihood_ratio"``.
        first_order: Whether inner gradients are treated as constants.
        exploration_coefficient: Weight, from 0 on, of E-MAML's term, which credits the episodes
            before adaptation with the return after it (Stadie et al., "Some Considerations on
            Learning to Explore via Meta-Reinforcement Learning", 2018, section 4.1).
        max_kl: Bound δ on the mean KL divergence of the adapted policies, in nats, above 0.
        max_initial_kl: Bound on the mean KL divergence of the initial policy, in nats, above 0, on
            the steps that it sampled for the first inner step; ``math.inf`` for no bound. The line
            search shortens an update until it keeps this bound too. Without inner steps, only
            ``max_kl`` applies.
        cg_iterations: Number of iterations of conjugate gradients.
        cg_damping: Number, from 0 on, that is added to the diagonal of the Hessian.
        curvature_fraction: Fraction of the steps, 0 to 1, for Hessian-vector products.
        **settings: Further arguments of the base classes,
            :class:`meta_rl.policy_gradient.agent.PolicyGradientAgent` and
            :class:`meta_rl.MetaAlgorithm`.

    Example:
        >>> from meta_rl.agents.maml_trpo import MAMLTRPO
        >>> model = MAMLTRPO(env="meta_rl/PointNavigation-v0", inner_lr=0.5, seed=0)
        >>> model.learn(3_200_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/PointNavigation-v0", num_tasks=40)
    """

    def __init__(
        self,
        policy: str | type[TaskPolicy] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        *,
        inner_loss: str = "log_likelihood",
        first_order: bool = False,
        exploration_coefficient: float = 0.0,
        max_kl: float = 0.01,
        max_initial_kl: Annotated[float, "a number above 0, or infinity"] = 0.01,
        cg_iterations: int = 10,
        cg_damping: float = 1e-5,
        curvature_fraction: float = 0.05,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, 0.0, **settings)  # there is no outer optimiser
        self.inner_loss_kind = check_choice("inner_loss", inner_loss, INNER_LOSSES)
        self.first_order = first_order
        self.exploration_coefficient = exploration_coefficient
        self.max_kl = max_kl
        self.max_initial_kl = max_initial_kl
        self.cg_iterations = check_count("cg_iterations", cg_iterations)
        self.cg_damping = cg_damping
        self.curvature_fraction = curvature_fraction
        check_number("max_kl", max_kl, above=0.0)
        if max_initial_kl != math.inf:
            check_number("max_initial_kl", max_initial_kl, above=0.0)
        check_number("exploration_coefficient", exploration_coefficient, least=0.0)
        check_number("cg_damping", cg_damping, least=0.0)
        check_number("curvature_fraction", curvature_fraction, above=0.0, most=1.0)
        if _init_setup_model:
            self._setup_model()

    def train(self) -> None:
        """Takes a trust-region step on the returns after adaptation."""
        params = self.policy.parameters_by_name()
        credit = self._credit()
        gradients, objectives = self.meta_gradients(params, credit)
        check_finite("a gradient", gradients, self.place_in_training)
        gradient, objective = ranks.mean_over_tasks((gradients, objectives))
        before = objective.item()

        def compare(candidate: Params) -> Trial:
            after, kl, initial_kl = self.evaluate(candidate, credit)
            return Trial(after - before, kl, initial_kl)

        step = trust_region_step(
            params,
            gradient,
            self.curvature(params),
            compare,
            max_kl=self.max_kl,
            max_initial_kl=self.max_initial_kl if self.num_inner_steps else math.inf,
            num_iterations=self.cg_iterations,
            damping=self.cg_damping,
        )
        self._install(step.params)
        self._n_updates += 1
        self.logger.record("train/kl", step.trial.kl)
        self.logger.record("train/initial_kl", step.trial.initial_kl)
        self.logger.record("train/surrogate_improvement", step.trial.improvement)
        self.logger.record("train/backtracks", step.backtracks)
        self.logger.record("train/step_accepted", float(step.accepted))
        if not self.policy.is_discrete:
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @torch.no_grad()
    def _install(self, params: Params) -> None:
        """Copies the outer update's result into the policy's own parameters."""
        for name, parameter in self.policy.named_parameters():
            parameter.copy_(params[name])

    def meta_gradients(self, params: Params, credit: Tensor) -> tuple[Params, Tensor]:
        """Returns each task's gradient with respect to the initial parameters, and its objective.

        The chain rule starts from the gradient of the surrogate with respect to the adapted
        parameters, and applies ``v -> Jᵀ v`` for every inner step from the last to the first, where
        J is the step's Jacobian, which is symmetric.

        Returns:
            Gradients ``[M, ...]`` and objectives ``[M]``.
        """
        supports, query = self.supports_and_query()
        *before, fast = self._inner_loop_parameters(params)
        chunk_size = tasks_at_a_time(query.mask)
        gradients, objectives = task_gradients(self.surrogate, fast, query, chunk_size=chunk_size)

        def through_step(values: Params, support: Batch, gradients: Params) -> Params:
            return pull_back(self.step, values, support)(gradients)

        if not self.first_order:
            for values, support in zip(before[::-1], supports[::-1], strict=True):
                gradients = in_chunks(
                    through_step, values, support, gradients, chunk_size=chunk_size
                )
        if self.exploration_coefficient and supports:
            explored, terms = task_gradients(
                self.exploration, before[0], (supports[0], credit), chunk_size=chunk_size
            )
            objectives = objectives + terms
            gradients = {name: value + explored[name] for name, value in gradients.items()}
        return gradients, objectives

    def exploration(self, params: Params, data: tuple[Batch, Tensor]) -> Tensor:
        """Computes E-MAML's term, which credits the first episodes with the final return."""
        first, credit = data
        log_probs = self.policy.log_prob(self.policy.outputs(params, first.obs), first.actions)
        return self.exploration_coefficient * credit * first.mean(log_probs)

    def _inner_loop_parameters(self, params: Params) -> list[Params]:
        """Lists the tasks' parameters before each inner step and after the last, ``[M, ...]``."""
        return [of_every_task(params, len(self._query.mask)), *self._path]

    def curvature(self, params: Params) -> Callable[[Params], Params]:
        """Returns the product with the Hessian of the adapted policies' mean divergence."""
        # All products of an update use the same steps, which are drawn anew for the next update.
        supports, query = self.part_of_steps(self.curvature_fraction)
        chunk_size = tasks_at_a_time(query.mask)
        *before, fast = self._inner_loop_parameters(params)
        make = partial(pull_back, chunk_size=chunk_size)

        def kl_gradient(values: Params, part: Batch) -> Params:
            return autograd_gradient(lambda params: self.kl(params, part).sum())(values)

        fisher = make(kl_gradient, fast, query)
        steps = [] if self.first_order else zip(before, supports, strict=True)
        jacobians = [make(self.step, values, support) for values, support in steps]

        def product(vector: Params) -> Params:
            products = {name: value.expand_as(fast[name]) for name, value in vector.items()}
            for multiply in (*jacobians, fisher, *reversed(jacobians)):
                products = multiply(products)
            means = ranks.mean_over_tasks(products)
            if not bool(is_finite(means)):
                check_finite("a Hessian-vector product", products, self.place_in_training)
            return means

        return product

    @torch.no_grad()
    def evaluate(self, params: Params, credit: Tensor) -> tuple[float, float, float]:
        """Returns the mean objective with these initial parameters, and two mean divergences.

        The first divergence is that of the policies after adaptation, on the query steps; the
        second is that of the policy before it, on the steps of the first support set.
        """
        supports, query = self.supports_and_query()
        start = fast = of_every_task(params, len(query.mask))
        for support in supports:
            fast = self.stepped(fast, support)
        chunk_size = tasks_at_a_time(query.mask)
        objectives, divergences = in_chunks(
            self.surrogate_and_kl, fast, query, chunk_size=chunk_size
        )
        if self.exploration_coefficient and supports:
            data = (supports[0], credit)
            objectives = objectives + in_chunks(
                self.exploration, start, data, chunk_size=chunk_size
            )
        initial = divergences
        if supports:
            initial = in_chunks(self.kl, start, supports[0], chunk_size=chunk_size)
        means = ranks.mean_over_tasks((objectives, divergences, initial))
        return means[0].item(), means[1].item(), means[2].item()

    def _credit(self) -> Tensor:
        """Returns after adaptation, standardised over the meta-batch, ``[M]``."""
        returns = torch.as_tensor(self._query_returns, device=self.device).float()
        return ranks.own((returns - returns.mean()) / (returns.std(correction=0) + 1e-8))
