"""The mark of older results that count a task several times."""

from __future__ import annotations

REPEATED = "†"


def marked(name: str, num_tasks: int, distinct_tasks: int) -> str:
    """A learner's name, with :data:`REPEATED` where tasks were counted several times."""
    return f"{name} {REPEATED}" if distinct_tasks < num_tasks else name


def repeated_note(num_tasks: int, distinct_tasks: int) -> list[str]:
    """The lines below a table; none where every task was counted once.

    Args:
        num_tasks: Tasks that were counted.
        distinct_tasks: Different ones among them.
    """
    if distinct_tasks >= num_tasks:
        return []
    return [
        f"{REPEATED} Counts {num_tasks:,} tasks, of which only {distinct_tasks} are distinct. A "
        "task that counts several times",
        "makes the interval or the standard error too narrow. To be trained again.",
        "",
    ]
