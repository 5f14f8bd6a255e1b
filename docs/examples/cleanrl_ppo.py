"""PPO in one file, in the style of CleanRL's ppo_continuous_action.py, on goal-varying robots.

python docs/examples/cleanrl_ppo.py --env-id meta_rl/HalfCheetahVel-v0 --total-timesteps 1000000

Each sub-environment has a task of its own, and a new one after each trial. The task is appended to
the observation, so that one policy serves all tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Normal

from meta_rl.wrappers.append_task import AppendTask


@dataclass
class Args:
    """Settings of the training."""

    env_id: str = "meta_rl/HalfCheetahVel-v0"
    """Environment id."""
    total_timesteps: int = 1_000_000
    """Number of environment steps."""
    num_envs: int = 64
    """Number of sub-environments."""
    num_steps: int = 200
    """Number of steps of each sub-environment between updates."""
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantage estimation."""
    num_minibatches: int = 32
    """Number of minibatches of an epoch."""
    update_epochs: int = 10
    """Number of epochs over the data of an update."""
    clip_coef: float = 0.2
    """Clipping range of the probability ratio."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient."""
    seed: int = 1
    """Seed of the environments, the first weights and the actions."""


def layer(inputs: int, outputs: int, std: float = np.sqrt(2)) -> nn.Linear:
    """A linear layer with orthogonal weights."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, std)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Policy and value function, each with two hidden layers."""

    def __init__(self, num_obs: int, num_actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            layer(num_obs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0)
        )
        self.actor_mean = nn.Sequential(
            layer(num_obs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, num_actions, 0.01)
        )
        self.actor_logstd = nn.Parameter(torch.zeros(num_actions))

    def act(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        """Actions (drawn where none are given), log-probabilities and values."""
        policy = Normal(self.actor_mean(obs), self.actor_logstd.exp())
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action).sum(-1), self.critic(obs).squeeze(-1)


def tensor(array: np.ndarray) -> Tensor:
    """An array as floats."""
    return torch.as_tensor(array, dtype=torch.float32)


def main(args: Args) -> float:
    """Trains, and returns the mean return of the last episodes."""
    torch.manual_seed(args.seed)
    # TASKS: these two lines make the batch; all others are those of any PPO.
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, resample_tasks=True)
    envs = AppendTask(envs)
    low, high = envs.single_action_space.low, envs.single_action_space.high
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    num_updates = max(1, args.total_timesteps // (args.num_envs * args.num_steps))

    obs = tensor(envs.reset(seed=args.seed)[0])
    returns, finished, began = np.zeros(args.num_envs), [0.0], time.monotonic()
    for update in range(1, num_updates + 1):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (update - 1) / num_updates)
        batch: dict[str, list[Tensor]] = {
            k: [] for k in ("obs", "act", "logp", "val", "rew", "end")
        }
        for _ in range(args.num_steps):
            with torch.no_grad():
                action, logp, value = agent.act(obs)
            following, reward, terminated, truncated, _ = envs.step(action.numpy().clip(low, high))
            ends = terminated | truncated
            returns += reward
            finished = (finished + returns[ends].tolist())[-args.num_envs :]
            returns[ends] = 0.0
            for name, part in zip(
                batch, (obs, action, logp, value, tensor(reward), tensor(ends)), strict=True
            ):
                batch[name].append(part)
            obs = tensor(following)
        data = {name: torch.stack(parts) for name, parts in batch.items()}
        with torch.no_grad():
            advantages = estimate(data, agent.act(obs)[2], args)
        learn(agent, optimizer, data, advantages, args)
        steps = update * args.num_envs * args.num_steps
        speed = steps / (time.monotonic() - began)
        print(f"steps {steps}  return {np.mean(finished):.1f}  {speed:.0f} steps/s", flush=True)
    envs.close()
    return float(np.mean(finished))


def estimate(data: dict[str, Tensor], last_value: Tensor, args: Args) -> Tensor:
    """Generalised advantage estimation; the end of an episode cuts it."""
    advantages, running, following = torch.zeros_like(data["rew"]), 0.0, last_value
    for t in reversed(range(len(advantages))):
        goes_on = 1 - data["end"][t]
        delta = data["rew"][t] + args.gamma * following * goes_on - data["val"][t]
        advantages[t] = running = delta + args.gamma * args.gae_lambda * goes_on * running
        following = data["val"][t]
    return advantages


def learn(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Tensor],
    advantages: Tensor,
    args: Args,
) -> None:
    """PPO's epochs over the data."""
    flat = {name: part.flatten(0, 1) for name, part in data.items()}
    advantage = advantages.flatten()
    target = advantage + flat["val"]
    size = len(advantage) // args.num_minibatches
    for _ in range(args.update_epochs):
        order = torch.randperm(len(advantage))
        for index in order[: size * args.num_minibatches].split(size):
            _, logp, value = agent.act(flat["obs"][index], flat["act"][index])
            ratio = (logp - flat["logp"][index]).exp()
            weight = advantage[index]
            weight = (weight - weight.mean()) / (weight.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            policy_loss = -torch.min(ratio * weight, clipped * weight).mean()
            value_loss = 0.5 * (value - target[index]).square().mean()
            optimizer.zero_grad()
            (policy_loss + args.vf_coef * value_loss).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
