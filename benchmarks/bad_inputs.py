"""Wrong inputs over Python and the command line, and the message that each of them gets.

An input passes if it is refused by an error of one clear line: a ``ValueError`` or a ``TypeError``
from Python, exit code 2 from the command line. Nothing is trained; damaged files are not among
these inputs.

    python benchmarks/bad_inputs.py
"""

from __future__ import annotations
