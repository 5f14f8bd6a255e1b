"""The old name of the modules :mod:`meta_rl.cli.run_folder` and :mod:`meta_rl.cli.callbacks`."""

from meta_rl.cli.callbacks import Checkpoints, Validation
from meta_rl.cli.run_folder import (
    AppendingCSV,
    LearningCurve,
    RunConfig,
    RunFolder,
    learning_columns,
)

__all__ = [
    "AppendingCSV",
    "Checkpoints",
    "LearningCurve",
    "RunConfig",
    "RunFolder",
    "Validation",
    "learning_columns",
]
