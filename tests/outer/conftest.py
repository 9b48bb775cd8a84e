"""Data whose test images nobody may read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from minigtn import data
from minigtn.data import Dataset


class Untouchable:
    """A split that nobody may read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a split was read that must not be")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The digits, with test images that raise if anything here reads them."""
    return dataclasses.replace(data.load("digits"), test=Untouchable())
