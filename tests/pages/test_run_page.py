"""The page is whole, honest and self-contained for every state of a run; exported curricula come back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.stats

from minigtn.outer.evaluate import reading_steps
from minigtn.pages import figures, page, player, run_page
from minigtn.pages.wording import duration, interval_of_difference, short
from run_folders import B, K, T, curriculum, make_run, records, result, with_longer


def text_of(page: Path) -> str:
    """What a reader sees: no tags, no style, no script."""
    html = re.sub(r"<(style|script)>.*?</\1>", "", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_page.write(
        make_run(tmp_path_factory.mktemp("runs") / "demo", records(), curriculum(), result())
    )


def test_finished_run_shows_the_numbers_of_its_result(finished: Path) -> None:
    assert finished.name == "report.html"
    text = text_of(finished)
    for shown in (
        "91.2% ± 1.1%",
        "80.5% ± 2.2%",
        "+10.8 ± 2.1 points",
        "n = 7",
        "after 4 inner steps of 5 images",
    ):
        assert shown in text
    assert "reach the 80.5% at which real data end within 2 of 4 steps" in text
    assert (
        "Time of one learner for its 4 steps: 0.043 s on the curriculum, 1.2 s on real data, medians of 5 "
        "runs (CPU, one thread)" in text
    )
    assert "a learning rate from 0.1 to 0.4 and a momentum from 0.5 to 0.9" in text
    assert "best at outer step 30 (80.0%), and that teacher is the result" in text
    assert "learning rate 0.2 and momentum 0.5, by validation accuracy (2,000 images)" in text
    assert "that the curriculum gives in" not in text
    assert "not finished" not in text
    assert "edge of its grid" not in text
    assert "not finite" not in text
    assert "0123456789ab" in text
    assert "60 s" in text  # of meta-training, from the metrics
    assert "68 s" in text
    assert "teacher.inner-steps 32" in text


def test_page_asks_nobody_for_anything(finished: Path) -> None:
    html = finished.read_text()
    assert html.count("<script") == 1
    assert f"<script>{player.SCRIPT}</script>" in html
    hashed = base64.b64encode(hashlib.sha256(player.SCRIPT.encode()).digest()).decode()
    policy = html.partition('Content-Security-Policy"')[2].partition(">")[0]
    assert f"script-src 'sha256-{hashed}';" in policy
    assert not re.search(r"https?://|@import|url\(", html)
    links = re.findall(r'(?:src|srcset|href)="([^"]*)"', html)
    assert len(links) > 6
    assert all(link.startswith("data:") for link in links)
    assert "default-src 'none'" in html


def test_every_figure_comes_for_light_and_for_dark_pages(finished: Path) -> None:
    html = finished.read_text()
    pictures = re.findall(r"<picture>(.*?)</picture>", html, flags=re.S)
    assert len(pictures) == 3
    for picture in pictures:
        dark, light = (base64.b64decode(b64).decode() for b64 in re.findall(r"base64,([^\"]*)", picture))
        assert "prefers-color-scheme: dark" in picture
        assert re.search(r'alt="[a-z]', picture)
        assert figures.PALETTES["dark"]["taught"] in dark
        assert figures.PALETTES["light"]["taught"] in light
        assert dark.startswith("<?xml") and light.startswith("<?xml")  # noqa: PT018
    assert "prefers-color-scheme: dark" in html.split("</style>")[0]
    assert all("alt=" in tag for tag in re.findall(r"<img [^>]*>", html))


def test_names_are_escaped(finished: Path) -> None:
    html = finished.read_text()
    assert "<b>cat</b>" not in html
    for escaped in ("&lt;b&gt;cat&lt;/b&gt;", "dog &amp; co", "&quot;frog&quot;"):
        assert escaped in html


def test_same_run_same_bytes(finished: Path) -> None:
    before = finished.read_bytes()
    assert run_page.write(finished.parent).read_bytes() == before
    assert sorted(p.name for p in finished.parent.glob(".*")) == []  # no part file stays


def test_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(25))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "meta_l')  # torn by a kill
    html = run_page.write(run).read_text()
    text = text_of(run / "report.html")
    assert (
        "not finished: 25 of 2,000 outer steps are done; it has no curriculum, no test accuracy yet" in text
    )
    assert "--resume" in text
    assert "best at outer step 20 (70.0%)." in text  # but no result yet
    assert html.count("<picture>") == 1


def test_run_without_evaluation_shows_its_curriculum(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(5), curriculum())
    html = run_page.write(run).read_text()
    assert "it has no test accuracy yet" in html
    assert html.count("<picture>") == 2
    assert html.count("data:image/png") == K
    assert "points" not in text_of(run / "report.html")


def test_minimal_run_is_its_settings(tmp_path: Path) -> None:
    text = text_of(run_page.write(make_run(tmp_path / "run")))
    assert "0 of 2,000 outer steps are done; it has no metrics, no curriculum, no test accuracy yet" in text
    assert "meta.outer-steps 2000" in text


def test_warnings_of_a_run_are_shown(tmp_path: Path) -> None:
    judged = result()
    judged["real_arm"] |= {"lr": 0.02, "momentum": 0.0, "at_edge_of_grid": True}
    judged |= {
        "gtn_accuracy": 0.7,
        "gtn_curve": {"mean": [0.1, 0.2, 0.7], "std": [0.0] * 3},
        "device": "another machine",
    }
    metrics = records(3, skipped=2)
    metrics[1]["meta_loss"] = None
    text = text_of(run_page.write(make_run(tmp_path / "run", metrics, curriculum(), judged)))
    assert "2 of 3 meta-gradients were not finite and were skipped" in text
    assert "is at the edge of the grid" in text
    assert "do not reach the 80.5%" in text
    assert "\N{MINUS SIGN}10.5 ± 2.1 points" in text
    assert "device, evaluation another machine" in text


def test_results_of_older_versions_are_drawn_and_say_what_is_missing(tmp_path: Path) -> None:
    judged = result()
    for new in ("steps", "seconds_per_learner", "confusion"):
        del judged[new]
    del judged["real_arm"]["tuning_images"]
    judged |= {f"{arm}_curve": {"mean": [0.2, 0.5, 0.8, 0.9], "std": [0.1] * 4} for arm in ("gtn", "real")}
    text = text_of(run_page.write(make_run(tmp_path / "run", records(), curriculum(), judged)))
    assert (
        "older than the measurement of how long the training of one learner takes; minigtn evaluate takes it"
        in text
    )
    assert "end within 4 of 4 steps" in text
    assert "training one learner" not in text
    assert "taken for what" not in text


def matrix() -> dict[str, Any]:
    def row(taught: float, real: float, more: float) -> dict[str, Any]:
        sizes = {"lr": 0.003, "momentum": 0.9, "optimizer": "adam"}
        return {
            "about": "of <two> parts",
            "sampled": False,
            "taught": {"curriculum": {"mean": taught, "std": 0.0123}},
            "real": {"mean": real, "std": 0.02, **sizes},
            "real_more": {"mean": more, "std": 0.01, **sizes},
        }

    rows = {"mlp": row(0.8123, 0.7, 0.9), "tiny-vit": row(0.2, 0.3, 0.85)}
    return {"inner_steps": 4, "batch_size": 5, "more_steps": 40, "n_learners": 3, "rows": rows}


def test_networks_never_met_have_a_table(tmp_path: Path) -> None:
    judged = result() | {"transfer": matrix()}
    page = run_page.write(make_run(tmp_path / "run", records(), curriculum(), judged))
    text = text_of(page)
    assert "Networks never met" in text
    assert "mlp: of &lt;two&gt; parts 81.2% ± 1.2% 70.0% ± 2.0% (adam, 0.003) 90.0%" in text
    assert (
        "after 4 steps: 50.6% in the mean, 50.0% on real data with as many steps and 87.5% with 40." in text
    )
    assert "1 of 2 (outlined) learn more from the curriculum than from as many real steps" in text
    assert "n = 3 fresh networks each" in text
    assert page.read_text().count('" class="best">81.2%') == 1
    assert '" class="best">20.0%' not in page.read_text()


def test_mistakes_have_a_table(finished: Path) -> None:
    text = text_of(finished)
    assert "What is taken for what" in text
    assert (
        "all n = 7 together, 210 readings. Read best is dog &amp; co (97.1%), worst &quot;frog&quot; (80.0%)"
        in text
    )
    assert "the most frequent mistake is to read &quot;frog&quot; as &lt;b&gt;cat&lt;/b&gt; (20.0%)" in text
    card = finished.read_text().partition("What is taken for what")[2]
    row = re.search(r'<th scope="row">&quot;frog&quot;</th>((?:<td style=.*?</td>)+)</tr></table>', card)
    assert row
    cells = re.findall(r'<td style="--heat:([\d.]+)"(| class="right")>(.*?)</td>', row[1])
    assert cells == [("1.000", "", "20.0"), ("0.000", "", "<i>0</i>"), ("0.800", ' class="right"', "80.0")]


def test_many_classes_have_a_sentence_instead_of_a_table(tmp_path: Path) -> None:
    judged = result() | {"confusion": (5 * np.eye(20, dtype=int)).tolist()}
    text = text_of(run_page.write(make_run(tmp_path / "run", records(), judged=judged)))
    assert "there is no mistake. 20 classes are too many for a table." in text


def test_real_images_stand_beside_the_synthetic_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(), curriculum(), result())
    strip = np.zeros((K * 9, 9, 4), np.uint8)
    strip[9:17, :8] = 77, 77, 77, 255
    (run / "real.png").write_bytes(figures.png(strip))
    html = run_page.write(run).read_text()
    images = re.findall(r'<td class="example"><img src="data:image/png;base64,(.*?)"', html)
    assert len(images) == K
    middle = np.array(PIL.Image.open(io.BytesIO(base64.b64decode(images[1]))).convert("RGBA"))
    np.testing.assert_array_equal(middle, strip[9:18])
    (run / "real.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"real\.png is not a picture that can be read; minigtn evaluate makes"
    ):
        run_page.write(run)


def test_greys_and_what_lies_outside_are_explained(tmp_path: Path) -> None:
    c = curriculum()
    c.x[:] = -4 / 3  # the pixel value 0 at mean .4 and std .3
    c.x[0, 0] = 5
    text = text_of(run_page.write(make_run(tmp_path / "run", taught=c)))
    assert "0 \N{MINUS SIGN}1.3 0.25 \N{MINUS SIGN}0.5 0.5 +0.3 0.75 +1.2 1 +2.0" in text
    assert f"{100 / (T * B):.1f}% of all synthetic values lie outside and are clipped" in text
    colour = text_of(run_page.write(make_run(tmp_path / "colour", taught=curriculum(C=3))))
    assert "Red, green and blue are pixel values from 0 to 1" in colour


@pytest.mark.parametrize(
    ("setting", "varies"),
    [
        ({}, False),
        ({"order": "all"}, True),
        ({"z": "random"}, True),
        ({"images": "real"}, True),
        ({"images": "pixels"}, False),
    ],
)
def test_a_teacher_that_varies_shows_an_example(
    setting: dict[str, str], varies: bool, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", taught=curriculum())
    saved = json.loads((run / "config.json").read_text())
    saved["config"]["teacher"] |= setting
    (run / "config.json").write_text(json.dumps(saved))
    assert ("shows every learner something else" in text_of(run_page.write(run))) is varies


@pytest.mark.parametrize("tail", [19, 20])
def test_a_run_that_diverged_says_so(tail: int, tmp_path: Path) -> None:
    metrics = records(30)
    for i in range(tail):
        metrics[30 - tail + i]["skipped"] = i + 1
    text = text_of(run_page.write(make_run(tmp_path / "run", metrics)))
    assert f"{tail} of 30 meta-gradients were not finite" in text
    assert ("The last 20 were so in a row: meta-training diverged" in text) is (tail == 20)
    assert ("--resume goes on" in text) is (tail == 19)


def test_meta_training_stands_beside_the_time_of_a_learner(finished: Path) -> None:
    text = text_of(finished)
    assert "meta-training, once 60 s training one learner 0.043 s" in text
    assert "Meta-training took as long as 1,400 of these trainings" in text


def test_the_interval_of_a_difference_is_welchs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 7), rng.normal(0.8, 0.05, 7)
    known = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    half = interval_of_difference(a.std(ddof=1), b.std(ddof=1), 7)
    assert half == pytest.approx((known.high - known.low) / 2)
    assert interval_of_difference(0, 0, 3) == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0432, ("0.043", "s")),
        (119, ("119", "s")),
        (344, ("5.7", "min")),
        (7200, ("2.0", "h")),
        (2e5, ("2.3", "days")),
    ],
)
def test_durations(seconds: float, shown: tuple[str, str]) -> None:
    assert duration(seconds) == shown


def test_a_run_without_a_matrix_has_no_table(finished: Path) -> None:
    assert "never met" not in text_of(finished)


def test_a_run_with_no_finite_meta_loss_is_drawn(tmp_path: Path) -> None:
    # null stands for NaN, which JSON does not have
    metrics = [{**record, "meta_loss": None} for record in records(3)]
    assert "No meta-loss was finite" in text_of(run_page.write(make_run(tmp_path / "run", metrics)))


def test_long_runs_and_many_classes_stay_readable_and_below_3_mb(tmp_path: Path) -> None:
    names = tuple(f"class {k}" for k in range(100))
    run = make_run(tmp_path / "run", records(5000), curriculum(C=3, S=32, T=64, B=30, names=names))
    page = run_page.write(run)
    assert page.stat().st_size < 3e6
    text = text_of(page)
    assert "16 of 64 steps shown, 16 of 100 classes shown; where a cell is empty" in text
    assert page.read_text().count("data:image/png") == 16


@pytest.mark.parametrize("broken", ["config.json", "result.json"])
def test_unreadable_files_are_named(tmp_path: Path, broken: str) -> None:
    run = make_run(tmp_path / "run")
    (run / broken).write_text("{")
    with pytest.raises(ValueError, match=f"{broken} is not valid JSON"):
        run_page.write(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        run_page.write(tmp_path)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, minigtn.pages.run_page; sys.exit('matplotlib' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode
        == 0
    )


# ---- numbers behind the drawings ----


def test_smoothing_is_a_mean_of_the_finite_neighbours() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 8.0])
    np.testing.assert_allclose(figures.smooth(values, 3), [1.5, 1.5, 3.0, 6.0, 6.0])
    np.testing.assert_array_equal(figures.smooth(values, 1), values)
    assert np.isnan(figures.smooth(np.full(2, np.nan), 3)).all()


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.01234, "0.012"),
        (1.26, "1.3"),
        (12.6, "13"),
        (640, "640"),
        (4096, "4,096"),
        (16384, "16k"),
        (9.96, "10"),
    ],
)
def test_short_numbers(number: float, shown: str) -> None:
    assert short(number) == shown


def drawn_accuracy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[figures.Panel], dict[int, str]]:
    """What the figure of steps, images and seconds is drawn from."""
    calls = []
    monkeypatch.setattr(page, "svg", lambda *args: calls.append(args) or b"")
    run_page.write(folder)
    (found,) = {
        id(args[0]): (args[0], args[3]) for args in calls if args[1] == "inner step / images / milliseconds"
    }.values()
    return found


def test_the_accuracy_is_drawn_in_steps_images_and_seconds(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finished.read_bytes()
    (panel,), ticks = drawn_accuracy(finished.parent, monkeypatch)
    finished.write_bytes(before)
    assert ticks == {1: "1\n5\n11", 2: "2\n10\n22", 4: "4\n20\n43"}
    real, taught = panel.lines
    assert taught.x.tolist() == real.x.tolist() == [1, 2, 4]
    np.testing.assert_allclose(taught.y, [30, 85, 91.234])


@pytest.mark.parametrize(("match", "says"), [(16, "need at most 16 steps for"), (None, "do not reach")])
def test_real_data_for_more_steps_are_a_third_line_and_a_sentence(
    match: int | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", records(), curriculum(), with_longer(match))
    text = text_of(run_page.write(run))
    assert (
        f"Tuned for 16 steps (learning rate 0.02, momentum 0.9), real data {says} the 91.2% that the "
        "curriculum gives in 4;" in text
    )
    (panel,), ticks = drawn_accuracy(run, monkeypatch)
    longer, real, taught = panel.lines
    assert taught.x.tolist() == real.x.tolist() == [1, 2, 4]
    assert longer.x.tolist() == list(ticks) == [1, 2, 4, 8, 16]
    np.testing.assert_allclose(longer.y, [0, 10, 20, 30, 40])
    assert (longer.label, longer.colour, longer.dashed, real.dashed) == (
        "real, 16 steps",
        "real",
        True,
        False,
    )
    assert ticks[16] == "16\n80\n173"


@pytest.mark.parametrize(
    ("steps", "expected"), [(100, [1, 2, 4, 8, 16, 32, 100]), (1280, [2, 8, 32, 128, 512, 1280])]
)
def test_ticks_of_many_steps_are_far_enough_apart(
    steps: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = with_longer(None, tuple(reading_steps(steps)))
    _, ticks = drawn_accuracy(make_run(tmp_path / "run", records(), curriculum(), judged), monkeypatch)
    assert list(ticks) == expected


def test_ticks_are_far_enough_apart_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = result() | {"steps": [1, 2, 4, 8, 10], "inner_steps": 10}
    judged |= {
        f"{arm}_curve": {"mean": [0.2, 0.5, 0.8, 0.9, 0.9], "std": [0.1] * 5} for arm in ("gtn", "real")
    }
    _, ticks = drawn_accuracy(make_run(tmp_path / "run", records(), curriculum(), judged), monkeypatch)
    assert list(ticks) == [1, 2, 4, 10]
