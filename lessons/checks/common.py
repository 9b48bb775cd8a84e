"""What every check is made of: the verdict, the comparison with right and wrong answers, the hint."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from typing import Any

import numpy as np
from torch import Tensor

Function = Callable[..., Any]
MOST = 12  # numbers that a hint shows

# tqdm, which a library imports, asks for ipywidgets in every notebook; the lessons work without.
warnings.filterwarnings("ignore", message="IProgress not found")


class Hint(Exception):
    """What is not yet right with an answer."""


class NotDone(Exception):
    """The function is still a stub."""


def exercise(check: Callable[..., None]) -> Callable[..., None]:
    """Make a check that raises :class:`Hint` into one that prints its verdict."""

    @wraps(check)
    def checked(*functions: Function) -> None:
        try:
            check(*[_asked(function) for function in functions])
        except (NotDone, NotImplementedError):
            names = " and ".join(function.__name__ for function in functions)
            print(f"Not done yet: write the body of {names} in this cell and run it again.")
        except Hint as hint:
            print(f"Not yet right: {hint}")
        else:
            print("Correct.")

    return checked


def use(check: Callable[..., None], yours: Function, authors: Function) -> Function:
    """The reader's function where it passes its check, else the authors', ``authors_NAME``; says which."""
    name = authors.__name__.removeprefix("authors_")
    if yours is not authors:
        said = io.StringIO()
        try:
            with redirect_stdout(said):
                check(yours)
        except Exception as error:
            print(f"{name}: the authors', for yours stopped with {type(error).__name__}.")
            return authors
        if said.getvalue() == "Correct.\n":
            print(f"{name}: yours.")
            return yours
        if said.getvalue().startswith("Not yet right"):
            print(f"{name}: the authors', for yours is not yet right.")
            return authors
    print(f"{name}: the authors', until you have written yours.")
    return authors


def _asked(function: Function) -> Function:
    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        if answer is None or answer is Ellipsis:
            raise NotDone
        return answer

    return asked


def compare(name: str, one: Any, other: Any) -> None:
    """Print whether two results are equal in all bits (exact) or to six digits (approximate)."""
    one = np.asarray(one, np.float64)
    other = np.asarray(other, np.float64)
    difference = float(np.max(np.abs(one - other)))
    exact = _yes(difference == 0)
    approximate = _yes(close(one, other))
    print(f"{name:24s} exact: {exact}   approximate: {approximate}   max difference: {difference:.1e}")


def _yes(answer: bool) -> str:
    return "yes" if answer else "no "


def close(one: Any, other: Any, tolerance: float = 1e-6) -> bool:
    """Equal up to ``tolerance``, relative to the largest entry.

    Infinite numbers must be the same ones, and NaN is equal to nothing.
    """
    one = np.asarray(one, np.float64)
    other = np.asarray(other, np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return np.array_equal(one, other)
    return bool(
        np.max(np.abs(one - other)) <= tolerance * max(np.max(np.abs(one)), np.max(np.abs(other)), 1e-12)
    )


def judge(
    what: str, got: Any, right: Any, usual: dict[str, Any] | None = None, tolerance: float = 1e-6
) -> None:
    """Raise a :class:`Hint` unless ``got`` is close to ``right``.

    Its text is that of the usual mistake with this result, or the two numbers; of many, where they are
    furthest apart.
    """
    try:
        got = np.asarray(got, np.float64)
    except (TypeError, ValueError):
        raise Hint(
            f"{what} should be numbers of shape {np.shape(right)}, but is a {type(got).__name__}"
        ) from None
    if got.shape != np.shape(right):
        raise Hint(f"{what} should have the shape {np.shape(right)}, but has {got.shape}")
    if close(got, right, tolerance):
        return
    for hint, wrong in (usual or {}).items():
        if np.shape(wrong) == got.shape and close(got, wrong, tolerance):
            raise Hint(hint)
    if close(got, -np.asarray(right), tolerance):
        raise Hint(f"{what} has the right size and the wrong sign")
    right = np.asarray(right, np.float64)
    if got.size <= MOST:
        raise Hint(f"{what} should be {_numbers(right)}, but is {_numbers(got)}")
    apart = np.abs(got - right)
    apart[np.isnan(apart)] = np.inf
    place = np.unravel_index(int(np.argmax(apart)), got.shape)
    at = ", ".join(map(str, place))
    raise Hint(
        f"{what} has the right shape, {got.shape}, and wrong numbers: furthest off is [{at}], which "
        f"should be {right[place]:.4g}, but is {got[place]:.4g}"
    )


def parts(answer: Any, names: list[str]) -> tuple[Any, ...]:
    """The answer's parts, from a tuple or a list, or a :class:`Hint` that tells how many there should be."""
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        raise Hint(f"return {len(names)} things, in this order: {', '.join(names)}")
    return tuple(answer)


def tensor(what: str, answer: Any, shape: tuple[int, ...]) -> Tensor:
    """The answer, or a :class:`Hint` unless it is a tensor of that shape."""
    if not isinstance(answer, Tensor):
        raise Hint(f"{what} should be a torch tensor, but is a {type(answer).__name__}")
    if answer.shape != shape:
        raise Hint(f"{what} should have the shape {shape}, but has {tuple(answer.shape)}")
    return answer


def _numbers(x: Any) -> str:
    return np.array2string(np.asarray(x, np.float64), precision=4, threshold=6)
