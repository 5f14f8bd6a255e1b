"""The inner loop: gradients through it.

Second-order meta-gradients equal algebra worked by hand, finite differences, and an independent
loop of autograd; first-order ones differ by the known term. Vmapped, chunked, looped and traced for
compilation agree. Step sizes by name (Meta-SGD, ANIL) are worked by hand. Nothing that is given is
written to; what does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, jacrev, vjp, vmap
from torch.nn import functional

from meta_rl.compute.finite_state import is_finite
from meta_rl.inner_loop import (
    Params,
    adapt,
    adapt_tasks,
    autograd_gradient,
    count_support,
    detached,
    meta_gradient,
    meta_loss,
    of_every_task,
    pull_back,
    summed,
    task_gradients,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cubic(params: Params, c: Tensor) -> Tensor:
    """``c x³ / 3``: its gradient is ``c x²``, its second derivative ``2 c x``."""
    return c * params["x"] ** 3 / 3


def distance(params: Params, target: Tensor) -> Tensor:
    """``(x - target)² / 2``."""
    return (params["x"] - target).square() / 2


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class TestByHand:
    """The loss ``c x³ / 3``, from x = 2 with c = 1 and α = 0.1.

    A step gives ``x - α c x²``, whose derivative is ``1 - 2 α c x``: 1.6 and 0.6, and then 1.344
    and 0.68. With targets one below, the outer gradient at the adapted parameter is 1.
    """

    @pytest.mark.parametrize(("num_steps", "adapted"), [(0, 2.0), (1, 1.6), (2, 1.344)])
    def test_adapted_parameter(self, num_steps: int, adapted: float) -> None:
        result = adapt(cubic, {"x": number(2.0)}, number(1.0), lr=0.1, num_steps=num_steps)
        assert result["x"].item() == pytest.approx(adapted, abs=1e-15)

    @pytest.mark.parametrize(
        ("num_steps", "target", "second_order"),
        [(0, 1.0, 1.0), (1, 0.6, 0.6), (2, 0.344, 0.6 * 0.68)],
    )
    def test_second_order_gradient(
        self, num_steps: int, target: float, second_order: float
    ) -> None:
        """The product of the derivatives of the steps, times 1."""

        def outer(params: Params) -> Tensor:
            adapted = adapt(cubic, params, number(1.0), lr=0.1, num_steps=num_steps)
            return distance(adapted, number(target))

        assert grad(outer)({"x": number(2.0)})["x"].item() == pytest.approx(second_order)

    def test_first_order_gradient_lacks_the_known_term(self) -> None:
        """The gradient at the adapted parameter, 1: α times the Hessian, 0.1 * 4, is missing."""

        def outer(params: Params, first_order: bool) -> Tensor:
            adapted = adapt(cubic, params, number(1.0), lr=0.1, first_order=first_order)
            return distance(adapted, number(0.6))

        params = {"x": number(2.0)}
        first, second = (grad(outer)(params, order)["x"].item() for order in (True, False))
        assert first == pytest.approx(1.0)
        assert first - second == pytest.approx(0.1 * 4.0 * 1.0)

    def test_meta_batch(self) -> None:
        """Tasks c = 1, 0.5, -1 from x = 2: 1.6, 1.8 and 2.4, with derivatives 0.6, 0.8, 1.4.

        Targets 0.6, 0 and 2: losses 1/2, 1.62 and 0.08, gradients 0.6, 1.44 and 0.56, of which the
        meta-gradient is the mean.
        """
        params = {"x": number(2.0).requires_grad_()}
        support = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)
        query = torch.tensor([0.6, 0.0, 2.0], dtype=torch.float64)
        losses = meta_loss(cubic, distance, params, support, query, lr=0.1)
        assert losses.tolist() == pytest.approx([0.5, 1.62, 0.08])
        losses.mean().backward()
        assert params["x"].grad.item() == pytest.approx((0.6 + 1.44 + 0.56) / 3)
        fast = adapt_tasks(cubic, params, support, lr=0.1)
        assert fast["x"].tolist() == pytest.approx([1.6, 1.8, 2.4])
        # Fast weights go on: 1.6 - 0.1 * 2.56, 1.8 - 0.05 * 3.24, 2.4 + 0.1 * 5.76.
        again = adapt_tasks(cubic, fast, support, lr=0.1, stacked=True)
        assert again["x"].tolist() == pytest.approx([1.344, 1.638, 2.976])

    def test_step_size_is_learned(self) -> None:
        """Meta-SGD: the derivative by α is minus the product of both gradients, 1 * 4."""

        def outer(alpha: dict[str, Tensor]) -> Tensor:
            adapted = adapt(cubic, {"x": number(2.0)}, number(1.0), lr=alpha)
            return distance(adapted, number(0.6))

        assert grad(outer)({"x": number(0.1)})["x"].item() == pytest.approx(-4.0)

    def test_step_size_of_each_entry(self) -> None:
        """A tensor like the parameter: x - α x² with α = 0.1, 0.2, 0."""
        alpha = {"x": torch.tensor([0.1, 0.2, 0.0])}
        result = adapt(
            lambda params, c: cubic(params, c).sum(), {"x": torch.full((3,), 2.0)}, 1.0, lr=alpha
        )
        assert result["x"].tolist() == pytest.approx([1.6, 1.2, 2.0])

    @pytest.mark.parametrize("first_order", [False, True])
    def test_only_the_head_is_adapted(self, first_order: bool) -> None:
        """ANIL: loss ``(v w - 1)² / 2`` at v = 3, w = 2 has the gradient ``(v w - 1) w`` = 10 by v.

        v becomes 3 - 0.1 * 10 = 2 and w stays. The outer loss ``v w`` has the derivatives w and v
        at the adapted values, 2 and 2, and through the adapted v: dv'/dv = 1 - 0.1 w² = 0.6 and
        dv'/dw = -0.1 (2 v w - 1) = -1.1. Together 2 * 0.6 = 1.2 by v, and 2 - 1.1 * 2 = -0.2 by w.
        """
        params = {"v": number(3.0), "w": number(2.0)}

        def inner(values: Params, target: Tensor) -> Tensor:
            return (values["v"] * values["w"] - target).square() / 2

        def outer(values: Params) -> Tensor:
            adapted = adapt(inner, values, number(1.0), lr={"v": 0.1}, first_order=first_order)
            assert list(adapted) == ["v", "w"]
            return adapted["v"] * adapted["w"]

        assert adapt(inner, params, number(1.0), lr={"v": 0.1}) == {"v": 2.0, "w": 2.0}
        gradient = grad(outer)(params)
        expected = (2.0, 2.0) if first_order else (1.2, -0.2)
        assert (gradient["v"].item(), gradient["w"].item()) == pytest.approx(expected)

    def test_first_order_steps_are_the_identity(self) -> None:
        """Their Jacobian; that of full steps has the Hessian."""

        def step(x: Tensor, first_order: bool) -> Tensor:
            return adapt(
                lambda params, c: cubic(params, c).sum(),
                {"x": x},
                number(1.0),
                lr=0.1,
                num_steps=2,
                first_order=first_order,
            )["x"]

        x = torch.tensor([2.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(jacrev(step)(x, True), torch.eye(2).double())
        second = 0.8 * (1 - 0.2 * 0.9)  # from 1: 0.9
        expected = torch.tensor([0.408, second], dtype=torch.float64).diag()
        torch.testing.assert_close(jacrev(step)(x, False), expected)


NUM_TASKS = 5
MODULE = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def network() -> Params:
    """Parameters in float64, which no test may change."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in MODULE.named_parameters()
    }


