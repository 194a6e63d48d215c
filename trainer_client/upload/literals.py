"""Plain values as Python writes them, the same in every process."""

from __future__ import annotations

import math
from collections.abc import Iterable


def literal(value: object) -> str | None:
    """The source of a plain value, None for any other.

    Plain are None, bool, int, float, complex, str and bytes, and tuple, list, dict, set and
    frozenset of these; of these very types, since others that derive from them print alike.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str, bytes):
        return repr(value)
    if isinstance(value, float) and kind is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if isinstance(value, complex) and kind is complex:
        return f"complex({str(value)!r})"
    if isinstance(value, dict) and kind is dict:
        pairs = [(literal(key), literal(item)) for key, item in value.items()]
        return _joined("{", [_pair(key, item) for key, item in pairs], "}")
    if isinstance(value, tuple) and kind is tuple:
        comma = "," if len(value) == 1 else ""
        return _joined("(", map(literal, value), comma + ")")
    if isinstance(value, list) and kind is list:
        return _joined("[", map(literal, value), "]")
    if isinstance(value, set | frozenset) and kind in (set, frozenset):
        # The order in a set differs from process to process.
        items = [literal(item) for item in value]
        return _joined(f"{kind.__name__}([", sorted(items, key=str), "])")
    return None


def _pair(key: str | None, item: str | None) -> str | None:
    return None if key is None or item is None else f"{key}: {item}"


def _joined(start: str, parts: Iterable[str | None], end: str) -> str | None:
    texts = list(parts)
    known = [text for text in texts if text is not None]
    return start + ", ".join(known) + end if len(known) == len(texts) else None
