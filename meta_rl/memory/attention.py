"""Causal attention to the steps of a trial, with a cache of keys and values."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.memory import MemoryCore, MemoryState


class AttentionCore(MemoryCore):
    """A transformer (Vaswani et al., 2017) that attends to the last steps of its trial.

    Blocks normalise their input first (Xiong et al., 2020): ``x += attend(norm(x))``, then
    ``x += mlp(norm(x))``. Keys and queries are rotated by their step (Su et al., 2021, "RoFormer",
    equation 34), so that their product depends on the distance between two steps alone.

    Whole trials are one pass. Acting keeps a cache of the latest :attr:`capacity` keys and values,
    a ring: older steps are forgotten, in whole trials too. A reset sets the number of steps to
    zero, which hides what the cache holds; the cache itself is neither copied nor cleared.

    The state is ``(steps, keys, values, keys, values, ...)``: the number of steps of the trial so
    far, int ``[N, 1]``, and rotated keys and values of each layer, ``[N, heads, capacity, H /
    heads]``. A step within ``torch.inference_mode()`` writes into the cache that it is given.

    This core is meant for a GPU: on a CPU it trains and acts several times slower than a GRU.

    Attributes:
        num_layers: Number of blocks.
        most_heads: Largest number of heads; fewer where they would not have an even size.
        capacity: Number of steps that are attended to, the latest one included. It is the time
            scale of :meth:`set_time_scales`, that is, a whole trial (before: 512).
    """

    num_layers = 2
    most_heads = 4
    capacity: Tensor
    gains: ClassVar[dict[str, float]] = {
        f"blocks.{block}.{layer}": 0.5 for block in range(2) for layer in ("mix", "mlp.2")
    }

    def __init__(self, input_size: int, hidden_size: int, key_size: int = 0) -> None:
        super().__init__()
        if hidden_size % 2:
            raise ValueError(f"hidden_size={hidden_size}: core 'attention' needs an even number")
        self.input_size, self.output_size = input_size, hidden_size
        self.num_heads = math.gcd(hidden_size // 2, self.most_heads)
        self.register_buffer("capacity", torch.tensor(512))
        self.embedding = nn.Linear(input_size, hidden_size)
        self.blocks = nn.ModuleList(
            Block(hidden_size, self.num_heads) for _ in range(self.num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def initial_state(self, num: int) -> MemoryState:
        """Returns no steps, and an empty cache."""
        zeros = self.norm.weight.new_zeros
        shape = (num, self.num_heads, int(self.capacity), self.output_size // self.num_heads)
        caches = [zeros(shape) for _ in range(2 * self.num_layers)]
        return (zeros((num, 1), dtype=torch.int64), *caches)

    def forward(self, inputs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Runs over inputs ``[T, N, I]``."""
        steps, *caches = state
        window = Window(steps, len(inputs), caches[0])
        hidden = self.embedding(inputs.transpose(0, 1))
        after = []
        for block, keys, values in zip(self.blocks, caches[::2], caches[1::2], strict=True):
            hidden, *cache = block(hidden, window, keys, values)
            after += cache
        return self.norm(hidden).transpose(0, 1), (steps + len(inputs), *after)

    def reset(self, state: MemoryState, begins: Tensor) -> MemoryState:
        """Returns the state with no steps where a trial begins; the cache stays as it is."""
        steps, *caches = state
        return (steps.masked_fill(begins[:, None], 0), *caches)

    def set_time_scales(self, longest: int, generator: torch.Generator) -> None:
        """Sets the capacity to ``longest`` steps."""
        self.capacity.fill_(longest)


class Window:
    """Where the inputs of a pass are in their trials, and what each of them attends to.

    Args:
        steps: Number of steps before the first input, ``[N, 1]``.
        length: Number of inputs, T.
        cache: A cache, ``[N, heads, C, D]``.

    Attributes:
        rotations: Cosines and sines of the inputs' rotations, ``[N or 1, 1, T, D / 2]``.
    """

    def __init__(self, steps: Tensor, length: int, cache: Tensor) -> None:
        capacity, size = cache.shape[2:]
        most = int(steps.max())
        self.is_first, self.is_step = most == 0, length == 1
        ahead = torch.arange(length, device=steps.device)
        at = steps[:1] + ahead if self.is_first else steps + ahead
        rates = 1e4 ** -(torch.arange(0, size, 2, device=steps.device) / size)
        angles = at[:, None, :, None] * rates
        self.rotations = angles.cos().to(cache.dtype), angles.sin().to(cache.dtype)
        kept = ahead[-capacity:] + steps  # those that stay in the cache
        self.slots = (kept % capacity)[:, None, :, None].expand(-1, cache.shape[1], -1, size)
        self.used = min(most + 1, capacity)  # slots that hold anything, after a step
        self.mask = self._visible(steps, at, capacity)

    def _visible(self, steps: Tensor, at: Tensor, capacity: int) -> Tensor | None:
        """Returns what each input attends to, bool ``[N or 1, 1, T, keys]``; ``None``: all before.

        A step sees the cache, which holds it; the first inputs of trials see themselves; others
        see the cache and themselves.
        """
        slots = torch.arange(capacity, device=steps.device)
        if self.is_step:
            return (slots[: self.used] <= steps)[:, None, None]
        if self.is_first and at.shape[1] <= capacity:
            return None
        stored = steps - 1 - (steps - 1 - slots) % capacity  # the step that a slot holds
        keys = at if self.is_first else torch.cat([stored, at], dim=1)
        distance = at[:, :, None] - keys[:, None]
        return ((distance >= 0) & (distance < capacity) & (keys >= 0)[:, None])[:, None]

    def rotate(self, vectors: Tensor) -> Tensor:
        """Rotates keys or queries ``[N, heads, T, D]`` by their steps."""
        cosines, sines = self.rotations
        left, right = vectors.chunk(2, dim=-1)
        return torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=-1)

    def stored(self, cache: Tensor, latest: Tensor) -> Tensor:
        """Returns the cache with the latest keys or values ``[N, heads, T, D]`` in it."""
        write = cache.scatter_ if torch.is_inference_mode_enabled() else cache.scatter
        return write(2, self.slots, latest[:, :, -cache.shape[2] :])


class Block(nn.Module):
    """A block of the transformer: attention, then two layers for each step alone."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before = nn.LayerNorm(size)
        self.parts = nn.Linear(size, 3 * size, bias=False)  # queries, keys, values
        self.mix = nn.Linear(size, size)
        self.between = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(
        self, hidden: Tensor, window: Window, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps ``[N, T, H]`` to the same shape, and returns the new cache too."""
        parts = self.parts(self.before(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = window.rotate(query), window.rotate(key)
        seen_keys, seen_values = key, value
        if not (window.is_first or window.is_step):  # before the cache is written
            seen_keys, seen_values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        cache = window.stored(keys, key), window.stored(values, value)
        if window.is_step:
            seen_keys, seen_values = (part[:, :, : window.used] for part in cache)
        seen = functional.scaled_dot_product_attention(
            query, seen_keys, seen_values, window.mask, is_causal=window.mask is None
        )
        hidden = hidden + self.mix(seen.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.between(hidden)), *cache
