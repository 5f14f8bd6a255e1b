"""End-to-end memory networks, which attend to the sentences of a story in several hops.

Sukhbaatar, Szlam, Weston and Fergus, "End-to-end memory networks", 2015 (arXiv:1503.08895).

Shapes: M tasks, S sentences, Q questions, L words, D features, V words of the vocabulary, K hops.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_choice, check_count, check_flag, check_number
from meta_rl.few_shot.learner import FewShotLearner, accuracy
from meta_rl.few_shot.networks.feed_forward import first_weights
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.few_shot.training import rate_at

TYINGS = ("adjacent", "layerwise")


class Story(NamedTuple):
    """A story in memory.

    Attributes:
        keys: Vectors that questions are compared with at each hop (``m`` in the paper),
            ``[M, K, S, D]``.
        values: Vectors that are read at each hop (``c`` in the paper), ``[M, K, S, D]``.
        present: Whether a sentence is no padding, bool ``[M, S]``.
    """

    keys: Tensor
    values: Tensor
    present: Tensor


def encode_positions(words: Tensor, tokens: Tensor, dim: int | None = None) -> Tensor:
    """Sums a sentence's words, weighted by position and feature (position encoding).

    Word j of J (from 1) has the weight ``1 + 4 (k - (D + 1) / 2) (j - (J + 1) / 2) / (D J)`` in
    feature k of D, so that the order of words matters. Published implementations have this form;
    here J is the length of each sentence. Section 4.1 of the paper has half of this weight, with
    which tasks 4 and 6 of bAbI were not learned in 100 passes.

    Args:
        words: Embeddings from T tables side by side, ``[..., L, T * D]``.
        tokens: Word numbers ``[..., L]``; 0 is padding, at the end.
        dim: Number of features D of a table (default: all, for one table).

    Returns:
        Encoded sentences, ``[..., T * D]``.
    """
    dim = dim or words.shape[-1]
    present = (tokens != 0).to(words.dtype)
    length = present.sum(dim=-1, keepdim=True)
    steps = torch.arange(1, tokens.shape[-1] + 1, device=words.device)
    place = (steps - (length + 1) / 2) / length.clamp(min=1)
    features = torch.arange(1, dim + 1, device=words.device) / dim - (dim + 1) / (2 * dim)
    weights = torch.stack([torch.ones_like(place), 4 * place], dim=-2) * present.unsqueeze(-2)
    bag, by_place = (weights @ words).unbind(dim=-2)
    return bag + features.repeat(words.shape[-1] // dim) * by_place


def bag_of_words(words: Tensor, tokens: Tensor, dim: int | None = None) -> Tensor:
    """Sums a sentence's words; the arguments are those of :func:`encode_positions`."""
    present = (tokens != 0).to(words.dtype)
    return (present.unsqueeze(-2) @ words).squeeze(-2)


