"""The last step of every feature: to the dtype and the form that a trainer gets."""

from __future__ import annotations

import numpy as np

from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.kernels import keep_valid
from preprocessor_server.transform.cast import cast_numbers
from preprocessor_server.transform.column_type import BYTES, OPAQUE, ColumnType, Family
from preprocessor_server.transform.ops.base import ColumnOp, UnfitError
from preprocessor_server.transform.place import Place

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)


def deliver_numbers(column: ColumnType, what: str) -> ColumnOp:
    """To one float32 a row, rounded to nearest; a null is an error. what names the feature's kind.

    Raises UnfitError for lists and for what is no number.
    """
    if column.is_list:
        raise UnfitError(
            f"{what} takes one number a row; make one of each list with ListAggregate, make the "
            "lists a sparse feature or, if they hold one element a row, name the column in the "
            "source's rows"
        )
    if column.family in OPAQUE or column.family in BYTES:
        raise UnfitError(f"{what} takes numbers and booleans; put a Cast to float32 before it")

    def run(values: Column, place: Place) -> Column:
        assert isinstance(values, Flat)
        if values.valid is not None:
            place.refuse(~values.valid, "NULL_VALUE", f"nulls reach {what}", "add FillNull")
        return Flat(cast_numbers(values.values, _FLOAT32)[0])

    return run


def deliver_ids(column: ColumnType) -> ColumnOp:
    """To ids, int64 or int32: one a row, or a list of them; a null is an empty list.

    A null element of a list is an error.
    Raises UnfitError for what is neither integer nor boolean.
    """
    if column.family in BYTES:
        raise UnfitError(
            "a sparse feature takes integers; put a HashBucket or a Vocabulary before it"
        )
    if column.family in OPAQUE or column.family is Family.FLOAT:
        raise UnfitError("a sparse feature takes integers; put a Cast to int64 before it")

    def run(values: Column, place: Place) -> Column:
        if isinstance(values, Jagged):
            elements = values.values
            assert isinstance(elements, Flat)
            place = place.within(values.offsets)
            if elements.valid is not None:
                place.refuse(
                    ~elements.valid,
                    "NULL_VALUE",
                    "null elements reach a sparse feature",
                    "add FillNull",
                )
            return Jagged(values.offsets, _ids(elements, place))
        assert isinstance(values, Flat)
        ids = _ids(values, place)
        if values.valid is None:
            return ids
        offsets, kept = keep_valid(values.valid, ids.values)
        return Jagged(offsets, Flat(kept))

    return run


def _ids(values: Flat, place: Place) -> Flat:
    if values.values.dtype == np.int32:
        # The same ids in half the memory; a trainer gets int64 all the same.
        return Flat(values.values)
    ids, bad = cast_numbers(values.values, _INT64)
    if values.valid is not None and bad is not None:
        bad &= values.valid
    place.refuse(
        bad, "VALUE_OUT_OF_RANGE", "ids are above 2^63 - 1", "add HashBucket, which takes them"
    )
    return Flat(ids)
