"""The last step of every feature: to the dtype and the form that a trainer gets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Jagged, OptionalIds
from preprocessor_server.kernels import ids_of_lists, ids_of_valid, keep_valid
from preprocessor_server.transform.blocks import Kind
from preprocessor_server.transform.cast import cast, cast_numbers
from preprocessor_server.transform.column_type import BYTES, OPAQUE, ColumnType, Family
from preprocessor_server.transform.ops.base import ColumnOp, UnfitError
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.rounding import number_dtype, round_numbers

_INT64 = np.dtype(np.int64)
_INT32 = np.dtype(np.int32)

_TITLES: dict[Kind, str] = {"dense": "a dense feature", "label": "a label"}


def deliver(kind: Kind, column: ColumnType, dtype: dataset_pb2.ScalarType) -> ColumnOp:
    """What makes a feature of a kind, in its block's dtype, of a column of a type.

    Raises UnfitError if nothing does.
    """
    if kind == "sparse":
        return _deliver_ids(column, dtype)
    if kind == "meta":
        return _deliver_meta(column)
    return _deliver_numbers(column, _TITLES[kind], dtype)


def _deliver_numbers(column: ColumnType, what: str, dtype: dataset_pb2.ScalarType) -> ColumnOp:
    """To one number a row, rounded to nearest; a null is an error. what names the feature's kind.

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
        numbers, beyond = round_numbers(values.values, dtype)
        # The values of nulls that no row refers to are unspecified.
        place.refuse(
            beyond if values.valid is None or beyond is None else beyond & values.valid,
            "VALUE_OUT_OF_RANGE",
            f"numbers are beyond the range of {_dtype_name(dtype)}",
            "add Clip, Log1p or Normalize, or give the block a wider dtype",
        )
        return Flat(numbers)

    return run


def deliver_classes(count: int, dtype: dataset_pb2.ScalarType) -> Callable[[Column], list[Flat]]:
    """What makes count features, in a block's dtype, of classes from 0 to count - 1, or of lists.

    Feature i is 1 in the rows that hold class i, else 0; null is no class.
    """
    kept = number_dtype(dtype)

    def run(values: Column) -> list[Flat]:
        if isinstance(values, Jagged):
            classes = values.values
            rows = np.repeat(np.arange(len(values)), np.diff(values.offsets))
        else:
            classes, rows = values, np.arange(len(values))
        assert isinstance(classes, Flat)
        held = classes.values
        if classes.valid is not None:
            held, rows = held[classes.valid], rows[classes.valid]
        matrix = np.zeros((count, len(values)), kept)
        # One index for each is twice as fast as one for either axis.
        matrix.reshape(-1)[held * len(values) + rows] = 1
        return [Flat(feature) for feature in matrix]

    return run


def _deliver_meta(column: ColumnType) -> ColumnOp:
    """To one int64 a row, exactly; a null is an error.

    Raises UnfitError for lists, and for what is neither integer, boolean nor time.
    """
    if column.is_list:
        raise UnfitError(
            "a meta column holds one integer a row; make one of each list with ListAggregate, or "
            "make the lists a sparse feature"
        )
    if column.family in BYTES:
        raise UnfitError(
            "a meta column takes integers and times; put a Cast to int64 before it if the strings "
            "spell integers, else a HashBucket or a Vocabulary"
        )
    if column.family in {Family.DECIMAL, Family.FLOAT}:
        raise UnfitError("a meta column takes integers and times; put a Cast to int64 before it")

    def run(values: Column, place: Place) -> Column:
        assert not isinstance(values, Jagged)
        numbers, bad = cast(values, column, _INT64)
        if numbers.valid is not None:
            place.refuse(~numbers.valid, "NULL_VALUE", "nulls reach a meta column", "add FillNull")
        place.refuse(
            bad, "VALUE_OUT_OF_RANGE", "integers are above 2^63 - 1", "add PositiveModulus or Clip"
        )
        return Flat(numbers.values)

    return run


def _deliver_ids(column: ColumnType, dtype: dataset_pb2.ScalarType) -> ColumnOp:
    """To ids, int64 or int32: one a row, at most one, or a list of them; a null is an empty list.

    They are int32 for INT32. A null element of a list is an error.
    Raises UnfitError for what is neither integer nor boolean.
    """
    if column.family in BYTES:
        raise UnfitError(
            "a sparse feature takes integers; put a HashBucket or a Vocabulary before it"
        )
    if column.family in OPAQUE or column.family is Family.FLOAT:
        raise UnfitError("a sparse feature takes integers; put a Cast to int64 before it")
    ids_of = _narrow_ids if dtype == dataset_pb2.SCALAR_TYPE_INT32 else _ids

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
            ids = ids_of(elements, place).values
            if ids.dtype == np.int32 and len(ids) <= len(values):
                narrow = ids_of_lists(values.offsets, ids)
                if narrow is not None:
                    return OptionalIds(narrow)
            return Jagged(values.offsets, Flat(ids))
        assert isinstance(values, Flat)
        found = ids_of(values, place)
        if values.valid is None:
            return found
        if found.values.dtype == np.int32:
            narrow = ids_of_valid(values.valid, found.values)
            if narrow is not None:
                return OptionalIds(narrow)
        offsets, kept = keep_valid(values.valid, found.values)
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


def _narrow_ids(values: Flat, place: Place) -> Flat:
    ids, bad = cast_numbers(values.values, _INT32)
    if values.valid is not None and bad is not None:
        bad &= values.valid
    place.refuse(
        bad,
        "VALUE_OUT_OF_RANGE",
        "ids do not fit int32",
        "add HashBucket or PositiveModulus, or leave the block int64",
    )
    return Flat(ids)


def _dtype_name(dtype: dataset_pb2.ScalarType) -> str:
    return dataset_pb2.ScalarType.Name(dtype).removeprefix("SCALAR_TYPE_").lower()
