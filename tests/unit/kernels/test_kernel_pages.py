"""Levels and codes of Parquet pages against plain Python, and bytes that are none."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import (
    LEVEL_ROOM,
    ListLevels,
    all_distinct,
    page_header,
    page_headers,
    read_coded,
    read_levels,
    read_valid,
    split_strings,
    spread,
)
from tests.fakes.hybrid import coded, packed, repeated, varint


def octets(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def levels_of(data: bytes, width: int, count: int) -> list[int]:
    levels = np.full(count + LEVEL_ROOM, 255, np.uint8)
    read_levels(octets(data), 0, len(data), width, levels)
    found: list[int] = levels[:count].tolist()
    return found


@given(st.data(), st.integers(1, 2))
def test_levels_are_those_of_the_runs(data: st.DataObject, width: int) -> None:
    values, runs = data.draw(coded(width, (1 << width) - 1))
    count = data.draw(st.integers(0, len(values)))
    assert levels_of(runs, width, count) == values[:count]
    with pytest.raises(ValueError, match="end early"):
        # The last group may be filled up with values that are none.
        levels_of(runs, width, len(values) + 8)


@given(st.data(), st.integers(1, 3), st.integers(0, 3))
def test_valid_are_the_levels_at_the_top(data: st.DataObject, top: int, least: int) -> None:
    width = top.bit_length()
    values, runs = data.draw(coded(width, (1 << width) - 1))
    valid = np.full(len(values) + LEVEL_ROOM, 255, np.uint8)
    found = read_valid(octets(runs), 0, len(runs), least, top, valid)
    if any(not least <= value <= top for value in values):
        assert found is None
    else:
        assert found == values.count(top)
        assert valid[: len(values)].tolist() == [value == top for value in values]
    with pytest.raises(ValueError, match="end early"):
        read_valid(octets(runs), 0, len(runs), least, top, np.empty(len(values) + 24, np.uint8))


@given(st.binary(max_size=40), st.integers(1, 2), st.integers(0, 200))
def test_any_bytes_are_levels_or_an_error(data: bytes, width: int, count: int) -> None:
    with contextlib.suppress(ValueError):
        assert all(level < 1 << width for level in levels_of(data, width, count))


@pytest.mark.parametrize(
    "runs",
    [
        b"",
        varint(1 << 63),
        varint(1 << 62 | 1),
        b"\x80" * 11,
        varint(10 << 1),
        repeated(2, 10, 1),
        packed([1] * 8, 1),
    ],
    ids=["none", "no value", "no groups", "no number", "cut off", "too wide", "too few"],
)
def test_runs_that_are_none(runs: bytes) -> None:
    with pytest.raises(ValueError, match="end early"):
        levels_of(runs, 1, 10)


def test_a_run_longer_than_what_is_wanted() -> None:
    assert levels_of(repeated(1, (1 << 62) - 1, 1), 1, 10) == [1] * 10
    assert levels_of(varint(1 << 63 | 1) + b"\xff\x01", 1, 9) == [1] * 9


@pytest.mark.parametrize("word", [np.uint16, np.uint32, np.uint64])
@given(st.data(), st.integers(0, 32))
def test_codes_are_looked_up(word: Any, data: st.DataObject, width: int) -> None:
    top = min((1 << width) - 1, 70_000)
    dictionary = np.arange(top + 1, dtype=word)[::-1].copy()
    values, runs = data.draw(coded(width, top))
    count = data.draw(st.integers(0, len(values)))
    found = np.full(count, 7, word)
    before = data.draw(st.binary(max_size=3))
    stored = octets(before + bytes([width]) + runs)
    read_coded(stored, len(before), dictionary, found)
    assert found.tolist() == dictionary[values[:count]].tolist()
    highest = max(values[:count], default=None)
    if highest is not None:
        with pytest.raises(ValueError, match="dictionary"):
            read_coded(stored, len(before), dictionary[:highest], found)
    if width:
        with pytest.raises(ValueError, match="end early"):
            read_coded(stored, len(before), dictionary, np.zeros(len(values) + 8, word))


@pytest.mark.parametrize("word", [np.uint16, np.uint32, np.uint64])
@given(st.lists(st.none() | st.integers(0, 9)))
def test_codes_are_looked_up_for_valid_values(word: Any, values: list[int | None]) -> None:
    codes = [value for value in values if value is not None]
    stored = octets(bytes([4]) + packed(codes, 4))
    valid = np.array([value is not None for value in values], np.uint8)
    found = np.full(len(values), 7, word)
    read_coded(stored, 0, np.arange(10, dtype=word) + word(5), found, valid, len(codes))
    assert found.tolist() == [0 if value is None else value + 5 for value in values]


def test_other_values_than_are_valid_are_refused() -> None:
    for valid, count in ((np.ones(2, np.uint8), 2), (np.ones(3, np.uint8), 4)):
        with pytest.raises(IndexError, match="of 3 values"):
            read_coded(octets(bytes(9)), 0, np.zeros(1, "u4"), np.zeros(3, "u4"), valid, count)


@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 9))
def test_any_bytes_are_codes_or_an_error(data: bytes, count: int, size: int) -> None:
    values = np.full(count, 99, np.uint64)
    with contextlib.suppress(ValueError):
        read_coded(octets(data), 0, np.arange(size, dtype=np.uint64), values)
        assert all(value < size for value in values.tolist())


@pytest.mark.parametrize("width", [33, 64, 255])
def test_codes_of_more_than_32_bits(width: int) -> None:
    with pytest.raises(ValueError, match="codes"):
        read_coded(octets(bytes([width]) + bytes(99)), 0, np.zeros(9, np.uint64), np.zeros(8))


LISTS = st.lists(st.none() | st.lists(st.none() | st.just(1), max_size=40), max_size=30)


def shredded(lists: list[Any], nullable: bool, elements_nullable: bool) -> list[tuple[int, int]]:
    """The levels of lists as Dremel has them: repetition and definition."""
    levels = []
    for each in lists:
        if not each:
            levels.append((0, int(nullable) if each is not None else 0))
            continue
        for i, value in enumerate(each):
            there = int(nullable) + 1 + int(elements_nullable and value is not None)
            levels.append((int(i > 0), there))
    return levels


@given(LISTS, st.booleans(), st.booleans(), st.data())
def test_lists_are_those_of_their_levels(
    lists: list[Any], nullable: bool, elements_nullable: bool, data: st.DataObject
) -> None:
    lists = [each if nullable else each or [] for each in lists]
    if not elements_nullable:
        lists = [None if each is None else [1] * len(each) for each in lists]
    levels = np.array(shredded(lists, nullable, elements_nullable), np.uint8).reshape(-1, 2)
    element = int(nullable) + 1
    found = ListLevels(len(lists), element, element + int(elements_nullable))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(levels)), max_size=4)))
    masks = []
    for start, end in zip([0, *cuts], [*cuts, len(levels)], strict=True):
        reps, defs = levels[start:end].T.copy()
        before = found.elements
        found.add(reps, defs)
        mask = np.empty(found.elements - before, np.uint8)
        found.mask(defs, mask)
        masks.append(mask)
    lengths = [len(each or []) for each in lists]
    assert found.finish().tolist() == [0, *np.cumsum(lengths, dtype=int).tolist()]
    elements = [value is not None for each in lists for value in each or []]
    assert np.concatenate(masks).tolist() == elements
    assert found.values == sum(elements)


@pytest.mark.parametrize(
    ("reps", "defs"),
    [([1], [3]), ([0, 1], [0, 3]), ([0, 1], [3, 1]), ([0, 0, 0], [3, 3, 3]), ([1] * 8, [3] * 8)],
    ids=["no list", "after a null one", "more of nothing", "too many", "no list in a group"],
)
def test_levels_of_no_lists(reps: list[int], defs: list[int]) -> None:
    with pytest.raises(ValueError, match="levels"):
        ListLevels(2, 2, 3).add(np.array(reps, np.uint8), np.array(defs, np.uint8))


def test_levels_above_the_highest() -> None:
    with pytest.raises(ValueError, match="levels"):
        ListLevels(9, 1, 2).add(np.zeros(9, np.uint8), np.full(9, 3, np.uint8))


@given(st.lists(st.booleans()), st.sampled_from([np.uint16, np.uint32, np.uint64]))
def test_values_are_spread_to_where_they_are_valid(valid: list[bool], word: Any) -> None:
    # No float has them all.
    values = np.iinfo(word).max - np.arange(len(valid), dtype=word)
    given, counted = values.tolist(), np.cumsum(valid).tolist()
    spread(np.array(valid, np.uint8), values)
    expected = [given[n - 1] if there else 0 for n, there in zip(counted, valid, strict=True)]
    assert values.tolist() == expected


def field(delta: int, kind: int, content: bytes) -> bytes:
    return bytes([delta << 4 | kind]) + content


def integer(delta: int, value: int) -> bytes:
    return field(delta, 5, varint(((value << 1) ^ (value >> 63)) & (1 << 64) - 1))


def header_bytes(page: bytes, kind: int, size: int, crc: int | None, inner: int) -> bytes:
    """A header whose struct number inner, 5 at the least, holds page."""
    head = integer(1, kind) + integer(1, size + 1) + integer(1, size)
    last = 3
    if crc is not None:
        head, last = head + integer(1, crc), 4
    return head + field(inner - last, 12, page + b"\0") + b"\0"


SIZE = st.integers(0, (1 << 31) - 1)
CHECKSUM = st.none() | st.integers(-(1 << 31), (1 << 31) - 1)
# A field that nobody knows, and statistics: a struct of strings and a double.
STATISTICS = field(
    1, 12, field(1, 8, b"\x02ab") + field(1, 7, bytes(8)) + field(1, 3, b"\1") + b"\0"
)


@given(SIZE, SIZE, CHECKSUM, st.binary(max_size=5))
def test_headers_say_what_was_written(
    size: int, count: int, crc: int | None, before: bytes
) -> None:
    checksum = None if crc is None else crc % (1 << 32)

    def read(page: bytes, kind: int, inner: int) -> Any:
        data = before + header_bytes(page, kind, size, crc, inner)
        header, end = page_header(octets(data + b"page"), len(before))
        assert end == len(data)
        assert (header.size, header.decoded_size, header.crc) == (size, size + 1, checksum)
        for cut in range(len(before), len(data), 3):
            with pytest.raises(ValueError, match="header"):
                page_header(octets(data[:cut]), len(before))
        return header

    numbers = integer(1, count) + integer(1, 8) + integer(1, 3) + integer(1, 4) + STATISTICS
    data_page = read(numbers, 0, 5)
    assert (data_page.version, data_page.num_values, data_page.encoding) == (1, count, 8)
    assert (data_page.def_encoding, data_page.rep_encoding) == (3, 4)
    dictionary = read(integer(1, count) + integer(1, 2) + field(1, 1, b""), 2, 7)
    assert (dictionary.version, dictionary.num_values, dictionary.encoding) == (0, count, 2)
    sizes = integer(1, count) + integer(1, 0) + integer(1, count) + integer(1, 0)
    plain = read(sizes + integer(1, 6) + integer(1, 7) + field(1, 2, b"") + STATISTICS, 3, 8)
    assert (plain.version, plain.num_rows, plain.encoding, plain.compressed) == (2, count, 0, False)
    assert (plain.def_size, plain.rep_size) == (6, 7)
    assert read(sizes + integer(1, 6) + integer(1, 7), 3, 8).compressed
    assert read(b"", 1, 6).version is None


@given(st.lists(st.integers(0, 40), max_size=20), st.sampled_from([b"", b"\xff", b"\x15\x00"]))
def test_headers_of_pages_that_follow_each_other(sizes: list[int], after: bytes) -> None:
    pages = [
        header_bytes(integer(1, i) + integer(1, 0), 0, n, None, 5) for i, n in enumerate(sizes)
    ]
    data = b"".join(page + bytes(n) for page, n in zip(pages, sizes, strict=True)) + after
    found, expected, at = [], [], 0
    for page, size in zip(pages, sizes, strict=True):
        expected.append((size, at + len(page)))
        at += len(page) + size
    headers = page_headers(octets(data))
    with pytest.raises(ValueError, match="header") if after else contextlib.nullcontext():
        for header, start in headers:
            found.append((header.size, start))
    assert found == expected


@given(st.binary(max_size=60), st.integers(-2, 70))
def test_any_bytes_are_a_header_or_an_error(data: bytes, at: int) -> None:
    with contextlib.suppress(ValueError):
        header, end = page_header(octets(data), at)
        assert at < end <= len(data)
        assert min(header.size, header.num_values) >= 0


@pytest.mark.parametrize(
    "data",
    [
        header_bytes(integer(1, 9), 2, 9, None, 5),
        header_bytes(integer(1, -9), 0, 9, None, 5),
        header_bytes(integer(1, 9), 0, -9, None, 5),
        header_bytes(integer(1, 9), 3, 9, None, 8),
        header_bytes(field(1, 9, b"\x15\x02"), 0, 9, None, 5),
        b"\x1c" * 20,
        field(1, 8, varint(1 << 60)),
    ],
    ids=["two kinds", "no count", "no size", "no sizes", "a list", "depth", "a long string"],
)
def test_headers_that_are_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        page_header(octets(data), 0)


def plain(strings: list[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(4, "little") + each for each in strings)


@given(st.lists(st.binary(max_size=20), max_size=30), st.binary(max_size=9), st.integers(0, 5))
def test_strings_are_those_of_the_page(strings: list[bytes], more: bytes, start: int) -> None:
    page = octets(bytes(start) + plain(strings) + more)
    offsets, data = split_strings(page, start, len(strings))
    assert len(data) == offsets[-1]
    ends = offsets.tolist()
    assert [data[a:b].tobytes() for a, b in itertools.pairwise(ends)] == strings


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=9), st.data())
def test_strings_that_end_early(strings: list[bytes], data: st.DataObject) -> None:
    whole = plain(strings)
    page = octets(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match="strings end early"):
        split_strings(page, 0, len(strings))


@given(st.binary(max_size=60), st.integers(-3, 20), st.integers(-3, 1 << 40))
@example(plain([b"x" * 100]), 0, 20)
def test_what_are_no_strings(page: bytes, start: int, count: int) -> None:
    with contextlib.suppress(ValueError):
        offsets, data = split_strings(octets(page), start, count)
        assert start + 4 * count + len(data) <= len(page)
        assert np.all(np.diff(offsets) >= 0)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 5])
def test_a_string_longer_than_its_page(length: int) -> None:
    page = octets(length.to_bytes(4, "little") + b"four")
    with pytest.raises(ValueError, match="its 1 strings end early"):
        split_strings(page, 0, 1)


@given(st.data(), st.integers(0, 40))
def test_strings_are_all_distinct_or_not(data: st.DataObject, longest: int) -> None:
    # Of few bytes, so that many share a start, an end, or all.
    few = st.lists(st.sampled_from(b"ab"), max_size=longest).map(bytes)
    strings = data.draw(st.lists(few, max_size=60))
    offsets, content = split_strings(octets(plain(strings)), 0, len(strings))
    assert all_distinct(offsets, content) == (len(set(strings)) == len(strings))


@pytest.mark.parametrize("count", [1, 4096, 100_000])
def test_one_of_many_strings_is_there_twice(count: int) -> None:
    strings = [f"{7 * i:08x}".encode() for i in range(count)]
    offsets, content = split_strings(octets(plain(strings)), 0, count)
    assert all_distinct(offsets, content)
    offsets, content = split_strings(octets(plain([*strings, strings[count // 2]])), 0, count + 1)
    assert not all_distinct(offsets, content)


@pytest.mark.parametrize("kind", [">u8", "<u8", "S16"])
def test_strings_that_differ_in_few_bytes_are_told_apart_in_time(kind: str) -> None:
    # Were they all looked for in one place, this would take minutes.
    count = 1_000_000
    numbers = np.arange(count)
    texts = np.char.zfill(numbers.astype("S7"), 16) if kind == "S16" else numbers
    records = np.empty(count, np.dtype([("length", "<u4"), ("value", kind)]))
    records["length"], records["value"] = np.dtype(kind).itemsize, texts
    assert all_distinct(*split_strings(records.view(np.uint8), 0, count))
