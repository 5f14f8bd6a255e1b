"""Run folders under the name that they had: see :mod:`meta_rl.cli.run_folder`."""

from meta_rl.cli.run_folder import (
    AppendingCSV,
    LearningCurve,
    RunConfig,
    RunFolder,
    learning_columns,
)
from meta_rl.cli.training import Checkpoints, Validation

__all__ = [
    "AppendingCSV",
    "Checkpoints",
    "LearningCurve",
    "RunConfig",
    "RunFolder",
    "Validation",
    "learning_columns",
]
