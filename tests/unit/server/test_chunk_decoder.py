"""Pages decoded here hold what pyarrow wrote to them; damaged ones are an error that says where."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor_server.errors import DataError
from preprocessor_server.kernels import page_header
from preprocessor_server.source.chunk_bytes import ChunkBytes
from preprocessor_server.source.chunk_decoder import Shapes, decode_chunk
from preprocessor_server.source.chunk_form import ChunkForm, chunk_form, leaf_form
from preprocessor_server.source.chunk_pages import pages
from preprocessor_server.source.footer import decoded_bytes
from preprocessor_server.source.pages import PageError
from tests.fakes.splits import all_leaves, footer_of, read_rows

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KINDS = [pa.type_for_alias(name) for name in (*INTEGERS, "float16", "float32", "float64")]
STRINGS = [pa.binary(), pa.large_binary(), pa.string(), pa.large_string()]
CODECS = ["none", "zstd", "snappy", "gzip"]


def decoded_here(path: Path, row_group: int = 0) -> dict[str, pa.Array]:
    """The columns of a row group that are not left to Arrow."""
    footer = footer_of(path)
    group = footer.metadata.row_group(row_group)
    found: dict[str, pa.Array] = {}
    shapes: Shapes = {}
    with path.open("rb") as file:
        for leaf in all_leaves(path):
            of_leaf = leaf_form(footer.schema, footer.metadata, leaf)
            form = None if of_leaf is None else chunk_form(of_leaf, group, footer.size_bytes)
            if form is None:
                continue
            chunk = ChunkBytes(file.fileno(), [form]).read(form)
            assert chunk is not None
            column = decode_chunk(chunk, form, shapes)
            if column is not None:
                found[leaf.source] = column
    return found


@st.composite
def values(draw: st.DrawFn, kind: pa.DataType, count: int) -> np.ndarray[Any, Any]:
    """So many values, of which few or many are distinct, in stretches or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.dtype(kind.to_pandas_dtype())
    distinct = np.frombuffer(rng.bytes(draw(st.integers(1, 400)) * dtype.itemsize), dtype)
    chosen = rng.integers(0, len(distinct), count)
    return distinct[np.repeat(chosen, draw(st.sampled_from([1, 3, 40])))[:count]]


@st.composite
def strings(draw: st.DrawFn, count: int) -> list[str]:
    """So many strings of 0 to 20 bytes, of which few or many are distinct, in stretches or not."""
    numbers = draw(values(pa.uint16(), count))
    stems = draw(st.lists(st.text(max_size=6), min_size=1, max_size=3))
    return [f"{stems[n % len(stems)]}{n if n % 5 else ''}" for n in numbers.tolist()]


@st.composite
def columns(draw: st.DrawFn, rows: int) -> tuple[pa.Field, pa.Array]:
    """A column of numbers, strings or lists of numbers, with and without nulls of any kind."""
    kind = draw(st.sampled_from(KINDS + STRINGS))
    nullable, element_nullable = draw(st.booleans()), draw(st.booleans())
    # Of few, so that columns have the same lists now and then.
    rng = np.random.default_rng(draw(st.integers(0, 1)))
    share = draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    missing = rng.random(rows) < share if nullable else np.zeros(rows, np.bool_)
    if kind in STRINGS:
        texts = pa.array(draw(strings(rows)), pa.string(), mask=missing)
        return pa.field("x", kind, nullable), texts.cast(kind)
    if draw(st.booleans()):
        column = pa.array(draw(values(kind, rows)), kind, mask=missing)
        return pa.field("x", kind, nullable), column
    longest = draw(st.sampled_from([0, 1, 5, 70]))
    lengths = rng.integers(0, longest, rows, endpoint=True)
    lengths[missing] = 0
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    size = int(offsets[-1])
    share = draw(st.sampled_from([0.0, 0.01, 0.5, 1.0])) if element_nullable else 0.0
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    elements = pa.array(draw(values(kind, size)), kind, mask=rng.random(size) < share)
    lists = pa.list_(pa.field("element", kind, element_nullable))
    mask = pa.array(missing) if missing.any() else None
    column = pa.ListArray.from_arrays(pa.array(offsets), elements, lists, mask=mask)
    return pa.field("x", lists, nullable), column


@st.composite
def tables(draw: st.DrawFn, least: int = 0) -> pa.Table:
    """Up to four columns of up to 500 rows, at least so many."""
    rows = draw(st.sampled_from([n for n in (0, 1, 2, 7, 8, 9, 100, 500) if n >= least]))
    found = draw(st.lists(columns(rows), min_size=1, max_size=4))
    fields = [field.with_name(f"x{i}") for i, (field, _) in enumerate(found)]
    return pa.table([column for _, column in found], schema=pa.schema(fields))