def squared_error(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = data
    return (functional_call(MODULE, params, (inputs,)) - targets).square().mean()


def regression(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs ``[M, 6, 2]`` and targets ``[M, 6, 1]``."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((NUM_TASKS, 6, 2), generator=generator, dtype=torch.float64)
    return inputs, torch.randn((NUM_TASKS, 6, 1), generator=generator, dtype=torch.float64)


def looped_gradient(first_order: bool = False, num_steps: int = 3) -> Params:
    """The meta-gradient by a loop of autograd over tasks and steps."""
    params = {name: value.requires_grad_() for name, value in network().items()}
    support, query = regression(1), regression(2)
    losses = []
    for task in range(NUM_TASKS):
        fast = dict(params)
        for _ in range(num_steps):
            loss = squared_error(fast, (support[0][task], support[1][task]))
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            fast = {
                name: value - 0.1 * gradient
                for (name, value), gradient in zip(fast.items(), gradients, strict=True)
            }
        losses.append(squared_error(fast, (query[0][task], query[1][task])))
    torch.stack(losses).mean().backward()
    return {name: value.grad for name, value in params.items()}


SUPPORT, QUERY = regression(1), regression(2)


def mean_loss(params: Params, **kwargs: Any) -> Tensor:
    kwargs = {"lr": 0.1, "num_steps": 3, **kwargs}
    return meta_loss(squared_error, squared_error, params, SUPPORT, QUERY, **kwargs).mean()


def gradient_of(losses: Any) -> Any:
    """The gradient of the losses of all tasks, as a function of parameters and data."""
    return lambda params, data: autograd_gradient(lambda v: summed(losses)(v, data))(params)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_hessian_vector_products(chunk_size: int | None) -> None:
    """Those of a network equal the products with its whole Hessian, one task after the other."""
    params = {name: torch.stack([value, value.cos(), -value]) for name, value in network().items()}
    data = (SUPPORT[0][:3], SUPPORT[1][:3])
    product = pull_back(gradient_of(vmap(squared_error)), params, data, chunk_size=chunk_size)
    for vector in (
        {name: value.sin() for name, value in params.items()},
        {name: value.exp() for name, value in params.items()},
    ):
        found = product(vector)
        for task in range(3):
            values = {name: value[task] for name, value in params.items()}
            blocks = jacrev(jacrev(squared_error))(values, (data[0][task], data[1][task]))
            for name, value in found.items():
                parts = [
                    blocks[name][other].reshape(value[task].numel(), -1)
                    @ vector[other][task].reshape(-1)
                    for other in params
                ]
                torch.testing.assert_close(value[task].reshape(-1), sum(parts))


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_gradients_of_tasks(chunk_size: int | None) -> None:
    """They are those of ``torch.func``, with the losses."""
    params = {name: torch.stack([value, value.cos(), -value]) for name, value in network().items()}
    data = (SUPPORT[0][:3], SUPPORT[1][:3])
    losses = vmap(squared_error)
    with torch.no_grad():
        found = task_gradients(losses, params, data, chunk_size=chunk_size)
    torch.testing.assert_close(found, vmap(grad_and_value(squared_error))(params, data))
    assert not any(value.requires_grad for value in (*found[0].values(), found[1]))
    with pytest.raises(ValueError, match="parameters of 3 tasks, but data of 2"):
        task_gradients(losses, params, (data[0][:2], data[1][:2]))


def test_shared_parameters_of_every_task() -> None:
    """Without a copy, and each task has a gradient of its own."""
    params = {"x": torch.tensor(2.0)}
    expanded = of_every_task(params, 3)
    assert expanded["x"].shape == (3,)
    assert expanded["x"].data_ptr() == params["x"].data_ptr()
    gradients, losses = task_gradients(cubic, expanded, torch.tensor([1.0, 2.0, 3.0]))
    assert gradients["x"].tolist() == [4.0, 8.0, 12.0]
    assert losses.tolist() == pytest.approx([8 / 3, 16 / 3, 8.0])


def test_hessian_vector_product_by_hand() -> None:
    """``c x³ / 3`` has the Hessian 2 c x: 12 at x = 3 with c = 2, and -4 at x = 1 with c = -2."""
    product = pull_back(
        gradient_of(cubic), {"x": torch.tensor([3.0, 1.0])}, torch.tensor([2.0, -2.0])
    )
    assert product({"x": torch.tensor([-0.5, 1.0])})["x"].tolist() == pytest.approx([-6.0, -4.0])
    with torch.no_grad():
        product = pull_back(
            gradient_of(lambda params, c: c * params["x"] + params["y"] ** 2),
            {"x": torch.ones(2), "y": torch.ones(2)},
            torch.ones(2),
        )
    found = product({"x": torch.ones(2), "y": torch.ones(2)})
    assert found["x"].tolist() == [0.0, 0.0]
    assert found["y"].tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="parameters of 2 tasks, but data of 3"):
        pull_back(gradient_of(cubic), {"x": torch.ones(2)}, torch.ones(3))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_gradients_through_a_step_of_all_tasks(chunk_size: int | None, first_order: bool) -> None:
    """A step on summed losses is that of ``adapt_tasks``, and so is the gradient through it."""
    params = {name: torch.stack([value, value.cos(), -value]) for name, value in network().items()}
    data = (SUPPORT[0][:3], SUPPORT[1][:3])
    vector = {name: value.sin() for name, value in params.items()}
    kwargs: Any = {"lr": 0.1, "num_steps": 2, "first_order": first_order}

    def step(values: Params, part: Any) -> Params:
        loss = summed(vmap(squared_error))
        return adapt(loss, values, part, gradient=autograd_gradient, **kwargs)

    def one_by_one(values: Params) -> Params:
        return adapt_tasks(squared_error, values, data, stacked=True, **kwargs)

    expected, products = vjp(one_by_one, params)
    torch.testing.assert_close(step(params, data), expected)
    found = pull_back(step, params, data, chunk_size=chunk_size)(vector)
    torch.testing.assert_close(found, products(vector)[0])
    assert all(not value.requires_grad for value in found.values())
    same = [torch.equal(found[name], vector[name]) for name in found]
    assert all(same) if first_order else not any(same)


class TestAgree:
    @pytest.mark.parametrize("first_order", [False, True])
    @pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 7])
    def test_chunks_and_a_loop(self, chunk_size: int | None, first_order: bool) -> None:
        ours = grad(mean_loss)(network(), chunk_size=chunk_size, first_order=first_order)
        expected = looped_gradient(first_order)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-12)
            assert value.abs().max() > 1e-3

    def test_first_order_is_something_else(self) -> None:
        one, other = looped_gradient(True), looped_gradient(False)
        assert (one["0.weight"] - other["0.weight"]).abs().max() > 1e-2

    def test_backward_and_functional(self) -> None:
        """``meta_loss(...).mean().backward()`` on the parameters of a module."""
        params = {name: value.requires_grad_() for name, value in network().items()}
        mean_loss(params).backward()
        for name, value in grad(mean_loss)(network()).items():
            torch.testing.assert_close(params[name].grad, value, rtol=1e-12, atol=1e-12)

    def test_finite_differences(self) -> None:
        """Central differences in float64, of every parameter."""
        params = network()
        gradient = grad(mean_loss)(params)
        for name, value in params.items():
            for index in range(value.numel()):
                step = torch.zeros_like(value)
                step.view(-1)[index] = 1e-5
                high, low = (mean_loss({**params, name: value + s}) for s in (step, -step))
                numeric = (high - low).item() / 2e-5
                assert gradient[name].view(-1)[index].item() == pytest.approx(numeric, abs=1e-8)

    def test_traced(self) -> None:
        """``torch.compile`` takes the whole meta-step as one graph (here without its back end)."""
        step = partial(meta_gradient, squared_error, squared_error, lr=0.1, num_steps=3)
        compiled = torch.compile(step, backend="eager", fullgraph=True)
        gradient, losses = compiled(network(), SUPPORT, QUERY)
        for name, value in gradient.items():
            torch.testing.assert_close(value, looped_gradient()[name], rtol=1e-12, atol=1e-12)
        assert losses.shape == (NUM_TASKS,)
        assert losses.mean().item() == pytest.approx(mean_loss(network()).item())

    @pytest.mark.parametrize("first_order", [False, True])
    @pytest.mark.parametrize("chunk_size", [None, 1, 2])
    def test_meta_gradient(self, chunk_size: int | None, first_order: bool) -> None:
        gradient, losses = meta_gradient(
            squared_error,
            squared_error,
            *(network(), SUPPORT, QUERY),
            lr=0.1,
            num_steps=3,
            chunk_size=chunk_size,
            first_order=first_order,
        )
        for name, value in looped_gradient(first_order).items():
            torch.testing.assert_close(gradient[name], value, rtol=1e-12, atol=1e-12)
        assert losses.mean().item() == pytest.approx(mean_loss(network()).item())

    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_batch_normalisation(self, chunk_size: int | None) -> None:
        """The fused layer has the gradient of one that is written out, in two layers of it.

        Backwards through vmap it has not (torch 2.13), which is why there is ``meta_gradient``:
        where this fails, torch was mended, and the exception can go from the docstrings.
        """

        def written_out(x: Tensor, scale: Tensor) -> Tensor:
            variance = x.var(dim=0, correction=0)
            return scale * (x - x.mean(dim=0)) / (variance + 1e-5).sqrt()

        def fused(x: Tensor, scale: Tensor) -> Tensor:
            return functional.batch_norm(x, None, None, weight=scale, training=True)

        def loss_with(normalised: Any) -> Any:
            def loss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
                hidden = normalised(data[0] @ params["first"], params["scale"]).tanh()
                hidden = normalised(hidden @ params["second"], params["scale"]).tanh()
                return (hidden.mean(dim=1) - data[1][:, 0]).square().mean()

            return loss

        generator = torch.Generator().manual_seed(0)
        params = {
            name: torch.randn((2, 2), generator=generator, dtype=torch.float64)
            for name in ("first", "second")
        }
        params["scale"] = torch.tensor([1.0, 2.0], dtype=torch.float64)
        found = {}
        for name, function in (("fused", fused), ("written out", written_out)):
            loss = loss_with(function)
            found[name], _ = meta_gradient(
                loss, loss, params, SUPPORT, QUERY, lr=0.5, chunk_size=chunk_size
            )

        def mean(values: Params, function: Any) -> Tensor:
            loss = loss_with(function)
            return meta_loss(loss, loss, values, SUPPORT, QUERY, lr=0.5).mean()

        exact = grad(mean)(params, written_out)
        wrong = grad(mean)(params, fused)
        for name in params:
            for gradient in found.values():
                torch.testing.assert_close(gradient[name], exact[name], rtol=1e-8, atol=1e-10)
        assert max((wrong[name] - exact[name]).abs().max() for name in params) > 1e-4

    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_adapted_tasks_are_those_of_one(self, chunk_size: int | None) -> None:
        """And two single steps, the second from fast weights, are two steps."""
        support = regression(1)
        fast = adapt_tasks(
            squared_error, network(), support, lr=0.1, num_steps=2, chunk_size=chunk_size
        )
        once = adapt_tasks(squared_error, network(), support, lr=0.1)
        twice = adapt_tasks(squared_error, once, support, lr=0.1, stacked=True)
        for task in range(NUM_TASKS):
            data = (support[0][task], support[1][task])
            alone = adapt(squared_error, network(), data, lr=0.1, num_steps=2)
            for name, value in alone.items():
                torch.testing.assert_close(fast[name][task], value)
                torch.testing.assert_close(twice[name][task], value)

    def test_random_losses_differ_by_task(self) -> None:
        """Dropout is drawn for each task."""
        module = torch.nn.Dropout(0.5)

        def loss(params: Params, data: Tensor) -> Tensor:
            return (module(data) * params["w"]).sum()

        with torch.random.fork_rng(devices=[]):
            fast = adapt_tasks(loss, {"w": torch.zeros(20)}, torch.ones(4, 20), lr=1.0)
        assert len(fast["w"].unique(dim=0)) == 4


