"""Weights of the ids of sparse features: bound to their columns, and kept beside the ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column, Flat, Frame, Jagged, as_lists
from preprocessor_server.transform.blocks import Output, Weights
from preprocessor_server.transform.column_type import BYTES, OPAQUE, ColumnType, Family, column_type
from preprocessor_server.transform.derive.aligned import align, rejoin
from preprocessor_server.transform.derive.levels import Inverse, bring_together
from preprocessor_server.transform.invalid import invalid, name_fault, shorten
from preprocessor_server.transform.ops import compile_op, null_typed
from preprocessor_server.transform.ops.base import ColumnOp, UnfitError
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.rounding import round_numbers

# Operations that look at places in a list, not at elements: weights go through them like ids.
CUTTING = frozenset({"tail", "head", "slice"})
# Operations that make one element of each, in its place.
KEEPING = frozenset(
    {
        "fill_null",
        "log1p",
        "clip",
        "cast",
        "hash_bucket",
        "logit",
        "box_cox",
        "normalize",
        "min_max",
        "bucketize",
        "date_parts",
        "positive_modulus",
        "map_id",
        "vocabulary",
        "enumerate",
        "fit_fill_null",
        "fit_normalize",
        "fit_min_max",
        "fit_bucketize",
        "fit_vocabulary",
    }
)
_FILL = "fill them in the files, in derive or in a function (udfs)"


def weights_faults(part: dataset_pb2.SparseFeature, path: str) -> Iterator[DatasetError]:
    """What is wrong with a feature that has weights, whatever the columns."""
    if len(part.columns) > 1:
        yield weights_of_several(part.columns, part.weights, path)
    for index, op in enumerate(part.ops):
        name = op.WhichOneof("op")
        if name is None or name in CUTTING | KEEPING:
            continue
        yield invalid(
            f"{path}.ops[{index}]",
            f"{type(getattr(op, name)).__name__} orders the ids of a list, adds some or leaves "
            f"some out, and the weights of {part.weights!r} would no longer be theirs; make both "
            "lists so in derive (Mask and TopK choose elements by another list) or in a function "
            "(udfs), or leave out one of the two",
        )


def weights_of_several(columns: Sequence[str], weights: str, path: str) -> DatasetError:
    """The error for one column of weights beside several columns of ids."""
    shown = ", ".join(map(repr, columns[:3])) + (", …" if len(columns) > 3 else "")
    return invalid(
        f"{path}.weights",
        f"the feature has {len(columns)} columns ({shown}), and {weights!r} has the weights of "
        "one; make a feature of each, with its weights",
    )


def bind_weights(
    part: dataset_pb2.SparseFeature, path: str, name: str, ids: ColumnType, schema: pa.Schema
) -> Weights:
    """The weights of a feature that weights_faults has let through; ids is its column's type.

    Raises DatasetError: FEATURE_UNMATCHED, DATASET_INVALID or TYPE_UNFIT.
    """
    field, column = f"{path}.weights", part.weights
    fault = name_fault(field, column, schema.names)
    if fault is not None:
        raise fault
    arrow = schema.field(column).type
    kind = column_type(arrow)
    known = kind or ColumnType(Family.BINARY, None, False, str(arrow))
    try:
        return Weights(column, tuple(_steps(part, known, ids, path)))
    except UnfitError as error:
        raise DatasetError(
            "TYPE_UNFIT",
            f"feature {name!r} ({shorten(field)}): column {column!r} is {known.name}; {error}",
            field=field,
        ) from error


def _steps(
    part: dataset_pb2.SparseFeature, column: ColumnType, ids: ColumnType, path: str
) -> Iterator[ColumnOp]:
    """From the column of weights to float32."""
    if column.family in BYTES | OPAQUE:
        raise UnfitError("weights are numbers or booleans; make numbers of it in derive or udfs")
    if column.is_list != ids.is_list:
        wanted = "a list of numbers a row" if ids.is_list else "one number a row"
        raise UnfitError(f"the ids are {ids.name}, so their weights are {wanted}; name such a one")
    if column.family is Family.NULL:
        step, column = null_typed(column, np.dtype(np.float32))
        yield step
    for index, op in enumerate(part.ops):
        if op.WhichOneof("op") in CUTTING:
            step, column = compile_op(op, column, f"{path}.ops[{index}]")
            yield step
    yield _float32(part.weights)


def _float32(column: str) -> ColumnOp:
    """To float32, rounded to nearest; a null element of a list is an error."""

    def run(values: Column, place: Place) -> Column:
        elements = values.values if isinstance(values, Jagged) else values
        assert isinstance(elements, Flat)
        numbers, _ = round_numbers(elements.values, dataset_pb2.SCALAR_TYPE_FLOAT32)
        if not isinstance(values, Jagged):
            return Flat(numbers, elements.valid)
        if elements.valid is not None:
            what = f"null elements in the lists of column {column!r}, its weights"
            place.within(values.offsets).refuse(~elements.valid, "NULL_VALUE", what, _FILL)
        return Jagged(values.offsets, Flat(numbers))

    return run


def with_weights(output: Output, frame: Frame) -> tuple[Jagged, Inverse | None]:
    """A weighted feature of a frame's rows or of runs that are exact for ids and weights.

    The inverse index expands it, None for rows. Raises DataError as Transform.apply.
    """
    assert output.weights is not None
    columns, inverse = bring_together(frame, output.columns)
    place = Place(output.place, inverse)
    offsets, values = align(columns, output.columns, place)
    ids, weights = (rejoin(offsets, each) for each in values)
    for step in output.steps:
        ids = step(ids, place)
    for step in output.weights.steps:
        weights = step(weights, place)
    lists = as_lists(ids)
    if isinstance(weights, Jagged):
        numbers = weights.values
        assert isinstance(numbers, Flat)
        return Jagged(lists.offsets, lists.values, numbers.values), inverse
    assert isinstance(weights, Flat)
    # One id a row, or none where it is null.
    has_id = np.diff(lists.offsets) > 0
    if weights.valid is not None:
        what = f"nulls in column {output.weights.column!r}, its weights"
        place.refuse(has_id & ~weights.valid, "NULL_VALUE", what, _FILL)
    return Jagged(lists.offsets, lists.values, weights.values[has_id]), inverse
