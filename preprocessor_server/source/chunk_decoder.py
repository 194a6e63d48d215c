"""Column chunks of numbers, decoded from their pages into Arrow arrays.

The format is that of apache/parquet-format: README.md ("Data Pages"), Encodings.md (PLAIN, RLE,
RLE_DICTIONARY) and src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.kernels import (
    LEVEL_ROOM,
    ListLevels,
    PageHeader,
    read_coded,
    read_levels,
    spread,
)
from preprocessor_server.source.chunk_form import ChunkForm
from preprocessor_server.source.chunk_pages import Octets, OtherPageError, pages
from preprocessor_server.source.pages import PageError
from preprocessor_server.stage_clock import READING, count_bytes

_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8

Numbers = npt.NDArray[Any]


def read_chunk(file: int, form: ChunkForm) -> pa.Array | None:
    """The column of a chunk, read from a file descriptor in one go; None if Arrow must read it.

    The value of a null is 0. Raises PageError for damaged pages, OSError if the file cannot be
    read.
    """
    if not 0 <= form.start <= form.start + form.size_bytes <= os.fstat(file).st_size:
        return None
    chunk = _allocate(form.size_bytes, np.dtype(np.uint8))
    with READING:
        if form.size_bytes and os.preadv(file, [chunk.data], form.start) != form.size_bytes:
            return None
    count_bytes("read", form.size_bytes)
    try:
        decoder = _Flat(form) if form.element_nullable is None else _Lists(form)
        for header, page in pages(form, chunk):
            if header.version == 0:
                decoder.add_dictionary(header, page)
            else:
                decoder.add(header, page)
        return decoder.finish()
    except OtherPageError:
        return None
    except (ValueError, PageError) as error:
        raise PageError(f"column {form.leaf.path!r}: {error}") from error


class _Values:
    """The values of a chunk, as many as it has, filled page by page."""

    def __init__(self, form: ChunkForm) -> None:
        self.form = form
        # Bits are copied, whatever number they are.
        self.word = np.dtype(f"u{form.physical.itemsize}")
        self.words = _allocate(form.num_values, self.word)
        self.dictionary: Numbers | None = None
        self.levels_read = 0

    def add_dictionary(self, header: PageHeader, page: Octets) -> None:
        """Takes the dictionary of the pages that follow. Raises as add() does."""
        if self.dictionary is not None or header.encoding not in (_PLAIN, _PLAIN_DICTIONARY):
            raise OtherPageError("a second dictionary, or one of another encoding")
        self.dictionary = _plain(page, 0, header.num_values, self.word)

    def count(self, header: PageHeader) -> int:
        """Counts the levels of a page, or values where it has none."""
        self.levels_read += header.num_values
        if self.levels_read > self.form.num_values:
            raise PageError(f"more than the {self.form.num_values} values that the footer promises")
        return header.num_values

    def fill(self, header: PageHeader, page: Octets, at: int, out: Numbers) -> None:
        """Reads the values of a page, which begin at a byte."""
        if header.encoding == _PLAIN:
            out[:] = _plain(page, at, len(out), self.word)
        elif header.encoding not in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
            raise OtherPageError(f"values of encoding {header.encoding}")
        elif self.dictionary is not None:
            read_coded(page, at, self.dictionary, out)
        elif len(out):
            raise PageError("codes without a dictionary")

    def array(self, count: int, valid: Octets | None) -> pa.Array:
        """The first count values as an array of their type."""
        if self.levels_read != self.form.num_values:
            raise PageError(
                f"{self.levels_read} of the {self.form.num_values} values that the footer promises"
            )
        kind = self.form.value_type
        values = self.words[:count].view(self.form.physical)
        values = values.astype(np.dtype(kind.to_pandas_dtype()), copy=False)
        return _array(kind, count, values, valid, [])


class _Flat(_Values):
    """One value a Parquet row."""

    def __init__(self, form: ChunkForm) -> None:
        super().__init__(form)
        self.valid = np.empty(form.num_values + LEVEL_ROOM, np.uint8) if form.nullable else None
        self.has_nulls = False

    def add(self, header: PageHeader, page: Octets) -> None:
        """Takes the next page. Raises as pages() does, or ValueError for what is in it."""
        first = self.levels_read
        count = self.count(header)
        if header.num_rows not in (None, count):
            raise PageError(f"a page of {header.num_rows} rows holds {count} values")
        out = self.words[first : first + count]
        at = header.rep_size
        if self.valid is None:
            self.fill(header, page, at + header.def_size, out)
            return
        room = self.valid[first : first + count + LEVEL_ROOM]
        at = _levels(header, page, at, header.def_size, header.def_encoding, 1, room)
        valid = room[:count]
        there = int(np.count_nonzero(valid.view(np.bool_)))
        self.fill(header, page, at, out[:there])
        if there < count:
            spread(valid, out)
            self.has_nulls = True

    def finish(self) -> pa.Array:
        """The column. Raises PageError if it has fewer values than it should."""
        return self.array(self.form.num_values, self.valid if self.has_nulls else None)


class _Lists(_Values):
    """A list a Parquet row."""

    def __init__(self, form: ChunkForm) -> None:
        super().__init__(form)
        # The definition levels of a list that is not null are these, less one where it is empty.
        element = int(form.nullable) + 1
        self.top = element + int(bool(form.element_nullable))
        self.lists = ListLevels(form.num_rows, element, self.top)
        self.room = np.empty((2, 0), np.uint8)
        self.valid: Octets | None = None
        self.valid_lists: Octets | None = None

    def add(self, header: PageHeader, page: Octets) -> None:
        """Takes the next page. Raises as pages() does, or ValueError for what is in it."""
        count = self.count(header)
        if self.room.shape[1] < count + LEVEL_ROOM:
            self.room = np.empty((2, count + LEVEL_ROOM), np.uint8)
        reps, defs = (room[: count + LEVEL_ROOM] for room in self.room)
        at = _levels(header, page, 0, header.rep_size, header.rep_encoding, 1, reps)
        width = self.top.bit_length()
        at = _levels(header, page, at, header.def_size, header.def_encoding, width, defs)
        reps, defs = reps[:count], defs[:count]
        lists, element, values = self.lists.lists, self.lists.elements, self.lists.values
        self.lists.add(reps, defs)
        new_lists = self.lists.lists - lists
        elements, there = self.lists.elements - element, self.lists.values - values
        if header.num_rows not in (None, new_lists):
            raise PageError(f"a page of {header.num_rows} rows holds {new_lists} lists")
        out = self.words[element : element + elements]
        self.fill(header, page, at, out[:there])
        if there < elements:
            if self.valid is None:
                self.valid = np.ones(self.form.num_values, np.uint8)
            valid = self.valid[element : element + elements]
            self.lists.mask(defs, valid)
            spread(valid, out)
        if self.form.nullable and elements < count and not defs.all():
            if self.valid_lists is None:
                self.valid_lists = np.ones(self.form.num_rows, np.uint8)
            self.valid_lists[lists : lists + new_lists] = defs[reps == 0] > 0

    def finish(self) -> pa.Array:
        """The column. Raises PageError or ValueError if it has fewer lists than it should."""
        offsets = self.lists.finish()
        values = self.array(self.lists.elements, self.valid)
        return _array(self.form.type, self.form.num_rows, offsets, self.valid_lists, [values])


def _levels(
    header: PageHeader,
    page: Octets,
    at: int,
    size: int,
    encoding: int,
    width: int,
    levels: Octets,
) -> int:
    """Reads the levels that begin at a byte; where they end.

    size is what pages of version 2 say in their headers, others before the levels.
    """
    if encoding != _RLE:
        raise OtherPageError(f"levels of encoding {encoding}")
    if header.version == 1:
        size = int.from_bytes(page[at : at + 4].tobytes(), "little")
        at += 4
    read_levels(page, at, at + size, width, levels)
    return at + size


def _plain(page: Octets, at: int, count: int, dtype: np.dtype[Any]) -> Numbers:
    end = at + count * dtype.itemsize
    if end > len(page):
        raise PageError(f"{count} values end behind their page")
    return page[at:end].view(dtype)


def _allocate(count: int, dtype: np.dtype[Any]) -> Numbers:
    """An array in Arrow's memory: its allocator keeps what it has for the next one."""
    if count == 0:
        return np.empty(0, dtype)
    return np.frombuffer(pa.allocate_buffer(count * dtype.itemsize), dtype)


def _array(
    kind: pa.DataType,
    count: int,
    content: Numbers,
    valid: Octets | None,
    children: list[pa.Array],
) -> pa.Array:
    bits, nulls = None, 0
    if valid is not None:
        mask = valid[:count].view(np.bool_)
        bits = pa.py_buffer(np.packbits(mask, bitorder="little"))
        nulls = count - int(np.count_nonzero(mask))
    buffers = [bits, pa.py_buffer(content)]
    return pa.Array.from_buffers(kind, count, buffers, nulls, children=children)
