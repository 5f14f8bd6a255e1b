"""One training over two hosts: two network namespaces of this machine, with addresses of their own.

The namespaces are joined by a virtual cable and by nothing else. Three things are shown:

1. MAML-TRPO trains with a rank on each host, and ends with the parameters of a single rank.
2. The cable is cut in the middle of a training. The ranks of both hosts end within a minute, each
   with one line. (``torchrun`` itself waits longer on the host that lost the rendezvous.)
3. The training goes on from its checkpoint, on one host with a single rank.

It needs Linux with user namespaces, or root (``unshare``, ``nsenter`` and ``ip``).

    python -m benchmarks.two_hosts
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro

from meta_rl.files.sealed import read_file

ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLE = ("host0", "host1")
INSIDE = "TWO_HOSTS_INSIDE"
"""Name of the variable that says that the namespaces are there."""
LIMIT = 60.0
"""Time within which all ranks have to end after one is lost, in seconds."""

TRAINING = [
    *("train", "maml_trpo", "HalfCheetahVel", "--device", "cpu", "--eval-tasks", "0", "--quiet"),
    *("--checkpoint-interval", "0", "--param", "meta_batch_size=4", "envs_per_task=4"),
    *("env.horizon=40", "policy.hidden_sizes=(32,)"),
]
STEPS = 4 * 4 * 40 * 2
"""Environment steps of an iteration."""


@dataclass
class Args:
    """Settings of the run."""

    iterations: int = 3
    """Number of iterations whose parameters are compared."""
    port: int = 29731
    """Port of the rendezvous on the first host."""


@dataclass
class Hosts:
    """The two hosts: this process's own namespace, and that of a process that sleeps."""

    sleeper: subprocess.Popen[bytes]
    port: int
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def on(self, host: int, line: list[str]) -> list[str]:
        """Returns a command as it is run on a host."""
        enter = ["nsenter", "--target", str(self.sleeper.pid), "--net", "--"]
        return line if host == 0 else [*enter, *line]

    def start(self, folder: Path, *more: str) -> list[subprocess.Popen[str]]:
        """Starts a training with a rank on each host."""
        self.port += 1
        self.started = []
        for host, address in enumerate(ADDRESSES):
            torchrun = [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", str(self.port)),
                *("--rdzv-endpoint", f"{ADDRESSES[0]}:{self.port}", "--local-addr", address),
                *("--rdzv-conf", f"is_host={int(host == 0)}"),
                *("-m", "meta_rl", *TRAINING, "--out", str(folder), *more),
            ]
            environment = {
                **os.environ,
                "GLOO_SOCKET_IFNAME": CABLE[host],
                "OMP_NUM_THREADS": "1",
            }
            pipe = subprocess.PIPE
            self.started.append(
                subprocess.Popen(
                    self.on(host, torchrun), env=environment, text=True, stdout=pipe, stderr=pipe
                )
            )
        return self.started


def connect() -> subprocess.Popen[bytes]:
    """Makes the second namespace and the cable; returns the process that keeps it."""
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    time.sleep(0.5)
    inside = ["nsenter", "--target", str(sleeper.pid), "--net", "--"]
    first, second = CABLE
    for line in (
        ["ip", "link", "add", first, "type", "veth", "peer", "name", second],
        ["ip", "link", "set", second, "netns", str(sleeper.pid)],
        ["ip", "addr", "add", f"{ADDRESSES[0]}/24", "dev", first],
        ["ip", "link", "set", first, "up"],
        ["ip", "link", "set", "lo", "up"],
        [*inside, "ip", "addr", "add", f"{ADDRESSES[1]}/24", "dev", second],
        [*inside, "ip", "link", "set", second, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(line, check=True)
    return sleeper


def train_alone(folder: Path, *more: str) -> None:
    """Trains with a single rank on the first host."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["-m", "meta_rl", *TRAINING, "--out", str(folder), *more]
    subprocess.run([*line, *arguments], check=True, env=environment, capture_output=True)


def largest_difference(one: Path, other: Path) -> float:
    """Returns the largest difference between the parameters of two runs."""
    found = []
    for folder in (one, other):
        content = read_file(folder / "checkpoint.zip", "MAMLTRPO").content
        found.append(content["parameters"]["policy"])
    pairs = ((found[0][name], found[1][name]) for name in found[0])
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)


def wait_for(file: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Waits until a file is there.

    Raises:
        RuntimeError: The processes ended before.
    """
    while not file.exists():
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("\n".join(process.communicate()[1] for process in processes))
        time.sleep(0.05)


def last_lines(processes: list[subprocess.Popen[str]]) -> list[tuple[float, str]]:
    """Returns the first line of the library on each host, and the seconds until it came.

    A rank ends with that line. Later lines are those of torchrun.

    Raises:
        RuntimeError: A host has no such line.
    """
    began = time.monotonic()

    def first_line(process: subprocess.Popen[str]) -> tuple[float, str]:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("meta-rl:"):
                return time.monotonic() - began, line.strip()
        raise RuntimeError("a rank ended without a line")

    with ThreadPoolExecutor() as threads:
        return list(threads.map(first_line, processes))


def show(args: Args, folder: Path) -> None:
    """Shows the three things.

    Raises:
        RuntimeError: One of them is not so.
    """
    sleeper = connect()
    hosts = Hosts(sleeper, args.port)
    try:
        length = ["--total-timesteps", str(args.iterations * STEPS)]
        for process in hosts.start(folder / "two", *length):
            _, errors = process.communicate(timeout=300)
            if process.returncode:
                raise RuntimeError(errors)
        train_alone(folder / "one", *length)
        difference = largest_difference(folder / "two", folder / "one")
        print(f"1. {args.iterations} iterations on {' and '.join(ADDRESSES)}: parameters differ by")
        print(f"   {difference:.1e} from those of a single rank", flush=True)

        ranks = hosts.start(folder / "cut", "--total-timesteps", str(10**9))
        wait_for(folder / "cut" / "checkpoint.zip", ranks)
        subprocess.run(["ip", "link", "set", CABLE[0], "down"], check=True)
        lines = last_lines(ranks)
        slowest = max(seconds for seconds, _ in lines)
        print("2. the cable was cut:")
        for address, (seconds, line) in zip(ADDRESSES, lines, strict=True):
            print(f"   {address} ended after {seconds:.0f} s: {line}", flush=True)
        for process in ranks:
            process.kill()  # torchrun, whose rank has ended

        done = read_file(folder / "cut" / "checkpoint.zip", "MAMLTRPO").content
        steps = done["attributes"]["num_timesteps"] + STEPS
        train_alone(folder / "cut", "--resume", "--total-timesteps", str(steps))
        print(f"3. it went on from its checkpoint, on one host with one rank, to {steps:,} steps")
        if difference > 1e-5 or slowest > LIMIT:
            raise RuntimeError(f"expected a difference of at most 1e-5, and {LIMIT:.0f} s at most")
    finally:
        for process in [*hosts.started, sleeper]:
            process.kill()


def main(args: Args) -> None:
    """Enters a namespace of its own, and shows the three things there."""
    if INSIDE not in os.environ:
        line = [
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            sys.executable,
            "-m",
            __spec__.name,
        ]
        environment = {**os.environ, INSIDE: "1"}
        raise SystemExit(subprocess.run([*line, *sys.argv[1:]], env=environment).returncode)
    with TemporaryDirectory() as folder:
        show(args, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
