"""Operations that make ids of ids, against plain Python, on values and on lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.transform.ops.base import UnfitError
from tests.fakes.one_op import INTEGERS, STRINGS, apply, compiled, lists, scalars, value_of

WORD = 2**64
SMALL = st.integers(-4, 4)
INT64 = SMALL | st.integers(-(2**63), 2**63 - 1)
SOME_STRINGS = ["", "a", "aa", "ü", "aü", "b", "ab"]


def columns(types: dict[pa.DataType, st.SearchStrategy[Any]]) -> st.SearchStrategy[pa.Array]:
    """Arrays of values or of lists."""
    return st.sampled_from(list(types)).flatmap(
        lambda arrow: scalars(arrow, types[arrow]) | lists(arrow, types[arrow])
    )


def check(op: dict[str, Any], array: pa.Array, reference: Callable[[Any], Any]) -> None:
    """An operation gives what the reference gives of each value; nulls stay."""

    def made(value: Any) -> Any:
        return None if value is None else reference(value)

    if pa.types.is_list(array.type):
        expected = [[made(value) for value in row or []] for row in value_of(array)]
    else:
        expected = [made(value) for value in value_of(array)]
    assert apply(op, array) == expected


def bucket(value: int | bytes, num_buckets: int) -> int:
    """HashBucket with seed 0."""
    if isinstance(value, bytes):
        return (int(xxhash.xxh64_intdigest(value)) >> 32) * num_buckets >> 32
    z = (value + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return ((z ^ (z >> 31)) >> 32) * num_buckets >> 32


@given(columns(INTEGERS), st.integers(1, 9) | st.integers(1, 2**63 - 1))
@example(pa.array([-(2**63), -1, 2**63 - 1]), 2**63 - 1)
@example(pa.array([2**64 - 1], pa.uint64()), 2**63 - 1)
@example(pa.array([-128, 127], pa.int8()), 1000)
def test_positive_modulus(array: pa.Array, divisor: int) -> None:
    check({"positiveModulus": {"divisor": str(divisor)}}, array, lambda value: value % divisor)


@given(columns(INTEGERS), st.dictionaries(INT64, INT64, min_size=1), st.none() | INT64)
@example(pa.array([2**64 - 1, 2**63], pa.uint64()), {-1: 5, -(2**63): 6}, None)
@example(pa.array([2**64 - 1, None, 1], pa.uint64()), {-1: 5, 1: 6}, 7)
def test_map_id(array: pa.Array, mapping: dict[int, int], default: int | None) -> None:
    op: dict[str, Any] = {"keys": [*map(str, mapping)], "values": [*map(str, mapping.values())]}
    if default is not None:
        op["default"] = str(default)
    check({"mapId": op}, array, lambda value: mapping.get(value, default))


@given(
    columns(INTEGERS),
    st.lists(INT64, min_size=1, unique=True),
    st.integers(0, 3) | st.just(2**32),
)
@example(pa.array([2**64 - 1, -0, 1], pa.uint64()), [-1, 0], 0)
def test_vocabulary_of_integers(array: pa.Array, listed: list[int], buckets: int) -> None:
    op = {"integers": [*map(str, listed)], "numOovBuckets": str(buckets)}
    check({"vocabulary": op}, array, position(listed, buckets))


@given(
    columns({kind: st.sampled_from(SOME_STRINGS) for kind in (pa.string(), *STRINGS)}),
    st.lists(st.sampled_from(SOME_STRINGS), min_size=1, unique=True),
    st.integers(0, 3) | st.just(2**32),
)
def test_vocabulary_of_strings(array: pa.Array, listed: list[str], buckets: int) -> None:
    op = {"strings": listed, "numOovBuckets": str(buckets)}
    check({"vocabulary": op}, array, position([text.encode() for text in listed], buckets))


def position(listed: list[Any], buckets: int) -> Callable[[Any], int | None]:
    def reference(value: Any) -> int | None:
        if value in listed:
            return listed.index(value)
        return len(listed) + bucket(value, buckets) if buckets else None

    return reference


def test_one_bucket_is_the_id_behind_the_last() -> None:
    op = {"vocabulary": {"strings": ["b", "a"], "numOovBuckets": "1"}}
    assert apply(op, pa.array(["a", "x", None, "b", "y"])) == [1, 2, None, 0, 2]


INTEGER_OPS: dict[str, dict[str, Any]] = {
    "PositiveModulus": {"positiveModulus": {"divisor": "5"}},
    "MapId": {"mapId": {"keys": ["1"], "values": ["2"]}},
}


@pytest.mark.parametrize("name", INTEGER_OPS)
@pytest.mark.parametrize("kind", [pa.string(), pa.float32(), pa.bool_(), pa.date32()], ids=str)
def test_integers_only(name: str, kind: pa.DataType) -> None:
    with pytest.raises(UnfitError, match=f"{name} takes integers; put a Cast"):
        compiled(INTEGER_OPS[name], kind)


@pytest.mark.parametrize(
    ("op", "kind", "message"),
    [
        ({"integers": ["1"]}, pa.string(), "lists integers; list strings"),
        ({"strings": ["a"]}, pa.int64(), "lists strings; list integers"),
        ({"integers": ["1"]}, pa.float64(), "takes integers, strings and binary"),
        ({"strings": ["a"]}, pa.bool_(), "takes integers, strings and binary"),
    ],
)
def test_vocabularies_are_of_the_columns_kind(
    op: dict[str, Any], kind: pa.DataType, message: str
) -> None:
    with pytest.raises(UnfitError, match=message):
        compiled({"vocabulary": op}, kind)
