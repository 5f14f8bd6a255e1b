"""Freed memory is kept where malloc can, and the environment's wish comes first."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")

PROGRAM = """
import resource
import sys
import torch
from meta_rl.compute.freed_memory import keep_freed_memory

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(12_000_000)  # 48 MB: malloc maps and unmaps such blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

done = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(4):
    pages = fresh_pages()
print(done, pages)
"""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def run(argument: str, **more: str) -> list[str]:
    """What the program prints in a process of its own, as the setting is the process's."""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, env={**env, **more}, text=True, capture_output=True, check=True)
    return done.stdout.split()


def test_freed_memory_is_used_again():
    _, before = run("leave")
    done, after = run("keep")
    assert done == "True"
    assert int(after) < 0.1 * int(before)


@pytest.mark.parametrize(
    "variable",
    [
        {"MALLOC_TRIM_THRESHOLD_": "100000"},
        {"MALLOC_MMAP_THRESHOLD_": "100000"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=100000"},
    ],
)
def test_the_environment_comes_first(variable):
    assert run("keep", **variable)[0] == "False"
