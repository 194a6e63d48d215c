"""Operations that bring numbers into another range, against plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.frame import Frame, Runs
from preprocessor_server.transform import arrow_to_column, compile_features
from preprocessor_server.transform.ops.base import UnfitError
from tests.fakes.columns import applied, compiled, plain, same
from trainer_client import Dataset, Dense, Sparse, ops, parquet
from trainer_client.ops import Op

NAN, INF = math.nan, math.inf
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
INTEGERS = [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()]
SPECIAL = [0.0, -0.0, 1.0, 0.5, -1.0, INF, -INF, NAN, 1e-7, 1 - 2**-24]
FINITE = st.floats(-1e6, 1e6)


def narrow(arrow: pa.DataType) -> bool:
    return arrow in {pa.float16(), pa.float32()}


def rounded(value: float, arrow: pa.DataType) -> float:
    """A binary64 result as the operation gives it of a column of a type."""
    with np.errstate(over="ignore"):
        return float(np.float32(value)) if narrow(arrow) else value


def quotient(value: float, by: float, arrow: pa.DataType) -> float:
    """value / by as Normalize and MinMax have it; by is above 2^-1000 and below 2^1000."""
    return rounded(value * (1 / by) if narrow(arrow) else value / by, arrow)


@st.composite
def numbers(draw: st.DrawFn) -> tuple[pa.DataType, list[Any]]:
    """A type of numbers, and values of it with nulls."""
    arrow = draw(st.sampled_from([*FLOATS, *INTEGERS]))
    if pa.types.is_floating(arrow):
        width: Any = arrow.bit_width
        value: Any = st.floats(width=width) | st.sampled_from(SPECIAL).map(
            lambda x: float(np.array(x, f"f{width // 8}"))
        )
    else:
        limits = np.iinfo(arrow.to_pandas_dtype())
        value = st.integers(int(limits.min), int(limits.max)) | st.integers(0, 3)
    return arrow, draw(st.lists(st.none() | value, max_size=12))


def array(arrow: pa.DataType, values: list[Any]) -> pa.Array:
    dtype = np.dtype(arrow.to_pandas_dtype())
    held = [None if value is None else dtype.type(value) for value in values]
    return pa.array(held, arrow)


def check(op: Op, arrow: pa.DataType, values: list[Any], one: Callable[[Any], Any]) -> None:
    """The operation gives what the reference gives of each value; of lists, of each element."""
    flat = array(arrow, values)
    expected = [None if value is None else one(value) for value in values]
    assert same(applied(op, flat), expected)
    lists = pa.ListArray.from_arrays(pa.array([0, 0, len(values), len(values)], pa.int32()), flat)
    assert same(applied(op, lists), [[], expected, []])


@given(numbers(), FINITE, st.floats(1e-6, 1e6))
@example((pa.float32(), [3e38, -3e38, INF, -INF, NAN, -0.0, None]), 0.0, 1e-6)
@example((pa.int64(), [2**63 - 1, -(2**63), 0, None]), 0.5, 3.0)
def test_normalize(typed: tuple[pa.DataType, list[Any]], mean: float, std: float) -> None:
    arrow, values = typed
    check(ops.Normalize(mean, std), arrow, values, lambda x: quotient(float(x) - mean, std, arrow))


@pytest.mark.parametrize("std", [5e-324, 2.0**-1000, 2.0**1000, 1.7e308])
def test_normalize_by_a_number_whose_inverse_is_none(std: float) -> None:
    values = [0.0, -0.0, 1.0, -3e38, 2.0**-149, INF, NAN]
    expected = [rounded(value / std, pa.float32()) for value in values]
    assert same(applied(ops.Normalize(0.0, std), pa.array(values, pa.float32())), expected)
    assert applied(ops.Normalize(std, std), pa.array([0.0], pa.float32())) == [-1.0]


@given(numbers(), FINITE, st.floats(1e-6, 1e6))
@example((pa.float64(), [-0.0, 5.0, 10.0, 11.0, INF, NAN]), 0.0, 10.0)
def test_min_max(typed: tuple[pa.DataType, list[Any]], low: float, width: float) -> None:
    arrow, values = typed
    high = low + width
    if high == low:
        return
    check(
        ops.MinMax(low, high),
        arrow,
        values,
        lambda x: quotient(float(x) - low, high - low, arrow),
    )
    assert applied(ops.MinMax(low, high), pa.array([low, high])) == [0.0, 1.0]


@given(numbers(), st.lists(FINITE | st.integers(-300, 300), min_size=1, max_size=9, unique=True))
@example((pa.float32(), [float(np.float32(0.7)), 0.5, NAN, INF, -INF, -0.0]), [0.0, 0.7])
@example((pa.int64(), [2**53 + 1, 2**53 - 1, 0, 1]), [0.5, 2.0**53])
@example((pa.uint8(), [0, 255]), [-5.0, -0.5, 0.0, 254.5, 255.5])
@example((pa.uint64(), [2**64 - 1]), [-1.0, 2.0**64])
def test_bucketize(typed: tuple[pa.DataType, list[Any]], boundaries: list[float]) -> None:
    arrow, values = typed
    boundaries = sorted(boundaries)
    as_compared = [Fraction(float(boundary)) for boundary in boundaries]
    if pa.types.is_floating(arrow):
        dtype = arrow.to_pandas_dtype()
        with np.errstate(over="ignore"):
            own = np.array(boundaries, np.float64).astype(dtype)
        if np.isinf(own).any():
            with pytest.raises(UnfitError, match="out of range for halffloat"):
                applied(ops.Bucketize(boundaries), array(arrow, values))
            return
        as_compared = [Fraction(float(boundary)) for boundary in own]

    def bucket(x: Any) -> int:
        if isinstance(x, float) and (math.isnan(x) or x == INF):
            return len(boundaries)
        return 0 if x == -INF else sum(boundary <= Fraction(x) for boundary in as_compared)

    check(ops.Bucketize(boundaries), arrow, values, bucket)


@given(st.lists(st.floats(-5, 5)), st.lists(st.floats(-5, 5), min_size=1, unique=True))
def test_bucketize_is_searchsorted_on_the_right(values: list[float], edges: list[float]) -> None:
    edges = sorted(edges)
    expected = np.searchsorted(edges, values, side="right").tolist()
    assert applied(ops.Bucketize(edges), pa.array(values, pa.float64())) == expected


def close(found: Any, expected: float, arrow: pa.DataType) -> bool:
    """The same special value, or a number as near as its type allows."""
    expected = rounded(expected, arrow)
    if not math.isfinite(expected) or not expected:
        return bool(found == expected or (math.isnan(expected) and math.isnan(found)))
    return math.isclose(found, expected, rel_tol=2**-23 if narrow(arrow) else 1e-12)


def plain_logit(x: float, epsilon: float) -> float:
    if math.isnan(x):
        return x
    # From the nearer end, where what is kept of 1 - epsilon is not rounded.
    sign, near = (1, 1 - x) if x >= 0.5 else (-1, x)
    near = max(near, epsilon) if epsilon else near
    if near < 0:
        return NAN
    if near == 0:
        return sign * INF
    if near < 0.3:
        return sign * (math.log1p(-near) - math.log(near))
    return sign * 2 * math.atanh(1 - 2 * near)


@given(numbers(), st.sampled_from([0.0, 1e-6, 0.01, 0.25]))
@example((pa.float64(), SPECIAL), 0.0)
@example((pa.float32(), SPECIAL), 0.25)
def test_logit(typed: tuple[pa.DataType, list[Any]], epsilon: float) -> None:
    arrow, values = typed
    for value, found in zip(values, applied(ops.Logit(epsilon), array(arrow, values)), strict=True):
        if value is None:
            assert found is None
        else:
            assert close(found, plain_logit(float(value), epsilon), arrow), (value, found)


def plain_box_cox(x: float, lmbda: float) -> float:
    if math.isnan(x) or x < 0:
        return NAN
    log = -INF if x == 0 else math.log(x)
    if lmbda == 0:
        return log
    try:
        return math.expm1(lmbda * log) / lmbda
    except OverflowError:
        return INF / lmbda


@given(numbers(), st.sampled_from([0.0, 0.5, 1.0, 2.0, -0.5, -1.0, 1e-80, -3.7]))
@example((pa.float64(), SPECIAL), 0.0)
@example((pa.float64(), SPECIAL), -0.5)
@example((pa.float32(), SPECIAL), 2.0)
def test_box_cox(typed: tuple[pa.DataType, list[Any]], lmbda: float) -> None:
    arrow, values = typed
    for value, found in zip(values, applied(ops.BoxCox(lmbda), array(arrow, values)), strict=True):
        if value is None:
            assert found is None
        else:
            expected = plain_box_cox(float(value), 0.0 if abs(lmbda) < 2**-70 else lmbda)
            assert close(found, expected, arrow), (value, found, expected)


EVERY: list[Op] = [
    ops.Logit(1e-6),
    ops.BoxCox(0.5),
    ops.Normalize(1.0, 2.0),
    ops.MinMax(0.0, 4.0),
    ops.Bucketize([0.0, 1.0]),
]


@pytest.mark.parametrize("op", EVERY, ids=lambda op: type(op).__name__)
@given(data=st.data())
def test_runs_give_what_their_rows_do(op: Op, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | st.sampled_from(SPECIAL), min_size=1, max_size=5))
    inverse = np.repeat(np.arange(len(values)), data.draw(st.integers(1, 3))).astype(np.int32)
    column = arrow_to_column(pa.array(values, pa.float64()))
    dataset = Dataset(parquet("x"), [Dense("x", ops=[op, ops.FillNull(9)])])
    transform = compile_features(dataset.to_proto(), pa.schema({"x": pa.float64()}))
    runs = transform.apply(Frame(len(inverse), {}, (Runs(inverse, {"x": column}),)))
    expanded = Frame(len(inverse), {}, (Runs(inverse, {"x": column}),)).expanded()
    rows = transform.apply(expanded)
    assert len(runs.runs[0].columns["x"]) == len(values)
    assert same(plain(runs.expanded().columns["x"]), plain(rows.columns["x"]))


@pytest.mark.parametrize("op", EVERY, ids=lambda op: type(op).__name__)
def test_types_that_fit(op: Op) -> None:
    gives = np.dtype(np.int64) if isinstance(op, ops.Bucketize) else None
    for arrow in [*FLOATS, *INTEGERS]:
        wanted = np.dtype(np.float32 if narrow(arrow) else np.float64)
        assert compiled(op, arrow).dtype == (gives or wanted)
        assert compiled(op, pa.list_(arrow)).is_list
    title = type(op).__name__
    for arrow in (pa.string(), pa.binary(), pa.bool_(), pa.date32(), pa.decimal128(9, 2)):
        with pytest.raises(UnfitError, match=f"{title} takes numbers; put a Cast before it"):
            compiled(op, arrow)


def test_buckets_are_ids() -> None:
    array = pa.array([[0.5, 2.0, None], None, []], pa.list_(pa.float32()))
    feature = Sparse("x", ops=[ops.Bucketize([1, 2]), ops.FillNull(7)])
    dataset = Dataset(parquet("x"), [feature])
    transform = compile_features(dataset.to_proto(), pa.schema({"x": array.type}))
    result = transform.apply(Frame(3, {"x": arrow_to_column(array)}))
    assert plain(result.columns["x"]) == [[0, 2, 7], [], []]


def test_boundaries_beyond_a_float_are_refused() -> None:
    with pytest.raises(UnfitError, match=r"the boundary 1e\+39 is out of range for float"):
        compiled(ops.Bucketize([0, 1e39]), pa.float32())
