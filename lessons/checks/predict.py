"""Predictions: a guess is written before the cell that shows the answer, and compared with it there.

A prediction is no exam. It says what came out, and what to think about where the guess was another one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any

NO_GUESS = "No guess yet (write one in place of None, and run both cells again)."


def prediction(look: Callable[[Any, Any], str]) -> Callable[[Any, Any], None]:
    """Make a function that returns what to say about a guess into one that prints it."""

    @wraps(look)
    def predicted(guess: Any, answer: Any) -> None:
        print(textwrap.fill(look(guess, answer), 78, break_on_hyphens=False))

    return predicted


def number(
    guess: Any,
    answer: float,
    near: str,
    low: str,
    high: str,
    factor: float = 1.5,
    apart: float = 0.0,
    percent: bool = False,
) -> str:
    """Near is within a factor, or within ``apart``; else the guess is too low or too high.

    Where the answer is in ``percent``, a fraction is not taken for one.
    """
    answer = float(answer)
    if guess is None:
        return f"{NO_GUESS} It is {answer:.3g}. {near}"
    if not isinstance(guess, int | float):
        return f"A guess here is one number, such as {answer * 2 + 1:.0f}."
    if percent and 0 < guess < 1:
        return f"A guess here is in percent: {100 * guess:.3g}, and not {guess:.3g}."
    said = f"You said {guess:.3g}; it is {answer:.3g}."
    within_factor = guess * answer > 0 and 1 / factor <= guess / answer <= factor
    if within_factor or abs(guess - answer) <= apart:
        return f"{said} Near. {near}"
    return f"{said} {low if guess < answer else high}"


def choice(guess: Any, answer: str, thoughts: dict[str, str]) -> str:
    """``thoughts`` has a sentence for each of the letters that may be chosen."""
    if guess is None:
        return f"{NO_GUESS} It is {answer}. {thoughts[answer]}"
    if not isinstance(guess, str) or guess not in thoughts:
        letters = " or ".join(f'"{letter}"' for letter in thoughts)
        return f"A guess here is one letter, {letters}."
    if guess == answer:
        return f"You said {guess}, and so it is. {thoughts[answer]}"
    return f"You said {guess}; it is {answer}. {thoughts[guess]}"
