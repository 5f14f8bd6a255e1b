"""The classes of registered algorithms, with the members that the command line calls."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.algorithms import TrainableAlgorithm, find_algorithm, registered_algorithms
from meta_rl.cli.agents import AgentCommands
from meta_rl.cli.few_shot import LearnerCommands
from meta_rl.few_shot.learner import FewShotLearner


def trainable(name: str) -> type[TrainableAlgorithm]:
    """Returns the class of a registered algorithm with all members of the protocol.

    Members that the class has itself take precedence.

    Raises:
        ValueError: The name is unknown, or the class lacks members and derives from neither
            :class:`meta_rl.MetaAlgorithm` nor :class:`meta_rl.few_shot.FewShotLearner`.
        ImportError: The module or class does not exist.
    """
    found = with_members(find_algorithm(name))
    missing = sorted(part for part in _required_members() if not hasattr(found, part))
    if missing:
        raise ValueError(
            f"algorithm {name!r}: {registered_algorithms()[name].home} lacks "
            f"{', '.join(missing)}; derive it from meta_rl.MetaAlgorithm or "
            "meta_rl.few_shot.FewShotLearner"
        )
    return found


@functools.cache
def with_members(found: Any) -> Any:
    """Adds the members that the command line calls to an agent's or a few-shot learner's class.

    Args:
        found: Class of an algorithm; one of another kind is returned as it is.
    """
    for base, members in ((MetaAlgorithm, AgentCommands), (FewShotLearner, LearnerCommands)):
        if issubclass(found, base) and not issubclass(found, members):
            same = {
                name: getattr(found, name) for name in ("__module__", "__qualname__", "__doc__")
            }
            return type(found)(found.__name__, (found, members), same)
    return found


if TYPE_CHECKING:

    def _have_all_members(
        agent: AgentCommands, learner: LearnerCommands
    ) -> tuple[TrainableAlgorithm, TrainableAlgorithm]:
        return agent, learner  # the type checker compares signatures


def _required_members() -> set[str]:
    """Returns the protocol's members without properties, which objects may set as attributes."""
    members = vars(TrainableAlgorithm).items()
    functions = {name for name, member in members if not isinstance(member, property)}
    return {name for name in functions | set(TrainableAlgorithm.__annotations__) if name[0] != "_"}


def algorithms_with(option: str, kind: str) -> dict[str, type[Any]]:
    """Returns the algorithms with an option, by name.

    An algorithm that inherits the option from another algorithm of the result is left out.

    Args:
        option: ``"cuda_graph"`` or ``"compile"``.
        kind: Kind of algorithms; if none of this kind has the option, all kinds are searched.
    """
    found: dict[str, type[Any]] = {}
    known = registered_algorithms()
    for name in sorted(known):
        with contextlib.suppress(ImportError, ValueError):  # a package with missing parts
            if trainable(name).has_option(option):
                found[name] = find_algorithm(name)
    found = {name: found[name] for name in found if known[name].kind == kind} or found
    return {
        name: algorithm
        for name, algorithm in found.items()
        if not any(parent in found.values() for parent in algorithm.__mro__[1:])
    }
