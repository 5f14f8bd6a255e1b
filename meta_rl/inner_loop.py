"""The inner loop: gradient steps on one task, and the meta-gradient through them.

The functions are pure, and take dictionaries of parameters. They are written for **one** task, and
``torch.func.vmap`` batches them over tasks. Supervised and reinforcement learners share them. No
module is ever overwritten and restored: adapted parameters (*fast weights*) are values.

A ``loss(params, data)`` returns a scalar for one task; ``data`` is any nest of tensors. Parameters
of a module come from ``dict(module.named_parameters())``, and ``torch.func.functional_call(module,
params, inputs)`` uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from meta_rl.arguments import check_count

Params: TypeAlias = dict[str, Tensor]
"""Parameters by name; fast weights of a meta-batch have a leading task axis."""

Loss: TypeAlias = Callable[[Params, Any], Tensor]
"""``loss(params, data) -> scalar``, for one task."""

Losses: TypeAlias = Callable[[Params, Any], Tensor]
"""``losses(params, data) -> [M]``, for all tasks at once, each from its own slices: ``vmap`` of a
loss for one task, or a function that is written for many tasks."""

StepSize: TypeAlias = float | Tensor | Mapping[str, Any]
"""One step size for all parameters, or step sizes by name: numbers, scalar tensors, or tensors of
the parameters' shapes (Meta-SGD). Parameters without a step size are not adapted (ANIL)."""


def adapt(
    loss: Loss,
    params: Params,
    support: Any,
    *,
    lr: StepSize,
    num_steps: int = 1,
    first_order: bool = False,
    gradient: Callable[..., Any] = grad,
) -> Params:
    """Makes gradient steps on the support data of one task.

    Each step is ``params <- params - lr * grad loss(params, support)`` (Finn et al.,
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, equation 1). The
    result is differentiable with respect to ``params`` and ``lr``.

    Args:
        loss: Loss of the inner loop.
        params: Initial parameters; they are not written to.
        support: Support data, the same for every step.
        lr: Step size α, or step sizes by name.
        num_steps: Number of steps, at least 0 (default: 1).
        first_order: Whether gradients are treated as constants, as in FOMAML (default: False). The
            derivative of the result with respect to ``params`` is then the identity.
        gradient: Function that makes the gradient of a function of the parameters (default:
            ``torch.func.grad``). :func:`autograd_gradient` is faster outside of ``vmap``.

    Returns:
        The adapted parameters, by the same names.

    Raises:
        ValueError: A step size is for an unknown parameter, or the number of steps is negative.
    """
    step_sizes = _step_sizes_by_name(lr, params)
    adapted = {name: params[name] for name in step_sizes}
    fixed = {name: value for name, value in params.items() if name not in step_sizes}

    def loss_of_adapted(values: Params) -> Tensor:
        return loss({**fixed, **values}, support)

    for _ in range(check_count("num_steps", num_steps, least=0)):
        gradients = gradient(loss_of_adapted)(adapted)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        adapted = {
            name: _subtract_gradient(value, gradients[name], step_sizes[name])
            for name, value in adapted.items()
        }
    return {name: adapted.get(name, value) for name, value in params.items()}


