"""Facts about columns as people read them: short numbers, values on one line, bars."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessor_server.report.column import ColumnFacts, Numbers
from preprocessor_server.transform.column_type import Family

BINS = 32
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOP = 8
_SHOWN = 60
# Beyond so many times what 98 % of the values span, a histogram would be one bar.
_WIDE = 4.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """The share of values in each of equally wide bins from low to high; cut leaves tails out."""

    low: float
    high: float
    shares: Sequence[float]
    cut: bool


def histogram(numbers: Numbers) -> Histogram | None:
    """The histogram of numbers; None where all are equal, or there are none."""
    moments = numbers.moments
    if not moments.count or moments.min == moments.max:
        return None
    inner_low, inner_high = (float(each) for each in numbers.quantiles.at([0.01, 0.99]))
    low, high = moments.min, moments.max
    cut = inner_low < inner_high and high - low > _WIDE * (inner_high - inner_low)
    if cut:
        low, high = inner_low, inner_high
    edges = np.array([low + (high - low) * i / BINS for i in range(BINS + 1)])
    if numbers.quantiles.dtype.kind == "i":
        # As many integers in each bin.
        width = max(1, math.ceil((high - low + 1) / BINS))
        edges = low + width * np.arange(math.ceil((high - low + 1) / width) + 1)
    # The last bin holds its upper end too.
    edges[-1] = max(edges[-1], np.nextafter(high, np.inf))
    below = numbers.quantiles.below(edges)
    shares = np.maximum(np.diff(below), 0.0)
    return Histogram(low, high, shares.tolist(), bool(cut))


def short(number: float) -> str:
    """A number in few characters."""
    if abs(number) >= 1e15:
        return f"{number:.4g}"
    if float(number).is_integer():
        return f"{int(number):,}"
    return f"{number:,.1f}" if abs(number) >= 1000 else f"{number:.4g}"


def percent(share: float) -> str:
    """A share; one that is small, but not nothing, is not shown as nothing."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    return f"{100 * share:.4g} %"


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:,.0f} B"
        count /= 1000
    return f"{count:,.3g} TB"


def measure(number: float, facts: ColumnFacts) -> str:
    """A number of a column: of times the time that is stored as it."""
    if facts.kind is None or facts.kind.family is not Family.TIME:
        return short(number)
    arrow = facts.kind.arrow
    assert arrow is not None
    width = pa.int32() if arrow.bit_width == 32 else pa.int64()
    # By Arrow: Python has no nanoseconds, and no years beyond 9999.
    return str(pa.scalar(round(number), width).cast(arrow).cast(pa.string()).as_py())


def value_text(value: Any) -> str:
    """A value on one line: strings in quotes, bytes that are no text in hexadecimal."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return cut_text(f"0x{value.hex()}")
        return cut_text(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{value:.6g}".replace("nan", "NaN")
    return cut_text(f"{value:,}" if type(value) is int else str(value))


def cut_text(text: str) -> str:
    """A text of at most so many characters as a cell has room for."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def run_length(facts: ColumnFacts) -> float | None:
    """The mean length of stretches of adjacent rows with equal values; None if unknown."""
    return facts.rows / facts.runs if facts.runs else None


def distinct_text(facts: ColumnFacts) -> str:
    """How many values differ, with the error of an estimate."""
    if facts.kind is None:
        return "-"
    error = facts.distinct.error
    if not error:
        return f"{facts.distinct.count:,}"
    return f"≈ {float(f'{facts.distinct.count:.3g}'):,.0f}"
