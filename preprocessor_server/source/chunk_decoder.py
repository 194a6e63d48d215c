"""Column chunks of numbers and strings, decoded from their pages into Arrow arrays.

The format is that of apache/parquet-format: README.md ("Data Pages"), Encodings.md (PLAIN, RLE,
RLE_DICTIONARY) and src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.kernels import (
    LEVEL_ROOM,
    PageHeader,
    all_distinct,
    read_coded,
    read_valid,
    split_strings,
    spread,
)
from preprocessor_server.source.chunk_bytes import Octets
from preprocessor_server.source.chunk_form import ChunkForm
from preprocessor_server.source.chunk_pages import OtherPageError, headers, pages
from preprocessor_server.source.list_shape import Levels, ListShape
from preprocessor_server.source.pages import PageError

_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8

_MAX_NARROW_BYTES = (1 << 31) - 1

Numbers = npt.NDArray[Any]
# Of the columns of a row group that were read, by their rows, levels, and how these are to be read.
Shapes: TypeAlias = dict[tuple[int, int, int, int], ListShape]


def decode_chunk(chunk: Octets, form: ChunkForm, shapes: Shapes) -> pa.Array | None:
    """The column of a chunk uint8 [size_bytes]; None if Arrow must read it.

    Strings are an array of a dictionary, with int32 codes. shapes are those of the row group's
    columns that were read, to which this one's is added. The value, or the code, of a null is 0;
    nothing of the chunk is held on to. Raises PageError for damaged pages.
    """
    try:
        decoder: _Flat | _Lists
        if form.strings:
            if any(header.version and header.encoding == _PLAIN for header, _ in headers(chunk)):
                raise OtherPageError("strings that are in no dictionary")
            decoder = _Strings(form)
        elif form.leaf.element_nullable is None:
            decoder = _Flat(form)
        else:
            decoder = _Lists(form, shapes)
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

    def fill(
        self,
        header: PageHeader,
        page: Octets,
        at: int,
        out: Numbers,
        valid: Octets | None = None,
        count: int | None = None,
    ) -> None:
        """Reads the values of a page, which begin at a byte; all, or the count that are valid."""
        there = len(out) if count is None else count
        if header.encoding == _PLAIN:
            out[:there] = _plain(page, at, there, self.word)
        elif header.encoding not in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
            raise OtherPageError(f"values of encoding {header.encoding}")
        elif self.dictionary is not None:
            read_coded(page, at, self.dictionary, out, valid, count)
            return
        elif there:
            raise PageError("codes without a dictionary")
        if valid is not None:
            spread(valid, out)

    def array(self, count: int, valid: Octets | None) -> pa.Array:
        """The first count values as an array of their type."""
        if self.levels_read != self.form.num_values:
            raise PageError(
                f"{self.levels_read} of the {self.form.num_values} values that the footer promises"
            )
        values = self.words[:count].view(self.form.physical)
        return self.typed(values.astype(self.form.leaf.dtype, copy=False), valid)

    def typed(self, values: Numbers, valid: Octets | None) -> pa.Array:
        """Values [n] as an array of their type."""
        return _array(self.form.leaf.value_type, len(values), values, valid, [])


class _Flat(_Values):
    """One value a Parquet row."""

    def __init__(self, form: ChunkForm) -> None:
        super().__init__(form)
        self.valid = (
            np.empty(form.num_values + LEVEL_ROOM, np.uint8) if form.leaf.nullable else None
        )
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
        levels = _levels(header, page, at, header.def_size, header.def_encoding)
        there = read_valid(page, levels.start, levels.stop, 0, 1, room)
        if there is None:
            raise PageError("levels that are neither 0 nor 1")
        if there == count:
            self.fill(header, page, levels.stop, out)
        else:
            self.fill(header, page, levels.stop, out, room[:count], there)
            self.has_nulls = True

    def finish(self) -> pa.Array:
        """The column. Raises PageError if it has fewer values than it should."""
        return self.array(self.form.num_values, self.valid if self.has_nulls else None)


class _Strings(_Flat):
    """One string a Parquet row, all of them in the chunk's dictionary: an array of their codes."""

    def __init__(self, form: ChunkForm) -> None:
        super().__init__(form)
        self.strings: pa.Array | None = None

    def add_dictionary(self, header: PageHeader, page: Octets) -> None:
        """Takes the dictionary of the pages that follow. Raises as add() does."""
        if self.dictionary is not None or header.encoding not in (_PLAIN, _PLAIN_DICTIONARY):
            raise OtherPageError("a second dictionary, or one of another encoding")
        count = header.num_values
        offsets, data = split_strings(page, 0, count)
        if not all_distinct(offsets, data):
            # Two codes would be one value.
            raise OtherPageError("a dictionary that has a value twice")
        self.dictionary = np.arange(count, dtype=self.word)
        kind = self.form.leaf.type
        wide = kind in (pa.large_string(), pa.large_binary())
        if len(data) > _MAX_NARROW_BYTES and not wide:
            raise OtherPageError("a dictionary that is larger than Arrow's offsets reach")
        content = offsets if wide else offsets.astype(np.int32)
        buffers = [None, pa.py_buffer(content), pa.py_buffer(data)]
        self.strings = pa.Array.from_buffers(kind, count, buffers, 0)

    def typed(self, values: Numbers, valid: Octets | None) -> pa.Array:
        """The strings of codes [n]."""
        codes = _array(pa.int32(), len(values), values, valid, [])
        strings = pa.array([], self.form.leaf.type) if self.strings is None else self.strings
        # Every code was looked up in the dictionary.
        return pa.DictionaryArray.from_arrays(codes, strings, safe=False)


