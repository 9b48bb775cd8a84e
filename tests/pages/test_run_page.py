"""The page is whole, honest and self-contained for every state of a run; exported curricula come back."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minigtn.config import RunConfig
from minigtn.outer.evaluate import reading_steps
from minigtn.pages import figures, run_page
from minigtn.runs.settings import to_dict
from minigtn.teaching.curriculum import PIXEL_RANGE, Curriculum, load_curriculum

T = 4
B = 5
K = 3
NAMES = ("<b>cat</b>", "dog & co", '"frog"')


def curriculum(C: int = 1, S: int = 8, T: int = T, B: int = B, names: tuple[str, ...] = NAMES) -> Curriculum:
    rng = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(T, B, C, S, S, generator=rng) - 2
    y = torch.nn.functional.one_hot(torch.arange(B).remainder(len(names)).expand(T, B), len(names)).float()
    return Curriculum(
        x, y, torch.linspace(0.1, 0.4, T), torch.linspace(0.5, 0.9, T), names, (0.4,) * C, (0.3,) * C, {}
    )


def result() -> dict[str, Any]:
    arm = {
        "lr": 0.2,
        "momentum": 0.5,
        "at_edge_of_grid": False,
        "tuned_on": "validation",
        "tuning_images": 2000,
    }
    arm["tuning"] = [
        {"lr": lr, "momentum": m, "valid_accuracy": 0.61234 + lr * m}
        for lr in (0.02, 0.2)
        for m in (0.0, 0.5)
    ]
    return {
        "inner_steps": T,
        "batch_size": B,
        "n_learners": 7,
        "steps": [1, 2, 4],
        "gtn_accuracy": 0.91234,
        "gtn_accuracy_std": 0.0111,
        "gtn_curve": {"mean": [0.3, 0.85, 0.91234], "std": [0.05, 0.04, 0.0111]},
        "real_accuracy": 0.80456,
        "real_accuracy_std": 0.0222,
        "real_curve": {"mean": [0.2, 0.5, 0.80456], "std": [0.05, 0.05, 0.0222]},
        "seconds_per_learner": {"gtn": 0.04321, "real": 1.2345},
        "real_arm": arm,
        "seconds": 1234.5,
        "evaluation_seconds": 67.8,
        "config": to_dict(RunConfig()),
        "commit": "0123456789ab",
        "versions": {"python": "3.11.1"},
        "device": "CPU, one thread",
    }


def with_longer(match: int | None, steps: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, Any]:
    """A result with real data for more steps, too."""
    curve = {"mean": [i / 10 for i in range(len(steps))], "std": [0.01] * len(steps)}
    sizes = {"lr": 0.02, "momentum": 0.9, "accuracy": curve["mean"][-1], "accuracy_std": 0.01}
    return result() | {"longer": {"steps": [*steps], "curve": curve, **sizes, "steps_to_match": match}}


def records(n: int = 30, skipped: int = 0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {
            "step": i,
            "meta_loss": 2 / i,
            "grad_norm": 1.0,
            "outer_lr": 0.01,
            "skipped": skipped,
            "seconds": 2.0 * i,
        }
        for i in range(1, n + 1)
    ]
    for line in lines[9::10]:
        line["valid_accuracy"] = 0.5 + line["step"] / 100
    return lines


def make_run(
    folder: Path,
    metrics: list[dict[str, Any]] | None = None,
    taught: Curriculum | None = None,
    judged: Any = None,
) -> Path:
    folder.mkdir()
    environment = {
        "commit": "0123456789ab",
        "versions": {"python": "3.11.1", "torch": "2.13.0"},
        "device": "CPU, one thread",
    }
    config = json.loads(json.dumps(to_dict(RunConfig())))
    (folder / "config.json").write_text(json.dumps({"config": config, **environment}))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    if taught is not None:
        taught.save(folder / "curriculum.safetensors")
    if judged is not None:
        (folder / "result.json").write_text(json.dumps(judged))
    return folder


def text_of(page: Path) -> str:
    """What a reader sees: no tags, no style."""
    html = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_page.write(
        make_run(tmp_path_factory.mktemp("runs") / "demo", records(), curriculum(), result())
    )


def test_finished_run_shows_the_numbers_of_its_result(finished: Path) -> None:
    assert finished.name == "report.html"
    text = text_of(finished)
    for shown in ("91.2% ± 1.1%", "80.5% ± 2.2%", "+10.8 points", "n = 7", "after 4 inner steps of 5 images"):
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
    assert "<script" not in html
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
    assert "\N{MINUS SIGN}10.5 points" in text
    assert "device, evaluation another machine" in text


def test_results_of_older_versions_are_drawn_and_say_what_is_missing(tmp_path: Path) -> None:
    judged = result()
    for new in ("steps", "seconds_per_learner"):
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


# ---- contact sheet and export ----


def test_contact_sheet_holds_the_first_image_of_each_class_in_pixels() -> None:
    c = curriculum(C=3)
    sheet = run_page.contact_sheet(c, [1, 3], [0, 2])
    assert sheet.shape == (2 * 9, 2 * 9, 4)
    real = c.x[3, 2].double().numpy() * 0.3 + 0.4  # step 3, class 2, which comes third in the batch
    cell = sheet[9:17, 9:17]
    np.testing.assert_array_equal(
        cell[..., :3], (real.clip(0, 1) * 255).round().transpose(1, 2, 0).astype(np.uint8)
    )
    assert (cell[..., 3] == 255).all()
    assert (sheet[8, :, 3] == 0).all()  # gaps
    assert (sheet[:, 17, 3] == 0).all()


def test_contact_sheet_undoes_the_standardization() -> None:
    pixels = torch.rand(T, B, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    c = curriculum()
    c = Curriculum(c.standardize(pixels), c.y, c.lr, c.momentum, c.class_names, c.mean, c.std)
    shown = run_page.contact_sheet(c, [0], [1])[:8, :8, 0]
    np.testing.assert_allclose(shown / 255, pixels[0, 1, 0], atol=0.5 / 255 + 1e-6)


def test_classes_that_a_batch_does_not_hold_are_transparent() -> None:
    sheet = run_page.contact_sheet(curriculum(B=2), [0], range(K))
    assert (sheet[:18, :8, 3].reshape(2, 9, 8)[:, :8] == 255).all()
    assert (sheet[18:, :, 3] == 0).all()


def test_exported_safetensors_come_back(tmp_path: Path) -> None:
    c = curriculum()
    run_page.export(c, tmp_path / "exact.safetensors", "float32")
    exact = load_curriculum(tmp_path / "exact.safetensors")
    assert torch.equal(exact.x, c.x)
    run_page.export(c, tmp_path / "small.safetensors", "uint8")
    small = load_curriculum(tmp_path / "small.safetensors")
    # rounding to the nearest of 256 levels over 4 standardized units
    half_a_level = (PIXEL_RANGE[1] - PIXEL_RANGE[0]) / 255 / 2
    assert (small.x - c.x).abs().max() <= half_a_level + 1e-6
    for part in ("y", "lr", "momentum"):
        assert torch.equal(getattr(small, part), getattr(c, part))
    assert small.class_names == exact.class_names == NAMES
    assert (tmp_path / "small.safetensors").stat().st_size < (tmp_path / "exact.safetensors").stat().st_size


def test_exported_npz_comes_back(tmp_path: Path) -> None:
    c = curriculum(C=3)
    run_page.export(c, tmp_path / "c.npz", "float32")
    with np.load(tmp_path / "c.npz") as arrays:  # allow_pickle is off
        assert sorted(arrays) == ["class_names", "lr", "mean", "momentum", "std", "x", "y"]
        for part in ("x", "y", "lr", "momentum"):
            np.testing.assert_array_equal(arrays[part], getattr(c, part).numpy())
        assert tuple(arrays["class_names"]) == NAMES
        np.testing.assert_array_equal(arrays["mean"], c.mean)
        np.testing.assert_array_equal(arrays["std"], c.std)
    before = (tmp_path / "c.npz").read_bytes()
    run_page.export(c, tmp_path / "c.npz", "float32")
    assert (tmp_path / "c.npz").read_bytes() == before


def test_exported_png_is_the_contact_sheet_of_everything(tmp_path: Path) -> None:
    from matplotlib.image import imread

    c = curriculum(C=3)
    run_page.export(c, tmp_path / "c.PNG", "float32")
    image = imread(tmp_path / "c.PNG", format="png")
    assert image.shape == (K * 9 * 5, T * 9 * 5, 4)  # 8 pixels and a gap, enlarged to cells of at least 40
    np.testing.assert_array_equal(
        (image[::5, ::5] * 255).round(), run_page.contact_sheet(c, range(T), range(K))
    )


@pytest.mark.parametrize("name", ["c.pkl", "c", "c.npz.zip"])
def test_unknown_endings_are_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"\.safetensors, \.npz or \.png, not to '{name}'"):
        run_page.export(curriculum(), tmp_path / name, "float32")
    assert not list(tmp_path.iterdir())


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
    assert run_page._short(number) == shown


def drawn_accuracy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[figures.Panel], dict[int, str]]:
    """What the figure of steps, images and seconds is drawn from."""
    calls = []
    monkeypatch.setattr(run_page, "svg", lambda *args: calls.append(args) or b"")
    run_page.write(folder)
    (found,) = {
        id(args[0]): (args[0], args[3]) for args in calls if args[1] == "inner step / images / seconds"
    }.values()
    return found


def test_the_accuracy_is_drawn_in_steps_images_and_seconds(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finished.read_bytes()
    (panel,), ticks = drawn_accuracy(finished.parent, monkeypatch)
    finished.write_bytes(before)
    assert ticks == {1: "1\n5\n0.011", 2: "2\n10\n0.022", 4: "4\n20\n0.043"}
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
    assert ticks[16] == "16\n80\n0.17"


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


@pytest.mark.parametrize(
    ("n", "most", "expected"), [(1, 16, [0]), (3, 16, [0, 1, 2]), (128, 3, [0, 64, 127])]
)
def test_evenly_spaced_choice_keeps_the_ends(n: int, most: int, expected: list[int]) -> None:
    assert run_page._evenly(n, most) == expected
