"""The book as a reader meets it: built from the notebooks' kept outputs, then every page opened in headless
Chromium."""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from browser import Browser, started, wait

ROOT = Path(__file__).parent.parent
NEEDED = ("sphinx", "myst_nb", "furo", "mathjax")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"the book needs {', '.join(MISSING)}: pip install -e '.[book]'"
)

Read = Callable[[str], dict[str, Any]]


# ---- the site ----


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The built site."""
    out = tmp_path_factory.mktemp("book")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-c",
        "book",
        "-d",
        str(out / "doctrees"),
        ".",
        str(out / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [
        line for line in done.stderr.splitlines() if "myst.xref" in line or "image file not" in line
    ], done.stderr
    return out / "site"


@pytest.fixture(scope="module")
def reading() -> ModuleType:
    spec = importlib.util.spec_from_file_location("book_reading", ROOT / "book/reading.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(site: Path) -> list[str]:
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


class _Page(html.parser.HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {a for a in (values.get("id"), values.get("name")) if a}
        self.links += [link for link in (values.get("href"), values.get("src")) if link is not None]


def broken_links(site: Path) -> list[str]:
    """Links that lead nowhere inside the site, and parts of pages that are fetched from elsewhere."""
    found = {page: _Page((site / page).read_text()) for page in pages(site)}
    broken = []
    for page, content in found.items():
        for link in content.links:
            if urlparse(link).scheme in ("http", "https", "mailto", "data"):
                continue
            path, anchor = urldefrag(urljoin(page, link))
            path = path.partition("?")[0]
            target = unquote(path) or page
            missing = not (site / target).is_file()
            if missing or (anchor and target in found and unquote(anchor) not in found[target].anchors):
                broken.append(f"{page}: {link}")
    return broken


def test_links_and_pictures_lead_somewhere(book: Path) -> None:
    assert not broken_links(book)


def test_the_link_checker_finds_broken_links(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html">x</a><a href="#there">x</a><img src="c.png"><a href="#here">ok</a>'
    )
    assert broken_links(tmp_path) == ["a.html: b.html", "a.html: #there", "a.html: c.png"]


def test_every_lesson_and_guide_is_in_the_book(book: Path) -> None:
    sources = [
        *ROOT.glob("lessons/[0-9]*.ipynb"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "README.md",
        ROOT / "reference/README.md",
    ]
    index = (book / "book/index.html").read_text()
    for source in sources:
        page = source.relative_to(ROOT).with_suffix(".html")
        assert (book / page).is_file()
        assert f'href="../{page}"' in index


def test_records_have_a_page_and_the_sidebar_none_of_them(book: Path) -> None:
    records = [*ROOT.glob("benchmarks/records/*/README.md")]
    listed = (book / "book/records.html").read_text()
    sidebar = (book / "book/index.html").read_text()
    assert 'href="records.html"' in sidebar
    for record in records:
        page = record.relative_to(ROOT).with_suffix(".html")
        assert f'href="../{page}"' in listed
        assert str(page) not in sidebar


def test_files_that_are_named_are_linked(reading: ModuleType) -> None:
    text = "`book/conf.py` and `inner/step.py`, [`docs/log.md`](x), `no/such.py`, `../../etc/passwd`\n"
    text += "```\n`book/conf.py`\n```\n"
    expected = "[`book/conf.py`](../book/conf.py) and [`inner/step.py`](../minigtn/inner/step.py), "
    expected += "[`docs/log.md`](x), `no/such.py`, `../../etc/passwd`\n```\n`book/conf.py`\n```\n"
    assert reading.link_files(text, ROOT / "docs", ROOT) == expected


def test_what_a_build_made_is_no_file_of_the_repository(reading: ModuleType, tmp_path: Path) -> None:
    for folder in ("build", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.html").touch()
    text = "`build/a.html`, `docs/a.html`"
    expected = "`build/a.html`, [`docs/a.html`](docs/a.html)"
    assert reading.link_files(text, tmp_path, tmp_path) == expected


def test_cells_of_wide_tables_know_their_column_and_diagrams_their_width(reading: ModuleType) -> None:
    heads = "".join(f"<th>c{i}</th>" for i in range(4))
    cells = "".join(f"<td>{i}</td>" for i in range(4))
    wide = f'<table class="docutils"><thead><tr>{heads}</tr></thead><tbody><tr>{cells}</tr></tbody></table>'
    assert reading.finished(wide).count("data-column=") == 4
    assert '<td data-column="c2">2</td>' in reading.finished(wide)
    narrow = wide.replace("<th>c3</th>", "").replace("<td>3</td>", "")
    assert reading.finished(narrow) == narrow
    drawn = reading.finished("<pre>a ──┐\n    │ b\n</pre><pre>x = 1\n</pre>")
    assert drawn == '<pre class="diagram" style="--columns: 7">a ──┐\n    │ b\n</pre><pre>x = 1\n</pre>'
    link = '<a class="reference download" download="" href="x/report.html">r</a>'
    assert "download=" not in reading.finished(link)
    assert "download=" in reading.finished(link.replace("report.html", "run.py"))


def test_solutions_are_folded(book: Path) -> None:
    for notebook in ROOT.glob("lessons/[0-9]*.ipynb"):
        solutions = sum(
            "solution" in cell["metadata"].get("tags", [])
            for cell in json.loads(notebook.read_text())["cells"]
        )
        text = (book / "lessons" / f"{notebook.stem}.html").read_text()
        assert text.count('<p class="collapsed admonition-title">Solution</p>') == solutions


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


READY = (
    "return document.readyState == 'complete' && (!window.MathJax || !MathJax.startup || "
    "!!MathJax.startup.document?.state?.())"
)
PICTURES = (
    "return [...document.querySelectorAll('.cell_output img')].filter(i => i.complete && "
    "i.naturalWidth > 100).length"
)
ELSEWHERE = (
    "return performance.getEntriesByType('resource').map(e => e.name).filter(n => /^http/.test(n) "
    "&& !n.startsWith(location.origin))"
)
BAD_MATHS = "return document.querySelectorAll('mjx-merror').length"
# code, output, tables and plots that are wider than the page, and would have to be pushed aside to be read
CUT_OFF = (
    "return [...document.querySelectorAll('article pre, article table.docutils, article .cell_output img')]"
    ".filter(e => e.offsetParent && (e.scrollWidth > e.clientWidth + 2 "
    "|| e.getBoundingClientRect().right > innerWidth + 1)).map(e => e.innerText || e.src)"
)
SEARCH_RESULTS = "return document.querySelectorAll('#search-results li').length"


def test_every_page_fits_a_phone_shows_its_plots_and_leaves_the_console_silent(
    book: Path, browser: Browser, address: str
) -> None:
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": phone})
    plots = {f"lessons/{path.stem}.html": plots_kept(path) for path in ROOT.glob("lessons/[0-9]*.ipynb")}
    assert min(plots.values()) >= 2, f"run the lessons without plots from the top and save them: {plots}"
    for page in pages(book):
        browser.open(address + page)
        assert wait(browser, READY), page
        if page in plots:
            assert wait(browser, f"{PICTURES} == {plots[page]}"), (
                f"{page} shows other than its {plots[page]} plots"
            )
        assert browser.errors() == [], page
        assert browser.run(ELSEWHERE) == [], f"{page} asks the network"
        assert browser.run(BAD_MATHS) == 0, f"{page} has a formula that cannot be read"
        width = browser.run("return document.documentElement.scrollWidth")
        assert width <= phone["width"], f"{page} is {width} pixels wide"
        assert browser.run(CUT_OFF) == [], f"{page} holds what does not fit a phone"
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})


def plots_kept(notebook: Path) -> int:
    """How many pictures the outputs of a notebook hold."""
    cells = json.loads(notebook.read_text())["cells"]
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_the_console_is_read(browser: Browser, address: str) -> None:
    browser.open(address + "book/index.html")
    browser.run("console.error('on purpose')")
    assert any("on purpose" in error for error in browser.errors())


def test_search_finds_a_word(browser: Browser, address: str) -> None:
    browser.open(address + "search.html?q=momentum")
    assert wait(browser, f"{SEARCH_RESULTS} > 3")