def test_nothing_is_written_to() -> None:
    """Not the parameters, the data, the step sizes or the module."""
    params, support = network(), regression(1)
    sizes = {name: torch.full_like(value, 0.1) for name, value in params.items()}
    module = {name: value.clone() for name, value in MODULE.state_dict().items()}
    fast = adapt_tasks(squared_error, params, support, lr=sizes, num_steps=2)
    assert all((fast[name] != params[name]).any() for name in params)
    for name, value in network().items():
        assert torch.equal(params[name], value)
        assert torch.equal(sizes[name], torch.full_like(value, 0.1))
        assert torch.equal(MODULE.state_dict()[name], module[name])
    for ours, fresh in zip(support, regression(1), strict=True):
        assert torch.equal(ours, fresh)


def test_nests_of_data() -> None:
    """Dicts of tuples: a loss sees the same nest, of one task."""
    data = {"pair": (torch.ones(3), torch.zeros(3, 2))}
    assert count_support(data) == 3

    def loss(params: Params, given: Any) -> Tensor:
        assert given["pair"][1].shape == (2,)
        return params["x"] * given["pair"][0]

    assert adapt_tasks(loss, {"x": number(0.0)}, data, lr=1.0)["x"].tolist() == [-1, -1, -1]


def test_detached_values_are_outside_the_graph() -> None:
    params = {"x": number(2.0).requires_grad_()}
    assert not detached(adapt(cubic, params, number(1.0), lr=0.1))["x"].requires_grad
    assert adapt(cubic, params, number(1.0), lr=0.1)["x"].requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_finite_nests(bad: float) -> None:
    values = {"a": torch.ones(2), "b": (torch.zeros(1), [torch.ones(2, 2)])}
    assert is_finite(values)
    values["b"][1][0][1, 0] = bad
    assert not is_finite(values)


