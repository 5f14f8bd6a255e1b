"""The network that takes the examples of given tasks."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional

from meta_rl.arguments import check_choice, check_names, keyword_names
from meta_rl.few_shot.networks.feed_forward import RECIPES, FewShotNetwork


def sizes_of(tasks: Any) -> dict[str, Any]:
    """Returns the sizes of inputs and outputs of tasks, by the names of networks' arguments."""
    test = tasks.test
    sizes: dict[str, Any] = {
        "ways": getattr(test, "ways", None),
        "vocabulary_size": len(getattr(tasks, "vocabulary", ())) or None,
    }
    sizes |= {
        key: getattr(test, key)
        for key in ("input_size", "output_size")
        if getattr(test, key, None) is not None
    }
    if hasattr(test, "pool"):
        shape = list(test.pool.example_shape)
        sizes["input_shape"] = shape
        if len(shape) == 3:  # images
            sizes |= {"channels": shape[0], "size": shape[-1]}
        elif len(shape) == 1 and test.pool.examples.is_floating_point():  # vectors
            sizes["input_size"] = shape[0]
    return sizes


def usual_network(tasks: Any) -> str:
    """Returns the name of the usual network for texts, images or vectors.

    Raises:
        ValueError: The examples are none of these.
    """
    sizes = sizes_of(tasks)
    for size, name in (
        ("vocabulary_size", "text_encoder"),
        ("channels", "conv4"),
        ("input_size", "residual_head"),
    ):
        if sizes.get(size) is not None:
            return name
    raise ValueError(
        f"no network is known for examples of shape {sizes.get('input_shape')}: give network=..., "
        "a torch.nn.Module"
    )


def network_for(
    tasks: Any, name: str | None = None, *, classifies: bool = False, seed: int = 0, **settings: Any
) -> FewShotNetwork:
    """Makes a network with the sizes of tasks.

    Args:
        tasks: Split whose examples the network takes.
        name: Name of the network (default: that of :func:`usual_network`).
        classifies: Whether the network has an output for each class.
        seed: Seed of the first weights.
        **settings: Further arguments of the network.

    Raises:
        ValueError: The network is unknown.
        TypeError: The network does not take an argument.
    """
    name = usual_network(tasks) if name is None else check_choice("network", name, RECIPES)
    maker = RECIPES[name]
    wanted = keyword_names(inspect.signature(maker).parameters)
    check_names(settings, wanted, name)
    sizes = {key: size for key, size in sizes_of(tasks).items() if key in wanted}
    if not classifies:
        sizes.pop("ways", None)
    network = maker(**{**sizes, **settings}, generator=torch.Generator().manual_seed(seed))
    return centred(network, name, tasks)


def centred(network: FewShotNetwork, name: str, tasks: Any) -> FewShotNetwork:
    """Sets the centre of a residual head to the mean vector of the training classes.

    Args:
        network: A new network; those of other names stay as they are.
        name: Name of the network.
        tasks: Split whose examples the network takes.
    """
    if name == "residual_head":
        vectors = functional.normalize(tasks.train.pool.examples, dim=-1)
        network.body.centre.data = vectors.mean(dim=0)
    return network
