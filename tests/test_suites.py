"""Suites: their tables, and cells that run, are skipped, go on and fail alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meta_rl import EvaluationResult
from meta_rl.cli import main
from meta_rl.cli.suites import identity, processes
from meta_rl.cli.suites.jobs import Cell, Job, Reference, from_text, suite_jobs, to_text
from meta_rl.cli.suites.on_ray import run_on_ray
from meta_rl.cli.suites.processes import Cores, run_in_processes
from meta_rl.cli.suites.tables import Suite, find_suite, read_suite, shipped_suites
from meta_rl.cli.training import train

from .suites import TABLE

ROOT = Path(__file__).resolve().parent.parent
PAPERS = {
    ("rl2", "BernoulliBandit-n10-k5"): ("RL² bandits", 0),
    ("rl2", "BernoulliBandit"): ("RL² bandits", 1),
    ("rl2", "BernoulliBandit-n10-k50"): ("RL² bandits", 2),
    ("rl2", "BernoulliBandit-n100-k5"): ("RL² bandits", 3),
    ("rl2", "BernoulliBandit-n100-k10"): ("RL² bandits", 4),
    ("rl2", "TabularMDP"): ("RL² tabular MDPs", 0),
}


@pytest.fixture
def suite() -> Suite:
    return read_suite("small", TABLE)


def numbers(file: Path) -> list[Any]:
    """What a result says that is the same wherever it was trained."""
    content = json.loads(file.read_text(encoding="utf-8"))
    curve = content["learning_curve"]
    return [content["evaluations"], content["config"], curve["steps"], curve["scores"]]


class TestTables:
    def test_ten_suites_ship(self) -> None:
        own = "bandits dynamics few-shot mdps memory meta-world navigation quick robots texts"
        assert shipped_suites() == own.split()

    @pytest.mark.parametrize("name", [name for name in shipped_suites() if name != "meta-world"])
    def test_the_cells_of_a_shipped_suite_have_settings_that_fit(self, name: str) -> None:
        """Unknown learners, tasks and settings are errors; every job survives its text."""
        jobs = suite_jobs(find_suite(name).with_seeds(1))
        assert len({job.name for job in jobs}) == len(jobs)
        for job in jobs:
            assert from_text(to_text(job)) == job

    def test_numbers_of_papers_are_those_of_the_benchmarks(self) -> None:
        papers = json.loads((ROOT / "benchmarks" / "papers.json").read_text(encoding="utf-8"))
        found = 0
        for name in shipped_suites():
            for row in find_suite(name).rows:
                if row.paper is None:
                    continue
                found += 1
                assert row.paper.score == pytest.approx(paper_number(papers, row))
        assert found > 12

    def test_quick_takes_less_than_half_an_hour_on_two_cores(self) -> None:
        assert sum(job.minutes for job in suite_jobs(find_suite("quick"))) / 2 < 30

    def test_the_table_of_the_documentation_is_one(self) -> None:
        text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
        table = text.partition("```toml\n")[2].partition("```")[0]
        names = [job.name for job in suite_jobs(read_suite("mine", table).with_seeds(1))]
        assert names[:2] == ["rl2-BernoulliBandit-seed0", "rl2-small-seed0"]
        for name in shipped_suites():
            assert f"`{name}`" in text

    def test_seeds_of_the_command_line_come_first(self, suite: Suite) -> None:
        assert [seed for _, seed in suite.cells()] == [0, 1]
        assert [seed for _, seed in suite.with_seeds(3).cells()] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('learner = "rl2"', 'learnr = "rl2"', "cell 1: unknown 'learnr': did you mean learner"),
            ("minutes = 0.1", "minutes = -1", "cell 1: minutes: Input should be greater than 0"),
            ("budget = 96", 'budget = "96"', "cell 1: budget: Input should be a valid integer"),
            ("seeds = 2", "seeds = 0", "seeds: Input should be greater than or equal to 1"),
            ('learner = "rl2"', "", "cell 1: learner: Field required"),
            ('title = "Small"', "title = ", "is no TOML"),
            ('tasks = "Ber', 'label = "a/b"\ntasks = "Ber', "'a/b' names files"),
        ],
    )
    def test_a_wrong_table_is_refused(self, old: str, new: str, message: str) -> None:
        assert old in TABLE
        with pytest.raises(ValueError, match=message):
            read_suite("small", TABLE.replace(old, new))

    def test_two_cells_of_one_name_are_refused(self) -> None:
        cell = TABLE[TABLE.index("[[cells]]") :]
        with pytest.raises(ValueError, match="two cells are called rl2-BernoulliBandit"):
            read_suite("small", TABLE + cell)

    def test_an_unknown_suite_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["benchmark", "bandit"]) == 2
        assert "unknown suite 'bandit': did you mean bandits" in capsys.readouterr().err

    def test_an_unknown_learner_names_its_cell(self) -> None:
        with pytest.raises(ValueError, match="cell rl3-BernoulliBandit: unknown algorithm 'rl3'"):
            suite_jobs(read_suite("small", TABLE.replace('"rl2"', '"rl3"')))


def paper_number(papers: dict[str, Any], row: Any) -> float:
    """The number of a row's paper in the file of the benchmarks."""
    if (row.learner, row.tasks) in PAPERS:
        paper, column = PAPERS[row.learner, row.tasks]
        return float(papers[paper]["rows"]["RL²"][column])
    if row.learner == "maml_trpo":
        return float(papers["MAML-TRPO"]["rows"][row.tasks]["maml"][-1])
    if row.learner == "pearl":
        return float(dict(papers["PEARL log"]["rows"][row.tasks])[350_000])
    text = papers["few-shot"]["rows"][f"{row.learner}/{row.tasks}"]
    return float(text.split()[0]) / 100


