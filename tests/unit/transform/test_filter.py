"""What filters keep: SQL's three-valued logic over every type of column."""

from __future__ import annotations

import decimal
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1.dataset_pb2 import DatasetSpec
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.transform import compile_where

DECIMALS = [decimal.Decimal("1.50"), None, decimal.Decimal("-2.00"), decimal.Decimal(0)]
TABLE = pa.table(
    {
        "i": pa.array([1, None, 3, -5], pa.int64()),
        "u": pa.array([2**64 - 1, None, 0, 2**63], pa.uint64()),
        "f": pa.array([math.nan, None, math.inf, -0.0], pa.float32()),
        "h": pa.array([np.float16(1.5), None, np.float16(0), np.float16(2)], pa.float16()),
        "d": pa.array(DECIMALS, pa.decimal128(10, 2)),
        "d32": pa.array(DECIMALS, pa.decimal128(9, 2)).cast(pa.decimal32(9, 2)),
        "d256": pa.array(DECIMALS, pa.decimal256(20, 2)),
        "huge": pa.array(DECIMALS, pa.decimal256(60, 2)),
        "b": pa.array([True, None, False, True]),
        "s": pa.array(["a", None, "B", ""]),
        "large": pa.array(["a", None, "B", ""], pa.large_string()),
        "view": pa.array(["a", None, "B", ""], pa.string_view()),
        "bin": pa.array([b"\0", None, b"a", b""]),
        "dict": pa.array(["a", None, "B", "a"]).dictionary_encode(),
        "ts": pa.array([0, None, 1, 10**15], pa.timestamp("us")),
        "tz": pa.array([0, None, 1, 10**15], pa.timestamp("us", "Europe/Berlin")),
        "ns": pa.array([0, None, 1, 10**15], pa.timestamp("ns")),
        "tzns": pa.array([0, None, 1, 10**15], pa.timestamp("ns", "UTC")),
        "day": pa.array([0, None, 1, 20000], pa.date32()),
        "time": pa.array([0, None, 1, 2], pa.time64("ns")),
        "wait": pa.array([0, None, 1, 2], pa.duration("us")),
        "waitns": pa.array([0, None, 1, 2], pa.duration("ns")),
        "l": pa.array([[1], None, [], [None]], pa.list_(pa.int64())),
        "st": pa.array([{"x": 1}, None, {"x": None}, {"x": 2}]),
        "nul": pa.nulls(4),
        "A": [1, 2, 3, 4],
        "a": [4, 3, 2, 1],
        "é b": [1, 2, 3, 4],
    }
)

KEPT = [
    ("i > 1", "..X."),
    ("i <> 1", "..XX"),
    ("NOT (i > 1)", "X..X"),
    ("i IN (1, NULL)", "X..."),
    ("i NOT IN (3, NULL)", "...."),
    ("i NOT IN (3, 4)", "X..X"),
    ("i = -5", "...X"),
    ("i BETWEEN 1 AND 3", "X.X."),
    ("i NOT BETWEEN 2 AND 3", "X..X"),
    ("i IS NULL OR i = 3", ".XX."),
    ("i IS NOT NULL AND b", "X..X"),
    ("i < 9.5", "X.XX"),
    ("i = 1e0", "X..."),
    ("i IS DISTINCT FROM 1", ".XXX"),
    ("u > 9223372036854775807", "X..X"),
    ("u = 18446744073709551615", "X..."),
    ("u > -1", "X.XX"),
    ("u = 18446744073709551616", "...."),
    ("u > i", "X..X"),
    # As PostgreSQL has it: NaN equals itself and is above every number.
    ("f > 1", "X.X."),
    ("f = 'nan'", "X..."),
    ("f = 0", "...X"),
    ("h >= 1.5", "X..X"),
    ("d = 1.5", "X..."),
    ("d > -1.999", "X..X"),
    ("d32 = 1.5", "X..."),
    ("d256 = 1.5", "X..."),
    ("huge IS NULL", ".X.."),
    ("b", "X..X"),
    ("NOT b", "..X."),
    ("b = false", "..X."),
    ("(b IS NULL) = true", ".X.."),
    ("s = 'a'", "X..."),
    ("s IN ('', 'B')", "..XX"),
    ("large = 'a'", "X..."),
    ("view = 'a'", "X..."),
    ("bin = x'00'", "X..."),
    ("dict = 'a'", "X..X"),
    ("ts = TIMESTAMP '1970-01-01'", "X..."),
    ("ts > DATE '1970-01-02'", "...X"),
    ("tz = TIMESTAMPTZ '1970-01-01 01:00:00+01'", "X..."),
    ("tz = TIMESTAMP '1970-01-01'", "X..."),
    ("ns = '1970-01-01 00:00:00.000000001'", "..X."),
    ("tzns > '1970-01-01'", "..XX"),
    ("day = DATE '1970-01-02'", "..X."),
    ("time = '00:00:00.000000001'", "..X."),
    ("wait > INTERVAL '1 microsecond'", "...X"),
    ("waitns IS NOT NULL", "X.XX"),
    ("l IS NULL", ".X.."),
    ("l IS NOT NULL AND i > 0", "X.X."),
    ("st IS NULL", ".X.."),
    ("nul IS NULL", "XXXX"),
    ("nul = 1", "...."),
    ("A = 1", "X..."),
    ("a = 1", "...X"),
    ('"a" < A', "..XX"),
    ('"é b" = 2', ".X.."),
    ("TRUE", "XXXX"),
    ("1 = 2", "...."),
    ("NULL OR i = 1", "X..."),
    ("i = 1 -- the first", "X..."),
    ("\n  i = 1\n", "X..."),
]


