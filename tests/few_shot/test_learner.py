"""What all few-shot learners promise: one data layout, clear refusals, exact resumption."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import KVWriter, Logger

from meta_rl.few_shot import (
    MAML,
    ClassPool,
    ClassTasks,
    FewShotLearner,
    FewShotTasks,
    FineTune,
    FromScratch,
    MatchingNet,
    NearestNeighbour,
    ProtoNet,
    Reptile,
    Siamese,
    Sinusoid,
    conv4,
    omniglot_mlp,
    sinusoid_mlp,
    text_encoder,
)

from .small_data import blob_split, blobs, mlp

LEARNERS: dict[str, Callable[[], FewShotLearner]] = {
    "maml": lambda: MAML(mlp(3), 0.1, meta_lr=[1e-2, 0.0], seed=1, device="cpu"),
    "meta-sgd": lambda: MAML(mlp(3), 0.1, learn_lr=True, anil=True, seed=1, device="cpu"),
    "reptile": lambda: Reptile(mlp(3), 0.01, eval_steps=3, seed=1, device="cpu"),
    "protonet": lambda: ProtoNet(mlp(None), seed=1, device="cpu"),
    "matching": lambda: MatchingNet(mlp(None), fce=True, seed=1, device="cpu"),
    "siamese": lambda: Siamese(mlp(None), augment=False, seed=1, device="cpu"),
    "finetune": lambda: FineTune(mlp(3), eval_steps=2, seed=1, device="cpu"),
    "scratch": lambda: FromScratch(mlp(3), eval_steps=2, seed=1, device="cpu"),
    "nearest": lambda: NearestNeighbour(seed=1, device="cpu"),
}
TASKS = blob_split(train={"shots": 2, "ways": 3, "queries": 4})
BATCH = TASKS.test.sample_tasks(4, np.random.default_rng(0))


@pytest.fixture(params=LEARNERS)
def make(request: pytest.FixtureRequest) -> Callable[[], FewShotLearner]:
    return LEARNERS[request.param]


def contents(learner: FewShotLearner) -> list[torch.Tensor]:
    """Everything that is learned, and Reptile's running squares."""
    extra = learner.extra_state().get("moments", {})
    return [*learner.module.state_dict().values(), *extra.values()]


def same(a: FewShotLearner, b: FewShotLearner) -> bool:
    return all(torch.equal(x, y) for x, y in zip(contents(a), contents(b), strict=True))


def load(learner: FewShotLearner, path: Path) -> FewShotLearner:
    ways = getattr(learner.network, "ways", None)
    return type(learner).load(path, network=mlp(ways, seed=9), device="cpu")


def test_signatures_have_the_arguments_of_the_base_classes() -> None:
    """They are recorded as settings, and names that do not exist are refused."""
    names = list(inspect.signature(MAML).parameters)
    assert names[:2] == ["network", "lr"]
    assert {"num_steps", "chunk_size", "meta_lr", "meta_batch_size", "seed", "device"} < set(names)
    assert "settings" not in names
    assert "meta_lr" not in inspect.signature(FromScratch).parameters
    learner = MAML(mlp(3), 0.2, chunk_size=2, meta_lr=0.1, seed=1, device="cpu")
    assert learner.settings == {"lr": 0.2, "chunk_size": 2, "meta_lr": 0.1, "seed": 1}
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'meta_rl'; did you mean meta_lr"
    ):
        ProtoNet(mlp(None), meta_rl=0.1)