class TestIdentity:
    def test_settings_change_it_and_the_seed_too(self, suite: Suite) -> None:
        cells = [Cell(row, seed) for row, seed in suite.cells()]
        other = read_suite("small", TABLE.replace("hidden_size = 4", "hidden_size = 8"))
        digests = {cell.identity()["settings"] for cell in cells}
        digests |= {Cell(row, seed).identity()["settings"] for row, seed in other.cells()}
        assert len(digests) == 4

    def test_the_expected_time_does_not_change_it(self, suite: Suite) -> None:
        other = read_suite("small", TABLE.replace("minutes = 0.1", "minutes = 7"))
        one, two = (Cell(each.rows[0], 0).identity() for each in (suite, other))
        assert one == two

    def test_only_statements_count_as_code(self) -> None:
        source = 'def f(x):\n    """Text."""\n    return x  # why\n'
        same = "def f( x ):\n\n    return (x)\n"
        assert identity._bare(source) == identity._bare(same)
        assert identity._bare(source) != identity._bare(same.replace("(x)", "-x"))

    def test_a_module_of_the_user_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        file = tmp_path / "module_of_a_user.py"
        digests = []
        for source in ("x = 1\n", "x = 2\n"):
            file.write_text(source, encoding="utf-8")
            digests.append(identity.code_digest(["module_of_a_user"]))
        assert digests[0] != digests[1] != identity.code_digest()


