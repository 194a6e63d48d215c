"""Which sparse features of a batch are sent once a run: a pure function of the batch's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessor_server.frame import (
    Array,
    Flat,
    Frame,
    Indices,
    Jagged,
    Mask,
    Runs,
    as_slice,
    starts_of_runs,
)
from preprocessor_server.kernels import list_changes
from preprocessor_server.runs import join_starts

Lengths: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists that are to be sent, one after the other: those of the given rows [N] of a column."""

    column: Jagged
    rows: Indices

    @property
    def values(self) -> Array:
        """The column's values, int32 or int64."""
        assert isinstance(self.column.values, Flat)
        return self.column.values.values


@dataclass(frozen=True, slots=True)
class PartRows:
    """Features of a sparse block that are sent together, by their number in the block.

    Of N rows or runs, singles have one id each: ids [singles, N] of int32 or int64; lists have a
    list each. run_lengths [N] are the rows of each run, None where the part is sent once a row.
    """

    size: int
    run_lengths: Lengths | None
    singles: tuple[int, ...]
    ids: Array
    lists: dict[int, Lists]

    @property
    def features(self) -> list[int]:
        """The numbers of all features, ascending."""
        return sorted((*self.singles, *self.lists))


def sparse_parts(frame: Frame, rows: Indices, names: Sequence[str]) -> list[PartRows]:
    """The parts of a sparse block that holds the given rows [B] of a frame, in that order.

    docs/compact_batch.md defines them. Runs of the frame save work and change nothing.
    """
    count = len(rows)
    levels = _levels(frame, rows, names)
    often = {f: level for level in levels for f in level.numbers if 2 * level.changed[f] > count}
    found = [(f, level) for level in levels for f in level.numbers if f not in often]
    found.sort(key=lambda entry: entry[0])
    parts = [_part(often, None, None)] if often else []
    # Where all have their runs from one structure, its runs are counted instead of rows.
    shared = found[0][1] if found and all(level is found[0][1] for _, level in found) else None
    joined = join_starts(
        [level.changes[f] if shared else level.changed_rows(f) for f, level in found]
    )
    for group in sorted(joined, key=lambda group: min(group.members)):
        places = np.flatnonzero(group.starts)
        firsts = places if shared is None else shared.firsts[places]
        members = dict(found[member] for member in group.members)
        run_lengths = np.diff(firsts, append=count).astype(np.int32)
        parts.append(_part(members, firsts, run_lengths))
    return parts


class _Level:
    """The features of a batch whose columns are kept alike: once a row, or once a run.

    Of its n units (rows, or runs), firsts [n] are their first rows in the batch and unit_of_row [B]
    lead there from its rows, None where units are rows. changes[f] bool [n] says which units differ
    from the one before in feature f, changed[f] how many do.
    """

    def __init__(self, columns: dict[int, Flat | Jagged], rows: Indices, runs: Runs | None) -> None:
        self.numbers = tuple(columns)
        self.unit_of_row: Indices | None = None
        if runs is None:
            self.firsts: Indices = np.arange(len(rows))
        else:
            rows = runs.inverse[as_slice(rows)].astype(np.int64)
            self.firsts = starts_of_runs(rows)
            lengths = np.diff(self.firsts, append=len(rows))
            self.unit_of_row = np.repeat(np.arange(len(self.firsts)), lengths)
            rows = rows[self.firsts]
        self.column_rows = rows
        self.lists = {f: column for f, column in columns.items() if isinstance(column, Jagged)}
        wanted = as_slice(rows)
        singles = {f: c.values[wanted] for f, c in columns.items() if isinstance(c, Flat)}
        self.singles = {f: number for number, f in enumerate(singles)}
        self.ids: Array = np.stack(list(singles.values())) if singles else _NO_IDS
        changes = np.ones(self.ids.shape, np.bool_)
        np.not_equal(self.ids[:, 1:], self.ids[:, :-1], out=changes[:, 1:])
        counts = np.count_nonzero(changes, axis=1).tolist()
        self.changes: dict[int, Mask] = {f: changes[number] for f, number in self.singles.items()}
        self.changed: dict[int, int] = dict(zip(self.singles, counts, strict=True))
        for f, column in self.lists.items():
            assert isinstance(column.values, Flat)
            self.changes[f] = list_changes(column.offsets, column.values.values, rows)
            self.changed[f] = int(np.count_nonzero(self.changes[f]))

    def changed_rows(self, feature: int) -> Mask:
        """Which rows of the batch differ from the one before, bool [B]."""
        if self.unit_of_row is None:
            return self.changes[feature]
        starts = np.zeros(len(self.unit_of_row), np.bool_)
        starts[self.firsts[self.changes[feature]]] = True
        return starts

    def units(self, firsts: Indices | None) -> Indices | None:
        """The units of the given rows of the batch (None: of all of them); None for all units."""
        if firsts is None:
            return self.unit_of_row
        units = firsts if self.unit_of_row is None else self.unit_of_row[firsts]
        return None if len(units) == len(self.firsts) else units


_NO_IDS: npt.NDArray[np.int32] = np.empty((0, 0), np.int32)


def _levels(frame: Frame, rows: Indices, names: Sequence[str]) -> list[_Level]:
    columns: dict[int, dict[int, Flat | Jagged]] = {}
    runs_of: dict[int, Runs | None] = {}
    for f, name in enumerate(names):
        column, runs = frame.locate(name)
        assert isinstance(column, Flat | Jagged)
        columns.setdefault(id(runs), {})[f] = column
        runs_of[id(runs)] = runs
    return [_Level(columns[key], rows, runs) for key, runs in runs_of.items()]


def _part(
    members: dict[int, _Level], firsts: Indices | None, run_lengths: Lengths | None
) -> PartRows:
    """The part of some features; firsts [N] are the rows of the batch it sends, None for all."""
    ids: list[Array] = []
    singles: list[int] = []
    lists: dict[int, Lists] = {}
    size = 0
    for level in dict.fromkeys(members.values()):
        units = level.units(firsts)
        size = len(level.firsts) if units is None else len(units)
        mine = [f for f in level.numbers if f in members]
        chosen = [f for f in mine if f in level.singles]
        if chosen:
            singles += chosen
            ids.append(_rows_of(level.ids, [level.singles[f] for f in chosen], units))
        rows = level.column_rows if units is None else level.column_rows[units]
        lists |= {f: Lists(level.lists[f], rows) for f in mine if f in level.lists}
    whole = _NO_IDS if not ids else ids[0] if len(ids) == 1 else np.concatenate(ids)
    return PartRows(size, run_lengths, tuple(singles), whole, lists)


def _rows_of(ids: Array, numbers: list[int], units: Indices | None) -> Array:
    if len(numbers) < len(ids):
        ids = ids[numbers]
    return ids if units is None else ids[:, units]
