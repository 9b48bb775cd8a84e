"""The files of a run: whole or absent, and none but a run's own are ever deleted."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch

from minigtn.runs import files
from minigtn.runs.files import (
    RUN_FILES,
    CannotWrite,
    Metrics,
    environment,
    load_tensors,
    read_json,
    read_metrics,
    remove_run,
    require_config,
    save_tensors,
    write_atomically,
    write_json,
)


def test_a_write_that_is_cut_short_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, "old")

    def power_cut(descriptor: int) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", power_cut)
        with pytest.raises(
            CannotWrite, match=r"file cannot be written \(power cut\): check it, or name another"
        ):
            write_atomically(path, b"new" * 1000)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_that_is_no_json_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [0.1, None], "y": "ä"})
    assert read_json(tmp_path / "a.json") == {"x": [0.1, None], "y": "ä"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert read_json(tmp_path / "a.json")["y"] == "ä"
    for content in (b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 100_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.json is not valid JSON \("):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize("folder", ["empty", "no folder", "a file"])
def test_a_folder_that_is_no_run_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    with pytest.raises(
        FileNotFoundError,
        match=f"{folder} holds no config.json; give the folder of a run made by minigtn train",
    ):
        read_json(tmp_path / folder / "config.json")


def test_metrics_go_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    metrics = Metrics(path, 0)
    for step in (1, 2, 3):
        metrics.write({"step": step, "loss": step / 3})
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]

    metrics = Metrics(path, 2)
    metrics.write({"step": 3, "loss": math.inf})
    metrics.close()
    assert read_metrics(path) == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
        {"step": 3, "loss": None},
    ]
    Metrics(path, 0).close()
    assert path.read_text() == ""


def test_only_a_runs_own_files_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    for name in (*RUN_FILES, "tensorboard/events", "thesis.tex"):
        (tmp_path / name).touch()
    remove_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    remove_run(tmp_path)


def test_the_environment_says_what_a_figure_rests_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = environment(torch.device("cpu"))
    assert json.loads(json.dumps(about)) == about
    assert about["versions"].keys() >= {"python", "torch", "numpy", "safetensors", "scikit-learn"}
    assert about["device"].startswith(f"CPU, {torch.get_num_threads()} thread")
    if (Path(__file__).parents[2] / ".git").exists():
        assert about["commit"] != "unknown"

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(files, "__file__", str(tmp_path / "package" / "runs" / "files.py"))
    assert environment(torch.device("cpu"))["commit"] == "unknown"
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert environment(torch.device("cpu"))["commit"] == head[:12]
    (tmp_path / "package" / "code.py").touch()
    subprocess.run([*git, "add", "."], check=True)
    assert environment(torch.device("cpu"))["commit"] == head[:12] + "+changes"
    monkeypatch.setattr(files, "__file__", str(tmp_path / "somebody's" / "package" / "runs" / "files.py"))
    assert environment(torch.device("cpu"))["commit"] == "unknown"


@pytest.mark.parametrize("size", [10, 1000, 5000])
def test_tensors_survive_in_parts_below_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 4096)
    tensors = {
        "a": torch.randn(size),
        "b": torch.randn(3, size),
        "step": torch.tensor(7.0),
        "n": torch.arange(size),
        "none": torch.zeros(0, 2),
    }
    path = tmp_path / "checkpoint.safetensors"
    for stamp in (1, 2):
        save_tensors(path, tensors, {"progress": {"step": stamp}}, stamp)
        found, about = load_tensors(path)
        assert about["progress"] == {"step": stamp}
        assert found.keys() == tensors.keys()
        assert all(
            found[name].equal(tensor) and found[name].dtype == tensor.dtype
            for name, tensor in tensors.items()
        )
        parts = sorted(tmp_path.iterdir())
        assert max(part.stat().st_size for part in parts) < 4096 + 2048  # and a header
        assert len(parts) == 1 + len(about["parts"])  # those of the earlier stamp are gone
    assert (len(parts) > 1) == (size > 100)
    (tmp_path / "config.json").write_text("{}")
    remove_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 4096)
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {"a": torch.randn(5000)}, {}, 3)
    (tmp_path / "checkpoint-3-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is not a readable checkpoint .*; start afresh with --overwrite"):
        load_tensors(path)


def test_a_full_disk_is_one_sentence_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "file", "old")
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write({"step": 1})
    sentence = (
        r"cannot be written \(No space left on device\): make room there and go on; all that was written"
    )
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(CannotWrite, match=sentence):
            write_atomically(tmp_path / "file", "new")
    metrics._file.close()
    metrics._file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(CannotWrite, match=sentence):
        metrics.write({"step": 2})
    metrics.close()
    assert (tmp_path / "file").read_text() == "old"
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("flip", [0.3, 0.6, 0.95])
def test_one_flipped_bit_in_a_checkpoint_is_seen(tmp_path: Path, flip: float) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {"a": torch.zeros(5000)}, {"progress": {"step": 3}}, 3)
    content = bytearray(path.read_bytes())
    content[int(flip * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its content does not fit its digest"):
        load_tensors(path)


def test_a_checkpoint_of_views_is_as_small_as_its_numbers(tmp_path: Path) -> None:
    whole = torch.randn(100_000)
    save_tensors(tmp_path / "checkpoint.safetensors", {"a": whole[:12].view(3, 4), "b": whole[6:18]}, {}, 1)
    assert (tmp_path / "checkpoint.safetensors").stat().st_size < 1000
    found, _ = load_tensors(tmp_path / "checkpoint.safetensors")
    assert found["b"].equal(whole[6:18])


def test_metrics_that_are_damaged_in_the_middle_are_not_cut_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in ('{"step": 2, "los', "7", '{"a": 1, "a": 2}'):
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
        with pytest.raises(
            ValueError, match=r"metrics.jsonl, line 2, is damaged .*; mend it, or delete the file"
        ):
            Metrics(path, 3)
        assert path.read_text().count("\n") == 3
    path.write_text('{"step": 1}\n{"step": 2, "los\n')  # damaged, not torn: a torn line has no end
    with pytest.raises(ValueError, match="line 2, is damaged"):
        read_metrics(path)
    path.write_text('{"step": "x"}\n{"step": 2}\n')
    with pytest.raises(ValueError, match="a line without a number as its step"):
        Metrics(path, 3)


def test_a_kill_while_metrics_go_on_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written anew in one piece, not line by line."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(1, 9)))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Metrics, "write", killed)
    Metrics(path, 8).close()
    assert [record["step"] for record in read_metrics(path)] == list(range(1, 9))


def test_files_without_their_config_are_nobodys(tmp_path: Path) -> None:
    assert not require_config(tmp_path, RUN_FILES, "use another --out")
    (tmp_path / "result.json").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"holds result.json of a run, but no config.json.*; use another --out$"
    ):
        require_config(tmp_path, RUN_FILES, "use another --out")
    (tmp_path / "config.json").touch()
    assert require_config(tmp_path, RUN_FILES, "use another --out")
