"""What SQL expressions may be made of, and what they give; what is refused, word by word."""

from __future__ import annotations

import datetime
import decimal
import functools
import json
import math
import operator

import numpy as np
import pyarrow as pa
import pytest

from headrace.v1.dataset_pb2 import DatasetSpec
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.transform import compile_where, duck
from preprocessor_server.transform.filter_functions import FUNCTIONS, TRUTHS
from tests.fakes.process import ROOT

LISTS = [[1, 2, 2], None, [], [None, 7]]
SECONDS = [0, None, 86_399, 1_764_590_400]  # the last one is 2025-12-01 12:00, a Monday
PRICES = [decimal.Decimal("9.99"), None, decimal.Decimal(0), decimal.Decimal("-1.50")]
CODES = pa.dictionary(pa.int8(), pa.string())
TABLE = pa.table(
    {
        "i": pa.array([5, None, 0, -3], pa.int64()),
        "j": pa.array([2, 1, None, -3], pa.int32()),
        "f": pa.array([2.25, None, math.nan, -0.5], pa.float32()),
        "g": pa.array([0.1, 0.2, None, 1e300]),
        "price": pa.array(PRICES, pa.decimal128(10, 2)),
        "s": pa.array(["Shoes", None, "", "ÄRGER 50%"]),
        "d": pa.array(["red", None, "blue", "red"]).dictionary_encode(),
        "b": pa.array([True, None, False, True]),
        "ts": pa.array(SECONDS, pa.timestamp("s")).cast(pa.timestamp("us")),
        "tz": pa.array(SECONDS, pa.timestamp("s")).cast(pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([0, None, 1, 20_423], pa.date32()),
        "l": pa.array(LISTS, pa.list_(pa.int64())),
        "big": pa.array(LISTS, pa.large_list(pa.int16())),
        "fl": pa.array([[0.5, 1.5], None, [], [math.nan]], pa.list_(pa.float16())),
        "words": pa.array([["a", "b"], None, [], ["Ä"]]),
        "codes": pa.array(
            [["a", "b"], None, [], ["Ä"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))
        ),
        "pair": pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
        "nested": pa.array([[[1]], None, [], [[2]]]),
    }
)

KEPT = [
    ("i + j = 7", "X..."),
    ("i * 2 - 1 > j", "X..."),
    ("i / 2 = 2.5", "X..."),
    ("i // 2 = -1", "...X"),
    ("i % 3 = 2 OR mod(i, 3) = 0", "X.XX"),
    ("-i > 2", "...X"),
    ("i > j", "X..."),
    ("i = j", "...X"),
    ("i BETWEEN j AND 10", "X..X"),
    ("i IN (j, 0)", "..XX"),
    ("i IS NOT DISTINCT FROM j", "...X"),
    ("i IS DISTINCT FROM 5", ".XXX"),
    ("f * 2 = 4.5", "X..."),
    ("f > g", "X..."),
    ("abs(i) = 3 AND sign(i) < 0", "...X"),
    ("floor(f) = 2 AND ceil(f) = 3 AND round(f) = 2 AND trunc(f) = 2", "X..."),
    ("round(g, 1) = 0.2", ".X.."),
    ("sqrt(f) = 1.5", "X..."),
    ("isnan(f)", "..X."),
    ("greatest(i, j) = 5 OR least(i, j) = 1", "XX.."),
    ("price * 2 > 19.97", "X..."),
    ("CAST(price AS DOUBLE) < 0", "...X"),
    ("g * 10 > 1e300", "...X"),
    ("CASE WHEN b THEN i > 0 ELSE j IS NULL END", "X.X."),
    ("CASE i WHEN 5 THEN 'five' ELSE 'other' END = 'five'", "X..."),
    ("CASE WHEN i <> 0 THEN 10 // i END = 2", "X..."),
    ("COALESCE(i, j, 0) = 1", ".X.."),
    ("COALESCE(b, TRUE)", "XX.X"),
    ("NULLIF(i, 0) IS NULL", ".XX."),
    ("10 / NULLIF(i, 0) = 2", "X..."),
    ("if(b, i, j) = -3", "...X"),
    ("CAST(i AS VARCHAR) = '5'", "X..."),
    ("i::DOUBLE / 2 > 2", "X..."),
    ("TRY_CAST(s AS INTEGER) IS NULL", "XXXX"),
    ("b IS TRUE", "X..X"),
    ("b IS NOT FALSE", "XX.X"),
    ("s LIKE 'S%'", "X..."),
    ("s NOT LIKE '%s'", "..XX"),
    ("s ILIKE 'ä%'", "...X"),
    ("s LIKE '%50$%' ESCAPE '$'", "...X"),
    ("lower(s) = 'ärger 50%'", "...X"),
    ("length(s) = 9 AND upper(s) = s", "...X"),
    ("substring(s, 1, 2) = 'Sh' AND starts_with(s, 'Sh') AND contains(s, 'oe')", "X..."),
    ("s || '!' = 'Shoes!' AND concat(s, i) = 'Shoes5'", "X..."),
    ("trim(s) = ''", "..X."),
    ("upper(d) = 'RED'", "X..X"),
    ("ts - TIMESTAMP '1970-01-01' < INTERVAL 1 DAY", "X.X."),
    ("ts + INTERVAL 1 SECOND = TIMESTAMP '1970-01-02'", "..X."),
    ("ts > day", "...X"),
    ("epoch(ts) = 86399", "..X."),
    ("epoch(ts - TIMESTAMP '1970-01-01') > 86399", "...X"),
    ("extract(hour FROM ts) = 23 OR date_part('year', ts) = 2025", "..XX"),
    ("extract(isodow FROM day) = 1", "...X"),
    ("date_trunc('month', ts) = DATE '2025-12-01'", "...X"),
    ("date_diff('day', day, DATE '1970-01-03') = 1", "..X."),
    # Whatever zone a column names, its instants are taken apart in UTC.
    ("extract(hour FROM tz) = 12", "...X"),
    ("len(l) = 2", "...X"),
    ("len(big) = 0 OR len(pair) = 2 AND i = 5", "X.X."),
    ("list_contains(l, 7) OR 1 IN l", "X..X"),
    ("list_position(l, 2) = 2", "X..."),
    ("l[1] = 1 OR l[-1] = 7", "X..X"),
    ("l[9] IS NULL", "XXXX"),
    ("list_sum(l) = 5 AND list_min(l) = 1 AND list_max(l) = 2", "X..."),
    ("list_avg(fl) = 1.0", "X..."),
    ("list_contains(words, 'Ä') OR codes[2] = 'b'", "X..X"),
    ("list_contains(l, i - 4)", "X..."),
    ("l IS NULL AND nested IS NULL", ".X.."),
]  # fmt: skip


@pytest.mark.parametrize(("where", "kept"), KEPT, ids=[where for where, _ in KEPT])
def test_expressions_keep(where: str, kept: str) -> None:
    filter_ = compile_where(DatasetSpec(where=where), TABLE.schema)
    assert filter_ is not None
    assert "".join("X" if keep else "." for keep in filter_.mask(TABLE)) == kept


def test_sums_of_lists_are_added_in_order_however_a_table_is_chunked() -> None:
    random = np.random.default_rng(5)
    lists = [random.normal(scale=10.0 ** (k % 40), size=k % 7 + 1).tolist() for k in range(5000)]
    sums = [functools.reduce(operator.add, values) for values in lists]
    table = pa.table({"x": lists, "y": sums})
    filter_ = compile_where(
        DatasetSpec(where="list_sum(x) = y AND list_avg(x) = y / len(x)"), table.schema
    )
    assert filter_ is not None
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 2047), table.slice(2048)])
    assert filter_.mask(table).all()
    assert filter_.mask(pieces).all()


