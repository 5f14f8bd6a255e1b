"""Only finite parameters are saved: a divergence stops, and the file holds the last good state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.compute.cuda_graph import recorded_step
from meta_rl.compute.finite_state import broken_part, guarded_step
from meta_rl.few_shot import FewShotLearner

from .every_agent import AGENTS, FIRST, Signs, learned, make_agent
from .every_learner import CASES
from .every_learner import learned as learned_by_learner

LEARNERS = [name for name in CASES if name not in ("scratch", "nearest")]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


class StoppedError(Exception):
    """What a step that is not taken raises here."""


def stop(what: str, loss: torch.Tensor | None) -> NoReturn:
    raise StoppedError(what)


def two_parameters() -> tuple[list[nn.Parameter], torch.optim.SGD]:
    """Two numbers, 3 and 4, and gradient descent with a rate of 0.5."""
    parameters = [nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(4.0))]
    return parameters, torch.optim.SGD(parameters, lr=0.5)


class TestGuardedStep:
    @pytest.mark.parametrize(("max_norm", "scale"), [(None, 1.0), (10.0, 1.0), (1.0, 0.2)], ids=str)
    @pytest.mark.parametrize("given", [False, True])
    def test_a_step(self, given: bool, max_norm: float | None, scale: float) -> None:
        """Gradients of half the squares are 3 and 4, of norm 5; former gradients do not count."""
        parameters, optimizer = two_parameters()
        parameters[0].grad = torch.tensor(100.0)
        loss = sum(0.5 * part.square() for part in parameters)
        gradients = [torch.tensor(3.0), torch.tensor(4.0)] if given else None
        guarded_step(optimizer, loss, stop, gradients, max_norm)
        assert [part.item() for part in parameters] == pytest.approx(
            [3.0 - 0.5 * scale * 3.0, 4.0 - 0.5 * scale * 4.0], rel=1e-5
        )

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("what", ["loss", "gradient"])
    @pytest.mark.parametrize("max_norm", [None, 1.0])
    def test_no_step(self, what: str, value: float, max_norm: float | None) -> None:
        """Neither in a recording; the optimiser's state is that of no step, too."""
        for recorded in (False, True):
            parameters = two_parameters()[0]
            optimizer = torch.optim.Adam(parameters, lr=0.5, fused=True)
            loss = parameters[0] + parameters[1]
            loss = loss * value if what == "loss" else loss
            gradients = [torch.tensor(1.0), torch.tensor(value if what == "gradient" else 1.0)]
            if recorded:
                assert not recorded_step(optimizer, loss, gradients, max_norm)
            else:
                with pytest.raises(StoppedError, match=what):
                    guarded_step(optimizer, loss, stop, gradients, max_norm)
            assert [part.item() for part in parameters] == [3.0, 4.0]
            assert broken_part({"optimizer": optimizer}) is None

    def test_a_recorded_step_is_the_same(self) -> None:
        values = []
        for recorded in (False, True):
            parameters = two_parameters()[0]
            optimizer = torch.optim.Adam(parameters, lr=0.5, fused=True)
            loss = parameters[0] * parameters[1]
            if recorded:
                assert recorded_step(optimizer, loss, max_norm=1.0)
            else:
                guarded_step(optimizer, loss, stop, max_norm=1.0)
            values.append([part.item() for part in parameters])
        assert values[0] == values[1] != [3.0, 4.0]


class TestInputs:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("what", ["reward", "observation", "first"])
    @pytest.mark.parametrize("name", AGENTS)
    def test_what_is_not_finite_stops_the_training(
        self, name: str, what: str, value: float, tmp_path: Path
    ) -> None:
        """The error names iteration and task, and nothing is learned from it."""
        agent = make_agent(name).learn(FIRST)
        agent.save(tmp_path / "agent")
        before = learned(agent)
        agent.task_env.unwrapped.definition.broken = (what, value)
        named = "a reward" if what == "reward" else "an observation"
        pattern = rf"^{named} is not finite.* iteration 2.*|^{named} .* task \d.* iteration 2$"
        with pytest.raises(FloatingPointError, match=pattern) as caught:
            agent.learn(1, reset_num_timesteps=False)
        assert "task" in str(caught.value)
        assert equal(learned(agent), before)
        assert equal(learned(type(agent).load(tmp_path / "agent", device="cpu")), before)


