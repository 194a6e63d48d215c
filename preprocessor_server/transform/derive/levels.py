"""Columns of a Frame brought together: to the coarsest rows or runs that are exact for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessor_server.frame import Column, Frame, Mask, Runs, take_column

Inverse: TypeAlias = npt.NDArray[np.int32]


def bring_together(frame: Frame, names: Sequence[str]) -> tuple[list[Column], Inverse | None]:
    """The named columns at one level, and the inverse index that expands it; None for rows.

    Columns of rows make it the level of rows. Else its runs end where those of any of the columns
    do: where one run structure of the frame is like that, the index is that structure's own.
    """
    found = [frame.locate(name) for name in names]
    at_runs = [runs for _, runs in found if runs is not None]
    if len(at_runs) < len(found):
        return [_at_rows(column, runs) for column, runs in found], None
    level = at_runs[0]
    if all(runs is level for runs in at_runs):
        return [column for column, _ in found], level.inverse
    starts = np.zeros(frame.row_count, np.bool_)
    for runs in at_runs:
        starts |= _starts(runs.inverse)
    rows = np.flatnonzero(starts)
    for runs in frame.runs if len(rows) else ():
        if np.array_equal(starts, _starts(runs.inverse)):
            count = len(next(iter(runs.columns.values())))
            return [_at_runs(*each, runs.inverse, count, rows) for each in found], runs.inverse
    inverse = np.cumsum(starts, dtype=np.int32) - np.int32(1)
    return [_at_runs(*each, inverse, len(rows), rows) for each in found], inverse


def with_column(frame: Frame, name: str, column: Column, inverse: Inverse | None) -> Frame:
    """The frame with one more column: of rows, or of the runs that an inverse index leads to."""
    if inverse is None:
        return Frame(frame.row_count, {**frame.columns, name: column}, frame.runs)
    for i, runs in enumerate(frame.runs):
        if runs.inverse is inverse:
            wider = Runs(inverse, {**runs.columns, name: column})
            return Frame(
                frame.row_count, frame.columns, (*frame.runs[:i], wider, *frame.runs[i + 1 :])
            )
    return Frame(frame.row_count, frame.columns, (*frame.runs, Runs(inverse, {name: column})))


def _starts(inverse: Inverse) -> Mask:
    """Where a run starts, bool [rows]; the first row: True."""
    starts = np.ones(len(inverse), np.bool_)
    np.not_equal(inverse[1:], inverse[:-1], out=starts[1:])
    return starts


def _at_rows(column: Column, runs: Runs | None) -> Column:
    return column if runs is None else take_column(column, runs.inverse.astype(np.int64))


def _at_runs(
    column: Column, runs: Runs | None, inverse: Inverse, count: int, rows: npt.NDArray[np.int64]
) -> Column:
    """A column kept by runs, by the count finer ones of an inverse index, which start at rows."""
    assert runs is not None
    if runs.inverse is inverse:
        return column
    # Those of no row may have any value.
    places = np.zeros(count, np.int64)
    places[inverse[rows]] = runs.inverse[rows]
    return take_column(column, places)
