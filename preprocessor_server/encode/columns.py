"""The columns of a block as kernels gather them: looked up once a Frame, not once a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocessor_server.frame import Array, Flat, Frame, Jagged, OptionalIds, Runs
from preprocessor_server.kernels import Columns, ListColumns, OptionalColumns


class LevelColumns(NamedTuple):
    """The features of a block whose columns a Frame keeps alike: in runs, or (None) once a row.

    Features are numbers in the block: flats those with one value a row or run, by dtype, optional
    those with at most one, listed those with a list. In a weighted block each is listed, and the
    columns of weights follow those of ids.
    """

    runs: Runs | None
    flats: list[tuple[list[int], Columns]]
    optional: list[int]
    optional_columns: OptionalColumns | None
    listed: list[int]
    list_columns: ListColumns | None


def levels_of(frame: Frame, names: Sequence[str]) -> list[LevelColumns]:
    """The levels of a block with the given features."""
    members: dict[int, dict[int, Flat | Jagged]] = {}
    runs_of: dict[int, Runs | None] = {}
    for f, name in enumerate(names):
        column, runs = frame.locate(name)
        assert isinstance(column, Flat | Jagged)
        members.setdefault(id(runs), {})[f] = column
        runs_of[id(runs)] = runs
    return [_level(runs, members[key]) for key, runs in runs_of.items()]


def _level(runs: Runs | None, columns: dict[int, Flat | Jagged]) -> LevelColumns:
    by_dtype: dict[str, dict[int, Array]] = {}
    lists, weights = {}, []
    optional: dict[int, npt.NDArray[np.int32]] = {}
    for f, column in columns.items():
        if isinstance(column, OptionalIds):
            optional[f] = column.values
        elif isinstance(column, Flat):
            by_dtype.setdefault(column.values.dtype.str, {})[f] = column.values
        else:
            assert isinstance(column.values, Flat)
            lists[f] = (column.offsets, column.values.values)
            if column.weights is not None:
                weights.append((column.offsets, column.weights))
    return LevelColumns(
        runs,
        [(list(flats), Columns(list(flats.values()))) for flats in by_dtype.values()],
        list(optional),
        OptionalColumns(list(optional.values())) if optional else None,
        list(lists),
        ListColumns([*lists.values(), *weights]) if lists else None,
    )