def test_a_long_list_of_values_keeps_the_order_of_rows() -> None:
    table = pa.table({"i": list(range(5000))})
    wanted = {7 * n for n in range(300)}
    filter_ = compile_where(
        DatasetSpec(where=f"i IN ({', '.join(map(str, wanted))})"), table.schema
    )
    assert filter_ is not None
    assert filter_.mask(table).tolist() == [i in wanted for i in range(5000)]


def test_every_function_is_one_of_duckdbs_and_gives_the_same_each_time() -> None:
    assert TRUTHS <= FUNCTIONS
    with duck.cursor() as cursor:
        found = cursor.execute(
            "SELECT function_name, stability, function_type FROM duckdb_functions()"
        ).fetchall()
    kinds = {(stability, kind) for name, stability, kind in found if name in FUNCTIONS}
    # Those that depend on the session depend on its time zone, which is UTC.
    within = ("CONSISTENT_WITHIN_QUERY", "scalar")
    assert kinds == {("CONSISTENT", "scalar"), within, (None, "macro")}
    aware = {name for name, stability, _ in found if stability == within[0]} & FUNCTIONS
    assert {"date_part", "date_trunc", "+"} <= aware
    assert not aware & {"now", "today", "current_date"}
    grammar = {"if", "ifnull", "~~", "!~~", "~~*", "!~~*"}
    assert {name for name, _, _ in found} >= FUNCTIONS - grammar


GOLDEN = ROOT / "tests/golden/expression_errors.json"


@pytest.mark.parametrize(("where", "message"), json.loads(GOLDEN.read_text()).items())
def test_what_is_refused_is_told_word_by_word(where: str, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        compile_where(DatasetSpec(where=where), TABLE.schema)
    assert (caught.value.reason, caught.value.field) == ("FILTER_INVALID", "dataset.where")
    assert caught.value.message == message


FAILING = [
    ("i + 9223372036854775807 > j", "Overflow in addition of INT64 (5 + 9223372036854775807)"),
    ("10 // i > 1", "Division by zero in expression (10 // 'i')"),
    ("CAST(s AS INTEGER) = 1", "Could not convert string 'Shoes' to INT32"),
    ("CAST(f AS INTEGER) = 1", "Type FLOAT with value nan can't be cast"),
]


@pytest.mark.parametrize(("where", "why"), FAILING, ids=[where for where, _ in FAILING])
def test_a_row_that_makes_it_fail_ends_the_read(where: str, why: str) -> None:
    filter_ = compile_where(DatasetSpec(where=where), TABLE.schema)
    assert filter_ is not None
    with pytest.raises(DataError) as caught:
        filter_.mask(TABLE)
    assert caught.value.reason == "FILTER_FAILED"
    assert caught.value.message.startswith(f"the filter {where!r} cannot be evaluated on some row")
    assert why in caught.value.message
    assert "guard it (TRY_CAST, NULLIF, CASE WHEN)" in caught.value.message
    assert "TRY(" not in caught.value.message


def test_the_table_is_what_its_comments_say() -> None:
    assert TABLE["ts"][3].as_py() == datetime.datetime(2025, 12, 1, 12)  # noqa: DTZ001
