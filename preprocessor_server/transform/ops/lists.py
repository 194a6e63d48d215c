"""Operations on lists that look at places, not at values."""

from __future__ import annotations

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import (
    Bytes,
    Column,
    Flat,
    Indices,
    Jagged,
    Mask,
    Opaque,
    Scalars,
    take_column,
)
from preprocessor_server.kernels import copy_tails, tail
from preprocessor_server.transform.column_type import BYTES, ColumnType
from preprocessor_server.transform.from_arrow import as_bytes
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import (
    CAST_FIRST,
    ColumnOp,
    Rule,
    UnfitError,
    no_such_value,
    nothing_to_check,
)
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.scalar import as_number, exact_bytes

MAX_COUNT = (1 << 31) - 1
MAX_PAD = 1 << 16
_INT64 = np.dtype(np.int64)


def take_lists_only(column: ColumnType, name: str) -> None:
    """Raises UnfitError for a column of single values."""
    if not column.is_list:
        raise UnfitError(f"{name} takes lists; leave it out")


def offsets_of(lengths: Indices) -> Indices:
    """The offsets int64 [n + 1] of lists of the given lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions(offsets: Indices) -> Indices:
    """The number of each element in its list, from 0: int64 [offsets[n]]."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def elements_of(values: Scalars, elements: Indices) -> Scalars:
    """The values at the given places, in that order."""
    taken = take_column(values, elements)
    assert not isinstance(taken, Jagged)
    return taken


def keep_elements(lists: Jagged, keep: Mask) -> Jagged:
    """The lists with the elements for which keep [offsets[n]] is true, in their order."""
    if keep.all():
        return lists
    before = offsets_of(keep.astype(np.int64))
    return Jagged(before[lists.offsets], elements_of(lists.values, np.flatnonzero(keep)))


def _tail(op: dataset_pb2.Tail, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "Tail")
    count = op.count

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        return _ranges(values, values.offsets, tail(values.offsets, count))

    return run, column


def _head(op: dataset_pb2.Head, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "Head")
    count = op.count

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        offsets = tail(values.offsets, count)
        return _ranges(values, _ends(values.offsets[:-1] + np.diff(offsets)), offsets)

    return run, column


def _slice(op: dataset_pb2.Slice, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "Slice")
    start, stop = op.start, op.stop if op.HasField("stop") else None

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        lengths = np.diff(values.offsets)
        first = _bound(start, lengths)
        last = lengths if stop is None else _bound(stop, lengths)
        kept = np.maximum(last - first, 0)
        # Of an empty range the end may lie before its start, but within its list.
        return _ranges(values, _ends(values.offsets[:-1] + last), offsets_of(kept))

    return run, column


def _bound(bound: int, lengths: Indices) -> Indices:
    """Where a slice's bound falls in lists of the given lengths."""
    place = np.minimum(lengths, bound) if bound >= 0 else np.maximum(lengths + bound, 0)
    return place.astype(np.int64, copy=False)


def _ends(ends: Indices) -> Indices:
    """Ends of ranges as offsets whose lists end there."""
    return np.concatenate([np.zeros(1, np.int64), ends])


def _ranges(lists: Jagged, ends: Indices, offsets: Indices) -> Jagged:
    """Lists of the lengths that offsets say, of which list i ends before element ends[i + 1]."""
    if offsets[-1] == lists.offsets[-1]:
        return lists
    values = lists.values
    if isinstance(values, Opaque):
        kept = np.diff(offsets)
        elements = np.arange(offsets[-1]) + np.repeat(ends[1:] - offsets[1:], kept)
        return Jagged(offsets, elements_of(values, elements))
    valid = values.valid
    if valid is not None:
        valid = copy_tails(ends, valid, offsets).view(np.bool_)
    if isinstance(values, Flat):
        return Jagged(offsets, Flat(copy_tails(ends, values.values, offsets), valid))
    # The strings of a range lie side by side, so its bytes are a range too.
    byte_ends = values.offsets[ends[1:]]
    byte_counts = byte_ends - values.offsets[ends[1:] - np.diff(offsets)]
    data = copy_tails(_ends(byte_ends), values.data, offsets_of(byte_counts)).view(np.uint8)
    lengths = copy_tails(ends, np.diff(values.offsets), offsets).view(np.int64)
    return Jagged(offsets, Bytes(offsets_of(lengths), data, valid))


