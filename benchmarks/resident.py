"""The resident memory of this process, from /proc; for processes without torch, too."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path


def resident_bytes() -> tuple[int, int]:
    """Resident memory now, and its peak since the last :func:`forget_resident_peak`."""
    status = Path("/proc/self/status").read_text()
    now, peak = (int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) * 1024 for field in ("VmRSS", "VmHWM"))
    return now, peak


def forget_resident_peak() -> None:
    """From now on :func:`resident_bytes` gives the peak since this call."""
    Path("/proc/self/clear_refs").write_text("5")


def give_back_memory() -> None:
    """Free memory that glibc keeps goes back to the system, so that using it again counts."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
