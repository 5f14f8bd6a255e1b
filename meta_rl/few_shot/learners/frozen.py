"""Baselines on frozen vectors: the nearest class mean, and logistic regression."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from meta_rl.arguments import check_number
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.few_shot.learners.baselines import Untrained
from meta_rl.few_shot.learners.embedding import Memory
from meta_rl.few_shot.learners.protonet import ProtoNet


class NearestMean(Untrained, ProtoNet):
    """A baseline that predicts the class with the nearest mean example. Nothing is learned.

    Args:
        seed: Seed, which is not used.
        device: Device of the examples: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, *, seed: int | None = None, device: torch.device | str = "auto") -> None:
        super().__init__(nn.Flatten(), seed=seed, device=device)


class LinearState(NamedTuple):
    """A linear classifier of each task.

    Attributes:
        center: Mean of the examples, which is subtracted from inputs, ``[M, D]``.
        weight: Weights, ``[M, W, D]``.
        bias: Biases, ``[M, W]``; minus infinity for labels that no example has.
        memory: Examples that it was fitted to.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor
    memory: Memory


class LogisticRegressionLearner(Untrained, FewShotLearner):
    """A baseline that fits scikit-learn's logistic regression to the support data of each task.

    It needs scikit-learn (extra ``text``). Nothing is meta-learned.

    Args:
        C: Inverse strength of the penalty on squared weights.
        seed: Seed, which is not used.
        device: Device of the examples: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    unit: ClassVar[str] = "shot"
    state_kind: ClassVar[type | tuple[type, ...]] = LinearState

    def __init__(
        self,
        C: float = 10.0,
        *,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(nn.Flatten(), seed=seed, device=device)
        self.C = check_number("C", C, above=0.0)

    @torch.no_grad()
    def adapt(self, support: Any, state: LinearState | None = None) -> LinearState:
        """Fits a classifier to the support data, and those of the state."""
        x, y = self.check_support(support)
        self.check_state(state)
        memory = Memory(x.flatten(2), y)
        if state is not None:
            if len(state.bias) != len(y):
                raise ValueError(
                    f"support data of {len(y)} tasks, but a state of {len(state.bias)}"
                )
            parts = zip(state.memory, memory, strict=True)
            memory = Memory(*(torch.cat(both, dim=1) for both in parts))
        # The optimiser does not converge on features around 100,000; the bias takes up a shift.
        center = memory.keys.mean(dim=1, keepdim=True)
        keys, labels = ((memory.keys - center).cpu().numpy(), memory.labels.cpu().numpy())
        fitted = [self._fit(*task, memory.ways) for task in zip(keys, labels, strict=True)]
        weight, bias = (
            torch.from_numpy(np.stack(part)).to(self.device, self.dtype)
            for part in zip(*fitted, strict=True)
        )
        return LinearState(center[:, 0], weight, bias, memory)

    def _fit(self, x: np.ndarray, y: np.ndarray, ways: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weights ``[W, D]`` and biases ``[W]`` of a task."""
        from sklearn.linear_model import LogisticRegression

        weight, bias = np.zeros((ways, x.shape[1])), np.full(ways, -np.inf)
        present = np.unique(y)
        bias[present] = 0.0
        if len(present) > 1:
            fitted = LogisticRegression(C=self.C, max_iter=1000).fit(x, y)
            coefficients, intercepts = fitted.coef_, fitted.intercept_
            if len(present) == 2:  # one row, of the second class against the first
                coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
                intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
            weight[present], bias[present] = coefficients, intercepts
        return weight, bias

    def outputs(self, inputs: Tensor, state: LinearState | None) -> Tensor:
        """Returns logits ``[M, Q, W]``; without a state they are zeros, for one class."""
        if state is None:
            return inputs.new_zeros((*inputs.shape[:2], 1), dtype=self.dtype)
        if len(state.bias) != len(inputs):
            raise ValueError(f"inputs of {len(inputs)} tasks, but a state of {len(state.bias)}")
        centred = inputs.flatten(2) - state.center[:, None]
        return centred @ state.weight.transpose(1, 2) + state.bias[:, None]
