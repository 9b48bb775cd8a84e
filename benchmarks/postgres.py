"""A PostgreSQL server of one's own on loopback, its files in a temporary folder, which can go away and come
back; for a benchmark and for the tests."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NoPostgres(RuntimeError):
    """Why there is no server, in one sentence."""


class Postgres:
    """A running server: its address, and the power to stop and to start it."""

    def __init__(self, pg_ctl: str, root: Path, user: dict[str, Any]) -> None:
        self._pg_ctl = pg_ctl
        self._root = root
        self._user = user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://minigtn@127.0.0.1:{self._port}/postgres"

    def call(self, *words: str) -> None:
        subprocess.run(
            [self._pg_ctl, "-D", str(self._root / "data"), "-w", *words],
            check=True,
            cwd=self._root,
            stdout=subprocess.DEVNULL,
            **self._user,
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._root} -F"
        self.call("start", "-s", "-l", str(self._root / "log"), "-o", options)

    def stop(self) -> None:
        """At once, as by a power cut."""
        self.call("stop", "-s", "-m", "immediate")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A fresh server, started. Raises NoPostgres where there is none to be had."""
    pg_ctl = shutil.which("pg_ctl") or max(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), default=None)
    if not pg_ctl:
        raise NoPostgres("needs PostgreSQL's server (Debian: apt install postgresql)")
    user: dict[str, Any] = {}
    root = Path(tempfile.mkdtemp(prefix="pg-"))  # every folder above pytest's own is closed to others
    try:
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            try:
                other = pwd.getpwnam("postgres").pw_uid
            except KeyError as error:
                raise NoPostgres(
                    "PostgreSQL does not run as root, and there is no user postgres to run it as"
                ) from error
            user = {"user": other, "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}
            os.chown(root, user["user"], user["group"])
        server = Postgres(pg_ctl, root, user)
        server.call("initdb", "-s", "-o", "--auth=trust --username=minigtn --no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)
