"""Which column chunks are decoded here, and which by Arrow; decided from the footer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.source.leaves import Leaf

# Arrow's types of numbers, by the physical types that hold nothing but them.
_TYPES: dict[str, frozenset[pa.DataType]] = {
    "INT32": frozenset({pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()}),
    "INT64": frozenset({pa.int64(), pa.uint64()}),
    "FLOAT": frozenset({pa.float32()}),
    "DOUBLE": frozenset({pa.float64()}),
}
_PHYSICAL: dict[str, np.dtype[Any]] = {
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FLOAT": np.dtype(np.float32),
    "DOUBLE": np.dtype(np.float64),
}
# RLE is how levels are written; so is BIT_PACKED, which files name that have none written so.
_ENCODINGS = frozenset({"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"})
UNCOMPRESSED = "UNCOMPRESSED"
# Of others, nobody says how many bytes come out.
_CODECS = frozenset({"ZSTD", "SNAPPY", "GZIP"})
_MAX_VALUES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ChunkForm:
    """A column chunk that is decoded here: where it lies in the file, and what is in it.

    type is its column's; nullable says whether that may be null, element_nullable whether its
    elements may, None if it is no list. num_values counts the levels.
    """

    leaf: Leaf
    type: pa.DataType
    nullable: bool
    element_nullable: bool | None
    physical: np.dtype[Any]
    codec: str
    start: int
    size_bytes: int
    decoded_bytes: int
    num_values: int
    num_rows: int

    @property
    def value_type(self) -> pa.DataType:
        """The type of a value."""
        return self.type if self.element_nullable is None else self.type.value_type


def chunk_form(
    schema: pa.Schema, metadata: pq.FileMetaData, row_group: int, leaf: Leaf
) -> ChunkForm | None:
    """How a leaf of a row group is decoded here; None if that is left to Arrow.

    Here: numbers of 4 and 8 bytes, one a Parquet row or lists of them, plain or coded by a
    dictionary, under a codec that tells how many bytes it held.
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
    if (column.max_definition_level, column.max_repetition_level) != levels:
        return None
    group = metadata.row_group(row_group)
    chunk = group.column(leaf.index)
    if not (
        value in _TYPES.get(chunk.physical_type, ())
        and _ENCODINGS.issuperset(chunk.encodings)
        and _decompressed_here(chunk.compression)
        and not chunk.file_path
        and 0 <= chunk.num_values <= _MAX_VALUES
        and (element_nullable is not None or chunk.num_values == group.num_rows)
    ):
        return None
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return ChunkForm(
        leaf,
        field.type,
        field.nullable,
        element_nullable,
        _PHYSICAL[chunk.physical_type],
        chunk.compression,
        start,
        chunk.total_compressed_size,
        chunk.total_uncompressed_size,
        chunk.num_values,
        group.num_rows,
    )


def _decompressed_here(codec: str) -> bool:
    return codec == UNCOMPRESSED or (codec in _CODECS and pa.Codec.is_available(codec.lower()))
