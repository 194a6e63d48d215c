"""Runs found by content: the same rows, kept once per run where values repeat."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.frame import Bytes, Column, Flat, Frame, Jagged, Opaque, Runs
from preprocessor_server.runs import find_runs, join_starts, sample_rows

DTYPES = ["?", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8"]

# A value of a row: None, the bytes of a number or a string, a tuple of those, or a decimal.
Value = Any


def flat(values: Sequence[bytes | None], code: str) -> Flat:
    """Numbers from their bytes; what a null holds differs from row to row."""
    size = np.dtype(code).itemsize
    filler = (bytes([i % 2]) + bytes(size - 1) for i in range(len(values)))
    data = b"".join(f if v is None else v for v, f in zip(values, filler, strict=True))
    valid = np.array([v is not None for v in values], np.bool_)
    return Flat(np.frombuffer(data, code), None if valid.all() else valid)


def strings(values: Sequence[bytes | None], skipped: int = 0) -> Bytes:
    """Strings behind a few bytes that belong to none; a null may hold some."""
    parts = [b"?" * (i % 2) if v is None else v for i, v in enumerate(values)]
    offsets = skipped + np.cumsum([0, *map(len, parts)])
    valid = np.array([v is not None for v in values], np.bool_)
    data = np.frombuffer(b"x" * skipped + b"".join(parts), np.uint8)
    return Bytes(offsets, data, None if valid.all() else valid)


def jagged(lists: Sequence[tuple[Value, ...]], code: str | None) -> Jagged:
    """Lists of numbers, or of strings where there is no dtype."""
    elements = [value for each in lists for value in each]
    offsets = np.cumsum([0, *map(len, lists)])
    return Jagged(offsets, strings(elements) if code is None else flat(elements, code))


def values_of(column: Column) -> list[Value]:
    match column:
        case Flat(values, valid):
            return [
                None if valid is not None and not valid[i] else values[i].tobytes()
                for i in range(len(values))
            ]
        case Bytes(offsets, data, valid):
            return [
                None
                if valid is not None and not valid[i]
                else data[offsets[i] : offsets[i + 1]].tobytes()
                for i in range(len(column))
            ]
        case Opaque(array):
            return array.to_pylist()  # type: ignore[no-any-return]
        case Jagged(offsets, elements):
            inner = values_of(elements)
            return [tuple(inner[offsets[i] : offsets[i + 1]]) for i in range(len(column))]


def rows_of(frame: Frame) -> dict[str, list[Value]]:
    return {name: values_of(column) for name, column in frame.expanded().columns.items()}


def numbers(code: str) -> st.SearchStrategy[bytes]:
    """The bytes of a few numbers of a dtype, NaN and -0.0 among them."""
    few: list[float] = [0, 1] if code == "?" else [0, 1, 2]
    if code.startswith("f"):
        few += [-0.0, np.nan, np.inf]
    return st.sampled_from([np.array(value, code).tobytes() for value in few])


@st.composite
def columns(draw: st.DrawFn, count: int) -> Column:
    """A column of any kind whose rows often repeat the one before."""
    code = draw(st.sampled_from(DTYPES))
    short = st.sampled_from([b"", b"a", b"b", b"ab"])
    kind = draw(st.sampled_from(["flat", "bytes", "jagged", "words", "opaque", "coded"]))
    value: st.SearchStrategy[Value] = {
        "flat": st.none() | numbers(code),
        "bytes": st.none() | short,
        "jagged": st.lists(st.none() | numbers(code), max_size=3).map(tuple),
        "words": st.lists(st.none() | short, max_size=3).map(tuple),
        "opaque": st.none() | st.integers(0, 2).map(Decimal),
        "coded": st.none() | short,
    }[kind]
    values: list[Value] = []
    while len(values) < count:
        values += [draw(value)] * draw(st.integers(1, 6))
    values = values[:count]
    match kind:
        case "flat":
            return flat(values, code)
        case "bytes":
            return strings(values, draw(st.integers(0, 2)))
        case "opaque":
            return Opaque(pa.array(values, pa.decimal128(3)))
        case "coded":
            return Opaque(pa.array(values, pa.binary()).dictionary_encode())
        case _:
            return jagged(values, code if kind == "jagged" else None)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Rows with run structures beside them, some with runs that no row refers to."""
    count = draw(st.integers(0, 12))
    of_rows = {f"c{i}": draw(columns(count)) for i in range(draw(st.integers(0, 4)))}
    runs = []
    for number in range(draw(st.integers(0, 2))):
        of_runs = draw(st.integers(1, 6))
        inverse = draw(st.lists(st.integers(0, of_runs - 1), min_size=count, max_size=count))
        held = {f"r{number}{i}": draw(columns(of_runs)) for i in range(draw(st.integers(0, 3)))}
        runs.append(Runs(np.array(sorted(inverse), np.int32), held))
    return Frame(count, of_rows, tuple(runs))