class TestRefused:
    def test_unknown_parameters(self) -> None:
        with pytest.raises(ValueError, match=r"step sizes for \['y'\].*are \['x'\]"):
            adapt(cubic, {"x": number(2.0)}, number(1.0), lr={"y": 0.1})

    @pytest.mark.parametrize("num_steps", [-1, 1.5, "2"])
    def test_numbers_of_steps(self, num_steps: Any) -> None:
        with pytest.raises(ValueError, match="num_steps has to be a whole number of at least 0"):
            adapt(cubic, {"x": number(2.0)}, number(1.0), lr=0.1, num_steps=num_steps)

    @pytest.mark.parametrize(
        "data", [(), {}, number(1.0), torch.ones(0, 2), (torch.ones(2), torch.ones(3))], ids=str
    )
    def test_no_task_axis(self, data: Any) -> None:
        for refuse in (
            lambda: count_support(data),
            lambda: adapt_tasks(cubic, {"x": number(2.0)}, data, lr=0.1),
            lambda: meta_loss(cubic, distance, {"x": number(2.0)}, data, torch.ones(2), lr=0.1),
        ):
            with pytest.raises(ValueError, match="one leading task axis, got shapes"):
                refuse()

    def test_other_numbers_of_tasks(self) -> None:
        with pytest.raises(ValueError, match="support data of 2 tasks, but query data of 3"):
            meta_loss(cubic, distance, {"x": number(2.0)}, torch.ones(2), torch.ones(3), lr=0.1)
        with pytest.raises(ValueError, match="support data of 2 tasks, but query data of 3"):
            meta_gradient(cubic, distance, {"x": number(2.0)}, torch.ones(2), torch.ones(3), lr=0.1)
        with pytest.raises(ValueError, match="support data of 3 tasks, but fast weights of 2"):
            adapt_tasks(cubic, {"x": torch.ones(2)}, torch.ones(3), lr=0.1, stacked=True)


def test_batches_within_the_loss_are_left_to_it() -> None:
    """A loss may itself use vmap."""

    def loss(params: Params, data: Tensor) -> Tensor:
        return vmap(lambda c: cubic(params, c))(data).mean()

    fast = adapt_tasks(loss, {"x": number(2.0)}, torch.tensor([[1.0, 0.0], [2.0, 2.0]]), lr=0.1)
    assert fast["x"].tolist() == pytest.approx([1.8, 1.2])
