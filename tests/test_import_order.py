"""The import order of the packages, from their sources.

The core imports neither environments nor agents, environments and agents import the core and their
siblings, nothing that is shipped imports benchmarks or tests. The command line is above them all:
it alone may import environments and agents, and only doors to it import it. No modules import each
other in a circle, not within functions either. Each package imports only the packages that the
table of docs/architecture.md allows, which stand above it there. Importing meta_rl loads nothing
heavy. Every package folder is in the wheel.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"meta_rl": "meta_rl", "envs": "meta_rl.envs", "agents": "meta_rl.agents"}
COMPOSED = ("meta_rl.envs", "meta_rl.agents")
COMPOSES = "meta_rl.cli"
DOORS = ("meta_rl.__main__", "meta_rl.runs")  # to the command line
NOT_SHIPPED = ("benchmarks", "tests")


def imported_names(source: str, module: str) -> Iterator[tuple[int, int, str]]:
    """Line, level (0 for absolute) and absolute dotted name of each import in a module.

    ``from a import b`` gives ``a.b``, which is a module or a name in one. A literal name that is
    given to ``import_module`` or ``__import__`` counts as an import.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            prefix = ".".join([*start, *filter(None, [node.module])])
            yield from ((node.lineno, node.level, f"{prefix}.{a.name}") for a in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            argument = node.args[0]
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield node.lineno, 0, str(argument.value)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violation(name: str, level: int, module: str) -> str | None:
    """What is wrong with an import of ``name`` by ``module``, if anything."""
    package = next((part for part in COMPOSED if is_in(module, part)), "meta_rl")
    above = is_in(module, COMPOSES)
    if any(is_in(name, root) for root in NOT_SHIPPED):
        return f"{name} is not shipped"
    if any(is_in(name, root) for root in ("envs", "agents")):
        return f"{name} has no such name where it is installed; say meta_rl.{name}"
    if is_in(name, COMPOSES) and not above and module not in DOORS:
        return f"the command line is above all others; {name} is imported from below"
    if package == "meta_rl":
        composed = any(is_in(name, part) for part in COMPOSED)
        return f"the core imports {name}" if composed and not above else None
    if is_in(name, package):
        return None if level == 1 else f"sibling {name} is imported by an absolute name"
    if any(is_in(name, part) for part in COMPOSED):
        return f"{package} imports {name}"
    return f"{name} of the core is imported by a relative name" if level else None


def violations(source: str, module: str) -> list[str]:
    """The imports in a module's source that break the order, each with its line."""
    found = []
    for line, level, name in imported_names(source, module):
        wrong = violation(name, level, module)
        if wrong:
            found.append(f"{module}:{line}: {wrong}")
    return found


def shipped_modules() -> list[tuple[str, Path]]:
    """Module name (with ``.__init__``) and file of everything that is shipped."""
    modules = []
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py*")):
            if file.suffix not in (".py", ".pyi"):
                continue
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            modules.append((".".join([package, *parts]), file))
    return modules


@pytest.mark.parametrize(("module", "file"), shipped_modules())
def test_imports_keep_the_order(module: str, file: Path) -> None:
    assert violations(file.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("source", "module", "wrong"),
    [
        ("from meta_rl.envs.bandits import X", "meta_rl.tasks", "the core imports"),
        ("from meta_rl import agents", "meta_rl.tasks", "the core imports"),
        ("from . import envs", "meta_rl.__init__", "the core imports"),
        ("from ..envs import x", "meta_rl.few_shot.y", "the core imports"),
        ("def f():\n    import meta_rl.agents.rl2", "meta_rl.tasks", ":2: the core"),
        ("import_module('meta_rl.envs.bandits')", "meta_rl.tasks", "the core imports"),
        ("import benchmarks.demo", "meta_rl.cli.training", "is not shipped"),
        ("from meta_rl.cli.settings import x", "meta_rl.tasks", "above all others"),
        ("from .cli import main", "meta_rl.__init__", "above all others"),
        ("from meta_rl.cli import main", "meta_rl.agents.y", "above all others"),
        ("from meta_rl.cli import main", "meta_rl.few_shot.y", "above all others"),
        ("from meta_rl.agents import x", "meta_rl.runs", "the core imports"),
        ("from tests import conftest", "meta_rl.envs.x", "is not shipped"),
        ("from envs import bandits", "meta_rl.cli", "no such name"),
        ("from meta_rl.envs.x import X", "meta_rl.agents.y", "agents imports"),
        ("from ..envs import x", "meta_rl.agents.y", "agents imports"),
        ("from meta_rl.agents import x", "meta_rl.envs.y", "envs imports"),
        ("from meta_rl.envs.x import X", "meta_rl.envs.y", "absolute name"),
        ("from ..tasks import Tasks", "meta_rl.envs.y", "relative name"),
        ("from .. import tasks", "meta_rl.agents.y", "relative name"),
    ],
)
def test_a_broken_order_is_found(source: str, module: str, wrong: str) -> None:
    found = violations(source, module)
    assert len(found) == 1
    assert wrong in found[0]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from meta_rl.agents.rl2 import RL2", "meta_rl.cli.training"),
        ("from meta_rl.cli.run_folder import RunFolder", "meta_rl.runs"),
        ("from .commands import main", "meta_rl.cli.__init__"),
        ("from meta_rl.tasks import Tasks\nfrom .bandits import X", "meta_rl.envs.y"),
        ("from . import tabular\nimport meta_rl", "meta_rl.agents.y"),
        ("import envs_of_others, numpy as np", "meta_rl.tasks"),
        ("from .. import tasks\nfrom . import envs", "meta_rl.few_shot.y"),
        ("HOME = 'meta_rl.envs.bandits:X'", "meta_rl.make"),
        ("from .networks import X", "meta_rl.agents.pearl.__init__"),
        ("from .pearl.encoders import X", "meta_rl.agents.y"),
    ],
)
def test_a_kept_order_passes(source: str, module: str) -> None:
    assert violations(source, module) == []


