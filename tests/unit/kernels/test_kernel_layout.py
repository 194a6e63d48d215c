"""The layouts of buffers, and their bytes, against a twin written from docs/compact_batch.md."""

from __future__ import annotations

import itertools
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from preprocessor_server.kernels import (
    FLOATS,
    HALVES,
    IDS,
    LENGTHS,
    Buffers,
    Layouts,
    lay_out,
    ones,
    write_buffers,
)

WIDTHS = [width for width in range(65) if width % 8 in {0, 1, 2, 4}]
# Kernels work on blocks of 1024 elements.
SIZES = [1, 9, 1023, 1024, 1025, 2049]
WORD = 2**64
UNTOUCHED = 0xAA


class Laid(NamedTuple):
    """A buffer's layout, width, base, dictionary size and elements; its dictionary and bytes."""

    table: list[int]
    dictionary: list[int]
    written: bytes


def planes_of(words: list[int], width: int) -> bytes:
    whole, bits = divmod(width, 8)
    made = bytearray()
    for plane in range(whole):
        made += bytes(word >> 8 * plane & 0xFF for word in words)
    if bits:
        per_byte = 8 // bits
        top = [word >> 8 * whole for word in words]
        for at in range(0, len(top), per_byte):
            made.append(sum(bit << bits * k for k, bit in enumerate(top[at : at + per_byte])))
    return bytes(made)


def laid(row: list[int], with_dictionaries: bool) -> Laid:
    base = min(row, default=0)
    span = max(row, default=0) - base
    width = min(width for width in WIDTHS if width >= span.bit_length())
    layout, dictionary, words = batch_pb2.BUFFER_LAYOUT_BYTE_PLANES, [], [v - base for v in row]
    known = sorted(set(row))
    if span == 0:
        layout = batch_pb2.BUFFER_LAYOUT_CONSTANT
    elif with_dictionaries and width > 8 and len(known) <= 256 and len(row) >= 4 * len(known):
        layout, base, dictionary = batch_pb2.BUFFER_LAYOUT_DICTIONARY, 0, known
        code = {value: place for place, value in enumerate(known)}
        words = [code[value] for value in row]
        width = min(width for width in (1, 2, 4, 8) if len(known) - 1 < 2**width)
    written = struct.pack(f"<{len(dictionary)}q", *dictionary) + planes_of(words, width)
    table = [layout, width, base, len(dictionary), len(row)]
    return Laid(table, dictionary, written)


def laid_numbers(words: list[int], bits: int) -> Laid:
    """The same of numbers, by their bits."""
    known = sorted(set(words), key=lambda word: word - (1 << 64) * (word >> 63))
    if 2 <= len(known) <= 256 and len(words) >= 16 * len(known):
        code = {word: place for place, word in enumerate(known)}
        width = min(width for width in (1, 2, 4, 8) if len(known) - 1 < 2**width)
        table = [batch_pb2.BUFFER_LAYOUT_DICTIONARY, width, 0, len(known), len(words)]
        packed = struct.pack(f"<{len(known)}Q", *known)
        signed = [*struct.unpack(f"<{len(known)}q", packed)]
        return Laid(table, signed, packed + planes_of([code[word] for word in words], width))
    below = bits - 8
    tops = sorted({word >> below for word in words})
    if not 2 <= len(tops) <= 16 or len(words) < 64 * len(tops):
        return Laid(
            [batch_pb2.BUFFER_LAYOUT_BYTE_PLANES, bits, 0, 0, len(words)],
            [],
            planes_of(words, bits),
        )
    width = below + min(width for width in (1, 2, 4) if len(tops) - 1 < 2**width)
    words = [tops.index(word >> below) << below | word & ((1 << below) - 1) for word in words]
    table = [batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY, width, 0, len(tops), len(words)]
    return Laid(table, tops, struct.pack(f"<{len(tops)}Q", *tops) + planes_of(words, width))


def buffers_of(elements: npt.NDArray[Any], kind: int) -> Buffers:
    buffers = Buffers()
    buffers.add(buffers.rows(elements, kind))
    return buffers


def described(layouts: Layouts) -> list[list[int]]:
    """The layouts as Laid has them."""
    table: list[list[int]] = layouts.table[:, [0, 4, 5, 6, 3]].tolist()
    return table


