"""A feed-forward policy as a pure function of its parameters, which may be many fast weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributions import Categorical, Distribution, Independent, Normal

from meta_rl.arguments import check_counts, check_number, checked
from meta_rl.compute.finite_state import check_chances
from meta_rl.compute.torch_state import weights_generator
from meta_rl.inner_loop import Params, detached
from meta_rl.policy_gradient.perceptron import perceptron
from meta_rl.vector.tensor_draws import CopiedDraws, choices, standard_normal
from meta_rl.wrappers.previous_step import FlatEncoder

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
MIN_LOG_STD = math.log(1e-6)
DEEP = -8.0
"""Below this argument, Φ comes from functions that do not underflow, but are 20 times slower."""

Outputs = tuple[Tensor, ...]
"""Outputs of the network for steps ``[..., S]``: logits ``[..., S, A]``; or means and logarithms of
standard deviations, ``[..., S, A]`` each."""


class TaskPolicy(BasePolicy):
    """A multi-layer perceptron policy that takes its parameters as an argument.

    Discrete actions have a categorical distribution. Continuous actions have a Gaussian
    distribution, whose standard deviation does not depend on the observation. Its units are those
    in which the bounds of the action space are -1 and 1, and actions are clipped to the bounds. An
    action at a bound has the probability of all values that are clipped to it (Fujita and Maeda,
    "Clipped Action Policy Gradient", 2018). So it is enough to store the clipped actions, and the
    policy gradient has the same mean as that of the Gaussian, with less variance.

    Args:
        observation_space: Space of observations: ``Box``, ``Discrete``, ``MultiBinary`` or a
            ``Dict`` of these.
        action_space: Space of actions: ``Discrete`` or ``Box``.
        hidden_sizes: Numbers of units of the hidden layers (default: 100 and 100).
        activation: Name of the activation: ``"relu"`` (default) or ``"tanh"``.
        log_std_init: Initial logarithm of the standard deviation (default: 0).
        output_scale: Factor of the last layer's initial weights, which are Glorot's (default: 1).
            With 1, the initial means of a robot's actions are as large as the bounds; a small
            factor begins with noise around 0.
        generator: Generator that draws the initial weights and, later, the actions.

    Raises:
        ValueError: The activation is unknown, the scale is not positive, or actions are bounded on
            one side only.
    """

    @checked
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete | spaces.Box,
        *,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: str = "relu",
        log_std_init: float = 0.0,
        output_scale: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__(observation_space, action_space)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r}: {', '.join(ACTIVATIONS)} exist")
        check_number("output_scale", output_scale, above=0.0)
        self.activation = activation
        self.encoder = FlatEncoder(observation_space)
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        num_outputs = spaces.flatdim(action_space)
        sizes = [self.encoder.size, *check_counts("hidden_sizes", hidden_sizes)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        last = nn.Linear(sizes[-1], num_outputs)
        self.network = nn.Sequential(*layers, last)
        self.layer_names = [f"network.{2 * i}" for i in range(len(sizes))]
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((num_outputs,), float(log_std_init)))
            self._set_action_units(action_space)
        self.generator = generator
        on_cpu = weights_generator(generator)
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=on_cpu)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            last.weight.mul_(output_scale)

    def _set_action_units(self, space: spaces.Box) -> None:
        """Sets the Gaussian's unit: half the width of the bounds, or 1 for unbounded actions."""
        low, high = space.low.ravel(), space.high.ravel()
        bounded = np.isfinite(low)
        if (bounded != np.isfinite(high)).any():
            raise ValueError(f"actions have to be bounded on both sides or on none, not {space}")
        self.low = np.where(bounded, low, -np.inf).astype(np.float32)
        self.high = np.where(bounded, high, np.inf).astype(np.float32)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self.centre = ((low + high) / 2).astype(np.float32)
        self.half_width = ((high - low) / 2).astype(np.float32)
        self.is_bounded = bool(bounded.any())
        limit = torch.from_numpy(np.where(bounded, 1.0, np.inf).astype(np.float32))
        self.limit: Tensor
        self.register_buffer("limit", limit, persistent=False)

    def parameters_by_name(self) -> Params:
        """Returns the network's own parameters, detached from any graph."""
        return detached(dict(self.named_parameters()))

    def forward(self, obs: Tensor, *args: Any) -> Outputs:
        """Computes the outputs for flat observations ``[S, O]`` with the network's parameters."""
        return self.outputs(dict(self.named_parameters()), obs)

    def outputs(self, params: Params, obs: Tensor) -> Outputs:
        """Computes the outputs for flat observations ``[S, O]`` with parameters of one task.

        With a leading axis of M tasks, parameters are ``[M, ...]`` and observations ``[M, S, O]``.
        """
        layers = [(params[f"{name}.weight"], params[f"{name}.bias"]) for name in self.layer_names]
        return self.with_spread(params, perceptron(obs, layers, self.activation))

    def with_spread(self, params: Params, outputs: Tensor) -> Outputs:
        """Adds the logarithms of the standard deviations to the network's output, if continuous."""
        if self.is_discrete:
            return (outputs,)
        return outputs, params["log_std"].clamp(min=MIN_LOG_STD)[..., None, :].expand_as(outputs)

    def distribution(self, outputs: Outputs) -> Distribution:
        """Makes the distribution of actions before clipping, from :meth:`outputs`."""
        if self.is_discrete:
            return Categorical(logits=outputs[0], validate_args=False)
        means, log_std = outputs
        return Independent(Normal(means, log_std.exp(), validate_args=False), 1)

    def log_prob(self, outputs: Outputs, actions: Tensor) -> Tensor:
        """Computes log-probabilities ``[..., S]`` of actions ``[..., S, A]`` in Gaussian units."""
        if self.is_discrete:
            return self.distribution(outputs).log_prob(actions)
        means, log_std = outputs
        scaled = (actions - means) * (-log_std).exp()
        constant = log_std + 0.5 * math.log(2 * math.pi)
        if not self.is_bounded:
            return (-0.5 * scaled.square() - constant).sum(dim=-1)
        side = torch.where(actions.abs() >= self.limit, actions.sign(), 0.0)
        inside = (side == 0).to(scaled.dtype)
        return (log_density(scaled, side) - inside * constant).sum(dim=-1)

    def kl(self, old: Outputs, new: Outputs) -> Tensor:
        """Computes ``KL(old ‖ new)`` before clipping, ``[..., S]``; clipping can only lower it."""
        if self.is_discrete:
            log_old, log_new = old[0].log_softmax(dim=-1), new[0].log_softmax(dim=-1)
            return (log_old.exp() * (log_old - log_new)).sum(dim=-1)
        shift = (old[0] - new[0]).square() + (2.0 * old[1]).exp()
        return (new[1] - old[1] + 0.5 * shift * (-2.0 * new[1]).exp() - 0.5).sum(dim=-1)

    def draw(
        self, outputs: Outputs, deterministic: bool = False, draws: CopiedDraws | None = None
    ) -> np.ndarray:
        """Draws actions in the environment's units, ``[..., *action shape]``.

        Args:
            outputs: Result of :meth:`outputs`.
            deterministic: Whether the most likely actions are taken (default: False).
            draws: Streams of the random numbers of each of N rows (default: the generator).
        """
        if self.is_discrete:
            return self._draw_discrete(outputs[0], deterministic, draws)
        values = outputs[0]
        if not deterministic:
            noise = standard_normal(values, self.generator, draws)
            values = values + outputs[1].exp() * noise
        actions = self.centre + self.half_width * values.cpu().numpy()
        actions = actions.clip(self.low, self.high).astype(self.action_space.dtype, copy=False)
        shape = self.action_space.shape
        assert shape is not None
        return actions.reshape(*actions.shape[:-1], *shape)

    def _draw_discrete(
        self, logits: Tensor, deterministic: bool, draws: CopiedDraws | None
    ) -> np.ndarray:
        if deterministic:
            chosen = logits.argmax(dim=-1)
        else:
            chances = logits.softmax(dim=-1).flatten(end_dim=-2)
            drawn = choices(check_chances(chances), self.generator, draws)
            chosen = drawn.view(logits.shape[:-1])
        start = int(self.action_space.start)  # type: ignore[attr-defined]
        return (chosen.cpu().numpy() + start).astype(self.action_space.dtype, copy=False)

    def as_units(self, actions: np.ndarray) -> Tensor:
        """Converts the environment's actions to those of :meth:`log_prob`, on the device.

        Args:
            actions: Actions in the environment's units, ``[..., *action shape]``.

        Returns:
            Float32 ``[..., A]`` in units of the Gaussian, where actions at a bound are exactly -1
            or 1. For discrete actions, whole numbers from 0.
        """
        if self.is_discrete:
            start = int(self.action_space.start)  # type: ignore[attr-defined]
            return torch.as_tensor(actions.astype(np.int64) - start, device=self.device)
        shape = self.action_space.shape
        assert shape is not None
        flat = actions.reshape(*actions.shape[: actions.ndim - len(shape)], -1)
        units = (flat - self.centre) / self.half_width
        units = np.where(flat >= self.high, 1.0, np.where(flat <= self.low, -1.0, units))
        return torch.as_tensor(units.astype(np.float32), device=self.device)

    def flat(self, observations: Any) -> Tensor:
        """Flattens observations ``[N, ...]`` to float32 ``[N, O]`` on the device."""
        return torch.as_tensor(self.encoder.encoded(observations), device=self.device)

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Raises an error: the agent predicts, with the parameters of its state."""
        raise NotImplementedError("predict with the agent: it knows the adapted parameters")


def log_density(scaled: Tensor, side: Tensor) -> Tensor:
    """Computes the log-density of a clipped Gaussian: ``-s²/2``, or a tail's log-probability.

    The derivatives are computed together with the values, as one function, the *score*, whose
    derivative is a polynomial in the score.

    Args:
        scaled: Standardised actions ``s = (action - mean) / std``, ``[...]``.
        side: Position of each action, ``[...]``: -1 at the lower bound, 1 at the upper bound, 0
            between them.

    Returns:
        ``[...]``: ``log Φ(s)`` at the lower bound and ``log Φ(-s)`` at the upper bound. Inside, the
        log-density is this value plus ``-log std - log(2π)/2``, which the caller adds.
    """
    return _LogDensity.apply(scaled, side)[0]


class _LogDensity(Function):
    """The values and the *score*, their negative derivative with respect to ``scaled``.

    The score is s inside the interval, and ``side φ(t)/Φ(t)`` with ``t = -side s`` at a bound.
    """

    apply: Any  # PyTorch declares no types for it

    @staticmethod
    def forward(scaled: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        inside = side == 0
        t = -side * scaled
        tail = torch.erfc(t.abs().mul_(math.sqrt(0.5))).mul_(0.5)  # Φ(-|t|)
        low = t < 0
        values = torch.where(low, tail.log(), (-tail).log1p())
        ratio = t.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        ratio.div_(torch.where(low, tail, 1.0 - tail))
        deep = t < DEEP
        if bool(deep.any()):  # erfcx(x) is exp(x²) erfc(x), which does not underflow
            t = t[deep]
            values[deep] = torch.special.log_ndtr(t)
            ratio[deep] = math.sqrt(2 / math.pi) / torch.special.erfcx(-t * math.sqrt(0.5))
        values = torch.where(inside, scaled.square().mul_(-0.5), values)
        return values, torch.where(inside, scaled, ratio.mul_(side))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_score: Tensor | None) -> Any:
        scaled, side, score = ctx.saved_tensors
        total = None if grad is None else -grad * score
        if grad_score is not None:
            # With r = φ/Φ, r' = -r (t + r): here r = side score, t = -side s, and side² = 1.
            second = grad_score * torch.where(side == 0, 1.0, score * (score - scaled))
            total = second if total is None else total + second
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Any, Any]:
        moved = (
            arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        )
        return _LogDensity.apply(*moved), (0, 0)
