"""What the pages of the book need beyond Sphinx: tables that become cards on a telephone, diagrams that
shrink, links where a file is named, a list of all records."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

FENCE = re.compile(r"(^```.*?^```)", re.S | re.M)
NAMED = re.compile(r"(?<![\[`])`([\w./-]+\.\w+)`(?![\]`])")
WIDE = 4  # columns from which a table becomes cards on a telephone
DRAWN = re.compile("[─│└┌┐┘├┤┬┴┼▼▲]")


def link_files(text: str, here: Path, root: Path) -> str:
    """Markdown in which files of the repository that are named as code are links to them; ``here`` is the
    page's folder, beside which a name is looked up first, then from the root and from the package. What is
    made, in ``build/`` and ``runs/``, is no file of the repository, whether it is there or not."""
    inside = root.resolve()
    made = (inside / "build", inside / "runs")

    def link(match: re.Match[str]) -> str:
        for folder in (here, root, root / "minigtn"):
            file = folder / match[1]
            real = file.resolve()
            theirs = real.is_relative_to(inside) and not any(map(real.is_relative_to, made))
            if file.is_file() and theirs:
                return f"[{match[0]}]({os.path.relpath(file, here)})"
        return match[0]

    parts = FENCE.split(text)
    parts[::2] = [NAMED.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def list_of_records(root: Path) -> str:
    """A line for each record, the newest first: its day, and its title as a link."""
    lines = []
    for readme in sorted(root.glob("benchmarks/records/*/README.md"), reverse=True):
        day, _, _ = readme.parent.name.partition("_")
        title = readme.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"- {day}: [{title}](../{readme.relative_to(root)})")
    return "\n".join(lines) + "\n"


def finish(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx's event html-page-context: the page's body, made fit for small screens."""
    if context.get("body"):
        context["body"] = finished(context["body"])


def finished(body: str) -> str:
    """Cells of wide tables know their column; diagrams know how many columns they have; what a browser can
    show is shown instead of saved."""
    soup = BeautifulSoup(body, "html.parser")
    for table in soup.select("table.docutils"):
        columns = [cell.get_text(" ", strip=True) for cell in table.select("thead th")]
        if len(columns) >= WIDE:
            table["class"] = [*table.get("class", []), "cards"]
            for row in table.select("tbody tr"):
                for cell, column in zip(row.find_all("td"), columns, strict=False):
                    cell["data-column"] = column
    for block in soup.select("pre"):
        text = block.get_text()
        if len(DRAWN.findall(text)) > 3:
            block["class"] = [*block.get("class", []), "diagram"]
            block["style"] = f"--columns: {max(map(len, text.splitlines()))}"
    for link in soup.select("a.download"):
        if str(link.get("href", "")).endswith((".html", ".json", ".png")):
            del link["download"]
    return str(soup)