def _list_length(_: dataset_pb2.ListLength, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "ListLength")

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        return Flat(np.diff(values.offsets))

    return run, column.element().of(_INT64)


def _enumerate(_: dataset_pb2.Enumerate, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "Enumerate")

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        return Jagged(values.offsets, Flat(positions(values.offsets)))

    return run, column.of(_INT64)


def _pad(op: dataset_pb2.Pad, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "Pad")
    length = op.length
    padding: Scalars
    if column.family in BYTES:
        text = exact_bytes(op.value)
        if text is None:
            raise UnfitError(no_such_value("the value", op.value, column))
        padding = Bytes(np.array([0, len(text)]), np.frombuffer(text, np.uint8))
    elif column.dtype is None:
        raise UnfitError(f"Pad takes lists of numbers, booleans and strings; {CAST_FIRST}")
    else:
        number = as_number(op.value, column.dtype)
        if number is None:
            raise UnfitError(no_such_value("the value", op.value, column))
        padding = Flat(np.array([number], column.dtype))

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        lengths = np.diff(values.offsets)
        offsets = offsets_of(np.maximum(lengths, length))
        if offsets[-1] == values.offsets[-1]:
            return values
        places = np.arange(values.offsets[-1]) + np.repeat(
            offsets[:-1] - values.offsets[:-1], lengths
        )
        return Jagged(offsets, _spread(values.values, places, int(offsets[-1]), padding))

    return run, column


def _spread(values: Scalars, places: Indices, count: int, padding: Scalars) -> Scalars:
    """The values [n] at the given places [n] of count ones, with padding everywhere else."""
    if isinstance(values, Flat):
        assert isinstance(padding, Flat)
        spread = np.full(count, padding.values[0], values.values.dtype)
        spread[places] = values.values
        if values.valid is None:
            return Flat(spread)
        valid = np.ones(count, np.bool_)
        valid[places] = values.valid
        return Flat(spread, valid)
    values = as_bytes(values)
    assert isinstance(padding, Bytes)
    # The padding becomes one more value, behind the last.
    both = Bytes(
        np.append(values.offsets, values.offsets[-1] + len(padding.data)),
        np.concatenate([values.data[: values.offsets[-1]], padding.data]),
        None if values.valid is None else np.append(values.valid, True),
    )
    elements = np.full(count, len(values))
    elements[places] = np.arange(len(values))
    return elements_of(both, elements)


def check_count(
    op: dataset_pb2.Tail | dataset_pb2.Head | dataset_pb2.Sample | dataset_pb2.TopK, path: str
) -> None:
    """Raises DatasetError for a message whose count is out of range."""
    if not 1 <= op.count <= MAX_COUNT:
        raise invalid(
            f"{path}.count",
            f"count is {op.count:,}; it lies between 1 and {MAX_COUNT:,} (2^31 - 1)",
        )


def _check_slice(op: dataset_pb2.Slice, path: str) -> None:
    if not op.HasField("stop"):
        return
    alike = (op.start < 0) == (op.stop < 0)
    if op.stop == 0 or (alike and op.start >= op.stop):
        raise invalid(
            path, f"[{op.start}:{op.stop}] leaves nothing of any list; put stop behind start"
        )


def _check_pad(op: dataset_pb2.Pad, path: str) -> None:
    if not 1 <= op.length <= MAX_PAD:
        raise invalid(
            f"{path}.length",
            f"length is {op.length:,}; it lies between 1 and {MAX_PAD:,} (2^16)",
        )
    if op.value.WhichOneof("value") is None:
        raise invalid(f"{path}.value", "Pad has no value; give one")


RULES = {
    "tail": Rule(_tail, check_count),
    "head": Rule(_head, check_count),
    "slice": Rule(_slice, _check_slice),
    "list_length": Rule(_list_length, nothing_to_check),
    "pad": Rule(_pad, _check_pad),
    "enumerate": Rule(_enumerate, nothing_to_check),
}