class MemoryNetwork(nn.Module):
    """The network: embeddings of words and times, hops of attention, and answers.

    Args:
        vocabulary_size: Number of words, V; number 0 is padding.
        dim: Number of features, D.
        hops: Number of hops, K.
        max_time: Latest time that has an embedding of its own.
        tying: ``"adjacent"`` (the values of a hop are the keys of the next one; the question shares
            its table with the first keys, the answer with the last values) or ``"layerwise"`` (all
            hops share their tables, with a matrix between hops).
        positions: Whether sentences use position encoding; otherwise they are bags of words.

    Raises:
        ValueError: A count is below one, or the tying is unknown.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        dim: int = 20,
        hops: int = 3,
        max_time: int = 64,
        tying: str = "adjacent",
        positions: bool = True,
    ) -> None:
        super().__init__()
        check_choice("tying", tying, TYINGS)
        check_flag("positions", positions)
        self.vocabulary_size = size = check_count("vocabulary_size", vocabulary_size, least=2)
        self.dim, self.hops = dim, hops = check_count("dim", dim), check_count("hops", hops)
        self.max_time = check_count("max_time", max_time)
        self.adjacent = tying == "adjacent"
        self.pool = encode_positions if positions else bag_of_words
        tables = self.hops + 1 if self.adjacent else 3  # layerwise: question, keys, values
        self.words = nn.Embedding(size, tables * dim)  # the tables lie side by side
        self.times = nn.Embedding(self.max_time + 1, tables * dim)
        self.answer = None if self.adjacent else nn.Linear(dim, size, bias=False)
        self.between = None if self.adjacent else nn.Linear(dim, dim, bias=False)

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draws all weights from N(0, 0.1²), as in the paper."""
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.1, generator=generator)

    def read_story(self, sentences: Tensor, times: Tensor) -> Story:
        """Embeds a story.

        Args:
            sentences: Word numbers, ``[M, S, L]``.
            times: Times of the sentences ``[M, S]``, from 1 for the last one; 0 is padding.
        """
        embedded = self.pool(self.words(sentences), sentences, self.dim)
        embedded = embedded + self.times(times.clamp(max=self.max_time))
        tables = embedded.unflatten(-1, (-1, self.dim)).movedim(-2, 1)  # [M, T, S, D]
        if self.adjacent:
            keys, values = tables[:, :-1], tables[:, 1:]
        else:
            keys, values = (tables[:, [index]].expand(-1, self.hops, -1, -1) for index in (1, 2))
        return Story(keys, values, times != 0)

    def forward(self, questions: Tensor, story: Story | None, linear: bool = False) -> Tensor:
        """Answers questions.

        Args:
            questions: Word numbers, ``[M, Q, L]``.
            story: Story from :meth:`read_story`; ``None`` if there is none.
            linear: Whether hops have no softmax, as in the linear start.

        Returns:
            Logits of the answers, ``[M, Q, V]``.
        """
        first = functional.embedding(questions, self.words.weight[:, : self.dim])
        state = self.pool(first, questions)
        for hop in range(self.hops):
            read = 0.0 if story is None else self._read(state, story, hop, linear)
            state = (state if self.between is None else self.between(state)) + read
        if self.answer is None:
            return state @ self.words.weight[:, -self.dim :].T
        return self.answer(state)

    @staticmethod
    def _read(state: Tensor, story: Story, hop: int, linear: bool) -> Tensor:
        """Reads ``Σ p_i c_i`` with p the softmax of ``u · m_i`` over all places, ``[M, Q, D]``."""
        present = story.present[:, None, :]
        scores = (state @ story.keys[:, hop].transpose(1, 2)) * present
        attention = scores if linear else torch.softmax(scores, dim=-1)
        return (attention * present) @ story.values[:, hop]