OPTIONS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(CODECS),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "data_page_size": st.sampled_from([1, 64, 1000, 1 << 20]),
        "write_batch_size": st.sampled_from([1, 16, 1024]),
        "use_dictionary": st.booleans(),
        "dictionary_pagesize_limit": st.sampled_from([1, 200, 1 << 20]),
        "write_page_checksum": st.booleans(),
        "write_statistics": st.booleans(),
        "version": st.sampled_from(["1.0", "2.6"]),
    }
)


def bits(table: pa.Table) -> list[Any]:
    """What a table holds, with NaN equal to itself and -0.0 other than 0.0."""
    return [repr(column.to_pylist()) for column in table.columns]


def numbers_of(kinds: set[pa.DataType]) -> set[pa.DataType]:
    return kinds.difference(STRINGS)


@settings(max_examples=250)
@given(tables(), OPTIONS)
def test_columns_hold_what_was_written(table: pa.Table, options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(table, path, **options)
        found = decoded_here(path)
        schema = footer_of(path).schema
        # uint32 is written as 64 bits in version 1.0, and left to Arrow; so are files without rows,
        # and strings that are in no dictionary.
        left = {schema.field(name).type for name in table.column_names if name not in found}
        whole = options["use_dictionary"] and options["dictionary_pagesize_limit"] == 1 << 20
        narrow = all(
            "uint32" in str(kind) and options["version"] == "1.0" for kind in numbers_of(left)
        )
        assert narrow or not table.num_rows
        assert numbers_of(left) == left or not (whole and table.num_rows)
        for name, column in found.items():
            column.validate(full=True)
            kind = schema.field(name).type
            assert column.type == (pa.dictionary(pa.int32(), kind) if kind in STRINGS else kind)
        assert bits(pa.table(found)) == bits(table.select(list(found)))
        # An empty page before others, as are in some of these files, ends the column for Arrow.
        if table.num_rows and not left:
            assert bits(read_rows(path).select(table.column_names)) == bits(table)
        size = sum(column.nbytes for column in found.values())
        leaves = [leaf for leaf in all_leaves(path) if leaf.source in found]
        validity = sum(len(column) // 8 + 1 for column in found.values() if column.null_count)
        room = 4 * len(found) + validity
        assert size <= decoded_bytes(pq.read_metadata(path), 0, leaves) + room


def test_every_row_group_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.arange(1000), "y": ["y"] * 1000}), path, row_group_size=300)
    for group in range(4):
        expected = list(range(300 * group, min(300 * group + 300, 1000)))
        assert decoded_here(path, group)["x"].to_pylist() == expected