class TestCores:
    def test_jobs_get_cores_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        cores = Cores(3)
        with cores.lent(2) as some, cores.lent(1) as others:
            assert (some, others) == ([0, 1], [2])
        with cores.lent(3) as every:
            assert every == [0, 1, 2]

    def test_more_jobs_than_cores_leave_the_choice_to_the_system(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        with Cores(4).lent(2) as own:
            assert own == []


class TestRunning:
    def test_a_suite_is_done_once_and_reported(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One process for each job; the second call skips all, and another budget none."""
        table, out = tmp_path / "small.toml", tmp_path / "out"
        table.write_text(TABLE, encoding="utf-8")
        command = ["benchmark", str(table), "--out", str(out), "--seeds", "1"]
        assert main([*command, "--dry-run"]) == 0
        assert "2 of 2 jobs to do" in capsys.readouterr().out
        assert not out.exists()
        assert main([*command, "--workers", "2"]) == 0
        content = json.loads((out / "results" / "rl2-BernoulliBandit-seed0.json").read_text())
        result = EvaluationResult.from_content(content["evaluations"]["test"])
        assert result.values.shape == (8, 3)
        assert content["steps"] == 96
        assert len(content["checkpoint_sha256"]) == 64
        assert "2.500 (a paper)" in (out / "report.md").read_text(encoding="utf-8")
        capsys.readouterr()
        assert main([*command, "--dry-run"]) == 0
        assert "0 of 2 jobs to do" in capsys.readouterr().out
        table.write_text(TABLE.replace("budget = 96", "budget = 48"), encoding="utf-8")
        assert main([*command, "--dry-run"]) == 0
        assert "1 of 2 jobs to do" in capsys.readouterr().out

    def test_a_job_that_fails_fails_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: Suite
    ) -> None:
        """Without any training: what the processes are told decides how they end."""
        fake = tmp_path / "python"
        fake.write_text(
            '#!/bin/sh\necho "$3"\ncase "$3" in *\'"seed": 1\'*) exit 3;; esac\n', encoding="utf-8"
        )
        fake.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(fake))
        ends: dict[str, str] = {}
        jobs = suite_jobs(suite)
        run_in_processes(jobs, tmp_path, 2, lambda job, wrong: ends.update({job.name: wrong}))
        assert ends.keys() == {job.name for job in jobs}
        failed = {name: wrong for name, wrong in ends.items() if wrong}
        assert list(failed) == ["rl2-BernoulliBandit-seed1"]
        assert failed["rl2-BernoulliBandit-seed1"].startswith("exit code 3")

    def test_a_suite_whose_jobs_all_fail_names_them(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """There is nothing to report, and the exit code is 1."""
        table, out = tmp_path / "small.toml", tmp_path / "out"
        table.write_text(TABLE, encoding="utf-8")
        monkeypatch.setattr(processes.sys, "executable", "/bin/false")
        assert main(["benchmark", str(table), "--out", str(out), "--seeds", "1"]) == 1
        printed = capsys.readouterr()
        assert "rl2-BernoulliBandit-seed0: failed: exit code 1" in printed.out
        assert "2 of 2 jobs failed: reference-BernoulliBandit-" in printed.err
        failed = json.loads((out / "suite.json").read_text(encoding="utf-8"))["failed"]
        assert len(failed) == 2

    def test_an_interruption_is_passed_on_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: Suite
    ) -> None:
        """The running process is told to end, the waiting ones never begin."""
        fake = tmp_path / "python"
        fake.write_text(
            "#!/bin/sh\ntrap 'echo told; exit 130' TERM\necho begun\n"
            "for i in $(seq 600); do sleep 0.1; done\n",
            encoding="utf-8",
        )
        fake.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(fake))
        jobs = [Cell(row, seed) for row, seed in suite.cells()]
        log = tmp_path / "logs" / f"{jobs[0].name}.log"

        def interrupt() -> None:
            while not log.exists() or log.read_text(encoding="utf-8") != "begun\n":
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt, match="goes on from the last checkpoints"):
            run_in_processes(jobs, tmp_path, 1, lambda job, wrong: None)
        assert log.read_text(encoding="utf-8") == "begun\ntold\n"
        assert [file.name for file in log.parent.iterdir()] == [log.name]

    def test_a_cell_goes_on_from_its_checkpoint(self, tmp_path: Path, suite: Suite) -> None:
        """A run folder of half the budget gives the result of an uninterrupted training."""
        cell = Cell(suite.rows[0], 0)
        cell.run(tmp_path / "whole")
        half = replace(cell.command, total_timesteps=48)
        name = f"{cell.name}-{identity.digest(cell.identity())[:8]}"
        half.out = tmp_path / "cut" / "runs" / name
        config = train(half).config_file
        cell.run(tmp_path / "cut")
        assert json.loads(config.read_text())["total_timesteps"] == 96
        files = [cell.result_file(tmp_path / part) for part in ("whole", "cut")]
        evaluations = [numbers(file)[0] for file in files]
        assert evaluations[0] == evaluations[1]

    def test_references_of_bandits(self, tmp_path: Path, suite: Suite) -> None:
        """Random pulls of 3 earn 1.5 on average, the Bayes-optimal policy earns more."""
        reference = Reference(suite.rows[0])
        reference.run(tmp_path)
        assert reference.is_done(tmp_path)
        content = json.loads(reference.result_file(tmp_path).read_text())
        assert content["about"] == "Bayes-optimal"
        assert content["exact"]
        earned = {
            name: EvaluationResult.from_content(content[name]).total.mean()
            for name in ("random", "best")
        }
        assert earned["best"] > earned["random"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_worker_of_ray_that_is_killed_in_mid_cell_changes_no_number(
    tmp_path: Path,
) -> None:
    """Two workers of a real local cluster; one is killed after its first checkpoint."""
    pytest.importorskip("ray")
    suite = read_suite("small", TABLE.replace("budget = 96", "budget = 6000"))
    cells = [Cell(row, seed, checkpoint_interval=0.0) for row, seed in suite.cells()]
    killed: list[int] = []

    def kill_one() -> None:
        folders = tmp_path / "killed" / "runs"
        while not killed:
            for lock in folders.glob("*seed1*/run.lock"):
                if (lock.parent / "checkpoint.zip").exists():
                    owner = lock.read_text(encoding="utf-8").split()
                    if len(owner) > 1:
                        killed.append(int(owner[1]))
                        os.kill(killed[0], signal.SIGKILL)
                        return
            time.sleep(0.05)

    ends: dict[str, str] = {}

    def ended(job: Job, wrong: str) -> None:
        ends[job.name] = wrong

    threading.Thread(target=kill_one, daemon=True).start()
    run_on_ray(cells, tmp_path / "killed", "auto", 2, ended)
    assert killed
    (logs,) = (tmp_path / "killed" / "runs").glob("*seed1*/tensorboard")
    assert len(list(logs.iterdir())) == 2  # the killed training, and the one that went on
    assert ends == {cell.name: "" for cell in cells}
    run_in_processes(cells, tmp_path / "whole", 1, ended)
    assert ends == {cell.name: "" for cell in cells}
    for cell in cells:
        files = [cell.result_file(tmp_path / part) for part in ("killed", "whole")]
        assert numbers(files[0]) == numbers(files[1])
