"""The one data structure of the server: columns of rows, and columns of runs.

A run is a stretch of adjacent rows with equal values. A column whose values repeat is kept once
per run, with an inverse index from rows to runs, so that work is done once per run. Runs never
have meaning beyond that: a Frame with runs and its expansion hold the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.kernels import lists_of_ids, take_into, take_lists

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flat:
    """One number a row: values [n] (bool, integer or float), valid [n] or None if none is null.

    Where valid is false the value is unspecified.
    """

    values: Array
    valid: Mask | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class OptionalIds(Flat):
    """A sparse feature of at most one id a row: values int32 [n], -1 where there is none.

    Ids are not negative. It stands for the lists that as_lists makes of it, in a third of the
    memory. Only features are kept so.
    """


@dataclass(frozen=True, slots=True)
class Bytes:
    """One string or binary value a row: data[offsets[i]:offsets[i + 1]].

    offsets is int64 [n + 1], data uint8, valid [n] or None if none is null. offsets[0] may be
    above 0. A null row's range is unspecified but within data.
    """

    offsets: Indices
    data: npt.NDArray[np.uint8]
    valid: Mask | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Opaque:
    """Values that an operation must turn into numbers (decimals, times), as an Arrow array [n]."""

    array: pa.Array

    def __len__(self) -> int:
        return len(self.array)


Scalars: TypeAlias = Flat | Bytes | Opaque


@dataclass(frozen=True, slots=True)
class Jagged:
    """One list a row: values[offsets[i]:offsets[i + 1]]. A null list is an empty one.

    offsets is int64 [n + 1], non-decreasing; offsets[0] is 0 and offsets[n] is len(values).
    weights float32 [offsets[n]] are those of a weighted feature's ids, None for anything else.
    """

    offsets: Indices
    values: Scalars
    weights: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


Column: TypeAlias = Scalars | Jagged


@dataclass(frozen=True, slots=True)
class Runs:
    """Columns kept once per run: row i has the values of run inverse[i] (int32 [rows]).

    inverse never decreases. A run may be that of no row, and adjacent runs may be equal.
    """

    inverse: npt.NDArray[np.int32]
    columns: Mapping[str, Column]

    def take(self, rows: Indices) -> Runs:
        """The runs of the rows of the given numbers, in that order, and no others."""
        wanted = self.inverse[rows]
        starts = starts_of_runs(wanted)
        kept = wanted[starts].astype(np.int64)
        return Runs(
            np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(starts, append=len(rows))),
            {name: take_column(column, kept) for name, column in self.columns.items()},
        )


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Frame:
    """Rows: row_count of them, columns of rows, and any number of run structures.

    Every name stands in exactly one place.
    """

    row_count: int
    columns: Mapping[str, Column]
    runs: tuple[Runs, ...] = field(default=())

    def column(self, name: str) -> tuple[Column, npt.NDArray[np.int32] | None]:
        """A column and the inverse index that expands it, None if it is a column of rows.

        Raises KeyError if there is no such column.
        """
        column, runs = self.locate(name)
        return column, None if runs is None else runs.inverse

    def locate(self, name: str) -> tuple[Column, Runs | None]:
        """A column and the run structure that it is kept in, None if it is a column of rows.

        Raises KeyError if there is no such column.
        """
        if name in self.columns:
            return self.columns[name], None
        for runs in self.runs:
            if name in runs.columns:
                return runs.columns[name], runs
        raise KeyError(name)

    def names(self) -> Iterator[str]:
        """Every column name, row-level ones first."""
        yield from self.columns
        for runs in self.runs:
            yield from runs.columns

    def take(self, rows: Indices) -> Frame:
        """The rows of the given numbers, in that order, and no others' values."""
        return take_rows([(self, rows)])

    def expanded(self) -> Frame:
        """The same rows without runs."""
        return Frame(self.row_count, {name: _expanded(self, name) for name in self.names()})


def starts_of_runs(values: npt.NDArray[np.integer[Any]]) -> Indices:
    """The places [runs] at which values [n] differ from the one before, with the first."""
    if len(values) == 0:
        return np.empty(0, np.int64)
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def are_all(rows: Indices, count: int) -> bool:
    """Whether rows are all of count rows, each once and in order."""
    return len(rows) == count and bool((rows == np.arange(count)).all())