@given(frames())
def test_the_same_rows_bit_by_bit(frame: Frame) -> None:
    found = find_runs(frame)
    assert found.row_count == frame.row_count
    assert rows_of(found) == rows_of(frame)
    assert sorted(found.names()) == sorted(frame.names())
    for runs in found.runs:
        assert runs.inverse.dtype == np.int32
        assert np.all(np.diff(runs.inverse) >= 0)
        assert runs.columns
        assert len({len(column) for column in runs.columns.values()}) == 1


@given(frames())
def test_columns_are_kept_once_per_run_where_they_repeat(frame: Frame) -> None:
    found = find_runs(frame)
    for name, column in frame.columns.items():
        values = values_of(column)
        if any(isinstance(value, tuple) and None in value for value in values):
            # What nulls in lists hold counts too.
            continue
        changes = sum(i == 0 or values[i] != values[i - 1] for i in range(len(values)))
        kept = found.column(name)[0]
        uncompared = isinstance(column, Opaque) and pa.types.is_decimal(column.array.type)
        if uncompared or len(values) < 2 or 2 * changes > len(values):
            assert kept is column
        else:
            # Never more than an eighth above what it needs; see join_starts.
            assert changes <= len(kept) <= 9 * changes / 8, name


EVERY_KIND = [
    *(flat([bytes([1]) * np.dtype(code).itemsize] * 4, code) for code in DTYPES if code != "?"),
    flat([b"\1"] * 4, "?"),
    flat([None] * 4, "f4"),
    strings([b"ab"] * 4),
    strings([None] * 4),
    jagged([(b"\1", None)] * 4, "i1"),
    jagged([()] * 4, "i8"),
    jagged([(b"ab", b"", b"c")] * 4, None),
]


@pytest.mark.parametrize("column", EVERY_KIND, ids=lambda c: f"{type(c).__name__}")
def test_a_column_that_repeats_is_found(column: Column) -> None:
    found = find_runs(Frame(4, {"x": column}))
    assert found.columns == {}
    (runs,) = found.runs
    assert runs.inverse.tolist() == [0, 0, 0, 0]
    assert len(runs.columns["x"]) == 1


def test_what_is_equal_but_not_the_same_is_told_apart() -> None:
    zeros = flat([np.array(z, "f8").tobytes() for z in (0.0, 0.0, -0.0, -0.0)], "f8")
    # The same bytes, cut at other places; a null beside an empty string.
    words = jagged([(b"ab", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"a", b"bc")], None)
    nulls = strings([None, None, b"", b""])
    found = find_runs(Frame(4, {"zeros": zeros, "words": words, "nulls": nulls}))
    (runs,) = found.runs
    assert runs.inverse.tolist() == [0, 0, 1, 1]
    assert list(runs.columns) == ["zeros", "words", "nulls"]


def ids(values: npt.NDArray[np.int64]) -> Flat:
    return Flat(values)


def lists(keys: npt.NDArray[np.int64]) -> Jagged:
    """A list of three a row, another one for each key."""
    return Jagged(np.arange(len(keys) + 1) * 3, Flat(np.repeat(keys, 3) * 7))


def test_users_with_equal_lists_are_not_merged_in_other_columns() -> None:
    users = np.repeat([1, 2, 3], 4)
    found = find_runs(Frame(12, {"user": ids(users), "liked": lists(np.repeat([5, 5, 6], 4))}))
    assert len(found.column("user")[0]) == 3
    assert len(found.column("liked")[0]) == 2
    assert rows_of(found)["user"] == values_of(ids(users))


