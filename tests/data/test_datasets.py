"""The data sets: what is in them, how bad files are refused, and how good ones are downloaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from minigtn import data
from minigtn.data import DataError, Dataset, datasets, downloads
from tiny import SMALL_CIFAR, cifar_files, write

TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = datasets._IDX_FILES
MNIST_MD5 = {
    TRAIN_X: "6bbc9ace898e44ae57da46a324031adb",
    TRAIN_Y: "a25bea736e30d166cdddb491f175f624",
    TEST_X: "2646ac647ad5339dbf082846283269ea",
    TEST_Y: "27ae3e4e09519cfbb04c329615203637",
}
ORDER_OF_12 = [3, 4, 10, 11, 0, 6, 2, 1, 5, 8, 9, 7]
DIGITS_LABELS = "c583be7dfebb48dd"
MNIST_FIRST = [1, 4, 3, 4, 1, 1, 5, 9, 4, 7, 2, 0]
REAL_DATA = Path(os.environ.get("MINIGTN_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the user's shell decides a test, and no test touches the user's cache."""
    monkeypatch.delenv("MINIGTN_DATA", raising=False)
    monkeypatch.setenv("MINIGTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST of 40 + 10 + 20 images, CIFAR-10 of 40 + 10 + 10: everything else as it is."""
    monkeypatch.setitem(datasets._SIZES, "mnist", (40, 10, 20))
    monkeypatch.setitem(datasets._SIZES, "fashion-mnist", (40, 10, 20))
    monkeypatch.setitem(datasets._SIZES, "cifar10", SMALL_CIFAR)


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for x, y, n in ((TRAIN_X, TRAIN_Y, 50), (TEST_X, TEST_Y, 20)):
        files[x] = idx(rng.integers(0, 256, (n, 28, 28)))
        files[y] = idx(np.arange(n) % 10)
    return files


def gz(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{filename}.gz": content for filename, content in files.items()}


def assert_one_sentence(error: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    message = str(error.value)
    assert re.fullmatch(r"(?:(?![.!?] ).)+\.", message), message
    for part in parts:
        assert part in message


def pixels(split: data.Split, dataset: Dataset) -> torch.Tensor:
    """The stored whole numbers, from the standardized values."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (dataset.mean, dataset.std))
    values = (split.x * std + mean) * datasets._BRIGHTEST[dataset.name]
    assert (values - values.round()).abs().max() < 1e-3
    return values.round().to(torch.uint8)


def assert_same(a: Dataset, b: Dataset) -> None:
    for one, other in ((a.train, b.train), (a.valid, b.valid), (a.test, b.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
    assert (a.mean, a.std, a.class_names) == (b.mean, b.std, b.class_names)


# ---- digits ----


def test_digits_shapes_and_types() -> None:
    digits = data.load("digits")
    assert (len(digits.train), len(digits.valid), len(digits.test)) == (1000, 297, 500)
    for split in (digits.train, digits.valid, digits.test):
        assert split.x.shape == (len(split), 1, 8, 8)
        assert split.y.shape == (len(split),)
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.is_contiguous()
        assert set(split.y.tolist()) == set(range(10))
    assert digits.image_shape == (1, 8, 8)
    assert digits.n_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert repr(digits.train) == "Split(x=(1000, 1, 8, 8), y=(1000,))"


def test_digits_are_standardized_with_the_statistics_of_train() -> None:
    digits = data.load("digits")
    train = pixels(digits.train, digits).double() / 16
    assert digits.mean == pytest.approx([train.mean().item()], rel=1e-12)
    assert digits.std == pytest.approx([train.std(correction=0).item()], rel=1e-12)
    assert abs(digits.train.x.double().mean().item()) < 1e-6
    assert digits.train.x.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert abs(digits.test.x.double().mean().item()) > 1e-4  # not with its own


def test_digits_splits_are_a_partition_of_all_images() -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    bunch = load_digits()
    rows = [
        (*row, label)
        for split in (digits.train, digits.valid, digits.test)
        for row, label in zip(pixels(split, digits).flatten(1).tolist(), split.y.tolist(), strict=True)
    ]
    expected = [
        (*row, label) for row, label in zip(bunch.data.astype(int).tolist(), bunch.target, strict=True)
    ]
    assert len(set(expected)) == 1797
    assert sorted(rows) == sorted(expected)


def test_splits_are_the_same_for_ever() -> None:
    """Were this to change, results of different versions could not be compared."""
    assert datasets._fixed_order(12, datasets._CARVING_SEED).tolist() == ORDER_OF_12
    digits = data.load("digits")
    assert_same(digits, data.load("digits"))
    labels = torch.cat([digits.train.y, digits.valid.y, digits.test.y]).to(torch.uint8)
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16] == DIGITS_LABELS


def test_to_another_device() -> None:
    digits = data.load("digits")
    assert_same(digits.to("cpu"), digits)
    assert digits.to(torch.device("cpu")).train.x.data_ptr() == digits.train.x.data_ptr()
    elsewhere = digits.to("meta")
    assert {split.x.device.type for split in (elsewhere.train, elsewhere.valid, elsewhere.test)} == {"meta"}
    assert elsewhere.test.y.device.type == "meta"
    assert elsewhere.image_shape == digits.image_shape


def test_unknown_name() -> None:
    with pytest.raises(DataError) as error:
        data.load("imagenet")
    assert_one_sentence(error, "imagenet", "digits, mnist, fashion-mnist, cifar10")


# ---- local files ----


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("where", ["mnist", "."])
def test_local_mnist(small: None, tmp_path: Path, where: str, compressed: bool) -> None:
    files = mnist_files()
    write(tmp_path / where, gz(files) if compressed else files)
    mnist = data.load("mnist", tmp_path)
    assert (len(mnist.train), len(mnist.valid), len(mnist.test)) == (40, 10, 20)
    order = datasets._fixed_order(50, datasets._CARVING_SEED)
    stored = np.frombuffer(files[TRAIN_X], np.uint8, offset=16).reshape(50, 1, 28, 28)[order]
    assert np.array_equal(torch.cat([pixels(mnist.train, mnist), pixels(mnist.valid, mnist)]).numpy(), stored)
    assert torch.cat([mnist.train.y, mnist.valid.y]).tolist() == (order % 10).tolist()
    assert pixels(mnist.test, mnist).numpy().tobytes() == files[TEST_X][16:]
    assert mnist.test.y.tolist() == [k % 10 for k in range(20)]


@pytest.mark.parametrize(
    "where",
    ["cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "cifar10", "."],
    ids=lambda w: w.replace("/", "-"),
)
def test_local_cifar10(small: None, tmp_path: Path, where: str) -> None:
    files = cifar_files()
    write(tmp_path / where, files)
    cifar = data.load("cifar10", str(tmp_path))
    assert cifar.image_shape == (3, 32, 32)
    assert cifar.class_names[3] == "cat"
    assert len(cifar.mean) == 3
    order = datasets._fixed_order(50, datasets._CARVING_SEED)
    records = np.frombuffer(b"".join(files.values()), np.uint8).reshape(60, 3073)
    stored = np.concatenate([records[:50][order], records[50:]])
    splits = (cifar.train, cifar.valid, cifar.test)
    assert np.array_equal(torch.cat([pixels(s, cifar) for s in splits]).flatten(1).numpy(), stored[:, 1:])
    assert torch.cat([s.y for s in splits]).tolist() == stored[:, 0].tolist()
    train = torch.from_numpy(stored[:40, 1:].reshape(40, 3, -1).astype(np.float64)) / 255
    assert cifar.mean == pytest.approx(train.mean((0, 2)).tolist(), rel=1e-12)
    assert cifar.std == pytest.approx(train.std((0, 2), correction=0).tolist(), rel=1e-12)


def test_environment_variable_and_its_precedence(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", mnist_files())
    monkeypatch.setenv("MINIGTN_DATA", str(tmp_path / "data"))
    from_variable = data.load("mnist")
    monkeypatch.setenv("MINIGTN_DATA", str(tmp_path / "elsewhere"))
    assert_same(data.load("mnist", tmp_path / "data"), from_variable)
    with pytest.raises(DataError) as error:
        data.load("mnist")
    assert_one_sentence(error, "elsewhere", "not a folder", "--data-dir", "MINIGTN_DATA")


@pytest.mark.parametrize("through", ["argument", "variable"])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "incomplete"])
def test_local_files_never_touch_the_network(
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    through: str,
    complete: bool,
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        pytest.fail("the network was asked although local files were named")

    monkeypatch.setattr(downloads, "download", no_network)
    monkeypatch.setattr("pooch.retrieve", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    files = mnist_files()
    write(tmp_path, files if complete else {TRAIN_X: files[TRAIN_X]})
    if through == "variable":
        monkeypatch.setenv("MINIGTN_DATA", str(tmp_path))
    folder = tmp_path if through == "argument" else None
    if complete:
        assert len(data.load("mnist", folder).train) == 40
    else:
        with pytest.raises(DataError) as error:
            data.load("mnist", folder)
        assert_one_sentence(error, f"lacks {TRAIN_Y}, {TEST_X}, {TEST_Y} ", str(tmp_path))


def test_gzipped_files_without_gz_and_unpacked_ones_with_it(small: None, tmp_path: Path) -> None:
    """Browsers drop an ending, or unpack and keep it: the content says what it is."""
    files = mnist_files()
    write(tmp_path / "right", files)
    (tmp_path / "odd").mkdir()
    for filename in (TRAIN_X, TRAIN_Y, TEST_X):
        (tmp_path / "odd" / filename).write_bytes(gzip.compress(files[filename], 1))
    (tmp_path / "odd" / f"{TEST_Y}.gz").write_bytes(files[TEST_Y])
    assert_same(data.load("mnist", tmp_path / "odd"), data.load("mnist", tmp_path / "right"))


def test_gzipped_cifar10_without_gz(small: None, tmp_path: Path) -> None:
    files = cifar_files()
    write(tmp_path / "right", files)
    write(tmp_path / "odd", {filename: gzip.compress(content, 1) for filename, content in files.items()})
    assert_same(data.load("cifar10", tmp_path / "odd"), data.load("cifar10", tmp_path / "right"))


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_names_with_a_dot(small: None, tmp_path: Path, compressed: bool) -> None:
    files = mnist_files()
    write(tmp_path / "right", files)
    dotted = {filename.replace("-idx", ".idx"): content for filename, content in files.items()}
    assert set(dotted) >= {"train-images.idx3-ubyte", "t10k-labels.idx1-ubyte"}
    write(tmp_path / "odd", gz(dotted) if compressed else dotted)
    assert_same(data.load("mnist", tmp_path / "odd"), data.load("mnist", tmp_path / "right"))


# name, what is done to the good bytes, what the sentence says
BAD_MNIST: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("empty", TRAIN_X, lambda b: b"", "truncated"),
    ("half-a-header", TRAIN_X, lambda b: b[:9], "truncated"),
    (
        "truncated-images",
        TRAIN_X,
        lambda b: b[:-1],
        "truncated, it has 39,215 bytes where its header announces 39,216",
    ),
    ("truncated-labels", TEST_Y, lambda b: b[:-5], "truncated"),
    ("too-long", TEST_X, lambda b: b + b"\0", "too long"),
    ("wrong-magic", TRAIN_X, lambda b: b"\x89PNG" + b[4:], "starts with the bytes 89 50 4e 47, but an IDX"),
    ("labels-for-images", TRAIN_X, lambda b: idx(np.arange(50)), "starts with the bytes 00 00 08 01"),
    ("floats", TRAIN_X, lambda b: b"\0\0\x0d\3" + b[4:], "starts with the bytes 00 00 0d 03"),
    ("huge-header", TRAIN_X, lambda b: b[:4] + b"\xff" * 12 + b[16:], "truncated"),
    (
        "too-few-images",
        TRAIN_X,
        lambda b: idx(np.zeros((49, 28, 28))),
        "49 images of 28 x 28 pixels, but mnist has 50",
    ),
    (
        "wrong-image-size",
        TEST_X,
        lambda b: idx(np.zeros((20, 1, 1))),
        "20 images of 1 x 1 pixels, but mnist has 20 of",
    ),
    ("counts-differ", TRAIN_Y, lambda b: idx(np.zeros(51)), "51 labels for 50 images"),
    ("label-out-of-range", TEST_Y, lambda b: b[:-3] + b"\x0a" + b[-2:], "label 10 for image 17"),
    ("one-colour", TRAIN_X, lambda b: idx(np.full((50, 28, 28), 7)), "one colour"),
]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("filename", "damage", "says"), [b[1:] for b in BAD_MNIST], ids=[b[0] for b in BAD_MNIST]
)
def test_bad_mnist_files(
    small: None,
    tmp_path: Path,
    filename: str,
    damage: Callable[[bytes], bytes],
    says: str,
    compressed: bool,
) -> None:
    files = mnist_files()
    files[filename] = damage(files[filename])
    write(tmp_path, gz(files) if compressed else files)
    with pytest.raises(DataError) as error:
        data.load("mnist", tmp_path)
    assert_one_sentence(error, says, "get the official file", "" if says == "one colour" else filename)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[:-20], "truncated, its gzip data end too early"),
        (lambda b: b[:40] + b"\xff" * 400 + b[440:], "is a damaged gzip file"),
        (lambda b: b"<html>" + b[6:], "starts with the bytes 3c 68 74 6d, but an IDX file of 3 dimensions"),
    ],
    ids=["truncated", "damaged", "not-gzip"],
)
def test_bad_gzip(small: None, tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    write(tmp_path, gz(mnist_files()))
    path = tmp_path / f"{TRAIN_X}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        data.load("mnist", tmp_path)
    assert_one_sentence(error, str(path), says)


BAD_CIFAR: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda b: b"", "0 bytes are not a whole number of records"),
    ("truncated", lambda b: b[:-1], "30,729 bytes are not a whole number of records of 3,073 bytes"),
    ("pickled", lambda b: b"\x80\x02}q\x01" + b, "not of CIFAR-10's binary version"),
    ("too-few", lambda b: b[:-3073], "holds 9 images"),
    ("label-out-of-range", lambda b: b[: 4 * 3073] + b"\xc8" + b[4 * 3073 + 1 :], "label 200 for image 4"),
]


@pytest.mark.parametrize("filename", ["data_batch_3.bin", "test_batch.bin"])
@pytest.mark.parametrize(("damage", "says"), [b[1:] for b in BAD_CIFAR], ids=[b[0] for b in BAD_CIFAR])
def test_bad_cifar_files(
    small: None,
    tmp_path: Path,
    filename: str,
    damage: Callable[[bytes], bytes],
    says: str,
) -> None:
    files = cifar_files()
    files[filename] = damage(files[filename])
    write(tmp_path / "cifar-10-batches-bin", files)
    with pytest.raises(DataError) as error:
        data.load("cifar10", tmp_path)
    assert_one_sentence(error, filename, says, "get the official file")


def test_missing_cifar_files(tmp_path: Path) -> None:
    write(
        tmp_path / "cifar10",
        {"cifar10-jpeg-q75.npz": b"a pack, not the binary version", "data_batch_1": b"pickle"},
    )
    with pytest.raises(DataError) as error:
        data.load("cifar10", tmp_path)
    folder = str(tmp_path / "cifar10" / "cifar-10-batches-bin")
    assert_one_sentence(error, "data_batch_1.bin", "test_batch.bin", "official binary version", folder)


def test_official_sizes_are_required(tmp_path: Path) -> None:
    files = mnist_files() | {TRAIN_X: idx(np.zeros((60_000, 1, 1)))}
    write(tmp_path / "fashion-mnist", files)
    with pytest.raises(DataError) as error:
        data.load("fashion-mnist", tmp_path)
    assert_one_sentence(error, "60,000 images of 1 x 1 pixels, but fashion-mnist has 60,000 of 28 x 28")
    for name, parts in {
        "mnist": (60_000, 10_000),
        "fashion-mnist": (60_000, 10_000),
        "cifar10": (50_000, 10_000),
    }.items():
        train, valid, test = datasets._SIZES[name]
        assert (train + valid, test) == parts


def test_mnist_is_not_taken_for_fashion_mnist(small: None, tmp_path: Path) -> None:
    first = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    write(tmp_path, mnist_files() | {TEST_Y: idx(np.array(first * 2))})
    assert data.load("mnist", tmp_path).test.y[:10].tolist() == first
    with pytest.raises(DataError) as error:
        data.load("fashion-mnist", tmp_path)
    assert_one_sentence(error, f"{tmp_path} holds mnist, not fashion-mnist", "--data-dir")


def test_data_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        data.load("cifar10", tmp_path / "file")
    assert_one_sentence(error, str(tmp_path / "file"), "not a folder")


def test_readers_on_single_files(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    write(tmp_path, {"a": idx(array), "b.gz": idx(array), "batch.bin": bytes([9]) + bytes(range(256)) * 12})
    assert np.array_equal(datasets.read_idx(tmp_path / "a", ndim=3), array)
    assert np.array_equal(datasets.read_idx(str(tmp_path / "b.gz"), ndim=3), array)
    images, labels = datasets.read_cifar_batch(tmp_path / "batch.bin")
    assert images.shape == (1, 3, 32, 32)
    assert labels.tolist() == [9]
    assert images[0, 1, 0, :3].tolist() == [0, 1, 2]
    for call in (
        lambda: datasets.read_idx(tmp_path / "none", ndim=1),
        lambda: datasets.read_cifar_batch(tmp_path / "none"),
    ):
        with pytest.raises(DataError) as error:
            call()
        assert_one_sentence(error, str(tmp_path / "none"), "cannot be read")


# ---- the real MNIST ----


@pytest.fixture(scope="module")
def mnist_folder() -> Path:
    for folder in (REAL_DATA / "mnist", REAL_DATA):
        if (folder / f"{TRAIN_X}.gz").is_file():
            return folder
    pytest.skip(f"needs the four gzipped MNIST files in {REAL_DATA}/mnist")


def test_real_mnist_files_are_the_official_ones(mnist_folder: Path) -> None:
    for stem, md5 in MNIST_MD5.items():
        content = gzip.decompress((mnist_folder / f"{stem}.gz").read_bytes())
        assert hashlib.md5(content).hexdigest() == md5


def test_real_mnist(mnist_folder: Path) -> None:
    mnist = data.load("mnist", mnist_folder)
    assert (len(mnist.train), len(mnist.valid), len(mnist.test)) == (50_000, 10_000, 10_000)
    assert mnist.image_shape == (1, 28, 28)
    assert mnist.train.x.dtype == torch.float32
    pool = torch.cat([mnist.train.y, mnist.valid.y]).bincount()
    assert pool.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.mean == pytest.approx([0.1307], abs=2e-4)
    assert mnist.std == pytest.approx([0.3081], abs=2e-4)
    assert abs(mnist.train.x.mean().item()) < 1e-5
    assert mnist.train.y[:12].tolist() == MNIST_FIRST


# ---- downloads ----


class Server:
    """An HTTP server on loopback: `files` by path, `requests` in the order they came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.missing_bytes = 0  # how many the server promises and does not send
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                body = outer.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + outer.missing_bytes))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def refused() -> Iterator[str]:
    """The address of a mirror that is down: a port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


GOOD = b"the official bytes" * 1000
BAD = b"other bytes"
GOOD_MD5 = hashlib.md5(GOOD).hexdigest()


def test_good_download_is_cached(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(downloads, "on_terminal", lambda: True)
    server.files["/file.gz"] = GOOD
    path = downloads.fetch("file.gz", [server.url], GOOD_MD5, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "file.gz"
    assert path.read_bytes() == GOOD
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert downloads.fetch("file.gz", [server.url], GOOD_MD5, path.parent) == path
    assert server.requests == ["/file.gz"]
    assert os.listdir(path.parent) == ["file.gz"]


def test_a_download_draws_no_bar_in_a_pipe(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.files["/file"] = GOOD
    downloads.fetch("file", [server.url], GOOD_MD5, tmp_path)
    assert "\r" not in capfd.readouterr().err


def test_corrupt_download_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = BAD
    with pytest.raises(DataError) as error:
        downloads.fetch("file", [server.url], GOOD_MD5, tmp_path / "cache", wait=0)
    assert_one_sentence(
        error, "file could not be downloaded", f"{server.url}file (wrong MD5 digest)", "--data-dir"
    )
    assert os.listdir(tmp_path / "cache") == []
    assert len(server.requests) == 2


def test_interrupted_download_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = GOOD[:-7]
    server.missing_bytes = 7
    with pytest.raises(DataError) as error:
        downloads.fetch("file", [server.url], GOOD_MD5, tmp_path / "cache", wait=0)
    assert_one_sentence(error, f"{server.url}file (", "--data-dir")
    assert os.listdir(tmp_path / "cache") == []


def test_damaged_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = GOOD
    write(tmp_path / "cache", {"file": BAD})
    assert downloads.fetch("file", [server.url], GOOD_MD5, tmp_path / "cache").read_bytes() == GOOD


@pytest.mark.parametrize("first", ["refused", "404", "corrupt"])
def test_second_mirror_is_used(server: Server, refused: str, tmp_path: Path, first: str) -> None:
    server.files = {"/good/file": GOOD, "/corrupt/file": BAD}
    mirror = refused if first == "refused" else f"{server.url}{first}/"
    path = downloads.fetch("file", [mirror, f"{server.url}good"], GOOD_MD5, tmp_path / "cache", rounds=1)
    assert path.read_bytes() == GOOD
    assert os.listdir(tmp_path / "cache") == ["file"]
    assert server.requests[-1] == "/good/file"


def test_a_mirror_that_comes_back_is_tried_again(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        server.files["/file"] = GOOD

    monkeypatch.setattr("minigtn.data.downloads.time.sleep", sleep)
    assert downloads.fetch("file", [server.url], GOOD_MD5, tmp_path, wait=3).read_bytes() == GOOD
    assert naps == [3]
    assert server.requests == ["/file"] * 2


def test_all_mirrors_down(server: Server, refused: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        downloads.fetch("file", [refused, server.url], GOOD_MD5, tmp_path / "cache", wait=0)
    assert_one_sentence(
        error, f"{refused}file (ConnectionError)", f"{server.url}file (HTTP 404)", "--data-dir"
    )
    assert os.listdir(tmp_path / "cache") == []


def test_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        downloads.fetch("x", ["http://127.0.0.1:1/"], GOOD_MD5, tmp_path / "file" / "cache")
    assert_one_sentence(error, str(tmp_path / "file" / "cache"), "MINIGTN_CACHE")


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloads.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("MINIGTN_CACHE")
    assert downloads.cache_dir().is_absolute()
    assert "minigtn" in downloads.cache_dir().parts


def test_load_mnist_downloads_once(
    small: None,
    server: Server,
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = mnist_files()
    packed = {f"{filename}.gz": gzip.compress(content) for filename, content in files.items()}
    server.files = {f"/{filename}": content for filename, content in packed.items()}
    md5 = {filename: hashlib.md5(content).hexdigest() for filename, content in packed.items()}
    monkeypatch.setitem(downloads.SOURCES, "mnist", downloads.Source((refused, server.url), md5))
    first = data.load("mnist")
    assert sorted(server.requests) == sorted(server.files)
    assert sorted(os.listdir(tmp_path / "cache" / "mnist")) == sorted(packed)
    assert_same(first, data.load("mnist"))
    assert len(server.requests) == 4
    assert_same(first, data.load("mnist", write(tmp_path / "local", files)))


def archive(files: dict[str, bytes], special: bytes | None = None) -> bytes:
    """A .tar.gz of `files` without any permission; `special` adds a member "d/b" of this tar type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for filename, content in files.items():
            info = tarfile.TarInfo(filename)
            info.size = len(content)
            info.mode = 0o000
            tar.addfile(info, io.BytesIO(content))
        if special is not None:
            info = tarfile.TarInfo("d/b")
            info.type = special
            info.linkname = "/etc/hostname"
            tar.addfile(info)
    return buffer.getvalue()


def test_load_cifar10_downloads_once(
    small: None,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = cifar_files()
    members = {f"cifar-10-batches-bin/{filename}": content for filename, content in files.items()}
    body = archive(members | {"../outside": b"", "cifar-10-batches-bin/readme.html": b""})
    server.files["/cifar-10-binary.tar.gz"] = body
    source = downloads.SOURCES["cifar10"]
    assert set(source.members) == set(members)
    md5 = {"cifar-10-binary.tar.gz": hashlib.md5(body).hexdigest()}
    monkeypatch.setitem(downloads.SOURCES, "cifar10", downloads.Source((server.url,), md5, source.members))
    first = data.load("cifar10")
    assert_same(first, data.load("cifar10"))
    assert server.requests == ["/cifar-10-binary.tar.gz"]
    folder = tmp_path / "cache" / "cifar10"
    assert sorted(os.listdir(folder)) == ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"]
    assert sorted(os.listdir(folder / "cifar-10-batches-bin")) == sorted(files)
    assert not (tmp_path / "cache" / "outside").exists()

    (folder / "cifar-10-batches-bin" / "test_batch.bin").unlink()  # restored from the archive in the cache
    assert_same(first, data.load("cifar10"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("defect", ["missing", "link", "folder", "truncated", "not-a-tar"])
def test_bad_archive_leaves_nothing(tmp_path: Path, defect: str) -> None:
    content = {"d/a": os.urandom(5000)}
    body = {
        "missing": archive(content),
        "link": archive(content, tarfile.SYMTYPE),
        "folder": archive(content, tarfile.DIRTYPE),
        "truncated": archive(content | {"d/b": os.urandom(5000)})[:6000],
        "not-a-tar": b"<html>",
    }[defect]
    write(tmp_path, {"archive.tar": body})
    with pytest.raises(DataError) as error:
        downloads.extract(tmp_path / "archive.tar", ["d/a", "d/b"], tmp_path / "out")
    assert_one_sentence(error, "archive.tar could not be unpacked into", "delete the archive")
    assert os.listdir(tmp_path / "out") == []


def test_unpacking_does_not_pull_away_what_another_process_reads(tmp_path: Path) -> None:
    write(tmp_path, {"archive.tar": archive({"d/a": GOOD})})
    downloads.extract(tmp_path / "archive.tar", ["d/a"], tmp_path)
    first = (tmp_path / "d" / "a").stat()
    downloads.extract(tmp_path / "archive.tar", ["d/a"], tmp_path)
    assert (tmp_path / "d" / "a").stat().st_ino == first.st_ino
    assert (tmp_path / "d" / "a").read_bytes() == GOOD
    assert sorted(os.listdir(tmp_path)) == ["archive.tar", "d"]
