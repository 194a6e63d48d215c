"""Which column chunks may be decoded here, by what the footer says; Arrow decodes the others."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.source.leaves import Leaf

_STRINGS, _HALVES = "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"
# Arrow's types, by the physical types that hold nothing but them.
_TYPES: dict[str, frozenset[pa.DataType]] = {
    "INT32": frozenset({pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()}),
    "INT64": frozenset({pa.int64(), pa.uint64()}),
    "FLOAT": frozenset({pa.float32()}),
    "DOUBLE": frozenset({pa.float64()}),
    _HALVES: frozenset({pa.float16()}),
    _STRINGS: frozenset({pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}),
}
_PHYSICAL: dict[str, np.dtype[Any]] = {
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FLOAT": np.dtype(np.float32),
    "DOUBLE": np.dtype(np.float64),
    _HALVES: np.dtype(np.float16),
    # Of a string its code.
    _STRINGS: np.dtype(np.int32),
}
# RLE is how levels are written; so is BIT_PACKED, which files name that have none written so.
_ENCODINGS = frozenset({"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"})
_CODES = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
UNCOMPRESSED = "UNCOMPRESSED"
# Of others, nobody says how many bytes come out.
_CODECS = frozenset({"ZSTD", "SNAPPY", "GZIP"})
_MAX_VALUES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class LeafForm:
    """A leaf that may be decoded here: what its column is in Arrow.

    type is the column's, nullable whether that may be null; element_nullable says whether its
    elements may, None if it is no list. dtype is that of a value, of strings that of their codes;
    physical_type is what Parquet keeps values as.
    """

    index: int
    path: str
    type: pa.DataType
    nullable: bool
    element_nullable: bool | None
    value_type: pa.DataType
    dtype: np.dtype[Any]
    physical_type: str


class ChunkForm(NamedTuple):
    """A column chunk that is decoded here: where it lies in the file, and what is in it.

    num_values counts the levels.
    """

    leaf: LeafForm
    codec: str
    start: int
    size_bytes: int
    decoded_bytes: int
    num_values: int
    num_rows: int

    @property
    def strings(self) -> bool:
        """Whether its values are strings or binary."""
        return self.leaf.physical_type == _STRINGS

    @property
    def physical(self) -> np.dtype[Any]:
        """What a value is in a page, or the code of one."""
        return _PHYSICAL[self.leaf.physical_type]


def leaf_form(schema: pa.Schema, metadata: pq.FileMetaData, leaf: Leaf) -> LeafForm | None:
    """What is decoded of a leaf here; None if all its chunks are left to Arrow.

    Here: numbers of 2, 4 and 8 bytes, one a Parquet row or lists of them; strings, one a Parquet
    row.
    """
    field = schema.field(leaf.source)
    value, element_nullable = field.type, None
    if pa.types.is_list(field.type):
        value, element_nullable = field.type.value_type, field.type.value_field.nullable
    column = metadata.schema.column(leaf.index)
    # A list adds a level of repetition, and one of definition: that it has an element.
    levels = (int(field.nullable), 0)
    if element_nullable is not None:
        levels = (int(field.nullable) + 1 + int(element_nullable), 1)
    physical_type = column.physical_type
    strings = physical_type == _STRINGS
    if (
        (column.max_definition_level, column.max_repetition_level) != levels
        or value not in _TYPES.get(physical_type, ())
        or (strings and element_nullable is not None)
    ):
        return None
    dtype = np.dtype(np.int32 if strings else value.to_pandas_dtype())
    kinds = field.type, field.nullable, element_nullable, value, dtype, physical_type
    return LeafForm(leaf.index, leaf.path, *kinds)


def chunk_form(leaf: LeafForm, group: pq.RowGroupMetaData, file_bytes: int) -> ChunkForm | None:
    """How a leaf of a row group is decoded here; None if that is left to Arrow.

    Here: plain numbers, and values coded by a dictionary, under a codec that tells how many bytes
    it held. file_bytes is the size of the file, which the chunk must not exceed.
    """
    chunk = group.column(leaf.index)
    codec, num_values, num_rows = chunk.compression, chunk.num_values, group.num_rows
    if not (
        chunk.physical_type == leaf.physical_type
        and _ENCODINGS.issuperset(chunk.encodings)
        and not (leaf.physical_type == _STRINGS and _CODES.isdisjoint(chunk.encodings))
        and _decompressed_here(codec)
        and not chunk.file_path
        and 0 <= num_values <= _MAX_VALUES
        and (leaf.element_nullable is not None or num_values == num_rows)
    ):
        return None
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    size = chunk.total_compressed_size
    if not 0 <= start <= start + size <= file_bytes:
        return None
    return ChunkForm(leaf, codec, start, size, chunk.total_uncompressed_size, num_values, num_rows)


@functools.cache
def _decompressed_here(codec: str) -> bool:
    return codec == UNCOMPRESSED or (codec in _CODECS and pa.Codec.is_available(codec.lower()))
