"""The old name of the modules :mod:`meta_rl.cli.run_folder` and :mod:`meta_rl.cli.training`."""

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
