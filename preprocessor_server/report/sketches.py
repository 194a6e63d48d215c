"""How many values differ, and which are frequent: of any number of values, in bounded memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.frame import Bytes, Flat
from preprocessor_server.kernels import first_state, fold_words, hash_strings

KEPT_HASHES = 1 << 14
KEPT_VALUES = 1 << 12


class Distinct:
    """Estimates how many of the values differ, from the smallest of their hashes.

    Exact below KEPT_HASHES; beyond, the standard error is error (Bar-Yossef and others: Counting
    distinct elements in a data stream, 2002; Beyer and others: On synopses for distinct-value
    estimation, 2007). A value's hash is the same in every process.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(0, np.uint64)
        self._more = False

    def add(self, values: Flat | Bytes) -> None:
        """Takes values in, none of which is null."""
        hashes = np.unique(np.concatenate([self._hashes, np.unique(_hashes(values))]))
        self._more |= len(hashes) > KEPT_HASHES
        self._hashes = hashes[:KEPT_HASHES]

    @property
    def count(self) -> int:
        """How many values differ."""
        if not self._more:
            return len(self._hashes)
        share = (int(self._hashes[-1]) + 1) / 2**64
        return round((KEPT_HASHES - 1) / share)

    @property
    def error(self) -> float:
        """The standard error of count, as a share of it."""
        return 1 / math.sqrt(KEPT_HASHES - 2) if self._more else 0.0


def _hashes(values: Flat | Bytes) -> npt.NDArray[np.uint64]:
    if isinstance(values, Bytes):
        high, low = (
            hash_strings(values.offsets, values.data, 1 << 32, seed).astype(np.uint64)
            for seed in (0, 1)
        )
        return (high << np.uint64(32)) | low
    numbers = values.values
    if numbers.dtype.kind == "f":
        numbers = numbers.astype(np.float64) + 0.0
        numbers[np.isnan(numbers)] = np.nan
    else:
        numbers = numbers.astype(np.int64 if numbers.dtype.kind == "i" else np.uint64)
    return fold_words(np.full(len(numbers), first_state(0)), numbers.view(np.uint64))


class Frequent:
    """Counts the most frequent values; a count is at most error too low, and never too high.

    Where more than KEPT_VALUES differ, all counts are lowered by what the next one has, and those
    that come to nothing are dropped (Misra and Gries: Finding repeated elements, 1982).
    """

    def __init__(self) -> None:
        self.error = 0
        self._counts: pa.Table | None = None

    def add(self, values: pa.Array | pa.ChunkedArray) -> None:
        """Takes values in, none of which is null."""
        if pa.types.is_decimal(values.type) and values.type.bit_width < 128:
            # Arrow counts none of these.
            values = values.cast(pa.decimal128(values.type.precision, values.type.scale))
        counted = pc.value_counts(values)
        if isinstance(counted, pa.ChunkedArray):
            counted = counted.combine_chunks()
        part = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
        if self._counts is not None:
            both = pa.concat_tables([self._counts, part]).group_by("value")
            summed = both.aggregate([("count", "sum")])
            part = pa.table({"value": summed.column(0), "count": summed.column(1)})
        part = part.sort_by([("count", "descending")])
        if len(part) > KEPT_VALUES:
            next_one = part.column("count")[KEPT_VALUES].as_py()
            self.error += next_one
            part = part.slice(0, KEPT_VALUES)
            lowered = pc.subtract(part.column("count"), next_one)
            part = part.set_column(1, "count", lowered).filter(pc.greater(lowered, 0))
        self._counts = part

    def top(self, count: int) -> list[tuple[Any, int]]:
        """The most frequent values and their counts; of equally frequent ones the least first.

        Times are text.
        """
        if self._counts is None:
            return []
        order = [("count", "descending"), ("value", "ascending")]
        first = self._counts.sort_by(order).slice(0, count)
        values = first.column("value")
        if pa.types.is_temporal(values.type):
            # Python has no nanoseconds, and no years beyond 9999.
            values = values.cast(pa.string())
        return list(zip(values.to_pylist(), first.column("count").to_pylist(), strict=True))
