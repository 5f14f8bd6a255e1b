"""The inner loop: gradient steps on one task, and the meta-gradient through them.

Pure functions over dictionaries of parameters, written for **one** task and batched over tasks by
``torch.func.vmap``; supervised and reinforcement learners share them. No module is ever overwritten
and restored: adapted parameters (*fast weights*) are values.

A ``loss(params, data)`` gives a scalar for one task, ``data`` being any nest of tensors. Parameters
of a module come from ``dict(module.named_parameters())``, and ``torch.func.functional_call(module,
params, inputs)`` uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from meta_rl.tasks import check_count

Params: TypeAlias = dict[str, Tensor]
"""Parameters by name; with a leading task axis where they are fast weights of a meta-batch."""

Loss: TypeAlias = Callable[[Params, Any], Tensor]
"""``loss(params, data) -> scalar``, for one task."""

Losses: TypeAlias = Callable[[Params, Any], Tensor]
"""``losses(params, data) -> [M]``, for all tasks at once, each from its own slices: ``vmap`` of a
loss for one task, or a function that is written for many."""

StepSize: TypeAlias = float | Tensor | Mapping[str, Any]
"""One for all parameters, or by name (numbers, or tensors like the parameters or scalar: Meta-SGD);
parameters that a mapping leaves out are not adapted (ANIL)."""


def adapt(
    loss: Loss,
    params: Params,
    support: Any,
    *,
    lr: StepSize,
    num_steps: int = 1,
    first_order: bool = False,
) -> Params:
    """Gradient steps on the support data of one task.

    ``params <- params - lr * grad loss(params, support)`` (Finn et al., "Model-Agnostic
    Meta-Learning for Fast Adaptation of Deep Networks", 2017, equation 1), ``num_steps`` times. The
    result is differentiable with respect to ``params`` and ``lr``.

    Args:
        loss: Of the inner loop.
        params: To start from; not written to.
        support: What the loss takes; the same for every step.
        lr: The step size α.
        num_steps: Steps; 0 gives the parameters back.
        first_order: Treat the gradients as constants (FOMAML): the derivative of the result with
            respect to ``params`` is then the identity.

    Returns:
        The adapted parameters, by the same names.

    Raises:
        ValueError: A step size for an unknown parameter, or a negative number of steps.
    """
    step_sizes = _by_name(lr, params)
    adapted = {name: params[name] for name in step_sizes}
    fixed = {name: value for name, value in params.items() if name not in step_sizes}

    def loss_of_adapted(values: Params) -> Tensor:
        return loss({**fixed, **values}, support)

    for _ in range(check_count("num_steps", num_steps, least=0)):
        gradients = grad(loss_of_adapted)(adapted)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        adapted = {
            name: _stepped(value, gradients[name], step_sizes[name])
            for name, value in adapted.items()
        }
    return {name: adapted.get(name, value) for name, value in params.items()}


def _stepped(value: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """``value - step_size * gradient``: one pass over the memory, and one in its derivative."""
    if isinstance(step_size, Tensor):
        return value - step_size * gradient
    return torch.add(value, gradient, alpha=-step_size)


def adapt_tasks(
    loss: Loss,
    params: Params,
    support: Any,
    *,
    stacked: bool = False,
    chunk_size: int | None = None,
    **adapt_kwargs: Any,
) -> Params:
    """:func:`adapt` for a whole meta-batch of tasks at once.

    Args:
        loss: Of the inner loop, for one task.
        params: Shared by the tasks or, if ``stacked``, each with a leading task axis.
        support: A nest of tensors with a leading task axis, ``[M, ...]``.
        stacked: Whether the parameters are fast weights already.
        chunk_size: Tasks at a time; all by default. Fewer need less memory and, with convolutions
            on a CPU, less time.
        **adapt_kwargs: For :func:`adapt`. Step sizes are shared by the tasks.

    Returns:
        Fast weights: parameters with a leading task axis, ``[M, ...]``.

    Raises:
        ValueError: As :func:`adapt`, or tensors of different numbers of tasks.
    """
    num_tasks = count_support(support)
    if stacked and count_support(params) != num_tasks:
        raise ValueError(
            f"support data of {num_tasks} tasks, but fast weights of {count_support(params)}"
        )

    def one_task(task_params: Params, task_support: Any) -> Params:
        return adapt(loss, task_params, task_support, **adapt_kwargs)

    in_dims = (0 if stacked else None, 0)
    return vmap(one_task, in_dims, chunk_size=chunk_size, randomness="different")(params, support)


def meta_loss(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    support: Any,
    query: Any,
    *,
    chunk_size: int | None = None,
    **adapt_kwargs: Any,
) -> Tensor:
    """The loss on the query data of every task, after adaptation to its support data.

    Its mean is what MAML minimises; ``meta_loss(...).mean().backward()`` gives the exact
    meta-gradient, second derivatives included unless ``first_order``; with one exception. Second
    derivatives *through* ``vmap`` of torch's batch, layer and instance normalisation with a scale
    that adapts are silently wrong in torch 2.13. With these use :func:`meta_gradient`, or
    :class:`meta_rl.batch_norm.BatchNorm`.

    Args:
        inner_loss: Of the inner loop, for one task.
        outer_loss: Of the adapted parameters on the query data, for one task.
        params: The initial parameters, shared by the tasks.
        support: A nest of tensors with a leading task axis, ``[M, ...]``.
        query: Likewise.
        chunk_size: Tasks at a time; all by default.
        **adapt_kwargs: For :func:`adapt`: ``lr``, ``num_steps``, ``first_order``.

    Returns:
        ``[M]``.

    Raises:
        ValueError: As :func:`adapt`, or tensors of different numbers of tasks.
    """
    _check_same_tasks(support, query)

    def one_task(task_support: Any, task_query: Any) -> Tensor:
        adapted = adapt(inner_loss, params, task_support, **adapt_kwargs)
        return outer_loss(adapted, task_query)

    return vmap(one_task, chunk_size=chunk_size, randomness="different")(support, query)


def meta_gradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    support: Any,
    query: Any,
    *,
    chunk_size: int | None = None,
    **adapt_kwargs: Any,
) -> tuple[Params, Tensor]:
    """The gradient of the mean of :func:`meta_loss` by the initial parameters: one meta-step.

    Differentiates each task within ``vmap``: exact with every layer, batch normalisation included
    (see :func:`meta_loss`), and a chunk's graph is gone before the next chunk begins. A pure
    function, which ``torch.compile`` takes as one graph: that needs tens of seconds, and pays for
    small networks, whose time goes into single operations.

    Args:
        inner_loss: As for :func:`meta_loss`, like the other arguments.
        outer_loss: Of the adapted parameters on the query data, for one task.
        params: The initial parameters, shared by the tasks.
        support: A nest of tensors with a leading task axis, ``[M, ...]``.
        query: Likewise.
        chunk_size: Tasks at a time; all by default.
        **adapt_kwargs: For :func:`adapt`: ``lr``, ``num_steps``, ``first_order``.

    Returns:
        The gradient, by the names of the parameters, and the losses of the tasks, ``[M]``.

    Raises:
        ValueError: As :func:`meta_loss`.

    Example:
        >>> step = functools.partial(meta_gradient, loss, loss, lr=0.01, num_steps=5)
        >>> compiled = torch.compile(step)
        >>> gradient, losses = compiled(detached(dict(module.named_parameters())), support, query)
        >>> for name, parameter in module.named_parameters():
        ...     parameter.grad = gradient[name]
        >>> optimizer.step()
    """
    _check_same_tasks(support, query)

    def one_task(values: Params, task_support: Any, task_query: Any) -> Tensor:
        adapted = adapt(inner_loss, values, task_support, **adapt_kwargs)
        return outer_loss(adapted, task_query)

    of_tasks: Any = vmap(
        grad_and_value(one_task), (None, 0, 0), chunk_size=chunk_size, randomness="different"
    )
    gradients, losses = of_tasks(params, support, query)
    return {name: gradient.mean(dim=0) for name, gradient in gradients.items()}, losses


def task_gradients(
    losses: Losses, params: Params, data: Any, *, chunk_size: int | None = None
) -> tuple[Params, Tensor]:
    """The gradient of every task's loss at parameters of its own; not differentiable.

    Equal to ``vmap(grad_and_value(loss))``, with a quarter of its overhead.

    Args:
        losses: Of all tasks.
        params: Where the gradients are taken, ``[M, ...]`` each.
        data: What the losses take, with a leading task axis.
        chunk_size: Tasks at a time; all by default.

    Returns:
        The gradients, by the names of the parameters, ``[M, ...]``, and the losses, ``[M]``.

    Raises:
        ValueError: Tensors of different numbers of tasks.
    """
    _check_same_tasks(params, data, "parameters", "data")

    def of_chunk(values: Params, part: Any) -> tuple[Params, Tensor]:
        graph = _gradient_graph(losses, values, part, create_graph=False)
        return graph.gradients, graph.losses

    return in_chunks(of_chunk, params, data, chunk_size=chunk_size)


def hessian_vector_product(
    losses: Losses, params: Params, data: Any, vector: Params, *, chunk_size: int | None = None
) -> Params:
    """One product with the Hessian of every task: :func:`hessian_vector_products` for one vector.

    The graph of a chunk is gone before the next one begins.
    """
    _check_same_tasks(params, data, "parameters", "data")

    def of_chunk(values: Params, part: Any, along: Params) -> Params:
        graph = _gradient_graph(losses, values, part, create_graph=True)
        return graph.times_hessian(along, keep=False)

    return in_chunks(of_chunk, params, data, vector, chunk_size=chunk_size)


def hessian_vector_products(
    losses: Losses, params: Params, data: Any, *, chunk_size: int | None = None
) -> Callable[[Params], Params]:
    """Products with the Hessian of every task, ``v -> ∇² loss(params, data) v``.

    By differentiating the gradient once more. The graph of the gradient is made once and kept, so
    that a product costs one pass through it: for solvers that ask for many.

    Args:
        losses: Of all tasks, twice differentiable.
        params: Where the Hessians are taken, ``[M, ...]`` each.
        data: What the losses take, with a leading task axis.
        chunk_size: Tasks in one graph; all by default.

    Returns:
        A function from vectors to products, both by the names of the parameters, ``[M, ...]``.

    Raises:
        ValueError: Tensors of different numbers of tasks.
    """
    _check_same_tasks(params, data, "parameters", "data")
    slices = _chunks(params, chunk_size)
    graphs = [
        _gradient_graph(losses, _part(params, tasks), _part(data, tasks), create_graph=True)
        for tasks in slices
    ]

    def product(vector: Params) -> Params:
        parts = [
            graph.times_hessian(_part(vector, tasks), keep=True)
            for tasks, graph in zip(slices, graphs, strict=True)
        ]
        return _joined(parts)

    return product


class _GradientGraph(NamedTuple):
    """The losses of some tasks, ``[M]``, and their gradients by the parameters, ``[M, ...]``."""

    params: Params
    losses: Tensor
    gradients: Params

    def times_hessian(self, vector: Params, *, keep: bool) -> Params:
        """Of sum_i g_i v_i by the parameters: a Hessian is symmetric."""
        curved = {name: value for name, value in self.gradients.items() if value.requires_grad}
        products = torch.autograd.grad(
            list(curved.values()),
            list(self.params.values()),
            [vector[name] for name in curved],
            retain_graph=keep,
            materialize_grads=True,
        )
        return dict(zip(self.params, products, strict=True))


def _gradient_graph(
    losses: Losses, params: Params, data: Any, *, create_graph: bool
) -> _GradientGraph:
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        values = losses(leaves, data)
        gradients = torch.autograd.grad(
            values.sum(), list(leaves.values()), create_graph=create_graph, materialize_grads=True
        )
    return _GradientGraph(leaves, values.detach(), dict(zip(leaves, gradients, strict=True)))


def in_chunks(function: Any, *args: Any, chunk_size: int | None) -> Any:
    """What a function of many tasks gives for some tasks at a time, one behind the other.

    Args:
        function: Of nests of tensors with a leading task axis, to a nest of such tensors.
        *args: Such nests.
        chunk_size: Tasks at a time; ``None`` for all.
    """
    if chunk_size is None:
        return function(*args)
    return _joined([function(*_part(args, tasks)) for tasks in _chunks(args, chunk_size)])


def _chunks(nest: Any, chunk_size: int | None) -> list[slice]:
    num_tasks = count_support(nest)
    size = chunk_size or num_tasks
    return [slice(start, start + size) for start in range(0, num_tasks, size)]


def _part(nest: Any, tasks: slice) -> Any:
    return tree_map(lambda leaf: leaf[tasks], nest)


def _joined(parts: Sequence[Any]) -> Any:
    """Nests of neighbouring tasks as one."""
    return parts[0] if len(parts) == 1 else tree_map(lambda *leaves: torch.cat(leaves), *parts)


def of_every_task(params: Params, num_tasks: int) -> Params:
    """The same parameters for each of M tasks, ``[M, ...]``, without a copy."""
    return {name: value.expand(num_tasks, *value.shape) for name, value in params.items()}


def count_support(data: Any) -> int:
    """The length of the leading task axis of a nest of tensors.

    Raises:
        ValueError: No tensors, no tasks, or leading axes of different lengths.
    """
    leaves = [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)]
    lengths = {len(leaf) if leaf.dim() else 0 for leaf in leaves}
    if len(lengths) != 1 or 0 in lengths:
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"expected tensors with one leading task axis, got shapes {shapes}")
    return lengths.pop()


def _check_same_tasks(
    one: Any, other: Any, first: str = "support data", second: str = "query data"
) -> None:
    num_tasks, num_others = count_support(one), count_support(other)
    if num_tasks != num_others:
        raise ValueError(f"{first} of {num_tasks} tasks, but {second} of {num_others}")


def detached(params: Mapping[str, Tensor]) -> Params:
    """The same values outside any graph."""
    return {name: value.detach() for name, value in params.items()}


def _by_name(lr: StepSize, params: Params) -> dict[str, Any]:
    """The step size of every parameter that is adapted."""
    if not isinstance(lr, Mapping):
        return dict.fromkeys(params, lr)
    unknown = sorted(set(lr) - set(params))
    if unknown:
        raise ValueError(f"step sizes for {unknown}, but the parameters are {sorted(params)}")
    return dict(lr)


def is_finite(values: Any) -> Tensor:
    """Whether no tensor in the nest holds a nan or an infinity: a bool on their device."""
    return torch.stack([leaf.isfinite().all() for leaf in tree_leaves(values)]).all()
