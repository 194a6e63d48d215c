"""What a dataset may declare of its functions, and what each mistake is told."""

import pyarrow as pa
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.udf import types
from preprocessor_server.udf.declared import declaration_errors, declare_udfs
from trainer_client import udfs as client

SOURCE = pa.schema([("price", pa.float32()), ("city", pa.string()), ("age", pa.int16())])


def udf(**changes: object) -> dict[str, object]:
    form: dict[str, object] = {
        "function": "features.price:scale",
        "inputs": ["price"],
        "outputs": [{"name": "scaled", "type": "float32"}],
    }
    return form | changes


def spec(*udfs: dict[str, object], **changes: object) -> dataset_pb2.DatasetSpec:
    return json_format.ParseDict({"udfs": udfs, **changes}, dataset_pb2.DatasetSpec())


LATER = udf(
    function="later:f", inputs=["scaled", "age"], outputs=[{"name": "z", "type": "list<int64>"}]
)


@pytest.mark.parametrize(
    ("udfs", "field", "words"),
    [
        ([udf(function="features.price")], "udfs[0].function", "package.module:function"),
        ([udf(function="a b:c")], "udfs[0].function", "'a b:c' is no function"),
        ([udf(), udf()], "udfs[1].function", "named twice"),
        ([udf(inputs=[])], "udfs[0].inputs", "handed no column"),
        ([udf(outputs=[])], "udfs[0].outputs", "makes no column"),
        ([udf(outputs=[{"type": "bool"}])], "udfs[0].outputs[0].name", "an empty column"),
        (
            [udf(outputs=[{"name": "x", "type": "double"}])],
            "udfs[0].outputs[0].type",
            "'double' is no type of a column; give bool, int8",
        ),
        ([udf(inputs=["prise"])], "udfs[0].inputs[0]", "did you mean 'price'?"),
        ([LATER, udf()], "udfs[0].inputs[0]", "0 columns called 'scaled'"),
        (
            [udf(outputs=[{"name": "age", "type": "int8"}])],
            "udfs[0].outputs[0].name",
            "which the source has already",
        ),
        (
            [udf(), udf(function="b:c")],
            "udfs[1].outputs[0].name",
            "which an earlier output has already",
        ),
    ],
)
def test_a_declaration_that_is_wrong(udfs: list[dict[str, object]], field: str, words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        declare_udfs(spec(*udfs), SOURCE)
    assert caught.value.reason == "DATASET_INVALID"
    assert caught.value.field == f"dataset.{field}"
    assert words in caught.value.message


def test_block_rows_out_of_bounds() -> None:
    (error,) = declaration_errors(spec(udf(), udf_block_rows=(1 << 24) + 1))
    assert error.field == "dataset.udf_block_rows"
    assert "16,777,216" in error.message


def test_all_errors_are_found_at_once() -> None:
    wrong = udf(function="x", inputs=[], outputs=[])
    assert len(list(declaration_errors(spec(wrong, wrong)))) == 6


def test_only_what_is_used_runs() -> None:
    other = udf(function="other:f", outputs=[{"name": "y", "type": "bool"}])
    declared = declare_udfs(spec(udf(), other, LATER), SOURCE)
    assert declared.schema.names == ["price", "city", "age", "scaled", "y", "z"]
    assert declared.schema.field("z").type == pa.list_(pa.int64())
    assert [u.function for u in declared.needed({"z", "city"})] == [
        "features.price:scale",
        "later:f",
    ]
    assert declared.sources({"z", "city"}) == {"city", "price", "age"}
    assert declared.needed({"city"}) == ()
    assert declared.made({"y"}) == ["y"]
    assert declared.block_rows == 65_536


@given(st.sampled_from(sorted(types.SCALARS)), st.booleans())
def test_a_type_has_one_name(name: str, is_list: bool) -> None:
    name = f"list<{name}>" if is_list else name
    assert types.type_name(types.arrow_type(name)) == name
    assert types.fits(types.arrow_type(name), types.arrow_type(name))
    assert types.row_bytes(types.arrow_type(name)) >= 1
    assert name in client.TYPES


@pytest.mark.parametrize("name", ["", "list", "list<>", "list<list<int8>>", "list<int8", "int"])
def test_what_is_no_type(name: str) -> None:
    with pytest.raises(ValueError, match="no type of a column"):
        types.arrow_type(name)
    assert name not in client.TYPES


def test_layouts_of_one_type() -> None:
    assert types.fits(pa.large_string(), pa.string())
    assert types.fits(pa.large_list(pa.string_view()), pa.list_(pa.string()))
    assert not types.fits(pa.string(), pa.binary())
    assert not types.fits(pa.list_(pa.int32()), pa.list_(pa.int64()))
