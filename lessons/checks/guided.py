"""What lets a lesson go on with the reader's own functions, and what tells a guess from the answer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

from checks.common import Function

_OF_THE_AUTHORS: set[Function] = set()


def or_yours(yours: Function, check: Callable[..., None]) -> Callable[[Function], Function]:
    """Decorates the solution of an exercise: the reader's function instead, where it passes the check.

    So the cells below use what the reader wrote. Prints which of the two it is.
    """

    def choose(solution: Function) -> Function:
        if yours not in _OF_THE_AUTHORS and _passes(yours, check):
            print(f"The cells below use your {solution.__name__}.")
            return yours
        print(f"The exercise is not done: the cells below use the authors' {solution.__name__}.")
        _OF_THE_AUTHORS.add(solution)
        return solution

    return choose


def _passes(yours: Function, check: Callable[..., None]) -> bool:
    verdict = io.StringIO()
    try:
        with contextlib.redirect_stdout(verdict):
            check(yours)
    except Exception:  # whatever an unfinished function may raise
        return False
    return verdict.getvalue().endswith("Correct.\n")


def reveal(what: str, guess: object, answer: float | str) -> None:
    """Print the answer to a question, and beside it what the reader guessed."""
    told = answer if isinstance(answer, str) else f"{answer:.3g}"
    guessed = "no guess" if guess is None else f"your guess: {guess}"
    print(f"{what}: {told} ({guessed})")
