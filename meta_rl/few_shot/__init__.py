"""Supervised few-shot learning: tasks, networks, and learners on the same core as the agents.

The names in ``__init__.pyi`` are imported when they are first used.
"""

import lazy_loader

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
