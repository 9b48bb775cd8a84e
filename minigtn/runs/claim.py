"""One writer in a folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigtn.runs.files import PART, RUN_FILES, CannotWrite, remove_run, require_config


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make ``folder`` if need be, and let no other process (or thread) write a run into it until the end.

    A lock of the operating system on the folder itself: nothing is written, and a killed process holds
    nothing. Where there are no such locks (Windows, some network file systems) two runs can still meet.
    Half-written files that a killed process left are deleted. Raises CannotWrite for a file, or a folder that
    cannot be written, and ValueError where another process is at work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        reason = "it is a file" if folder.is_file() else (error.strerror or "it cannot be made").lower()
        raise CannotWrite(
            f"{folder} cannot be the folder of a run ({reason}); name a folder that can be written with --out"
        ) from error
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(descriptor):
            raise ValueError(
                f"another process is at work in {folder}; wait for it, or name another folder with --out"
            )
        for part in folder.glob(f".*{PART}"):
            part.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def goes_on(folder: Path, resume: bool, overwrite: bool) -> bool:
    """Whether a run that is in the claimed ``folder`` is to be continued; with ``overwrite`` it is deleted
    first. ValueError where there is one and neither was asked for, so that nothing is lost or mixed."""
    if overwrite:
        remove_run(folder)
        return False
    begun = require_config(folder, RUN_FILES, "use --overwrite to replace it, or another --out")
    if begun and not resume:
        raise ValueError(
            f"{folder} already holds a run; use --resume to continue it, --overwrite to replace it, or "
            "another --out"
        )
    return begun


def _locked(descriptor: int) -> bool:
    """Whether the lock is ours now, or there are no locks here."""
    import fcntl  # late: not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
