"""MAML with trust-region policy optimisation as the outer update (Finn et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from meta_rl.inner_loop import (
    Params,
    hessian_vector_product,
    hessian_vector_products,
    in_chunks,
    is_finite,
    of_every_task,
    task_gradients,
)
from meta_rl.policy_gradient import PolicyGradientAgent
from meta_rl.task_policy import TaskPolicy
from meta_rl.task_steps import Batch, check_finite, tasks_at_a_time
from meta_rl.tasks import check_count, check_number
from meta_rl.trust_region import Trial, trust_region_step


class MAMLTRPO(PolicyGradientAgent):
    """Model-agnostic meta-learning of a policy's initial parameters.

    Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    2017, algorithm 3. The objective is the mean over tasks of the return *after* adaptation; the
    outer update is a TRPO step on its importance-weighted surrogate, under a bound on the mean
    divergence of the adapted policies from those that sampled. A second bound is on the policy
    before adaptation. Without it the initial policy can run away while the adapted ones hardly
    change: once it always takes the same action, the episodes of a task tell nothing any more.

    Its gradient is exact, through the inner loop (``first_order`` leaves the second derivatives
    out). So are the products with the Hessian of the divergence: at the old parameters the gradient
    of the divergence with respect to the adapted ones vanishes, hence ``H v = Jᵀ F J v`` with the
    inner loop's Jacobian J and the Fisher matrix F of the adapted policy. They are computed on
    ``curvature_fraction`` of the steps, as TRPO proposes; the line search uses all of them.

    Args:
        policy: ``"MlpPolicy"``: :class:`meta_rl.task_policy.TaskPolicy`.
        env: An environment id, or a batch of task environments.
        meta_batch_size: Tasks at a time, M, where ``env`` is an id.
        envs_per_task: Episodes of each task for a gradient step, B.
        inner_lr: Step size α of the inner loop.
        num_inner_steps: Inner steps that are trained through; 0 trains one policy for all tasks
            (the pre-trained baseline), which still adapts by gradient steps afterwards.
        later_inner_lr: Step size of the steps after those; half of ``inner_lr`` by default.
        inner_loss: ``"log_likelihood"`` or ``"likelihood_ratio"``.
        first_order: Treat inner gradients as constants.
        exploration_coefficient: Of E-MAML's term, which credits what was sampled before adaptation
            with the return after it (Stadie et al., "Some Considerations on Learning to Explore via
            Meta-Reinforcement Learning", 2018, section 4.1); 0 for none.
        max_kl: Bound δ on the mean KL divergence of the adapted policies, in nats, above 0.
        max_initial_kl: Bound on the mean KL divergence of the initial policy, in nats, above 0, on
            the steps that it sampled for the first inner step; ``math.inf`` for none. The line
            search shortens an update until it keeps this bound too. An agent without inner steps
            has ``max_kl`` alone.
        cg_iterations: Of conjugate gradients.
        cg_damping: Added to the diagonal of the Hessian.
        max_backtracks: Of the line search.
        backtrack_factor: What a try of the line search is shorter than the one before.
        curvature_fraction: Part of the steps that Hessian-vector products are computed on.
        task_chunk: Tasks that are differentiated at a time; by default chosen by their size.
        discount: Of rewards.
        gae_lambda: Of the advantage estimate.
        env_kwargs: For the environment, where ``env`` is an id.
        policy_kwargs: ``hidden_sizes``, ``activation``, ``log_std_init``, ``output_scale``.
        stats_window_size: Episodes in the logged means.
        tensorboard_log: Folder of TensorBoard events.
        verbose: 0 none, 1 the training log.
        seed: Of all randomness.
        device: Of the networks.

    Raises:
        ValueError: Unknown names, counts below one, numbers outside their ranges, or no environment
            (only :meth:`load` does without).

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
        meta_batch_size: int = 40,
        envs_per_task: int = 20,
        inner_lr: float = 0.1,
        num_inner_steps: int = 1,
        later_inner_lr: float | None = None,
        inner_loss: str = "log_likelihood",
        first_order: bool = False,
        exploration_coefficient: float = 0.0,
        max_kl: float = 0.01,
        max_initial_kl: float = 0.01,
        cg_iterations: int = 10,
        cg_damping: float = 1e-5,
        max_backtracks: int = 15,
        backtrack_factor: float = 0.8,
        curvature_fraction: float = 0.05,
        task_chunk: int | None = None,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        env_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            0.0,  # there is no outer optimiser
            meta_batch_size=meta_batch_size,
            envs_per_task=envs_per_task,
            inner_lr=inner_lr,
            num_inner_steps=num_inner_steps,
            later_inner_lr=later_inner_lr,
            inner_loss=inner_loss,
            first_order=first_order,
            discount=discount,
            gae_lambda=gae_lambda,
            env_kwargs=env_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.exploration_coefficient = exploration_coefficient
        self.max_kl = max_kl
        self.max_initial_kl = max_initial_kl
        self.cg_iterations = check_count("cg_iterations", cg_iterations)
        self.cg_damping = cg_damping
        self.max_backtracks = check_count("max_backtracks", max_backtracks, least=0)
        self.backtrack_factor = backtrack_factor
        self.curvature_fraction = curvature_fraction
        self.task_chunk = None if task_chunk is None else check_count("task_chunk", task_chunk)
        check_number("max_kl", max_kl, above=0.0)
        if max_initial_kl != math.inf:
            check_number("max_initial_kl", max_initial_kl, above=0.0)
        check_number("exploration_coefficient", exploration_coefficient, least=0.0)
        check_number("cg_damping", cg_damping, least=0.0)
        check_number("backtrack_factor", backtrack_factor, above=0.0, most=1.0)
        check_number("curvature_fraction", curvature_fraction, above=0.0, most=1.0)
        if _init_setup_model:
            self._setup_model()

    def train(self) -> None:
        """A trust-region step on the returns after adaptation."""
        params = self.policy.parameters_by_name()
        credit = self._credit()
        gradients, objectives = self.meta_gradients(params, credit)
        check_finite("a gradient", gradients, self.place_in_training)
        before = objectives.mean().item()

        def compare(candidate: Params) -> Trial:
            after, kl, initial_kl = self.evaluate(candidate, credit)
            return Trial(after - before, kl, initial_kl)

        step = trust_region_step(
            params,
            {name: gradient.mean(dim=0) for name, gradient in gradients.items()},
            self.curvature(params),
            compare,
            max_kl=self.max_kl,
            max_initial_kl=self.max_initial_kl if self.num_inner_steps else math.inf,
            num_iterations=self.cg_iterations,
            damping=self.cg_damping,
            max_backtracks=self.max_backtracks,
            backtrack_factor=self.backtrack_factor,
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
        """Make the outer update's result the policy's own parameters."""
        for name, parameter in self.policy.named_parameters():
            parameter.copy_(params[name])

    def meta_gradients(self, params: Params, credit: Tensor) -> tuple[Params, Tensor]:
        """Each task's objective, ``[M]``, and its gradient in the initial parameters, [M, …].

        By the chain rule: that of the surrogate in the adapted parameters, then ``v -> Jᵀ v`` for
        every inner step from the last to the first, J being symmetric.
        """
        supports, query = self.supports_and_query()
        *before, fast = self._parameters_on_the_way(params)
        chunk_size = self.task_chunk or tasks_at_a_time(query.mask)
        gradients, objectives = task_gradients(self.surrogate, fast, query, chunk_size=chunk_size)
        if not self.first_order:
            for values, support in zip(before[::-1], supports[::-1], strict=True):
                bent = hessian_vector_product(
                    self.inner_loss, values, support, gradients, chunk_size=chunk_size
                )
                gradients = self._less_bent(gradients, bent)
        if self.exploration_coefficient and supports:
            explored, terms = task_gradients(
                self.exploration, before[0], (supports[0], credit), chunk_size=chunk_size
            )
            objectives = objectives + terms
            gradients = {name: value + explored[name] for name, value in gradients.items()}
        return gradients, objectives

    def exploration(self, params: Params, data: tuple[Batch, Tensor]) -> Tensor:
        """E-MAML's term: what was sampled first is credited with the return at last."""
        first, credit = data
        log_probs = self.policy.log_prob(self.policy.outputs(params, first.obs), first.actions)
        return self.exploration_coefficient * credit * first.mean(log_probs)

    def _parameters_on_the_way(self, params: Params) -> list[Params]:
        """Of every task, before each inner step and after all, ``[M, ...]``."""
        return [of_every_task(params, len(self._query.mask)), *self._path]

    def curvature(self, params: Params) -> Callable[[Params], Params]:
        """Products with the Hessian of the mean divergence of the adapted policies."""
        # The same steps for every product, and another draw for every update.
        supports, query = self.part_of_steps(self.curvature_fraction)
        chunk_size = self.task_chunk or tasks_at_a_time(query.mask)
        *before, fast = self._parameters_on_the_way(params)
        jacobians = [
            self._inner_jacobian(values, support, chunk_size)
            for values, support in zip(before, supports, strict=True)
        ]
        fisher = hessian_vector_products(self.kl, fast, query, chunk_size=chunk_size)

        def product(vector: Params) -> Params:
            products = {name: value.expand_as(fast[name]) for name, value in vector.items()}
            for along in (*jacobians, fisher, *reversed(jacobians)):
                products = along(products)
            means = {name: value.mean(dim=0) for name, value in products.items()}
            if not bool(is_finite(means)):
                check_finite("a Hessian-vector product", products, self.place_in_training)
            return means

        return product

    def _inner_jacobian(
        self, params: Params, support: Batch, chunk_size: int | None
    ) -> Callable[[Params], Params]:
        """``v -> (I - α ∇²L) v``: the Jacobian of one inner step, which is symmetric."""
        if self.first_order:
            return lambda vector: vector
        bend = hessian_vector_products(self.inner_loss, params, support, chunk_size=chunk_size)

        return lambda vector: self._less_bent(vector, bend(vector))

    def _less_bent(self, vector: Params, bent: Params) -> Params:
        return {name: value - self.inner_lr * bent[name] for name, value in vector.items()}

    @torch.no_grad()
    def evaluate(self, params: Params, credit: Tensor) -> tuple[float, float, float]:
        """The mean objective with these initial parameters, and two mean divergences.

        They are those of the policies after adaptation, on the query steps, and of the policy
        before it, on the steps of the first inner step's support.
        """
        supports, query = self.supports_and_query()
        start = fast = of_every_task(params, len(query.mask))
        for support in supports:
            fast = self.stepped(fast, support, self.inner_lr)
        chunk_size = self.task_chunk or tasks_at_a_time(query.mask)
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
        return objectives.mean().item(), divergences.mean().item(), initial.mean().item()

    def _credit(self) -> Tensor:
        """Returns after adaptation, standardised over the meta-batch, ``[M]``."""
        returns = torch.as_tensor(self._query_returns, device=self.device).float()
        return (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)
