"""Strided convolutions for all tasks at once, with their gradient written out.

Each task has its own weights, so that a convolution of a meta-batch is a batch of matrix products
of 3 × 3 patches and weights. Channels are the last axis, so that ``torch.compile`` makes one kernel
of all other operations. It saves 17 % of a compiled update of Reptile on Omniglot, compared with
the plain network, compiled too (``benchmarks/results/hand_written.md``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.few_shot.networks.batch_norm import BatchNorm
from meta_rl.inner_loop import Params


class StridedConv4:
    """Loss and gradient of a classifier :func:`.conv4` with strides.

    The weights are *packed*: those of a convolution are ``[9 inputs, outputs]``, those of the head
    ``[features, ways]`` with features in the order of positions, then channels.

    Args:
        network: Network for which :meth:`fits` is true.
    """

    def __init__(self, network: nn.Module) -> None:
        body = network.body
        assert isinstance(body, nn.Sequential)
        self.convolutions = [f"body.{i}" for i, m in enumerate(body) if isinstance(m, nn.Conv2d)]
        self.norms = [f"body.{i}" for i, m in enumerate(body) if isinstance(m, BatchNorm)]
        self.eps = [module.eps for module in body if isinstance(module, BatchNorm)]
        self.hidden = len(network.get_parameter("body.0.bias"))

    @staticmethod
    def fits(network: nn.Module) -> bool:
        """Returns whether a network is a ``conv4`` classifier with strides and norm="task"."""
        body, head = getattr(network, "body", None), getattr(network, "head", None)
        if not isinstance(body, nn.Sequential) or not isinstance(head, nn.Linear):
            return False
        convolutions = [module for module in body if isinstance(module, nn.Conv2d)]
        kinds = [nn.Conv2d, BatchNorm, nn.ReLU] * len(convolutions) + [nn.Flatten]
        if not convolutions or [type(module) for module in body] != kinds:
            return False
        if any(layer.bias is None for layer in (*convolutions, head)):
            return False
        return all(
            (c.kernel_size, c.stride, c.padding, c.dilation, c.groups, c.out_channels)
            == ((3, 3), (2, 2), (1, 1), (1, 1), 1, convolutions[0].out_channels)
            for c in convolutions
        )

    def pack(self, params: Params) -> Params:
        """Packs the network's parameters, by name, as :meth:`gradient` takes them."""
        packed = dict(params)
        for name in self.convolutions:
            weight = params[f"{name}.weight"].permute(2, 3, 1, 0)
            packed[f"{name}.weight"] = weight.flatten(0, 2).contiguous()
        head = params["head.weight"].unflatten(1, (self.hidden, -1)).permute(2, 1, 0)
        packed["head.weight"] = head.flatten(0, 1).contiguous()
        return packed

    def unpack(self, params: Params) -> Params:
        """Unpacks parameters: the inverse of :meth:`pack`."""
        unpacked = dict(params)
        for name in self.convolutions:
            weight = params[f"{name}.weight"].unflatten(0, (3, 3, -1)).permute(3, 2, 0, 1)
            unpacked[f"{name}.weight"] = weight.contiguous()
        head = params["head.weight"].unflatten(0, (-1, self.hidden)).permute(2, 1, 0)
        unpacked["head.weight"] = head.flatten(1, 2).contiguous()
        return unpacked

    def gradient(self, params: Params, x: Tensor, y: Tensor) -> tuple[Params, Tensor]:
        """Returns the gradient of the mean cross-entropy of each task.

        Args:
            params: Packed parameters by name, ``[M, ...]``.
            x: Images, ``[M, B, channels, size, size]``.
            y: Labels, ``[M, B]``.

        Returns:
            The packed gradient, and the losses ``[M]``. The gradient of a convolution's bias is
            zero, since the normalisation removes the bias.
        """
        num_tasks, num = y.shape
        blocks = []
        activations = x.permute(0, 1, 3, 4, 2)
        for conv, norm, eps in zip(self.convolutions, self.norms, self.eps, strict=True):
            block = _forward_block(params, activations, conv, norm, eps)
            blocks.append(block)
            width = (activations.shape[2] + 1) // 2
            activations = block.outputs.view(num_tasks, num, width, width, self.hidden)
        features = activations.flatten(2)
        logits = torch.baddbmm(params["head.bias"][:, None], features, params["head.weight"])
        log_probabilities = logits.log_softmax(dim=-1)
        losses = -log_probabilities.gather(2, y[..., None]).mean(dim=(1, 2))
        truth = functional.one_hot(y, logits.shape[-1])
        error = (log_probabilities.exp() - truth) / num
        gradients = {"head.weight": features.mT @ error, "head.bias": error.sum(dim=1)}
        back = (error @ params["head.weight"].mT).view_as(blocks[-1].outputs)
        for block in reversed(blocks):
            back, found = _backward_block(params, block, back)
            gradients |= found
            if block is not blocks[0]:
                back = _sum_patches(
                    back.view(num_tasks, num, block.width, block.width, 3, 3, self.hidden),
                    block.size,
                ).flatten(1, 3)
        return {name: gradients[name] for name in params}, losses


