"""Networks of the few-shot literature.

A network with ``ways`` classifies; without ``ways`` it returns an embedding. ``norm`` says how its
batch normalisation works:

* ``norm="task"`` always uses the statistics of the current batch, as MAML's code does. The batch is
  the support set or the query set of **one** task, so that the prediction of a query depends on the
  other queries (it is transductive). Such a network is a pure function of its parameters, and
  gradient-based learners can batch it over tasks with ``torch.func``.
* ``norm="running"`` is ordinary batch normalisation, for embeddings. Training uses the statistics
  of the batch, which may hold many tasks; afterwards running means make each query independent.

First weights are drawn with the generator that is passed in; without one, from the system's
entropy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_seed,
    keyword_names,
)
from meta_rl.arguments import plain as plain
from meta_rl.few_shot.networks.batch_norm import (
    BatchNorm,
    RunningBatchNorm1d,
    RunningBatchNorm2d,
)

NORMS = ("task", "running", "none")
P = ParamSpec("P")


def _keeps_global_generator(make: Callable[P, FewShotNetwork]) -> Callable[P, FewShotNetwork]:
    """Wraps a maker of networks, whose layers then leave the global generator unchanged."""
    known = keyword_names(inspect.signature(make).parameters)

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> FewShotNetwork:
        check_names(kwargs, known, make.__name__)
        with torch.random.fork_rng(devices=[]):
            return make(*args, **kwargs)

    return made


class FewShotNetwork(nn.Module):
    """A network with a body that embeds, and a linear head if it has outputs.

    Args:
        body: Module from inputs ``[N, *input_shape]`` to features ``[N, num_features]``.
        num_features: Number of features of the body.
        num_outputs: Number of outputs of the head; ``None`` for no head.
        ways: Number of classes; ``None`` for regression and for embeddings.
        input_shape: Shape of one input, with ``None`` for an axis of any length.
        recipe: Name of the function that makes this network, and its arguments, for checkpoints;
            ``None`` for a network of your own.
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """

    vocabulary_size: int | None = None
    """Number of words that a network on texts knows; ``None`` for other networks."""

    def __init__(
        self,
        body: nn.Module,
        num_features: int,
        num_outputs: int | None,
        *,
        ways: int | None,
        input_shape: tuple[int | None, ...],
        recipe: tuple[str, dict[str, Any]] | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Identity() if num_outputs is None else nn.Linear(num_features, num_outputs)
        self.num_features = check_count("num_features", num_features)
        self.ways = plain(ways)
        self.input_shape = plain(input_shape)
        self.recipe = plain(recipe)
        draw_weights(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits, values or embeddings, ``[N, outputs]``."""
        return self.head(self.body(x))


@contextmanager
def first_weights(seed: int | None) -> Iterator[None]:
    """Seeds PyTorch's own first weights of layers that are made within the context.

    They are drawn from the global generator, whose state is restored afterwards.

    Args:
        seed: Seed; ``None`` takes one from the system's entropy.
    """
    drawn = np.random.SeedSequence(check_seed(seed)).generate_state(1, np.uint64)[0] >> 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(drawn))
        yield


def draw_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws first weights: Glorot for convolutions and linear layers, with biases 0.

    Embeddings are drawn from N(0, 0.1²). Layers of other kinds keep their weights.

    Args:
        network: Network whose weights are replaced.
        generator: Generator of the draws (default: seeded from the system's entropy).
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1, generator=generator)


