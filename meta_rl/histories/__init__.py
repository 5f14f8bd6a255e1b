"""Histories: what learners saw and did on many tasks, as data that other agents learn from.

:func:`collect_histories` writes the histories of any learner to a folder, and :class:`Histories`
reads them by memory map. Agents that learn in context from data take such a folder
(``histories="FOLDER"``): :class:`meta_rl.agents.algorithm_distillation.AlgorithmDistillation` and
:class:`meta_rl.agents.dpt.DPT`.
"""

from __future__ import annotations

from .collection import collect_histories
from .data_set import Histories
from .encoding import History, HistoryEncoder
from .history import optimal_actions, play_history

__all__ = [
    "Histories",
    "History",
    "HistoryEncoder",
    "collect_histories",
    "optimal_actions",
    "play_history",
]