class TestResuming:
    def test_a_saved_and_resumed_run_ends_as_an_undisturbed_one(
        self, make: Callable[[], FewShotLearner], tmp_path: Path
    ) -> None:
        whole = make().learn(TASKS, 6)
        half = make()
        stop = {"callback": lambda learner: learner.num_iterations < 3}
        half.learn(TASKS, 6, **stop)  # type: ignore[arg-type]
        resumed = load(half, half.save(tmp_path / "half"))
        assert same(resumed, half)
        resumed.learn(TASKS, 6 - resumed.num_iterations, reset_num_iterations=False)
        assert same(resumed, whole)
        assert resumed.num_iterations == whole.num_iterations
        assert resumed.rng.random() == whole.rng.random()
        predictions = [
            learner.scores(BATCH.query_x, learner.adapt(BATCH.support))
            for learner in (resumed, whole)
        ]
        assert torch.equal(*predictions)

    def test_parts_of_a_training_are_as_one(
        self, make: Callable[[], FewShotLearner], tmp_path: Path
    ) -> None:
        """Falling rates too, where every part is told the whole length."""
        whole = make().learn(TASKS, 4)
        first = make().learn(TASKS, 2, total_iterations=4)
        second = load(first, first.save(tmp_path / "first"))
        second.learn(TASKS, 2, reset_num_iterations=False, total_iterations=4)
        assert same(second, whole)

    def test_numbers_of_numpy_are_kept_as_plain_ones(self, tmp_path: Path) -> None:
        network = conv4(np.int64(3), hidden=np.int64(2), size=16)  # type: ignore[arg-type]
        learner = MAML(
            network,
            np.float64(0.3),
            meta_batch_size=np.int64(2),  # type: ignore[arg-type]
            meta_lr=np.array([1e-2, 1e-3]),  # type: ignore[arg-type]
            seed=np.int64(1),  # type: ignore[arg-type]
            device="cpu",
        )
        loaded = MAML.load(learner.save(tmp_path / "a"), device="cpu")
        assert loaded.settings == {
            **{"lr": 0.3, "meta_batch_size": 2, "meta_lr": [1e-2, 1e-3], "seed": 1}
        }
        assert same(loaded, learner)
        assert ProtoNet(mlp(None), meta_lr=np.float32(0.5), device="cpu").meta_lr == 0.5

    def test_a_network_of_ones_own_keeps_its_dimensions(self, tmp_path: Path) -> None:
        def own() -> torch.nn.Module:
            return torch.nn.Linear(4, 3)

        with torch.random.fork_rng():
            learner = MAML(own(), 0.1, device="cpu")
            learner.adapt(BATCH.support)
            loaded = MAML.load(learner.save(tmp_path / "own"), network=own(), device="cpu")
        assert loaded.predict(BATCH.query_x[0]).shape == (15,)

    def test_training_changed_something(self, make: Callable[[], FewShotLearner]) -> None:
        learner = make()
        trained = learner.learn(TASKS, 2)
        untrained = isinstance(learner, FromScratch | NearestNeighbour)
        if not isinstance(learner, FineTune):  # it gets a head of all classes
            assert same(trained, make()) is untrained

    def test_our_networks_are_made_anew(self, tmp_path: Path) -> None:
        learner = MAML(omniglot_mlp(5, hidden=(8,)), 0.3, num_steps=2, seed=0, device="cpu")
        loaded = MAML.load(learner.save(tmp_path / "mlp.zip"), device="cpu")
        assert same(loaded, learner)
        assert (loaded.lr, loaded.num_steps, loaded.ways) == (0.3, 2, 5)

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        path = ProtoNet(mlp(None), device="cpu").save(tmp_path / "proto")
        assert [file.name for file in tmp_path.iterdir()] == ["proto.zip"]
        with pytest.raises(ValueError, match="is a checkpoint of ProtoNet, not of MAML"):
            MAML.load(path)
        with pytest.raises(ValueError, match=r"a network of your own: load\(path, network="):
            ProtoNet.load(path)
        with pytest.raises(ValueError, match="does not fit this network"):
            ProtoNet.load(path, network=mlp(None, hidden=3))
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            ProtoNet.load(tmp_path / "nothing")
        for content in (path.read_bytes()[:200], b"abc", b""):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="is a corrupt checkpoint"):
                ProtoNet.load(path)

    def test_an_interrupted_save_leaves_the_earlier_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        learner = ProtoNet(mlp(None), device="cpu")
        path = learner.save(tmp_path / "proto")
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="disk full"):
            learner.save(path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["proto.zip"]


class TestData:
    def test_one_task_needs_no_task_axis(self, make: Callable[[], FewShotLearner]) -> None:
        learner = make().learn(TASKS, 1)
        state = learner.adapt((BATCH.support_x[1], BATCH.support_y[1]))
        labels = learner.predict(BATCH.query_x[1], state)
        assert labels.shape == (15,)
        assert torch.equal(learner.predict(BATCH.query_x[1:2], state), labels[None])

    def test_every_leaf_of_the_state_has_a_task_axis(
        self, make: Callable[[], FewShotLearner]
    ) -> None:
        leaves = torch.utils._pytree.tree_leaves(make().learn(TASKS, 1).adapt(BATCH.support))
        assert {len(leaf) for leaf in leaves} == {4}

    def test_adaptation_changes_nothing_and_tasks_do_not_meet(
        self, make: Callable[[], FewShotLearner]
    ) -> None:
        learner = make().learn(TASKS, 1)
        before = [value.clone() for value in contents(learner)]
        rng = copy.deepcopy(learner.rng.bit_generator.state)
        together = learner.scores(BATCH.query_x, learner.adapt(BATCH.support))
        learner.rng.bit_generator.state = rng
        assert all(torch.equal(a, b) for a, b in zip(before, contents(learner), strict=True))
        one = learner.adapt((BATCH.support_x[:1], BATCH.support_y[:1]))
        assert torch.allclose(learner.scores(BATCH.query_x[:1], one), together[:1], atol=1e-5)

    def test_arrays_are_taken_too(self) -> None:
        learner = ProtoNet(mlp(None), device="cpu")
        state = learner.adapt((BATCH.support_x.numpy(), BATCH.support_y.numpy()))
        assert learner.predict(BATCH.query_x.numpy(), state).shape == (4, 15)
        assert torch.equal(learner.adapt(BATCH).keys, state.keys)

    def test_numbers_of_any_width_are_taken(self, make: Callable[[], FewShotLearner]) -> None:
        x, y = BATCH.support_x, BATCH.support_y
        learner = make()
        rng = copy.deepcopy(learner.rng.bit_generator.state)
        plain = learner.scores(BATCH.query_x, learner.adapt((x, y)))
        learner.rng.bit_generator.state = rng
        wide = learner.adapt((x.double().numpy(), y.to(torch.int32)))
        assert torch.equal(learner.scores(BATCH.query_x.double().numpy(), wide), plain)

    def test_double_and_bool_examples_become_floats(self) -> None:
        for examples in (torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 3) > 0):
            drawn = ClassTasks(ClassPool(examples, [2, 2]), 2, 1, 1).sample_tasks(
                1, np.random.default_rng(0)
            )
            assert torch.equal(drawn.support_x, torch.ones(1, 2, 3))

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (BATCH.support_x * torch.nan, BATCH.support_y, "example 0 of task 0 holds nan"),
            (BATCH.support_x, BATCH.support_y + 1, "labels have to be 0 to 2, got 1 to 3"),
            (BATCH.support_x, BATCH.support_y - 1, "got -1 to 1"),
            (BATCH.support_x[:, :0], BATCH.support_y[:, :0], "an empty support set"),
            (BATCH.support_x[:0], BATCH.support_y[:0], "an empty support set"),
            (BATCH.support_x, BATCH.support_y.float(), "learns labels .* got targets of"),
            (BATCH.support_x[:, :2], BATCH.support_y, "do not match"),
            (BATCH.support_x[..., :3], BATCH.support_y, r"as the network takes"),
            (BATCH.support_x[..., None], BATCH.support_y, r"as the network takes"),
        ],
    )
    def test_other_support_data_are_refused(
        self, x: torch.Tensor, y: torch.Tensor, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            MAML(mlp(3), 0.1, device="cpu").adapt((x, y))

    def test_other_queries_are_refused(self, make: Callable[[], FewShotLearner]) -> None:
        learner = make()
        state = learner.adapt(BATCH.support)
        with pytest.raises(ValueError, match="inputs of 2 tasks, but a state of 4"):
            learner.predict(BATCH.query_x[:2], state)
        if not isinstance(learner, NearestNeighbour):
            with pytest.raises(ValueError, match="as the network takes"):
                learner.predict(BATCH.query_x[..., :2], state)

    def test_images_of_another_size_are_refused(self) -> None:
        learner = MAML(conv4(5, hidden=2), 0.1, device="cpu")
        images = torch.zeros(5, 1, 32, 32)
        with pytest.raises(ValueError, match=r"\(1, 5, 1, 32, 32\) are no .*\(1, 28, 28\)"):
            learner.adapt((images, torch.arange(5)))

    def test_bytes_are_fractions(self) -> None:
        learner = ProtoNet(conv4(hidden=2, size=16), device="cpu")
        images = torch.arange(512, dtype=torch.uint8).view(2, 1, 16, 16)
        labels = torch.arange(2)
        states = [learner.adapt((x, labels)) for x in (images, images.float() / 255)]
        assert torch.equal(states[0].keys, states[1].keys)

    def test_word_numbers_have_to_be_known(self) -> None:
        learner = ProtoNet(text_encoder(50), device="cpu")
        with pytest.raises(ValueError, match="word numbers are 0 to 49, got 1 to 50"):
            learner.adapt((torch.tensor([[1, 50], [2, 3]]), torch.arange(2)))

    def test_queries_of_another_size_than_the_support_data(self) -> None:
        learner = NearestNeighbour(device="cpu")
        state = learner.adapt((torch.zeros(2, 6), torch.arange(2)))
        with pytest.raises(ValueError, match=r"queries give 4 features, .* gave 6"):
            learner.predict(torch.zeros(2, 4), state)

    def test_unknown_devices_are_named(self) -> None:
        with pytest.raises(ValueError, match="device is 'auto', 'cpu' or 'cuda', got 'gpu'"):
            ProtoNet(mlp(None), device="gpu")

    def test_regression_needs_values(self) -> None:
        learner = MAML(sinusoid_mlp(), 0.01, device="cpu")
        with pytest.raises(ValueError, match="learns values"):
            learner.adapt((torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.int64)))
        with pytest.raises(ValueError, match=r"targets of shape \(4, 2\), but the network gives"):
            learner.adapt((torch.zeros(4, 1), torch.zeros(4, 2)))
        state = learner.adapt((torch.zeros(2, 1), torch.zeros(2, 1)))
        assert learner.predict(torch.zeros(7, 1), state).shape == (7, 1)


