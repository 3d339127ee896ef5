"""Schemas of the JSON in a run's files: every value is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

Fits = Callable[[Any], bool]
Schema = dict[str, Fits]


def parse(data: bytes) -> dict[str, Any] | None:
    """Parse the JSON object in ``data``; None for anything else, including NaN and infinities."""
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def misfit(value: dict[str, Any], schema: Schema) -> str | None:
    """Return the first key of ``schema`` that ``value`` lacks or whose value does not fit."""
    return next((key for key, fits in schema.items() if key not in value or not fits(value[key])), None)


def is_text(value: Any) -> bool:
    """Return True if it is text."""
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """Return True if it is a whole number from 0 that a float64 represents exactly."""
    return type(value) is int and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Return True if it is a finite number."""
    return (type(value) is float and math.isfinite(value)) or is_count(value)


def mapping_of(fits: Fits) -> Fits:
    """Accept a mapping from texts to values accepted by ``fits``."""
    return lambda value: isinstance(value, dict) and all(map(is_text, value)) and all(map(fits, value.values()))


def list_of(fits: Fits) -> Fits:
    """Accept a list of values accepted by ``fits``."""
    return lambda value: isinstance(value, list) and all(map(fits, value))


def object_of(schema: Schema) -> Fits:
    """Accept an object that fits ``schema``; it may have other keys."""
    return lambda value: isinstance(value, dict) and misfit(value, schema) is None


def or_null(fits: Fits) -> Fits:
    """Accept null, or a value accepted by ``fits``."""
    return lambda value: value is None or fits(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
