"""Byte planes against plain Python: every width, dictionaries, and the ends of blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import ids_planes, list_planes, planes_bytes, word_planes

WIDTHS = [width for width in range(65) if width % 8 in {0, 1, 2, 4}]
# Kernels work on blocks of 1024 values.
SIZES = [0, 1, 7, 8, 9, 1023, 1024, 1025, 2048, 3001]
NO_WORDS = np.empty(0, np.int64)
WORD = 2**64


def planes_of(words: list[int], width: int) -> bytes:
    """The byte planes of words, as docs/compact_batch.md has them."""
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


def write_lists(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.signedinteger],
    rows: list[int],
    count: int,
    base: int,
    width: int,
    dictionary: npt.NDArray[np.int64] = NO_WORDS,
) -> bytes:
    planes = np.full(planes_bytes(count, width), 0xAA, np.uint8)
    list_planes(offsets, values, np.array(rows, np.int64), count, base, width, dictionary, planes)
    return planes.tobytes()


@given(st.integers(0, 3000), st.sampled_from(WIDTHS))
def test_planes_bytes_is_the_size_of_planes(count: int, width: int) -> None:
    assert planes_bytes(count, width) == len(planes_of([0] * count, width))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", WIDTHS)
def test_lists_of_every_width_and_size(width: int, size: int) -> None:
    rng = np.random.default_rng(width * 5000 + size)
    words = [int(word) >> 64 - width if width else 0 for word in rng.integers(0, WORD, size, "u8")]
    base = int(rng.integers(-(2**63), 2**63))
    values = np.array([(base + word) % WORD for word in words], np.uint64).view(np.int64)
    offsets = np.array([0, size // 3, size // 3, size])
    assert write_lists(offsets, values, [0, 1, 2], size, base, width) == planes_of(words, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [width for width in WIDTHS if width <= 32])
def test_int32_lists_and_words_of_every_width_and_size(width: int, size: int) -> None:
    rng = np.random.default_rng(width * 5000 + size)
    words = rng.integers(0, 2**width, size).tolist()
    base = int(rng.integers(-(2**31), 2**31 - 2**width + 1))
    values = np.array([base + word for word in words], np.int32)
    expected = planes_of(words, width)
    assert write_lists(np.array([0, size]), values, [0], size, base, width) == expected
    planes = np.full(len(expected), 0xAA, np.uint8)
    word_planes(values, base, width, planes)
    assert planes.tobytes() == expected


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), min_size=1, max_size=8),
    st.data(),
)
def test_the_ends_of_int64_and_rows_in_any_order(
    lists: list[list[int]], data: st.DataObject
) -> None:
    row = st.integers(0, len(lists) - 1)
    stretch = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    rows = [row for rows in data.draw(st.lists(stretch, max_size=4)) for row in rows]
    taken = [value for row in rows for value in lists[row]]
    base = data.draw(st.sampled_from([0, -(2**63), 2**63 - 1, min(taken, default=0)]))
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for each in lists for value in each], np.int64)
    expected = planes_of([(value - base) % WORD for value in taken], 64)
    assert write_lists(offsets, values, rows, len(taken), base, 64) == expected


@pytest.mark.parametrize("code", ["i4", "i8"])
@pytest.mark.parametrize(
    ("entries", "width"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (255, 8), (256, 8)]
)
@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 2500])
def test_dictionaries(code: str, entries: int, width: int, size: int) -> None:
    bounds = np.iinfo(code)
    ends = [int(bounds.min), int(bounds.max)]
    # The ends of the dtype, and numbers that agree in their lowest bits.
    others = [(i - entries // 2) << 20 for i in range(entries - 2)]
    dictionary = np.array(sorted({*ends, *others}), np.int64)
    assert len(dictionary) == entries
    codes = np.random.default_rng(size).integers(0, entries, size)
    values = dictionary[codes].astype(code)
    written = write_lists(np.array([0, size]), values, [0], size, 0, width, dictionary)
    assert written == planes_of(codes.tolist(), width)


@pytest.mark.parametrize("code", ["i4", "i8"])
@pytest.mark.parametrize("size", [1, 1024])
def test_a_value_that_the_dictionary_lacks_is_refused(code: str, size: int) -> None:
    values = np.full(size, -5, code)
    for dictionary in ([5], [0, 7], list(range(256))):
        with pytest.raises(ValueError, match="values that a dictionary"):
            write_lists(
                np.array([0, size]), values, [0], size, 0, 8, np.array(dictionary, np.int64)
            )


@pytest.mark.parametrize("code", ["i4", "i8"])
@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_ids_of_every_kind_side_by_side(code: str, size: int) -> None:
    bounds = np.iinfo(code)
    rng = np.random.default_rng(size)
    few = np.array([int(bounds.min), -5, 3, int(bounds.max)], np.int64)
    columns: list[tuple[npt.NDArray[np.int64], int, int, npt.NDArray[np.int64]]] = [
        (np.full(size, -7), 0, -7, NO_WORDS),
        (rng.integers(-9, 7, size), 4, -9, NO_WORDS),
        (few[rng.integers(0, 4, size)], 2, 0, few),
        (rng.integers(bounds.min, bounds.max, size), bounds.bits, int(bounds.min), NO_WORDS),
        (few[:2][rng.integers(0, 2, size)], 1, 0, few[:2]),
    ]
    arena = np.full(100_000, 0xAA, np.uint8)
    expected = bytearray(arena.tobytes())
    buffers, end = [], 0
    for values, width, base, dictionary in columns:
        buffers.append((end + 5, width, base, dictionary))
        known = dictionary.tolist()
        words = [known.index(v) if known else (v - base) % WORD for v in values.tolist()]
        planes = planes_of(words, width)
        expected[end + 5 : end + 5 + len(planes)] = planes
        end += 5 + len(planes)
    ids = np.array([values for values, *_ in columns]).astype(code)
    ids.flags.writeable = False
    ids_planes(ids, buffers, arena)
    assert arena.tobytes() == bytes(expected)


def test_ids_that_leave_the_arena_or_the_dictionary_are_refused() -> None:
    ids = np.array([[1, 2, 3]], np.int64)
    for at in (-1, 1, 2**40):
        with pytest.raises(ValueError, match="leave the arena"):
            ids_planes(ids, [(at, 64, 0, NO_WORDS)], np.zeros(24, np.uint8))
    for dictionary in ([1, 2], [-3, 1, 2]):
        with pytest.raises(ValueError, match="lacks"):
            ids_planes(ids, [(0, 8, 0, np.array(dictionary))], np.zeros(3, np.uint8))


@given(st.lists(st.floats(width=32), max_size=20))
@example([0.0, -0.0, float("nan"), float("inf")])
def test_numbers_are_written_bit_by_bit(values: list[float]) -> None:
    column = np.array(values, np.float32)
    planes = np.full(4 * len(values), 0xAA, np.uint8)
    word_planes(column, 0, 32, planes)
    assert planes.tobytes() == planes_of(column.view(np.uint32).tolist(), 32)


def test_read_only_arrays_are_taken() -> None:
    offsets, values, numbers = np.array([0, 2]), np.array([1, 2]), np.zeros(1, np.int32)
    for array in (offsets, values, numbers):
        array.flags.writeable = False
    assert write_lists(offsets, values, [0], 2, 0, 8) == b"\1\2"
    word_planes(numbers, 0, 8, np.zeros(1, np.uint8))


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    offsets, values = np.array([0, 2, 3]), np.array([1, 2, 3])
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            write_lists(offsets, values, rows, 3, 0, 8)


@pytest.mark.parametrize("count", [0, 2, 4, 1024, 2048])
def test_counts_that_the_rows_do_not_have_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"do not hold {count} values"):
        write_lists(np.array([0, 3]), np.array([1, 2, 3]), [0], count, 0, 8)
    many = np.zeros(1025, np.int64)
    with pytest.raises(ValueError, match=f"do not hold {count} values"):
        write_lists(np.array([0, 1025]), many, [0], count, 0, 8)


def test_planes_of_another_size_are_refused() -> None:
    offsets, values, rows = np.array([0, 3]), np.array([1, 2, 3]), np.array([0])
    for size in (0, 2, 4):
        planes = np.zeros(size, np.uint8)
        with pytest.raises(ValueError, match="bytes for 3 words"):
            list_planes(offsets, values, rows, 3, 0, 8, NO_WORDS, planes)
        with pytest.raises(ValueError, match="bytes for 3 words"):
            word_planes(np.zeros(3, np.int32), 0, 8, planes)


def test_words_that_do_not_fit_are_refused() -> None:
    values = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="40 bits are too large"):
        write_lists(np.array([0, 1]), values, [0], 1, 0, 40)
    with pytest.raises(ValueError, match="dictionary of 257"):
        write_lists(np.array([0, 1]), values, [0], 1, 0, 8, np.arange(257))
