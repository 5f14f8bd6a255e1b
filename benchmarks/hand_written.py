"""What hand-written parts bring: whole training iterations of shipped settings, with and without.

A part stays in the library where it saves more than 3 % of an iteration for each 100 lines of its
file. Each side runs in a process of its own, with the same seed; the two take turns, one iteration
at a time, and the median of the ratios decides. Seconds are those of the processor, of all threads,
so that other programs on the machine matter little; the time on the clock stands beside them. Parts
that are not measured keep their rows.

    python benchmarks/hand_written.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, notes, page, ratios, read, span, table, write

from meta_rl.cli import Train, run_config
from meta_rl.cli.training import make_model, open_tasks

ROOT = Path(__file__).resolve().parent.parent
ASKED = 0.03
"""Least saving of an iteration for each 100 lines."""

FILES = {
    "perceptron": "meta_rl/policy_gradient/perceptron.py",
    "strided_conv4": "meta_rl/few_shot/networks/strided_conv4.py",
    "shared_rollout": "meta_rl/physics/shared_rollout.py",
    "freed_memory": "meta_rl/compute/freed_memory.py",
}
MEASURED = {
    "perceptron": ("maml_trpo/PointNavigation", "maml_trpo/HalfCheetahVel"),
    "strided_conv4": ("reptile/Omniglot-5w1s",),
    "shared_rollout": ("maml_trpo/HalfCheetahVel",),
    "freed_memory": ("maml_trpo/HalfCheetahVel", "maml/Omniglot-5w1s-mlp"),
}
"""Shipped settings, by the part that they use; ``strided_conv4`` needs ``--compile``."""


@dataclass
class Args:
    """Settings of the run."""

    parts: tuple[str, ...] = tuple(FILES)
    """Names of the parts."""
    turns: int = 5
    """Number of turns of each side, after one that is not counted."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    side: str = ""
    """For the processes that are measured: ``with`` or ``without``."""
    setting: str = ""
    """For the processes that are measured: the shipped setting."""
    out: Path = RESULTS
    """Folder of hand_written.json and hand_written.md."""


def leave_out_perceptron() -> None:
    """The same layers, differentiated by ``torch.func`` itself."""
    from meta_rl.policy_gradient import policy

    activations: dict[str, Any] = {"relu": torch.relu, "tanh": torch.tanh}

    def plain(x: torch.Tensor, layers: Any, activation: str) -> torch.Tensor:
        for place, (weight, bias) in enumerate(layers):
            x = activations[activation](x) if place else x
            x = (
                torch.addmm(bias, x, weight.mT)
                if x.dim() == 2
                else torch.baddbmm(bias[:, None], x, weight.mT)
            )
        return x

    policy.perceptron = plain


def leave_out_strided_conv4() -> None:
    """PyTorch's own convolutions, which ``torch.compile`` and ``vmap`` batch."""
    from meta_rl.few_shot.learners.reptile import StridedConv4

    StridedConv4.fits = staticmethod(lambda network: False)  # type: ignore[method-assign]


def leave_out_shared_rollout() -> None:
    """MuJoCo's own thread pool for all rows, with its own size of a chunk."""
    import mujoco
    from mujoco.rollout import Rollout

    from meta_rl.physics import batch

    class OwnPool:
        def __init__(self, nthread: int, chunk_size: int | None = None) -> None:
            self.nthread, self.chunk_size = nthread, chunk_size
            self.pool = Rollout(nthread=nthread if nthread > 1 else 0)
            self.data: dict[bool, list[mujoco.MjData]] = {}

        def __call__(self, work: Any) -> None:
            sensing = work.sensordata is not None
            if sensing not in self.data:
                self.data[sensing] = [mujoco.MjData(work.models[0]) for _ in range(self.nthread)]
            self.pool.rollout(
                work.models,
                self.data[sensing],
                work.physics,
                work.controls,
                control_spec=mujoco.mjtState.mjSTATE_CTRL.value,
                skip_checks=True,
                nstep=work.num_steps,
                state=work.states,
                sensordata=work.sensordata,
                chunk_size=self.chunk_size,
            )

        def close(self) -> None:
            self.pool.close()

    batch.SharedRollout = OwnPool  # type: ignore[misc,assignment]


LEFT_OUT: dict[str, Callable[[], None]] = {
    "perceptron": leave_out_perceptron,
    "strided_conv4": leave_out_strided_conv4,
    "shared_rollout": leave_out_shared_rollout,
    "freed_memory": lambda: None,
}


