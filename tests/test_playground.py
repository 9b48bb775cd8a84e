"""The playground as a visitor meets it: one file, opened from a folder in headless Chromium."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Browser, started, wait
from playground_files import FOLDER, build

MOST_BYTES = 4_000_000
WIDTHS = (390, 768, 1280)

TEXT = "return document.getElementById('{}').textContent"
OUTSIDE = (
    "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !/^(blob|data):/.test(n))"
)
# strokes by pointer events, as from a finger
DRAW = """
const pad = document.getElementById('digits-pad');
const box = pad.getBoundingClientRect();
const send = (kind, [x, y]) => pad.dispatchEvent(new PointerEvent(kind, {
  clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true, pointerId: 1}));
for (const stroke of arguments[0]) {
  send('pointerdown', stroke[0]);
  stroke.forEach((point) => send('pointermove', point));
  send('pointerup', stroke[stroke.length - 1]);
}
"""
LEFT = [[0.5, 0.15], [0.3, 0.3], [0.25, 0.5], [0.3, 0.7], [0.5, 0.85]]
ZERO = [[*LEFT, [0.7, 0.7], [0.75, 0.5], [0.7, 0.3], [0.5, 0.15]]]
SEVEN = [[[0.25, 0.2], [0.75, 0.2], [0.6, 0.5], [0.45, 0.85]]]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("playground") / "playground.html"
    path.write_text(build().page())
    return path


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    for window in started():
        window.open(page.as_uri())
        assert wait(window, TEXT.format("digits-caption"), 60), window.run(TEXT.format("status"))
        yield window


@pytest.fixture(autouse=True)
def _silent(browser: Browser) -> Iterator[None]:
    yield
    assert browser.errors() == []
    assert browser.run(OUTSIDE) == []


def click(browser: Browser, name: str) -> None:
    browser.run(f"document.getElementById('{name}').click()")


def teach(browser: Browser) -> str:
    """Opens the tab "Be the teacher"; the accuracy of fresh networks there, once there is one."""
    click(browser, "tab-teacher")
    return until(browser, "teacher-accuracy", "/%/")


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"const e = document.getElementById('{name}'); e.value = '{value}';"
        "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'));"
    )


def until(browser: Browser, name: str, pattern: str, seconds: float = 90.0) -> str:
    """The text of an element, once it matches."""
    text = f"document.getElementById('{name}').textContent"
    answer = wait(browser, f"return {pattern}.test({text}) && {text}", seconds)
    assert answer, f"{name}: {browser.run(TEXT.format(name))}; status: {browser.run(TEXT.format('status'))}"
    return answer


def share(text: str) -> float:
    """The number before the first per cent sign."""
    return float(text.partition(" %")[0].rsplit(" ", 1)[-1])


def test_the_page_is_one_small_file_that_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < MOST_BYTES
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy
    assert "http" not in policy
    assert "<script src" not in text
    assert '<link rel="stylesheet' not in text


def test_the_vendored_library_is_the_one_that_is_named() -> None:
    digest = hashlib.sha256((FOLDER / "vendor/jax.js").read_bytes()).hexdigest()
    assert f"`{digest}`" in (FOLDER / "vendor/README.md").read_text()


def test_a_request_would_be_refused_and_seen(browser: Browser) -> None:
    asked = browser.run("return fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert asked.startswith("TypeError")
    assert any("Content Security Policy" in error for error in browser.errors())


def test_a_network_is_taught_and_reads_what_is_drawn(browser: Browser) -> None:
    click(browser, "tab-digits")
    before = share(browser.run(TEXT.format("digits-caption")).partition("reads ")[2])
    assert before < 40
    click(browser, "digits-step")
    until(browser, "digits-caption", "/^Step 2 of 32/")
    click(browser, "digits-play")
    taught = until(browser, "status", "/^Taught in 32 steps/")
    assert share(taught.partition("reads ")[2]) > 88
    read = []
    for digit, strokes in ((0, ZERO), (7, SEVEN)):
        click(browser, "digits-clear")
        browser.ask("POST", "/execute/sync", {"script": DRAW, "args": [strokes]})
        read.append((digit, until(browser, "digits-answer", "/^It reads/")))
    assert [int(text.split()[2]) for _, text in read] == [digit for digit, _ in read]


def test_large_learning_rates_teach_nothing(browser: Browser) -> None:
    click(browser, "tab-digits")
    choose(browser, "digits-network", "dense")
    choose(browser, "digits-factor", "6")
    until(browser, "status", "/^A fresh network/")
    click(browser, "digits-play")
    until(browser, "digits-caption", "/^Step 32 of 32 was/")
    assert share(browser.run(TEXT.format("digits-caption")).partition("reads ")[2]) < 75
    choose(browser, "digits-factor", "0")


def test_the_teachers_points_teach_fresh_networks_the_moons(browser: Browser) -> None:
    start = share(teach(browser))
    click(browser, "teacher-play")
    end = time.monotonic() + 90
    while (reached := share(browser.run(TEXT.format("teacher-accuracy")))) <= 90 and time.monotonic() < end:
        time.sleep(0.1)
    click(browser, "teacher-play")
    assert reached > 90
    assert start < 90
    assert float(browser.run(TEXT.format("teacher-speed"))) > 0


def test_the_tab_stays_responsive_while_the_worker_works(browser: Browser) -> None:
    teach(browser)
    click(browser, "teacher-play")
    browser.run(
        "window.frames_ = 0; const count = () => { window.frames_ += 1; setTimeout(count, 0); }; count();"
    )
    time.sleep(2)
    assert browser.run("return window.frames_") > 40
    click(browser, "teacher-play")


def test_points_can_be_placed_with_the_keyboard(browser: Browser) -> None:
    teach(browser)
    choose(browser, "teacher-problem", "placed")
    until(browser, "status", "/^Place at least/")
    press = (
        "const plane = document.getElementById('teacher-plane');"
        "const key = (k) => plane.dispatchEvent(new KeyboardEvent('keydown', {key: k, bubbles: true}));"
    )
    for c, way in ((0, "ArrowLeft"), (1, "ArrowRight")):
        browser.run(f"document.querySelector('input[name=class][value=\"{c}\"]').checked = true;" + press)
        for _ in range(2):
            browser.run(press + f"for (let i = 0; i < 6; i++) key('{way}'); key(' ');")
    until(browser, "status", "/^Press Play/")
    click(browser, "teacher-step")
    until(browser, "teacher-count", "/^1$/")
    until(browser, "teacher-accuracy", "/%/")


def test_a_policy_taught_in_ten_steps_balances_and_an_untaught_one_falls(browser: Browser) -> None:
    click(browser, "tab-cartpole")
    until(browser, "status", "/^Taught in ten steps/")
    until(browser, "cartpole-score", "/^Up for 1[0-9][0-9] /", 30)
    click(browser, "cartpole-left")
    choose(browser, "cartpole-taught", "0")
    fallen = "return /^Fallen after (1[0-4]\\d|\\d\\d?) /.test(document.getElementById('status').textContent)"
    tries = 3  # 8 in 1,000 untaught policies stay up for 150 steps, 1 in 1,000 for as long as one looks
    while tries and not wait(browser, fallen, 15):
        tries -= 1
        click(browser, "cartpole-fresh")
    assert tries


@pytest.mark.parametrize("width", WIDTHS)
def test_every_tab_fits_the_width(browser: Browser, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
    browser.ask("POST", "/goog/cdp/execute", command)
    for name in ("digits", "teacher", "cartpole"):
        click(browser, f"tab-{name}")
        assert browser.run("return document.documentElement.scrollWidth") <= width, name
        unnamed = browser.run(
            "return [...document.querySelectorAll('canvas[role=img]')].filter(c => c.offsetParent)"
            ".filter(c => !c.getAttribute('aria-label')).map(c => c.id)"
        )
        assert unnamed == []
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})
