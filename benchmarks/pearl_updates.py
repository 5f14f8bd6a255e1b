"""Updates of PEARL per second, against a plain implementation that loops over tasks.

The plain one is written here in the style of PEARL's published code
(https://github.com/katerakelly/oyster): a replay buffer of numpy arrays for each task, sampled in a
Python loop; the product of Gaussians, the divergence and z task by task; separate networks with
separate optimisers; the gradient of the policy's loss runs through the critics' weights, too. Both
have the same sizes and the same update (value network, fixed temperature). They take turns,
``repeats`` times; the median of the ratios is reported with its range.

``--oyster PATH`` measures a checkout of the published code as well, on the same data.

    python benchmarks/pearl_updates.py
    python benchmarks/pearl_updates.py --sizes paper --threads 1
    python benchmarks/pearl_updates.py --oyster ~/oyster
    python benchmarks/pearl_updates.py --device cuda

On a GPU, ours is a CUDA graph.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from result_files import RESULTS, page, ratios, span, table, take_turns, write
from torch import nn
from torch.distributions import Normal

from meta_rl.agents.pearl import PEARL

ENVIRONMENT = "meta_rl/HalfCheetahVel-v0"
LATENT = 5
OBSERVATION, ACTION = 17, 6
NUM_TASKS, FILLED = 100, 400  # tasks, and transitions of each that are there to draw from


KEPT_OPEN = contextlib.ExitStack()  # what goes on recording to the end


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks and batches of an update."""

    hidden: tuple[int, ...]
    encoder: tuple[int, ...]
    batch: int
    context: int
    tasks: int = 16


SIZES = {
    "point": Sizes((64, 64), (48, 48), 32, 256),  # shipped for SparsePointNavigation
    "medium": Sizes((128, 128), (64, 64), 32, 128),
    "robot": Sizes((200, 200), (100, 100), 64, 100),  # shipped for HalfCheetahVel
    "paper": Sizes((300, 300, 300), (200, 200, 200), 256, 100),
}


@dataclass
class Args:
    """Settings of the run."""

    sizes: tuple[str, ...] = tuple(SIZES)
    """Names of the sizes: point, medium, robot, paper."""
    seconds: float = 5.0
    """Seconds of a measurement."""
    repeats: int = 3
    """Number of turns of each contender."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    device: str = "cpu"
    """PyTorch device of networks and replay."""
    compiled: bool = False
    """Whether to measure torch.compile, too."""
    oyster: Path | None = None
    """Folder of a checkout of https://github.com/katerakelly/oyster (default: none)."""
    out: Path = RESULTS
    """Folder of pearl_updates.json and pearl_updates.md; on a GPU, of pearl_updates_gpu."""


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def transitions(task: int) -> dict[str, np.ndarray]:
    """The transitions in a task's buffer: random numbers of the robot's sizes."""
    rng = np.random.default_rng(task)
    normal = {"obs": OBSERVATION, "action": ACTION, "reward": 1, "next_obs": OBSERVATION}
    drawn = {k: rng.normal(size=(FILLED, size)).astype(np.float32) for k, size in normal.items()}
    drawn["action"] = np.tanh(drawn["action"])
    return {**drawn, "terminal": np.zeros((FILLED, 1), dtype=np.float32)}


