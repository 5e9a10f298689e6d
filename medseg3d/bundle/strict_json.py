"""JSON from a file that is not trusted."""

import json
import math
from typing import Any

from medseg3d.bundle.refusal import UnfitError

DEEPEST = 24
MOST_CONTAINERS = 20_000
MOST_VALUES = 500_000
LARGEST_INTEGER = 1 << 63


def parse_object(data: bytes, *, where: str) -> dict[str, Any]:
    """Keys and values of a JSON object.

    Stricter than the standard library: UTF-8 only, no key twice, no ``NaN``, no number that
    overflows, no half surrogate, and limits on depth and on the number of values, which are
    counted before anything is built from them.

    Args:
        data: The text; the caller limits its length.
        where: What the text is, to begin a message with.

    Raises:
        UnfitError: If it is anything else.

    Examples:
        >>> parse_object(b'{"width": 8}', where="model.json")
        {'width': 8}
    """
    try:
        if data.count(b"[") + data.count(b"{") > MOST_CONTAINERS:
            raise ValueError(f"more than {MOST_CONTAINERS} lists and objects")
        if data.count(b",") > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        if _depth(value) > DEEPEST:
            raise RecursionError
    except RecursionError:
        raise UnfitError(f"{where} is nested more than {DEEPEST} deep") from None
    except ValueError as error:
        raise UnfitError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UnfitError(f"{where} is a JSON {type(value).__name__}, expected an object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is given twice")
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else LARGEST_INTEGER
    if abs(value) >= LARGEST_INTEGER:
        raise ValueError(f"{text[:20]} is too large")
    return value


def _depth(value: Any) -> int:
    deepest, here = 0, [value]
    while here:
        deepest += 1
        here = [
            inner
            for outer in here
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest - 1