@_keeps_global_generator
def conv4(
    ways: int | None = None,
    *,
    size: int = 28,
    channels: int = 1,
    hidden: int = 64,
    pool: str = "max",
    flatten: bool | None = None,
    norm: str | None = None,
    generator: torch.Generator | None = None,
) -> FewShotNetwork:
    """Makes the four-layer convolutional network of Vinyals et al. (2016).

    Each layer is a 3 × 3 convolution, batch normalisation and ReLU, and halves the image.

    Args:
        ways: Number of classes of a classifier; ``None`` for an embedding.
        size: Height and width of the images, in pixels, at least 16.
        channels: Number of channels of the images.
        hidden: Number of filters of each convolution.
        pool: Halving of the image: ``"max"`` for 2 × 2 pooling, or ``"stride"`` for convolutions
            with strides, which MAML and Reptile use on Omniglot (a quarter of the computation).
        flatten: Whether features are those of all positions rather than their mean over positions
            (default: only with 2 × 2 pooling). With strides, Reptile flattens and MAML averages.
        norm: ``"task"``, ``"running"`` or ``"none"`` (default: ``"task"`` for classifiers,
            ``"running"`` for embeddings).
        generator: Generator of the first weights (default: seeded from the system's entropy).

    Raises:
        ValueError: A count is below one, images have less than 16 pixels, or a choice is unknown.
    """
    size, hidden = check_count("size", size, least=16), check_count("hidden", hidden)
    check_choice("pool", pool, ("max", "stride"))
    ways, channels = _check_ways(ways), check_count("channels", channels)
    kind = _check_norm(norm, ways)
    layers: list[nn.Module] = []
    width, inputs = size, channels
    for _ in range(4):
        stride = 2 if pool == "stride" else 1
        layers += [nn.Conv2d(inputs, hidden, 3, stride, padding=1), _make_norm(kind, hidden, 2)]
        layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if pool == "max" else [])]
        width, inputs = (width + 1) // 2 if pool == "stride" else width // 2, hidden
    flatten = pool == "max" if flatten is None else check_flag("flatten", flatten)
    layers.append(nn.Flatten() if flatten else _MeanOverPositions())
    num_features = hidden * width**2 if flatten else hidden
    sizes = {"size": size, "channels": channels, "hidden": hidden}
    settings = {**sizes, "pool": pool, "flatten": flatten, "norm": kind}
    network = FewShotNetwork(
        nn.Sequential(*layers),
        num_features,
        ways,
        ways=ways,
        input_shape=(channels, size, size),
        recipe=("conv4", {"ways": ways, **settings}),
        generator=generator,
    )
    if kind == "running":  # whole batches are 1.6 times as fast on a CPU; vmap gains nothing
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


@_keeps_global_generator
def omniglot_mlp(
    ways: int | None = None,
    *,
    size: int = 28,
    hidden: Sequence[int] = (256, 128, 64, 64),
    norm: str | None = None,
    generator: torch.Generator | None = None,
) -> FewShotNetwork:
    """Makes the fully connected network for Omniglot of Finn et al. (2017).

    Each layer has batch normalisation and ReLU.

    Args:
        ways: Number of classes of a classifier; ``None`` for an embedding.
        size: Height and width of the images, in pixels.
        hidden: Number of units of each layer.
        norm: ``"task"``, ``"running"`` or ``"none"`` (default: as for :func:`conv4`).
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """
    ways, size = _check_ways(ways), check_count("size", size)
    hidden = _check_hidden(hidden)
    kind = _check_norm(norm, ways)
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = size**2
    for units in hidden:
        layers += [nn.Linear(inputs, units), _make_norm(kind, units, 1), nn.ReLU()]
        inputs = units
    return FewShotNetwork(
        nn.Sequential(*layers),
        inputs,
        ways,
        ways=ways,
        input_shape=(1, size, size),
        recipe=("omniglot_mlp", {"ways": ways, "size": size, "hidden": list(hidden), "norm": kind}),
        generator=generator,
    )


@_keeps_global_generator
def sinusoid_mlp(
    *, hidden: Sequence[int] = (40, 40), generator: torch.Generator | None = None
) -> FewShotNetwork:
    """Makes the network of Finn et al. (2017) for regression of functions of one number.

    Args:
        hidden: Number of ReLU units of each layer; the paper has two layers of 40.
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """
    hidden = _check_hidden(hidden)
    layers: list[nn.Module] = []
    inputs = 1
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return FewShotNetwork(
        nn.Sequential(*layers),
        inputs,
        1,
        ways=None,
        input_shape=(1,),
        recipe=("sinusoid_mlp", {"hidden": list(hidden)}),
        generator=generator,
    )


