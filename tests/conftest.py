"""Seeds before every test, one thread (the tensors are tiny, and waiting threads slow each other down), a
reason where a GPU is missing."""

import contextlib
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

settings.register_profile("minigtn", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("minigtn")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def no_sync():
    """``with no_sync():`` raises where the host waits for the CUDA device; the mode is off again afterwards,
    whatever happens."""

    @contextlib.contextmanager
    def guarded():
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Synchronization debug mode is a prototype feature", UserWarning
            )
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    yield guarded
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU with CUDA"))
