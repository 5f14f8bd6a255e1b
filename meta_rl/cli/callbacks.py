"""Callbacks of a training: they act between two iterations."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from meta_rl.algorithms import RunTasks
from meta_rl.cli.interruption import Interruption
from meta_rl.cli.preparation import open_tasks
from meta_rl.cli.progress import LINE_SECONDS
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.cli.trainable import trainable, with_members
from meta_rl.compute import ranks
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.files.checksums import checked_json
from meta_rl.provenance import write_atomically


def steps_of(learner: Any) -> int:
    """Returns the length of the training so far, of agents and of few-shot learners."""
    if isinstance(learner, FewShotLearner):
        return learner.num_iterations
    # An agent that a user has made may lack the members of a TrainableAlgorithm.
    done = learner.steps_done if hasattr(learner, "steps_done") else learner.num_timesteps
    return int(done)


class BetweenIterations(BaseCallback):
    """Base class of callbacks that agents and few-shot learners call between iterations.

    An agent is the callback's ``model``. A few-shot learner calls it with itself as the argument.
    """

    @abstractmethod
    def __call__(self, learner: Any) -> bool | None:
        """Is called after an iteration of a few-shot learner; ``False`` ends the training."""

    def _on_step(self) -> bool:
        return True


class Checkpoints(BetweenIterations):
    """Callback that saves the learner between iterations, on rank 0 alone.

    Args:
        path: Path of the checkpoint, which is replaced atomically.
        interval: Time between two checkpoints, in seconds (default: 30); 0 saves at every
            iteration.
        interruption: Signals that end the training after a save (default: none).
    """

    def __init__(
        self, path: Path, interval: float = 30.0, interruption: Interruption | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self.interval = interval
        self.interruption = interruption or Interruption()
        self._saved = time.monotonic()
        self._stopping = False

    def __call__(self, learner: Any) -> bool:
        """Saves the learner if the interval is over; ``False`` ends the training.

        Raises:
            KeyboardInterrupt: The learner continued after ``False``.
        """
        if self._stopping:
            raise KeyboardInterrupt
        # A signal may reach the ranks in different iterations: all stop after the same one.
        self._stopping = self.interruption.requested = ranks.any_of(self.interruption.requested)
        if self._stopping or time.monotonic() - self._saved >= self.interval:
            if ranks.is_first():
                learner.save(self.path)
            self._saved = time.monotonic()
        return not self._stopping

    def _on_rollout_start(self) -> None:
        if not self(self.model):
            raise KeyboardInterrupt


class Validation(BetweenIterations):
    """Callback that evaluates the learner on validation tasks, and logs the scores.

    The points are counted by the learner's steps, so that a resumed run has the same ones.

    Args:
        config: Configuration of the run.
        num_tasks: Number of validation tasks (default: chosen by the learner).
        num_points: Number of evaluations, evenly over the run (default: chosen by the learner).
        tasks: Tasks of the run (default: those of the configuration).
        best: Run folder that keeps the learner with the best score (default: none is kept).
        told: Function that is called with the name of the score, the score and the steps (default:
            none).
    """

    def __init__(
        self,
        config: RunConfig,
        num_tasks: int | None = None,
        num_points: int | None = None,
        tasks: RunTasks | None = None,
        best: RunFolder | None = None,
        told: Callable[[str, float, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.best = best
        self.told = told
        self.tasks = open_tasks(config) if tasks is None else tasks
        if num_points is None:
            num_points = trainable(config.algorithm).validation_points
        self.every = max(1, config.total_timesteps // num_points)
        self._began = 0

    def __call__(self, learner: Any) -> None:
        """Evaluates the learner if a point of evaluation lies in its last iteration."""
        done = steps_of(learner)
        self._validate(learner, done - 1, done)

    def _on_rollout_start(self) -> None:
        self._began = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        self._validate(self.model, self._began, self.model.num_timesteps)

    def _validate(self, learner: Any, began: int, done: int) -> None:
        if done // self.every == began // self.every:
            return
        kind: Any = type(learner)
        members = with_members(kind)  # a learner that a user has made lacks them
        num_tasks = self.num_tasks
        if num_tasks is None:
            num_tasks = members.evaluation_size(learner, self.tasks, brief=True)
        with ranks.alone():
            result = evaluate_adaptation(
                learner, self.tasks.source, num_tasks, split="validation", **self.tasks.arguments
            )
        scores = members.validation_scores(learner, result)
        for name, score in scores.items():
            learner.logger.record(f"validation/{name}", score)
        name, score = next(iter(scores.items()))
        if self.best is not None:
            keep_best(self.best, learner, name, score, done)
        if self.told is not None:
            self.told(name, score, done)


def keep_best(folder: RunFolder, learner: Any, name: str, score: float, steps: int) -> None:
    """Saves the learner as the best one, if its score on validation tasks is.

    Args:
        folder: Run folder.
        learner: Learner that has the score.
        name: Name of the score; a ``"loss"`` is better where it is smaller.
        score: The score.
        steps: Length of the training so far.
    """
    known = folder.best_score()
    sign = -1.0 if name == "loss" else 1.0
    if known is not None and known["steps"] <= steps and sign * score <= sign * known["score"]:
        return
    learner.save(folder.best)
    content = {"measure": name, "score": score, "steps": steps}
    write_atomically(folder.best_file, checked_json(content))


class KeptCheckpoints(BetweenIterations):
    """Callback that keeps checkpoints, ``checkpoint-STEPS.zip``, at points of the training.

    The points are counted by the learner's steps, so that a resumed run has the same ones.

    Args:
        folder: Run folder.
        every: Number of steps between two checkpoints.
        steps: Number of steps before this part of the training (default: 0).
    """

    def __init__(self, folder: RunFolder, every: int, steps: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self._done = steps

    def __call__(self, learner: Any) -> None:
        """Saves the learner if a point lies in the steps since the last call."""
        done = steps_of(learner)
        if done // self.every > self._done // self.every:
            learner.save(self.folder.kept_checkpoint(done))
        self._done = done

    def _on_rollout_start(self) -> None:
        self(self.model)

    def _on_training_end(self) -> None:
        self(self.model)


class ProgressLines(BetweenIterations):
    """Callback that prints lines about the training, if there is no terminal for a bar.

    Args:
        length: Length of the training.
        unit: Unit of the length, such as ``"environment steps"``.
        seconds: Time between two lines, in seconds (default: 30).
    """

    def __init__(self, length: int, unit: str, seconds: float = LINE_SECONDS) -> None:
        super().__init__()
        self.length = length
        self.unit = unit
        self.seconds = seconds
        self._began: tuple[float, int] | None = None
        self._printed = time.monotonic()

    def __call__(self, learner: Any) -> None:
        """Prints a line if the time since the last one is over."""
        now, done = time.monotonic(), steps_of(learner)
        if self._began is None:
            self._began = (now, done)
        if now - self._printed < self.seconds:
            return
        self._printed = now
        rate = (done - self._began[1]) / max(1e-9, now - self._began[0])
        left = f", about {(self.length - done) / rate / 60:.0f} min left" if rate > 0 else ""
        share = done / max(1, self.length)
        print(f"{share:.0%}: {done:,} of {self.length:,} {self.unit}{left}", flush=True)

    def _on_rollout_start(self) -> None:
        self(self.model)