def import_closure() -> ModuleType:
    """The script that counts imports, which is in no package."""
    file = ROOT / "benchmarks" / "import_closure.py"
    spec = importlib.util.spec_from_file_location("import_closure", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def circles_of(sources: dict[str, str], folder: Path) -> list[list[str]]:
    """The circles of a checkout with these sources, by their paths."""
    script = import_closure()
    for name, source in sources.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    found: list[list[str]] = script.circles(script.import_graph(script.shipped_files(folder)))
    return found


def test_no_import_circles() -> None:
    """Imports within functions count, those for type checkers do not."""
    script = import_closure()
    graph = script.import_graph(script.shipped_files(ROOT))
    assert "meta_rl.tasks" in graph["meta_rl.rollout"]  # it does read the sources
    assert script.circles(graph) == []


@pytest.mark.parametrize(
    ("sources", "circles"),
    [
        pytest.param(
            {"meta_rl/a.py": "from meta_rl.b import x", "meta_rl/b.py": "import meta_rl.a"},
            [["meta_rl.a", "meta_rl.b"]],
            id="of two",
        ),
        pytest.param(
            {
                "meta_rl/a.py": "def f():\n    from meta_rl import b",
                "meta_rl/b.py": "from meta_rl.c.d import y",
                "meta_rl/c/d.py": "import importlib\nx = importlib.import_module('meta_rl.a')",
                "meta_rl/e.py": "from meta_rl.a import f",
            },
            [["meta_rl.a", "meta_rl.b", "meta_rl.c.d"]],
            id="of three, within a function, a package and by name",
        ),
        pytest.param(
            {
                "agents/p/__init__.py": "from .q import x",
                "agents/p/q.py": "from . import X",
                "envs/e.py": "from .f import y",
                "envs/f.py": "from . import e",
            },
            [["meta_rl.agents.p", "meta_rl.agents.p.q"], ["meta_rl.envs.e", "meta_rl.envs.f"]],
            id="relative",
        ),
        pytest.param(
            {
                "meta_rl/a.py": "if TYPE_CHECKING:\n    from meta_rl.b import x",
                "meta_rl/b.py": "import meta_rl.a, numpy\nfrom meta_rl.c import z",
                "meta_rl/c.py": "HOME = 'meta_rl.b:x'",
            },
            [],
            id="none",
        ),
        pytest.param(
            {
                "meta_rl/a.py": "if TYPE_CHECKING:\n    x = 1\nelse:\n    from meta_rl.b import x",
                "meta_rl/b.py": "from meta_rl import a",
            },
            [["meta_rl.a", "meta_rl.b"]],
            id="unless a type checker reads it",
        ),
    ],
)
def test_a_circle_is_found(
    sources: dict[str, str], circles: list[list[str]], tmp_path: Path
) -> None:
    assert circles_of(sources, tmp_path) == circles


FLOOR = {"evaluation": "few_shot"}
"""Rooms, with the rooms inside them, that are on the floor of another room."""


def rooms_table() -> dict[str, set[str]]:
    """The rooms that each room may import, from docs/architecture.md, in the order of the floors.

    The doors, the files directly in ``meta_rl/``, are the room ``"meta_rl"``.
    """
    table = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].endswith("/`"):
            room = cells[0].strip("`/").removeprefix("meta_rl/")
            table[room] = {name.strip("`") for name in cells[2].split()}
    return table


