"""Settings of the documentation's site: ``make docs`` builds it into docs/_build/html.

The source folder is the repository, so that links from a page to a result's file or to the
changelog lead to pages of the site, and links to source files are downloads.
"""

import contextlib
import os
from pathlib import Path

from sphinx.application import Sphinx

import meta_rl
from meta_rl.cli.report.page import write_report

ROOT = Path(__file__).parent.parent

project = "meta_rl"
author = "The meta_rl authors"
project_copyright = author
release = meta_rl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**/*.md",
    "docs/**/*.ipynb",
    "docs/*.md",
    "benchmarks/results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [
    ".*",
    "**/.*",
    "agents",
    "build",
    "dist",
    "docs/_build",
    "envs",
    "meta_rl",
    "runs",
    "tests",
    # Each page of results has its notes already; these are pages of their own.
    *(
        f"benchmarks/results/{path.name}"
        for path in ROOT.glob("benchmarks/results/*_notes.md")
        if path.name != "few_shot_notes.md"
    ),
]

myst_enable_extensions = ["colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are committed with their outputs; `make notebooks` runs them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of named tuples are documented once
suppress_warnings = ["ref.python"]  # attributes of several classes have the same name

html_theme = "furo"
html_title = "meta_rl"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_extra_path = ["_static/root"]  # index.html, which leads to docs/index.html
html_copy_source = False

# Pages below a page that is read on its own too, where a toctree would show as code.
CHILDREN = {
    "docs/agents/README": "*",
    "docs/environments/README": "*",
    "docs/few_shot/README": "*",
    "docs/results": "../benchmarks/results/*",
}


def add_children(_: Sphinx, docname: str, source: list[str]) -> None:
    """Appends a hidden table of contents to the pages of ``CHILDREN``."""
    if docname in CHILDREN:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{CHILDREN[docname]}\n```\n"


def add_report(app: Sphinx, exception: Exception | None) -> None:
    """Writes the report of all suites, a page of its own, beside docs/report.html."""
    if exception is None and app.builder.format == "html":
        page = Path(app.outdir, "docs", "suites-report.html")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            write_report(ROOT / "benchmarks" / "results" / "suites", page)
        page.with_suffix(".md").unlink()


def setup(app: Sphinx) -> None:
    """Connects what this file adds to Sphinx."""
    app.connect("source-read", add_children)
    app.connect("build-finished", add_report)
