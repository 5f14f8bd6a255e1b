"""CUDA graphs: what a CPU can tell of them, and, on a GPU, that they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor

from meta_rl import TaskVectorEnv
from meta_rl.agents.pearl import PEARL
from meta_rl.compute.cuda_graph import CudaGraph, recordable, step_where
from meta_rl.compute.device_work import FasterUpdates
from meta_rl.compute.torch_state import options, restore_options, set_rate
from meta_rl.few_shot import (
    MAML,
    MANN,
    FewShotLearner,
    FewShotTasks,
    Reptile,
    Siamese,
    sinusoid_mlp,
)
from meta_rl.few_shot.data.sinusoid import Sinusoid

from .agents.probe_families import HiddenSign
from .few_shot.small_data import blob_split, mlp

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class EveryCallRecorded:
    """In place of a graph, on a CPU: each call computes as if it were being recorded."""

    recording = False

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.function = function

    def __call__(self, *inputs: Tensor) -> Any:
        EveryCallRecorded.recording = True
        try:
            return self.function(*inputs)
        finally:
            EveryCallRecorded.recording = False


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU; or a CPU that takes the way of a recording."""
    if request.param == "cpu":
        for module in ("meta_rl.compute.device_work", "meta_rl.agents.pearl"):
            monkeypatch.setattr(f"{module}.CudaGraph", EveryCallRecorded)
            monkeypatch.setattr(f"{module}.is_recording", lambda: EveryCallRecorded.recording)
        monkeypatch.setattr(FasterUpdates, "check_can_record", lambda self: None)
        monkeypatch.setattr(PEARL, "_check_graph", lambda self: None)
    name: str = request.param
    return name