class _Block(NamedTuple):
    """Data for a block's gradient: names, sizes, and tensors ``[M, B width², channels]``."""

    conv: str
    norm: str
    size: int
    width: int
    patches: Tensor
    normal: Tensor
    scale: Tensor
    outputs: Tensor


def _forward_block(params: Params, x: Tensor, conv: str, norm: str, eps: float) -> _Block:
    """Computes a convolution, batch normalisation and ReLU of ``x [M, B, size, size, C]``."""
    size = x.shape[2]
    width = (size + 1) // 2
    patches = _patches(x, width)
    products = patches @ params[f"{conv}.weight"]  # the normalisation would remove the bias
    centred = products - products.mean(dim=1, keepdim=True)
    scale = (centred.square().mean(dim=1, keepdim=True) + eps).rsqrt()
    normal = centred * scale
    gain, shift = params[f"{norm}.weight"][:, None], params[f"{norm}.bias"][:, None]
    outputs = functional.relu(normal * gain + shift)
    return _Block(conv, norm, size, width, patches, normal, scale, outputs)


def _backward_block(params: Params, block: _Block, back: Tensor) -> tuple[Tensor, Params]:
    """Maps the gradient of the block's outputs to those of its patches and its parameters."""
    conv, norm = block.conv, block.norm
    back = back * (block.outputs > 0)
    shift, gain = back.sum(dim=1), (back * block.normal).sum(dim=1)
    num = back.shape[1]
    # Ioffe and Szegedy (2015), section 3, with the two sums collected.
    back = back - (shift / num)[:, None] - block.normal * (gain / num)[:, None]
    back = back * (params[f"{norm}.weight"][:, None] * block.scale)
    gradients = {
        f"{conv}.weight": block.patches.mT @ back,
        f"{conv}.bias": torch.zeros_like(params[f"{conv}.bias"]),
        f"{norm}.weight": gain,
        f"{norm}.bias": shift,
    }
    return back @ params[f"{conv}.weight"].mT, gradients


def _patches(x: Tensor, width: int) -> Tensor:
    """Returns patches of 3 × 3 with stride 2 and padding 1, ``[M, B width², 9 channels]``."""
    padded = functional.pad(x, (0, 0, 1, 1, 1, 1))
    steps = [slice(start, start + 2 * width - 1, 2) for start in range(3)]
    return torch.cat([padded[:, :, i, j] for i in steps for j in steps], dim=-1).flatten(1, 3)


def _sum_patches(patches: Tensor, size: int) -> Tensor:
    """Sums patches ``[M, B, width, width, 3, 3, C]``: the transpose of :func:`_patches`."""
    rows = _sum_interleaved(patches.transpose(3, 4), 2, size)
    return _sum_interleaved(rows, 3, size)


def _sum_interleaved(parts: Tensor, dim: int, size: int) -> Tensor:
    """Sums overlapping patches along an axis; the next axis has the three parts of a patch.

    With padding 1 and stride 2 the middle part of a patch lies at every second entry. Its last part
    lies at the entry after it, together with the first part of the next patch.
    """
    first, middle, last = parts.unbind(dim + 1)
    length = first.shape[dim]
    none = torch.zeros_like(first.narrow(dim, 0, 1))
    following = torch.cat([first.narrow(dim, 1, length - 1), none], dim)
    return (
        torch.stack([middle, last + following], dim + 1).flatten(dim, dim + 1).narrow(dim, 0, size)
    )