class Lines(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def write(self, values: dict[str, Any], excluded: dict[str, Any], step: int = 0) -> None:
        self.lines.append((step, dict(values)))

    def close(self) -> None:
        pass


class TestTraining:
    def test_the_seed_fixes_everything_and_global_generators_are_left_alone(
        self, make: Callable[[], FewShotLearner]
    ) -> None:
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        first, second = make().learn(TASKS, 3), make().learn(TASKS, 3)
        assert same(first, second)
        assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_the_loss_has_to_be_finite(self, make: Callable[[], FewShotLearner]) -> None:
        """A third meta-batch with a nan in it stops the training; the parameters stay."""
        learner = make()
        draws: list[Any] = []

        class Poisoned(ClassTasks):
            """From the third draw on, the network's features are not finite."""

            def _poison(self) -> None:
                draws.append(1)
                if len(draws) == 3:
                    body: Any = learner.network.body
                    body.register_forward_hook(lambda module, inputs, outputs: outputs * torch.nan)

            def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
                self._poison()
                return super().sample_tasks(num_tasks, rng)

            def sample_labelled(self, num: int, rng: np.random.Generator) -> Any:
                self._poison()
                return super().sample_labelled(num, rng)

        seen: list[list[torch.Tensor]] = []

        def keep(learner: FewShotLearner) -> None:
            seen.append([value.clone() for value in contents(learner)])

        if isinstance(learner, FromScratch | NearestNeighbour):
            return
        name = type(learner).__name__
        with pytest.raises(FloatingPointError, match=f"{name}: the loss of iteration 3 is not"):
            learner.learn(Poisoned(blobs(6), 3, 1, 1), 50, callback=keep)
        assert learner.num_iterations == len(seen) == 2
        assert all(torch.equal(a, b) for a, b in zip(seen[-1], contents(learner), strict=True))

    def test_rates_fall_linearly(self) -> None:
        learner = ProtoNet(mlp(None), meta_lr=[1e-2, 2e-3], seed=0, device="cpu")
        rates: list[float] = []

        def note(learner: FewShotLearner) -> None:
            assert learner.optimizer is not None
            rates.append(learner.optimizer.param_groups[0]["lr"])

        learner.learn(TASKS, 4, callback=note)
        assert rates == pytest.approx([1e-2, 8e-3, 6e-3, 4e-3])

    def test_the_log_has_means_over_its_interval(self) -> None:
        learner, log = ProtoNet(mlp(None), seed=0, device="cpu"), Lines()
        losses: list[float] = []
        update = learner.update

        def noted(batch: Any) -> Any:
            numbers = update(batch)
            losses.append(float(numbers["loss"].detach()))
            return numbers

        learner.update = noted  # type: ignore[method-assign]
        learner.set_logger(Logger(None, [log]))
        learner.learn(TASKS, 7, log_interval=3)
        assert [step for step, _ in log.lines] == [3, 6]
        assert log.lines[1][1]["train/loss"] == pytest.approx(np.mean(losses[3:6]))
        assert log.lines[1][1]["time/iterations"] == 6

    def test_a_progress_bar_is_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        ProtoNet(mlp(None), seed=0, device="cpu").learn(TASKS, 3, progress_bar=True)
        assert "ProtoNet: 100%" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"meta_lr": 0.0}, "meta_lr is a positive number"),
            ({"meta_lr": [1.0, 0.5, 0.1]}, "meta_lr is a positive number"),
            ({"meta_lr": None}, "meta_lr is a positive number"),
            ({"meta_lr": True}, "meta_lr is a positive number"),
            ({"meta_batch_size": 0}, "meta_batch_size has to be"),
        ],
    )
    def test_settings_are_checked(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ProtoNet(mlp(None), device="cpu", **settings)

    def test_callbacks_and_intervals_are_checked(self) -> None:
        learner = ProtoNet(mlp(None), seed=0, device="cpu")
        learner.learn(TASKS, 1, callback=None)
        for wrong in (3, [3]):
            with pytest.raises(TypeError, match=r"a callback is a function .* got int"):
                learner.learn(TASKS, 1, callback=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="log_interval has to be"):
            learner.learn(TASKS, 1, log_interval=0)
        with pytest.raises(ValueError, match=r"total_iterations has to be .* at least 2"):
            learner.learn(TASKS, 2, total_iterations=1)

    def test_tasks_of_another_size_are_refused(self, make: Callable[[], FewShotLearner]) -> None:
        learner = make()
        if isinstance(learner, FineTune | FromScratch | NearestNeighbour):
            return  # they are trained on no tasks
        with pytest.raises(ValueError, match="as the network takes"):
            learner.learn(ClassTasks(blobs(6, dim=5), 3, 1, 1), 1)
        assert learner.num_iterations == 0

    def test_a_distribution_alone_will_do(self) -> None:
        whole = Sinusoid(num_test=5)
        a = MAML(sinusoid_mlp(generator=torch.Generator()), 0.01, seed=0, device="cpu")
        b = MAML(sinusoid_mlp(generator=torch.Generator()), 0.01, seed=0, device="cpu")
        assert same(a.learn(whole, 2), b.learn(whole.train, 2))
