"""Columns taken element by element: lists of one length, and single values beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessor_server.errors import DataError
from preprocessor_server.frame import Column, Indices, Jagged, Mask, Scalars
from preprocessor_server.transform.ops.lists import elements_of, keep_elements
from preprocessor_server.transform.place import Place


def align(
    columns: Sequence[Column], names: Sequence[str], place: Place
) -> tuple[Indices | None, list[Scalars]]:
    """The offsets of the lists, None if there are none, and of each column a value an element.

    Raises DataError (LISTS_UNEVEN) that names two columns and a row in which their lists differ
    in length; a run that no row refers to is left empty then.
    """
    lists = [i for i, column in enumerate(columns) if isinstance(column, Jagged)]
    if not lists:
        return None, [_single(column) for column in columns]
    lengths = [np.diff(_lists(columns[i]).offsets) for i in lists]
    uneven = np.zeros(len(lengths[0]), np.bool_)
    for i, other in zip(lists[1:], lengths[1:], strict=True):
        differs = other != lengths[0]
        _refuse(differs, (names[lists[0]], names[i]), (lengths[0], other), place)
        uneven |= differs
    if uneven.any():
        columns = [_without(column, uneven) for column in columns]
    offsets = _lists(columns[lists[0]]).offsets
    rows = None
    values = []
    for column in columns:
        if isinstance(column, Jagged):
            values.append(column.values)
            continue
        if rows is None:
            rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        values.append(elements_of(column, rows))
    return offsets, values


def rejoin(offsets: Indices | None, values: Scalars) -> Column:
    """A column of values, or of lists with these offsets."""
    return values if offsets is None else Jagged(offsets, values)


def _refuse(
    differs: Mask, names: tuple[str, str], lengths: tuple[Indices, Indices], place: Place
) -> None:
    rows = differs if place.inverse is None else differs[place.inverse]
    if not rows.any():
        return
    row = int(np.argmax(rows))
    at = row if place.inverse is None else place.inverse[row]
    raise DataError(
        "LISTS_UNEVEN",
        f"{place.feature}: the lists of columns {names[0]!r} and {names[1]!r} differ in length in "
        f"{np.count_nonzero(rows):,} rows, first at row {row} of the split, where they have "
        f"{lengths[0][at]:,} and {lengths[1][at]:,} elements; correct the data, or name columns "
        "whose lists belong together",
    )


def _without(column: Column, rows: Mask) -> Column:
    """A column whose lists are empty in some rows."""
    if not isinstance(column, Jagged):
        return column
    return keep_elements(column, np.repeat(~rows, np.diff(column.offsets)))


def _lists(column: Column) -> Jagged:
    assert isinstance(column, Jagged)
    return column


def _single(column: Column) -> Scalars:
    assert not isinstance(column, Jagged)
    return column
