"""A perceptron as one operation equals its layers: outputs, gradients and what is made of these.

Within ``vmap`` and ``torch.func.grad``, by plain autograd, for one task and for several, with one
layer and with many.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from meta_rl.policy_gradient.perceptron import perceptron

TASKS, STEPS = 3, 7
Params = list[Tensor]


def by_layers(x: Tensor, layers: list[tuple[Tensor, Tensor]], activation: str) -> Tensor:
    for weight, bias in layers[:-1]:
        x = getattr(torch, activation)(x @ weight.mT + bias[..., None, :])
    return x @ layers[-1][0].mT + layers[-1][1][..., None, :]


def draws(sizes: tuple[int, ...], *axes: int) -> tuple[Params, Tensor, Tensor]:
    """Weights and biases, inputs and targets."""
    generator = torch.Generator().manual_seed(len(sizes))

    def draw(*shape: int) -> Tensor:
        return torch.randn((*axes, *shape), dtype=torch.float64, generator=generator)

    params = []
    for before, after in itertools.pairwise(sizes):
        params += [draw(after, before) / before**0.5, draw(after)]
    return params, draw(STEPS, sizes[0]), draw(STEPS, sizes[-1])


def outputs(function: object, params: Params, x: Tensor, activation: str) -> Tensor:
    return function(x, list(zip(params[::2], params[1::2], strict=True)), activation)


SIZES = [(4, 2), (4, 5, 2), (3, 7, 6, 2), (2, 4, 3, 5, 1)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
class TestEqualsItsLayers:
    @pytest.mark.parametrize("axes", [(), (TASKS,)], ids=str)
    def test_by_plain_autograd(
        self, sizes: tuple[int, ...], activation: str, axes: tuple[int, ...]
    ) -> None:
        """Outputs, gradients, and the gradient of a function of the gradients."""
        values, x, y = draws(sizes, *axes)
        found = []
        for function in (perceptron, by_layers):
            params = [value.clone().requires_grad_() for value in values]
            out = outputs(function, params, x, activation)
            loss = (out - y).square().mul(out.cos()).sum()
            first = torch.autograd.grad(loss, params, create_graph=True)
            bent = sum((gradient.square() * gradient).sum() for gradient in first)
            found.append([out, *first, *torch.autograd.grad(bent, params)])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_through_two_inner_steps(
        self, sizes: tuple[int, ...], activation: str, chunk_size: int | None
    ) -> None:
        """The meta-gradient of shared parameters, in ``vmap`` over tasks."""
        params, *_ = draws(sizes)
        _, x, y = draws(sizes, TASKS)
        found = []
        for function in (perceptron, by_layers):

            def loss(params: Params, x: Tensor, y: Tensor, function: object = function) -> Tensor:
                return (outputs(function, params, x, activation) - y).square().mean()

            def adapted(params: Params, x: Tensor, y: Tensor, loss: object = loss) -> Tensor:
                for _ in range(2):
                    gradients = grad(loss)(params, x, y)
                    pairs = zip(params, gradients, strict=True)
                    params = [value - 0.1 * gradient for value, gradient in pairs]
                return loss(params, x, y)

            in_dims = (None, 0, 0)
            found.append(vmap(grad(adapted), in_dims, chunk_size=chunk_size)(params, x, y))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("order", [3, 4])
    def test_further_derivatives(self, sizes: tuple[int, ...], activation: str, order: int) -> None:
        """Beyond what is written out, by plain autograd and within ``vmap``."""
        values, x, y = draws(sizes)
        found = []
        for function in (perceptron, by_layers):

            def total(params: Params, x: Tensor, function: object = function) -> Tensor:
                return (outputs(function, params, x, activation) - y).sin().mean()

            for _ in range(order - 1):

                def total(params: Params, x: Tensor, inner: object = total) -> Tensor:
                    return sum(gradient.sin().sum() for gradient in grad(inner)(params, x))

            of_tasks = vmap(grad(total), (None, 0))(values, torch.stack([x, x.cos()]))
            params = [value.clone().requires_grad_() for value in values]
            value = (outputs(function, params, x, activation) - y).sin().mean()
            for _ in range(order - 1):
                gradients = torch.autograd.grad(value, params, create_graph=True)
                value = sum(gradient.sin().sum() for gradient in gradients)
            found.append([*of_tasks, *torch.autograd.grad(value, params)])
        torch.testing.assert_close(*found, rtol=1e-8, atol=1e-9)
        assert found[0][0].abs().max() > 1e-6

    def test_some_layers_only(self, sizes: tuple[int, ...], activation: str) -> None:
        """Only the last layer adapts (ANIL), and what is made of its gradient reaches all."""
        values, x, y = draws(sizes)
        found = []
        for function in (perceptron, by_layers):
            params = [value.clone().requires_grad_() for value in values]
            loss = (outputs(function, params, x, activation) - y).square().mean()
            head = torch.autograd.grad(loss, params[-2:], create_graph=True)
            total = sum(gradient.square().sum() for gradient in head)
            found.append(torch.autograd.grad(total, params))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)

    def test_outputs_that_nothing_bends(self, sizes: tuple[int, ...], activation: str) -> None:
        """A loss that is linear in them: its Hessian is the network's own."""
        values, x, _ = draws(sizes)
        found = []
        for function in (perceptron, by_layers):
            params = [value.clone().requires_grad_() for value in values]
            first = torch.autograd.grad(
                outputs(function, params, x, activation).sum(), params, create_graph=True
            )
            total = sum(gradient.square().sum() for gradient in first)
            found.append(
                torch.autograd.grad(total, params, allow_unused=True, materialize_grads=True)
                if total.requires_grad
                else [torch.zeros_like(value) for value in values]
            )
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_vmap_within_vmap() -> None:
    """Seeds of tasks, each with weights of its own."""
    params, x, _ = draws((3, 4, 2), 2, TASKS)
    found = vmap(vmap(lambda p, x: outputs(perceptron, p, x, "relu")))(params, x)
    torch.testing.assert_close(found, by_layers(x, [tuple(params[:2]), tuple(params[2:])], "relu"))


def test_nothing_is_written_into() -> None:
    params, x, y = draws((3, 4, 2))
    copies = [value.clone() for value in (*params, x)]
    leaves = [value.requires_grad_() for value in params]
    (outputs(perceptron, leaves, x, "relu") - y).square().sum().backward()
    for value, copy in zip((*params, x), copies, strict=True):
        assert torch.equal(value, copy)


@pytest.mark.parametrize("activation", ["gelu", ""])
def test_unknown_activation(activation: str) -> None:
    params, x, _ = draws((3, 4, 2))
    with pytest.raises(ValueError, match=f"activation '{activation}': relu, tanh exist"):
        outputs(perceptron, params, x, activation)


def test_inputs_have_no_gradient() -> None:
    params, x, _ = draws((3, 4, 2))
    with pytest.raises(ValueError, match="computes none with respect to x"):
        outputs(perceptron, params, x.requires_grad_(), "relu")
