"""One writer in a folder at a time; a killed one holds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigtn.runs.claim import claimed
from minigtn.runs.files import PART, CannotWrite, write_atomically

HOLD = """
import sys, time
from pathlib import Path
from minigtn.runs.claim import claimed
with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_and_a_third_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    sentence = f"^another process is at work in {folder}; wait for it, or name another folder with --out$"
    with claimed(folder), pytest.raises(ValueError, match=sentence), claimed(folder):
        pass
    with claimed(folder):
        assert list(folder.iterdir()) == []


def test_a_killed_process_holds_nothing_and_its_half_written_files_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match="another process"), claimed(tmp_path):
            pass
        (tmp_path / f".result.json.0123{PART}").touch()
        (tmp_path / "notes.part").touch()
        holder.kill()
        holder.wait()
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["notes.part"]


def test_a_file_and_a_folder_that_cannot_be_written_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(
            CannotWrite, match=r"file cannot be the folder of a run \(it is a file\); name a folder"
        ),
        claimed(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(CannotWrite, match=r"cannot be the folder of a run \(not a directory\); name a folder"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass
    monkeypatch.setattr(os, "access", lambda *_: False)
    with (
        pytest.raises(CannotWrite, match=r"cannot be the folder of a run \(permission denied\); name a fold"),
        claimed(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_where_there_are_no_locks_the_folder_is_still_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with claimed(tmp_path / "run"), claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_two_writers_of_one_file_have_parts_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writes the whole file while the first is about to rename its own."""
    path = tmp_path / "file"
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        write_atomically(path, b"second")
        assert path.read_bytes() == b"second"

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomically(path, b"the first")
    assert path.read_bytes() == b"the first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
