"""Derived columns of SQL expressions: their values and types on rows and runs, and their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.frame import Frame, Runs
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.derive import bind_derived, derive
from preprocessor_server.transform.derive.kinds import derived_faults
from tests.fakes.one_op import read
from trainer_client import Dataset, Label, parquet
from trainer_client.derive import Expression

TABLE = pa.table(
    {
        "label": pa.array([1, 0, 1, None], pa.int8()),
        "dwell": pa.array([40_000, 50_000, None, 1], pa.int32()),
        "f": pa.array([0.5, None, 2.0, -1.0], pa.float32()),
        "s": ["a", None, "", "é"],
        "d": pa.array(["x", "y", None, "x"]).dictionary_encode(),
        "t": pa.array([0, 10**6, None, 5], pa.timestamp("us")),
        "b": [True, False, None, True],
        "l": [[1], [], None, [2]],
    }
)
MADE: list[tuple[str, pa.DataType, list[Any]]] = [
    ("dwell > 30000 AND label = 1", pa.bool_(), [True, False, None, False]),
    ("dwell + label", pa.int32(), [40_001, 50_000, None, None]),
    ("f * 2", pa.float32(), [1.0, None, 4.0, -2.0]),
    ("dwell / 4", pa.float64(), [10_000.0, 12_500.0, None, 0.25]),
    ("COALESCE(s, d, '?') || '!'", pa.string(), [b"a!", b"y!", b"!", "é!".encode()]),
    ("CASE WHEN b THEN 1 ELSE 0 END", pa.int32(), [1, 0, 0, 1]),
    ("CAST(epoch(t) AS BIGINT)", pa.int64(), [0, 1, None, 0]),
]


def bound(sql: str) -> Any:
    spec = dataset_pb2.DatasetSpec(derive=[Expression("x", sql).to_proto()])
    return bind_derived(spec, TABLE.schema)


@pytest.mark.parametrize(("sql", "kind", "values"), MADE, ids=[sql for sql, _, _ in MADE])
def test_what_it_gives(sql: str, kind: pa.DataType, values: list[Any]) -> None:
    derivation = bound(sql)
    assert derivation.faults == ()
    assert derivation.schema.field("x").type == kind
    names = derivation.columns[0].inputs
    columns = {name: arrow_to_column(TABLE[name]) for name in names}
    frame = derive(derivation.columns, Frame(4, columns))
    assert read(frame.columns["x"]) == values
    # Once per run, and kept so; what no row refers to is not computed.
    inverse = np.array([3, 3, 0], np.int32)
    frame = derive(derivation.columns, Frame(3, {}, (Runs(inverse, columns),)))
    column, found = frame.column("x")
    assert found is not None
    assert [read(column)[run] for run in found] == [values[3], values[3], values[0]]


def test_a_run_that_no_row_refers_to_does_not_fail() -> None:
    (column,) = bound("10 // label").columns
    runs = Runs(np.array([0, 2], np.int32), {"label": arrow_to_column(TABLE["label"])})
    made, _ = derive([column], Frame(2, {}, (runs,))).column("x")
    assert read(made)[0] == 10
    with pytest.raises(DataError) as caught:
        derive([column], Frame(4, {"label": arrow_to_column(TABLE["label"])}))
    assert caught.value.message.startswith(
        "derived column 'x' (derive[0]): expression '10 // label' cannot be evaluated on some "
        "row: Invalid Input Error: Division by zero"
    )


REFUSED = [
    ("labl = 1", "derive[0].expression.sql: 'labl' is no column; did you mean 'label'?"),
    ("label + s", "No function matches the given name and argument types '+(TINYINT, VARCHAR)'"),
    ("len(l)", "an expression takes columns of single values; make one of a list"),
    ("dwell * 1.5", "the expression gives DECIMAL(12,1); cast it to one of BOOLEAN, TINYINT"),
]


@pytest.mark.parametrize(("sql", "why"), REFUSED, ids=[sql for sql, _ in REFUSED])
def test_what_does_not_fit_is_refused(sql: str, why: str) -> None:
    (fault,) = bound(sql).faults
    assert isinstance(fault, DatasetError)
    assert fault.field == "dataset.derive[0].expression.sql"
    assert why in fault.message


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        (" ", "derive[0].expression.sql: the expression is empty"),
        ("1 + 1", "derive[0].expression.sql: the expression names no column"),
        ("label = ", "derive[0].expression.sql: syntax error"),
        ("ln(f)", "derive[0].expression.sql: 'ln' is not supported"),
        ("sum(f)", "derive[0].expression.sql: the aggregate 'sum' is not supported"),
    ],
)
def test_what_is_wrong_whatever_the_columns(sql: str, why: str) -> None:
    message = dataset_pb2.Derived(name="x", expression=dataset_pb2.Expression(sql=sql))
    (fault,) = derived_faults(message, "dataset.derive[0]")
    assert fault.message.startswith(why)


def test_it_comes_back_from_yaml() -> None:
    made = Expression("is_long", "dwell > 30000 AND label = 1")
    given = Dataset(source=parquet("x"), features=[Label("is_long")], derive=[made])
    assert Dataset.from_yaml(given.to_yaml()) == given
