"""How much of the library a reader has to know: files and lines that a class leads to.

The import closure of a file is itself and all of the library's files that it imports, directly or
through others: imports within functions count, those for TYPE_CHECKING do not. A package's
``__init__.py`` counts where a name is taken from it. What is found by a registered name
(``"module:Class"``, as environments are) does not count.

    python benchmarks/import_closure.py
    python benchmarks/import_closure.py --against ../another_checkout
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.sparse.csgraph import connected_components

from meta_rl.files import write_atomically

FOLDERS = {"meta_rl": "meta_rl", "envs": "meta_rl.envs", "agents": "meta_rl.agents"}
"""Packages by the folders of a checkout that hold them."""

CLASSES = {
    "RL²": "RL2",
    "MAML-TRPO": "MAMLTRPO",
    "PEARL": "PEARL",
    "HalfCheetahVel": "HalfCheetahVel",
    "ProtoNet": "ProtoNet",
}
"""Classes whose closures are counted."""

ASKED = {"RL²": (13, 2200), "MAML-TRPO": (14, 2600), "PEARL": (14, 2700)}
"""Files and lines that are aimed at."""


@dataclass
class Args:
    """Settings of the run."""

    checkout: Path = Path(__file__).resolve().parent.parent
    """Folder of the sources that are counted."""
    against: Path | None = None
    """Folder of other sources, which get columns of their own."""
    out: Path = Path(__file__).parent / "results"
    """Folder of import_closure.json and import_closure.md."""


def shipped_files(checkout: Path) -> dict[str, Path]:
    """The shipped source files of a checkout, by the names of their modules."""
    files = {}
    for folder, package in FOLDERS.items():
        for file in sorted((checkout / folder).rglob("*.py")):
            parts = file.relative_to(checkout / folder).with_suffix("").parts
            files[".".join([package, *parts]).removesuffix(".__init__")] = file
    return files


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from run_nodes(other)
        else:
            yield child
            yield from run_nodes(child)


def imported_names(source: str, package: str) -> Iterator[str]:
    """The absolute dotted names that a file of a package imports.

    ``from a import b`` gives ``a.b``, which is a module or a name in one.
    """
    for node in run_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) + 1 - node.level] if node.level else []
            prefix = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function, argument = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if function in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield str(argument.value)


def import_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """The modules among ``files`` that each of them imports."""
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        found = set()
        for name in imported_names(file.read_text(encoding="utf-8"), package):
            while name and name not in files:  # a name in a module
                name = name.rpartition(".")[0]
            found.add(name)
        graph[module] = found - {"", module}
    return graph


def closure(graph: Mapping[str, set[str]], module: str) -> set[str]:
    """The module and all that it leads to."""
    found, waiting = {module}, [module]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others in the group."""
    names = sorted(graph)
    matrix = np.array([[other in graph[name] for other in names] for name in names])
    _, labels = connected_components(matrix, connection="strong")
    groups = [[names[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
    return sorted(group for group in groups if len(group) > 1)


def home_of(files: Mapping[str, Path], name: str) -> str:
    """The module that defines a class.

    Raises:
        ValueError: No module or several modules do.
    """
    text = f"\nclass {name}("
    homes = [m for m, file in files.items() if text in file.read_text(encoding="utf-8")]
    if len(homes) != 1:
        raise ValueError(f"class {name} is defined in {', '.join(homes) or 'no module'}")
    return homes[0]


def counted(checkout: Path) -> dict[str, Any]:
    """Closures, circles and total lines of a checkout.

    Raises:
        ValueError: It has none of the sources, or a class is missing.
    """
    files = shipped_files(checkout)
    graph = import_graph(files)
    lines = {m: len(file.read_text(encoding="utf-8").splitlines()) for m, file in files.items()}
    closures = {}
    for label, name in CLASSES.items():
        found = closure(graph, home_of(files, name))
        closures[label] = {module: lines[module] for module in sorted(found)}
    return {
        "closures": closures,
        "circles": circles(graph),
        "files": len(files),
        "lines": sum(lines.values()),
    }


def rows(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Files and lines as text, by what is counted."""
    found = {
        label: (f"{len(modules)}", f"{sum(modules.values()):,}")
        for label, modules in result["closures"].items()
    }
    found["the library"] = (f"{result['files']}", f"{result['lines']:,}")
    return found


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table, its columns in the order of the results, and the circles."""
    names = list(results)
    columns = [f"{part}, {name}" for name in names for part in ("files", "lines")]
    head = ["", *columns, "aimed at"]
    table = [head, ["---"] * len(head)]
    texts = [rows(result) for result in results.values()]
    for label in texts[0]:
        aim = "{} files, {:,} lines".format(*ASKED[label]) if label in ASKED else ""
        table.append([label, *(part for text in texts for part in text[label]), aim])
    written = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return (
        "# Import closures\n\nFiles and lines of the library that a class leads to, by imports at "
        "module level and within functions, but not by those for TYPE_CHECKING.\n\n"
        f"{written}\n\n{circle_text(results)}\n\n"
        "Made by `python benchmarks/import_closure.py`"
        f"{' --against CHECKOUT' if len(results) > 1 else ''}; the files of each closure are in "
        "import_closure.json.\n"
    )


def circle_text(results: dict[str, dict[str, Any]]) -> str:
    """The number of import circles of each checkout, and which these are."""
    texts = []
    for name, result in results.items():
        found = "; ".join(" ↔ ".join(f"`{m}`" for m in group) for group in result["circles"])
        texts.append(f"Import circles {name}: {len(result['circles'])}{found and f' ({found})'}.")
    return "\n".join(texts)


def main(args: Args) -> None:
    """Counts, and writes the table."""
    results = {} if args.against is None else {"before": counted(args.against)}
    results["now"] = counted(args.checkout)
    write_atomically(args.out / "import_closure.json", json.dumps(results, indent=1) + "\n")
    write_atomically(args.out / "import_closure.md", markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
