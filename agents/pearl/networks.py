"""Networks of soft actor-critic that read a latent task variable and the observation."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from meta_rl.arguments import check_count, check_counts, checked
from meta_rl.compute.torch_state import weights_generator
from meta_rl.vector.tensor_draws import CopiedDraws, standard_normal

from .encoders import ENCODERS, mlp

LOG_STD_RANGE = (-20.0, 2.0)


class TwinNetwork(nn.Module):
    """Two networks of the same shape that are evaluated together.

    Args:
        sizes: Sizes of the layers, from the input to the output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList([torch.empty(2, before, after) for before, after in pairs])
        self.biases = nn.ParameterList([torch.empty(2, 1, after) for _, after in pairs])

    def forward(self, inputs: Tensor, frozen: bool = False) -> Tensor:
        """Maps ``[N, I]`` to ``[2, N, outputs]``; if frozen, only the inputs get a gradient."""
        hidden = inputs.expand(2, *inputs.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            hidden = torch.baddbmm(bias, hidden.relu_() if layer else hidden, weight)
        return hidden


class LatentActorCritic(BasePolicy):
    """Actor, twin critics, value network and context encoder of PEARL (Rakelly et al., 2019).

    The networks use actions scaled to [-1, 1]; the actor is a normal distribution squashed by tanh
    (Haarnoja et al., 2018, appendix C).

    Letters: N rows, O observation, A action, L latent.

    Args:
        observation_space: ``Box`` space of observations.
        action_space: Bounded ``Box`` space of actions.
        latent_size: Number of values in z, L.
        hidden_sizes: Sizes of the ReLU layers of actor, critics and value network.
        encoder: Name of the encoder: ``"product"`` (permutation-invariant), ``"recurrent"``, or
            ``"none"`` (z is always 0: soft actor-critic without context).
        encoder_sizes: Sizes of the ReLU layers of the encoder.
        next_observation: Whether the encoder also reads each transition's next observation, which
            it needs where tasks differ in their dynamics.
        value_network: Whether to bootstrap from a value network, as in the paper, and not from
            target critics, as in later soft actor-critic.
        generator: Generator that draws the first weights and, later, latents and actions.

    Attributes:
        log_temperature: Logarithm of the weight of the entropy.
        critic_optimizer: Optimiser of critics and encoder; ``optimizer`` is that of the others.

    Raises:
        ValueError: Observations are not in a ``Box``, actions are unbounded, or the encoder is
            unknown.
    """

    critic_optimizer: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer

    @checked
    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        *,
        latent_size: int = 5,
        hidden_sizes: Sequence[int] = (300, 300, 300),
        encoder: str = "product",
        encoder_sizes: Sequence[int] = (200, 200, 200),
        next_observation: bool = False,
        value_network: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(observation_space, action_space)
        self._check(observation_space, action_space, encoder)
        self.generator = generator
        self.latent_size = check_count("latent_size", latent_size)
        hidden_sizes = check_counts("hidden_sizes", hidden_sizes)
        encoder_sizes = check_counts("encoder_sizes", encoder_sizes)
        self.next_observation = next_observation
        self.observation_size = obs = math.prod(observation_space.shape)
        self.action_size = act = math.prod(action_space.shape)
        self.context_size = obs + act + 1 + (obs if next_observation else 0)
        policy_sizes = [obs + latent_size, *hidden_sizes]
        critic_sizes = [obs + act + latent_size, *hidden_sizes, 1]
        self.actor = mlp([*policy_sizes, 2 * act])
        self.critics = TwinNetwork(critic_sizes)
        self.value = mlp([*policy_sizes, 1]) if value_network else None
        self.target = mlp([*policy_sizes, 1]) if value_network else TwinNetwork(critic_sizes)
        self.encoder = ENCODERS[encoder](self.context_size, latent_size, encoder_sizes)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self._initialise()
        self.target.load_state_dict(self.followed.state_dict())
        self.target.requires_grad_(False)

    @property
    def followed(self) -> nn.Module:
        """The network that the target follows."""
        return self.critics if self.value is None else self.value

    @staticmethod
    def _check(observation_space: spaces.Space, action_space: spaces.Box, encoder: str) -> None:
        if not isinstance(observation_space, spaces.Box):
            raise ValueError(f"observations have to be in a Box, not in {observation_space}")
        if not action_space.is_bounded():
            raise ValueError(f"actions have to be bounded, not in {action_space}")
        if encoder not in ENCODERS:
            near = difflib.get_close_matches(encoder, ENCODERS, n=1) or ENCODERS
            raise ValueError(f"unknown encoder {encoder!r}: {', '.join(near)} exist")

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draws weights within 1/sqrt(inputs), output layers within 0.003, as in the paper's code.

        The encoder's output layer is as wide as its others: with small outputs, the latents of all
        tasks start alike, and critics and encoder need long to separate them.
        """
        generator = weights_generator(self.generator)
        for network in filter(None, [self.actor, self.critics, self.value, self.encoder]):
            weights = []
            for name, parameter in network.named_parameters():
                if "bias" in name:
                    nn.init.zeros_(parameter)
                else:
                    weights.append(parameter)
            for weight in weights:
                small = weight is weights[-1] and network is not self.encoder
                bound = 3e-3 if small else 1.0 / math.sqrt(weight.shape[1])
                weight.uniform_(-bound, bound, generator=generator)

    def make_optimizers(self, rate: float, entropy_coefficient: float | str) -> None:
        """Makes an Adam for critics and encoder, and one for actor, value network and temperature.

        Args:
            rate: Learning rate.
            entropy_coefficient: Fixed temperature; ``"auto"`` learns it.
        """
        critics = [*self.critics.parameters(), *self.encoder.parameters()]
        others = [*self.actor.parameters(), *(self.value.parameters() if self.value else ())]
        if isinstance(entropy_coefficient, str):
            others.append(self.log_temperature)
        else:
            self.log_temperature.requires_grad_(False).fill_(math.log(entropy_coefficient))
        self.critic_optimizer = torch.optim.Adam(critics, lr=rate, fused=True)
        self.optimizer = torch.optim.Adam(others, lr=rate, fused=True)
        self._pairs: tuple[list[Tensor], list[Tensor]]
        self._pairs = [*self.target.parameters()], [*self.followed.parameters()]

    @torch.no_grad()
    def start_from(self, other: LatentActorCritic) -> None:
        """Takes over networks that were trained with z = 0, and their optimisers' moments.

        The weights of z in actor and critics begin at zero; the encoder stays as it is.

        Args:
            other: Networks of the same sizes, except for the encoder's.

        Raises:
            ValueError: The networks have other sizes; nothing is changed then.
        """
        parts = ("actor", "critics", "value", "target")
        theirs = dict(other.named_parameters())
        taken = {
            name: mine
            for name, mine in self.named_parameters()
            if name.partition(".")[0] in (*parts, "log_temperature")
        }
        for name, mine in taken.items():  # check all before any is changed
            if name not in theirs or theirs[name].shape != mine.shape:
                raise ValueError(f"the networks have other sizes: {name} does not fit")
        for name, mine in taken.items():
            mine.copy_(theirs[name])
            self._take_moments(mine, other, theirs[name])
        for part in filter(None, (getattr(self, name) for name in parts)):
            first = next(iter(part.parameters()))  # of a twin [2, inputs, H], else [H, inputs]
            first.narrow(1, first.shape[1] - self.latent_size, self.latent_size).zero_()

    def _take_moments(self, mine: Tensor, other: LatentActorCritic, theirs: Tensor) -> None:
        for name in ("critic_optimizer", "optimizer"):
            state = getattr(other, name).state.get(theirs)
            if state:
                kept = {key: value.clone().to(mine.device) for key, value in state.items()}
                getattr(self, name).state[mine] = kept

    @torch.no_grad()
    def move_target(self, rate: float) -> None:
        """Moves the target network by the fraction ``rate`` towards the network that it follows."""
        targets, followed = self._pairs
        torch._foreach_lerp_(targets, followed, rate)

    @property
    def temperature(self) -> Tensor:
        """Weight of the entropy, without a gradient."""
        return self.log_temperature.detach().exp()

    def actions(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draws actions.

        Args:
            inputs: Observation and latent, ``[N, O + L]``.
            noise: Unit normal draws, ``[N, A]``; zeros give the mode of the unsquashed normal.

        Returns:
            Actions ``[N, A]`` in (-1, 1), their log-probabilities ``[N]``, and mean and logarithm
            of the standard deviation before squashing, ``[N, A]`` each.
        """
        mean, log_std = self.actor(inputs).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(u)²) = 2 (log 2 - u - softplus(-2u)), which does not overflow.
        squash = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return raw.tanh(), (normal - squash).sum(dim=-1), mean, log_std

    def noise(self, *shape: int) -> Tensor:
        """Draws unit normal numbers with the agent's generator."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    @torch.no_grad()
    def act(
        self,
        observations: np.ndarray,
        latents: Tensor,
        deterministic: bool = False,
        draws: CopiedDraws | None = None,
    ) -> np.ndarray:
        """Returns actions in [-1, 1].

        Args:
            observations: Observations, ``[N, ...]``.
            latents: Latents z, ``[N, L]``.
            deterministic: Whether to take the mode of the unsquashed normal.
            draws: Streams of the random numbers of each row (default: the agent's generator).
        """
        num = len(observations)
        obs = torch.as_tensor(observations.reshape(num, -1), dtype=torch.float32)
        inputs = torch.cat([obs.to(self.device), latents], dim=1)
        mean, log_std = self.actor(inputs).chunk(2, dim=-1)
        if not deterministic:
            noise = standard_normal(mean, self.generator, draws)
            mean = mean + log_std.clamp(*LOG_STD_RANGE).exp() * noise
        scaled: np.ndarray = mean.tanh().cpu().numpy()
        return scaled.reshape(num, *(self.action_space.shape or ()))

    def unscaled(self, actions: np.ndarray) -> np.ndarray:
        """Scales actions in [-1, 1] to the environment's action space."""
        space: Any = self.action_space
        return np.clip(self.unscale_action(actions), space.low, space.high).astype(space.dtype)

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Acts on a latent from the prior; the agent's ``predict`` keeps one through an episode."""
        latents = self.noise(len(observation), self.latent_size)
        actions = self.act(observation.cpu().numpy(), latents, deterministic)
        return torch.as_tensor(self.unscaled(actions))