def test_two_structures_stand_side_by_side() -> None:
    requests, users = np.repeat(np.arange(24), 4), np.repeat(np.arange(6), 16)
    frame = Frame(
        96,
        {
            "item": ids(np.arange(96)),
            "hour": ids(requests),
            "user": ids(users),
            "device": lists(requests),
            "liked": lists(users),
        },
    )
    found = find_runs(frame)
    assert list(found.columns) == ["item"]
    assert sorted(list(runs.columns) for runs in found.runs) == [
        ["hour", "device"],
        ["user", "liked"],
    ]
    assert [len(found.column(name)[0]) for name in ("hour", "user")] == [24, 6]
    assert rows_of(found) == rows_of(frame)


def test_runs_of_runs_are_found() -> None:
    """Users in a file that is grouped by request."""
    requests, users = np.arange(24), np.repeat(np.arange(6), 4)
    inverse = np.repeat(np.arange(1, 24), 3).astype(np.int32)
    frame = Frame(69, {}, (Runs(inverse, {"hour": ids(requests), "user": ids(users)}),))
    found = find_runs(frame)
    assert [list(runs.columns) for runs in found.runs] == [["hour"], ["user"]]
    assert [len(found.column(name)[0]) for name in ("hour", "user")] == [24, 6]
    assert rows_of(found) == rows_of(frame)


def test_nearly_equal_runs_are_joined() -> None:
    users = np.repeat(np.arange(40), 5)
    nearly = users.copy()
    nearly[:5] = users[5]
    apart = np.repeat(np.arange(20), 10)
    found = find_runs(
        Frame(200, {"user": ids(users), "nearly": lists(nearly), "apart": lists(apart)})
    )
    assert [list(runs.columns) for runs in found.runs] == [["user", "nearly"], ["apart"]]


def test_joined_runs_are_at_most_an_eighth_more_than_a_member_needs() -> None:
    def starts(*rows: int) -> npt.NDArray[np.bool_]:
        mask = np.zeros(100, np.bool_)
        mask[list(rows)] = True
        return mask

    nine, eight, seven = starts(*range(9)), starts(*range(8)), starts(*range(7))
    joined = join_starts([seven, None, eight, nine])
    assert [group.members for group in joined] == [[3, 2], [0]]
    assert joined[0].starts.tolist() == nine.tolist()
    # The starts of a group are those of all members.
    (both,) = join_starts([starts(*range(16), 50), starts(*range(15), 60)])
    assert np.flatnonzero(both.starts).tolist() == [*range(16), 50, 60]
    fewer = [starts(*range(14), 50), starts(*range(13), 60)]
    assert [group.members for group in join_starts(fewer)] == [[0], [1]]
    assert join_starts([]) == []


def test_looking_for_runs_where_there_are_none_stops_early() -> None:
    sampled = sample_rows(100_000)
    assert len(sampled) < 1000
    # Values that repeat wherever none looks: left as they are, whatever the kind of column.
    keys = np.zeros(100_000, np.int64)
    keys[sampled] = np.arange(1, len(sampled) + 1)
    words = np.frombuffer(np.repeat(keys, 2).tobytes(), np.uint8)
    kinds: tuple[Column, ...] = (
        Flat(keys),
        lists(keys),
        Bytes(np.arange(100_001) * 16, words),
        Jagged(np.arange(100_001), Bytes(np.arange(100_001) * 16, words)),
    )
    for kind in kinds:
        assert find_runs(Frame(100_000, {"x": kind})).columns["x"] is kind
    # Where the sample repeats, all rows are looked at.
    repeated = np.repeat(np.arange(50_000), 2)
    assert len(find_runs(Frame(100_000, {"x": Flat(repeated)})).column("x")[0]) == 50_000


@pytest.mark.parametrize("codes", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
@pytest.mark.parametrize("skipped", [0, 3])
def test_dictionaries_have_the_runs_of_their_strings(codes: pa.DataType, skipped: int) -> None:
    values = [b"a", b"a", None, None, b"b", b"b", b"b", b"a", b"a", b"a", None, None]
    coded = pa.array([*[None] * skipped, *values]).dictionary_encode()
    coded = coded.cast(pa.dictionary(codes, pa.binary())).slice(skipped)
    lists = Jagged(np.arange(len(values) + 1), Opaque(coded))
    found = find_runs(Frame(len(values), {"x": Opaque(coded), "lists": lists}))
    (runs,) = found.runs
    assert runs.inverse.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert values_of(runs.columns["x"]) == [b"a", None, b"b", b"a", None]
    assert set(runs.columns) == {"x", "lists"}