@pytest.mark.parametrize(("where", "kept"), KEPT, ids=[where for where, _ in KEPT])
def test_only_rows_for_which_it_is_true_are_kept(where: str, kept: str) -> None:
    filter_ = compile_where(DatasetSpec(where=where), TABLE.schema)
    assert filter_ is not None
    mask = filter_.mask(TABLE)
    assert mask.dtype == np.bool_
    assert "".join("X" if keep else "." for keep in mask) == kept
    assert filter_.mask(TABLE.slice(0, 0)).tolist() == []


def test_an_empty_filter_is_none() -> None:
    assert compile_where(DatasetSpec(where=""), TABLE.schema) is None
    assert compile_where(DatasetSpec(where=" \n"), TABLE.schema) is None


def test_columns_are_in_schema_order_with_exact_names() -> None:
    filter_ = compile_where(
        DatasetSpec(where="a = 1 AND A = 2 AND l IS NULL AND i > 1"), TABLE.schema
    )
    assert filter_ is not None
    assert filter_.columns == ("i", "l", "A", "a")
    # Columns that it does not need may be missing, others may come in another order.
    table = TABLE.select(["a", "A", "l", "i"])
    assert filter_.mask(table).tolist() == [False] * 4


REFUSED = [
    ("i >", "syntax error"),
    ("i = 1)", "syntax error"),
    ("i = 1) OR (1 = 1", 'syntax error at or near ")" (at character 6)'),
    ("i = 1; SELECT 1", "something follows the expression"),
    ("i = 1;", "something follows the expression"),
    ("i = 1 ORDER BY i", "something follows the expression"),
    ("i = 1 LIMIT 1", "something follows the expression"),
    ("i = 1 UNION SELECT 1", "something follows the expression"),
    ("i = 1 WINDOW w AS ()", "something follows the expression"),
    ("i = 1 /*", "unterminated"),
    ("i = (SELECT 1)", "a subquery is not supported (at character 5)"),
    ("i IN (SELECT 1)", "a subquery is not supported"),
    ("EXISTS (SELECT 1)", "a subquery is not supported"),
    ("count(*) OVER () > 1", "a window function is not supported"),
    ("i = ?", "a parameter is not supported"),
    ("i = $x", "a parameter is not supported"),
    ("*", "* is not supported"),
    ("COLUMNS('i') = 1", "* is not supported"),
    ("x -> x", "a lambda is not supported"),
    ("st.x = 1", "the qualified name 'st.x' is not supported"),
    ("now() > ts", "'now' is not supported, since it gives something else each time"),
    ("random() < 0.5", "'random' is not supported, since it gives something else each time"),
    ("read_text('/etc/passwd') = 'a'", "the function or operator 'read_text'"),
    ("labl = 1", "column 'labl' is not in the source; the source has i, u,"),
    ("i = 1 OR vieww = 'a'", "did you mean 'view'? (at character 10)"),
    ("I = 1", "column 'I' is not in the source"),
    ("l = 1", "column 'l' is list<item: int64>, which can only be tested with IS NULL"),
    ("st = 'x'", "which can only be tested with IS NULL"),
    ("huge = 1", "decimals of more than 38 digits"),
    ("waitns > '0 seconds'", "in microseconds"),
    ("i", "column 'i' is int64, not boolean"),
    ("b AND i", "column 'i' is int64, not boolean"),
    ("NOT s", "column 's' is string, not boolean"),
    ("1", "'1' as a condition is not supported"),
    ("b OR 'true'", "'true' as a condition is not supported (at character 6)"),
    ("NULL", "not boolean"),
    ("DATE '2026-01-01'", "a cast gives no truth value (at character 1)"),
    ("day = 'garbage'", "Conversion Error"),
    ("day = DATE 'garbage'", "Conversion Error"),
    ("day = 'today'", "Conversion Error"),
    ("ts < CAST('now' AS TIMESTAMP)", "Conversion Error"),
    ("i = 'one'", "Could not convert string 'one' to INT64"),
    ("s > 1", "Cannot compare"),
    ("(" * 2000 + "i = 1" + ")" * 2000, ""),
    (" AND (".join(["i = 1"] * 2000) + ")" * 1999, ""),
]


