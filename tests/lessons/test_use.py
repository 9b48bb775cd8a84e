"""Later cells take the reader's function once it passes its check, and the authors' until then."""

from __future__ import annotations

from typing import Any

import checks
import pytest
from answers.lesson1 import hessian_times as authors_hessian_times


def yours(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    return authors_hessian_times(loss, w, batch, nu)


def stub(loss: Any, w: Any, batch: Any, nu: Any) -> Any: ...


def wrong(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    return w


def stops(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("function", "taken", "said"),
    [
        (yours, yours, "yours."),
        (stub, authors_hessian_times, "the authors', until you have written yours."),
        (wrong, authors_hessian_times, "the authors', for yours is not yet right."),
        (stops, authors_hessian_times, "the authors', for yours stopped with ZeroDivisionError."),
        (authors_hessian_times, authors_hessian_times, "the authors', until you have written yours."),
    ],
)
def test_what_is_used(function: Any, taken: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.use(checks.check_1_hessian_times, function, authors_hessian_times) is taken
    assert capsys.readouterr().out == f"hessian_times: {said}\n"
