"""Memory-augmented neural network: it writes what it sees to the least recently used slots.

Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, "Meta-learning with memory-augmented neural
networks", ICML 2016 (arXiv:1605.06065). Equation numbers are those of the paper.

Shapes: M tasks, T images of an episode, N slots of width W, R heads, C units, L classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_count, check_has, check_number
from meta_rl.compute.device_work import FasterUpdates
from meta_rl.few_shot.learner import FewShotLearner, accuracy, task_loss
from meta_rl.few_shot.networks.feed_forward import first_weights
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.few_shot.training import TASKS_WANTED
from meta_rl.memory.ntm import cosines


class MANNState(NamedTuple):
    """The state that is carried from image to image.

    Attributes:
        memory: Slots of the memory, ``[M, N, W]``.
        reads: Rows that were read last, ``[M, R, W]``.
        weights: Weights over the slots of the last read, ``[M, R, N]``.
        usage: Decaying usage of the slots, ``[M, N]``.
        hidden: Hidden units of the controller, ``[M, C]``.
        cell: Cell of the controller, ``[M, C]``.
        label: Label of the last image, one-hot; zeros before the first image, ``[M, L]``.
    """

    memory: Tensor
    reads: Tensor
    weights: Tensor
    usage: Tensor
    hidden: Tensor
    cell: Tensor
    label: Tensor

    def repeat(self, times: int) -> MANNState:
        """Repeats the state of each task ``times`` times in a row, ``[M * times, ...]``."""
        return MANNState(*(part.repeat_interleave(times, dim=0) for part in self))


def least_used(usage: Tensor, num: int) -> Tensor:
    """Returns 1 at the ``num`` slots of the least usage, 0 elsewhere (equation 6).

    Slots with equal usage are taken in the order of their numbers, so that there are exactly
    ``num`` ones.

    Args:
        usage: Usage of the slots, ``[M, N]``.
        num: Number of slots: the number of heads.
    """
    order = usage.argsort(dim=-1, stable=True)[:, :num]
    return torch.zeros_like(usage).scatter(-1, order, 1.0)


def write_weights(reads: Tensor, least: Tensor, gates: Tensor) -> Tensor:
    """Returns the weights of the writing heads, ``σ(α) w^r + (1 - σ(α)) w^lu`` (equation 7).

    They lie between the slots that were read last and the least used slots.

    Args:
        reads: Reading weights of the step before, ``[M, R, N]``.
        least: Slots from :func:`least_used`, ``[M, N]``; each head gets one of them.
        gates: Gates σ(α) in [0, 1], ``[M, R]``.
    """
    return torch.lerp(_split_over_heads(least, reads.shape[1]), reads, gates[..., None])


def _split_over_heads(least: Tensor, heads: int) -> Tensor:
    """Returns the r-th of the least used slots for head r, one-hot, ``[M, R, N]``."""
    places = least.cumsum(dim=-1) * least  # 1 at the first of them, 2 at the second, ...
    return torch.stack([(places == head + 1).to(least.dtype) for head in range(heads)], dim=1)


def update_usage(usage: Tensor, reads: Tensor, writes: Tensor, decay: float) -> Tensor:
    """Returns the new usage, ``γ w^u + Σ w^r + Σ w^w`` with sums over the heads (equation 5).

    Args:
        usage: Usage of the step before, ``[M, N]``.
        reads: Reading weights, ``[M, R, N]``.
        writes: Writing weights, ``[M, R, N]``.
        decay: Decay γ in [0, 1].
    """
    return decay * usage + reads.sum(dim=1) + writes.sum(dim=1)


class MANNCell(nn.Module):
    """The network as a pure recurrent cell.

    In a step the controller sees the image, the label of the **previous** image and the rows that
    were read last. The least used slots are emptied, the heads write, and then they read by cosine.

    Args:
        ways: Number of classes, L.
        input_shape: Shape of an image, such as ``(1, 20, 20)``.
        slots: Number of slots of the memory, N.
        width: Width of a slot, W.
        heads: Number of heads, R; each reads and writes.
        hidden: Number of units of the controller, C.
        decay: Decay γ of the usage, in [0, 1].
    """

    def __init__(
        self,
        ways: int,
        input_shape: Sequence[int],
        *,
        slots: int,
        width: int,
        heads: int,
        hidden: int,
        decay: float,
    ) -> None:
        super().__init__()
        self.ways = ways = check_count("ways", ways, least=2)
        self.input_shape = tuple(check_count("input_shape", axis) for axis in input_shape)
        self.slots, self.width = check_count("slots", slots), check_count("width", width)
        self.heads, self.hidden = check_count("heads", heads), check_count("hidden", hidden)
        width, heads, hidden = self.width, self.heads, self.hidden
        if heads > slots:
            raise ValueError(f"heads={heads}: more than the {slots} slots they write to")
        self.decay = check_number("decay", decay, least=0.0, most=1.0)
        # An LSTM in two parts: the images of an episode are known in advance, the rest is carried.
        self.shown = nn.Linear(int(np.prod(self.input_shape)), 4 * hidden)
        self.carried = nn.Linear(ways + heads * width + hidden, 4 * hidden, bias=False)
        for weights in (*self.shown.parameters(), *self.carried.parameters()):
            nn.init.uniform_(weights, -(hidden**-0.5), hidden**-0.5)  # as in PyTorch's LSTM
        self.addressing = nn.Linear(hidden, heads * (2 * width + 2))
        self.head = nn.Linear(hidden + heads * width, ways)

    def initial_state(self, num: int) -> MANNState:
        """Returns the state with an empty memory, for ``num`` tasks."""
        new = self.head.weight.new_zeros
        return MANNState(
            memory=new(num, self.slots, self.width),
            reads=new(num, self.heads, self.width),
            weights=new(num, self.heads, self.slots),
            usage=new(num, self.slots),
            hidden=new(num, self.hidden),
            cell=new(num, self.hidden),
            label=new(num, self.ways),
        )

    def forward(self, images: Tensor, state: MANNState) -> tuple[Tensor, MANNState]:
        """Takes one step: maps images ``[M, ...]`` to logits ``[M, L]`` and the next state.

        The label in the state does not change; the caller sets the label that is shown next.
        """
        return self.step(self.shown(images.flatten(1)), state)

    def step(self, shown: Tensor, state: MANNState) -> tuple[Tensor, MANNState]:
        """Takes one step with images that went through ``self.shown``, ``[M, 4 C]``."""
        carried = torch.cat([state.label, state.reads.flatten(1), state.hidden], dim=1)
        enter, keep, candidates, show = (shown + self.carried(carried)).chunk(4, dim=1)
        cell = keep.sigmoid() * state.cell + enter.sigmoid() * candidates.tanh()
        hidden = show.sigmoid() * cell.tanh()
        given = self.addressing(hidden).view(len(hidden), self.heads, -1)
        keys, rows, scalars = given.split([self.width, self.width, 2], dim=-1)
        gates, strengths = scalars.unbind(dim=-1)
        least = least_used(state.usage, self.heads)
        writes = write_weights(state.weights, least, gates.sigmoid())
        memory = state.memory * (1 - least[..., None])  # slots are emptied before they are written
        memory = torch.baddbmm(memory, writes.transpose(1, 2), rows.tanh())
        sharpness = 1 + functional.softplus(strengths)
        weights = torch.softmax(sharpness[..., None] * cosines(memory, keys.tanh()), dim=-1)
        reads = weights @ memory
        logits = self.head(torch.cat([hidden, reads.flatten(1)], dim=1))
        usage = update_usage(state.usage, weights.detach(), writes.detach(), self.decay)
        return logits, MANNState(memory, reads, weights, usage, hidden, cell, state.label)


class MANN(FasterUpdates, FewShotLearner):
    """Memory-augmented network that learns to bind images to labels that come one step late.

    An episode shows all images of a task, support and query, in random order. At each step the
    network sees an image and the label of the previous image, and predicts the label of this one.
    The paper's episodes of 5 classes with 10 images each are ``shots=1, queries=9``.

    :meth:`adapt` writes the support images. Each query is then answered on its own, from the state
    after them.

    There are two deviations from the paper. Written rows are separate from the keys, where the
    paper has one vector, so that reading does not just find what was written in the same step. A
    head's cosines are multiplied by a learned strength, as in the Neural Turing Machine.

    Args:
        ways: Number of classes in a task, L.
        input_shape: Shape of an image; the paper has 20 × 20 pixels.
        slots: Number of slots of the memory, N.
        width: Width of a slot, W.
        heads: Number of heads, R; each reads and writes.
        hidden: Number of units of the LSTM controller, C.
        decay: Decay γ of the usage, in [0, 1].
        max_grad_norm: Maximum norm of the gradient; longer gradients are scaled to it.
        meta_batch_size: Number of episodes in an update.
        seed: Seed of all draws and of the first weights (default: from the system's entropy).
        **settings: Further arguments of :class:`.FewShotLearner`.

    Raises:
        ValueError: A count is below one, there are more heads than slots, or the decay lies outside
            [0, 1].
    """

    unit = "shot"
    state_kind = MANNState

    def __init__(
        self,
        ways: int,
        *,
        input_shape: Sequence[int] = (1, 20, 20),
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        hidden: int = 200,
        decay: float = 0.99,
        max_grad_norm: float = 10.0,
        meta_batch_size: int = 16,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        sizes = {"slots": slots, "width": width, "heads": heads, "hidden": hidden}
        with first_weights(seed):
            network = MANNCell(ways, input_shape, **sizes, decay=decay)
        super().__init__(network, meta_batch_size=meta_batch_size, seed=seed, **settings)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, above=0.0)

    def adapt(self, support: Any, state: MANNState | None = None) -> MANNState:
        """Shows the support images one after the other, each with the previous image's label.

        The last label is shown with the next image.
        """
        x, y = self.check_support(support)
        self.check_state(state)
        with torch.no_grad():
            return self.run(x, y, state)[1]

    def outputs(self, inputs: Tensor, state: MANNState | None) -> Tensor:
        """Returns logits ``[M, Q, L]``; each query is shown as the image after the support data."""
        num, queries = inputs.shape[:2]
        cell: Any = self.network
        state = cell.initial_state(num) if state is None else state
        if len(state.label) != num:
            raise ValueError(f"{num} tasks, but a state of {len(state.label)}")
        logits, _ = cell(inputs.flatten(0, 1), state.repeat(queries))
        return logits.view(num, queries, -1)

    def run(self, x: Tensor, y: Tensor, state: MANNState | None = None) -> tuple[Tensor, MANNState]:
        """Runs an episode, or a part of one.

        Args:
            x: Images, ``[M, T, ...]``.
            y: Labels, ``[M, T]``; each is seen one step late.
            state: State to go on from (default: the initial state).

        Returns:
            Logits at each image ``[M, T, L]``, before its label is seen, and the last state.
        """
        cell: Any = self.network
        state = cell.initial_state(len(x)) if state is None else state
        labels = functional.one_hot(y, cell.ways).to(state.label.dtype)
        shown = cell.shown(x.flatten(2))
        logits = []
        for part, label in zip(shown.unbind(dim=1), labels.unbind(dim=1), strict=True):
            output, state = cell.step(part, state)
            state = state._replace(label=label)
            logits.append(output)
        return torch.stack(logits, dim=1), state

    def episode(self, batch: FewShotTasks, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Shuffles the images of each task; returns images ``[M, T, ...]``, labels ``[M, T]``."""
        x = torch.cat([batch.support_x, batch.query_x], dim=1)
        y = torch.cat([batch.support_y, batch.query_y], dim=1)
        places = rng.permuted(np.tile(np.arange(y.shape[1]), (len(y), 1)), axis=1)
        order = torch.from_numpy(places).to(y.device)
        rows = torch.arange(len(y), device=y.device)[:, None]
        return x[rows, order], y[rows, order]

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes a gradient step on the cross-entropy at all images of an episode."""
        return self.on_device(
            self._learn_episodes, *self.episode(self.check_batch(batch), self.rng)
        )

    def _learn_episodes(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits, _ = self.run(x, y)
        loss = task_loss(logits, y)
        self.step(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, y)}

    @torch.no_grad()
    def accuracy_by_presentation(
        self, tasks: Any, num_tasks: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Measures the accuracy at the first, second, ... image of a class, as the paper does.

        Args:
            tasks: Distribution of tasks, or split, whose test tasks are used; an episode has all
                of their shots and queries.
            num_tasks: Number of episodes.
            rng: Generator of the draws.

        Returns:
            Means over classes and episodes, ``[shots + queries]``.
        """
        tasks = getattr(tasks, "test", tasks)
        check_has("tasks", tasks, ["sample_tasks"], TASKS_WANTED)
        batch = tasks.sample_tasks(num_tasks, rng)
        x, y = self.episode(self.check_batch(batch), rng)
        right = self.run(x, y)[0].argmax(dim=-1) == y
        return by_presentation(right.cpu().numpy(), y.cpu().numpy())


def by_presentation(right: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Averages ``right`` over the first, second, ... occurrence of a label in its row.

    Args:
        right: Whether predictions are correct, ``[M, T]``.
        y: Labels, ``[M, T]``.
    """
    same = y[:, :, None] == y[:, None, :]
    presentation = np.tril(same).sum(axis=2)  # number of times the label occurred up to this image
    times = range(1, int(presentation.max()) + 1)
    return np.array([right[presentation == time].mean() for time in times])
