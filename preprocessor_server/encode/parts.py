"""Which sparse features of a batch are sent once a run: a pure function of the batch's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessor_server.encode.columns import LevelColumns
from preprocessor_server.frame import Array, Indices, Mask, are_all
from preprocessor_server.kernels import RunRows, run_rows, take_lists
from preprocessor_server.runs import join_starts

Lengths: TypeAlias = npt.NDArray[np.int32]
Weights: TypeAlias = npt.NDArray[np.float32]

MAX_LENGTH = 2**31 - 1

_NONE: npt.NDArray[np.int32] = np.empty((0, 0), np.int32)


@dataclass(frozen=True, slots=True)
class PartRows:
    """Features of a sparse block that are sent together, by their number in the block.

    Of size rows or runs, singles have one id each: ids [singles, size] of int32 or int64. lists
    have a list each: their elements, int32 or int64, lie one behind the other, lengths
    [lists, size] has how many each list has, and those of a weighted block have weights for them.
    run_lengths [size] are the rows of each run, None where the part is sent once a row.
    """

    size: int
    run_lengths: Lengths | None
    singles: list[int]
    ids: Array
    lists: dict[int, Array]
    lengths: Lengths
    weights: dict[int, Weights]


class _Lists(NamedTuple):
    """Lists of some features: lengths [features, units], elements of each, and weights if any."""

    features: list[int]
    lengths: Lengths
    elements: list[Array]
    weights: list[Weights]


def sparse_parts(levels: Sequence[LevelColumns], rows: Indices) -> list[PartRows]:
    """The parts of a sparse block that holds the given rows [B] of a frame, in that order.

    docs/compact_batch.md defines them. Runs of the frame save work and change nothing.
    """
    count = len(rows)
    taken = [_LevelRows(level, rows) for level in levels]
    by_row = {f: level for level in taken for f in level.changed if 2 * level.changed[f] > count}
    found = [(f, level) for level in taken for f in level.changed if f not in by_row]
    found.sort(key=lambda entry: entry[0])
    parts = [_part(by_row, None, None)] if by_row else []
    # Where all have their runs from one structure, its runs are compared instead of rows.
    shared = found[0][1] if found and all(level is found[0][1] for _, level in found) else None
    masks = [level.changes[f] if shared else level.changed_rows(f) for f, level in found]
    for group in sorted(join_starts(masks), key=lambda group: min(group.members)):
        places = np.flatnonzero(group.starts)
        firsts = places if shared is None else shared.first_rows(places)
        members = dict(found[member] for member in group.members)
        run_lengths = np.empty(len(firsts), np.int32)
        np.subtract(firsts[1:], firsts[:-1], out=run_lengths[:-1], casting="same_kind")
        run_lengths[-1] = count - firsts[-1]
        parts.append(_part(members, firsts, run_lengths))
    return parts


class _LevelRows:
    """A level's values of a batch's rows. What its columns keep once, a row or a run, is a unit.

    ids (a matrix [features, units] for each dtype, with its features), lists and their weights are
    those of the batch's units. changed[f] of them differ from the one before, and changes[f] bool
    [units] says which, where they may be few enough to send runs.
    """

    def __init__(self, level: LevelColumns, rows: Indices) -> None:
        self._runs: RunRows | None = None
        most = len(rows) // 2
        if level.runs is not None:
            self._runs = run_rows(level.runs.inverse, rows)
            rows = self._runs.runs
        self.count = len(rows)
        self.ids: list[tuple[list[int], Array]] = []
        self.lists: list[_Lists] = []
        self.changes: dict[int, Mask] = {}
        self.changed: dict[int, int] = {}
        for features, columns in level.flats:
            ids = columns.gather(rows, most)
            self.ids.append((features, ids.values))
            self.changes |= zip(features, ids.changes, strict=True)
            self.changed |= zip(features, ids.changed.tolist(), strict=True)
        if level.optional_columns is not None:
            some = level.optional_columns.gather(rows)
            self.lists.append(_Lists(level.optional, some.lengths, [*some.values], []))
            self.changes |= zip(level.optional, some.changes, strict=True)
            self.changed |= zip(level.optional, some.changed.tolist(), strict=True)
        if level.list_columns is not None:
            lists, count = level.list_columns.gather(rows), len(level.listed)
            lengths, weights = _lengths(lists.offsets[:count]), lists.values[count:]
            changes, changed = lists.changes[:count], lists.changed[:count]
            if weights:
                changes = changes | lists.changes[count:]
                changed = np.count_nonzero(changes, axis=1)
            self.lists.append(_Lists(level.listed, lengths, lists.values[:count], weights))
            self.changes |= zip(level.listed, changes, strict=True)
            self.changed |= zip(level.listed, changed.tolist(), strict=True)

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
        # As many need not be each of them: a run that no member starts at may stand for another.
        return None if units is not None and are_all(units, self.count) else units


def _part(
    members: dict[int, _LevelRows], firsts: Indices | None, run_lengths: Lengths | None
) -> PartRows:
    """The part of some features; firsts are the rows of the batch that it sends, None for all."""
    ids: list[Array] = []
    singles: list[int] = []
    lists: dict[int, Array] = {}
    lengths: list[Lengths] = []
    weights: dict[int, Weights] = {}
    size = 0
    for rows in dict.fromkeys(members.values()):
        units = rows.units(firsts)
        size = rows.count if units is None else len(units)
        for features, matrix in rows.ids:
            numbers = [number for number, f in enumerate(features) if f in members]
            if numbers:
                singles += [features[number] for number in numbers]
                chosen = matrix if len(numbers) == len(matrix) else matrix[numbers]
                ids.append(chosen if units is None else chosen.take(units, axis=1))
        for each in rows.lists:
            numbers = [number for number, f in enumerate(each.features) if f in members]
            if numbers:
                chosen = (
                    each.lengths if len(numbers) == len(each.lengths) else each.lengths[numbers]
                )
                lengths.append(chosen if units is None else chosen.take(units, axis=1))
            for number in numbers:
                elements = each.elements[number]
                own: Array | None = each.weights[number] if each.weights else None
                if units is not None:
                    offsets = np.zeros(rows.count + 1, np.int64)
                    np.cumsum(each.lengths[number], out=offsets[1:])
                    elements = take_lists(offsets, elements, units)[1]
                    own = None if own is None else take_lists(offsets, own, units)[1]
                lists[each.features[number]] = elements
                if own is not None:
                    weights[each.features[number]] = own.view(np.float32)
    return PartRows(size, run_lengths, singles, _matrix(ids), lists, _matrix(lengths), weights)


def _matrix(parts: list[Array]) -> Array:
    """The rows of some matrices."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else _NONE


def _lengths(offsets: Indices) -> Lengths:
    """The lengths of lists by their offsets [features, N + 1]."""
    lengths = np.empty((offsets.shape[0], offsets.shape[1] - 1), np.int32)
    np.subtract(offsets[:, 1:], offsets[:, :-1], out=lengths, casting="same_kind")
    # Few blocks are so large that one list may be.
    if offsets[:, -1].max(initial=0) > MAX_LENGTH and np.diff(offsets).max() > MAX_LENGTH:
        raise OverflowError("a list has more than 2^31 - 1 elements; cut it with Tail")
    return lengths
