"""Official data files: where they are, what their digests are, and how they get into the cache.

Every download is checked against the MD5 digest its publisher gives, before it enters the cache; the mirrors
are tried in turn, twice. Nothing here runs when local files are asked for (`--data-dir` or `MINIGTN_DATA`).
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigtn.runs.progress import on_terminal

__all__ = ["SOURCES", "DataError", "Source", "cache_dir", "download", "extract", "fetch"]


class DataError(ValueError):
    """A data set that cannot be loaded; the message is one sentence that says what is wrong and what to
    do."""


@dataclass(frozen=True)
class Source:
    """The official files of one data set.

    Attributes:
        mirrors: base addresses, best first; a file's address is base + file name.
        md5: digest of each downloaded file, by file name.
        members: for an archive, what to take out of it; empty for files that are used as they come.
    """

    mirrors: tuple[str, ...]
    md5: Mapping[str, str]
    members: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        md5={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Source(
        mirrors=(
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        md5={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Source(
        mirrors=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
        md5={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        members=(
            *(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6)),
            "cifar-10-batches-bin/test_batch.bin",
        ),
    ),
}


def cache_dir() -> Path:
    """The folder that keeps downloads: `MINIGTN_CACHE`, else the operating system's cache folder for
    minigtn."""
    import pooch  # late, here and below: what it imports warns in a notebook without widgets

    return Path(os.environ.get("MINIGTN_CACHE") or pooch.os_cache("minigtn")).expanduser()


def download(name: str) -> Path:
    """Put the official files of data set `name` (a key of `SOURCES`) into the cache, unless they are there.

    The layout is that of a `--data-dir`: IDX files in `<cache>/<name>/`, CIFAR-10 in
    `<cache>/cifar10/cifar-10-batches-bin/`, beside their archive. Safe when several processes do it at once.

    Returns:
        The cache folder.

    Raises:
        DataError: no mirror gave a good file, or the cache cannot be written.
    """
    source = SOURCES[name]
    folder = cache_dir() / name
    if source.members and _all_there(folder, source.members):
        return folder.parent
    for filename, md5 in source.md5.items():
        path = fetch(filename, source.mirrors, md5, folder)
        if source.members:
            extract(path, source.members, folder)
    return folder.parent


def fetch(
    filename: str,
    mirrors: Sequence[str],
    md5: str,
    folder: str | Path,
    *,
    rounds: int = 2,
    wait: float = 1.0,
) -> Path:
    """Download one file into `folder`, with a progress bar on a terminal, unless it is there with the right
    digest.

    The download goes to a temporary file beside its destination and is renamed only once its digest is right,
    so whatever happens `folder` never holds a bad file under the good name.

    Args:
        filename: name of the file, on the mirrors and in `folder`.
        mirrors: base addresses, tried in this order.
        md5: digest of the file, in hexadecimal.
        folder: where to keep it; made if needed.
        rounds: how often to go through the mirrors.
        wait: seconds between two rounds.

    Returns:
        The path of the file.

    Raises:
        DataError: no mirror gave the file with this digest, or `folder` cannot be written.
    """
    import pooch

    folder = Path(folder)
    _make_folder(folder)
    # "identity": some servers would otherwise send a .gz file decompressed, and its digest would not match.
    downloader = pooch.HTTPDownloader(
        progressbar=on_terminal(), chunk_size=1 << 16, headers={"Accept-Encoding": "identity"}
    )
    failures: dict[str, str] = {}
    for turn in range(rounds):
        if turn:
            time.sleep(wait)
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{filename}"
            try:
                return Path(
                    pooch.retrieve(url, f"md5:{md5}", fname=filename, path=folder, downloader=downloader)
                )
            # wrong digest; network or disk (requests' errors are OSErrors)
            except (ValueError, OSError) as error:
                failures[url] = _reason(error)
    tried = ", ".join(f"{url} ({reason})" for url, reason in failures.items())
    advice = "try again later, or get the file by hand and name its folder with --data-dir"
    raise DataError(f"{filename} could not be downloaded from {tried}: {advice}.")


def extract(archive: str | Path, members: Sequence[str], folder: str | Path) -> None:
    """Copy the `members` of a tar archive into `folder`, and nothing else.

    Only contents are read out of the archive, and written under the names asked for; no path, link, owner or
    permission of the archive is used on the disk. `members` lie in one directory of the archive; this
    directory appears in `folder` at once and complete, or not at all. A complete one that is there already
    stays.

    Raises:
        DataError: the archive is damaged or lacks a member, or `folder` cannot be written.
    """
    archive = Path(archive)
    folder = Path(folder)
    target = folder / Path(members[0]).parent
    _make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name, tarfile.open(archive) as tar:
            complete = Path(name) / target.name
            complete.mkdir()
            for member in members:
                content = tar.extractfile(member)
                if content is None:  # a folder
                    raise KeyError(member)
                with content, open(complete / Path(member).name, "wb") as out:
                    shutil.copyfileobj(content, out)
            if not _all_there(folder, members):  # another process may have been faster
                shutil.rmtree(target, ignore_errors=True)
                complete.rename(target)
    except (KeyError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        problem = f"{archive} could not be unpacked into {target} ({_reason(error)})"
        raise DataError(f"{problem}: delete the archive, check the free space, and run again.") from error


def _all_there(folder: Path, members: Sequence[str]) -> bool:
    return all((folder / member).is_file() for member in members)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    except OSError as error:
        problem = f"the download folder {folder} cannot be made or written ({_reason(error)})"
        raise DataError(f"{problem}: set MINIGTN_CACHE to another one.") from error


def _reason(error: Exception) -> str:
    """Why it failed, in a few words without a full stop."""
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"HTTP {status}" if status is not None else error.strerror or type(error).__name__
    if isinstance(error, KeyError):
        return "a file is missing in it"
    return "wrong MD5 digest" if isinstance(error, ValueError) else type(error).__name__
