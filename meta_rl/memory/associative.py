"""A memory that looks up what happened where the agent was before."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from meta_rl.memory import MemoryCore, MemoryState


class AssociativeCore(MemoryCore):
    """A core with fast weights, which the observation looks up: what happened here before.

    A transition is stored under the observation in which it began, and is found again wherever the
    agent meets a similar one:

        ``key_t = softmax(K o_t)``, ``M_t = M_{t-1} + key_{t-1} v_t^T``, ``read_t = M_t^T key_t``,

    with ``v_t = relu(W [x_{t-1}, x_t])``. This is linear attention (Katharopoulos et al., 2020,
    section 3.4), that is, fast weights (Schmidhuber, 1992), with one map for keys and queries.
    Beside the sum ``read``, the output has its mean and the amount that was stored there. A second
    layer stores the outputs of the first one, so that values propagate backwards in time.

    No matrix product depends on the step before, so that a whole sequence is a few large products.

    The state is ``(previous input, sum of keys, M of each layer)``: ``[N, I]``, ``[N, K]`` and
    ``[N, K, V]``.

    Attributes:
        num_keys: Size of the keys, K.
        value_size: Size of the stored values, V.
        num_layers: Number of layers.
    """

    num_keys = 32
    value_size = 64
    num_layers = 2
    gains: ClassVar[dict[str, float]] = {"key": 20.0}  # separates observations from the start

    def __init__(self, input_size: int, hidden_size: int, key_size: int) -> None:
        super().__init__()
        self.input_size, self.key_size = input_size, key_size
        known = [2 * input_size] + [2 * input_size + hidden_size] * (self.num_layers - 1)
        read_size = 2 * self.value_size + 1
        self.output_size = hidden_size + read_size
        self.key = nn.Linear(key_size, self.num_keys)
        self.value = nn.ModuleList(nn.Linear(size, self.value_size) for size in known)
        self.mix = nn.ModuleList(nn.Linear(read_size + size, hidden_size) for size in known)

    def initial_state(self, num: int) -> MemoryState:
        """Returns zeros."""
        zeros = self.key.weight.new_zeros
        memories = [zeros(num, self.num_keys, self.value_size) for _ in range(self.num_layers)]
        return (zeros(num, self.input_size), zeros(num, self.num_keys), *memories)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        before, stored_keys, *memories = state
        sequence = torch.cat([before[None], inputs])
        pairs = torch.cat([sequence[:-1], inputs], dim=-1)
        keys = self.key(sequence[..., : self.key_size]).softmax(dim=-1).transpose(0, 1)
        begun = sequence[:-1].any(dim=-1).T[..., None]  # the first input has none before it
        written, looked_up = keys[:, :-1] * begun, keys[:, 1:]
        similar = (looked_up @ written.mT).tril()  # [N, T, T]: step t finds those up to t
        amount = (similar.sum(dim=-1) + (looked_up @ stored_keys[..., None])[..., 0])[..., None]
        known = pairs
        for layer, memory in enumerate(memories):
            values = self.value[layer](known).relu().transpose(0, 1)
            total = similar @ values + looked_up @ memory
            memories[layer] = memory + written.mT @ values
            read = torch.cat([0.3 * total, total / (amount + 0.1), amount.log1p()], dim=-1)
            read = read.transpose(0, 1)
            mixed = self.mix[layer](torch.cat([read, known], dim=-1)).relu()
            known = torch.cat([pairs, mixed], dim=-1)
        return torch.cat([mixed, read], dim=-1), (
            inputs[-1],
            stored_keys + written.sum(dim=1),
            *memories,
        )

    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Does nothing, since this core does not forget."""
