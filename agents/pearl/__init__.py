"""PEARL: off-policy meta-reinforcement learning by probabilistic context variables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, NoReturn, Self

import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from meta_rl.arguments import check_count, check_kind, check_number
from meta_rl.compute import ranks
from meta_rl.compute.cuda_graph import CudaGraph, check_gpu, is_recording, recordable, recorded_step
from meta_rl.compute.finite_state import guarded_step

from .collection import TaskCollection
from .encoders import GivenLatent, RecurrentEncoder
from .inference import LatentInference
from .losses import LatentLosses
from .networks import LatentActorCritic


class PEARL(LatentInference, TaskCollection):
    """Agent that runs PEARL (Rakelly et al., 2019): soft actor-critic on an inferred task variable.

    An encoder turns transitions of a task, the context, into a Gaussian posterior over a latent z;
    actor and critics read z together with the observation. The critics' loss trains the encoder,
    with an information bottleneck (KL divergence from the unit normal). The agent explores by
    posterior sampling: z is drawn at the start of an episode and held through it, first from the
    prior.

    An iteration draws training tasks, forgets their context, and collects from all of them at once:
    first with z from the prior, then with z from the posterior, which is inferred anew after every
    ``horizon`` steps; then, with the posterior, transitions that only the critics read. The updates
    draw from the replay of all training tasks.

    The training tasks are a list: the family's own, or ``num_train_tasks`` draws where its training
    distribution is continuous.

    Differences from the paper's code are listed in ``docs/agents/pearl.md``.

    Letters: M tasks of an update, B transitions of each, C transitions of context, L latent.

    Args:
        policy: Policy class, or ``"MlpPolicy"`` for
            :class:`meta_rl.agents.pearl.networks.LatentActorCritic`.
        env: An environment id, or a batch of task environments.
        learning_rate: Step size of Adam, for all networks: a number, or a function of the remaining
            progress (1 to 0).
        meta_batch_size: Number of tasks that an iteration collects from, where ``env`` is an id.
        envs_per_task: Number of sub-environments of each task; they share the steps below.
        task_choice: Rule that chooses these tasks: ``"random"``, as in the paper, or ``"fewest"``
            transitions so far. A random choice can leave a task long without new transitions, and
            critics that are trained on few old ones overrate actions that were never tried.
        num_train_tasks: Length of the list that is drawn from a continuous training distribution.
        initial_steps: Number of steps on every training task before the first update.
        initial_actions: Actions of these steps: those of the untrained ``"policy"`` or, where that
            finds no reward, ``"held"`` ones: uniform in the action space, and the same through an
            episode.
        prior_steps: Number of steps per task and iteration with z from the prior. They become
            context.
        posterior_steps: Number of further steps with z from the posterior. They become context.
        extra_steps: Number of further steps with z from the posterior, for the critics alone.
        updates_per_iteration: Number of gradient steps in an iteration.
        tasks_per_update: Number of tasks in an update, M, drawn with replacement.
        batch_size: Number of transitions of each task in an update, B.
        context_size: Number of transitions in a context, C, in updates and while collecting.
        buffer_size: Number of transitions that are kept, over all training tasks
            (:class:`meta_rl.agents.pearl.replay.TaskReplay`).
        save_replay: Whether the buffer is saved with the agent, so that a resumed run equals an
            uninterrupted one; otherwise a resumed run begins with ``initial_steps`` again.
        discount: Discount of the rewards, 0 to 1.
        reward_scale: Factor, from 0 on, of the rewards that the critics learn from.
        training_reward: Name of the info that replaces the reward for the critics (the dense reward
            of sparse point navigation); context and evaluation keep the reward.
        entropy_coefficient: Weight of the entropy, above 0; ``"auto"`` learns it such that the
            entropy is minus the number of action dimensions (Haarnoja et al., 2018b).
        kl_weight: Weight of the information bottleneck, from 0 on: a number, or pairs such as
            ``[[0, 0.2], [500_000, 0.01]]`` of environment steps and the weight from there on. With
            a large weight the policy first learns what all tasks share; with a small one z can then
            tell them apart.
        target_rate: Fraction of the way, 0 to 1, that the target network moves in each update.
        exploration_episodes: Number of first episodes of a trial in which z comes from the prior;
            with 0, z comes from the posterior as soon as there is a transition.
        test_latent: Whether the agent acts on a ``"sample"`` of the posterior or on its ``"mean"``.
        compile_losses: Whether the two losses are compiled by ``torch.compile``, for GPUs.
        cuda_graph: Whether an update is recorded as a CUDA graph and replayed, which is several
            times as fast on a GPU; not for recurrent encoders.
        **settings: Further arguments of :class:`meta_rl.MetaAlgorithm`; ``policy_kwargs`` are
            ``latent_size``, ``hidden_sizes``, ``encoder`` (``"product"``, ``"recurrent"``),
            ``encoder_sizes``, ``next_observation`` and ``value_network``.

    Raises:
        ValueError: A setting is refused by the base class, the buffer does not hold an iteration,
            or ``envs_per_task`` does not divide a number of steps.

    Example:
        >>> from meta_rl.agents.pearl import PEARL
        >>> model = PEARL(env="meta_rl/HalfCheetahVel-v0", seed=0).learn(350_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/HalfCheetahVel-v0", 30, 3)
    """

    loss_column: ClassVar[str] = "train/critic_loss"
    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": LatentActorCritic}
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Box,)
    policy: LatentActorCritic
    divides_over_ranks = True

    def __init__(
        self,
        policy: str | type[LatentActorCritic] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 3e-4,
        *,
        meta_batch_size: int = 5,
        envs_per_task: int = 1,
        task_choice: str = "random",
        num_train_tasks: int = 100,
        initial_steps: int = 2000,
        initial_actions: str = "policy",
        prior_steps: int = 400,
        posterior_steps: int = 0,
        extra_steps: int = 600,
        updates_per_iteration: int = 2000,
        tasks_per_update: int = 16,
        batch_size: int = 256,
        context_size: int = 100,
        buffer_size: int = 3_000_000,
        save_replay: bool = True,
        discount: float = 0.99,
        reward_scale: float = 5.0,
        training_reward: str | None = None,
        entropy_coefficient: float | str = 1.0,
        kl_weight: float | Sequence[Sequence[float]] = 0.1,
        target_rate: float = 0.005,
        exploration_episodes: int = 0,
        test_latent: str = "sample",
        compile_losses: bool = False,
        cuda_graph: bool = False,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        self.envs_per_task = check_count("envs_per_task", envs_per_task)
        super().__init__(policy, env, learning_rate, meta_batch_size=meta_batch_size, **settings)
        self.task_choice = task_choice
        self.num_train_tasks = num_train_tasks
        self.train_tasks = None
        self.initial_steps = initial_steps
        self.initial_actions = initial_actions
        self.prior_steps = prior_steps
        self.posterior_steps = posterior_steps
        self.extra_steps = extra_steps
        self.updates_per_iteration = updates_per_iteration
        self.tasks_per_update = tasks_per_update
        self.batch_size = batch_size
        self.context_size = context_size
        self.buffer_size = buffer_size
        self.save_replay = save_replay
        self.discount = discount
        self.reward_scale = reward_scale
        self.training_reward = training_reward
        self.entropy_coefficient = entropy_coefficient
        self.kl_weight = kl_weight
        self.target_rate = target_rate
        self.exploration_episodes = exploration_episodes
        self.test_latent = test_latent
        self.compile_losses = compile_losses
        self.cuda_graph = cuda_graph
        self._check_settings()
        if _init_setup_model:
            self._setup_model()
            self._check_graph()

    def _check_settings(self) -> None:
        counts = ("num_train_tasks", "initial_steps", "prior_steps", "updates_per_iteration")
        for name in (*counts, "tasks_per_update", "batch_size", "context_size", "buffer_size"):
            setattr(self, name, check_count(name, getattr(self, name)))
        ranks.share("tasks_per_update", self.tasks_per_update)
        for name in ("posterior_steps", "extra_steps", "exploration_episodes"):
            setattr(self, name, check_count(name, getattr(self, name), least=0))
        for name in ("initial_steps", "prior_steps", "posterior_steps", "extra_steps"):
            if getattr(self, name) % self.envs_per_task:
                raise ValueError(
                    f"{name}={getattr(self, name)} is no multiple of "
                    f"envs_per_task={self.envs_per_task}"
                )
        for name, most in (("discount", 1.0), ("target_rate", 1.0), ("reward_scale", math.inf)):
            check_number(name, getattr(self, name), least=0.0, most=most)
        self._check_kl_weight()
        self._check_choices()

    def _check_kl_weight(self) -> None:
        if isinstance(self.kl_weight, int | float):
            check_number("kl_weight", self.kl_weight, least=0.0)
            return
        wrong = (
            "kl_weight is a number, or pairs of steps and weight that begin with 0 steps, got "
            f"{self.kl_weight!r}"
        )
        try:
            starts, weights = zip(*self.kl_weight, strict=True)
        except (TypeError, ValueError) as error:
            raise ValueError(wrong) from error
        for value in (*starts, *weights):
            check_number("kl_weight", value, least=0.0)
        if starts[0] != 0 or list(starts) != sorted(starts):
            raise ValueError(wrong)

    @property
    def current_kl_weight(self) -> float:
        """The weight of the information bottleneck after the environment steps so far."""
        if isinstance(self.kl_weight, int | float):
            return self.kl_weight
        return [
            weight for start, weight in self.kl_weight if start < self.num_timesteps or not start
        ][-1]

    def _check_choices(self) -> None:
        coefficient = self.entropy_coefficient
        if coefficient != "auto" and (isinstance(coefficient, str) or not coefficient > 0.0):
            raise ValueError(
                f"entropy_coefficient: 'auto' or a number above 0, got {coefficient!r}"
            )
        for name, known in (
            ("test_latent", ("sample", "mean")),
            ("initial_actions", ("policy", "held")),
            ("task_choice", ("random", "fewest")),
        ):
            if getattr(self, name) not in known:
                choices = " or ".join(map(repr, known))
                raise ValueError(f"{name}: {choices}, got {getattr(self, name)!r}")

    def _make_networks(self) -> None:
        self._freeze_tasks()
        make_policy: Any = self.policy_class
        kwargs = {"generator": self.generator, **self.policy_kwargs, **self._policy_overrides()}
        policy = make_policy(self.observation_space, self.action_space, **kwargs).to(self.device)
        self.policy = policy
        policy.make_optimizers(self.lr_schedule(1), self.entropy_coefficient)
        self._make_replay()
        self._make_losses()

    def _make_losses(self) -> None:
        self.losses = LatentLosses(
            self.policy,
            self.replay.columns,
            reward_scale=self.reward_scale,
            discount=self.discount,
            learn_temperature=self.entropy_coefficient == "auto",
        )
        self._critic_loss, self._actor_loss = self.losses.critic_loss, self.losses.actor_loss
        self._compute: Callable[[], Any] = self._compute_update
        if self.compile_losses:
            self._critic_loss = torch.compile(self._critic_loss)
            self._actor_loss = torch.compile(self._actor_loss)

    def _check_graph(self) -> None:
        """Refuses what a CUDA graph cannot record: another device, or shapes that change."""
        if not self.cuda_graph:
            return
        check_gpu(self.device)
        if isinstance(self.policy.encoder, RecurrentEncoder):
            raise ValueError(
                "cuda_graph=True is not for recurrent encoders: contexts vary in length"
            )

    def _policy_overrides(self) -> dict[str, Any]:
        return {}

    def start_from(self, other: PEARL) -> Self:
        """Takes over networks, tasks and replay of an agent that was trained without context.

        At first this agent acts as the other one, for any z; the use of the context is learned on
        top. Training continues with ``learn(..., reset_num_timesteps=False)``.

        Args:
            other: A :class:`meta_rl.agents.multi_task_sac.MultiTaskSAC` of the same family, with
                networks of the same sizes and as many training tasks.

        Raises:
            ValueError: It acts on another z than 0, or has other sizes; nothing is changed then.
        """
        check_kind("other", other, PEARL, "an agent of PEARL's family without context")
        # A subclass with another first belief tells the agent the task.
        begins_at_zero = type(other).first_belief is PEARL.first_belief
        if not isinstance(other.policy.encoder, GivenLatent) or not begins_at_zero:
            raise ValueError(f"an agent without context is wanted, got {type(other).__name__}")
        if self.family != other.family:
            raise ValueError(f"trained on {other.family}, but this agent is on {self.family}")
        replay = other.replay.state_dict()
        try:
            self.replay.check_fits(replay)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        self.policy.start_from(other.policy)
        self.replay.load_state_dict(replay)
        self.train_tasks = other.train_tasks
        self.num_timesteps, self._n_updates = other.num_timesteps, other._n_updates
        self._num_iterations = other._num_iterations
        return self

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.optimizer", "policy.critic_optimizer"]
        return [*names, "replay"] if self.save_replay else names, []

    def _excluded_save_params(self) -> list[str]:
        made = ["replay", "losses", "_critic_loss", "_actor_loss", "_compute"]
        return [*super()._excluded_save_params(), *made]

    def train(self) -> None:
        """Takes gradient steps, each on a meta-batch of training tasks."""
        optimizers = [self.policy.critic_optimizer, self.policy.optimizer]
        self._update_learning_rate(optimizers)
        reports = []
        self._updating = True
        try:
            with self._recorded(optimizers):
                for _ in range(self.updates_per_iteration):
                    report = self.update()
                    reports.append(torch.stack(list(report.values())))
        finally:
            self._updating = False
        means = ranks.mean(torch.stack(reports).mean(dim=0)).tolist()
        for name, value in zip(report, means, strict=True):
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @contextlib.contextmanager
    def _recorded(self, optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
        """Records updates as a CUDA graph if asked to, anew each time, as the replay grows."""
        if not self.cuda_graph:
            yield
            return
        self._check_graph()  # a loaded agent may be on another device
        self._compute = CudaGraph(self._compute_update, [self.generator], copies=False)
        try:
            with recordable(*optimizers):
                yield
        finally:
            self._compute = self._compute_update

    def update(self) -> dict[str, Tensor]:
        """Updates all networks once; the returned means are valid until the next update.

        Raises:
            FloatingPointError: A loss or a gradient is not finite.
        """
        report, tasks, checks = self._compute()
        if checks and not torch.stack([finite for finite, _ in checks]).all():
            losses = next(losses for finite, losses in checks if not finite)
            self._stop_at_loss(losses, tasks, "gradient" if losses.isfinite().all() else "loss")
        self._n_updates += 1
        return report

    def _compute_update(self) -> tuple[dict[str, Tensor], Tensor, list[tuple[Tensor, Tensor]]]:
        """Computes an update that a graph can record; returns report, tasks and open checks.

        Ranks draw the same numbers, and compute the losses of their share of the tasks.
        """
        policy, num = self.policy, self.tasks_per_update
        tasks = torch.randint(
            self.replay.num_tasks, (num,), generator=self.generator, device=self.device
        )
        rows = self.replay.sample(tasks, self.batch_size, self.generator)
        context = self.sample_context(tasks)
        noise = ranks.own(policy.noise(num, policy.latent_size))
        num_rows = num * self.batch_size
        action_noise = policy.noise(2, num_rows, policy.action_size)[:, ranks.own_slice(num_rows)]

        tasks = ranks.own(tasks)
        belief = self.first_belief(tasks)
        losses, latents, kl = self._critic_loss(rows, context, belief, noise, action_noise[0])
        loss = losses.mean() + self.current_kl_weight * kl.sum() * ranks.size()
        checks = self._step(policy.critic_optimizer, loss, losses, tasks)

        losses, report = self._actor_loss(rows, latents.detach(), action_noise[1])
        checks += self._step(policy.optimizer, losses.mean(), losses, tasks)
        policy.move_target(self.target_rate)
        report = {"critic_loss": loss.detach(), "kl": kl.detach().mean(), **report}
        return report, tasks, checks

    def _step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, losses: Tensor, tasks: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Takes a step of Adam, unless a loss ``[M]`` or a gradient is not finite.

        While a graph is recorded, values cannot be read: the GPU decides whether to step, and the
        returned checks (whether all was finite, and the losses) are read later.
        """
        if is_recording():
            return [(recorded_step(optimizer, loss), losses.detach())]
        guarded_step(optimizer, loss, partial(self._stop_at_loss, losses, tasks))
        return []

    def _stop_at_loss(
        self, losses: Tensor, tasks: Tensor, what: str, loss: Tensor | None = None
    ) -> NoReturn:
        """Stops the training, and names the tasks whose loss is not finite, or all tasks."""
        bad = ~losses.detach().isfinite()
        value = "" if loss is None or what == "loss" else f" of a loss of {loss.item():.6g}"
        broken = tasks[bad] if bad.any() else tasks
        self._stop(f"the {what}{value} is not finite", broken.cpu().numpy())
