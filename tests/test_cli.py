"""The commands: what they write, what they print, and how they refuse."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import minigtn
from minigtn import cli, load_curriculum
from minigtn.cli import COMMANDS, GROUPS, main
from minigtn.config import PRESETS, RunConfig
from minigtn.data import datasets
from minigtn.nas import search
from minigtn.nas.study import SearchStopped
from minigtn.outer import meta_gradient
from minigtn.outer.loop import MetaTraining
from minigtn.runs.claim import claimed
from minigtn.runs.files import RUN_FILES, read_json, read_metrics
from minigtn.runs.settings import from_dict
from minigtn.studies import check
from tiny import SMALL_CIFAR, TINY, cifar_files, flags, tiny, train, write

FOLDER = {*RUN_FILES, "tensorboard"}
RESULT = {
    *(
        "gtn_accuracy",
        "gtn_accuracy_std",
        "real_accuracy",
        "real_accuracy_std",
        "inner_steps",
        "batch_size",
        "n_learners",
    ),
    *("seconds", "config", "commit", "versions", "device", "gtn_curve", "real_curve", "real_arm"),
}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the user's shell decides a test."""
    monkeypatch.delenv("MINIGTN_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, only to be read."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    main(train(TINY, folder))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to work on."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def call(*argv: str | Path) -> int:
    """The exit code of ``minigtn argv``."""
    try:
        main([str(word) for word in argv])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def refusal(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What ``minigtn argv`` says when it refuses with exit code 2, on one line."""
    assert call(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    if printed.err.startswith("minigtn: "):
        assert printed.err.count("\n") == 1
    return re.sub(r"[\s│╭╮╰╯─]+", " ", printed.err)


def test_a_search_that_cannot_go_on_says_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise SearchStopped("10 architectures failed 3 times each")

    monkeypatch.setattr(search, "search", stopped)
    assert call("nas", "search", "--dataset", "digits") == 1
    assert capsys.readouterr().err == "minigtn: 10 architectures failed 3 times each\n"


# ---- a run, whole ----


def test_cifar10_with_learners_from_a_search_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._SIZES, "cifar10", SMALL_CIFAR)
    images = write(tmp_path / "images", cifar_files())
    sampled = [
        "--meta.sample-learners",
        "cells",
        "--fidelity.channels",
        "2",
        "--fidelity.cells",
        "1",
        "--meta.sample-after",
        "1",
    ]
    sizes = ["--meta.outer-steps", "2", "--meta.valid-learners", "1", "--evaluation.learners", "2"]
    assert (
        call(
            "train",
            "--preset",
            "cifar10-tiny",
            "--data-dir",
            images,
            "--out",
            tmp_path / "run",
            *sampled,
            *sizes,
        )
        == 0
    )
    result = read_json(tmp_path / "run" / "result.json")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert result["longer"]["steps"] == [1, 2, 4, 8, 16]
    assert [record["skipped"] for record in records] == [0, 0]
    assert "16 steps" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_is_a_folder_with_these_files(trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} == FOLDER
    for path in trained.rglob("*"):
        # pickles
        assert path.is_dir() or path.read_bytes()[:2] not in (
            b"\x80\x02",
            b"\x80\x03",
            b"\x80\x04",
            b"\x80\x05",
            b"PK",
        )
    config = json.loads((trained / "config.json").read_text())
    assert from_dict(RunConfig, config["config"]) == TINY
    assert config.keys() == {"config", "commit", "versions", "device"}
    assert [r["step"] for r in read_metrics(trained / "metrics.jsonl")] == list(range(1, 7))
    assert any((trained / "tensorboard").iterdir())
    assert load_curriculum(trained).x.shape == (3, 10, 1, 8, 8)


def test_the_result_holds_what_others_rely_on(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert result.keys() >= RESULT
    assert (result["inner_steps"], result["batch_size"], result["n_learners"]) == (3, 10, 2)
    assert result["config"] == json.loads((trained / "config.json").read_text())["config"]
    assert all(
        math.isfinite(result[f"{arm}_accuracy{kind}"]) for arm in ("gtn", "real") for kind in ("", "_std")
    )
    assert result["seconds"] > 0


def test_a_finished_run_resumed_shows_its_table_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (run / name).read_bytes() for name in RUN_FILES if name != "report.html"}
    assert call(*train(TINY, run), "--resume") == 0
    assert before == {name: (run / name).read_bytes() for name in before}
    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads((run / "result.json").read_text())
    assert lines[0] == f"{run}: all {TINY.meta.outer_steps} outer steps are done already"
    assert lines[2] == "test accuracy after 3 steps of 10 images, n = 2 fresh learners"
    assert f"{result['gtn_accuracy']:.1%}" in lines[3]
    assert f"{result['real_accuracy']:.1%}" in lines[4]
    assert [line for line in lines if "tuned for" in line] == []
    assert lines[-1] == f"report: {run / 'report.html'}"


def test_a_run_resumed_elsewhere_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(run, folder)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, "device": "an abacus"}))
    assert call(*train(TINY, folder), "--resume") == 0
    assert (
        "began with another device; it goes on, but perhaps not to the same bits" in capsys.readouterr().out
    )


def test_memory_is_announced_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(tiny(outer_steps=1), seed=3)
    assert call(*train(config, tmp_path / "a" / "run")) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(
        r"digits on cpu: estimated peak memory of an outer step \d+\.\d MiB "
        r"\(adjoint \d+\.\d, teacher \d+\.\d\)",
        first,
    )


def test_evaluate_judges_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "result.json").read_text())
    words = [
        "--evaluation.learners",
        "3",
        "--evaluation.real-lrs",
        "0.1",
        "--evaluation.real-momenta",
        "0",
        "0.5",
    ]
    assert call("evaluate", run, *words, "--evaluation.tuning-learners", "1") == 0
    after = json.loads((run / "result.json").read_text())
    assert after["n_learners"] == 3
    assert after["seconds"] == before["seconds"]
    assert after["config"]["evaluation"]["real_momenta"] == [0, 0.5]
    assert after["config"]["meta"] == before["config"]["meta"]
    assert json.loads((run / "config.json").read_text())["config"] == before["config"]
    assert "n = 3 fresh learners" in capsys.readouterr().out


def test_report_draws_a_run_that_is_not_finished_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("report.html", "result.json", "curriculum.safetensors"):
        (run / name).unlink()
    assert call("report", run) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "<html" in (run / "report.html").read_text()


def test_export_writes_three_formats(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curriculum = load_curriculum(trained)
    for name, *words in (("a.safetensors",), ("b.safetensors", "--pixels", "uint8"), ("c.npz",), ("d.png",)):
        assert call("export", trained, tmp_path / name, *words) == 0
        assert capsys.readouterr().out.startswith(f"{tmp_path / name} (0.")
    assert (tmp_path / "a.safetensors").read_bytes() == (trained / "curriculum.safetensors").read_bytes()
    assert (load_curriculum(tmp_path / "b.safetensors").x - curriculum.x).abs().max() < 0.01
    with np.load(tmp_path / "c.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], curriculum.x.numpy())
    assert (tmp_path / "d.png").read_bytes()[1:4] == b"PNG"


def test_check_says_by_its_exit_code_whether_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for well, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(check, "run", lambda device, well=well: well)
        assert call("check", "--device", "cpu") == code


def test_a_run_that_diverges_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = meta_gradient.meta_loss
    monkeypatch.setattr(meta_gradient, "meta_loss", lambda *args: whole(*args) * math.nan)
    assert call(*train(tiny(max_skipped=2), tmp_path / "run")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("minigtn: 2 meta-gradients in a row were not finite (outer step 2): lower meta.lr")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "tensorboard",
    }
    assert call("report", tmp_path / "run") == 0
    assert call("evaluate", tmp_path / "run") == 2
    assert "no curriculum file" in capsys.readouterr().err


# ---- help ----


def test_without_a_command_and_with_help_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code in (([], 2), (["--help"], 0), (["-h"], 0)):
        assert call(*argv) == code
        printed = capsys.readouterr().out
        assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")] == [
            *COMMANDS,
            *GROUPS,
        ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "train",
            [
                *(w for w in flags(TINY) if w.startswith("--")),
                "--preset",
                "--out",
                "--data-dir",
                "--device",
                "--resume",
                *PRESETS,
            ],
        ),
        (
            "evaluate",
            ["--evaluation.learners", "--evaluation.real-lrs", "--data-dir", "--device", "Folder of the run"],
        ),
        ("report", ["Folder of the run, finished or not"]),
        ("export", ["--pixels", "{float32,uint8}", ".npz for NumPy"]),
        ("check", ["--device", "{auto,cpu,cuda}"]),
    ],
)
def test_help_of_a_command_names_its_flags(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, "--help") == 0
    printed = capsys.readouterr().out
    assert [word for word in words if word.replace("--learner.no-", "--learner.") not in printed] == []


def test_flags_start_from_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    for preset in (["--preset", "mnist-small"], ["--preset=mnist-small"]):
        assert call("train", *preset, "--help") == 0
        assert (
            f"Updates of the teacher. (default: {PRESETS['mnist-small'].meta.outer_steps})"
            in capsys.readouterr().out
        )


# ---- bad input ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "trian",
            "minigtn: there is no command 'trian'; the commands are train, evaluate, transfer, ablate, "
            "report, export, check, nas",
        ),
        (
            "train --preset nope",
            "minigtn: there is no preset 'nope'; the presets are tiny, digits, digits-any, ",
        ),
        ("train --preset", "Missing value for argument '--preset'"),
        ("train --learning-rate 3", "Unrecognized options: --learning-rate"),
        ("train --seed x", "Error parsing --seed: invalid literal"),
        ("train --seed -1", "the seed must not be negative"),
        ("train --dataset svhn", "invalid choice 'svhn'"),
        ("train --teacher.batch-size 0", "batch_size must be at least 1, not 0"),
        ("train --meta.lr inf", "meta.lr must be positive"),
        ("train --evaluation.learners 1", "learners >= 2"),
        ("train --learner.pool-after 5", "names convolution 5, but there are 2"),
        ("train --teacher.channels 4", "--teacher.channels"),
        (
            "train --preset mnist-small --data-dir /nowhere",
            "minigtn: the data folder /nowhere is not a folder",
        ),
        (
            "train --learner.channels 2 2 2 2 --learner.pool-after 1 2 3 4",
            "minigtn: images of (1, 8, 8) are too small for pooling",
        ),
        ("train --resume --overwrite", "minigtn: --resume continues a run and --overwrite replaces it"),
        ("evaluate", "Missing from minigtn evaluate"),
        (
            "evaluate nothing",
            "minigtn: nothing holds no config.json; give the folder of a run made by minigtn train",
        ),
        (
            "report nothing",
            "minigtn: nothing holds no config.json; give the folder of a run made by minigtn train",
        ),
        (
            "export nothing x.npz",
            "minigtn: no curriculum file nothing; give a file, a run's folder, or one of these names",
        ),
        ("export run x.gif", "minigtn: "),
        ("export run x.npz --pixels int3", "invalid choice 'int3'"),
        ("export run run/config.json/x.npz", "minigtn: "),
    ],
)
def test_bad_input_is_refused(
    argv: str, message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert message in refusal(capsys, *argv.split())
    assert [p.name for p in run.parent.iterdir()] == ["run"]  # a refusal leaves nothing behind


def test_out_that_is_a_file_or_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    table = run / "table.csv"
    table.write_text("arch,accuracy\n00000000,90\n00000001,91\n")
    commands = {
        "train --preset tiny": "--out",
        "ablate labels --preset tiny": "--out",
        "nas train --dataset digits --arch 00000000 --space nas-bench-macro --cutout 2": "--out",
        f"nas rank {table} --dataset digits --networks 2 --estimators params --bootstrap 2": "--out",
    }
    for command, flag in commands.items():
        said = refusal(capsys, *command.split(), "--device", "cpu", flag, run / "config.json")
        assert (
            f"{run / 'config.json'} cannot be the folder of a run (it is a file); name a folder that" in said
        )
        said = refusal(capsys, *command.split(), "--device", "cpu", flag, "/proc/run")
        assert "minigtn: /proc/run cannot be the folder of a run (" in said
    assert "/proc/x.npz cannot be written (" in refusal(capsys, "export", run, "/proc/x.npz")


def test_a_folder_that_another_process_works_in_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with claimed(run):
        for argv in ([*train(TINY, run), "--resume"], [*train(TINY, run), "--overwrite"], ["evaluate", run]):
            assert f"minigtn: another process is at work in {run}; wait for it, or name" in refusal(
                capsys, *argv
            )
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.parametrize("kept", ["checkpoint.safetensors", "result.json", "curriculum.safetensors"])
def test_a_half_deleted_run_is_neither_continued_nor_mixed_with_another(
    kept: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result that is left would else be shown as that of the next run."""
    for path in run.iterdir():
        if path.name != kept and path.is_file():
            path.unlink()
    other = train(dataclasses.replace(TINY, seed=4), run)
    for words in ([], ["--resume"]):
        assert (
            f"minigtn: {run} holds {kept} of a run, but no config.json, so nobody knows what settings "
            "they were made with; use --overwrite to replace it, or another --out"
            in refusal(capsys, *other, *words)
        )
    assert {path.name for path in run.iterdir() if path.is_file()} == {kept}
    assert call(*other, "--overwrite") == 0
    assert read_json(run / "result.json")["config"]["seed"] == 4


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"minigtn {minigtn.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", minigtn.__version__)
    assert "there is no command '--version'" in refusal(capsys, "nas", "--version")


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_a_terminal_without_the_sign_for_plus_or_minus(locale: dict[str, str], run: Path) -> None:
    """The run is finished: not the time to fail."""
    folder = run.with_name("ein Lauf für mich")
    run.rename(folder)
    done = subprocess.run(
        [sys.executable, "-m", "minigtn", *train(TINY, folder), "--resume"],
        env={**os.environ, **locale},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"taught by the curriculum +\d+\.\d% \+- \d+\.\d%", done.stdout)
    assert "ein Lauf f" in done.stdout


def test_nothing_is_drawn_over_in_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minigtn", *train(tiny(outer_steps=2), tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout


def test_a_thread_that_meets_a_full_disk_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """TensorBoard's does; the command says it in a sentence."""
    call("--version")
    capsys.readouterr()
    for error, lines in ((OSError(28, "No space left on device"), 0), (TypeError("a fault"), 1)):
        failed = threading.ExceptHookArgs([type(error), error, None, threading.current_thread()])
        threading.excepthook(failed)
        assert capsys.readouterr().err.count(type(error).__name__) == lines


def test_cuda_without_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "minigtn: --device cuda was given, but torch sees no CUDA device; use --device cpu" in refusal(
        capsys, "train", "--device", "cuda"
    )


def test_a_run_is_not_replaced_or_mixed_by_accident(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "curriculum.safetensors").read_bytes()
    again = train(TINY, run)
    assert "already holds a run; use --resume to continue it, --overwrite to replace it" in refusal(
        capsys, *again
    )
    (run / "checkpoint.safetensors").unlink()  # as if it was killed before the first one
    other = train(dataclasses.replace(TINY, seed=4), run)
    assert f"{run} was made with other settings (seed: 0 -> 4); go on with" in refusal(
        capsys, *other, "--resume"
    )
    assert (run / "curriculum.safetensors").read_bytes() == before
    (run / "notes.txt").touch()
    assert call(*other, "--overwrite") == 0
    assert (run / "curriculum.safetensors").read_bytes() != before
    assert {p.name for p in run.iterdir()} == {*FOLDER, "notes.txt"}


@pytest.mark.parametrize("command", ["evaluate", "report"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {"seed": 0}}'])
def test_a_damaged_config_is_one_sentence(
    command: str, content: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.json").write_text(content)
    assert refusal(capsys, command, run).startswith("minigtn: ")


def test_a_damaged_checkpoint_is_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint.safetensors").write_bytes(b"torn")
    printed = refusal(capsys, *train(TINY, run), "--resume")
    assert "checkpoint.safetensors is not a readable checkpoint" in printed


def test_ctrl_c_is_130_in_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_curriculum", interrupted)
    monkeypatch.setattr(MetaTraining, "catch_up", interrupted)
    assert call("export", "a", "b.npz") == 130
    assert capsys.readouterr().err == "\nminigtn: stopped\n"
    assert call("train", "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == "\nminigtn: stopped; the same command with --resume goes on\n"


@pytest.mark.parametrize(
    "program", [["-m", "minigtn"], [str(Path(sys.executable).with_name("minigtn"))]], ids=["module", "script"]
)
def test_the_program_works_from_any_folder(program: list[str], trained: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:minigtn"}
    done = subprocess.run(
        [sys.executable, *program, "export", trained, "x.npz"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("x.npz (0.")


# ---- the other rooms ----


def test_evaluate_starts_from_the_runs_own_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_json(run / "result.json")
    assert call("evaluate", str(run), "--evaluation.learners", "3", "--device", "cpu") == 0
    after = read_json(run / "result.json")
    assert after["n_learners"] == 3
    assert after["config"]["evaluation"] == before["config"]["evaluation"] | {"learners": 3}
    assert after["real_arm"]["tuning"] == before["real_arm"]["tuning"]


def test_evaluate_gives_real_data_more_steps(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", run, "--evaluation.more", "2", "--device", "cpu") == 0
    result = read_json(run / "result.json")
    longer = result["longer"]
    assert longer["steps"] == [1, 2, 4, 6]
    assert result["config"]["evaluation"]["more"] == 2
    row = f"  {'real data, tuned for 6 steps':<44}{longer['accuracy']:7.1%} ± {longer['accuracy_std']:.1%}"
    assert row in capsys.readouterr().out.splitlines()


def test_transfer_judges_a_run_on_other_learners(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("transfer", str(run), "--learners", "base", "dense", "--more", "2", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "base" in printed
    assert "dense" in printed
    assert read_json(run / "transfer.json")["more_steps"] == 6


def test_transfer_takes_shipped_curricula_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--learners", "base", "relu-mlp", "--more", "1", "--device", "cpu")
    grid = ("--evaluation.learners", "2", "--evaluation.real-lrs", "0.1", "--evaluation.tuning-learners", "1")
    assert call("transfer", "digits-10", *words, *grid, "--evaluation.real-momenta", "0.5") == 0
    result = read_json(tmp_path / "transfer.json")
    assert list(result["rows"]) == ["base", "relu-mlp"]
    assert result["rows"]["base"]["taught"]["digits-10"]["mean"] > 0.8
    assert result["inner_steps"] == 10
    assert "digits-10" in capsys.readouterr().out.splitlines()[1]
    assert call("transfer", "digits-11", *words) == 2
    assert call("transfer", "cartpole-10", *words) == 2
    assert "does not say which data set and learner it was made for" in capsys.readouterr().err


def test_a_run_reports_transfer_where_it_is_asked_to(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "transfer" not in read_json(run / "result.json")
    assert call("evaluate", run, "--evaluation.transfer", "2", "--device", "cpu") == 0
    matrix = read_json(run / "result.json")["transfer"]
    assert len(matrix["rows"]) == 6
    assert matrix["more_steps"] == 10 * matrix["inner_steps"]
    assert "Networks never met" in (run / "report.html").read_text()
    assert "networks never met" in capsys.readouterr().out


def test_ablations_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--preset",
        "tiny",
        "--meta.outer-steps",
        "2",
        "--seeds",
        "2",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "a"),
    ]
    assert call("ablate", "labels", *words) == 0
    assert "labels: Are soft labels worth it?" in capsys.readouterr().out
    assert (tmp_path / "a" / "labels.png").exists()
    assert "given colour" in refusal(capsys, "ablate", "colour", *words)


def test_nas_has_commands_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("nas") == 2
    assert {"search", "rank", "train"} <= set(capsys.readouterr().out.split())
    assert "there is no command 'hunt'; the commands are search, rank, train" in refusal(
        capsys, "nas", "hunt"
    )
    for command in ("search", "rank", "train"):
        assert call("nas", command, "--help") == 0
        assert "--data-dir" in capsys.readouterr().out


def test_nas_train_and_rank_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--dataset", "digits", "--device", "cpu"]
    words = [
        "--arch",
        "00000000",
        "--space",
        "nas-bench-macro",
        "--epochs",
        "1",
        "--cutout",
        "2",
        "--no-augment",
        "--out",
        str(tmp_path / "final"),
    ]
    assert call("nas", "train", *common, *words) == 0
    assert "test accuracy" in capsys.readouterr().out
    table = tmp_path / "table.csv"
    table.write_text(
        "arch,accuracy\n"
        + "".join(f"0000000{i},{90 + i}\n" for i in range(3))
        + "00000010,91.5\n00000020,93.5\n"
    )
    words = [
        "--estimators",
        "params",
        "flops",
        "--networks",
        "0",
        "--bootstrap",
        "10",
        "--out",
        str(tmp_path / "rank"),
    ]
    assert call("nas", "rank", str(table), *common, *words) == 0
    assert (tmp_path / "rank" / "report.html").exists()