ROWS = 5000
NUMBERS = np.arange(ROWS) // 3


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (pa.array(["a", "b"] * (ROWS // 2)), {"use_dictionary": False}),
        (pa.array(["a", "b"] * (ROWS // 2)).cast(pa.string_view()), {}),
        (pa.array([["a", "b"]] * ROWS), {}),
        (pa.array([b"four"] * ROWS, pa.binary(4)), {}),
        (pa.array([True, False] * (ROWS // 2)), {}),
        (pa.array([b"2b"] * ROWS, pa.binary(2)), {}),
        (pa.array(NUMBERS).cast(pa.timestamp("us")), {}),
        (pa.array(NUMBERS).cast(pa.timestamp("us")), {"use_deprecated_int96_timestamps": True}),
        (pa.array(NUMBERS).cast(pa.decimal128(38, 2)), {"store_decimal_as_integer": True}),
        (
            pa.array(NUMBERS.astype(np.int32)).cast(pa.decimal128(10, 0)),
            {"store_decimal_as_integer": True},
        ),
        (pa.array(NUMBERS.astype(np.int32)).cast(pa.date32()), {}),
        (pa.array([[[1]]] * ROWS), {}),
        (pa.array([[1, 2]] * ROWS, pa.list_(pa.int64(), 2)), {}),
        (pa.array([[1, 2]] * ROWS, pa.large_list(pa.int64())), {}),
        (pa.array([{"a": 1}] * ROWS), {}),
        (pa.array([[{"a": 1}]] * ROWS), {}),
        (pa.array(NUMBERS), {"compression": "brotli"}),
        (pa.array(NUMBERS), {"compression": "lz4"}),
        (pa.array(NUMBERS), {"column_encoding": "DELTA_BINARY_PACKED", "use_dictionary": False}),
        (pa.array(NUMBERS), {"column_encoding": "BYTE_STREAM_SPLIT", "use_dictionary": False}),
    ],
    ids=lambda value: str(getattr(value, "type", value or "")),
)
def test_what_is_left_to_arrow(tmp_path: Path, column: pa.Array, options: dict[str, Any]) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": column, "y": NUMBERS}), path, **options)
    assert "x" not in decoded_here(path)
    assert bits(read_rows(path).select(["x", "y"])) == bits(pq.read_table(path))


PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
CODED: dict[str, Any] = PLAIN | {"use_dictionary": True}


def write(path: Path, **options: Any) -> tuple[int, int]:
    """Writes numbers; where the header of their first data page starts, and where that ends."""
    pq.write_table(pa.table({"x": np.arange(ROWS) % 1000}), path, **options)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start = chunk.data_page_offset
    _, page = page_header(np.frombuffer(path.read_bytes(), np.uint8), start)
    return start, page


def patch(path: Path, at: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.reason == "FILE_CORRUPT"
    assert "file 'x.parquet', row group 0" in caught.value.message
    return caught.value


def test_an_encoding_that_the_footer_does_not_name(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    start, page = write(path, **PLAIN)
    header = path.read_bytes()[start:page]
    # Zigzag: field 2 of the data page header, DELTA_BINARY_PACKED (5) instead of PLAIN (0).
    assert header.count(b"\x15\x00\x15\x06\x15\x06") == 1
    patch(path, start, header.replace(b"\x15\x00\x15\x06\x15\x06", b"\x15\x0a\x15\x06\x15\x06"))
    assert decoded_here(path) == {}
    refused(path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_that_does_not_have_its_checksum(tmp_path: Path, codec: str, version: str) -> None:
    path = tmp_path / "x.parquet"
    options = PLAIN | {"compression": codec, "data_page_version": version}
    _, page = write(path, write_page_checksum=True, **options)
    patch(path, page + 40, bytes([path.read_bytes()[page + 40] ^ 1]))
    assert "column 'x': a page does not have its checksum" in refused(path).message


def test_codes_outside_their_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    _, page = write(path, **CODED)
    # Behind the levels, the width of 10 bits and the head of the run.
    at = path.read_bytes().index(b"\x0a", page + 4)
    patch(path, at + 10, b"\xff" * 20)
    assert "column 'x': its 5000 codes" in refused(path).message


def test_codes_of_strings_outside_their_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [f"{i % 1000}" for i in range(ROWS)]}), path, **CODED)
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    _, page = page_header(np.frombuffer(path.read_bytes(), np.uint8), start)
    at = path.read_bytes().index(b"\x0a", page + 4)
    patch(path, at + 10, b"\xff" * 20)
    assert "column 'x': its 5000 codes" in refused(path).message


def test_a_dictionary_of_fewer_strings_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": ["one", "two", "six"]}), path, **CODED)
    # The length of the last is more than there is.
    patch(path, path.read_bytes().index(b"six") - 4, (4).to_bytes(4, "little"))
    assert "column 'x': its 3 strings end early" in refused(path).message


def test_levels_that_end_behind_their_page(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    lists = pa.array([[]] * 100, pa.list_(pa.int64()))
    pq.write_table(pa.table({"x": lists, "y": lists}), path, **PLAIN)
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    header, page = page_header(np.frombuffer(path.read_bytes(), np.uint8), start)
    # A run of each kind of level; the page ends with the second, whose size is before it.
    sizes = (3).to_bytes(4, "little")
    assert path.read_bytes()[page : page + header.size].count(sizes) == 2
    patch(path, page + header.size - 7, (4).to_bytes(4, "little"))
    assert "column 'y.list.element': its 100 levels end early" in refused(path).message


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cut", [1, 9])
def test_a_page_that_decompresses_to_another_size(tmp_path: Path, codec: str, cut: int) -> None:
    path = tmp_path / "x.parquet"
    start, page = write(path, **PLAIN | {"compression": codec})
    data = path.read_bytes()
    header = page_header(np.frombuffer(data, np.uint8), start)[0]
    size, wrong = (zigzag(n) for n in (header.decoded_size, header.decoded_size - cut))
    assert len(size) == len(wrong)
    patch(path, start, data[start:page].replace(size, wrong, 1))
    refused(path)


def zstd_chunk(path: Path, body: bytes) -> tuple[ChunkForm, npt.NDArray[np.uint8]]:
    """A chunk of one page that says it is as large as what was written, and holds body."""
    start, page = write(path, **PLAIN | {"compression": "zstd"})
    (leaf,) = all_leaves(path)
    footer = footer_of(path)
    of_leaf = leaf_form(footer.schema, footer.metadata, leaf)
    assert of_leaf is not None
    form = chunk_form(of_leaf, footer.metadata.row_group(0), footer.size_bytes)
    assert form is not None
    data = path.read_bytes()
    header = page_header(np.frombuffer(data, np.uint8), start)[0]
    head = data[start:page].replace(zigzag(header.size), zigzag(len(body)), 1)
    return form, np.frombuffer(head + body, np.uint8)


def page_content(path: Path) -> bytes:
    start, page = write(path, **PLAIN)
    header = page_header(np.frombuffer(path.read_bytes(), np.uint8), start)[0]
    return path.read_bytes()[page : page + header.size]


@pytest.mark.parametrize("stated", [True, False])
def test_zstd_pages_in_any_number_of_frames(tmp_path: Path, stated: bool) -> None:
    content = page_content(tmp_path / "x.parquet")
    compress = zstandard.ZstdCompressor(write_content_size=stated).compress
    for body in (compress(content), compress(content[:99]) + compress(content[99:])):
        ((_, page),) = pages(*zstd_chunk(tmp_path / "x.parquet", body))
        assert page.tobytes() == content


def test_zstd_pages_that_are_not_what_they_say(tmp_path: Path) -> None:
    content = page_content(tmp_path / "x.parquet")
    frame = zstandard.ZstdCompressor().compress(content)
    # Of a frame that says so: behind the magic number and the descriptor, a size of 8 bytes.
    large = frame[:4] + b"\xe0" + (1 << 62).to_bytes(8, "little") + frame[7:]
    assert zstandard.frame_content_size(large) == 1 << 62
    cut = zstandard.ZstdCompressor().compress(content[1:])
    for body in (frame + b"more", frame[:-9], large, cut, b"no frame at all"):
        form, chunk = zstd_chunk(tmp_path / "x.parquet", body)
        with pytest.raises(PageError, match="does not decompress"):
            list(pages(form, chunk))


def zigzag(number: int) -> bytes:
    octets = []
    number <<= 1
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    return bytes([*octets, number])


def test_a_file_that_was_cut_off_after_its_footer_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, **PLAIN)
    footer = footer_of(path)
    (leaf,) = all_leaves(path)
    of_leaf = leaf_form(footer.schema, footer.metadata, leaf)
    assert of_leaf is not None
    form = chunk_form(of_leaf, footer.metadata.row_group(0), footer.size_bytes)
    assert form is not None
    os.truncate(path, form.start + 100)
    with path.open("rb") as file:
        assert ChunkBytes(file.fileno(), [form]).read(form) is None


@settings(max_examples=300)
@given(st.data(), tables(least=1), OPTIONS, st.sampled_from(["flip", "noise", "zero"]))
def test_damaged_bytes_are_an_error_or_harmless(
    data: st.DataObject, table: pa.Table, options: dict[str, Any], damage: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(table, path, **options)
        content = bytearray(path.read_bytes())
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        bodies = page_bodies(path)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(4, max(4, end - 1)))
            if damage == "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            else:
                stop = min(at + data.draw(st.integers(1, 20)), end)
                new = os.urandom(stop - at) if damage == "noise" else bytes(stop - at)
                content[at:stop] = new
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            found = read_rows(path)
        except DataError as error:
            assert error.reason in {"FILE_CORRUPT", "NOT_PARQUET"}  # noqa: PT017 - either may be
            return
        for column in found.columns:
            validate(column)
        assert found.num_rows == table.num_rows
        changed = {i for i in range(len(before)) if before[i] != content[i]}
        if options["write_page_checksum"] and changed <= bodies:
            assert bits(found.select(table.column_names)) == bits(table)


BYTES_OF = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


def validate(column: pa.ChunkedArray) -> None:
    """All but that text is UTF-8, which Arrow does not look at when it reads either."""
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            kind = chunk.type.value_type
            distinct = chunk.dictionary.cast(BYTES_OF.get(kind, kind))
            pa.DictionaryArray.from_arrays(chunk.indices, distinct, safe=False).validate(full=True)
        else:
            chunk.cast(BYTES_OF.get(chunk.type, chunk.type)).validate(full=True)


def page_bodies(path: Path) -> set[int]:
    """Which bytes of a file are of pages, not of their headers."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    group = pq.read_metadata(path).row_group(0)
    found: set[int] = set()
    for i in range(group.num_columns):
        chunk = group.column(i)
        at = chunk.dictionary_page_offset or chunk.data_page_offset
        end = at + chunk.total_compressed_size
        while at < end:
            header, at = page_header(data, at)
            found.update(range(at, at + header.size))
            at += header.size
    return found