@pytest.mark.parametrize(("where", "why"), REFUSED, ids=[where[:40] for where, _ in REFUSED])
def test_other_filters_are_refused(where: str, why: str) -> None:
    with pytest.raises(DatasetError) as caught:
        compile_where(DatasetSpec(where=where), TABLE.schema)
    assert (caught.value.reason, caught.value.field) == ("FILTER_INVALID", "dataset.where")
    assert caught.value.message.startswith("where: ")
    assert why in caught.value.message
    assert "\n" not in caught.value.message


def test_a_name_that_two_columns_have_is_refused() -> None:
    schema = pa.schema([("x", pa.int64()), ("x", pa.int64())])
    with pytest.raises(DatasetError, match="2 columns called 'x'"):
        compile_where(DatasetSpec(where="x = 1"), schema)


def test_values_that_cannot_be_compared_fail_with_their_column() -> None:
    filter_ = compile_where(DatasetSpec(where="s = 1"), TABLE.schema)
    assert filter_ is not None
    with pytest.raises(DataError) as caught:
        filter_.mask(TABLE)
    assert caught.value.reason == "FILTER_FAILED"
    assert "'a'" in caught.value.message
    assert "column 's'" in caught.value.message
    assert "\n" not in caught.value.message


# A model of SQL's logic: comparisons of int64 with literals, joined by AND, OR, NOT.
Model = tuple[str, Any]


def leaf(draw_value: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
    comparisons: dict[str, Callable[[int, int], bool]] = {
        "=": operator.eq,
        "<>": operator.ne,
        "<": operator.lt,
        ">=": operator.ge,
    }

    def compare(column: str, sign: str, value: int) -> Model:
        test = comparisons[sign]
        return (
            f"{column} {sign} {value}",
            lambda row: None if row[column] is None else test(row[column], value),
        )

    def is_null(column: str) -> Model:
        return f"{column} IS NULL", lambda row: row[column] is None

    def among(column: str, values: list[int | None]) -> Model:
        def test(row: dict[str, Any]) -> bool | None:
            if row[column] is None:
                return None
            return True if row[column] in values else (None if None in values else False)

        spelled = ", ".join("NULL" if value is None else str(value) for value in values)
        return f"{column} IN ({spelled})", test

    column = st.sampled_from(["x", "y"])
    return (
        st.builds(compare, column, st.sampled_from(sorted(comparisons)), draw_value)
        | st.builds(is_null, column)
        | st.builds(among, column, st.lists(st.none() | draw_value, min_size=1, max_size=3))
    )


def join(left: Model, word: str, right: Model) -> Model:
    decides = word == "OR"

    def test(row: dict[str, Any]) -> bool | None:
        sides = (left[1](row), right[1](row))
        if decides in sides:
            return decides
        return None if None in sides else not decides

    return f"({left[0]}) {word} ({right[0]})", test


def negate(inner: Model) -> Model:
    def test(row: dict[str, Any]) -> bool | None:
        value = inner[1](row)
        return None if value is None else not value

    return f"NOT ({inner[0]})", test


small = st.integers(-2, 2)
models = st.recursive(
    leaf(small),
    lambda inner: (
        st.builds(join, inner, st.sampled_from(["AND", "OR"]), inner) | st.builds(negate, inner)
    ),
    max_leaves=6,
)


@given(models, st.lists(st.tuples(st.none() | small, st.none() | small), max_size=8))
def test_logic_is_sqls(model: Model, rows: list[tuple[int | None, int | None]]) -> None:
    where, test = model
    table = pa.table(
        {
            "x": pa.array([x for x, _ in rows], pa.int64()),
            "y": pa.array([y for _, y in rows], pa.int32()),
        }
    )
    filter_ = compile_where(DatasetSpec(where=where), table.schema)
    assert filter_ is not None
    expected = [test({"x": x, "y": y}) is True for x, y in rows]
    assert filter_.mask(table).tolist() == expected