class MemoryNetworkLearner(FewShotLearner):
    """Learner of questions about stories, trained as in the paper's section 4.2.

    Training is gradient descent on summed losses. Its step size is halved after each quarter of the
    training, and long gradients are scaled. Random noise inserts empty sentences into the story, so
    that the network does not overfit to times. Sentences are weighted by their own length J.

    Empty places of the memory have a score and a value of 0, as in the authors' code, so that
    attention that finds nothing rests there. Without them the network overfits to yes-no questions
    (tasks 6 and 10 of bAbI). Stories have to be padded to the same number of sentences in training
    and in testing, as :class:`meta_rl.few_shot.data.babi.Babi` does.

    Args:
        vocabulary_size: Number of words, ``len(tasks.vocabulary)``.
        dim: Number of features.
        hops: Number of reads of the memory before the answer.
        tying: ``"adjacent"`` or ``"layerwise"``; see :class:`MemoryNetwork`.
        positions: Whether sentences use position encoding; otherwise they are bags of words.
        linear_start: Fraction of the training without softmax in the hops, at half the step size.
        time_noise: Maximum number of empty sentences, as a fraction of the story, in [0, 1]; their
            number is drawn uniformly.
        max_time: Latest time that has an embedding of its own.
        max_grad_norm: Maximum norm of the gradient; longer gradients are scaled to it.
        meta_lr: Step size of gradient descent at the start.
        seed: Seed of all draws and of the first weights (default: from the system's entropy).
        **settings: Further arguments of :class:`.FewShotLearner`.

    Raises:
        ValueError: A count or a fraction is out of range.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        dim: int = 20,
        hops: int = 3,
        tying: str = "adjacent",
        positions: bool = True,
        linear_start: float = 0.2,
        time_noise: float = 0.1,
        max_time: int = 64,
        max_grad_norm: float = 40.0,
        meta_lr: float = 0.01,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        sizes: dict[str, Any] = {"dim": dim, "hops": hops, "max_time": max_time}
        with first_weights(seed):  # drawn anew below
            network = MemoryNetwork(vocabulary_size, **sizes, tying=tying, positions=positions)
        super().__init__(network, meta_lr=meta_lr, seed=seed, **settings)
        self.linear_start = check_number("linear_start", linear_start, least=0.0, most=1.0)
        self.time_noise = check_number("time_noise", time_noise, least=0.0, most=1.0)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, above=0.0)
        self._example_dims = 1
        network.draw_weights(self.generator)

    state_kind = Story

    def adapt(self, support: Any, state: Any = None) -> Story:
        """Reads stories: sentences ``[M, S, L]`` and their times ``[M, S]``, 1 for the last one.

        A story has to be read at once, since times count back from the question.

        Raises:
            ValueError: A state is given, a story is empty, or word numbers are out of range.
        """
        if state is not None:
            raise ValueError("a story is read at once: its times count back from the question")
        sentences, times = self.check_support(support)
        with torch.no_grad():
            return self._memory.read_story(sentences, times)

    def outputs(self, inputs: Tensor, state: Story | None) -> Tensor:
        """Returns logits of the answers, ``[M, Q, V]``."""
        if state is not None and len(state.present) != len(inputs):
            raise ValueError(f"{len(inputs)} tasks, but stories of {len(state.present)}")
        return self._memory(inputs, state)

    @property
    def is_linear(self) -> bool:
        """Whether the training is in its linear start."""
        return self.progress < self.linear_start

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes a gradient step on the summed cross-entropy of the answers."""
        batch = self.check_batch(batch)
        story = self._memory.read_story(batch.support_x, self.noisy_times(batch.support_y))
        logits = self._memory(batch.query_x, story, self.is_linear)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
        self.step(loss * batch.query_y.numel())
        return {"loss": loss, "accuracy": accuracy(logits, batch.query_y)}

    def noisy_times(self, times: Tensor) -> Tensor:
        """Returns the times of sentences after random empty sentences are inserted.

        Args:
            times: Times ``[M, S]``; 0 is padding, which does not change.
        """
        count = (times != 0).sum(dim=1, keepdim=True)
        most = (count * self.time_noise).ceil()
        empty = (self._uniform(len(times), 1) * (most + 1)).floor()
        places = (self._uniform(len(times), int(most.max())) * (count + 1)).floor()
        drawn = torch.arange(int(most.max()), device=times.device) < empty
        later = (places[:, None, :] < times[:, :, None]) & drawn[:, None, :]
        return torch.where(times == 0, times, times + later.sum(dim=-1))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Makes an optimiser for plain gradient descent."""
        return torch.optim.SGD(self.module.parameters(), lr=rate_at(self.meta_lr, 0.0))

    def _set_rates(self) -> None:
        assert self.optimizer is not None
        rate = rate_at(self.meta_lr, 0.0) * 0.5 ** int(4 * self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate / 2 if self.is_linear else rate

    @property
    def _memory(self) -> Any:
        return self.network

    def _check_labels(self, y: Tensor, part: str = "support") -> None:
        if part == "query":
            if int(y.min()) < 0 or int(y.max()) >= self._memory.vocabulary_size:
                raise ValueError(
                    f"answers are word numbers from 0 to {self._memory.vocabulary_size - 1}, got "
                    f"{int(y.min())} to {int(y.max())}"
                )
        elif int(y.min()) < 0 or not bool((y > 0).any(dim=1).all()):
            raise ValueError("times are 1 and more, 0 for padding, with a sentence in each story")

    def _check_query_labels(self, batch: FewShotTasks) -> None:
        """Accepts all answers, since support labels are times and say nothing about them."""

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() != 3 or x.is_floating_point():
            raise ValueError(f"inputs of {x.dtype} {tuple(x.shape)} are no word numbers [M, N, L]")