def adam_after(finite: list[bool], lr: float = 0.1) -> tuple[Tensor, torch.optim.Adam]:
    """A parameter after a step for each, with gradients 1, 2, 3, ..."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=lr, fused=True)
    for number, fine in enumerate(finite, 1):
        parameter.grad = torch.full((3,), float(number) if fine else torch.nan)
        step_where(optimizer, torch.tensor(fine))
    return parameter.detach(), optimizer


class TestStepWhere:
    def test_no_step_is_as_if_it_had_never_been(self) -> None:
        parameter, optimizer = adam_after([False])
        assert torch.equal(parameter, torch.ones(3))
        parameter.requires_grad_()
        first, _ = adam_after([True])
        both, optimizer = adam_after([True, False])
        assert torch.equal(first, both)
        assert float(next(iter(optimizer.state.values()))["step"]) == 1.0

    def test_a_step_is_adams(self) -> None:
        """lr × g / (|g| + ε) at first; the mark is taken back, so that later steps are free."""
        parameter, optimizer = adam_after([True])
        assert torch.allclose(parameter, torch.full((3,), 0.9))
        assert not hasattr(optimizer, "found_inf")


class TestRecordable:
    def test_rates_change_in_place(self) -> None:
        parameter = torch.nn.Parameter(torch.ones(()))
        optimizer = torch.optim.Adam([parameter], lr=0.1)
        before = options(optimizer)
        parameter.grad = torch.ones(())
        optimizer.step()
        with recordable(optimizer):
            rate = optimizer.param_groups[0]["lr"]
            set_rate(optimizer, 0.5)
            assert optimizer.param_groups[0]["lr"] is rate
            optimizer.step()
            assert float(parameter.detach()) == pytest.approx(1.0 - 0.1 - 0.5, abs=1e-6)
        assert options(optimizer) == before
        assert optimizer.param_groups[0]["lr"] == 0.5
        set_rate(optimizer, 0.25)
        optimizer.step()
        assert float(parameter.detach()) == pytest.approx(1.0 - 0.1 - 0.5 - 0.25, abs=1e-6)

    def test_a_checkpoint_of_a_recording_is_restored(self) -> None:
        parameter = torch.nn.Parameter(torch.ones(()))
        optimizer = torch.optim.Adam([parameter], lr=0.1)
        parameter.grad = torch.ones(())
        with recordable(optimizer):
            optimizer.step()
            state = optimizer.state_dict()
        again = torch.optim.Adam([parameter], lr=0.3)
        kept = options(again)
        again.load_state_dict(state)
        restore_options(again, kept)
        assert options(again) == kept
        assert again.param_groups[0]["lr"] == pytest.approx(0.1)
        again.step()

    def test_only_adam(self) -> None:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=0.1)
        with pytest.raises(ValueError, match="only Adam can be recorded, not SGD"):
            recordable(optimizer).__enter__()


class TestRefused:
    def test_without_a_gpu(self) -> None:
        learner = MAML(mlp(3), seed=0, device="cpu")
        with pytest.raises(ValueError, match="a CUDA graph needs a GPU, but the device is cpu"):
            learner.learn(blob_split(), 1, cuda_graph=True)
        assert learner.num_iterations == 0
        with pytest.raises(ValueError, match="a CUDA graph needs a GPU, but the device is cpu"):
            make_pearl("cpu", cuda_graph=True)

    def test_learners_whose_updates_vary(self) -> None:
        network = mlp(None)
        network.num_features = 16
        learner = Siamese(network, augment=False, device="cpu")
        with pytest.raises(ValueError, match="a CUDA graph is not for Siamese"):
            learner.learn(blob_split(), 1, cuda_graph=True)


@gpu
class TestCudaGraph:
    def test_replays_with_new_data_and_further_draws(self) -> None:
        generator = torch.Generator("cuda")
        total = torch.zeros(4, device="cuda")

        def work(x: Tensor) -> tuple[Tensor, Tensor]:
            total.add_(x)
            return total.clone(), torch.rand(4, generator=generator, device="cuda")

        found = []
        for make in (lambda: work, lambda: CudaGraph(work, [generator])):
            generator.manual_seed(0)
            total.zero_()
            call = make()
            found.append([call(torch.full((4,), float(n), device="cuda")) for n in range(6)])
        for (sum_a, drawn_a), (sum_b, drawn_b) in zip(*found, strict=True):
            assert torch.equal(sum_a, sum_b)
            assert torch.equal(drawn_a, drawn_b)

    def test_recorded_anew_for_another_shape(self) -> None:
        graph = CudaGraph(lambda x: x * 2)
        for size in (3, 3, 3, 3, 5, 5, 5, 5):
            x = torch.rand(size, device="cuda")
            assert torch.equal(graph(x), x * 2)


def make_learner(kind: str, device: str) -> tuple[FewShotLearner, Any]:
    """A small learner, and tasks."""
    shared: dict[str, Any] = {"seed": 0, "device": device, "meta_lr": [1e-2, 1e-3]}
    if kind == "mann":
        sizes = {"slots": 6, "width": 5, "heads": 2, "hidden": 8}
        return MANN(3, input_shape=(4,), **sizes, **shared), blob_split()
    if kind == "sinusoid":
        return MAML(
            sinusoid_mlp(generator=torch.Generator().manual_seed(0)), lr=0.01, **shared
        ), Sinusoid(shots=5)
    if kind == "reptile":
        shared["meta_lr"] = [1.0, 0.0]
        return Reptile(mlp(3), **shared), blob_split()
    return MAML(mlp(3), learn_lr=kind == "meta-sgd", **shared), blob_split()


KINDS = ("mann", "maml", "meta-sgd", "sinusoid", "reptile")


def parameters(learner: Any) -> list[Tensor]:
    module = learner.policy if isinstance(learner, PEARL) else learner.module
    return [value.detach().clone() for value in module.parameters()]


class TestLearners:
    @pytest.mark.parametrize("kind", KINDS)
    def test_as_without_a_graph(self, kind: str, device: str) -> None:
        found = []
        for graph in (False, True):
            learner, tasks = make_learner(kind, device)
            before = parameters(learner)
            learner.learn(tasks, 8, cuda_graph=graph)
            found.append(parameters(learner))
        assert any(not torch.allclose(a, b) for a, b in zip(before, found[0], strict=True))
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_goes_on_from_a_checkpoint(self, kind: str, device: str, tmp_path: Path) -> None:
        whole, tasks = make_learner(kind, device)
        whole.learn(tasks, 8, cuda_graph=True)
        part, _ = make_learner(kind, device)

        def save(learner: FewShotLearner) -> bool:
            learner.save(tmp_path / "part")
            return learner.num_iterations < 5

        part.learn(tasks, 8, cuda_graph=True, callback=save)
        for other in {"cpu", device}:
            networks = {} if kind in ("mann", "sinusoid") else {"network": mlp(3)}
            loaded = type(part).load(tmp_path / "part", device=other, **networks)
            loaded.learn(tasks, 3, reset_num_iterations=False, cuda_graph=other == "cuda")
            for a, b in zip(parameters(whole), parameters(loaded), strict=True):
                assert torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("kind", KINDS)
    def test_stops_where_not_finite(self, kind: str, device: str) -> None:
        learner, tasks = make_learner(kind, device)
        learner.learn(tasks, 5, cuda_graph=True)
        draw: Callable[[Any], FewShotTasks] = learner.draw
        before: list[Tensor] = []

        def poisoned(given: Any) -> FewShotTasks:
            if learner.num_iterations == 9:  # nan in the data would be refused before the update
                with torch.no_grad():
                    next(learner.module.parameters()).view(-1)[0] = torch.nan
                before.extend(part.clone() for part in parameters(learner))
            return draw(given)

        learner.draw = poisoned  # type: ignore[method-assign]
        with pytest.raises(FloatingPointError, match="of iteration 10 is not finite"):
            learner.learn(tasks, 10, cuda_graph=True, reset_num_iterations=False)
        for a, b in zip(before, parameters(learner), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


def make_pearl(device: str, **settings: Any) -> PEARL:
    return PEARL(
        env=TaskVectorEnv(HiddenSign, 2),
        num_train_tasks=6,
        initial_steps=4,
        prior_steps=4,
        extra_steps=2,
        updates_per_iteration=6,
        tasks_per_update=3,
        batch_size=4,
        context_size=3,
        buffer_size=600,
        seed=0,
        device=device,
        policy_kwargs={"hidden_sizes": (8, 8), "encoder_sizes": (8,), "latent_size": 2},
        **settings,
    )


class TestPEARL:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"entropy_coefficient": "auto"}, {"learning_rate": LinearSchedule(1e-2, 0.0, 1.0)}],
    )
    def test_as_without_a_graph(
        self, settings: dict[str, Any], device: str, tmp_path: Path
    ) -> None:
        found = []
        for graph in (False, True):
            model = make_pearl(device, cuda_graph=graph, **settings).learn(100)
            found.append(parameters(model))
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        model.save(tmp_path / "model")
        loaded = PEARL.load(tmp_path / "model", device="cpu")
        for a, b in zip(found[1], parameters(loaded), strict=True):
            assert torch.equal(a.cpu(), b)

    def test_stops_where_not_finite(self, device: str) -> None:
        model = make_pearl(device, cuda_graph=True).learn(60)
        model.replay.data[300:400, model.replay.columns[4]] = 1e30  # task 3
        with pytest.raises(FloatingPointError, match=r"the loss is not finite .* task 3 \("):
            model.learn(100, reset_num_timesteps=False)
        assert all(np.isfinite(part.cpu().numpy()).all() for part in parameters(model))