@_keeps_global_generator
def koch_network(*, size: int = 105, generator: torch.Generator | None = None) -> FewShotNetwork:
    """Makes the embedding network of Koch et al. (2015), for :class:`meta_rl.few_shot.Siamese`.

    Koch, Zemel and Salakhutdinov, "Siamese neural networks for one-shot image recognition". The
    network has convolutions with 64 filters of 10 × 10, 128 of 7 × 7, 128 of 4 × 4 and 256 of
    4 × 4, with ReLU and 2 × 2 max-pooling between them, and then 4,096 sigmoid units.

    Args:
        size: Height and width of the images, in pixels, at least 69; the paper has 105.
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """
    size = check_count("size", size, least=69)
    layers: list[nn.Module] = []
    inputs, width = 1, size
    for number, (filters, kernel) in enumerate(((64, 10), (128, 7), (128, 4), (256, 4))):
        layers += [nn.Conv2d(inputs, filters, kernel), nn.ReLU()]
        width -= kernel - 1
        if number < 3:
            layers.append(nn.MaxPool2d(2))
            width //= 2
        inputs = filters
    layers += [nn.Flatten(), nn.Linear(inputs * width**2, 4096), nn.Sigmoid()]
    return FewShotNetwork(
        nn.Sequential(*layers),
        4096,
        None,
        ways=None,
        input_shape=(1, size, size),
        recipe=("koch_network", {"size": size}),
        generator=generator,
    )


@_keeps_global_generator
def text_encoder(
    vocabulary_size: int,
    ways: int | None = None,
    *,
    dim: int = 128,
    hidden: int = 128,
    generator: torch.Generator | None = None,
) -> FewShotNetwork:
    """Makes a small encoder of texts with an embedding, a convolution and attention pooling.

    Args:
        vocabulary_size: Number of word numbers; number 0 is padding.
        ways: Number of classes of a classifier; ``None`` for an embedding.
        dim: Number of features of the word embeddings.
        hidden: Number of features of the convolution.
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """
    vocabulary_size = check_count("vocabulary_size", vocabulary_size, least=2)
    dim, hidden, ways = check_count("dim", dim), check_count("hidden", hidden), _check_ways(ways)
    network = FewShotNetwork(
        _TextBody(vocabulary_size, dim, hidden),
        hidden + dim,
        ways,
        ways=ways,
        input_shape=(None,),
        recipe=(
            "text_encoder",
            {"vocabulary_size": vocabulary_size, "ways": ways, "dim": dim, "hidden": hidden},
        ),
        generator=generator,
    )
    network.vocabulary_size = vocabulary_size
    return network


@_keeps_global_generator
def residual_head(
    input_size: int,
    ways: int | None = None,
    *,
    hidden: int = 512,
    dropout: float = 0.0,
    scale: float = 4.0,
    generator: torch.Generator | None = None,
) -> FewShotNetwork:
    """Makes a small network that adapts the vectors of a frozen encoder.

    A centre is subtracted from the vectors (:func:`.network_for` sets it to the mean of the
    training classes), and a hidden layer adds to them; it adds nothing at first. The sum is scaled
    to a learned length, which is the temperature of a learner's distances.

    Args:
        input_size: Number of features of the vectors.
        ways: Number of classes of a classifier; ``None`` for an embedding.
        hidden: Number of units of the hidden layer.
        dropout: Probability that a feature is dropped in training, in [0, 1).
        scale: First length of the results.
        generator: Generator of the first weights (default: seeded from the system's entropy).
    """
    input_size, hidden = check_count("input_size", input_size), check_count("hidden", hidden)
    dropout = check_number("dropout", dropout, least=0.0, below=1.0)
    scale, ways = check_number("scale", scale, above=0.0), _check_ways(ways)
    sizes = {"input_size": input_size, "ways": ways, "hidden": hidden}
    body = _ResidualBody(input_size, hidden, dropout, scale)
    network = FewShotNetwork(
        body,
        input_size,
        ways,
        ways=ways,
        input_shape=(input_size,),
        recipe=("residual_head", {**sizes, "dropout": dropout, "scale": scale}),
        generator=generator,
    )
    nn.init.zeros_(body.last.weight)
    return network


