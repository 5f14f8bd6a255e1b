"""Expected efficiency of one training over many ranks, by a model of compute and traffic.

An iteration takes ``C / n * (1 + 0.02 sqrt(2 ln n))`` seconds of computing on n ranks, where C is
its time on one rank, plus its messages. The factor is the slowest of n ranks whose times vary by
2 %. A message of S bytes goes round a ring: ``2 (n - 1) (l + S / (n B))`` seconds for a mean,
``(n - 1) (l + S / B)`` for a collection of all ranks' values, with the latency l and the bandwidth
B of the network. Nothing overlaps. Validation and checkpoints, by rank 0 alone, are left out.

MAML-TRPO collects the gradient and 10 products of conjugate gradients, and sends 16 messages of a
few numbers. RL² takes the mean of 16 gradients (4 epochs of 4 minibatches), and of a few numbers 12
times.

    python -m benchmarks.scaling_model
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.result_files import RESULTS, page, table, write


@dataclass(frozen=True)
class Network:
    """A network between ranks.

    Attributes:
        latency: Seconds of one step of a ring.
        bandwidth: Bytes per second.
    """

    latency: float
    bandwidth: float

    def mean(self, num: int, size: float) -> float:
        """Returns the seconds of a mean of ``size`` bytes over ``num`` ranks."""
        return 2 * (num - 1) * (self.latency + size / (num * self.bandwidth))

    def collection(self, num: int, size: float) -> float:
        """Returns the seconds of a collection of ``size`` bytes of each rank."""
        return (num - 1) * (self.latency + size / self.bandwidth)


@dataclass(frozen=True)
class Training:
    """A training, by its iteration.

    Attributes:
        name: Name of the agent.
        core_seconds: Seconds of an iteration on one core, for each task (or trial).
        collections: Number of collections, and bytes of each.
        means: Number of means, and bytes of each.
        small: Number of means of a few numbers.
    """

    name: str
    core_seconds: float
    collections: tuple[int, float]
    means: tuple[int, float]
    small: int

    def efficiency(self, tasks: int, num: int, cores: int, network: Network) -> float:
        """Returns the speed on ``num`` ranks with ``cores`` each, as a fraction of the ideal."""
        alone = self.core_seconds * tasks / cores
        waiting = 0.02 * math.sqrt(2 * math.log(num))
        collected, averaged = self.collections, self.means
        messages = collected[0] * network.collection(num, collected[1])
        messages += averaged[0] * network.mean(num, averaged[1])
        messages += self.small * network.mean(num, 24.0)
        return alone / num / (alone / num * (1 + waiting) + messages)


HOST = Network(20e-6, 2e9)
ETHERNET = Network(100e-6, 1.1e9)
NETWORKS = {HOST: "one host", ETHERNET: "10 Gbit/s"}
# HalfCheetahVel: 12.0 core seconds for 40 tasks (maml_profile.md), 9.4 for 256 trials
# (rl2_speed.md); 12,800 parameters of MAML-TRPO's policy, 60,500 of RL²'s.
MAML = Training("MAML-TRPO", 12.0 / 40, collections=(11, 51e3), means=(0, 0.0), small=16)
RL2 = Training("RL²", 9.4 / 256, collections=(0, 0.0), means=(16, 242e3), small=12)

CASES = [
    *((MAML, 40, num, 1, HOST) for num in (2, 4, 8)),
    *((MAML, 40, num, 1, ETHERNET) for num in (8, 20, 40)),
    *((RL2, 256, num, 1, HOST) for num in (2, 4, 8)),
    *((RL2, 256, num, 1, ETHERNET) for num in (8, 16, 64)),
    *((MAML, tasks, 100, 16, ETHERNET) for tasks in (400, 4000, 40_000)),
    *((RL2, trials, 100, 16, ETHERNET) for trials in (1600, 6400, 102_400)),
]
"""Training, tasks of the meta-batch, ranks, cores of each, and network."""


def main() -> None:
    """Writes the table."""
    rows = []
    for training, tasks, num, cores, network in CASES:
        value = training.efficiency(tasks, num, cores, network)
        place = NETWORKS[network]
        cells = [training.name, f"{tasks:,}", str(num), str(cores), place, f"{value:.0%}"]
        rows.append({"cells": cells, "efficiency": value})
    heads = ["agent", "tasks in the meta-batch", "ranks", "cores of each", "network", "efficiency"]
    text = page(
        "Expected scaling over ranks",
        "`python -m benchmarks.scaling_model`: HalfCheetahVel, **by a model, not measured**. "
        + " ".join((__doc__ or "").split("\n\n", 1)[1].split("    python")[0].split()),
        f"Latency and bandwidth: {HOST.latency * 1e6:.0f} µs and {HOST.bandwidth / 1e9:.1f} GB/s "
        f"within a host, {ETHERNET.latency * 1e6:.0f} µs and {ETHERNET.bandwidth / 1e9:.1f} GB/s "
        "between hosts (TCP).",
        table(heads, [row["cells"] for row in rows]),
        versions=False,
    )
    write(RESULTS / "scaling_model.json", {"rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
