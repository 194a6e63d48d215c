"""Derived columns against plain Python, on rows and on runs of every kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError
from preprocessor_server.frame import Frame, Runs
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.derive import bind_derived, derive
from tests.fakes.levels import Drawn, Kind, by_row, frames, made
from tests.fakes.one_op import read, shown
from trainer_client.derive import Cross, Derived, Mask, TimeSince, TopK

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "sequences.json").read_text())
SEED = (1 << 64) - 3
INTEGERS = st.integers(-3, 3) | st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, -2.5, math.nan, math.inf, -math.inf])
TEXTS = st.text("aü", max_size=3)
NULLS = Kind(pa.null(), st.none())
FEW = settings(max_examples=40, deadline=None)


def lists(arrow: pa.DataType, value: st.SearchStrategy[Any]) -> Kind:
    return Kind(pa.list_(arrow), value)


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def crossed(values: Any, num_buckets: int, seed: int) -> int | None:
    """The bucket of values together, None if one is None."""
    golden = 0x9E3779B97F4A7C15
    state = mix((seed + golden) % 2**64)
    for value in values:
        if value is None:
            return None
        hashed = isinstance(value, bytes)
        word = xxhash.xxh64_intdigest(value, seed) >> 32 if hashed else int(value) % 2**64
        state = mix(((state ^ word) + golden) % 2**64)
    return ((state >> 32) * num_buckets) >> 32


def zipped(row: tuple[Any, ...]) -> Any:
    """The values of a row element by element, single ones beside each element of the lists."""
    sizes = {len(value) for value in row if isinstance(value, list)}
    if not sizes:
        return tuple(row)
    (size,) = sizes
    wide = [value if isinstance(value, list) else [value] * size for value in row]
    return list(zip(*wide, strict=True))


def element_by_element(row: tuple[Any, ...], function: Any) -> Any:
    values = zipped(row)
    return [function(each) for each in values] if isinstance(values, list) else function(values)


@FEW
@given(
    frames(
        {
            "a": Kind(pa.int64(), INTEGERS),
            "b": Kind(pa.string(), TEXTS),
            "c": Kind(pa.dictionary(pa.int32(), pa.string()), TEXTS),
            "d": Kind(pa.bool_(), st.booleans()),
            "e": NULLS,
        }
    ),
    st.sampled_from([("a", "b"), ("b", "a", "c"), ("d", "d"), ("a", "b", "c", "d"), ("a", "e")]),
)
def test_cross_of_single_values(drawn: Drawn, names: tuple[str, ...]) -> None:
    expected = [crossed(row, 1000, SEED) for row in by_row(drawn, *names)]
    assert made(drawn, Cross("x", names, 1000, SEED)) == expected


@FEW
@given(
    frames(
        {
            "a": lists(pa.int32(), st.integers(-9, 9)),
            "b": lists(pa.large_binary(), st.binary(max_size=3)),
            "c": lists(pa.bool_(), st.booleans()),
            "f": Kind(pa.string(), TEXTS),
            "g": Kind(pa.uint8(), st.integers(0, 255)),
        }
    ),
    st.sampled_from([("a", "b"), ("f", "a"), ("c", "g", "b", "f"), ("a", "a"), ("b", "c")]),
)
def test_cross_of_lists(drawn: Drawn, names: tuple[str, ...]) -> None:
    expected = [
        element_by_element(row, lambda values: crossed(values, 1 << 32, 7))
        for row in by_row(drawn, *names)
    ]
    assert made(drawn, Cross("x", names, 1 << 32, 7)) == expected


NANOSECONDS = {
    "nanosecond": 1,
    "microsecond": 10**3,
    "millisecond": 10**6,
    "second": 10**9,
    "minute": 60 * 10**9,
    "hour": 3600 * 10**9,
    "day": 86400 * 10**9,
}
STORED = st.integers(-(1 << 40), 1 << 40) | st.integers(-5, 5)
TIMES = {
    "at": Kind(pa.timestamp("us", "Asia/Tokyo"), STORED),
    "day": Kind(pa.date32(), st.integers(-90_000, 90_000)),
    "count": Kind(pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
    "then": lists(pa.timestamp("ms"), STORED),
    "seconds": lists(pa.int64(), STORED),
}
UNIT_OF = {
    "at": "microsecond",
    "day": "day",
    "count": "minute",
    "then": "millisecond",
    "seconds": "second",
}
TAKES_UNIT = {"count", "seconds"}


def stored(drawn: Drawn, name: str) -> list[Any]:
    """The values of a column of times as the integers that they are stored as."""
    arrow, width = drawn.schema.field(name).type, 32 if name in {"day", "count"} else 64
    whole = pa.int32() if width == 32 else pa.int64()
    array = pa.array(drawn.rows[name], arrow)
    if pa.types.is_list(arrow):
        return list(array.cast(pa.list_(whole)).to_pylist())
    return list(array.cast(whole).to_pylist())


@FEW
@given(
    frames(TIMES),
    st.sampled_from(
        [
            ("day", "at"),
            ("then", "at"),
            ("seconds", "count"),
            ("at", "seconds"),
            ("then", "seconds"),
        ]
    ),
    st.sampled_from(list(NANOSECONDS)),
    st.booleans(),
)
def test_time_since(drawn: Drawn, names: tuple[str, str], unit: str, whole: bool) -> None:
    column, event = names
    units = {name: UNIT_OF[name] if name in TAKES_UNIT else None for name in names}
    derived = TimeSince("x", column, event, unit, whole, units[column], units[event])
    fine = min(NANOSECONDS[UNIT_OF[name]] for name in names)

    def since(times: tuple[int | None, int | None]) -> float | None:
        then, now = times
        if then is None or now is None:
            return None
        then, now = (
            time * (NANOSECONDS[UNIT_OF[name]] // fine)
            for time, name in ((then, column), (now, event))
        )
        if whole:
            return (now - then) * fine // NANOSECONDS[unit]
        if NANOSECONDS[unit] < fine:
            return float(now - then) * (fine // NANOSECONDS[unit])
        return float(now - then) / (NANOSECONDS[unit] // fine)

    rows = zip(stored(drawn, column), stored(drawn, event), strict=True)
    expected = [element_by_element(row, since) for row in rows]
    large = [x for row in expected for x in (row if isinstance(row, list) else [row]) if x]
    if any(abs(x) >= 1 << 63 for x in large) and whole:
        with pytest.raises(DataError, match="no int64 in the finer unit") as caught:
            made(drawn, derived)
        assert caught.value.reason == "VALUE_OUT_OF_RANGE"
    else:
        assert shown(made(drawn, derived)) == shown(expected)


CHOICES = {
    "ids": lists(pa.int64(), INTEGERS),
    "names": lists(pa.string(), TEXTS),
    "codes": lists(pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["a", "ü"])),
    "at": lists(pa.timestamp("us"), st.integers(-9, 9)),
    "small": lists(pa.int8(), st.integers(-3, 3)),
    "weights": lists(pa.float64(), FLOATS),
    "halves": lists(pa.float32(), FLOATS),
    "flags": lists(pa.bool_(), st.booleans()),
    "nothing": lists(pa.null(), st.none()),
}
KEPT = st.sampled_from(["ids", "names", "codes", "at", "weights", "nothing"])
ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "less": lambda x, constant: x < constant,
    "less_equal": lambda x, constant: x <= constant,
    "greater": lambda x, constant: math.isnan(x) or x > constant,
    "greater_equal": lambda x, constant: math.isnan(x) or x >= constant,
}


def constants(by: str) -> st.SearchStrategy[list[Any]]:
    value: st.SearchStrategy[Any] = st.sampled_from([0.0, 1.0, math.inf, -2.5, 1])
    if by in {"names", "codes"}:
        value = TEXTS | st.just("a")
    elif by in {"small", "flags"}:
        value = st.integers(0, 1)
    elif by == "ids":
        value = INTEGERS
    return st.lists(value, min_size=1, max_size=3)


@FEW
@given(st.data(), frames(CHOICES), KEPT, st.sampled_from([*CHOICES][:3] + [*CHOICES][4:]))
def test_mask(data: st.DataObject, drawn: Drawn, column: str, by: str) -> None:
    comparison = data.draw(st.sampled_from(["equal", "not_equal", *ORDERED]))
    if by in {"names", "codes"}:
        comparison = data.draw(st.sampled_from(["equal", "not_equal"]))
    chosen = data.draw(constants(by))
    if comparison in ORDERED:
        chosen = chosen[:1]

    def holds(value: Any) -> bool:
        if value is None:
            return False
        if comparison in ORDERED:
            return ORDERED[comparison](value, chosen[0])
        plain = value.decode() if isinstance(value, bytes) else value
        return (plain in chosen) == (comparison == "equal")

    expected = [
        [value for value, other in zip(*row, strict=True) if holds(other)]
        for row in by_row(drawn, column, by)
    ]
    assert shown(made(drawn, Mask("x", column, by, comparison, chosen))) == shown(expected)


@FEW
@given(frames(CHOICES), KEPT, st.sampled_from([*CHOICES][:3] + [*CHOICES][4:]), st.integers(1, 5))
def test_top_k(drawn: Drawn, column: str, by: str, count: int) -> None:
    def heavy(row: tuple[list[Any], list[Any]]) -> list[Any]:
        values, weights = row

        def nan(weight: Any) -> bool:
            return isinstance(weight, float) and math.isnan(weight)

        known = [i for i, w in enumerate(weights) if w is not None and not nan(w)]
        # Python's sort is stable, also in reverse.
        order = sorted(known, key=lambda i: weights[i], reverse=True)
        order += [i for i, w in enumerate(weights) if w is not None and nan(w)]
        order += [i for i, w in enumerate(weights) if w is None]
        return [values[i] for i in order[:count]]

    expected = [heavy(row) for row in by_row(drawn, column, by)]
    assert shown(made(drawn, TopK("x", column, by, count))) == shown(expected)


@FEW
@given(frames({key: CHOICES[key] for key in ("ids", "small", "names")}))
def test_derived_columns_are_made_of_derived_columns(drawn: Drawn) -> None:
    columns = [
        Mask("kept", "ids", "small", "greater", [0]),
        Mask("kept_names", "names", "small", "greater", [0]),
        Cross("x", ["kept", "kept_names"], 1 << 20),
    ]
    expected = [
        [
            crossed((number, name), 1 << 20, 0)
            for number, name, by in zip(*row, strict=True)
            if by is not None and by > 0
        ]
        for row in by_row(drawn, "ids", "names", "small")
    ]
    assert made(drawn, *columns) == expected


def frame(arrays: dict[str, Any]) -> tuple[Frame, pa.Schema]:
    columns = {name: pa.array(values) for name, values in arrays.items()}
    count = len(next(iter(columns.values())))
    held = {name: arrow_to_column(array) for name, array in columns.items()}
    schema = pa.schema([(name, array.type) for name, array in columns.items()])
    return Frame(count, held), schema


def values(column: Derived, **arrays: Any) -> list[Any]:
    source, schema = frame(arrays)
    bound = bind_derived(dataset_pb2.DatasetSpec(derive=[column.to_proto()]), schema)
    assert bound.faults == ()
    return read(derive(bound.columns, source).columns[column.name])


def test_golden_vectors_of_crosses_are_documented() -> None:
    page = (ROOT / "docs" / "ops.md").read_text()
    for row, num_buckets, seed, expected in GOLDEN["crosses"]:
        arrays = {f"c{i}": [value] for i, value in enumerate(row)}
        assert values(Cross("x", list(arrays), num_buckets, seed), **arrays) == [expected]
        assert (
            f"| `{json.dumps(row)}` | {num_buckets} | {seed} | `{json.dumps(expected)}` |" in page
        )


def test_times_beyond_int64_are_refused_unless_a_null_hides_them() -> None:
    derived = TimeSince("x", "day", "at", "day")
    arrays = {"at": pa.array([0, 0, 5], pa.timestamp("ns"))}
    far = (1 << 63) // (86400 * 10**9) + 1
    with pytest.raises(DataError) as caught:
        values(derived, day=pa.array([0, far, far], pa.date32()), **arrays)
    assert caught.value.message == (
        "derived column 'x' (derive[0]): 2 times or differences are no int64 in the finer unit of "
        "the two columns, first at row 1 of the split; leave such rows out with where, or write "
        "both columns in a coarser unit"
    )
    with pytest.raises(DataError, match="1 times or differences"):
        values(TimeSince("x", "at", "day", "day"), day=pa.array([0, 0, far], pa.date32()), **arrays)
    arrays["at"] = pa.array([86400 * 10**9, None, None], pa.timestamp("ns"))
    day = pa.array([0, far, far], pa.date32())
    assert values(derived, day=day, **arrays) == [1.0, None, None]
    largest = pa.array([-(1 << 63), (1 << 63) - 1])
    units = {"column_unit": "second", "event_time_unit": "second"}
    ends = TimeSince("x", "a", "b", "second", whole_units=True, **units)
    assert values(ends, a=pa.array([5, (1 << 63) - 1]), b=pa.array([3, 0])) == [-2, 1 - (1 << 63)]
    with pytest.raises(DataError, match="1 times or differences"):
        values(ends, a=largest, b=pa.array([0, 0]))


def test_uneven_lists_are_refused_with_columns_and_row() -> None:
    inverse = np.array([0, 0, 1, 2], np.int32)
    a, b = pa.array([[1], [1, 2], [], [3]]), pa.array([["x"], ["y"], [], []])
    schema = pa.schema({"a": a.type, "b": b.type})
    for column in (
        Cross("x", ["a", "b"], 10),
        Mask("x", "a", "b", "equal", ["y"]),
        TopK("x", "a", "b", 1),
    ):
        bound = bind_derived(dataset_pb2.DatasetSpec(derive=[column.to_proto()]), schema)
        held = {"a": arrow_to_column(a), "b": arrow_to_column(b)}
        with pytest.raises(DataError) as caught:
            derive(bound.columns, Frame(4, {}, (Runs(inverse, held),)))
        assert caught.value.reason == "LISTS_UNEVEN"
        assert caught.value.message == (
            "derived column 'x' (derive[0]): the lists of columns 'a' and 'b' differ in length in "
            "1 rows, first at row 2 of the split, where they have 2 and 1 elements; correct the "
            "data, or name columns whose lists belong together"
        )


def test_runs_that_refine_each_other_give_no_third_structure() -> None:
    users = Runs(np.array([0, 0, 0, 1], np.int32), {"user": arrow_to_column(pa.array([7, 8]))})
    requests = Runs(np.array([0, 0, 1, 2], np.int32), {"at": arrow_to_column(pa.array([1, 2, 3]))})
    schema = pa.schema({"user": pa.int64(), "at": pa.int64()})
    cross = Cross("x", ["user", "at"], 100)
    bound = bind_derived(dataset_pb2.DatasetSpec(derive=[cross.to_proto()]), schema)
    made_of = derive(bound.columns, Frame(4, {}, (users, requests)))
    assert [list(runs.columns) for runs in made_of.runs] == [["user"], ["at", "x"]]
    assert len(made_of.runs[1].columns["x"]) == 3