class _Lists(_Values):
    """A list a Parquet row."""

    def __init__(self, form: ChunkForm, shapes: Shapes) -> None:
        super().__init__(form)
        # The definition levels of a list that is not null are these, less one where it is empty.
        element = int(form.leaf.nullable) + 1
        top = element + int(bool(form.leaf.element_nullable))
        self.key = form.num_rows, form.num_values, element, top
        self.shapes = shapes
        self.shape = ListShape(form.num_rows, element, top, shapes.get(self.key))
        self.valid: Octets | None = None
        self.valid_lists: Octets | None = None

    def add(self, header: PageHeader, page: Octets) -> None:
        """Takes the next page. Raises as pages() does, or ValueError for what is in it."""
        count = self.count(header)
        reps = _levels(header, page, 0, header.rep_size, header.rep_encoding)
        defs = _levels(header, page, reps.stop, header.def_size, header.def_encoding)
        lists, first = self.shape.lists, self.shape.elements
        found = self.shape.add(Levels(count, page, reps, defs))
        if header.num_rows not in (None, found.lists):
            raise PageError(f"a page of {header.num_rows} rows holds {found.lists} lists")
        out = self.words[first : first + found.elements]
        if found.valid is None:
            self.fill(header, page, defs.stop, out)
        else:
            self.fill(header, page, defs.stop, out, found.valid, found.values)
            self._keep(found.valid, first)
        if found.valid_lists is not None:
            if self.valid_lists is None:
                self.valid_lists = np.ones(self.form.num_rows, np.uint8)
            self.valid_lists[lists : lists + found.lists] = found.valid_lists

    def _keep(self, valid: Octets, first: int) -> None:
        """Keeps which elements of a page are not null, the first of which is of a number."""
        if len(valid) == self.form.num_values:
            self.valid = valid
            return
        if self.valid is None:
            self.valid = np.ones(self.form.num_values, np.uint8)
        self.valid[first : first + len(valid)] = valid

    def finish(self) -> pa.Array:
        """The column. Raises PageError or ValueError if it has fewer lists than it should."""
        offsets = self.shape.finish()
        values = self.array(self.shape.elements, self.valid)
        self.shapes[self.key] = self.shape
        return _array(self.form.leaf.type, self.form.num_rows, offsets, self.valid_lists, [values])


def _levels(header: PageHeader, page: Octets, at: int, size: int, encoding: int) -> slice:
    """Where the levels are that begin at a byte.

    size is what pages of version 2 say in their headers, others before the levels.
    """
    if encoding != _RLE:
        raise OtherPageError(f"levels of encoding {encoding}")
    if header.version == 1:
        size = int.from_bytes(page[at : at + 4].tobytes(), "little")
        at += 4
    if at + size > len(page):
        raise PageError(f"its {header.num_values} levels end early")
    return slice(at, at + size)


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