def _subtract_gradient(value: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """Computes ``value - step_size * gradient`` in one pass, and its derivative in one pass."""
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
    """Adapts to all tasks of a meta-batch at once, each as in :func:`adapt`.

    Args:
        loss: Loss of the inner loop, for one task.
        params: Initial parameters, shared by the tasks or, if ``stacked``, with a leading task
            axis.
        support: Support data: a nest of tensors with a leading task axis, ``[M, ...]``.
        stacked: Whether the initial parameters are fast weights already (default: False).
        chunk_size: Number of tasks at a time (default: all). Smaller chunks need less memory and,
            with convolutions on a CPU, less time.
        **adapt_kwargs: Arguments of :func:`adapt`. Step sizes are shared by the tasks.

    Returns:
        Fast weights: parameters with a leading task axis, ``[M, ...]``.

    Raises:
        ValueError: :func:`adapt` would refuse the arguments, or tensors have different numbers of
            tasks.
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
    """Computes the loss of every task on its query data, after adaptation to its support data.

    MAML minimises the mean of these losses. ``meta_loss(...).mean().backward()`` computes the exact
    meta-gradient, with second derivatives unless ``first_order``. There is one exception: in torch
    2.13, second derivatives *through* ``vmap`` of torch's batch, layer and instance normalisation
    are wrong without any error if their scale adapts. With these layers use
    :func:`meta_gradient`, or :class:`meta_rl.few_shot.networks.batch_norm.BatchNorm`.

    Args:
        inner_loss: Loss of the inner loop, for one task.
        outer_loss: Loss of the adapted parameters on the query data, for one task.
        params: Initial parameters, shared by the tasks.
        support: Support data: a nest of tensors with a leading task axis, ``[M, ...]``.
        query: Query data: a nest of tensors with a leading task axis, ``[M, ...]``.
        chunk_size: Number of tasks at a time (default: all).
        **adapt_kwargs: Arguments of :func:`adapt`: ``lr``, ``num_steps``, ``first_order``.

    Returns:
        The losses of the tasks, ``[M]``.

    Raises:
        ValueError: :func:`adapt` would refuse the arguments, or tensors have different numbers of
            tasks.
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
    """Computes the gradient of the mean :func:`meta_loss` with respect to the initial parameters.

    Each task is differentiated within ``vmap``. So the gradient is exact with every layer, batch
    normalisation included (see :func:`meta_loss`), and the graph of a chunk is freed before the
    next chunk begins. The function is pure, and ``torch.compile`` makes one graph of it. Compiling
    takes tens of seconds, and makes small networks faster.

    Args:
        inner_loss: Loss of the inner loop, for one task.
        outer_loss: Loss of the adapted parameters on the query data, for one task.
        params: Initial parameters, shared by the tasks.
        support: Support data: a nest of tensors with a leading task axis, ``[M, ...]``.
        query: Query data: a nest of tensors with a leading task axis, ``[M, ...]``.
        chunk_size: Number of tasks at a time (default: all).
        **adapt_kwargs: Arguments of :func:`adapt`: ``lr``, ``num_steps``, ``first_order``.

    Returns:
        The gradient, by the names of the parameters, and the losses of the tasks, ``[M]``.

    Raises:
        ValueError: :func:`meta_loss` would refuse the arguments.

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

    all_tasks: Any = vmap(
        grad_and_value(one_task), (None, 0, 0), chunk_size=chunk_size, randomness="different"
    )
    gradients, losses = all_tasks(params, support, query)
    return {name: gradient.mean(dim=0) for name, gradient in gradients.items()}, losses


def summed(losses: Losses) -> Loss:
    """Makes one loss of the losses of all tasks, to be differentiated with respect to ``[M, ...]``.

    No task's loss depends on the parameters of another. So the gradient of the sum holds the
    gradients of all tasks, and :func:`adapt` on it makes a step of every task.
    """
    return lambda params, data: losses(params, data).sum()


def task_gradients(
    losses: Losses, params: Params, data: Any, *, chunk_size: int | None = None
) -> tuple[Params, Tensor]:
    """Computes the gradient of every task's loss with respect to parameters of its own.

    Args:
        losses: Function that computes the losses of all tasks.
        params: Parameters of every task, ``[M, ...]`` each.
        data: Data of the losses, with a leading task axis.
        chunk_size: Number of tasks at a time (default: all).

    Returns:
        The gradients, by the names of the parameters, ``[M, ...]``, and the losses, ``[M]``.

    Raises:
        ValueError: Tensors have different numbers of tasks.
    """
    _check_same_tasks(params, data, "parameters", "data")

    @torch.enable_grad()
    def of_chunk(values: Params, part: Any) -> tuple[Params, Tensor]:
        leaves = _leaves(values)
        found = losses(leaves, part)
        gradients = torch.autograd.grad(found.sum(), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, gradients, strict=True)), found.detach()

    return in_chunks(of_chunk, params, data, chunk_size=chunk_size)


def autograd_gradient(loss: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    """Makes the gradient of a loss, as ``torch.func.grad`` does, but not within ``vmap``.

    It has less overhead. The gradient has a graph only where a parameter requires a gradient.
    """

    def gradient(params: Params) -> Params:
        differentiable = any(value.requires_grad for value in params.values())
        with torch.enable_grad():
            values = params if differentiable else _leaves(params)
            found = torch.autograd.grad(
                loss(values),
                list(values.values()),
                create_graph=differentiable,
                materialize_grads=True,
            )
        return dict(zip(values, found, strict=True))

    return gradient


def pull_back(
    function: Callable[[Params, Any], Params],
    params: Params,
    data: Any,
    *,
    chunk_size: int | None = None,
) -> Callable[[Params], Params]:
    """Makes the function ``v -> Jᵀ v``, where J is the Jacobian of a function for every task.

    It carries a gradient back through an inner step, if ``function`` is :func:`adapt` on
    :func:`summed` losses. If it is the gradient of losses, J is their Hessian. The graph is made
    once and kept, so that each product costs one pass through it.

    Args:
        function: Differentiable function of the parameters and data of some tasks.
        params: Parameters of every task, ``[M, ...]`` each.
        data: Data of the function, with a leading task axis.
        chunk_size: Number of tasks in one graph (default: all).

    Raises:
        ValueError: Tensors have different numbers of tasks.
    """
    _check_same_tasks(params, data, "parameters", "data")
    slices = _task_slices(params, chunk_size)
    inputs = [_leaves(_take_slice(params, tasks)) for tasks in slices]
    with torch.enable_grad():
        outputs = [
            function(leaves, _take_slice(data, tasks))
            for tasks, leaves in zip(slices, inputs, strict=True)
        ]

    def product_of_chunk(tasks: slice, leaves: Params, values: Params, vector: Params) -> Params:
        varying = {name: value for name, value in values.items() if value.requires_grad}
        products = torch.autograd.grad(
            list(varying.values()),
            list(leaves.values()),
            [vector[name][tasks] for name in varying],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(leaves, products, strict=True))

    def product(vector: Params) -> Params:
        chunks = zip(slices, inputs, outputs, strict=True)
        return _concatenate([product_of_chunk(*chunk, vector) for chunk in chunks])

    return product


def _leaves(params: Params) -> Params:
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def in_chunks(function: Any, *args: Any, chunk_size: int | None) -> Any:
    """Applies a function to some tasks at a time, and concatenates the results.

    Args:
        function: Function from nests of tensors with a leading task axis to such a nest.
        *args: Nests of tensors with a leading task axis.
        chunk_size: Number of tasks at a time; ``None`` for all.
    """
    if chunk_size is None:
        return function(*args)
    return _concatenate(
        [function(*_take_slice(args, tasks)) for tasks in _task_slices(args, chunk_size)]
    )


def _task_slices(nest: Any, chunk_size: int | None) -> list[slice]:
    num_tasks = count_support(nest)
    size = num_tasks if chunk_size is None else check_count("chunk_size", chunk_size)
    return [slice(start, start + size) for start in range(0, num_tasks, size)]


def _take_slice(nest: Any, tasks: slice) -> Any:
    return tree_map(lambda leaf: leaf[tasks], nest)


def _concatenate(parts: Sequence[Any]) -> Any:
    """Concatenates nests of tensors along the task axis."""
    return parts[0] if len(parts) == 1 else tree_map(lambda *leaves: torch.cat(leaves), *parts)


def of_every_task(params: Params, num_tasks: int) -> Params:
    """Expands the parameters to M tasks, ``[M, ...]``, without a copy."""
    return {name: value.expand(num_tasks, *value.shape) for name, value in params.items()}


def count_support(data: Any) -> int:
    """Returns the length of the leading task axis of a nest of tensors.

    Raises:
        ValueError: There are no tensors or no tasks, or the leading axes have different lengths.
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
    """Returns the same values, detached from any graph."""
    return {name: value.detach() for name, value in params.items()}


def _step_sizes_by_name(lr: StepSize, params: Params) -> dict[str, Any]:
    """Returns the step size of every parameter that is adapted."""
    if not isinstance(lr, Mapping):
        return dict.fromkeys(params, lr)
    unknown = sorted(set(lr) - set(params))
    if unknown:
        raise ValueError(f"step sizes for {unknown}, but the parameters are {sorted(params)}")
    return dict(lr)
