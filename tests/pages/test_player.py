"""The page of a run as a reader plays it: one file, opened from a folder in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from browser import Browser, started, wait
from minigtn.pages import figures, page, run_page
from minigtn.pages.figures import Line, Panel, png
from run_folders import T, curriculum, make_run, records, result

K = 3
OUTSIDE = (
    "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
)
VALUES = "return [...document.querySelectorAll('#player [data-value]')].map(place => place.textContent)"
PLACES = (
    "return [...document.querySelectorAll('.tile .synthetic img')].map(i => i.getBoundingClientRect().left"
    " - i.parentElement.getBoundingClientRect().left)"
)
CURSORS = (
    "return [...document.querySelectorAll('.cursor, .dot')].map(mark => [parseFloat(mark.style.left), "
    "parseFloat(mark.style.top)])"
)
GENUINE = "return document.querySelectorAll('.tile .genuine img').length"


def move(browser: Browser, step: int) -> None:
    browser.run(
        f"const s = document.getElementById('player-step'); s.value = {step - 1};"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("player") / "run", records(), curriculum(), result())
    (run / "real.png").write_bytes(png(np.full((K * 9, 9, 4), 200, np.uint8)))
    return run_page.write(run)


@pytest.fixture(scope="module")
def browser(report: Path) -> Iterator[Browser]:
    for window in started():
        window.open(report.as_uri())
        yield window


@pytest.fixture(autouse=True)
def _silent(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "browser" in request.fixturenames:
        browser = request.getfixturevalue("browser")
        assert browser.errors() == []
        assert browser.run(OUTSIDE) == []


def test_the_slider_moves_images_numbers_and_a_line_over_the_curves(browser: Browser) -> None:
    seen = []
    for step in range(1, T + 1):
        move(browser, step)
        seen.append((browser.run(VALUES), browser.run(PLACES), browser.run(CURSORS)))
    assert [values for values, _, _ in seen] == [
        ["1 of 4", "5", "0.1", "0.50", "30.0%", "20.0%"],
        ["2 of 4", "10", "0.2", "0.63", "85.0%", "50.0%"],
        ["3 of 4", "15", "0.3", "0.77", "85.0% (at 2)", "50.0% (at 2)"],
        ["4 of 4", "20", "0.4", "0.90", "91.2%", "80.5%"],
    ]
    for step, (_, places, marks) in enumerate(seen):
        assert places == pytest.approx([-step * 9 * 8] * K)  # cells of 8 + 1 pixels, enlarged eightfold
        assert len(marks) == 3 + 4  # lines over three panels; dots on two accuracies, two schedules
        for earlier in seen[:step]:
            assert all(mark[0] > before[0] for mark, before in zip(marks, earlier[2], strict=True))
    dots = [[mark[1] for mark in marks[1:3]] for _, _, marks in seen]
    assert all(sorted(arm, reverse=True) == list(arm) for arm in zip(*dots, strict=True))  # both rise


def test_the_images_of_the_player_are_those_of_the_sheet(browser: Browser) -> None:
    assert browser.run(
        "const of = (q) => [...document.querySelectorAll(q)].map(i => i.src);"
        "return JSON.stringify([of('.shown img'), of('.example img')]) == "
        "JSON.stringify([of('.synthetic img'), of('.genuine img')])"
    )
    assert browser.run(GENUINE) == K


def test_play_goes_to_the_end_and_pauses(browser: Browser) -> None:
    move(browser, T)
    browser.run("document.getElementById('player-play').click()")
    assert browser.run(VALUES)[0] == "1 of 4"
    assert browser.run("return document.getElementById('player-play').textContent") == "Pause"
    browser.run("document.getElementById('player-play').click()")
    assert browser.run("return document.getElementById('player-play').textContent") == "Play"
    browser.run("document.getElementById('player-play').click()")
    assert wait(browser, f"{VALUES}[0] == '4 of 4'")
    assert wait(browser, "return document.getElementById('player-play').textContent == 'Play'")


def test_the_keyboard_and_a_screen_reader_reach_everything(browser: Browser) -> None:
    move(browser, 2)
    slider = browser.run("document.getElementById('player-step').focus(); return document.activeElement.id")
    assert slider == "player-step"
    element = next(
        iter(browser.ask("POST", "/element", {"using": "css selector", "value": "#player-step"}).values())
    )
    browser.ask("POST", f"/element/{element}/value", {"text": "\ue014"})  # arrow right
    assert browser.run(VALUES)[0] == "3 of 4"
    spoken = browser.run("return document.getElementById('player-step').getAttribute('aria-valuetext')")
    assert spoken == (
        "step 3 of 4, learning rate 0.3, momentum 0.77; test accuracy after step 2: taught 85.0%, real data "
        "50.0%"
    )
    assert browser.run("return document.querySelector('label[for=player-step]').textContent") == "inner step"
    assert browser.run("return document.getElementById('player-stage').ariaLabel").endswith(spoken)
    assert browser.run("return [...document.images].filter(i => !i.hasAttribute('alt')).length") == 0


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_the_page_fits_the_width(browser: Browser, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
    browser.ask("POST", "/goog/cdp/execute", command)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})


def test_another_script_is_refused_and_seen(browser: Browser) -> None:
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.intruder = 1'; "
        "document.body.append(s)"
    )
    assert browser.run("return window.intruder") is None
    assert any("Content Security Policy" in error for error in browser.errors())


def test_without_scripts_all_steps_stay_in_view(report: Path, browser: Browser) -> None:
    switch = {"cmd": "Emulation.setScriptExecutionDisabled", "params": {"value": True}}
    browser.ask("POST", "/goog/cdp/execute", switch)
    browser.open(report.as_uri())
    shown = "/element/{}/displayed"
    seen = {}
    for part in ("#player", "#player-stage", ".sheet .shown img", ".example img", "picture img"):
        found = browser.ask("POST", "/element", {"using": "css selector", "value": part})
        seen[part] = browser.ask("GET", shown.format(next(iter(found.values()))))
    switch["params"] = {"value": False}
    browser.ask("POST", "/goog/cdp/execute", switch)
    browser.open(report.as_uri())
    assert list(seen.values()) == [False, False, True, True, True]


# ---- without a browser ----


def test_cursors_stand_where_the_curves_are_drawn() -> None:
    x = np.array([1, 2, 4])
    lines = [
        Line(x, np.array([10.0, 20, 30]), "taught", "a"),
        Line(x, np.array([5.0, 5, 5]), "real", dashed=True),
    ]
    (panel,) = figures.cursors([Panel("y", lines)], "x", None, [1, 3, 4])
    left, middle, right = panel["x"]
    assert middle == pytest.approx(left + (right - left) * 2 / 3, abs=2e-4)
    (dots,) = panel["dots"]  # none on a dashed curve
    first, between, last = dots["y"]
    assert between == pytest.approx((first + 3 * last) / 4, abs=2e-4)  # of 10, 25 and 30
    assert 0 < panel["top"] < last < first < panel["bottom"] < 1
    (logarithmic,) = figures.cursors([Panel("y", lines)], "x", {1: "1", 2: "2", 4: "4"}, [1, 2, 4])
    left, middle, right = logarithmic["x"]
    assert middle == pytest.approx((left + right) / 2, abs=2e-4)


def test_a_script_cannot_end_itself() -> None:
    with pytest.raises(ValueError, match="cannot hold '</script'"):
        page.document("t", "", script="'</script>'")
    assert "script-src" not in page.document("t", "")