def take_column(column: Column, rows: Indices) -> Column:
    """The values of a column at the given row numbers, in that order."""
    match column:
        case OptionalIds(values):
            return OptionalIds(values.take(rows))
        case Flat(values, valid):
            return Flat(values.take(rows), None if valid is None else valid.take(rows))
        case Bytes(offsets, data, valid):
            elements, new_offsets = _elements(offsets, rows)
            return Bytes(new_offsets, data[elements], None if valid is None else valid[rows])
        case Opaque(array):
            return Opaque(array.take(pa.array(rows)))
        case Jagged(offsets, Flat(values, None), weights):
            new_offsets, copied = take_lists(offsets, values, rows)
            if weights is not None:
                weights = take_lists(offsets, weights, rows)[1].view(np.float32)
            return Jagged(new_offsets, Flat(copied), weights)
        case Jagged(offsets, values):
            elements, new_offsets = _elements(offsets, rows)
            taken = take_column(values, elements)
            assert not isinstance(taken, Jagged)
            return Jagged(new_offsets, taken)


def _elements(offsets: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """The element numbers of the given rows' ranges, and the offsets of the result."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    new_offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    elements = np.repeat(starts - new_offsets[:-1], lengths) + np.arange(new_offsets[-1])
    return elements, new_offsets


def take_rows(parts: Sequence[tuple[Frame, Indices]]) -> Frame:
    """The rows of the given numbers of each Frame, in that order, one Frame's after the other's.

    Several Frames are of features, and have the same columns: see concat_frames.
    """
    count = sum(len(rows) for _, rows in parts)
    columns: dict[str, Column] = {}
    for (kind, dtype), names in _numbers_of_all([frame for frame, _ in parts]).items():
        matrix, first = np.empty((len(names), count), dtype), 0
        for frame, rows in parts:
            flats = [column for name in names if isinstance(column := frame.columns[name], Flat)]
            take_into([flat.values for flat in flats], rows, matrix, first)
            first += len(rows)
        columns |= zip(names, map(kind, matrix), strict=True)
    others = [
        Frame(
            row_count=frame.row_count,
            columns={name: column for name, column in frame.columns.items() if name not in columns},
            runs=frame.runs,
        )
        for frame, _ in parts
    ]
    rest = concat_frames(
        [
            # What was taken before, all of it: it is not copied once more.
            frame if len(parts) > 1 and are_all(rows, frame.row_count) else _take_each(frame, rows)
            for frame, (_, rows) in zip(others, parts, strict=True)
        ]
    )
    return Frame(count, columns | dict(rest.columns), rest.runs)


def _numbers_of_all(frames: Sequence[Frame]) -> dict[tuple[type[Flat], np.dtype[Any]], list[str]]:
    """The columns that every Frame keeps as one number a row and none null, by what they are.

    Only those of 4 and 8 bytes.
    """
    found: dict[tuple[type[Flat], np.dtype[Any]], list[str]] = {}
    for name in frames[0].columns:
        kinds = {_numbers(frame.columns.get(name)) for frame in frames}
        kind = kinds.pop()
        if not kinds and kind is not None:
            found.setdefault(kind, []).append(name)
    return found


def _numbers(column: Column | None) -> tuple[type[Flat], np.dtype[Any]] | None:
    match column:
        case Flat(values, None) if values.dtype.itemsize in (4, 8):
            return type(column), values.dtype
    return None


def _take_each(frame: Frame, rows: Indices) -> Frame:
    return Frame(
        row_count=len(rows),
        columns={name: take_column(column, rows) for name, column in frame.columns.items()},
        runs=tuple(runs.take(rows) for runs in frame.runs),
    )


def concat_frames(frames: Sequence[Frame]) -> Frame:
    """The rows of Frames of features that have the same columns, one Frame after the other.

    A column that every Frame keeps once per run is kept so, together with those that all of them
    keep beside it; others become columns of rows.
    """
    if len(frames) == 1:
        return frames[0]
    columns: dict[str, Column] = {}
    together: dict[tuple[int, ...], list[str]] = {}
    for name in frames[0].names():
        places = tuple(_place_of(frame, name) for frame in frames)
        if _OF_ROWS in places:
            columns[name] = _concat_columns([_expanded(frame, name) for frame in frames])
        else:
            together.setdefault(places, []).append(name)
    return Frame(
        row_count=sum(frame.row_count for frame in frames),
        columns=columns,
        runs=tuple(
            _concat_runs([frame.runs[i] for frame, i in zip(frames, places, strict=True)], names)
            for places, names in together.items()
        ),
    )


_OF_ROWS = -1


def _place_of(frame: Frame, name: str) -> int:
    """Which run structure of a frame has a column; _OF_ROWS if it is a column of rows."""
    if name in frame.columns:
        return _OF_ROWS
    return next(i for i, runs in enumerate(frame.runs) if name in runs.columns)


def _expanded(frame: Frame, name: str) -> Column:
    column, inverse = frame.column(name)
    return column if inverse is None else take_column(column, inverse.astype(np.int64))


def _concat_runs(parts: Sequence[Runs], names: Sequence[str]) -> Runs:
    inverses, before = [], 0
    for part in parts:
        inverses.append(part.inverse + np.int32(before))
        before += len(part.columns[names[0]])
    columns = {name: _concat_columns([part.columns[name] for part in parts]) for name in names}
    return Runs(np.concatenate(inverses), columns)


def _concat_columns(columns: Sequence[Column]) -> Column:
    is_optional = any(isinstance(column, OptionalIds) for column in columns)
    if is_optional and all(_may_be_optional(column) for column in columns):
        flats = [column for column in columns if isinstance(column, Flat)]
        return OptionalIds(np.concatenate([flat.values for flat in flats]))
    if is_optional or any(isinstance(column, Jagged) for column in columns):
        # One id a row, and lists where a row of another Frame has none.
        columns = [as_lists(column) for column in columns]
    jagged = [column for column in columns if isinstance(column, Jagged)]
    if len(jagged) == len(columns):
        values = _concat_columns([column.values for column in jagged])
        assert not isinstance(values, Jagged)
        lengths = [np.diff(column.offsets) for column in jagged]
        offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        weights = [column.weights for column in jagged if column.weights is not None]
        return Jagged(offsets, values, np.concatenate(weights) if weights else None)
    if all(isinstance(column, Flat) for column in columns):
        flats = [column for column in columns if isinstance(column, Flat)]
        valid = None
        if any(flat.valid is not None for flat in flats):
            valid = np.concatenate(
                [np.ones(len(f), np.bool_) if f.valid is None else f.valid for f in flats]
            )
        return Flat(np.concatenate([flat.values for flat in flats]), valid)
    raise TypeError(
        "only feature columns (Flat, OptionalIds, Jagged of Flat) are ever laid end to end"
    )


def _may_be_optional(column: Column) -> bool:
    """Whether a sparse feature has at most one id in each row, and none that OptionalIds lack."""
    if isinstance(column, OptionalIds):
        return True
    match column:
        case Flat(values, None) if values.dtype == np.int32:
            return not np.any(values < 0)
    return False


def as_lists(column: Column) -> Jagged:
    """A list a row, of one value each where the column has one value a row and no nulls."""
    if isinstance(column, Jagged):
        return column
    if isinstance(column, OptionalIds):
        offsets, values = lists_of_ids(column.values)
        return Jagged(offsets, Flat(values))
    return Jagged(np.arange(len(column) + 1), column)


def frame_bytes(frame: Frame) -> int:
    """What the arrays of a Frame of features take up, in bytes."""
    total = sum(runs.inverse.nbytes for runs in frame.runs)
    for name in frame.names():
        column = frame.column(name)[0]
        if isinstance(column, Jagged):
            total += column.offsets.nbytes
            total += 0 if column.weights is None else column.weights.nbytes
            column = column.values
        if isinstance(column, Flat):
            total += column.values.nbytes
    return total