class TestUpdates:
    @pytest.mark.parametrize("part", ["parameter", "optimiser"])
    @pytest.mark.parametrize("name", AGENTS)
    def test_agents(
        self, name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What breaks in an update is seen after it, and never saved."""
        if part == "optimiser" and name == "maml_trpo":
            pytest.skip("it has no optimiser")
        agent = make_agent(name).learn(FIRST)
        path = tmp_path / "agent.zip"
        agent.save(path)
        content, train = path.read_bytes(), type(agent).train

        def broken(self: Any) -> None:
            train(self)
            if part == "parameter":
                next(iter(self.policy.parameters())).data.view(-1)[-1] = math.nan
            else:
                states = self.policy.optimizer.state.values()
                next(iter(states))["exp_avg_sq"].view(-1)[-1] = math.inf

        monkeypatch.setattr(type(agent), "train", broken)
        with pytest.raises(FloatingPointError, match="after the update of iteration 2"):
            agent.learn(1, reset_num_timesteps=False)
        with pytest.raises(FloatingPointError, match="is not saved: "):
            agent.save(path)
        assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]

    @pytest.mark.parametrize("part", ["parameter", "optimiser"])
    @pytest.mark.parametrize("name", LEARNERS)
    def test_learners(
        self, name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same for few-shot learners; Reptile's moments are its optimiser's state."""
        learner, tasks = CASES[name].make(), CASES[name].tasks()
        learner.learn(tasks, 1)
        path = learner.save(tmp_path / "learner.zip")
        content, update = path.read_bytes(), type(learner).update

        def broken(self: FewShotLearner, batch: Any) -> Any:
            report = update(self, batch)
            if part == "parameter":
                next(self.module.parameters()).data.view(-1)[-1] = math.nan
                return report
            moments = learned_by_reference(self)
            if not moments:
                pytest.skip("its optimiser has no state")
            moments[-1].view(-1)[-1] = math.inf
            return report

        monkeypatch.setattr(type(learner), "update", broken)
        with pytest.raises(FloatingPointError, match=r"after the update of iteration 2 \(the loss"):
            learner.learn(tasks, 1, reset_num_iterations=False)
        with pytest.raises(FloatingPointError, match="is not saved: "):
            learner.save(path)
        assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["learner.zip"]
        loaded = learned_by_learner(learner_from(learner, path))
        assert all(bool(value.isfinite().all()) for value in loaded)

    def test_a_loss_in_training_names_its_iteration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """PEARL's loss is a task's: the task is named, and the iteration is the one it is in."""
        agent = make_agent("pearl").learn(FIRST)
        monkeypatch.setattr(
            agent, "_critic_loss", lambda *args: [part * math.nan for part in critic_loss(*args)]
        )
        critic_loss = agent.losses.critic_loss
        pattern = r"the loss is not finite in iteration 2, update 3, on training task \d"
        with pytest.raises(FloatingPointError, match=pattern):
            agent.learn(1, reset_num_timesteps=False)

    @pytest.mark.parametrize("discrete", [False, True])
    @pytest.mark.parametrize("name", [name for name in AGENTS if name != "maml_trpo"])
    def test_steps_that_are_too_long(self, name: str, discrete: bool) -> None:
        """They end with an error that names the iteration, and with no other error."""
        if discrete and ("sac" in name or name == "pearl"):
            pytest.skip("it takes continuous actions only")
        agent = make_agent(name, lambda: Signs(discrete), learning_rate=1e30)
        with pytest.raises(FloatingPointError, match=r"iteration [1-9]"):
            agent.learn(2_000)

    @pytest.mark.parametrize("name", ["rl2", "protonet"])
    def test_command_line(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 1, one line, and the last good state in the file."""
        rl = name == "rl2"
        tasks = "BernoulliBandit" if rl else "Sinusoid"
        rate = ["learning_rate=1e30", "meta_batch_size=8"] if rl else ["meta_lr=1e30"]
        out = tmp_path / "run"
        command = ["train", name if rl else "maml", tasks, "--param", *rate, "--out", str(out)]
        command += ["--total-timesteps", "640" if rl else "20", "--eval-tasks", "0", "--quiet"]
        assert main([*command, "--device", "cpu", "--checkpoint-interval", "0"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "iteration" in error
        assert "loss" in error
        if rl:
            agent = RL2.load(out / "checkpoint.zip", device="cpu")
            assert all(bool(value.isfinite().all()) for value in learned(agent))


def learned_by_reference(learner: FewShotLearner) -> list[torch.Tensor]:
    """The tensors of the optimiser's state themselves."""
    states = learner.optimizer.state.values() if learner.optimizer else []
    kept = [v for state in states for key, v in state.items() if key != "step"]
    kept = [value for value in kept if isinstance(value, torch.Tensor)]
    return [*learner.extra_state().get("moments", {}).values(), *kept]


def learner_from(learner: FewShotLearner, path: Path) -> FewShotLearner:
    parameters = type(learner).load.__func__  # type: ignore[attr-defined]
    takes = "network" in type(learner).__init__.__code__.co_varnames
    network = learner.network if takes else None
    return parameters(type(learner), path, network, "cpu")


class TestBrokenPart:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.cfloat])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_every_kind_of_number(self, dtype: torch.dtype, value: float) -> None:
        good, bad = torch.ones(3, dtype=dtype), torch.ones(2, 2, dtype=dtype)
        assert broken_part({"x": {"good": good, "bad": bad}}) is None
        bad[1, 0] = value
        assert broken_part({"x": {"good": good, "bad": bad}}) == "x.bad"

    def test_what_only_overflows_in_a_sum_is_fine(self) -> None:
        large = torch.full((9,), torch.finfo(torch.float32).max)
        assert broken_part({"x": {"large": large, "small": -large}}) is None

    def test_whole_numbers_and_nothing_are_fine(self) -> None:
        assert (
            broken_part({"x": {"count": torch.tensor(3), "none": torch.ones(0), "text": "a"}})
            is None
        )
        assert broken_part({}) is None

    @pytest.mark.parametrize(
        ("value", "fine"), [(-math.inf, True), (math.inf, False), (math.nan, False)]
    )
    def test_buffers_may_be_masks(self, value: float, fine: bool) -> None:
        """Attention masks hold negative infinity; running means that overflowed are refused."""
        network = nn.Linear(2, 2)
        network.register_buffer("mask", torch.tensor([0.0, value]))
        assert broken_part({"network": network}) == (None if fine else "network.mask")

    def test_optimizer(self) -> None:
        network = nn.Linear(2, 2)
        optimizer = torch.optim.Adam(network.parameters())
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert broken_part({"optimizer": optimizer}) is None
        optimizer.state[network.bias]["exp_avg"][1] = math.nan
        assert broken_part({"optimizer": optimizer}) == "exp_avg of optimizer"