def written(buffers: Buffers, layouts: Layouts, expected: list[bytes]) -> None:
    """Writes buffers and checks their places and every byte of the arena."""
    whole = bytearray()
    for entry, each in zip(layouts.table.tolist(), expected, strict=True):
        assert entry[1:3] == [len(whole), len(each)]
        whole += each + bytes(-len(each) % 64)
    assert layouts.size_bytes == len(whole)
    arena = np.full(len(whole), UNTOUCHED, np.uint8)
    write_buffers(buffers, layouts, arena)
    assert arena.tobytes() == bytes(whole)
    for entry, ends in zip(layouts.table.tolist(), layouts.planes.tolist(), strict=True):
        _, offset, _, count, width, _, size = entry
        planes, bits = divmod(width, 8)
        sizes = [8 * size, *[count] * planes, *[0] * (8 - planes), (count * bits + 7) // 8]
        assert ends == [*itertools.accumulate(sizes, initial=offset)]


def check_numbers(words: npt.NDArray[Any], bits: int) -> Laid:
    """The same of numbers, by their bits."""
    numbers = words.view({64: np.float64, 32: np.float32}.get(bits, np.uint32))
    buffers = buffers_of(numbers[None], FLOATS if bits > 16 else HALVES)
    layouts = lay_out(buffers)
    expected = laid_numbers(words.tolist(), bits)
    assert described(layouts) == [expected.table]
    assert layouts.dictionaries[0, : len(expected.dictionary)].tolist() == expected.dictionary
    written(buffers, layouts, [expected.written])
    return expected


def check(elements: npt.NDArray[Any], with_dictionaries: bool = True) -> list[Laid]:
    """Lays out and writes the rows of a matrix, compares with the twin's and returns that."""
    buffers = buffers_of(elements, IDS if with_dictionaries else LENGTHS)
    layouts = lay_out(buffers)
    expected = [laid(row, with_dictionaries) for row in elements.tolist()]
    assert described(layouts) == [each.table for each in expected]
    for dictionary, each in zip(layouts.dictionaries, expected, strict=True):
        assert dictionary[: len(each.dictionary)].tolist() == each.dictionary
    written(buffers, layouts, [each.written for each in expected])
    return expected


def kinds_of(elements: npt.NDArray[Any], with_dictionaries: bool = True) -> list[int]:
    return [each.table[0] for each in check(elements, with_dictionaries)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", range(65))
def test_words_of_every_width_and_size(bits: int, size: int) -> None:
    rng = np.random.default_rng(bits * 5000 + size)
    for code in ["i4", "i8"] if bits <= 32 else ["i8"]:
        bounds = np.iinfo(code)
        span = 2**bits - 1
        highest = int(bounds.max) - span
        rows = []
        for base in (int(bounds.min), highest, int(rng.integers(bounds.min, highest + 1))):
            words = [int(word) & span for word in rng.integers(0, WORD, size, "u8")]
            words[0], words[-1] = 0, span
            rows.append([base + word for word in words])
        check(np.array(rows, code), with_dictionaries=False)


@pytest.mark.parametrize("code", ["i4", "i8"])
@pytest.mark.parametrize(
    ("entries", "width"),
    [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (255, 8), (256, 8), (257, 0)],
)
def test_dictionaries(code: str, entries: int, width: int) -> None:
    bounds = np.iinfo(code)
    # The ends of the dtype, and numbers that agree in their lowest bits.
    others = [(i - entries // 2) << 20 for i in range(entries - 2)]
    known = np.array([int(bounds.min), int(bounds.max), *others], code)
    rng = np.random.default_rng(entries)
    for size in (4 * entries - 1, 4 * entries, 4 * entries + 1, 1024 + 4 * entries):
        row = np.concatenate((known, rng.choice(known, size - entries)))
        elements = np.array([rng.permutation(row), row, np.full(size, 3), row[::-1]], code)
        if width and size >= 4 * entries:
            assert kinds_of(elements) == [3, 3, 2, 3]
            assert [each.table[1] for each in check(elements)] == [width, width, 0, width]
        else:
            assert kinds_of(elements) == [1, 1, 2, 1]
        assert kinds_of(elements, with_dictionaries=False) == [1, 1, 2, 1]


@pytest.mark.parametrize("code", ["i4", "i8"])
def test_a_dictionary_only_where_words_take_more_than_a_byte(code: str) -> None:
    for base in (0, -128, int(np.iinfo(code).min), int(np.iinfo(code).max) - 256):
        rows = [[base, base + span] * 4 for span in (1, 2, 16, 255, 256)]
        assert kinds_of(np.array(rows, code)) == [1, 1, 1, 1, 3]


@st.composite
def matrices(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Rows of every kind side by side."""
    code = draw(st.sampled_from(["i4", "i8"]))
    low, high = int(np.iinfo(code).min), int(np.iinfo(code).max)
    anything = st.integers(low, high) | st.sampled_from([low, high, -1, 0])
    size = draw(st.integers(0, 40))
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        few = draw(st.lists(anything, min_size=1, max_size=6))
        base = draw(st.integers(low, high - 300))
        near = st.integers(base, base + draw(st.integers(0, 300)))
        element = draw(st.sampled_from([anything, st.sampled_from(few), near]))
        rows.append(draw(st.lists(element, min_size=size, max_size=size)))
    return np.array(rows, code).reshape(len(rows), size)


@given(matrices(), st.booleans())
@example(np.empty((3, 0), np.int32), True)
@example(np.empty((0, 5), np.int64), True)
@example(np.empty((0, 0), np.int64), False)
def test_matrices(elements: npt.NDArray[Any], with_dictionaries: bool) -> None:
    check(elements, with_dictionaries)


def test_buffers_of_every_kind_side_by_side() -> None:
    ids = np.array([[-7] * 8, [-9, 6] * 4, [1, -(2**31)] * 4, range(0, 8000, 1000)], np.int32)
    lengths = np.array([[1, 2, 3000]])
    numbers = np.array([[1.5, -0.0]], np.float32)
    buffers = Buffers()
    last, *first = buffers.rows(ids, IDS)
    buffers.add(first)
    buffers.add([ones(5), *buffers.rows(lengths, LENGTHS), ones(0)])
    buffers.add(buffers.rows(numbers, FLOATS))
    buffers.add([last])
    expected = [laid(row, with_dictionaries=True) for row in ids[1:].tolist()]
    expected += [laid(row, with_dictionaries=False) for row in ([1] * 5, [1, 2, 3000], [])]
    words = numbers.view(np.uint32)[0].tolist()
    expected += [Laid([1, 32, 0, 0, 2], [], planes_of(words, 32)), laid([-7] * 8, True)]
    layouts = lay_out(buffers)
    assert [entry[:2] for entry in described(layouts)] == [
        *([1, 4], [3, 1], [1, 16], [2, 0], [1, 12], [2, 0], [1, 32], [2, 0])
    ]
    assert described(layouts) == [each.table for each in expected]
    written(buffers, layouts, [each.written for each in expected])


@pytest.mark.parametrize("code", ["i4", "i8"])
def test_matrices_of_any_strides_and_read_only_ones(code: str) -> None:
    elements = (np.arange(3000).reshape(2, 1500) % 7 << 20).astype(code)
    elements.flags.writeable = False
    for view in (elements, elements[:, ::3], elements[::-1], elements.T[:50]):
        check(view)


@given(st.lists(st.floats(width=32), max_size=20))
@example([0.0, -0.0, float("nan"), float("inf")])
@example([1.5] * 1025)
def test_numbers_are_written_bit_by_bit(values: list[float]) -> None:
    numbers = np.array([values], np.float32)
    buffers = buffers_of(numbers, FLOATS)
    layouts = lay_out(buffers)
    assert described(layouts) == [[1, 32, 0, 0, len(values)]]
    words = numbers.view(np.uint32)[0].tolist()
    written(buffers, layouts, [planes_of(words, 32)])


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(
    ("tops", "width"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 0), (256, 0)]
)
def test_numbers_of_few_highest_bytes(bits: int, tops: int, width: int) -> None:
    rng = np.random.default_rng(tops)
    # The ends, and those of signed numbers around 1.
    known = [0, 255, 0x3F, 0xBF, 0x40, 0xC0, *(top for top in range(256) if top not in {0, 255})]
    known = list(dict.fromkeys(known))[:tops]
    for size in (64 * tops - 1, 64 * tops, 64 * tops + 1, 1024 + 64 * tops):
        chosen = np.concatenate([known, rng.choice(known, size - tops)])
        below = rng.integers(0, 1 << (bits - 8), size, np.uint64)
        words = (chosen.astype(np.uint64) << np.uint64(bits - 8)) | below
        laid = check_numbers(words.astype(np.uint64 if bits == 64 else np.uint32), bits)
        is_coded = width > 0 and size >= 64 * tops
        assert laid.table[:2] == ([4, bits - 8 + width] if is_coded else [1, bits])


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(
    ("distinct", "width"), [(1, 0), (2, 1), (3, 2), (5, 4), (17, 8), (256, 8), (257, 0)]
)
def test_numbers_of_few_distinct_ones(bits: int, distinct: int, width: int) -> None:
    """Over all bits of the highest byte, so that a dictionary of these is none of a few."""
    rng = np.random.default_rng(distinct)
    spread = rng.permutation(1 << 16)[:distinct].astype(np.uint64)
    known = spread << np.uint64(bits - 16)
    for size in (16 * distinct - 1, 16 * distinct, 16 * distinct + 1, 1024 + 16 * distinct):
        words = np.concatenate([known, rng.choice(known, size - distinct)])
        laid = check_numbers(words.astype(np.uint64 if bits == 64 else np.uint32), bits)
        is_coded = width > 0 and size >= 16 * distinct
        assert (laid.table[:2] == [3, width]) == is_coded


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("place", [0, 1023, 1024, -1])
def test_a_highest_byte_that_the_dictionary_lacks_is_refused(bits: int, place: int) -> None:
    dtype = np.uint64 if bits == 64 else np.uint32
    # More distinct ones than a dictionary of whole numbers holds.
    words = (np.arange(1300) % 3 * 5 << (bits - 8) | np.arange(1300) % 256).astype(dtype)
    kind = FLOATS if bits > 16 else HALVES
    shown = words.view({64: np.float64, 32: np.float32}.get(bits, np.uint32))
    layouts = lay_out(buffers_of(shown[None], kind))
    arena = np.zeros(layouts.size_bytes, np.uint8)
    for lacking in (1, 4, 11, 255):
        other = words.copy()
        other[place] = lacking << (bits - 8)
        numbers = other.view(shown.dtype)
        with pytest.raises(ValueError, match="elements that its dictionary lacks"):
            write_buffers(buffers_of(numbers[None], kind), layouts, arena)


@pytest.mark.parametrize("start", [-(2**63), -1, 2, 2**40, 2**63 - 1])
def test_buffers_that_leave_the_arena_or_overlap_are_refused(start: int) -> None:
    buffers = buffers_of(np.array([[1, 2, 60_000], [4, 5, 60_000]]), IDS)
    layouts = lay_out(buffers)
    arena = np.zeros(128, np.uint8)
    for buffer in (0, 1):
        other = layouts._replace(table=layouts.table.copy())
        other.table[buffer, 1] = start
        if (buffer, start) == (0, 2):
            write_buffers(buffers, other, arena.copy())
            continue
        with pytest.raises(ValueError, match="leave an arena of 128 bytes, or overlap"):
            write_buffers(buffers, other, arena)
    with pytest.raises(ValueError, match="leave an arena of 69 bytes"):
        write_buffers(buffers, layouts, arena[:69])
    assert not arena.any()


def test_buffers_that_are_laid_out_as_others_are_refused() -> None:
    arena = np.zeros(999, np.uint8)
    elements = np.array([[1, 2, 3], [4, 5, 6]])
    layouts = lay_out(buffers_of(elements, IDS))
    for other in (elements[:, :2], np.tile(elements, 2)):
        with pytest.raises(ValueError, match="as of another number of elements"):
            write_buffers(buffers_of(other, IDS), layouts, arena)
    for rows in (elements[:1], np.tile(elements, (2, 1))):
        with pytest.raises(ValueError, match=f"2 layouts of {len(rows)} buffers"):
            write_buffers(buffers_of(rows, IDS), layouts, arena)
    assert not arena.any()


@pytest.mark.parametrize("code", ["i4", "i8"])
@pytest.mark.parametrize("entries", [2, 256])
@pytest.mark.parametrize("place", [0, 1023, 1024, -1])
def test_a_value_that_the_dictionary_lacks_is_refused(code: str, entries: int, place: int) -> None:
    elements = np.tile((np.arange(entries) - 1) << 20, 1280 // entries)[np.newaxis].astype(code)
    layouts = lay_out(buffers_of(elements, IDS))
    arena = np.zeros(layouts.size_bytes, np.uint8)
    for lacking in (-5, 5, int(np.iinfo(code).min), int(np.iinfo(code).max)):
        other = elements.copy()
        other[0, place] = lacking
        with pytest.raises(ValueError, match="elements that its dictionary lacks"):
            write_buffers(buffers_of(other, IDS), layouts, arena)
