"""The book: lessons, derivation, guides, results and API as a static site that asks nothing of the network.

The source folder is the repository itself, so relative links between its pages hold in the book, too:
``make book`` says ``sphinx-build -c book . build/book``. Notebooks are shown with the outputs they keep;
nothing is executed.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))

from reading import finish, link_files, list_of_records  # noqa: E402

project = "minigtn"
author = "The minigtn authors"
copyright = author  # the footer wants it by this name
root_doc = "book/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
include_patterns = [
    "book/*.md",
    "docs/**.md",
    "lessons/README.md",
    "lessons/[0-9]*.ipynb",
    "reference/README.md",
    "benchmarks/records/*/*.md",
    "*.md",
]
exclude_patterns = [".*", "build", "runs", "dist", "*.egg-info", "minigtn", "tests", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
autodoc_preserve_defaults = True
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "toc.not_included", "config.cache"]

html_theme = "furo"
html_title = "minigtn"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_favicon = "static/favicon.svg"
html_extra_path = ["root"]  # the site's first page leads to book/index.html
html_copy_source = False
mathjax_path = "mathjax/tex-chtml.js"  # from the package django-static-mathjax, see _copy_mathjax


def _relink(app: Any, docname: str, source: list[str]) -> None:
    """Links to folders of the repository lead to their README.md, or to their first file, and names of files
    to them; results are the README's own section."""
    if docname == "book/results":
        section = (ROOT / "README.md").read_text().split("## Results\n", 1)[1].split("\n## ", 1)[0]
        source[0] += re.sub(r"\]\((?!https?:|#)", "](../", section)
    if docname == "book/records":
        source[0] += list_of_records(ROOT)
    here = (ROOT / docname).parent
    if (ROOT / f"{docname}.md").is_file():
        source[0] = link_files(source[0], here, ROOT)

    def target(match: re.Match[str]) -> str:
        folder = here / match[1]
        if not folder.is_dir():
            return match[0]
        inside = [folder / "README.md", *sorted(folder.glob("*.json")), *sorted(folder.glob("*.py"))]
        return f"]({Path(match[1]) / next(file for file in inside if file.is_file()).name})"

    source[0] = re.sub(r"\]\((?!https?:|#)([^)#\s\\]+)\)", target, source[0])


def _plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text first: |x| is an absolute value and `Split`s a plural, neither of which
    reStructuredText expects."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [
            re.sub(r"(`\w+`)(\w)", r"\1\\ \2", part.replace("|", "\\|")) for part in parts[::2]
        ]  # outside of literals
        lines[i] = "``".join(parts)


def _fold_solutions(app: Any, doctree: nodes.document) -> None:
    """Solutions are folded, whatever their other tags, and the fold says what is in it."""
    for cell in doctree.findall(nodes.container):
        if "tag_solution" in cell.get("classes", []):
            cell["hide_mode"], cell["prompt_show"], cell["prompt_hide"] = "input", "Solution", "Solution"


def _copy_mathjax(app: Any, error: Exception | None) -> None:
    """MathJax and its fonts out of an installed package, so that the book needs no network and the repository
    no binaries."""
    if error is None:
        package = Path(str(importlib.resources.files("mathjax"))) / "static/mathjax/es5"
        target = Path(app.outdir) / "_static/mathjax"
        for part in ("output/chtml/fonts/woff-v2", "input/tex/extensions"):
            shutil.copytree(package / part, target / part, dirs_exist_ok=True)
        shutil.copy(package / "tex-chtml.js", target)


def _put_playground(app: Any, error: Exception | None) -> None:
    """The playground in place of the page that says what it is, which is for readers of the repository."""
    if error is None:
        spec = importlib.util.spec_from_file_location("playground_build", ROOT / "book/playground/build.py")
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        (Path(app.outdir) / "book/playground.html").write_text(build.page())


def setup(app: Any) -> None:
    app.connect("source-read", _relink)
    app.connect("autodoc-process-docstring", _plain_text)
    app.connect("doctree-read", _fold_solutions)
    app.connect("html-page-context", finish)
    app.connect("build-finished", _copy_mathjax)
    app.connect("build-finished", _put_playground)
