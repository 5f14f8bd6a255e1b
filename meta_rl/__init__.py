"""meta_rl: task distributions, meta-learning agents, and evaluation of fast adaptation.

Importing registers the environments (``meta_rl/...-v0``) and loads nothing heavy: the names of
``__init__.pyi`` are imported when they are first used.
"""

import lazy_loader

from meta_rl.make import register_all
from meta_rl.moved import keep_old_names

__version__ = "0.2.0"

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_all()
keep_old_names()
