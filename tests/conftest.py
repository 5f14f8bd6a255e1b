"""One thread of PyTorch for every test; seeds, scores and records of tests of learning."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .learning import Learned, without_updates

LEARNED = pytest.StashKey[Learned]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("learning", "tests of learning")
    group.addoption("--seed", type=int, default=0, help="seed of tests of learning (default: 0)")
    group.addoption("--threads", type=int, default=1, help="PyTorch CPU threads (default: 1)")
    group.addoption(
        "--no-learning",
        action="store_true",
        help="run only tests of learning, with updates that change nothing: all have to fail",
    )
    group.addoption("--learned", type=Path, help="JSON file for the scores of tests of learning")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--learned")
    if path is not None and not hasattr(config, "workerinput"):  # reports of workers come here
        config.pluginmanager.register(Records(path))


class Records:
    """Writes the scores of every test of learning: of all processes, by test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tests: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get("learned")
        if report.when == "call" and found is not None:
            told = {"outcome": report.outcome, "seconds": report.duration, "scores": found}
            self.tests[report.nodeid] = told

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.tests, indent=1) + "\n", encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-learning"):
        others = [item for item in items if item.get_closest_marker("learning") is None]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.get_closest_marker("learning") is not None]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test of learning ends with the verdict on its scores."""
    result = yield
    if pyfuncitem.get_closest_marker("learning") is not None:
        if LEARNED not in pyfuncitem.stash:
            pytest.fail("a test of learning takes the fixture 'learned'", pytrace=False)
        pyfuncitem.stash[LEARNED].verdict()
    return result


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of a test of learning: of its learner, first weights and evaluation."""
    chosen: int = request.config.getoption("--seed")
    return chosen


@pytest.fixture
def learned(request: pytest.FixtureRequest) -> Learned:
    """Takes the scores of a test of learning: ``learned("reward", 0.97, at_least=0.9)``."""
    if request.node.get_closest_marker("learning") is None:
        raise ValueError("the fixture 'learned' is for tests marked with pytest.mark.learning")
    learned = request.node.stash[LEARNED] = Learned()
    request.node.user_properties.append(("learned", learned.scores))  # sent along with the report
    return learned


@pytest.fixture(autouse=True)
def _updates(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("--no-learning"):
        with without_updates():
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, or as many as ``--threads`` says; afterwards as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(threads)
