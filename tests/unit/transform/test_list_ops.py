"""Operations on lists against plain Python, on every type, whole and row by row."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.errors import DataError
from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.ops.base import UnfitError
from preprocessor_server.transform.place import Place
from tests.fakes.one_op import (
    ANYTHING,
    FLOATS,
    INTEGERS,
    STRINGS,
    WITH_WORDS,
    apply,
    compiled,
    lists,
    read,
    shown,
    value_of,
)

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15
BOUNDS = st.integers(-9, 9) | st.sampled_from([-(2**31), 2**31 - 1])
SEEDS = st.integers(0, WORD - 1)
HASHED = {**INTEGERS, **STRINGS, pa.bool_(): st.booleans()}
NUMBERS = {**INTEGERS, **FLOATS}


def some_lists(types: dict[pa.DataType, st.SearchStrategy[Any]]) -> st.SearchStrategy[pa.Array]:
    return st.sampled_from(list(types)).flatmap(lambda arrow: lists(arrow, types[arrow]))


def check(op: dict[str, Any], array: pa.Array, reference: Callable[[list[Any]], Any]) -> None:
    """An operation gives what the reference gives for each list; a null one counts as empty."""
    expected = [reference(row or []) for row in value_of(array)]
    assert shown(apply(op, array)) == shown(expected)


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def fold(state: int, word: int) -> int:
    return mix(((state ^ word) + GAMMA) % WORD)


def word(value: Any, seed: int) -> int:
    """What stands for a value in a hash."""
    match value:
        case bytes():
            return int(xxhash.xxh64_intdigest(value, seed)) >> 32
        case float():
            return int(np.float64(math.nan if is_nan(value) else value).view(np.uint64))
        case _:
            return int(value) % WORD


@given(some_lists(ANYTHING), st.integers(1, 9) | st.just(2**31 - 1))
def test_head(array: pa.Array, count: int) -> None:
    check({"head": {"count": count}}, array, lambda row: row[:count])


@given(some_lists(ANYTHING), BOUNDS, st.none() | BOUNDS)
def test_slice(array: pa.Array, start: int, stop: int | None) -> None:
    op: dict[str, Any] = {"start": start}
    if stop is not None:
        op["stop"] = stop
    check({"slice": op}, array, lambda row: row[start:stop])


@given(some_lists(ANYTHING))
def test_list_length_and_enumerate(array: pa.Array) -> None:
    check({"listLength": {}}, array, len)
    check({"enumerate": {}}, array, lambda row: list(range(len(row))))


@given(some_lists(WITH_WORDS), st.integers(1, 9))
def test_pad(array: pa.Array, length: int) -> None:
    kind = array.type.value_type
    text = kind in STRINGS
    value: Any = b"!?" if text else True if pa.types.is_boolean(kind) else 1
    if kind in FLOATS:
        value = 1.0
    given_value = {"text": "!?"} if text else {"integer": 1}
    check(
        {"pad": {"length": length, "value": given_value}},
        array,
        lambda row: row + [value] * (length - len(row)),
    )


def test_pad_with_an_empty_string_and_nan() -> None:
    strings = pa.array([[], ["a", None]], pa.list_(pa.string()))
    padded = apply({"pad": {"length": 3, "value": {"text": ""}}}, strings)
    assert padded == [[b"", b"", b""], [b"a", None, b""]]
    floats = pa.array([None], pa.list_(pa.float32()))
    assert shown(apply({"pad": {"length": 1, "value": {"number": "NaN"}}}, floats)) == "[[nan]]"


def aggregated(by: str, row: list[Any]) -> Any:
    known = [value for value in row if value is not None]
    nans = any(is_nan(value) for value in known)
    match by:
        case "COUNT":
            return len(known)
        case "FIRST":
            return known[0] if known else None
        case "LAST":
            return known[-1] if known else None
        case "SUM":
            return left_to_right(known) if any(isinstance(v, float) for v in known) else sum(known)
        case "MEAN":
            return left_to_right(known) / len(known) if known else None
        case "MIN" | "MAX":
            if nans:
                return math.nan
            best = {"MIN": min, "MAX": max}[by](known, default=None)
            return best + 0.0 if isinstance(best, float) else best
    raise AssertionError(by)


def left_to_right(values: list[Any]) -> float:
    # Not sum(), which makes up for what is rounded off.
    return functools.reduce(lambda total, value: total + float(value), values, 0.0)


@given(st.sampled_from(["COUNT", "FIRST", "LAST"]), some_lists(ANYTHING))
def test_aggregates_of_anything(by: str, array: pa.Array) -> None:
    op = {"listAggregate": {"by": f"AGGREGATION_{by}"}}
    check(op, array, functools.partial(aggregated, by))


@given(st.sampled_from(["SUM", "MEAN", "MIN", "MAX"]), some_lists(NUMBERS))
@example("MEAN", pa.array([[0.1] * 30, [1e308, 1e308], [math.inf, -math.inf]]))
@example("MIN", pa.array([[0.0, -0.0], [-0.0]]))
@example("SUM", pa.array([[0.1] * 1000, [-0.0]]))
def test_aggregates_of_numbers(by: str, array: pa.Array) -> None:
    op = {"listAggregate": {"by": f"AGGREGATION_{by}"}}
    floats = array.type.value_type in FLOATS
    reference = functools.partial(aggregated, by)
    if by == "SUM" and floats:
        check(op, array, lambda row: float(reference(row)))
        return
    if by == "SUM":
        sums = [reference(row or []) for row in value_of(array)]
        if any(not -(2**63) <= total < 2**63 for total in sums):
            with pytest.raises(DataError) as caught:
                apply(op, array)
            bad = [not -(2**63) <= total < 2**63 for total in sums]
            assert caught.value.reason == "VALUE_OUT_OF_RANGE"
            assert (
                f"{sum(bad)} sums of lists are no int64, first at row {bad.index(True)} of"
                in caught.value.message
            )
            return
    check(op, array, reference)


def test_sums_that_just_fit() -> None:
    op = {"listAggregate": {"by": "AGGREGATION_SUM"}}
    big = 2**63 - 1
    array = pa.array([[big, 1, -1], [-big, -1], [-(2**63), big, big, -big], []])
    assert apply(op, array) == [big, -(2**63), -1, 0]
    unsigned = pa.array([[2**63 - 2, 1], [2**62, 2**62 - 1]], pa.list_(pa.uint64()))
    assert apply(op, unsigned) == [big, big]
    for beyond in ([[big, 1]], [[-big, -1, -1]], pa.array([[2**63]], unsigned.type)):
        with pytest.raises(DataError, match="1 sums of lists are no int64, first at row 0"):
            apply(op, pa.array(beyond))


@given(some_lists(WITH_WORDS))
def test_deduplicate(array: pa.Array) -> None:
    def reference(row: list[Any]) -> list[Any]:
        found: dict[Any, Any] = {}
        for value in row:
            # 0.0 and -0.0 are one key, nan is none of its own.
            found.setdefault("nan" if is_nan(value) else value, value)
        return list(found.values())

    check({"deduplicate": {}}, array, reference)


@given(some_lists(WITH_WORDS), st.booleans())
@example(pa.array([[2**63 - 1, -(2**63), None, 0], [5, None, 4]]), True)
@example(pa.array([[2**64 - 1, 0, 2**32, 2**32 - 1]], pa.list_(pa.uint64())), True)
@example(pa.array([[0.0, -0.0, 0.0], [math.nan, None, -math.inf, math.inf]]), True)
def test_sort(array: pa.Array, descending: bool) -> None:
    def reference(row: list[Any]) -> list[Any]:
        nulls = [value for value in row if value is None]
        nans = [value for value in row if is_nan(value)]
        rest = [value for value in row if value is not None and not is_nan(value)]
        return [*sorted(rest, reverse=descending), *nans, *nulls]

    check({"sort": {"descending": descending}}, array, reference)


@given(
    some_lists(HASHED),
    st.integers(1, 5) | st.just(64),
    st.integers(1, 2**32) | st.sampled_from([1, 2**32]),
    SEEDS,
)
def test_n_gram(array: pa.Array, n: int, num_buckets: int, seed: int) -> None:
    def one(values: list[Any]) -> int | None:
        if None in values:
            return None
        state = fold(0, seed)
        for value in values:
            state = fold(state, word(value, seed))
        return (state >> 32) * num_buckets >> 32

    op = {"nGram": {"n": n, "numBuckets": str(num_buckets), "seed": str(seed)}}
    check(op, array, lambda row: [one(row[i : i + n]) for i in range(len(row) - n + 1)])


@given(some_lists(WITH_WORDS), st.integers(1, 6), SEEDS)
def test_sample(array: pa.Array, count: int, seed: int) -> None:
    def reference(row: list[Any]) -> list[Any]:
        total = 0
        for place, value in enumerate(row):
            if value is not None:
                total += fold(fold(fold(0, seed), word(value, seed)), place)
        keys = [fold(total % WORD, place) >> 32 for place in range(len(row))]
        kept = sorted(range(len(row)), key=lambda place: (keys[place], place))[:count]
        return [row[place] for place in sorted(kept)]

    check({"sample": {"count": count, "seed": str(seed)}}, array, reference)


def test_samples_are_fair() -> None:
    """Over many lists each place is kept about as often, and seeds choose other elements."""
    rng = np.random.default_rng(1)
    array = pa.array(list(rng.integers(0, 1000, (4000, 8))), pa.list_(pa.int64()))
    numbered = pa.array([[i * 8 + j for j in range(8)] for i in range(4000)])
    kept = np.array(apply_whole({"sample": {"count": 2}}, numbered)) % 8
    counts = np.bincount(kept.ravel(), minlength=8)
    # 1000 each, with a standard deviation of 27.
    assert counts.min() > 850
    assert counts.max() < 1150
    first, other = (apply_whole({"sample": {"count": 4, "seed": s}}, array) for s in (0, 1))
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 200


def apply_whole(op: dict[str, Any], array: pa.Array) -> list[Any]:
    return read(compiled(op, array.type)[0](arrow_to_column(array), Place("x", None)))


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (pa.float16(), np.array([0x7C01, 0x3C00, 0xFE01], np.uint16)),
        (pa.float32(), np.array([0x7F800001, 0x3F800000, 0xFFC00001], np.uint32)),
        (pa.float64(), np.array([2047 << 52 | 1, 1023 << 52, 4095 << 52 | 1], np.uint64)),
    ],
)
def test_nan_of_every_kind_are_alike(kind: pa.DataType, bits: np.ndarray[Any, Any]) -> None:
    """Signalling ones too, without a warning; an aggregate is always the same NaN."""
    lists = Jagged(np.array([0, 3]), Flat(bits.view(kind.to_pandas_dtype())))

    def made(op: dict[str, Any]) -> Column:
        column: Column = compiled(op, pa.list_(kind))[0](lists, Place("x", None))
        return column

    for by in ("SUM", "MEAN", "MIN", "MAX"):
        made_of = made({"listAggregate": {"by": f"AGGREGATION_{by}"}})
        assert isinstance(made_of, Flat)
        assert made_of.values.tobytes() == np.array([math.nan], made_of.values.dtype).tobytes()
    assert shown(read(made({"sort": {}}))) == "[[1.0, nan, nan]]"
    assert shown(read(made({"sort": {"descending": True}}))) == "[[1.0, nan, nan]]"
    assert shown(read(made({"deduplicate": {}}))) == "[[nan, 1.0]]"
    assert len(read(made({"sample": {"count": 2}}))[0]) == 2


EVERY: dict[str, dict[str, Any]] = {
    "Head": {"head": {"count": 1}},
    "Slice": {"slice": {}},
    "ListLength": {"listLength": {}},
    "Enumerate": {"enumerate": {}},
    "Pad": {"pad": {"length": 1, "value": {"integer": 1}}},
    "ListAggregate": {"listAggregate": {"by": "AGGREGATION_COUNT"}},
    "Deduplicate": {"deduplicate": {}},
    "Sort": {"sort": {}},
    "NGram": {"nGram": {"n": 2, "numBuckets": "9"}},
    "Sample": {"sample": {"count": 1}},
}


@pytest.mark.parametrize("name", EVERY)
def test_single_values_are_refused(name: str) -> None:
    with pytest.raises(UnfitError, match=f"{name} takes lists; leave it out"):
        compiled(EVERY[name], pa.int64())


@pytest.mark.parametrize("name", ["Pad", "Deduplicate", "Sort", "NGram", "Sample"])
@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.decimal128(9, 2)], ids=str)
def test_what_only_cast_reads_is_refused(name: str, kind: pa.DataType) -> None:
    with pytest.raises(UnfitError, match=rf"{name} takes lists of .* put a Cast"):
        compiled(EVERY[name], pa.list_(kind))


@pytest.mark.parametrize("by", ["SUM", "MEAN", "MIN", "MAX"])
@pytest.mark.parametrize("kind", [pa.string(), pa.bool_(), pa.timestamp("us")], ids=str)
def test_numbers_are_made_of_numbers(by: str, kind: pa.DataType) -> None:
    with pytest.raises(UnfitError, match="takes lists of numbers for all but count"):
        compiled({"listAggregate": {"by": f"AGGREGATION_{by}"}}, pa.list_(kind))


def test_floats_make_no_n_grams() -> None:
    with pytest.raises(UnfitError, match="NGram takes lists of integers"):
        compiled(EVERY["NGram"], pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (pa.string(), {"integer": 1}, "give a string"),
        (pa.int8(), {"integer": 300}, "no int8"),
        (pa.int64(), {"text": "x"}, "no int64"),
    ],
)
def test_padding_is_of_the_type(kind: pa.DataType, value: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        compiled({"pad": {"length": 1, "value": value}}, pa.list_(kind))
