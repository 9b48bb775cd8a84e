"""The best of a grid is suspect where it is the last that was tried."""

import pytest

from minigtn.runs.tuning import at_edge

GRID = {"lr": (0.1, 0.5, 0.02), "momentum": (0.0, 0.9, 0.5)}  # in no order


@pytest.mark.parametrize(
    ("lr", "momentum", "edge"),
    [
        (0.1, 0.5, False),
        (0.02, 0.5, True),
        (0.5, 0.5, True),
        (0.1, 0.9, True),
        (0.1, 0.0, False),  # there is nothing below no momentum
        (0.5, 0.0, True),
    ],
)
def test_edges_of_the_grid(lr: float, momentum: float, edge: bool) -> None:
    assert at_edge({"lr": lr, "momentum": momentum, "valid_accuracy": 1.0}, GRID) == edge


def test_the_least_momentum_is_no_edge() -> None:
    assert not at_edge({"momentum": 0.5}, {"momentum": (0.5, 0.9)})
    assert at_edge({"lr": 0.5}, {"lr": (0.5, 0.9)})
