"""What a source's rows mean for a schema of files: grouped, flat, or an error that says why."""

import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.source.nesting import check_columns, resolve_rows

STRUCT = pa.struct({"item": pa.int64(), "tags": pa.list_(pa.string()), "label": pa.int8()})
FLAT = pa.schema(
    {
        "request": pa.int64(),
        "history": pa.list_(pa.int64()),
        "item": pa.int64(),
        "tags": pa.list_(pa.string()),
        "label": pa.int8(),
    }
)
LISTS = pa.schema(
    {
        "request": pa.int64(),
        "history": pa.list_(pa.int64()),
        "item": pa.large_list(pa.int64()),
        "tags": pa.list_(pa.list_(pa.string())),
        "label": pa.list_(pa.int8(), 3),
    }
)
STRUCTS = pa.schema(
    {
        "request": pa.int64(),
        "history": pa.list_(pa.int64()),
        "impressions": pa.list_(STRUCT),
    }
)


def dataset(*rows: str, label: str = "label") -> dataset_pb2.DatasetSpec:
    form = {
        "source": {"parquet": {"paths": ["x"], "rows": list(rows)}},
        "features": [{"sparse": {"columns": ["item"]}}, {"label": {"columns": [label]}}],
    }
    return json_format.ParseDict(form, dataset_pb2.DatasetSpec())


def without_label(*rows: str) -> dataset_pb2.DatasetSpec:
    spec = dataset(*rows)
    del spec.features[1]
    return spec


def refused(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        resolve_rows(spec, schema)
    assert caught.value.reason == "DATASET_INVALID"
    assert caught.value.field.startswith("dataset.source.parquet.rows")
    assert caught.value.message.startswith("source.parquet.rows")
    return caught.value


@pytest.mark.parametrize(
    ("rows", "schema"),
    [(["item", "tags", "label"], LISTS), (["i*", "tags", "l*"], LISTS), (["imp*"], STRUCTS)],
)
def test_lists_of_rows_become_columns_of_rows(rows: list[str], schema: pa.Schema) -> None:
    source = resolve_rows(dataset(*rows), schema)
    assert source.grouped
    assert source.schema == FLAT
    in_lists = [column.name for column in source.columns if column.in_lists]
    assert in_lists == ["item", "tags", "label"]


@pytest.mark.parametrize(
    "rows",
    [["item", "tags", "label"], ["impressions"], ["label"], ["t*", "label", "gone_*"], []],
)
def test_flat_files_are_read_with_the_rows_of_grouped_ones(rows: list[str]) -> None:
    source = resolve_rows(dataset(*rows), FLAT)
    assert not source.grouped
    assert source.schema == FLAT
    assert not any(column.in_lists for column in source.columns)


def test_without_a_label_lists_are_lists_of_rows_and_single_values_are_not() -> None:
    assert resolve_rows(without_label("item"), LISTS).grouped
    assert resolve_rows(without_label("impressions"), STRUCTS).grouped
    assert not resolve_rows(without_label("item", "label"), FLAT).grouped


@pytest.mark.parametrize("op", [{"listLength": {}}, {"listAggregate": {"by": "AGGREGATION_MAX"}}])
def test_a_list_of_which_a_number_is_made_decides_nothing(op: dict[str, object]) -> None:
    spec = dataset("item", "tags", "label")
    made = json_format.ParseDict({"columns": ["tags"], "ops": [op]}, dataset_pb2.DenseFeature())
    spec.features.add(dense=made)
    assert not resolve_rows(spec, FLAT).grouped
    assert resolve_rows(spec, LISTS).grouped


def test_a_name_that_matches_nothing_needs_a_number_to_show_that_files_are_flat() -> None:
    error = refused(without_label("impresions"), STRUCTS)
    assert "'impresions' names no column" in error.message
    assert "did you mean 'impressions'?" in error.message
    assert not resolve_rows(dataset("impresions"), FLAT).grouped


@pytest.mark.parametrize(
    ("spec", "schema", "words"),
    [
        (dataset("item", "lable"), LISTS, ["'lable' names no column", "did you mean 'label'?"]),
        (dataset("item", "label", "dense_*"), LISTS, ["'dense_*' names no column"]),
        (dataset("item", "label", "req*"), LISTS, ["'req*' names column 'request'", "int64"]),
        (dataset("impressions", "request"), STRUCTS, ["names column 'request'", "leave it out"]),
        (without_label("item", "request"), LISTS, ["'item' is large_list", "'request' is int64"]),
        (dataset("label", "request", label="*e*"), LISTS, ["'label' is fixed", "'request' is"]),
    ],
)
def test_what_fits_only_in_part_is_refused(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema, words: list[str]
) -> None:
    message = refused(spec, schema).message
    for word in words:
        assert word in message, message


def test_fields_may_not_have_the_name_of_another_column() -> None:
    schema = STRUCTS.append(pa.field("label", pa.int64()))
    assert (
        "field 'label' in the lists of 'impressions'"
        in refused(dataset("impressions"), schema).message
    )
    two = STRUCTS.append(pa.field("ads", pa.list_(STRUCT)))
    assert "field 'item'" in refused(dataset("impressions", "ads"), two).message


def test_rows_are_counted_by_a_cheap_column_where_no_other_is_needed() -> None:
    source = resolve_rows(dataset("item", "tags", "label"), LISTS)
    chosen = source.select({"request"})
    assert [column.measured_name for column in chosen.columns] == ["request", "label[]"]
    assert [c.measured_name for c in source.select({"tags"}).columns] == ["tags[]"]
    structs = resolve_rows(dataset("impressions"), STRUCTS)
    assert [c.measured_name for c in structs.select(set()).columns] == ["impressions[].label"]


LACKS_LABEL = pa.struct({"item": pa.int64(), "tags": pa.list_(pa.string()), "new": pa.int8()})


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        (pa.list_(LACKS_LABEL), "COLUMN_MISSING", ["no field 'label' in the lists of column"]),
        (pa.int8(), "COLUMN_TYPE_MISMATCH", ["is int8 in file 'b'", "'a' a list with one"]),
        (pa.list_(pa.int8()), "COLUMN_TYPE_MISMATCH", ["lists of int8 in file 'b'", "structs"]),
        (
            pa.list_(pa.struct({"label": pa.int32(), "item": pa.int64()})),
            "COLUMN_TYPE_MISMATCH",
            ["field 'label' in the lists of column 'impressions' is int32 in file 'b'", "int8"],
        ),
    ],
)
def test_files_must_have_what_the_first_has(
    changed: pa.DataType, reason: str, words: list[str]
) -> None:
    columns = resolve_rows(dataset("impressions"), STRUCTS).select({"item", "label"})
    other = pa.schema({"request": pa.int64(), "impressions": changed})
    with pytest.raises(DataError) as caught:
        check_columns("b", other, columns, "a")
    assert caught.value.reason == reason
    for word in words:
        assert word in caught.value.message, caught.value.message


def test_what_is_not_read_may_differ() -> None:
    columns = resolve_rows(dataset("impressions"), STRUCTS).select({"item"})
    other = pa.schema({"impressions": pa.large_list(LACKS_LABEL)})
    check_columns("b", other, columns, "a")
