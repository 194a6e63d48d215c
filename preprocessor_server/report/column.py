"""What a column holds: facts that are gathered part by part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.fit.moments import Moments
from preprocessor_server.fit.quantiles import Quantiles
from preprocessor_server.frame import Bytes, Flat
from preprocessor_server.report.sketches import Distinct, Frequent
from preprocessor_server.runs import find_changes
from preprocessor_server.source.split_table import flatten
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import BYTES, OPAQUE, ColumnType, Family, column_type

_FLOATS = frozenset({Family.FLOAT, Family.DECIMAL})


@dataclass(slots=True)
class Numbers:
    """Finite numbers: how many, their moments and quantiles."""

    quantiles: Quantiles
    moments: Moments = field(default_factory=Moments)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes finite numbers in."""
        self.moments = self.moments.merge(Moments.of(values))
        self.quantiles.add(values)


@dataclass(slots=True)
class ColumnFacts:
    """What the rows that were read hold in a column.

    kind is None for types of which no feature is made: only nulls are counted then. values counts
    the values that are not null, elements of lists each for itself. numbers are the values of
    numbers, decimals (as float64) and times (as stored); lengths those of lists, sizes the bytes of
    strings. runs counts stretches of adjacent rows with equal values, None where that is not known.
    """

    name: str
    arrow: pa.DataType
    kind: ColumnType | None
    rows: int = 0
    nulls: int = 0
    values: int = 0
    null_elements: int = 0
    nan: int = 0
    infinite: int = 0
    runs: int | None = 0
    numbers: Numbers | None = None
    lengths: Numbers | None = None
    sizes: Numbers | None = None
    distinct: Distinct = field(default_factory=Distinct)
    frequent: Frequent = field(default_factory=Frequent)

    @classmethod
    def of(cls, name: str, arrow: pa.DataType) -> ColumnFacts:
        """A column of which nothing was read."""
        kind = column_type(arrow)
        facts = cls(name, arrow, kind)
        if kind is None or kind.family is Family.NULL:
            facts.runs = None
            return facts
        if kind.is_list:
            facts.lengths = Numbers(Quantiles(np.dtype(np.int64)))
        if kind.family in BYTES:
            facts.sizes = Numbers(Quantiles(np.dtype(np.int64)))
        elif kind.family in _FLOATS:
            facts.numbers = Numbers(Quantiles(np.dtype(np.float64)))
        elif kind.family is not Family.BOOLEAN:
            facts.numbers = Numbers(Quantiles(np.dtype(np.int64)))
        if kind.family in OPAQUE:
            facts.runs = None
        return facts

    def add(self, column: pa.ChunkedArray) -> None:
        """Takes the column's values in rows that follow each other in."""
        self.rows += len(column)
        self.nulls += column.null_count
        if self.kind is None or self.kind.family is Family.NULL:
            return
        if self.runs is not None:
            changes = find_changes(arrow_to_column(column))
            self.runs += int(np.count_nonzero(changes))
        if self.lengths is not None:
            given = column.filter(pc.is_valid(column)) if column.null_count else column
            column, lengths = flatten(given)
            self.lengths.add(lengths)
            self.null_elements += column.null_count
        self._add_values(column.drop_null(), self.kind)

    def _add_values(self, values: pa.ChunkedArray, kind: ColumnType) -> None:
        self.values += len(values)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if kind.family in BYTES:
            strings = arrow_to_column(values)
            assert isinstance(strings, Bytes)
            assert self.sizes is not None
            self.sizes.add(np.diff(strings.offsets))
            self.distinct.add(strings)
            # As bytes: what is no UTF-8 is shown too.
            self.frequent.add(values.cast(pa.large_binary()))
            return
        if pa.types.is_float16(values.type):
            values = values.cast(pa.float32())
        self.frequent.add(values)
        flat = arrow_to_column(_as_numbers(values, kind))
        assert isinstance(flat, Flat)
        self.distinct.add(flat)
        if self.numbers is None:
            return
        numbers = flat.values
        if numbers.dtype.kind == "f":
            self.nan += int(np.count_nonzero(np.isnan(numbers)))
            self.infinite += int(np.count_nonzero(np.isinf(numbers)))
            numbers = numbers[np.isfinite(numbers)]
            self.numbers.add(numbers.astype(np.float64) + 0.0)
        elif numbers.dtype == np.uint64 and len(numbers) and numbers.max() >> np.uint64(63):
            # Ids that are hashes: their order says nothing.
            self.numbers = None
        else:
            self.numbers.add(numbers.astype(np.int64))


def _as_numbers(values: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    if kind.family is Family.DECIMAL:
        return values.cast(pa.float64())
    if kind.family is Family.TIME:
        width = values.type.bit_width
        return values.cast(pa.int32() if width == 32 else pa.int64())
    return values
