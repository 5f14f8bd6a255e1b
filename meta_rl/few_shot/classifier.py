"""A scikit-learn classifier that learns new classes from a few examples of each."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "FewShotClassifier needs scikit-learn: pip install 'meta-rl[text]'"
    ) from error

import meta_rl.few_shot
from meta_rl.algorithms import find_algorithm
from meta_rl.arguments import check_count, check_kind, check_names
from meta_rl.few_shot.data.encoders import as_encoder
from meta_rl.few_shot.data.preparation import (
    Numbers,
    Preparation,
    Vectors,
    load_preparation,
    preparation_of,
)
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.few_shot.learners.frozen import NearestMean
from meta_rl.few_shot.networks.choice import network_for
from meta_rl.files.sealed import WRONG_CONTENT, Saved, read_file, with_suffix, write_file

OWNER = "FewShotClassifier"
PLAIN_NAMES = (bool, int, str)


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier over a few-shot learner: ``fit`` adapts to the classes of a task.

    Fitting does not change the learner, which copies of the classifier share.

    Args:
        learner: A learner, usually a meta-trained one (default: :class:`NearestMean`).
        preparation: Function from examples to what the learner takes, such as
            ``tasks.preparation`` (default: examples are arrays of numbers).
        encoder: Pre-trained encoder of texts, in place of a preparation; see
            :func:`.split_dataset`.

    Attributes:
        classes_: Names of the classes; their order is that of :meth:`predict_proba`.
    """

    def __init__(
        self,
        learner: FewShotLearner | None = None,
        preparation: Preparation | None = None,
        encoder: Any = None,
    ) -> None:
        self.learner = learner
        self.preparation = preparation
        self.encoder = encoder

    @classmethod
    def meta_train(
        cls,
        tasks: Any,
        learner: str | type[FewShotLearner] | FewShotLearner = "protonet",
        *,
        num_iterations: int = 1000,
        network: str | nn.Module | None = None,
        network_settings: dict[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
        progress_bar: bool = False,
        **settings: Any,
    ) -> Self:
        """Meta-trains a learner on tasks, and returns a classifier with their preparation.

        Args:
            tasks: Split of :class:`.FewShotTasks`' makers, such as ``FewShotTasks.from_texts``.
            learner: Name of a learner on the command line, its class, or a learner.
            num_iterations: Number of outer updates.
            network: A network or its name (default: a usual one for the tasks' examples).
            network_settings: Further arguments of a network that is given by its name.
            seed: Seed of first weights and of the training.
            device: Device to learn on: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            progress_bar: Whether a progress bar is shown.
            **settings: Further arguments of the learner.

        Raises:
            ValueError: The learner or network is unknown, or does not take the tasks.
            TypeError: An argument does not exist, or the learner does not learn classes.
        """
        preparation = preparation_of(tasks)
        if not isinstance(learner, FewShotLearner):
            kind = find_algorithm(learner) if isinstance(learner, str) else learner
            if not (isinstance(kind, type) and issubclass(kind, FewShotLearner)):
                raise TypeError(f"learner: {learner!r} is no few-shot learner")
            if "network" in inspect.signature(kind).parameters:
                if not isinstance(network, nn.Module):
                    classifies = getattr(kind, "classifies", False)
                    made = {"classifies": classifies, **(network_settings or {})}
                    network = network_for(tasks, network, seed=seed, **made)
                settings = {"network": network, **settings}
            learner = kind(**settings, seed=seed, device=device)
        elif settings:
            check_names(settings, [], "meta_train with a learner that is made already")
        learner.learn(
            tasks, check_count("num_iterations", num_iterations, 0), progress_bar=progress_bar
        )
        return cls(learner, preparation)

    # ---------------------------------------------------------------------- fitting and predicting

    def fit(self, X: Any, y: Any) -> Self:
        """Adapts to the classes of a new task.

        Args:
            X: Examples as in meta-training: texts, paths, PIL images or arrays.
            y: Name of each example's class: any hashable values but NaN.

        Raises:
            ValueError: The numbers of examples and names differ, examples are of another kind, or
                the learner cannot tell so many classes apart.
        """
        self.learner_ = self._checked_learner()
        self.preparation_ = self._made_preparation()
        if isinstance(self.preparation_, Numbers):
            X = _validated(self, X)
        classes, labels = _numbered(y)
        x = self.preparation_(X)
        if len(x) != len(labels):
            raise ValueError(f"{len(x)} examples, but {len(labels)} class names")
        ways = self.learner_.ways
        if ways is not None and len(classes) > ways:
            raise ValueError(
                f"{len(classes)} classes, but the network of this {type(self.learner_).__name__} "
                f"has outputs for {ways}: train it on tasks with more ways"
            )
        self._adapt(classes, x, torch.from_numpy(labels))
        return self

    def _adapt(self, classes: np.ndarray, x: Tensor, y: Tensor) -> None:
        self.state_ = self.learner_.adapt((x[None], y[None]))
        self.classes_ = classes
        self._support = (x, y)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the name of the most probable class of each example."""
        check_is_fitted(self, "state_")
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities of the classes ``[N, classes]``."""
        check_is_fitted(self, "state_")
        if isinstance(self.preparation_, Numbers):
            X = _validated(self, X, reset=False)
        scores = self.learner_.scores(self.preparation_(X)[None], self.state_)[0]
        scores = scores[:, : len(self.classes_)].to(torch.float64)
        return torch.softmax(scores, dim=-1).cpu().numpy()

    def _checked_learner(self) -> FewShotLearner:
        if self.learner is None:
            return NearestMean(seed=0)
        check_kind("learner", self.learner, FewShotLearner, "a few-shot learner")
        if self.learner.regression:
            raise TypeError(
                f"learner: this {type(self.learner).__name__} learns values, no classes"
            )
        return self.learner

    def _made_preparation(self) -> Preparation:
        if self.encoder is not None:
            if self.preparation is not None:
                raise ValueError("give a preparation or an encoder, not both")
            return Vectors(as_encoder(self.encoder))
        if self.preparation is None:
            return Numbers()
        check_kind("preparation", self.preparation, Preparation, "a Preparation")
        return self.preparation

    def __sklearn_clone__(self) -> Self:
        """Returns a classifier with the same learner, which is not fitted."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Returns scikit-learn's tags: arrays of any number of axes, or other examples."""
        tags = super().__sklearn_tags__()
        arrays = self.encoder is None and isinstance(self.preparation, Numbers | None)
        tags.input_tags.two_d_array = arrays
        tags.input_tags.three_d_array = arrays
        tags.input_tags.string = not arrays
        return tags

    # ------------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Writes the learner, the preparation and, if it is fitted, the task; returns the path.

        Raises:
            FloatingPointError: A parameter is not finite.
            ValueError: A class has a name that is no number or text.
        """
        learner = getattr(self, "learner_", None) or self._checked_learner()
        preparation = getattr(self, "preparation_", None) or self._made_preparation()
        with tempfile.TemporaryDirectory() as folder:
            owner, checkpoint = read_file(learner.save(Path(folder) / "learner.zip"))
        fitted = None
        if hasattr(self, "state_"):
            x, y = self._support
            names = self.classes_.tolist()
            kind = self.classes_.dtype.str
            fitted = {"classes": names, "dtype": kind, "x": x, "y": y}
            fitted["n_features_in_"] = getattr(self, "n_features_in_", None)
        content = {"learner": owner, "checkpoint": checkpoint, "fitted": fitted}
        write_file(path, Saved(OWNER, content | {"preparation": preparation.saved()}))
        return with_suffix(path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        encoder: Any = None,
        network: nn.Module | None = None,
        device: str = "auto",
    ) -> Self:
        """Loads what :meth:`save` wrote; nothing in the file is run.

        Args:
            path: Path of the file; ``.zip`` may be left out.
            encoder: Encoder of your own, if the classifier has one.
            network: Network of your own, of the same shape, if the learner has one.
            device: Device of the parameters.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or no classifier, its learner is unknown, or an encoder
                or network of your own is missing.
        """
        content = read_file(path, OWNER).content
        try:
            return cls._made_from(content, encoder, network, device)
        except WRONG_CONTENT as error:
            raise ValueError(f"{path} is a corrupt classifier: {error!r}") from error

    @classmethod
    def _made_from(
        cls, content: dict[str, Any], encoder: Any, network: nn.Module | None, device: str
    ) -> Self:
        kind = _learner_class(content["learner"])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "learner.zip"
            write_file(file, Saved(content["learner"], content["checkpoint"]))
            learner = kind.load(file, network=network, device=device)
        classifier = cls(learner, load_preparation(content["preparation"], encoder))
        fitted = content["fitted"]
        if fitted is not None:
            classifier.learner_ = learner
            classifier.preparation_ = classifier._made_preparation()
            classes = _array_of(fitted["classes"], np.dtype(fitted["dtype"]))
            classifier._adapt(classes, fitted["x"], fitted["y"])
            if fitted["n_features_in_"] is not None:
                classifier.n_features_in_ = fitted["n_features_in_"]
        return classifier


def _validated(classifier: FewShotClassifier, examples: Any, **settings: Any) -> Any:
    """Returns the array that scikit-learn makes of examples; errors have one line."""
    try:
        return validate_data(classifier, examples, allow_nd=True, **settings)
    except ValueError as error:
        raise type(error)(" ".join(str(error).split())) from error


def _numbered(names: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different names, and the number of each name.

    Names of one type that can be sorted are sorted; others keep the order in which they appear.
    """
    if names is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    if hasattr(names, "__array__"):  # of NumPy, pandas, PyTorch
        names = column_or_1d(names, warn=True)
        check_classification_targets(names)
        found = np.unique(names, return_inverse=True)
        return found[0], found[1].astype(np.int64)
    listed = list(names)
    missing = [index for index, name in enumerate(listed) if name != name]
    if missing:  # NaN does not equal itself
        raise ValueError(f"the class of example {missing[0]} is {listed[missing[0]]}")
    kinds = {type(name) for name in listed}
    if len(kinds) == 1 and kinds <= set(PLAIN_NAMES):
        return _numbered(np.array(listed))
    distinct = {name: number for number, name in enumerate(dict.fromkeys(listed))}
    labels = np.array([distinct[name] for name in listed], dtype=np.int64)
    return _array_of(list(distinct), np.dtype(object)), labels


def _array_of(values: list[Any], dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "O":
        return np.array(values, dtype=dtype)
    array = np.empty(len(values), dtype=dtype)
    for index, value in enumerate(values):  # tuples stay whole
        array[index] = value
    return array


def _learner_class(name: str) -> type[FewShotLearner]:
    """Returns the class of a learner, shipped or imported.

    Raises:
        ValueError: There is no such class.
    """
    shipped = getattr(meta_rl.few_shot, name, None)
    if isinstance(shipped, type) and issubclass(shipped, FewShotLearner):
        return shipped
    waiting = [FewShotLearner]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting += kind.__subclasses__()
    raise ValueError(f"unknown learner {name}: import the module of its class first")
