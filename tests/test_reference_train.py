"""``reference.train`` and ``python -m reference``: a short meta-training teaches, and one with a wrong
gradient does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import minigtn.data
from reference import __main__ as command
from reference import train

pytestmark = pytest.mark.filterwarnings("error")
STEPS = 16


def short_training(seed: int, steps: int = STEPS) -> tuple[dict, list[float]]:
    """theta after some outer steps, and their meta-losses."""
    losses: list[float] = []
    theta = train.meta_train(
        seed, steps, train.load_data()[0], lambda i, meta_loss, theta: losses.append(meta_loss)
    )
    return theta, losses


def assert_it_teaches(seed: int) -> None:
    """The meta-loss falls by a tenth or more, and fresh learners read 15 points more than after an untaught
    teacher."""
    theta, losses = short_training(seed)
    valid = train.load_data()[1]
    untaught = train.new_teacher(np.random.default_rng([seed, 0]))
    before = train.accuracies(untaught, seed, 5, valid).mean()
    after = train.accuracies(theta, seed, 5, valid).mean()
    assert len(losses) == STEPS
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert after > before + 0.15


def test_a_short_meta_training_teaches() -> None:
    assert_it_teaches(seed=3)


def test_a_meta_gradient_of_the_wrong_sign_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = train.meta_gradient

    def wrong(*given):
        meta_loss, d_theta = right(*given)
        return meta_loss, {name: -d for name, d in d_theta.items()}

    monkeypatch.setattr(train, "meta_gradient", wrong)
    with pytest.raises(AssertionError):
        assert_it_teaches(seed=3)


def test_the_seed_decides_every_bit() -> None:
    (once, losses), (again, same), (_, others) = (short_training(seed, 2) for seed in (4, 4, 5))
    assert losses == same
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not set(losses) & set(others)
    valid = train.load_data()[1]
    assert len(set(train.accuracies(once, 4, 3, valid)) | set(train.accuracies(once, 5, 3, valid))) > 3


def test_meta_training_starts_from_the_teacher_that_is_called_untaught() -> None:
    theta, _ = short_training(6, 0)
    untaught = train.new_teacher(np.random.default_rng([6, 0]))
    assert theta.keys() == untaught.keys()
    assert all(np.array_equal(theta[name], untaught[name]) for name in theta)


def test_the_digits_are_those_of_minigtn() -> None:
    digits = minigtn.data.load("digits")
    for (x, y), split in zip(train.load_data(), (digits.train, digits.valid, digits.test), strict=True):
        assert x == pytest.approx(split.x.numpy(), abs=1e-5)
        assert y.argmax(1).tolist() == split.y.tolist()
        assert y.sum(1).tolist() == [1.0] * len(x)


def test_accuracy_counts_right_answers() -> None:
    theta = train.new_teacher(np.random.default_rng(7))
    w0 = train.new_learner(np.random.default_rng(8))
    x, y = train.load_data()[1]
    by_class = [train.accuracy(theta, w0, (x, np.tile(np.eye(10)[k], (len(x), 1)))) for k in range(10)]
    assert sum(by_class) == pytest.approx(1.0)  # every image is read as exactly one class
    assert train.accuracy(theta, w0, (x, y)) < max(by_class) + 0.5


def test_pictures_in_the_terminal() -> None:
    images = np.linspace(0, 1, 10 * 64).reshape(10, 8, 8)
    for encoding, shades in (
        ("utf-8", " ░▒▓█"),
        ("cp437", " ░▒▓█"),
        ("ascii", " .:*#"),
        ("latin-1", " .:*#"),
        (None, " .:*#"),
    ):
        lines = command.as_text(images, encoding).split("\n")
        assert len(lines) == 3 * 9  # rows of four, four and two images, and an empty line after each
        assert [len(lines[row]) for row in (0, 9, 18)] == [70, 70, 34]
        assert set("".join(lines)) == set(shades)
        assert lines[0][:2] == 2 * shades[0]
        assert lines[25][-2:] == 2 * shades[4]
        "\n".join(lines).encode(encoding or "ascii")


def test_png_has_a_row_per_class_and_a_column_per_step(tmp_path: Path) -> None:
    images = np.zeros((3, 10, 8, 8))
    images[2, 7] = 1.0
    command.save_png(images, str(tmp_path / "no suffix"))
    picture = matplotlib.image.imread(tmp_path / "no suffix", format="png")[:, :, 0]
    assert picture.shape == (10 * 60, 3 * 60)
    bright = np.argwhere(picture > 0.5)
    assert bright.min(0).tolist() == [7 * 60 + 6, 2 * 60 + 6]
    assert bright.max(0).tolist() == [7 * 60 + 53, 2 * 60 + 53]


def test_a_png_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((1, 10, 8, 8))
    with pytest.raises(SystemExit, match=r"cannot be written \(No such file or directory\): name"):
        command.save_png(images, str(tmp_path / "nowhere" / "a.png"))
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        command.save_png(images, str(tmp_path / "a.png"))


def test_ctrl_c_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "meta_train", interrupted)
    monkeypatch.setattr(sys, "argv", ["reference"])
    with pytest.raises(SystemExit, match="Stopped before the end"):
        command.main()


def python_m_reference(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "error", "-m", "reference", *arguments]
    return subprocess.run(
        line, cwd=Path(train.__file__).parent.parent, env=environment, capture_output=True, text=True
    )


def test_the_command(tmp_path: Path) -> None:
    done = python_m_reference("--outer-steps", "1", "--seed", "9", "--png", str(tmp_path / "a.png"))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"outer step   0   meta-loss \d\.\d{3}   validation \d+\.\d%", done.stdout)
    assert len(re.findall(r"(before|after ) its meta-training: \d+\.\d \+- \d+\.\d %", done.stdout)) == 2
    assert re.search(r"^([ .:*#])\1[ .:*#]{68}$", done.stdout, re.M)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (600, 600)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "--outer-steps"),
        (["--seed", "-1"], 2, "whole numbers from 0"),
        (["--seed", "x"], 2, "invalid int value"),
    ],
)
def test_help_and_refusals(arguments: list[str], code: int, said: str) -> None:
    done = python_m_reference(*arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
