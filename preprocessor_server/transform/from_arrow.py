"""Arrow arrays to columns, without copies where the layouts agree.

Copied are: bitmaps (to one byte a value), 32-bit offsets (to 64 bits), dictionaries other than of
strings (decoded), chunks (joined), and lists where a null one holds elements (which are left out).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.frame import Bytes, Column, Flat, Indices, Jagged, Mask, Opaque, Scalars
from preprocessor_server.transform.column_type import BYTES, OPAQUE, Family, column_type

_WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def arrow_to_column(array: pa.Array | pa.ChunkedArray) -> Column:
    """The column of an Arrow array: values, strings, or lists of these.

    Numbers and booleans become Flat of the same width (a null type Flat of int64, all null),
    strings and binary Bytes, or Opaque where they are a dictionary, decimals and times Opaque,
    lists Jagged. Raises TypeError for types that column_type() does not know.
    """
    if isinstance(array, pa.ChunkedArray):
        chunks = array.chunks or [pa.nulls(0, array.type)]
        if len(chunks) > 1:
            return _join([arrow_to_column(chunk) for chunk in chunks])
        array = chunks[0]
    if pa.types.is_fixed_size_list(array.type):
        return _fixed_size_lists(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _lists(array)
    return _scalars(array)


def as_bytes(values: Scalars) -> Bytes:
    """Strings or binary values, as arrow_to_column makes them, without a dictionary."""
    if isinstance(values, Opaque):
        # With 64-bit offsets: few distinct values may be of many bytes.
        distinct = values.array.dictionary.cast(pa.large_binary())
        coded = pa.DictionaryArray.from_arrays(values.array.indices, distinct)
        values = _scalars(coded.dictionary_decode())
    assert isinstance(values, Bytes)
    return values


def bytes_to_arrow(column: Bytes) -> pa.Array:
    """The same byte strings as an Arrow large_binary array, without copies but for the validity."""
    null_count = 0 if column.valid is None else len(column) - int(np.count_nonzero(column.valid))
    validity = None
    if column.valid is not None:
        validity = pa.py_buffer(np.packbits(column.valid, bitorder="little"))
    buffers = [
        validity,
        pa.py_buffer(np.ascontiguousarray(column.offsets)),
        pa.py_buffer(column.data),
    ]
    return pa.Array.from_buffers(pa.large_binary(), len(column), buffers, null_count)


def _join(columns: Sequence[Column]) -> Column:
    """The rows of columns of one type, one after the other.

    Not left to Arrow: it would have to give the chunks one dictionary first, and 64-bit offsets.
    """
    lists = [column for column in columns if isinstance(column, Jagged)]
    if lists:
        joined = _join_scalars([column.values for column in lists])
        return Jagged(_join_offsets([column.offsets for column in lists]), joined)
    return _join_scalars([column for column in columns if not isinstance(column, Jagged)])


def _join_scalars(columns: Sequence[Scalars]) -> Scalars:
    opaque = [column.array for column in columns if isinstance(column, Opaque)]
    if opaque and pa.types.is_dictionary(opaque[0].type):
        columns = [as_bytes(column) for column in columns]
    elif opaque:
        return Opaque(pa.concat_arrays(opaque))
    valid = None
    masks = [column.valid for column in columns if isinstance(column, (Flat, Bytes))]
    if any(mask is not None for mask in masks):
        valid = np.concatenate(
            [
                np.ones(len(column), np.bool_) if mask is None else mask
                for column, mask in zip(columns, masks, strict=True)
            ]
        )
    flats = [column.values for column in columns if isinstance(column, Flat)]
    if flats:
        return Flat(np.concatenate(flats), valid)
    strings = [column for column in columns if isinstance(column, Bytes)]
    data = [column.data[column.offsets[0] : column.offsets[-1]] for column in strings]
    offsets = _join_offsets([column.offsets for column in strings])
    return Bytes(offsets, np.concatenate(data), valid)


def _join_offsets(parts: Sequence[Indices]) -> Indices:
    lengths = [np.diff(offsets) for offsets in parts]
    offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return offsets


def _scalars(array: pa.Array) -> Scalars:
    kind = column_type(array.type)
    if kind is None or kind.is_list:
        raise TypeError(f"no column can be made of {array.type}")
    if pa.types.is_dictionary(array.type):
        if kind.family in BYTES and array.dictionary.null_count == 0:
            return Opaque(array)
        array = array.dictionary_decode()
    if kind.family in OPAQUE:
        return Opaque(array)
    if kind.family is Family.NULL:
        return Flat(np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_))
    if kind.family in BYTES:
        return _bytes(array, kind.family)
    assert kind.dtype is not None
    if kind.family is Family.BOOLEAN:
        return Flat(_bits(array.buffers()[1], array.offset, len(array)), _valid(array))
    return Flat(_numbers(array.buffers()[1], kind.dtype, array.offset, len(array)), _valid(array))


def _bytes(array: pa.Array, family: Family) -> Bytes:
    large = pa.large_string() if family is Family.TEXT else pa.large_binary()
    narrow = pa.types.is_string(array.type) or pa.types.is_binary(array.type)
    if not narrow and array.type != large:
        array = array.cast(large)
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = _offsets(offsets_buffer, np.dtype(np.int32 if narrow else np.int64), array)
    data = np.frombuffer(data_buffer or b"", np.uint8)
    return Bytes(offsets, data, _valid(array))


def _lists(array: pa.Array) -> Jagged:
    offset_type = np.dtype(np.int32 if pa.types.is_list(array.type) else np.int64)
    offsets = _offsets(array.buffers()[1], offset_type, array)
    valid = _valid(array)
    first, last = int(offsets[0]), int(offsets[-1])
    return _jagged(offsets - first, array.values.slice(first, last - first), valid)


def _fixed_size_lists(array: pa.Array) -> Jagged:
    size = array.type.list_size
    offsets = np.arange(len(array) + 1, dtype=np.int64) * size
    values = array.values.slice(array.offset * size, len(array) * size)
    return _jagged(offsets, values, _valid(array))


def _jagged(offsets: Indices, values: pa.Array, valid: Mask | None) -> Jagged:
    """Lists, where null ones may have a range that is not empty."""
    if valid is not None:
        lengths = np.diff(offsets)
        if np.any(lengths[~valid]):
            if wide := _WITHOUT_VIEWS.get(values.type):
                # Views are what Arrow does not filter.
                values = values.cast(wide)
            values = values.filter(pa.array(np.repeat(valid, lengths)))
            lengths[~valid] = 0
            offsets = np.zeros(len(lengths) + 1, np.int64)
            np.cumsum(lengths, out=offsets[1:])
    return Jagged(offsets, _scalars(values))


def _offsets(buffer: pa.Buffer | None, dtype: np.dtype[np.generic], array: pa.Array) -> Indices:
    if buffer is None or buffer.size == 0:
        # Arrow lets an empty array do without its one offset.
        return np.zeros(1, np.int64)
    return _numbers(buffer, dtype, array.offset, len(array) + 1).astype(np.int64, copy=False)


def _numbers(
    buffer: pa.Buffer | None, dtype: np.dtype[np.generic], offset: int, count: int
) -> npt.NDArray[np.generic]:
    if buffer is None or count == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(buffer, dtype, count, offset * dtype.itemsize)


def _valid(array: pa.Array) -> Mask | None:
    if array.null_count == 0:
        return None
    return _bits(array.buffers()[0], array.offset, len(array))


def _bits(buffer: pa.Buffer | None, offset: int, count: int) -> Mask:
    if buffer is None or count == 0:
        return np.zeros(0, np.bool_)
    first = offset // 8
    words = np.frombuffer(buffer, np.uint8, -(-(offset + count) // 8) - first, first)
    bits = np.unpackbits(words, bitorder="little")[offset % 8 :][:count]
    return bits.view(np.bool_)
