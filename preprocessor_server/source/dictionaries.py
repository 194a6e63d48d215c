"""String columns read as the files have them: each distinct value once, and a code a row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessor_server.kernels import page_header
from preprocessor_server.source.leaves import Leaf

# Above, there are so many distinct values that pyarrow's table of them costs more than it saves;
# pages that fell back to plain values have more too.
_MAX_BYTES_A_VALUE = 4
# A dictionary page's header is shorter.
_HEADER_BYTES = 64


def dictionary_leaves(metadata: pq.RowGroupMetaData, leaves: Sequence[Leaf]) -> list[Leaf]:
    """The leaves of a row group that are cheaper to read as dictionaries, of those with strings."""
    found = []
    for leaf in leaves:
        if not leaf.strings:
            continue
        chunk = metadata.column(leaf.index)
        small = chunk.total_uncompressed_size <= _MAX_BYTES_A_VALUE * chunk.num_values
        if chunk.has_dictionary_page and small:
            found.append(leaf)
    return found


def dictionaries_hold(
    table: pa.Table, file: Path, metadata: pq.RowGroupMetaData, leaves: Sequence[Leaf]
) -> bool:
    """Whether a row group's columns, read as dictionaries, have the values of the file.

    Where a dictionary page names a value twice, pyarrow leaves the second out and moves the codes
    of the others; it does not check codes either. Raises OSError if the file cannot be read.
    """
    if not leaves:
        return True
    with file.open("rb") as pages:
        for leaf in leaves:
            offset = metadata.column(leaf.index).dictionary_page_offset
            header = os.pread(pages.fileno(), _HEADER_BYTES, offset)
            size = dictionary_size(header)
            if not all(_holds(chunk, size) for chunk in table.column(leaf.path).chunks):
                return False
    return True


def _holds(chunk: pa.DictionaryArray, size: int | None) -> bool:
    if len(chunk.dictionary) != size:
        return False
    bounds = pc.min_max(chunk.indices).as_py()
    return bounds["max"] is None or 0 <= bounds["min"] <= bounds["max"] < size


def dictionary_size(header: bytes) -> int | None:
    """How many values a dictionary page has, by its header; None if it is no such header."""
    try:
        found, _ = page_header(np.frombuffer(header, np.uint8), 0)
    except ValueError:
        # Cut off, or something else.
        return None
    return found.num_values if found.version == 0 else None
