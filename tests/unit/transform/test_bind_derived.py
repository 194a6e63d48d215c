"""What is refused about derived columns before a row is read, and where."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import compile_features, compile_where, validate_spec
from preprocessor_server.transform.derive import bind_derived
from preprocessor_server.transform.derive.kinds import RULES

SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "item": pa.int64(),
        "price": pa.float32(),
        "at": pa.timestamp("us"),
        "pins": pa.list_(pa.int64()),
        "acts": pa.list_(pa.string()),
        "weights": pa.list_(pa.float32()),
        "times": pa.list_(pa.timestamp("s")),
        "shop": pa.struct({"a": pa.int64()}),
    }
)


def spec(*derived: dict[str, Any], **changes: Any) -> dataset_pb2.DatasetSpec:
    content = {
        "source": {"parquet": {"paths": ["x"]}},
        "features": [{"sparse": {"columns": ["item"]}}],
        "derive": list(derived),
    }
    return json_format.ParseDict(content | changes, dataset_pb2.DatasetSpec())


def cross(name: str, *columns: str, num_buckets: int = 10) -> dict[str, Any]:
    return {"name": name, "cross": {"columns": columns, "num_buckets": num_buckets}}


def since(column: str, event_time: str, **more: str) -> dict[str, Any]:
    unit = {"unit": "TIME_UNIT_DAY"}
    return {"name": "x", "time_since": {"column": column, "event_time": event_time} | unit | more}


def mask(by: str, *values: dict[str, Any], comparison: str = "EQUAL") -> dict[str, Any]:
    how = {"comparison": f"COMPARISON_{comparison}", "values": values}
    return {"name": "x", "mask": {"column": "pins", "by": by, **how}}


def test_every_kind_has_a_rule() -> None:
    kinds = dataset_pb2.Derived.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert list(RULES) == [field.name for field in kinds]


@pytest.mark.parametrize(
    ("derived", "field", "message"),
    [
        (cross("", "user", "item"), "[0].name", "has no name; give it one"),
        ({"name": "x"}, "[0]", "make it one of cross, time_since, mask, top_k"),
        (cross("x", "user"), "[0].cross.columns", "Cross has 1 columns; give from 2 to 64"),
        (cross("x", "user", ""), "[0].cross.columns[1]", "an empty column"),
        (cross("x", "user", "item", num_buckets=0), "[0].cross.num_buckets", "between 1 and"),
        (since("", "at"), "[0].time_since.column", "it names no column; give one"),
        (since("at", "at", unit="TIME_UNIT_UNSPECIFIED"), "[0].time_since.unit", "the unit is 0"),
        (mask("acts"), "[0].mask.values", "no value to compare with"),
        (mask("acts", {}), "[0].mask.values[0]", "an empty value"),
        (mask("weights", {"number": "NaN"}), "[0].mask.values[0]", "the value is NaN"),
        (mask("pins", {"integer": 1}, comparison="UNSPECIFIED"), "[0].mask.comparison", "is 0"),
        (mask("pins", *[{"integer": 1}] * 2, comparison="LESS"), "[0].mask.values", "give one"),
        (
            {"name": "x", "top_k": {"column": "pins", "by": "weights"}},
            "[0].top_k.count",
            "count is 0; it lies between 1 and",
        ),
    ],
)
def test_structure(derived: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        validate_spec(spec(derived))
    assert caught.value.reason == "DATASET_INVALID"
    assert caught.value.field == f"dataset.derive{field}"


@pytest.mark.parametrize(
    ("derived", "reason", "field", "message"),
    [
        (
            cross("item", "user", "item"),
            "DATASET_INVALID",
            "name",
            (
                "derive[0].name: the source or a function has a column 'item' already; give the "
                "derived column another name"
            ),
        ),
        (
            cross("x", "user", "itm"),
            "FEATURE_UNMATCHED",
            "cross.columns[1]",
            "derive[0].cross.columns[1]: 'itm' is no column; did you mean 'item'?",
        ),
        (
            cross("x", "user", "price"),
            "TYPE_UNFIT",
            "cross.columns[1]",
            (
                "it Cross: column 'price' is float; Cross takes integers, "
                "booleans, strings and binary; write the column as one, or leave it out"
            ),
        ),
        (
            cross("x", "user", "shop"),
            "TYPE_UNFIT",
            "cross.columns[1]",
            (
                "it: column 'shop' is struct<a: int64>, of which no column "
                "can be derived; write the part of it that is wanted as a column of its own"
            ),
        ),
        (
            since("item", "at"),
            "TYPE_UNFIT",
            "time_since.column_unit",
            (
                "it TimeSince: column 'item' is int64; integers count "
                "units: say which in column_unit, TIME_UNIT_NANOSECOND, TIME_UNIT_MICROSECOND, "
                "TIME_UNIT_MILLISECOND, TIME_UNIT_SECOND, TIME_UNIT_MINUTE, TIME_UNIT_HOUR, "
                "TIME_UNIT_DAY"
            ),
        ),
        (
            since("times", "at", event_time_unit="TIME_UNIT_DAY"),
            "TYPE_UNFIT",
            "time_since.event_time_unit",
            (
                "it TimeSince: column 'at' is timestamp[us]; only integers "
                "need event_time_unit; leave it out"
            ),
        ),
        (
            since("price", "at"),
            "TYPE_UNFIT",
            "time_since.column",
            (
                "it TimeSince: column 'price' is float; TimeSince takes "
                "timestamps, dates and integers; write the column as one"
            ),
        ),
        (
            mask("item", {"integer": 1}),
            "TYPE_UNFIT",
            "mask.by",
            ("it Mask: column 'item' is int64; Mask takes lists; name a column of lists"),
        ),
        (
            mask("times", {"integer": 1}),
            "TYPE_UNFIT",
            "mask.by",
            (
                "it Mask: column 'times' is list<element: timestamp[s]>; "
                "Mask goes by lists of numbers, booleans, strings and binary; of times, TimeSince "
                "makes numbers"
            ),
        ),
        (
            mask("acts", {"text": "a"}, comparison="LESS"),
            "TYPE_UNFIT",
            "mask.comparison",
            (
                "it Mask: column 'acts' is list<element: string>; strings "
                "and binary are only compared for equality"
            ),
        ),
        (
            mask("pins", {"integer": 1}, {"number": 0.5}),
            "TYPE_UNFIT",
            "mask.values[1]",
            (
                "it Mask: column 'pins' is list<element: int64>; the value "
                "0.5 is no int64; give one that is"
            ),
        ),
    ],
)
def test_inputs(derived: dict[str, Any], reason: str, field: str, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        compile_features(spec(derived), SCHEMA)
    error = caught.value
    assert (error.reason, error.field) == (reason, f"dataset.derive[0].{field}")
    told = error.message.replace("list<item:", "list<element:")
    assert told.replace("derived column 'x' (derive[0])", "it") == message


def test_what_is_made_of_a_column_at_fault_is_no_fault_of_its_own() -> None:
    columns = [
        cross("a", "user", "itm"),
        cross("b", "user", "a"),
        cross("c", "user", "b"),
        cross("d", "user", "item"),
        cross("d", "item", "user"),
    ]
    bound = bind_derived(spec(*columns), SCHEMA)
    assert [fault.field for fault in bound.faults] == [
        "dataset.derive[0].cross.columns[1]",
        "dataset.derive[4].name",
    ]
    assert bound.unsound == {"a", "b", "c"}
    assert [column.name for column in bound.columns] == ["d"]


def test_only_what_features_need_is_made_and_read() -> None:
    columns = [
        cross("a", "user", "item"),
        cross("b", "pins", "a"),
        cross("c", "acts", "user"),
        since("times", "at"),
    ]
    features = [{"sparse": {"columns": ["[bi]*"]}}]
    transform = compile_features(spec(*columns, features=features), SCHEMA)
    assert [output.name for output in transform.outputs] == ["item", "b"]
    assert [column.name for column in transform.derived] == ["a", "b"]
    assert transform.columns == ("user", "item", "pins")


def test_a_derived_column_cannot_be_filtered_by() -> None:
    derived = cross("user_item", "user", "item")
    with pytest.raises(DatasetError) as caught:
        compile_where(spec(derived, where="item > 3 AND user_item = 1"), SCHEMA)
    assert caught.value.reason == "FILTER_INVALID"
    assert caught.value.message == (
        "where: column 'user_item' is derived, which is done after the filter, on the rows that it "
        "keeps; filter by the columns that it is made of, or make it by a UDF, which comes before"
    )
    assert compile_where(spec(derived), SCHEMA) is None
    where = compile_where(spec(derived, where="user = 'user_item'"), SCHEMA)
    assert where is not None
    assert where.columns == ("user",)
    with pytest.raises(DatasetError, match="'user_itm' is not in the source; did you mean 'user'"):
        compile_where(spec(derived, where="user_itm = 1"), SCHEMA)
