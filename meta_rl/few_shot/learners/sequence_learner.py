"""Learners of bit sequences: the Neural Turing Machine, and an LSTM to compare it with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_count, check_has, check_number
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.few_shot.networks.feed_forward import first_weights
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.few_shot.training import TASKS_WANTED
from meta_rl.memory.ntm import NTM as NTM


class LSTM(nn.Module):
    """Layers of LSTM with a linear output, with the interface of :class:`meta_rl.memory.ntm.NTM`.

    Args:
        input_size: Number of features of an input, I.
        output_size: Number of features of an output, O.
        hidden: Number of units of a layer.
        layers: Number of layers.
    """

    def __init__(self, input_size: int, output_size: int, hidden: int, layers: int) -> None:
        super().__init__()
        input_size = check_count("input_size", input_size)
        output_size = check_count("output_size", output_size)
        hidden, layers = check_count("hidden", hidden), check_count("layers", layers)
        self.rnn = nn.LSTM(input_size, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, output_size)

    def initial_state(self, num: int) -> tuple[Tensor, Tensor]:
        """Returns a hidden state and a cell of zeros, ``[M, layers, hidden]``."""
        zeros = self.head.weight.new_zeros(num, self.rnn.num_layers, self.rnn.hidden_size)
        return zeros, zeros

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Takes one step: maps inputs ``[M, I]`` to outputs ``[M, O]`` and the next state."""
        outputs, state = self.unroll(inputs[:, None], state)
        return outputs[:, 0], state

    def unroll(
        self, inputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Takes all steps in one call: maps inputs ``[M, T, I]`` to outputs ``[M, T, O]``."""
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        outputs, (hidden, cell) = self.rnn(inputs, before)
        return self.head(outputs), (hidden.transpose(0, 1), cell.transpose(0, 1))


class SequenceLearner(FewShotLearner):
    """A learner that reads the support sequence into its state and then answers step by step.

    The queries of a task are a sequence too: each output depends on the queries before it. Bits of
    any number type keep their values.

    Args:
        network: A recurrent cell with ``initial_state(num)``, such as
            :class:`meta_rl.memory.ntm.NTM`. If it has ``unroll(inputs, state)``, like
            :class:`LSTM`, this method runs whole sequences.
        input_size: Number of features of an input.
        max_grad_norm: Maximum norm of the gradient; longer gradients are scaled to it.
        **settings: Further arguments of :class:`FewShotLearner`.
    """

    def __init__(
        self, network: nn.Module, input_size: int, max_grad_norm: float, **settings: Any
    ) -> None:
        super().__init__(network, **settings)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, above=0.0)
        self.input_size = check_count("input_size", input_size)
        self._example_dims = 1

    divides_bytes = False
    state_kind = tuple

    @property
    def regression(self) -> bool:
        """Whether targets are values: they are bits, as floats."""
        return True

    def adapt(self, support: Any, state: Any = None) -> Any:
        """Reads sequences ``(x [M, S, I], y [M, S, ...])``; the targets ``y`` are not used."""
        x, _ = self.check_support(support)
        self.check_state(state)
        with torch.no_grad():
            return self.run(x, state)[1]

    def outputs(self, inputs: Tensor, state: Any = None) -> Tensor:
        """Returns logits of the bits, ``[M, Q, O]``."""
        return self.run(inputs, state)[0]

    def predict(self, inputs: Any, state: Any = None) -> Tensor:
        """Predicts the more likely bits, 0.0 or 1.0: ``[M, Q, O]``, or ``[Q, O]`` of one task."""
        return (self.scores(inputs, state) > 0).to(torch.float32)

    def run(self, inputs: Tensor, state: Any = None, history: list[Any] | None = None) -> Any:
        """Runs the network over sequences.

        Args:
            inputs: Inputs, ``[M, T, I]``.
            state: State to go on from; ``None`` for the initial state.
            history: List to which the state after each step is appended, for example to plot the
                attention.

        Returns:
            Logits ``[M, T, O]``, and the last state.

        Raises:
            ValueError: The state has another number of sequences.
        """
        cell: Any = self.network
        state = cell.initial_state(len(inputs)) if state is None else state
        if len(state[0]) != len(inputs):
            raise ValueError(f"{len(inputs)} tasks, but a state of {len(state[0])}")
        if history is None and hasattr(cell, "unroll"):
            return cell.unroll(inputs, state)
        outputs = []
        for step in inputs.unbind(dim=1):
            output, state = cell(step, state)
            outputs.append(output)
            if history is not None:
                history.append(state)
        return torch.stack(outputs, dim=1), state

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes a gradient step on the cross-entropy of the output bits."""
        batch = self.check_batch(batch)
        loss = self._cross_entropy(batch)
        bits = loss.detach() * batch.query_y[0].numel() / math.log(2)
        self.step(loss)
        return {"loss": loss, "bits_per_sequence": bits}

    @torch.no_grad()
    def bits_per_sequence(self, tasks: Any, num_tasks: int, rng: np.random.Generator) -> float:
        """Measures the mean cross-entropy of a sequence in bits, the cost in the paper's figures.

        Args:
            tasks: Distribution of tasks, or split, whose test tasks are used.
            num_tasks: Number of sequences, which have one length.
            rng: Generator of the draw.
        """
        tasks = getattr(tasks, "test", tasks)
        check_has("tasks", tasks, ["sample_tasks"], TASKS_WANTED)
        batch = self.check_batch(tasks.sample_tasks(num_tasks, rng))
        return float(self._cross_entropy(batch)) * batch.query_y[0].numel() / math.log(2)

    def _cross_entropy(self, batch: FewShotTasks) -> Tensor:
        """Returns the mean cross-entropy of the output bits, in nats."""
        _, state = self.run(batch.support_x)
        outputs, _ = self.run(batch.query_x, state)
        return functional.binary_cross_entropy_with_logits(outputs, batch.query_y)

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[-1] != self.input_size:
            raise ValueError(
                f"inputs of shape {tuple(x.shape)} are no [tasks, steps, {self.input_size}]"
            )


class NTMLearner(SequenceLearner):
    """Learner with a Neural Turing Machine, trained with Adam on batches.

    The paper has RMSProp on single sequences; the other settings are those of its table for copy.

    Args:
        input_size: Number of features of an input, such as ``tasks.input_size``.
        output_size: Number of features of an output, such as ``tasks.output_size``.
        slots: Number of slots of the memory.
        width: Width of a slot.
        read_heads: Number of reading heads.
        write_heads: Number of writing heads.
        hidden: Number of units of the controller.
        controller: Kind of the controller: ``"lstm"`` or ``"feedforward"``.
        max_grad_norm: Maximum norm of the gradient; longer gradients are scaled to it.
        meta_batch_size: Number of sequences in an update.
        seed: Seed of all draws and of the first weights (default: from the system's entropy).
        **settings: Further arguments of :class:`.FewShotLearner`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        hidden: int = 100,
        controller: str = "lstm",
        max_grad_norm: float = 10.0,
        meta_batch_size: int = 16,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        with first_weights(seed):
            network = NTM(
                input_size,
                output_size,
                slots=slots,
                width=width,
                read_heads=read_heads,
                write_heads=write_heads,
                hidden=hidden,
                controller=controller,
            )
        settings |= {"meta_batch_size": meta_batch_size, "seed": seed}
        super().__init__(network, input_size, max_grad_norm, **settings)

    @torch.no_grad()
    def attention(self, batch: FewShotTasks) -> Tensor:
        """Returns the weights of the heads over the slots at each step, ``[M, S + Q, H, N]``."""
        history: list[Any] = []
        batch = self.check_batch(batch)
        self.run(torch.cat([batch.support_x, batch.query_x], dim=1), None, history)
        return torch.stack([state.weights for state in history], dim=1)


class LSTMLearner(SequenceLearner):
    """Learner with layers of LSTM, the paper's baseline (3 layers of 256 units for copy).

    Args:
        input_size: Number of features of an input.
        output_size: Number of features of an output.
        hidden: Number of units of a layer.
        layers: Number of layers.
        max_grad_norm: Maximum norm of the gradient; longer gradients are scaled to it.
        meta_batch_size: Number of sequences in an update.
        seed: Seed of all draws and of the first weights (default: from the system's entropy).
        **settings: Further arguments of :class:`.FewShotLearner`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        hidden: int = 256,
        layers: int = 3,
        max_grad_norm: float = 10.0,
        meta_batch_size: int = 16,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        with first_weights(seed):
            network = LSTM(input_size, output_size, hidden, layers)
        settings |= {"meta_batch_size": meta_batch_size, "seed": seed}
        super().__init__(network, input_size, max_grad_norm, **settings)
