"""Several ranks train one learner: the result does not depend on their number, and none hangs.

The number of ranks changes parameters by rounding alone, for every learner that ranks can share.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl.compute import ranks

from . import ranks_program

ROOT = Path(__file__).resolve().parent.parent
Learned = dict[str, dict[str, np.ndarray]]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for a rank, which hosts the store itself."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {
        **{name: str(number) for name, number in numbers.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start_ranks(size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment(rank, size, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learned, Learned]:
    """What one rank learns, in this process, and what two ranks learn."""
    folder = tmp_path_factory.mktemp("two")
    two = start_ranks(2, "-m", "tests.ranks_program", str(folder))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(0, 1, free_port()).items():
            patch.setenv(name, value)
        with ranks.joined():
            one = ranks_program.train_all()
    torch.set_num_threads(threads)
    ended = [process.communicate(timeout=300) for process in two]
    assert [process.returncode for process in two] == [0, 0], ended
    return one, {file.stem: dict(np.load(file)) for file in folder.glob("*.npz")}


@pytest.mark.parametrize("name", ranks_program.CASES)
def test_the_result_does_not_depend_on_the_number_of_ranks(
    name: str, both: tuple[Learned, Learned]
) -> None:
    one, two = (learned[name] for learned in both)
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=0, atol=1e-5, err_msg=key)
