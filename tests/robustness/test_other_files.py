"""Data sets of histories, studies, suites and best checkpoints: damage, full disks, two owners."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta_rl.agents.bandits import BestArm, ThompsonSampling
from meta_rl.agents.dpt import DPT
from meta_rl.cli import main
from meta_rl.cli.report.results import read_results
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.suites.jobs import Reference
from meta_rl.cli.suites.tables import read_suite
from meta_rl.few_shot.classifier import FewShotClassifier
from meta_rl.files.checksums import checked_json
from meta_rl.files.sealed import Saved, read_file, write_file
from meta_rl.histories import Histories, collect_histories
from meta_rl.histories.data_set import one_writer

BANDIT: dict[str, Any] = {"num_arms": 3, "horizon": 6}
SMALL = [
    *("--quiet", "--device", "cpu", "--eval-tasks", "0", "--checkpoint-interval", "0"),
    *("--param", "meta_batch_size=8", "num_minibatches=2", "policy.hidden_size=4"),
    *("env.num_arms=3", "env.horizon=6"),
]


def collect(folder: Path, **changes: Any) -> Histories:
    learner = ThompsonSampling(3, rng=np.random.default_rng(0))
    settings: dict[str, Any] = {"num_histories": 10, "batch_size": 4, "env_kwargs": BANDIT}
    return collect_histories(learner, "BernoulliBandit", folder, **settings | changes)


def refused(capsys: pytest.CaptureFixture[str], *words: Any, code: int = 2) -> str:
    """The one line of a command that ends with an exit code."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind of file."""
    folder = tmp_path_factory.mktemp("files")
    collect(folder / "histories", expert=BestArm(3))
    words = ["train", "rl2", "BernoulliBandit", *SMALL, "--total-timesteps", "480"]
    assert main([*words, "--out", str(folder / "run")]) == 0
    row = '[[cells]]\nlearner = "rl2"\ntasks = "BernoulliBandit"\nminutes = 1\nnum_tasks = 4\n'
    row += "settings = { env = { num_arms = 2, horizon = 3 } }\n"
    suite = read_suite("small", f'title = "Small"\n{row}')
    Reference(suite.rows[0]).run(folder / "suite")
    return folder


def read_best(path: Path) -> Any:
    return RunFolder(path.parent).best_score()


def read_reference(path: Path) -> Any:
    from meta_rl.cli.report import results

    return results._read(path, results._REFERENCE)


READ: dict[str, Callable[[Path], Any]] = {
    "run/best.json": read_best,
    "histories/histories.json": lambda path: Histories(path.parent).about,
    "histories/rewards.npy": lambda path: Histories(path.parent).batch(np.arange(10)).rewards,
    "suite/references/*.json": read_reference,
}


def holds(found: Any, content: Any) -> bool:
    """Whether content was read; an entry may have been added to it."""
    if isinstance(content, dict):
        return all(key in found and found[key] == value for key, value in content.items())
    return np.array_equal(found, content)


@pytest.mark.parametrize("name", READ)
def test_every_changed_bit_is_refused_or_changes_nothing(name: str, written: Path) -> None:
    """Bits of spaces, and of the name of the entry ``checksum``, change no content."""
    (path,) = written.glob(name)
    original = path.read_bytes()
    content, refused = READ[name](path), 0
    draws = np.random.default_rng(0).permutation(8 * len(original))[:400]
    try:
        for bit in draws:
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                assert holds(READ[name](path), content)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.write_bytes(original)
    assert refused > 0.8 * len(draws)


def test_a_damaged_score_is_refused_before_a_training_goes_on(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(written / "run", tmp_path / "run"))
    text = (run / "best.json").read_text()
    (run / "best.json").write_text(text.replace('"score": ', '"score": 1'))
    words = ["train", "rl2", "BernoulliBandit", *SMALL, "--total-timesteps", "960"]
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert "best.json was changed" in refused(capsys, *words, "--out", run, "--resume")
    assert files == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