class PlainPEARL:
    """The update as a loop over tasks."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        torch.manual_seed(0)
        self.sizes, self.device = sizes, device
        self.rng = np.random.default_rng(0)
        self.buffers = [transitions(task) for task in range(NUM_TASKS)]
        O, A, L = OBSERVATION, ACTION, LATENT  # noqa: E741
        self.critics = [perceptron(O + A + L, *sizes.hidden, 1).to(device) for _ in range(2)]
        self.value = perceptron(O + L, *sizes.hidden, 1).to(device)
        self.target = perceptron(O + L, *sizes.hidden, 1).to(device)
        self.actor = perceptron(O + L, *sizes.hidden, 2 * A).to(device)
        self.encoder = perceptron(O + A + 1, *sizes.encoder, 2 * L).to(device)
        networks = [*self.critics, self.encoder, self.value, self.actor]
        self.optimizers = [torch.optim.Adam(part.parameters(), lr=3e-4) for part in networks]

    def drawn(self, tasks: np.ndarray, num: int) -> list[torch.Tensor]:
        """Each field ``[M, num, ...]``, task by task."""
        batches = []
        for task in tasks:
            index = self.rng.integers(FILLED, size=num)
            buffer = self.buffers[task]
            batches.append([torch.from_numpy(part[index]) for part in buffer.values()])
        fields = zip(*batches, strict=True)
        return [torch.stack(field).to(self.device) for field in fields]

    def infer(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``[M, L]`` and the summed divergence, task by task."""
        means, raw = self.encoder(context).chunk(2, dim=-1)
        variances = nn.functional.softplus(raw)
        latents, divergences = [], []
        for mean, variance in zip(means.unbind(), variances.unbind(), strict=True):
            variance = variance.clamp(min=1e-7)
            joint = 1.0 / (1.0 / variance).sum(dim=0)
            posterior = Normal(joint * (mean / variance).sum(dim=0), joint.sqrt())
            prior = Normal(torch.zeros_like(joint), torch.ones_like(joint))
            divergences.append(torch.distributions.kl_divergence(posterior, prior).sum())
            latents.append(posterior.rsample())
        return torch.stack(latents), torch.stack(divergences).sum()

    def step(self, *which: int) -> None:
        """Steps these optimisers."""
        for i in which:
            self.optimizers[i].step()

    def update(self) -> None:
        """One gradient step of everything."""
        tasks = self.rng.choice(NUM_TASKS, self.sizes.tasks)
        context = torch.cat(self.drawn(tasks, self.sizes.context)[:3], dim=-1)
        obs, action, reward, next_obs, terminal = (
            part.flatten(0, 1) for part in self.drawn(tasks, self.sizes.batch)
        )
        latents, divergence = self.infer(context)
        z = torch.cat([part.repeat(self.sizes.batch, 1) for part in latents])
        fixed = z.detach()

        mean, log_std = self.actor(torch.cat([obs, fixed], dim=1)).chunk(2, dim=1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp(), validate_args=False)
        raw = normal.rsample()
        drawn = raw.tanh()
        log_prob = (normal.log_prob(raw) - torch.log(1 - drawn.square() + 1e-6)).sum(dim=1)

        predictions = [critic(torch.cat([obs, action, z], dim=1)) for critic in self.critics]
        value = self.value(torch.cat([obs, fixed], dim=1))[:, 0]
        with torch.no_grad():
            following = self.target(torch.cat([next_obs, z], dim=1))
            target = 5.0 * reward + (1.0 - terminal) * 0.99 * following
        for optimizer in self.optimizers[:3]:
            optimizer.zero_grad()
        (0.1 * divergence).backward(retain_graph=True)
        sum((q - target).square().mean() for q in predictions).backward()
        self.step(0, 1, 2)

        inputs = torch.cat([obs, drawn, fixed], dim=1)
        smaller = torch.min(*(critic(inputs) for critic in self.critics))[:, 0]
        self.optimizers[3].zero_grad()
        nn.functional.mse_loss(value, (smaller - log_prob).detach()).backward()
        self.step(3)
        with torch.no_grad():
            pairs = zip(self.target.parameters(), self.value.parameters(), strict=True)
            for slow, fast in pairs:
                slow.mul_(0.995).add_(0.005 * fast)
        size = mean.square().mean() + log_std.square().mean()
        self.optimizers[4].zero_grad()
        ((log_prob - smaller).mean() + 1e-3 * size).backward()
        self.step(4)


def make_ours(sizes: Sizes, device: str, compiled: bool = False) -> PEARL:
    """PEARL with these sizes, and the same data."""
    model = PEARL(
        env=ENVIRONMENT,
        meta_batch_size=5,
        initial_steps=1,
        prior_steps=1,
        extra_steps=0,
        tasks_per_update=sizes.tasks,
        batch_size=sizes.batch,
        context_size=sizes.context,
        buffer_size=NUM_TASKS * FILLED,
        compile_losses=compiled,
        policy_kwargs={"hidden_sizes": sizes.hidden, "encoder_sizes": sizes.encoder},
        seed=0,
        device=device,
    )
    for task in range(NUM_TASKS):
        parts = transitions(task)
        order = ("obs", "action", "reward", "next_obs", "reward", "terminal")
        rows = np.concatenate([parts[name] for name in order], axis=1)
        model.replay.add(np.array([task]), torch.from_numpy(rows)[:, None].to(device), True)
    return model