def room_of(file: Path, checkout: Path) -> str:
    """The room of a source file: its folder, whose first name is left out in ``meta_rl/``."""
    parts = file.relative_to(checkout).parent.parts
    if parts[0] != "meta_rl":
        return parts[0]
    return "/".join(parts[1:]) or "meta_rl"


def room_imports(checkout: Path) -> set[tuple[str, str]]:
    """Pairs of different rooms, of which the first imports the second."""
    script = import_closure()
    files = script.shipped_files(checkout)
    rooms = {module: room_of(file, checkout) for module, file in files.items()}
    graph = script.import_graph(files)
    pairs = {(rooms[one], rooms[other]) for one, found in graph.items() for other in found}
    return {(one, other) for one, other in pairs if one != other and other != "meta_rl"}


def forbidden_imports(pairs: set[tuple[str, str]], table: dict[str, set[str]]) -> list[str]:
    """The imports between rooms that a table does not allow, but for the doors to ``cli``."""
    wrong = [(a, b) for a, b in pairs if b not in table.get(a, set()) and (a, b) != DOOR_TO_CLI]
    return sorted(f"{one} imports {other}" for one, other in wrong)


DOOR_TO_CLI = ("meta_rl", "cli")  # only the files in DOORS, see `violation`


def test_rooms_import_what_the_table_allows() -> None:
    """Nothing else, and all of it: the table is that of today."""
    pairs, table = room_imports(ROOT), rooms_table()
    assert len(table) >= 18
    assert set(table) == {room_of(file, ROOT) for _, file in shipped_modules()} - {"."}
    assert forbidden_imports(pairs, table) == []
    unused = [(one, b) for one, may in table.items() for b in may if (one, b) not in pairs]
    assert unused == []


def test_the_table_is_in_the_order_of_the_floors() -> None:
    table = rooms_table()
    order = list(table)
    for room, imported in table.items():
        for other in imported if room != "meta_rl" else ():
            floors = {FLOOR.get(name, name) for name in (room.split("/")[0], other.split("/")[0])}
            assert len(floors) == 1 or order.index(other) < order.index(room), (
                f"{room} imports {other}"
            )


def test_a_forbidden_import_between_rooms_is_found(tmp_path: Path) -> None:
    sources = {
        "meta_rl/vector/a.py": "from meta_rl.physics.b import x\nfrom meta_rl.tasks import y",
        "meta_rl/physics/b.py": "",
        "meta_rl/tasks.py": "",
        "agents/own/__init__.py": "def f():\n    from meta_rl.physics import b",
        "agents/other.py": "from .own import X",
    }
    for name, source in sources.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    pairs = room_imports(tmp_path)
    assert forbidden_imports(pairs, rooms_table()) == [
        "agents imports physics",
        "vector imports physics",
    ]


def test_importing_meta_rl_loads_nothing_heavy(tmp_path: Path) -> None:
    """In a fresh interpreter, from a folder without the sources."""
    heavy = {"torch", "mujoco", "stable_baselines3", "scipy", "tyro", "pydantic"}
    heavy |= {"meta_rl.envs", "meta_rl.agents", "meta_rl.cli"}
    program = f"import sys, meta_rl; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr


def test_every_package_folder_is_in_the_wheel() -> None:
    """``packages`` in pyproject.toml is explicit; envs/ is flat, agents/ has one level of packages.

    A package of an agent has a door, its ``__init__.py``.
    """
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {
        ".".join([package, *file.parent.relative_to(ROOT / folder).parts])
        for folder, package in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert packages == set(setuptools["packages"])
    assert setuptools["package-dir"] == {package: folder for folder, package in FOLDERS.items()}
    assert not any(package.startswith("meta_rl.envs.") for package in packages)
    of_agents = [p.split(".")[2:] for p in packages if p.startswith("meta_rl.agents.")]
    assert ["pearl"] in of_agents
    assert all(len(parts) == 1 for parts in of_agents)
    assert all((ROOT / "agents" / parts[0] / "__init__.py").exists() for parts in of_agents)
