"""MAML, Reptile and fine-tuning: updates against algebra and finite differences."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from meta_rl.few_shot import (
    MAML,
    ClassPool,
    FewShotNetwork,
    FewShotSplit,
    FewShotTasks,
    FineTune,
    FromScratch,
    Reptile,
    Sinusoid,
    conv4,
    device_work,
    sinusoid_mlp,
)
from meta_rl.few_shot.learner import task_loss
from meta_rl.few_shot.learners.reptile import shuffled_passes
from meta_rl.few_shot.networks.feed_forward import draw_weights
from meta_rl.few_shot.tasks import class_split
from meta_rl.inner_loop import adapt_tasks

from ..learning import Learned
from .small_data import Linear1, blob_split, mlp

ALPHA = 0.1


def line_tasks(*tasks: tuple[float, float, float, float]) -> FewShotTasks:
    """Tasks of one support point and one query point: (x, y, query x, query y)."""
    parts = [torch.tensor([task[i] for task in tasks]).double().view(-1, 1, 1) for i in range(4)]
    return FewShotTasks(*parts)


TWO = line_tasks((1.0, 2.0, 3.0, -1.0), (-2.0, 1.0, 0.5, 4.0))
W = 0.7


def by_hand(first_order: bool) -> tuple[float, float, float]:
    """Loss, its derivative with respect to w, and with respect to α, of ``y = w x``.

    One step on ``(w x - y)²`` gives ``w' = w - 2 α x (w x - y)``; the query loss is
    ``(w' q - t)²``, hence
    ``d/dw = 2 q (w' q - t) (1 - 2 α x²)``, without the last factor in first order, and
    ``d/dα = 2 q (w' q - t) (-2 x (w x - y))``. All are means over the two tasks.
    """
    loss = dw = dalpha = 0.0
    for x, y, q, t in ((1.0, 2.0, 3.0, -1.0), (-2.0, 1.0, 0.5, 4.0)):
        gradient = 2 * x * (W * x - y)
        adapted = W - ALPHA * gradient
        loss += (adapted * q - t) ** 2 / 2
        outer = 2 * q * (adapted * q - t)
        dw += outer * (1.0 if first_order else 1 - 2 * ALPHA * x**2) / 2
        dalpha += outer * -gradient / 2
    return loss, dw, dalpha


def updated(learner: MAML, batch: FewShotTasks) -> dict[str, Tensor]:
    learner.optimizer = torch.optim.SGD(learner.module.parameters(), lr=0.0)
    return learner.update(batch)


def only_traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """``torch.compile`` without its back end; gives what it is asked to compile."""
    compile, compiled = torch.compile, []

    def traced(function: Any, **settings: Any) -> Any:
        if function is not device_work._add_one:  # a trial
            compiled.append(function)
        return compile(function, backend="eager", fullgraph=True, **settings)

    monkeypatch.setattr(torch, "compile", traced)
    return compiled


class TestMAML:
    @pytest.mark.parametrize("first_order", [False, True])
    def test_the_meta_gradient_is_that_of_the_algebra(self, first_order: bool) -> None:
        network = Linear1(W)
        learner = MAML(network, ALPHA, first_order=first_order, device="cpu")
        numbers = updated(learner, TWO)
        loss, dw, _ = by_hand(first_order)
        assert float(numbers["loss"].detach()) == pytest.approx(loss, rel=1e-12)
        assert network.w.grad is not None
        assert float(network.w.grad) == pytest.approx(dw, rel=1e-12)
        assert by_hand(True)[1] != by_hand(False)[1]

    def test_meta_sgd_learns_step_sizes_by_their_gradient(self) -> None:
        learner = MAML(Linear1(W), ALPHA, learn_lr=True, device="cpu")
        updated(learner, TWO)
        (size,) = learner.module["step_sizes"].parameters()
        assert float(size.grad) == pytest.approx(by_hand(False)[2], rel=1e-12)
        trained = MAML(mlp(3), 0.1, learn_lr=True, seed=0, device="cpu").learn(blob_split(), 3)
        sizes = torch.cat([p.flatten() for p in trained.module["step_sizes"].parameters()])
        assert len(sizes.unique()) > 10  # one for every parameter
        assert len(sizes) == sum(p.numel() for p in trained.network.parameters())

    def test_the_meta_gradient_is_that_of_finite_differences(self) -> None:
        """Three inner steps of a network with a hidden layer, in double precision."""
        network = mlp(3, hidden=3).double()
        learner = MAML(network, 0.3, num_steps=3, device="cpu")
        tasks = blob_split().train.sample_tasks(2, np.random.default_rng(0))
        batch = tasks._replace(support_x=tasks.support_x.double(), query_x=tasks.query_x.double())
        updated(learner, batch)
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                flat, gradient = parameter.view(-1), parameter.grad.view(-1)
                for i in range(0, len(flat), 3):
                    losses = []
                    for shift in (1e-6, -2e-6):
                        flat[i] += shift
                        with torch.enable_grad():
                            learner.optimizer = None
                            losses.append(query_loss(learner, batch))
                    flat[i] += 1e-6
                    slope = (losses[0] - losses[1]) / 2e-6
                    assert float(gradient[i]) == pytest.approx(slope, abs=1e-7)

    def test_adaptation_is_gradient_descent_for_each_task(self) -> None:
        network = mlp(3)
        learner = MAML(network, 0.5, num_steps=2, device="cpu")
        batch = blob_split().train.sample_tasks(3, np.random.default_rng(0))
        before = copy.deepcopy(network.state_dict())
        state = learner.adapt(batch.support)
        for task in range(3):
            alone = copy.deepcopy(network)
            optimizer = torch.optim.SGD(alone.parameters(), lr=0.5)
            for _ in range(2):
                optimizer.zero_grad()
                loss = task_loss(alone(batch.support_x[task]), batch.support_y[task])
                loss.backward()
                optimizer.step()
            for name, value in alone.named_parameters():
                assert torch.allclose(state[name][task], value, atol=1e-6)
            outputs = learner.scores(batch.query_x, state)[task]
            assert torch.allclose(outputs, alone(batch.query_x[task]), atol=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_adaptation_goes_on_from_a_state(self) -> None:
        learner = MAML(mlp(3), 0.5, eval_steps=3, device="cpu")
        support = blob_split().train.sample_tasks(2, np.random.default_rng(0)).support
        all_at_once = learner.adapt(support)
        points = dict(learner.adaptation_points(support))
        state = learner.adapt(support, learner.adapt(support, num_steps=2), num_steps=1)
        assert list(points) == [1, 2, 3]
        for name, value in all_at_once.items():
            assert torch.allclose(value, state[name])
            assert torch.allclose(value, points[3][name])

    def test_anil_adapts_the_head_only_and_learns_all(self) -> None:
        learner = MAML(mlp(3), 0.5, anil=True, seed=0, device="cpu")
        first = {name: value.detach().clone() for name, value in learner.params.items()}
        state = learner.adapt(blob_split().train.sample_tasks(2, np.random.default_rng(0)).support)
        changed = {name for name, value in state.items() if not torch.equal(value[0], first[name])}
        assert changed == {"head.weight", "head.bias"}
        learner.learn(blob_split(), 2)
        assert not any(torch.equal(value, first[name]) for name, value in learner.params.items())
        with pytest.raises(ValueError, match="no parameters in a module named 'head'"):
            MAML(Linear1(1.0), 0.1, anil=True, device="cpu")

    @pytest.mark.parametrize("zero_head", [False, True])
    def test_anil_computes_the_features_once_with_the_same_result(self, zero_head: bool) -> None:
        """As with a network that could be anything, whose body every step computes anew."""
        batch = blob_split().train.sample_tasks(4, np.random.default_rng(0))
        found = []
        for known in (True, False):
            learner = MAML(mlp(3), 0.5, num_steps=3, anil=True, zero_head=zero_head, device="cpu")
            assert learner.head_only
            learner.head_only = known
            updated(learner, batch)
            gradients = [p.grad for p in learner.network.parameters() if bool(p.grad.any())]
            assert len(gradients) == (2 if zero_head else 4)  # an empty head is not learned
            found.append((gradients, learner.adapt(batch.support)))
        for one, other in zip(*(gradients for gradients, _ in found), strict=True):
            assert float(one.abs().max()) > 1e-3
            assert torch.allclose(one, other, atol=1e-6)
        for name, value in found[0][1].items():
            assert torch.allclose(value, found[1][1][name], atol=1e-6)

    def test_an_empty_head_by_hand(self) -> None:
        """A step: ``w_c = -α Σ_i (p_i - [y_i = c]) x_i``, for classes of one example each."""
        network = mlp(3, hidden=4).double()
        learner = MAML(network, 0.7, anil=True, zero_head=True, device="cpu")
        x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)).double()
        y = torch.tensor([[2, 0, 4, 1, 3]])  # five classes, of a network of three
        state = learner.adapt((x, y))
        features = network.body(x[0]).detach()
        expected = torch.zeros(5, 4).double()
        for i, label in enumerate(y[0].tolist()):
            for c in range(5):
                expected[c] -= 0.7 * (1 / 5 - (label == c)) * features[i]
        assert state["head.weight"].shape == (1, 5, 4)
        assert torch.allclose(state["head.weight"][0], expected, rtol=0, atol=1e-12)

    def test_with_an_empty_head_the_numbers_of_the_classes_mean_nothing(self) -> None:
        tasks = blob_split(train={"ways": 8, "shots": None, "queries": None})
        learner = MAML(mlp(3), 0.5, num_steps=2, zero_head=True, seed=0, device="cpu")
        learner.learn(tasks, 3)  # eight classes, of a network of three
        batch = tasks.test.sample_tasks(6, np.random.default_rng(0))
        turned = torch.tensor([2, 0, 1])
        outputs = learner.scores(batch.query_x, learner.adapt(batch.support))
        support = (batch.support_x, turned[batch.support_y])
        others = learner.scores(batch.query_x, learner.adapt(support))
        assert torch.allclose(outputs, others[..., turned], atol=1e-5)
        assert (learner.scores(batch.query_x) == learner.scores(batch.query_x)[..., :1]).all()
        plain = MAML(mlp(3), 0.5, num_steps=2, seed=0, device="cpu")
        outputs = plain.scores(batch.query_x, plain.adapt(batch.support))
        others = plain.scores(batch.query_x, plain.adapt(support))
        assert not torch.allclose(outputs, others[..., turned], atol=1e-2)

    @pytest.mark.learning
    @pytest.mark.parametrize("anil", [False, True])
    def test_with_an_empty_head_more_training_classes_help(
        self, anil: bool, tmp_path: Path, seed: int, learned: Learned
    ) -> None:
        tasks = blob_split(train={"ways": 8, "shots": None, "queries": None})
        settings = {"zero_head": True, "anil": anil, "meta_lr": 1e-2, "seed": seed, "device": "cpu"}
        learner = MAML(mlp(3, hidden=32, seed=seed), 0.1, **settings)
        test = tasks.test.sample_tasks(100, np.random.default_rng(0))

        def right(learner: MAML) -> float:
            state = learner.adapt(test.support)
            return float((learner.predict(test.query_x, state) == test.query_y).float().mean())

        before = right(learner)
        learner.learn(tasks, 80)
        learned("gain of accuracy", right(learner) - before, at_least=0.1)
        learner.save(tmp_path / "maml.zip")
        again = MAML.load(tmp_path / "maml.zip", network=mlp(3, hidden=32), device="cpu")
        assert right(again) == right(learner)

    def test_an_empty_head_is_of_a_linear_classifier(self) -> None:
        for network, settings in (
            (mlp(None), {}),
            (Linear1(1.0), {}),
            (mlp(3), {"learn_lr": True}),
        ):
            with pytest.raises(ValueError, match="zero_head=True needs a classifier with a linear"):
                MAML(network, 0.1, zero_head=True, device="cpu", **settings)

    @pytest.mark.learning
    @pytest.mark.parametrize(
        "settings", [{}, {"first_order": True}, {"anil": True}], ids=["maml", "first-order", "anil"]
    )
    def test_it_learns_to_learn(
        self, settings: dict[str, Any], seed: int, learned: Learned
    ) -> None:
        tasks = blob_split()
        network = mlp(3, hidden=32, seed=seed)
        learner = MAML(network, 0.1, meta_lr=1e-2, seed=seed, device="cpu", **settings)
        learner.learn(tasks, 240)
        test = tasks.test.sample_tasks(100, np.random.default_rng(0))
        state = learner.adapt(test.support, num_steps=1)
        right = learner.predict(test.query_x, state) == test.query_y
        learned("accuracy after one step", right.float().mean(), at_least=0.54)

    def test_the_chunk_size_does_not_matter_to_the_result(self) -> None:
        batch = blob_split().train.sample_tasks(5, np.random.default_rng(0))
        gradients = []
        for chunk_size in (1, 2, None):
            learner = MAML(mlp(3), 0.5, chunk_size=chunk_size, device="cpu")
            learner.chunk_size = chunk_size
            updated(learner, batch)
            gradients.append([parameter.grad for parameter in learner.network.parameters()])
        for other in gradients[1:]:
            assert all(
                torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients[0], other, strict=True)
            )

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"num_steps": 2, "chunk_size": 3},  # of eight tasks: the last chunk has two
            {"learn_lr": True},
            {"anil": True, "first_order": True},
            {"zero_head": True},
        ],
    )
    def test_compiled_updates_are_the_same(
        self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled = only_traced(monkeypatch)
        learned, reports = [], []
        for options in ({}, {"compile": True}):
            learner = MAML(
                mlp(3), 0.3, meta_batch_size=8, meta_lr=0.01, seed=0, device="cpu", **settings
            )
            tasks = blob_split()
            learner.learn(tasks, 3, **options)
            learner.learn(tasks, 2, reset_num_iterations=False, **options)
            batch = tasks.train.sample_tasks(8, np.random.default_rng(0))
            reports.append({name: float(value) for name, value in learner.update(batch).items()})
            learned.append(learner.module.state_dict())
        assert len(compiled) == 1
        assert reports[1] == pytest.approx(reports[0], abs=1e-4)
        first = mlp(3).state_dict()
        for name, value in learned[0].items():
            assert torch.allclose(value, learned[1][name], atol=1e-4), name
            before = first.get(name.removeprefix("network."), torch.tensor(0.3))  # a step size
            unused = learner.zero_head and "head." in name
            assert torch.allclose(value, before, atol=1e-3) is unused, name

    def test_convolutions_on_a_cpu_run_task_by_task(self) -> None:
        assert MAML(conv4(5, hidden=2), 0.1, device="cpu").chunk_size == 1
        assert MAML(mlp(5), 0.1, device="cpu").chunk_size is None

    def test_running_statistics_are_refused(self) -> None:
        with pytest.raises(ValueError, match="norm='task'"):
            MAML(conv4(5, hidden=2, norm="running"), 0.1, device="cpu")

    @pytest.mark.parametrize("algorithm", [MAML, Reptile, FromScratch])
    def test_labels_beyond_the_outputs_of_a_network_of_ones_own(self, algorithm: type[Any]) -> None:
        """It does not tell its number of classes, but its outputs do."""
        network = nn.Sequential(nn.Linear(4, 3))
        learner = algorithm(network, 0.1, device="cpu")
        x, y = torch.zeros(2, 4, 4), torch.tensor([[0, 1, 2, 2], [0, 1, 2, 3]])
        with pytest.raises(ValueError, match="labels have to be 0 to 2, got 0 to 3"):
            learner.adapt((x, y))
        assert learner.adapt((x, y.clamp(max=2))) is not None
        if algorithm is not FromScratch:  # which does not learn
            with pytest.raises(ValueError, match="labels have to be 0 to 2, got 0 to 4"):
                algorithm(network, 0.1, device="cpu").learn(blob_split(ways=5).train, 1)

    @pytest.mark.parametrize("lr", [0.0, -1.0, "fast", True])
    def test_step_sizes_are_positive(self, lr: Any) -> None:
        with pytest.raises(ValueError, match="lr has to be"):
            MAML(mlp(3), lr, device="cpu")


def query_loss(learner: MAML, batch: FewShotTasks) -> float:
    """Mean query loss after the inner steps, by a plain loop over tasks."""
    total = 0.0
    for task in range(batch.num_tasks):
        network = copy.deepcopy(learner.network)
        optimizer = torch.optim.SGD(network.parameters(), lr=learner.lr)
        for _ in range(learner.num_steps):
            optimizer.zero_grad()
            task_loss(network(batch.support_x[task]), batch.support_y[task]).backward()
            optimizer.step()
        total += float(task_loss(network(batch.query_x[task]), batch.query_y[task]).detach())
    return total / batch.num_tasks


def small_conv4() -> nn.Module:
    """In float64: rounding alone is a gradient for Adam, of biases before a normalisation."""
    generator = torch.Generator().manual_seed(0)
    return conv4(
        ways=3, size=16, hidden=4, pool="stride", flatten=True, generator=generator
    ).double()


def image_split() -> FewShotSplit:
    """A class is a picture, an example the picture and noise."""
    rng = np.random.default_rng(0)
    pictures = rng.random((6, 1, 1, 16, 16)) + 0.3 * rng.random((6, 4, 1, 16, 16))
    pool = ClassPool(torch.from_numpy(pictures).flatten(0, 1), [4] * 6)
    pools = dict.fromkeys(("train", "validation", "test"), pool)
    return class_split(pools, ways=3, shots=2, queries=1, name="Pictures")


class TestReptile:
    def test_an_update_by_hand(self) -> None:
        """With β₁ = 0 and fresh running squares, Adam's first step is ``lr`` times the sign."""
        network = Linear1(W)
        learner = Reptile(network, 0.01, num_steps=1, meta_lr=0.25, meta_batch_size=2, device="cpu")
        learner.total_iterations = 1
        learner.update(TWO)
        # gradients 2 x (w x - y): -2.6 and 9.6, so w' = w + 0.01 and w - 0.01, whose mean is w
        assert network.w.item() == pytest.approx(W, abs=1e-9)
        squares = 0.001 * (2.6**2 + 9.6**2) / 2
        assert float(learner.moments["w"]) == pytest.approx(squares)
        # now one task: its gradient, over the root of the running square of two steps
        gradient = 2 * (W - 2.0)
        square = (0.999 * squares + 0.001 * gradient**2) / (1 - 0.999**2)
        learned = W - 0.01 * gradient / (square**0.5 + 1e-8)
        learner.update(line_tasks((1.0, 2.0, 0.0, 0.0)))
        assert network.w.item() == pytest.approx(W + 0.25 * (learned - W), rel=1e-9)
        assert learner.moment_steps == 2

    def test_inner_steps_are_those_of_adam(self) -> None:
        network = mlp(3)
        learner = Reptile(network, 0.01, eval_steps=4, eval_batch_size=3, device="cpu")
        batch = blob_split().train.sample_tasks(2, np.random.default_rng(0))
        state = learner.adapt(batch.support)
        for task in range(2):
            alone = copy.deepcopy(network)
            optimizer = torch.optim.Adam(alone.parameters(), lr=0.01, betas=(0.0, 0.999))
            for _ in range(4):  # the minibatch is the support set
                optimizer.zero_grad()
                task_loss(alone(batch.support_x[task]), batch.support_y[task]).backward()
                optimizer.step()
            for name, value in alone.named_parameters():
                assert torch.allclose(state.params[name][task], value, atol=1e-5)

    @pytest.mark.parametrize("written_out", [False, True])
    def test_compiled_updates_are_the_same(
        self, written_out: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Traced as one graph (here without its back end), for all tasks at once."""
        compiled = only_traced(monkeypatch)
        tasks = image_split() if written_out else blob_split()
        learned = []
        for options in ({}, {"compile": True}):
            network = small_conv4() if written_out else mlp(3)
            learner = Reptile(network, num_steps=2, chunk_size=2, seed=0, device="cpu")
            assert (learner._strided_conv4 is not None) is written_out
            learner.learn(tasks, 4, **options)
            learner.learn(tasks, 2, reset_num_iterations=False, **options)
            assert not learner.compiling
            learned.append([learner.params, learner.moments])
        assert len(compiled) == 1
        for plain, fused in zip(*learned, strict=True):
            for name, value in plain.items():
                assert torch.allclose(value, fused[name], atol=1e-5), name
        with pytest.raises(ValueError, match="compile is not for FineTune, whose updates vary"):
            FineTune(mlp(3), device="cpu").learn(blob_split(), 1, compile=True)
        with pytest.raises(ValueError, match="cuda_graph and compile exclude"):
            learner.learn(tasks, 1, compile=True, cuda_graph=True)

    def test_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(function: Any, **settings: Any) -> Any:
            raise RuntimeError("No working C++ compiler\nand more")

        monkeypatch.setattr(torch, "compile", failing)
        learner = Reptile(mlp(3), device="cpu")
        with pytest.raises(ValueError, match=r"a C\+\+ compiler, .* No working C\+\+ compiler\)"):
            learner.learn(blob_split(), 1, compile=True)
        assert learner.num_iterations == 0

    def test_minibatches_go_through_the_support_set_pass_by_pass(self) -> None:
        chosen = torch.from_numpy(shuffled_passes(4, 6, 6, 4, np.random.default_rng(0)))
        assert chosen.shape == (4, 6, 4)
        passes = chosen.reshape(4, 4, 6)  # 24 examples are four passes
        assert (passes.sort(dim=-1)[0] == torch.arange(6)).all()
        assert len(passes.reshape(-1, 6).unique(dim=0)) > 8

    def test_plain_predictions_do_not_look_at_other_queries(self) -> None:
        network = FewShotNetwork(
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU()),
            8,
            3,
            ways=3,
            input_shape=(4,),
            recipe=None,
            generator=torch.Generator().manual_seed(0),
        )
        batch = blob_split().test.sample_tasks(2, np.random.default_rng(0))
        for transductive in (False, True):
            learner = Reptile(network, eval_steps=2, transductive=transductive, device="cpu")
            state = learner.adapt(batch.support)
            together = learner.scores(batch.query_x, state)
            alone = learner.scores(batch.query_x[:, :2], state)
            assert torch.allclose(together[:, :2], alone, atol=1e-5) is not transductive

    @pytest.mark.learning
    def test_it_learns_to_learn(self, seed: int, learned: Learned) -> None:
        tasks = Sinusoid(shots=10, num_test=50)
        network = mlp(None, dim=1, hidden=32, seed=seed)
        network.head = nn.Linear(32, 1)
        draw_weights(network.head, torch.Generator().manual_seed(seed))
        learner = Reptile(network, 0.02, eval_steps=20, meta_batch_size=10, seed=seed, device="cpu")
        test = tasks.test.sample_tasks(50, np.random.default_rng(0))

        def error() -> float:
            predicted = learner.predict(test.query_x, learner.adapt(test.support))
            return float((predicted - test.query_y).square().mean())

        before = error()
        learner.learn(tasks, 60)
        learned("error, as a part of that before", error() / before, at_most=0.8)


class TestBaselines:
    def test_fine_tuning_starts_from_an_empty_head_and_the_learned_body(self) -> None:
        tasks = blob_split()
        learner = FineTune(mlp(3), 0.5, eval_steps=5, seed=0, device="cpu").learn(tasks, 50)
        assert learner.module["classes"].out_features == 12
        first = mlp(3).body.state_dict()
        for name, value in learner.network.body.state_dict().items():
            assert not torch.equal(value, first[name])
        batch = tasks.test.sample_tasks(20, np.random.default_rng(0))
        assert (learner.scores(batch.query_x) == 0).all()
        state = learner.adapt(batch.support)
        body = [name for name in state if name.startswith("body")]
        assert body
        assert all(torch.equal(state[name][0], learner.params[name]) for name in body)
        before = task_loss(learner.scores(batch.support_x), batch.support_y)
        after = task_loss(learner.scores(batch.support_x, state), batch.support_y)
        assert after < before
        steps = {"lr": dict.fromkeys(["head.weight", "head.bias"], 0.5), "num_steps": 5}
        start = learner.initial_state(20)
        expected = adapt_tasks(learner.loss, start, batch.support, stacked=True, **steps)
        assert torch.allclose(state["head.weight"], expected["head.weight"], atol=1e-5)
        assert torch.allclose(state["head.bias"], expected["head.bias"], atol=1e-5)
        whole = FineTune(mlp(3), 0.5, body=True, device="cpu").learn(tasks, 1)
        state = whole.adapt(batch.support)
        assert not any(torch.equal(state[name][0], whole.params[name]) for name in body)

    def test_pre_training_of_regression_fits_all_tasks_at_once(self) -> None:
        """The best prediction without knowing the task is the mean of all sine waves."""
        network = sinusoid_mlp(hidden=(8,), generator=torch.Generator().manual_seed(0))
        learner = FineTune(network, 0.01, eval_steps=2, seed=0, meta_lr=1e-2, device="cpu")
        learner.learn(Sinusoid(num_test=5), 5)
        batch = Sinusoid(num_test=5).test.sample_tasks(5, np.random.default_rng(0))
        assert learner.adapt(batch.support)["head.weight"].shape == (5, 1, 8)

    def test_pre_training_needs_classes(self) -> None:
        frozen = Sinusoid(num_test=5).test
        with pytest.raises(ValueError, match="pre-training needs tasks made of classes"):
            FineTune(mlp(3), device="cpu").learn(frozen, 1)

    def test_fine_tuning_needs_a_body(self) -> None:
        network = mlp(3)
        del network.body
        with pytest.raises(ValueError, match="a classifier with modules 'body' and 'head'"):
            FineTune(network, device="cpu")

    def test_from_scratch_there_is_nothing_to_learn_before(self) -> None:
        learner = FromScratch(mlp(3), 0.5, eval_steps=20, device="cpu")
        before = copy.deepcopy(learner.network.state_dict())
        learner.learn(blob_split(), 100)
        assert all(
            torch.equal(value, before[name]) for name, value in learner.network.state_dict().items()
        )
        batch = blob_split().test.sample_tasks(20, np.random.default_rng(0))
        state = learner.adapt(batch.support)
        for task in range(batch.num_tasks):
            alone = copy.deepcopy(learner.network)
            optimizer = torch.optim.SGD(alone.parameters(), lr=0.5)
            for _ in range(20):
                optimizer.zero_grad()
                task_loss(alone(batch.support_x[task]), batch.support_y[task]).backward()
                optimizer.step()
            for name, value in alone.named_parameters():
                assert torch.allclose(state[name][task], value, atol=1e-4)