def make_oyster(checkout: Path, sizes: Sizes, device: str) -> Callable[[], None]:
    """An update of the published code, with stand-ins for what it imports and does not use here."""
    for name in ("gtimer", "gym", "joblib", "dateutil", "dateutil.tz"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["gym.spaces"] = gymnasium.spaces
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    import rlkit.torch.pytorch_util as ptu
    from rlkit.torch.sac.sac import PEARLSoftActorCritic

    ptu.set_gpu_mode(device != "cpu")
    algorithm = PEARLSoftActorCritic(
        env=types.SimpleNamespace(
            observation_space=gymnasium.spaces.Box(-1, 1, (OBSERVATION,)),
            action_space=gymnasium.spaces.Box(-1, 1, (ACTION,)),
        ),
        train_tasks=list(range(NUM_TASKS)),
        eval_tasks=[],
        latent_dim=LATENT,
        nets=oyster_networks(sizes),
        meta_batch=sizes.tasks,
        batch_size=sizes.batch,
        embedding_batch_size=sizes.context,
        embedding_mini_batch_size=sizes.context,
        replay_buffer_size=FILLED,
    )
    if device != "cpu":
        algorithm.to()
    for buffer in (algorithm.replay_buffer, algorithm.enc_replay_buffer):
        for task in range(NUM_TASKS):
            parts = transitions(task)
            columns = [parts[k] for k in ("obs", "action", "reward", "terminal", "next_obs")]
            for row in zip(*columns, strict=True):
                buffer.add_sample(task, *row, env_info={})
    rng = np.random.default_rng(0)
    return lambda: algorithm._do_training(rng.choice(NUM_TASKS, sizes.tasks))


def oyster_networks(sizes: Sizes) -> list[nn.Module]:
    """Agent (encoder and policy), two critics and the value network of the published code."""
    from rlkit.torch.networks import FlattenMlp, MlpEncoder
    from rlkit.torch.sac.agent import PEARLAgent
    from rlkit.torch.sac.policies import TanhGaussianPolicy

    hidden, inputs = list(sizes.hidden), OBSERVATION + LATENT
    encoder = MlpEncoder(
        hidden_sizes=list(sizes.encoder),
        input_size=OBSERVATION + ACTION + 1,
        output_size=2 * LATENT,
    )
    policy = TanhGaussianPolicy(
        hidden_sizes=hidden, obs_dim=inputs, latent_dim=LATENT, action_dim=ACTION
    )
    settings = {"recurrent": False, "use_information_bottleneck": True}
    settings |= {"sparse_rewards": False, "use_next_obs_in_context": False}
    agent = PEARLAgent(LATENT, encoder, policy, **settings)
    critics = [
        FlattenMlp(hidden_sizes=hidden, input_size=inputs + ACTION, output_size=1) for _ in range(2)
    ]
    return [agent, *critics, FlattenMlp(hidden_sizes=hidden, input_size=inputs, output_size=1)]


def updates_per_second(update: Callable[[], Any], args: Args) -> float:
    """Speed after some updates that warm up.

    The time is processor time where there is one thread and no GPU. Processor
    time leaves out what other programs take of the machine meanwhile.
    """
    alone = args.device == "cpu" and args.threads == 1
    clock = time.process_time if alone else time.perf_counter
    for _ in range(3):  # a graph is recorded at the third call
        update()
    wait(args.device)
    began, count = clock(), 0
    while clock() - began < args.seconds:
        update()
        count += 1
    wait(args.device)
    return count / (clock() - began)


def wait(device: str) -> None:
    """Waits until a GPU is done."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def recorded(model: PEARL) -> Callable[[], Any]:
    """The agent's update as a CUDA graph, as ``train`` records it."""
    model.cuda_graph = True
    policy = model.policy
    KEPT_OPEN.enter_context(model._recorded([policy.critic_optimizer, policy.optimizer]))
    return model.update


def measure(sizes: Sizes, args: Args) -> dict[str, list[float]]:
    """Updates per second of each contender, which take turns."""
    on_gpu = args.device != "cpu"
    ours = make_ours(sizes, args.device)
    contenders: dict[str, Callable[[], Any]] = {
        "meta_rl": recorded(ours) if on_gpu else ours.update,
        "loop over tasks": PlainPEARL(sizes, args.device).update,
    }
    if on_gpu:
        contenders["meta_rl, without a graph"] = make_ours(sizes, args.device).update
    if args.compiled:
        contenders["meta_rl, compiled"] = make_ours(sizes, args.device, compiled=True).update
    if args.oyster is not None:
        contenders["oyster"] = make_oyster(args.oyster.expanduser(), sizes, args.device)
    measures = {name: partial(updates_per_second, each, args) for name, each in contenders.items()}
    return take_turns(measures, args.repeats)


def rows(name: str, figures: dict[str, list[float]]) -> list[list[str]]:
    """The rows of a size in the table."""
    sizes, ours = SIZES[name], figures["meta_rl"]
    about = (
        f"{name}: {sizes.tasks} x {sizes.batch}, context {sizes.context}, nets "
        f"{'-'.join(map(str, sizes.hidden))}, encoder {'-'.join(map(str, sizes.encoder))}"
    )
    lines = []
    for peer in (other for other in figures if other != "meta_rl"):
        gains, speeds = ratios(ours, figures[peer]), (np.median(ours), np.median(figures[peer]))
        first, second = (f"{speed:.1f}" for speed in speeds)
        lines.append([about, first, peer, second, f"**{np.median(gains):.2f}**", span(gains)])
    return lines


def main(args: Args) -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(args.threads)
    figures = {name: measure(SIZES[name], args) for name in args.sizes}
    device = "cpu" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    option = "" if args.device == "cpu" else f" --device {args.device}"
    text = page(
        "Updates of PEARL",
        f"`python benchmarks/pearl_updates.py{option}`: medians of {args.repeats} turns of "
        f"{args.seconds:g} s (one thread on a CPU: of processor time); {device}, torch with "
        f"{args.threads} thread(s) on "
        f"{os.cpu_count()} cores; observations, actions and tasks of HalfCheetahVel.",
        table(
            ["sizes", "meta_rl, updates/s", "peer", "updates/s", "ratio", "range"],
            [row for name, part in figures.items() for row in rows(name, part)],
        ),
    )
    print(text)
    name = "pearl_updates" if args.device == "cpu" else "pearl_updates_gpu"
    content = {"figures": figures, "device": device, "threads": args.threads}
    write(args.out / f"{name}.json", content, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
