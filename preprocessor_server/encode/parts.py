"""Which sparse features of a batch are sent once a run: a pure function of the batch's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessor_server.frame import Array, Flat, Frame, Indices, Jagged, Mask, Runs
from preprocessor_server.kernels import (
    RunRows,
    gather_columns,
    id_changes,
    list_changes,
    run_rows,
    take_lists,
)
from preprocessor_server.runs import join_starts

Lengths: TypeAlias = npt.NDArray[np.int32]
# Lists that lie one after the other: offsets int64 [N + 1] and values, int32 or int64.
Lists: TypeAlias = tuple[Indices, Array]

_NO_IDS: npt.NDArray[np.int32] = np.empty((0, 0), np.int32)


@dataclass(frozen=True, slots=True)
class PartRows:
    """Features of a sparse block that are sent together, by their number in the block.

    Of size rows or runs, singles have one id each: ids [singles, size] of int32 or int64; lists
    have a list each. run_lengths [size] are the rows of each run, None where the part is sent once
    a row.
    """

    size: int
    run_lengths: Lengths | None
    singles: list[int]
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
    found = [(f, level) for level in levels for f in level.changed if 2 * level.changed[f] <= count]
    by_row = {f: level for level in levels for f in level.changed if 2 * level.changed[f] > count}
    found.sort(key=lambda entry: entry[0])
    parts = [_part(by_row, None, None)] if by_row else []
    # Where all have their runs from one structure, its runs are compared instead of rows.
    shared = found[0][1] if found and all(level is found[0][1] for _, level in found) else None
    masks = [level.changes[f] if shared else level.changed_rows(f) for f, level in found]
    for group in sorted(join_starts(masks), key=lambda group: min(group.members)):
        places = np.flatnonzero(group.starts)
        firsts = places if shared is None else shared.first_rows(places)
        members = dict(found[member] for member in group.members)
        run_lengths = np.diff(firsts, append=count).astype(np.int32)
        parts.append(_part(members, firsts, run_lengths))
    return parts


class _Level:
    """The features of a batch whose columns are kept alike: once a row, or once a run.

    What is kept once is a unit. Units of the batch's rows are gathered: ids [singles, units], and
    the lists of the other features. changes[f] bool [units] says which differ from the one before,
    changed[f] how many do.
    """

    def __init__(self, columns: dict[int, Flat | Jagged], rows: Indices, runs: Runs | None) -> None:
        self._runs: RunRows | None = None
        if runs is not None:
            self._runs = run_rows(runs.inverse, rows)
            rows = self._runs.runs
        self.count = len(rows)
        flats = {f: c.values for f, c in columns.items() if isinstance(c, Flat)}
        self.singles = list(flats)
        self.ids: Array = gather_columns(list(flats.values()), rows) if flats else _NO_IDS
        self.changes: dict[int, Mask] = {}
        self.changed: dict[int, int] = {}
        if flats:
            changes, counts = id_changes(self.ids)
            self.changes |= zip(flats, changes, strict=True)
            self.changed |= zip(flats, counts.tolist(), strict=True)
        self.lists: dict[int, Lists] = {}
        every = np.arange(self.count)
        for f, column in columns.items():
            if isinstance(column, Jagged):
                assert isinstance(column.values, Flat)
                offsets, values = take_lists(column.offsets, column.values.values, rows)
                self.lists[f] = offsets, values
                self.changes[f] = list_changes(offsets, values, every)
                self.changed[f] = int(np.count_nonzero(self.changes[f]))

    def first_rows(self, units: Indices) -> Indices:
        """The batch's first row of each of some units."""
        return units if self._runs is None else self._runs.firsts[units]

    def changed_rows(self, feature: int) -> Mask:
        """Which rows of the batch differ from the one before, bool [B]."""
        if self._runs is None:
            return self.changes[feature]
        starts = np.zeros(len(self._runs.run_of_row), np.bool_)
        starts[self._runs.firsts[self.changes[feature]]] = True
        return starts

    def units(self, firsts: Indices | None) -> Indices | None:
        """The units of some rows of the batch (None: of each of them); None for every unit once."""
        if self._runs is None:
            units = firsts
        else:
            units = self._runs.run_of_row if firsts is None else self._runs.run_of_row[firsts]
        return None if units is not None and len(units) == self.count else units


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
    """The part of some features; firsts are the rows of the batch that it sends, None for all."""
    ids: list[Array] = []
    singles: list[int] = []
    lists: dict[int, Lists] = {}
    size = 0
    for level in dict.fromkeys(members.values()):
        units = level.units(firsts)
        size = level.count if units is None else len(units)
        numbers = [number for number, f in enumerate(level.singles) if f in members]
        if numbers:
            singles += [level.singles[number] for number in numbers]
            chosen = level.ids if len(numbers) == len(level.ids) else level.ids[numbers]
            ids.append(chosen if units is None else chosen.take(units, axis=1))
        for f, (offsets, values) in level.lists.items():
            if f in members:
                lists[f] = (
                    (offsets, values) if units is None else take_lists(offsets, values, units)
                )
    whole = _NO_IDS if not ids else ids[0] if len(ids) == 1 else np.concatenate(ids)
    return PartRows(size, run_lengths, singles, whole, lists)
