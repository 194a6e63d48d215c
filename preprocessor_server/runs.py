"""Runs found by content: adjacent rows with equal values, every column compared for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.frame import (
    Bytes,
    Column,
    Flat,
    Frame,
    Indices,
    Jagged,
    Mask,
    Opaque,
    Runs,
    take_column,
)
from preprocessor_server.kernels import count_changes, fill, list_changes

# Looking for runs where there are none stops after stretches of this many rows.
_STRETCH_ROWS = 128
_STRETCHES = 4


@dataclass(slots=True)
class Joined:
    """Members whose runs are nearly the same; starts bool [n] has those of all, size of them."""

    starts: Mask
    size: int
    members: list[int]


def join_starts(starts: Sequence[Mask | None]) -> list[Joined]:
    """Puts members with nearly the same runs together; those that are None are left out.

    starts[i] bool [n] says where member i's values change. Taken with the most changes first, each
    member joins the first group whose starts and its own, together, are at most 9/8 of its own.
    """
    found = [
        (i, mask, int(np.count_nonzero(mask))) for i, mask in enumerate(starts) if mask is not None
    ]
    groups: list[Joined] = []
    for member, mask, size in sorted(found, key=lambda entry: -entry[2]):
        for group in groups:
            # The starts of a group that has all of them cannot grow.
            union = group.starts if group.size == len(mask) else group.starts | mask
            union_size = group.size if union is group.starts else int(np.count_nonzero(union))
            if 8 * union_size <= 9 * size:
                group.starts, group.size = union, union_size
                group.members.append(member)
                break
        else:
            groups.append(Joined(mask, size, [member]))
    return groups


def find_runs(frame: Frame) -> Frame:
    """The same rows, with every column whose values repeat kept once per run.

    Lossless, and coarser than the runs that the frame has already where those repeat too. A column
    stays as it is if more than half of its rows differ from the one before, or nearly all of a
    sample do.
    """
    columns, found = _split(frame.columns, frame.row_count)
    kept = []
    for runs in frame.runs:
        count = len(next(iter(runs.columns.values()))) if runs.columns else 0
        rest, coarser = _split(runs.columns, count)
        if rest:
            kept.append(Runs(runs.inverse, rest))
        kept += [Runs(run.inverse[runs.inverse], run.columns) for run in coarser]
    return Frame(frame.row_count, columns, (*kept, *found))


def _split(columns: Mapping[str, Column], count: int) -> tuple[dict[str, Column], list[Runs]]:
    """The columns that do not repeat, and the runs of those that do."""
    names = list(columns)
    repeating = _repeating(columns, count)
    groups = join_starts(
        [_starts(columns[name], count) if name in repeating else None for name in names]
    )
    in_runs = {member for group in groups for member in group.members}
    rest = {name: columns[name] for i, name in enumerate(names) if i not in in_runs}
    found = []
    for group in groups:
        first = np.flatnonzero(group.starts)
        inverse = np.cumsum(group.starts, dtype=np.int32) - np.int32(1)
        members = sorted(group.members)
        found.append(
            Runs(inverse, {names[i]: take_column(columns[names[i]], first) for i in members})
        )
    return rest, found


def _repeating(columns: Mapping[str, Column], count: int) -> set[str]:
    """The columns of count rows of which a sample repeats now and then."""
    if count < 2:
        return set()
    sample = sample_rows(count)
    if len(sample) == count:
        return set(columns)
    flats = {name: column for name, column in columns.items() if isinstance(column, Flat)}
    counts = count_changes([(flat.values, flat.valid) for flat in flats.values()], sample)
    changed = dict(zip(flats, counts.tolist(), strict=True))
    for name in columns.keys() - flats.keys():
        changed[name] = int(np.count_nonzero(find_changes(columns[name], sample)))
    return {name for name in columns if 4 * changed[name] <= 3 * len(sample)}


def _starts(column: Column, count: int) -> Mask | None:
    """Where the values of a column change, bool [count]; None where they do so too often."""
    changes = find_changes(column)
    return None if 2 * np.count_nonzero(changes) > count else changes


def sample_rows(count: int) -> Indices:
    """The numbers of those of count rows that tell whether a column may repeat: a few stretches."""
    if count <= _STRETCHES * _STRETCH_ROWS:
        return np.arange(count)
    firsts = np.linspace(0, count - _STRETCH_ROWS, _STRETCHES).astype(np.int64)
    return (firsts[:, None] + np.arange(_STRETCH_ROWS)).ravel()


def find_changes(column: Column, rows: Indices | None = None) -> Mask:
    """Whether each of the rows (None: all) differs from the one before it; the first: True.

    Bit by bit, so NaN equals itself and -0.0 differs from 0.0. A null equals a null; but null
    elements of lists only if they hold the same, which may find more changes than there are.
    """
    match column:
        case Opaque(array) if pa.types.is_dictionary(array.type):
            return find_changes(_codes(array, rows))
        case Flat() if rows is not None:
            return find_changes(take_column(column, rows))
        case Flat(values, valid):
            return _flat_changes(values, valid)
        case Bytes(offsets, data, valid):
            changes = list_changes(offsets, data, rows)
            if valid is None:
                return changes
            return _with_nulls(changes, valid if rows is None else valid[rows])
        case Jagged(offsets, Flat(values, valid)):
            changes = list_changes(offsets, values, rows)
            return changes if valid is None else changes | list_changes(offsets, valid, rows)
        case Jagged(offsets, Bytes(starts, data, valid)):
            changes = list_changes(offsets, np.diff(starts), rows)
            changes |= list_changes(starts[offsets], data, rows)
            return changes if valid is None else changes | list_changes(offsets, valid, rows)
        case Jagged(offsets, Opaque(array)) if pa.types.is_dictionary(array.type):
            return find_changes(Jagged(offsets, _codes(array)), rows)
        case _:
            return np.ones(len(column) if rows is None else len(rows), np.bool_)


def _codes(array: pa.DictionaryArray, rows: Indices | None = None) -> Flat:
    """The codes of a dictionary's values: equal ones are of equal values; those of nulls are 0."""
    if not len(array):
        return Flat(np.empty(0, np.int32), None)
    indices = array.indices
    first, count, kind = indices.offset, len(indices), indices.type.to_pandas_dtype()
    validity, words = indices.buffers()
    codes = np.frombuffer(words, kind, first + count)[first:]
    codes = codes if rows is None else codes[rows]
    if indices.null_count == 0:
        return Flat(codes, None)
    bits = np.frombuffer(validity, np.uint8)
    if rows is None:
        skipped = first % 8
        marks = np.unpackbits(bits[first // 8 :], count=skipped + count, bitorder="little")
        marks = marks[skipped:]
    else:
        places = rows + first
        marks = (bits[places >> 3] >> (places & 7)) & 1
    valid = marks != 0
    return Flat(fill(codes, valid, 0), valid)


def _flat_changes(values: npt.NDArray[np.generic], valid: Mask | None) -> Mask:
    words = np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))
    changes = np.ones(len(words), np.bool_)
    np.not_equal(words[1:], words[:-1], out=changes[1:])
    return changes if valid is None else _with_nulls(changes, valid)


def _with_nulls(changes: Mask, valid: Mask) -> Mask:
    """Changes of values of which some are null: unspecified there, and equal to other nulls."""
    changes[1:] &= valid[1:] | valid[:-1]
    changes[1:] |= valid[1:] != valid[:-1]
    return changes
