"""Writing the histories of a learner to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count, check_flag, check_has, plain
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.histories.data_set import (
    ABOUT,
    FORMAT,
    Histories,
    checksum,
    create,
    one_writer,
    open_arrays,
    read_about,
    write_about,
    write_batch,
)
from meta_rl.histories.encoding import History
from meta_rl.histories.history import optimal_actions, play_history
from meta_rl.make import find_env_id, make_task_vec
from meta_rl.tasks import Tasks, as_tasks, count_tasks, take_tasks
from meta_rl.vector.task_batch import task_batch


def collect_histories(
    learner: Any,
    env: str,
    folder: str | Path,
    *,
    tasks: Tasks | None = None,
    num_histories: int | None = None,
    num_episodes: int | None = None,
    expert: Any = None,
    batch_size: int = 256,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    progress_bar: bool = False,
) -> Histories:
    """Runs a learner on many tasks and writes its histories to a folder.

    The learner begins anew on each task, and learns over all episodes of its history. What a batch
    holds depends only on the learner, the seed and the batch's number. A collection that was killed
    thus goes on from its last whole batch, and gives the same files.

    Args:
        learner: Learner with ``predict`` and, if it learns by it, ``adapt``: one of the classical
            learners, an agent, or your own. Its attribute ``rng`` or ``generator`` is seeded.
        env: Environment id.
        folder: Folder of the data set.
        tasks: Tasks, one for each history (default: draws from the training tasks).
        num_histories: Number of histories (default: one for each task).
        num_episodes: Number of whole episodes in a history, of ``horizon`` steps each (default: a
            trial of the environment).
        expert: Oracle or learner whose action labels each step (default: no labels).
        batch_size: Number of histories at a time.
        seed: Seed of tasks, environments and learner.
        env_kwargs: Arguments of the environment (default: none).
        progress_bar: Whether a progress bar is shown (default: False).

    Returns:
        The data set.

    Raises:
        ValueError: Neither tasks nor a number of histories is given, they do not fit together, or
            the folder holds another data set.
    """
    check_has("learner", learner, ["predict"], "a learner")
    if expert is not None:
        check_has("expert", expert, ["predict"], "an oracle or a learner")
    check_flag("progress_bar", progress_bar)
    check_count("seed", seed, least=0)
    env_id = find_env_id(env)
    kwargs: dict[str, Any] = plain(dict(env_kwargs or {}))
    batch_env = make_task_vec(env_id, check_count("batch_size", batch_size), **kwargs)
    base = task_batch(batch_env)
    if tasks is not None:
        tasks = as_tasks(base.task_split.space, tasks)
    num = _number_of(tasks, num_histories)
    episodes = check_count(
        "num_episodes", base.episodes_per_trial if num_episodes is None else num_episodes
    )
    about = {
        "format": FORMAT,
        "env": env_id,
        "env_kwargs": kwargs,
        "learner": type(learner).__name__,
        "expert": None if expert is None else type(expert).__name__,
        "own_tasks": tasks is not None,
        "seed": seed,
        "batch_size": batch_size,
        "num_histories": num,
        "num_steps": episodes * base.horizon,
    }
    folder = Path(folder)
    writer = _Writer(learner, expert, batch_env, tasks, about)
    try:
        with one_writer(folder):
            writer.write(folder, progress_bar)
    finally:
        batch_env.close()
    return Histories(folder, verify=False)


def _number_of(tasks: Tasks | None, num_histories: int | None) -> int:
    if tasks is None and num_histories is None:
        raise ValueError("give tasks, or num_histories to draw as many training tasks")
    given = None if tasks is None else count_tasks(tasks)
    num = check_count("num_histories", given if num_histories is None else num_histories)
    if given is not None and given != num:
        raise ValueError(f"{given} tasks, but num_histories={num}: each history has a task")
    return num


class _Writer:
    """The collection of one data set."""

    def __init__(
        self, learner: Any, expert: Any, env: VectorEnv, tasks: Tasks | None, about: dict[str, Any]
    ) -> None:
        self.learner, self.expert, self.env, self.tasks = learner, expert, env, tasks
        self.about = about

    def write(self, folder: Path, progress_bar: bool) -> None:
        """Writes the batches that are missing, and the checksums at the end."""
        done = self._done_before(folder)
        num, size = self.about["num_histories"], self.about["batch_size"]
        bar = None
        if progress_bar:
            from tqdm import tqdm

            bar = tqdm(total=num, initial=done, unit="histories")
        while done < num:
            history = self._batch(done // size)
            if done == 0:
                create(folder, self.about | {"done": 0, "sha256": {}}, history)
            about = read_about(folder)
            write_batch(open_arrays(folder, about, "r+"), done, history)
            grown = len(history.rewards[0])
            done += grown
            write_about(folder, about | {"done": done})
            if bar is not None:
                bar.update(grown)
        if bar is not None:
            bar.close()
        about = read_about(folder)
        if not about["sha256"]:
            sums = {f"{name}.npy": checksum(folder / f"{name}.npy") for name in about["arrays"]}
            write_about(folder, about | {"sha256": sums})

    def _done_before(self, folder: Path) -> int:
        """Returns the number of histories that an earlier call wrote."""
        if not (folder / ABOUT).exists():
            return 0
        before = read_about(folder)
        other = sorted(name for name, value in self.about.items() if before.get(name) != value)
        if other:
            raise ValueError(
                f"{folder} holds another data set: {', '.join(other)} differ. Choose another folder"
            )
        return int(before["done"])

    def _batch(self, number: int) -> History:
        """Plays the batch of this number; the last batch may be smaller."""
        size = self.about["batch_size"]
        here = min(size, self.about["num_histories"] - number * size)
        stream = np.random.SeedSequence(self.about["seed"], spawn_key=(number,))
        own, drawn, resets = stream.spawn(3)
        base = task_batch(self.env)
        if self.tasks is None:
            tasks = base.task_split.train.sample_tasks(size, np.random.default_rng(drawn))
        else:
            places = number * size + np.arange(size)
            tasks = take_tasks(self.tasks, np.minimum(places, count_tasks(self.tasks) - 1))
        base.set_tasks(tasks)
        randomness = LearnerRandomness(self.learner)
        with randomness.kept():
            randomness.seed(own)
            seed = int(resets.generate_state(1)[0] >> 1)
            history = play_history(self.learner, self.env, self.about["num_steps"], seed=seed)
        if self.expert is not None:
            labels = optimal_actions(self.expert, history, self.env)
            history = history._replace(labels=labels)
        return _first(history, here)


def _first(history: History, num: int) -> History:
    """Returns the first histories of a batch."""
    rest: dict[str, Any] = {
        name: None if part is None else _columns(part, num)
        for name, part in history._asdict().items()
        if name != "tasks"
    }
    return History(take_tasks(history.tasks, slice(num)), **rest)


def _columns(part: Any, num: int) -> Any:
    if isinstance(part, dict):
        return {name: _columns(value, num) for name, value in part.items()}
    return part[:, :num]
