"""Settings as frozen dataclasses: checked when made, kept as JSON, compared when a run goes on."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: Any) -> Any:
    """The inverse of :func:`to_dict`; an unknown or missing setting, or one of another type, is a ValueError
    that names it."""
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} has the settings {sorted(hints)}; given {values!r}")
    wrong = hints.keys() ^ values.keys()
    if wrong:
        raise ValueError(
            f"{cls.__name__} has the settings {sorted(hints)}; these are unknown or missing: {sorted(wrong)}"
        )
    return cls(
        **{name: _typed(hints[name], value, f"{cls.__name__}.{name}") for name, value in values.items()}
    )


def _typed(hint: Any, value: Any, name: str) -> Any:
    """A setting from its JSON value; ValueError where that is of another type. Whole numbers are numbers."""
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(_typed(kind, part, name) for kind, part in zip(kinds, value, strict=True))
    elif origin is typing.Literal:
        if any(type(value) is type(allowed) and value == allowed for allowed in inner):
            return value
    elif type(value) is hint or (hint is float and type(value) is int):
        return value
    if origin is typing.Literal:
        raise ValueError(f"{name} must be one of {', '.join(map(str, inner))}, not {value!r}")
    raise ValueError(f"{name} must be {hint.__name__ if origin is None else hint}, not {value!r}")


def require_same(saved: Any, config: Any, where: Path | str, may_change: typing.Collection[str] = ()) -> None:
    """ValueError that names the settings in which ``config`` differs from those ``saved`` in ``where``, but
    for those that ``may_change``. Both are configs or dicts of JSON values."""
    changed = differences(saved, config, may_change=may_change)
    if changed:
        raise ValueError(
            f"{where} was made with other settings ({'; '.join(changed)}); "
            "go on with the same ones, or use another place for the new ones"
        )


def differences(a: Any, b: Any, prefix: str = "", may_change: typing.Collection[str] = ()) -> list[str]:
    """Settings in which two configs differ, as "name: a -> b"."""
    old = _as_json(a)
    new = _as_json(b)
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        before = old.get(name)
        after = new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after and name not in may_change:
            found.append(f"{prefix}{name}: {before} -> {after}")
    return found


def at_least(config: Any, prefix: str = "", **least: float) -> None:
    """ValueError for the first of these settings of ``config`` that is below the least value it can have, or
    not a number."""
    for name, bound in least.items():
        value = getattr(config, name)
        if not bound <= value < math.inf:
            raise ValueError(f"{prefix}{name} must be at least {bound}, not {value}")


def _as_json(value: Any) -> Any:
    """A config, or JSON values, as they come back from a JSON file: tuples are lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_dict(value)
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value
