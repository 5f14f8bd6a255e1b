"""All random generators that a learner may draw from, to be seeded and restored together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class LearnerRandomness:
    """The generators that a learner draws from: its own generators and the global ones.

    Its own generators are the attributes ``rng`` (:class:`numpy.random.Generator`) and
    ``generator`` (:class:`torch.Generator`), and the generator of its ``action_space``. Plain
    Stable-Baselines3 models draw from the global generators of torch and numpy.

    Args:
        learner: Learner, with or without these attributes.
    """

    def __init__(self, learner: Any) -> None:
        self._arrays: list[np.random.Generator] = []
        spaces = getattr(learner, "action_space", None)
        for rng in (getattr(learner, "rng", None), getattr(spaces, "np_random", None)):
            if isinstance(rng, np.random.Generator):
                self._arrays.append(rng)
        self._tensors = [torch.default_generator]
        device = torch.device(getattr(learner, "device", "cpu"))
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._tensors.append(torch.cuda.default_generators[index])
        own = getattr(learner, "generator", None)
        if isinstance(own, torch.Generator) and own is not torch.default_generator:
            self._tensors.append(own)

    @property
    def state(self) -> list[Any]:
        """The states of all generators."""
        arrays = [rng.bit_generator.state for rng in self._arrays]
        tensors = [generator.get_state() for generator in self._tensors]
        return [arrays, tensors, np.random.get_state()]  # noqa: NPY002 (to restore it)

    @state.setter
    def state(self, state: list[Any]) -> None:
        arrays, tensors, numpy_global = state
        for rng, own in zip(self._arrays, arrays, strict=True):
            rng.bit_generator.state = own
        for generator, own in zip(self._tensors, tensors, strict=True):
            generator.set_state(own)
        np.random.set_state(numpy_global)  # noqa: NPY002

    def seed(self, stream: np.random.SeedSequence) -> None:
        """Seeds every generator from ``stream``."""
        streams = iter(stream.spawn(len(self._arrays) + len(self._tensors) + 1))
        for rng in self._arrays:
            rng.bit_generator.state = type(rng.bit_generator)(next(streams)).state
        for generator in self._tensors:
            generator.manual_seed(int(next(streams).generate_state(1, np.uint64)[0] >> 1))
        legacy = np.random.RandomState(np.random.MT19937(next(streams)))
        np.random.set_state(legacy.get_state())  # noqa: NPY002

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restores the state of every generator at the end of the context."""
        before = self.state
        try:
            yield
        finally:
            self.state = before