class _ResidualBody(nn.Module):
    def __init__(self, input_size: int, hidden: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.first = nn.Linear(input_size, hidden)
        self.last = nn.Linear(hidden, input_size)
        self.dropout = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.centre = nn.Parameter(torch.zeros(input_size))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(functional.normalize(x, dim=-1) - self.centre, dim=-1)
        added = self.last(self.dropout(torch.relu(self.first(self.dropout(x)))))
        return self.log_scale.exp() * functional.normalize(x + added, dim=-1)


class _TextBody(nn.Module):
    """A body that joins the weighted means of word embeddings and of features of three words.

    Both means are scaled to learned lengths, so that the length of a text does not matter. The
    first mean also carries words without training, since each has a random embedding of its own.
    At the beginning of training it has the greater length.
    """

    def __init__(self, vocabulary_size: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.context = nn.Linear(3 * dim, hidden)
        self.importance = nn.Linear(dim, 1)
        self.lengths = nn.Parameter(torch.tensor([4.0, 1.0]))

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.embedding(tokens)  # [N, L, D]
        present = (tokens != 0).unsqueeze(-1).to(words.dtype)
        words = words * present
        before = functional.pad(words, (0, 0, 1, 0))[:, :-1]
        after = functional.pad(words, (0, 0, 0, 1))[:, 1:]
        context = torch.relu(self.context(torch.cat([before, words, after], dim=-1)))
        scores = self.importance(words).masked_fill(present == 0, -torch.inf)
        weights = torch.softmax(scores, dim=-2)
        pooled = [
            functional.normalize((weights * features).sum(-2), dim=-1) * length
            for features, length in zip((words, context), self.lengths.unbind(), strict=True)
        ]
        return torch.cat(pooled, dim=-1)


class _MeanOverPositions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(-2, -1))


def _make_norm(kind: str, features: int, dimensions: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "task":
        return BatchNorm(features)  # torch's own has wrong second derivatives under vmap
    layer = RunningBatchNorm2d if dimensions == 2 else RunningBatchNorm1d
    return layer(features)


def _check_norm(norm: str | None, ways: int | None) -> str:
    if norm is None:
        return "running" if ways is None else "task"
    return check_choice("norm", norm, NORMS)


def _check_hidden(hidden: Sequence[int]) -> list[int]:
    """Returns the number of units of each layer; there has to be at least one layer."""
    try:
        units = [check_count("hidden", one) for one in hidden]
    except TypeError as error:
        raise ValueError(f"hidden is a list of units of each layer, got {hidden!r}") from error
    if not units:
        raise ValueError("hidden is a list of units of each layer, got none")
    return units


def _check_ways(ways: int | None) -> int | None:
    return None if ways is None else check_count("ways", ways, least=2)


RECIPES: dict[str, Callable[..., FewShotNetwork]] = {
    "conv4": conv4,
    "koch_network": koch_network,
    "omniglot_mlp": omniglot_mlp,
    "residual_head": residual_head,
    "sinusoid_mlp": sinusoid_mlp,
    "text_encoder": text_encoder,
}
"""Functions that make networks, by name, for checkpoints and the command line."""


def has_convolutions(network: nn.Module) -> bool:
    """Returns whether the network has 2-D convolutions, which are slow in batches over tasks."""
    return any(isinstance(module, nn.Conv2d) for module in network.modules())


def check_sizes_known(network: nn.Module) -> None:
    """Raises an error for lazy layers, whose parameters have no shapes yet.

    Raises:
        ValueError: The network has lazy layers.
    """
    lazy = [name for name, p in network.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise ValueError(
            f"the network has lazy layers ({', '.join(lazy)}): call it once on an example, so that "
            "their sizes are known"
        )