def iteration_of(setting: str, compiling: bool) -> Callable[[], int]:
    """A function that makes whole training iterations of a setting, and returns their number."""
    config = run_config(Train(*setting.split("/"), seed=0, device="cpu"))
    tasks = open_tasks(config)
    model: Any = make_model(config, tasks, "cpu")
    if hasattr(model, "collect_rollouts"):
        return lambda: model.learn(1, reset_num_timesteps=True) and 1
    compiled = {"compile": True} if compiling else {}
    number = 20

    def updates() -> int:
        model.learn(tasks.source, number, **compiled)
        return number

    return updates


def measure(args: Args) -> None:
    """Makes an iteration for each line of the input, and writes its seconds as a line."""
    (part,) = args.parts
    torch.set_num_threads(args.threads)
    if part == "freed_memory" and args.side == "without":
        pass
    else:
        from meta_rl.compute.freed_memory import keep_freed_memory

        keep_freed_memory()  # as the command line does
    if args.side == "without":
        LEFT_OUT[part]()
    iteration = iteration_of(args.setting, compiling=part == "strided_conv4")
    for _ in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        number = iteration()
        processor = (time.process_time() - processor) / number
        clock = (time.perf_counter() - clock) / number
        print(json.dumps([processor, clock]), flush=True)


def compared(part: str, setting: str, args: Args) -> dict[str, Any]:
    """Seconds of iterations with and without a part, turn by turn."""
    command = [sys.executable, __file__, "--parts", part, "--setting", setting]
    sides = {
        side: subprocess.Popen(
            [*command, "--threads", str(args.threads), "--side", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in ("with", "without")
    }
    seconds: dict[str, list[list[float]]] = {side: [] for side in sides}
    for _ in range(args.turns + 1):
        for side, process in sides.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            lines = iter(process.stdout.readline, "")
            found = next((line for line in lines if line[0] == "["), None)
            if found is None:
                raise RuntimeError(f"{part} of {setting}, {side}: ended with {process.wait()}")
            seconds[side].append(json.loads(found))
    for process in sides.values():
        process.communicate()
    one, other = (np.array(values[1:]) for values in seconds.values())
    saved = 1.0 - ratios(one[:, 0], other[:, 0])
    lines = len((ROOT / FILES[part]).read_text(encoding="utf-8").splitlines())
    return {
        "part": part,
        "setting": setting,
        "lines": lines,
        "turns": args.turns,
        "with": np.median(one, axis=0).tolist(),
        "without": np.median(other, axis=0).tolist(),
        "saved": float(np.median(saved)),
        "range": [float(saved.min()), float(saved.max())],
        "saved_on_the_clock": float(np.median(1.0 - ratios(one[:, 1], other[:, 1]))),
        "asked": ASKED * lines / 100,
    }


def main(args: Args) -> None:
    """Measures, and writes the table."""
    if args.side:
        measure(args)
        return
    file = args.out / "hand_written.json"
    rows = [row for row in read(file, {"rows": []})["rows"] if row["part"] not in args.parts]
    rows += [compared(part, name, args) for part in args.parts for name in MEASURED[part]]
    rows.sort(key=lambda row: list(FILES).index(row["part"]))
    text = page(
        "Hand-written parts: what they save",
        "`python benchmarks/hand_written.py --parts PART`, a run for each part: processor time of "
        "a whole training iteration (of an update, where the setting is a few-shot learner's), "
        f"{args.threads} PyTorch threads, medians of alternating turns. A part stays "
        "where it saves at least what is asked, 3 % for each 100 lines.",
        table(
            [
                "part",
                "setting",
                "turns",
                "with, s",
                "without, s",
                "saved",
                "range",
                "on the clock",
                "asked",
            ],
            [
                [
                    f"{row['part']} ({row['lines']} lines)",
                    row["setting"],
                    f"{row['turns']}",
                    f"{row['with'][0]:.3g}",
                    f"{row['without'][0]:.3g}",
                    f"**{row['saved']:.1%}**",
                    span(row["range"], ".1%"),
                    f"{row['saved_on_the_clock']:.1%}",
                    f"{row['asked']:.1%}",
                ]
                for row in rows
            ],
        ),
        notes(file),
    )
    print(text)
    write(file, {"rows": rows}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