class TestHistories:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"arrays": {"../rewards": ["<f8", [10, 6]]}}, "leads out of the folder"),
            ({"arrays": {"rewards": ["<f8", [10, 6]]}}, "has the arrays"),
            ({"num_histories": 0}, "num_histories has to be a whole number"),
            ({"num_steps": 5}, "has shape"),
            ({"arrays": {"rewards": 3}}, "is damaged"),
            ({"sha256": {"/etc/passwd": ""}}, "leads out of the folder"),
        ],
    )
    def test_a_description_with_a_valid_checksum(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        data = collect(tmp_path)
        (tmp_path / "histories.json").write_text(checked_json(data.about | change))
        with pytest.raises(ValueError, match=message):
            Histories(tmp_path)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("rewards", np.nan, "rewards.npy: history 7 holds NaN or infinity"),
            ("rewards", np.inf, "rewards.npy: history 7 holds NaN or infinity"),
            ("actions", 3, "its actions are not in Discrete"),
            ("actions", -1, "its actions are not in Discrete"),
            ("labels", 3, "its labels are not in Discrete"),
        ],
    )
    def test_numbers_that_do_not_fit_end_no_training(
        self,
        name: str,
        value: float,
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """They are refused before a training begins, although the checksums are right."""
        data = collect(tmp_path / "data", expert=BestArm(3))
        array = np.load(tmp_path / "data" / f"{name}.npy")
        array[7, 2] = value
        np.save(tmp_path / "data" / f"{name}.npy", array)
        (tmp_path / "data" / "histories.json").write_text(checked_json(data.about | {"sha256": {}}))
        given = f"histories={tmp_path / 'data'}"
        words = ["train", "dpt", "BernoulliBandit", *SMALL, given, "expert=data"]
        error = refused(capsys, *words, "--out", tmp_path / "run")
        assert message in error
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("broken", [None, "missing", "steps"])
    def test_a_data_set_is_opened_before_a_training_begins(
        self, broken: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kwargs = BANDIT | ({"horizon": 5} if broken == "steps" else {})
        collect(tmp_path / "data", env_kwargs=kwargs)
        if broken == "missing":
            (tmp_path / "data" / "histories.json").unlink()
        given = f"histories={tmp_path / 'data'}"
        words = ["train", "dpt", "BernoulliBandit", *SMALL, given, "--total-timesteps", "48"]
        words += ["--out", str(tmp_path / "run")]
        if broken is None:
            assert main(words) == 0
        else:
            refused(capsys, *words)
        assert (tmp_path / "run").exists() == (broken is None)

    def test_labels_are_looked_for_before_a_training_begins(self, tmp_path: Path) -> None:
        collect(tmp_path)
        agent = DPT(
            env="BernoulliBandit", env_kwargs=BANDIT, histories=tmp_path, expert="data", seed=0
        )
        with pytest.raises(ValueError, match="has no labels"):
            agent.check_length(48)

    def test_a_full_disk_is_an_error_and_no_crash(self, tmp_path: Path) -> None:
        """A memory map that has no room on the disk would end the process by a signal."""
        with small_files(2**20), pytest.raises(OSError, match=r"\.npy"):
            collect(tmp_path, num_histories=200_000)
        assert not (tmp_path / "histories.json").exists()
        assert len(collect(tmp_path)) == 10

    def test_a_second_process_is_refused(self, tmp_path: Path) -> None:
        with (
            one_writer(tmp_path),
            pytest.raises(ValueError, match="another process collects histories"),
        ):
            collect(tmp_path)
        assert len(collect(tmp_path)) == 10
        assert not (tmp_path / "histories.lock").exists()

    def test_numbers_that_are_not_finite_are_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            collect(tmp_path, expert=_NoNumbers())


class _NoNumbers:
    """An expert whose labels are no numbers."""

    def predict(self, observation: Any, state: Any = None, **_: Any) -> Any:
        return np.full(len(observation), np.nan), state


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file can have more bytes within the context, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


TUNE = (
    *("tune", "maml", "Sinusoid-5s", "--quiet", "--device", "cpu", "--total-timesteps", "10"),
    *("--param", "policy.hidden=[4]", "meta_batch_size=2", "--search", "lr=0.001..0.1"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("study") / "study.sqlite3"
    assert main([*TUNE, "--num-trials", "2", "--out", str(file)]) == 0
    return file


class TestStudies:
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE trial_values SET value = value / 2 WHERE trial_id = 1",
            "UPDATE trial_params SET param_value = 0.05 WHERE trial_id = 2",
            "UPDATE trial_intermediate_values SET intermediate_value = 0 WHERE trial_id = 1",
            "UPDATE trials SET state = 'PRUNED' WHERE trial_id = 1",
            "UPDATE trials SET state = 'COMPLETF' WHERE trial_id = 1",
            "UPDATE study_directions SET direction = 'MAXIMIZF'",
        ],
    )
    def test_a_changed_row(
        self, change: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = Path(shutil.copy(study, tmp_path))
        with sqlite3.connect(file) as database:
            assert database.execute(change).rowcount
        database.close()
        error = refused(capsys, *TUNE, "--num-trials", "3", "--out", file)
        assert str(file) in error

    def test_changed_bits(
        self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each ends with one line, or with the same trials; none with a traceback."""
        file, original = tmp_path / "study.sqlite3", study.read_bytes()
        for bit in np.random.default_rng(0).integers(8 * len(original), size=12):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            capsys.readouterr()
            code = main([*TUNE, "--num-trials", "2", "--out", str(file)])
            printed = capsys.readouterr()
            assert code in (0, 2)
            assert printed.err.count("\n") == (1 if code else 0)

    @pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"x" * 200])
    def test_other_files(
        self, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "study.sqlite3"
        file.write_bytes(content)
        error = refused(capsys, *TUNE, "--num-trials", "1", "--out", file)
        assert f"{file} cannot be used as a study of Optuna" in error
        assert file.read_bytes() == content

    def test_a_full_disk(
        self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = Path(shutil.copy(study, tmp_path))
        with small_files(8192):
            error = refused(capsys, *TUNE, "--num-trials", "3", "--out", file)
        assert str(file) in error
        assert main([*TUNE, "--num-trials", "2", "--out", str(file)]) == 0

    def test_another_seed_is_another_search(
        self, study: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [*TUNE, "--num-trials", "3", "--seed", "1", "--out", study]
        assert "a study with other seed" in refused(capsys, *words)


class TestSuites:
    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            '{"name": "a-seed0", "identity": {}}',
            '{"name": 3, "identity": {}, "row": {}}',
            "[" * 100_000,
            "nonsense",
        ],
    )
    def test_other_files_are_no_results(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "a-seed0.json").write_text(text)
        error = refused(capsys, "report", tmp_path)
        assert "a-seed0.json is no result of a suite" in error

    def test_a_damaged_reference_is_made_again(self, written: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(written / "suite", tmp_path / "suite"))
        (path,) = folder.glob("references/*.json")
        row = '[[cells]]\nlearner = "rl2"\ntasks = "BernoulliBandit"\nminutes = 1\nnum_tasks = 4\n'
        row += "settings = { env = { num_arms = 2, horizon = 3 } }\n"
        reference = Reference(read_suite("small", f'title = "Small"\n{row}').rows[0])
        assert reference.is_done(folder)
        path.write_text(path.read_text().replace("0.", "1.", 1))
        assert not reference.is_done(folder)

    def test_a_folder_without_results(self, written: Path) -> None:
        with pytest.raises(ValueError, match="holds no results"):
            read_results(written / "suite")


@pytest.mark.parametrize(
    "change",
    [
        {"learner": "Nothing"},
        {"learner": 3},
        {"checkpoint": {}},
        {"preparation": {"kind": "nothing"}},
        {"preparation": {"kind": "numbers", "size": 3}},
        {"preparation": {}},
        {"fitted": {}},
        {"fitted": 3},
    ],
)
def test_classifiers_with_other_content_and_a_valid_checksum(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path = FewShotClassifier().fit(np.eye(2), ["a", "b"]).save(tmp_path / "saved")
    owner, content = read_file(path)
    write_file(path, Saved(owner, content | change))
    with pytest.raises(ValueError, match=r"corrupt|unknown|saved"):
        FewShotClassifier.load(path)
