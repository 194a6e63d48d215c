"""Blocks of a split: counted from its start, in plain columns, with their own random numbers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.errors import DeploymentError
from preprocessor_server.plan.identity import Split
from preprocessor_server.settings import Settings
from preprocessor_server.source.snapshot import Snapshot
from preprocessor_server.source.split_table import SplitTable
from preprocessor_server.udf.call import ReturnedError, call, generator
from preprocessor_server.udf.in_process import InProcess
from preprocessor_server.udf.run import SplitPlace, Udfs, bind_udfs, seed_words

SNAPSHOT = Snapshot.of(
    pb.Snapshot(
        files=[
            pb.SnapshotFile(path="x.parquet", row_group_count=2),
            pb.SnapshotFile(path="y.parquet", row_group_count=3),
        ],
        row_group_rows=[9] * 5,
    )
)
MODULE = "tests.fakes.udfs"


def bound(source: pa.Schema, name: str, inputs: list[str], tmp_path: Path, **made: str) -> Udfs:
    function = f"{MODULE}:{name}"
    form = {
        "function": function,
        "inputs": inputs,
        "outputs": [{"name": column, "type": kind} for column, kind in made.items()],
        "random": name == "noisy",
    }
    spec = json_format.ParseDict({"udfs": [form], "udf_block_rows": 4}, dataset_pb2.DatasetSpec())
    settings = Settings(data_root=(tmp_path,), udf_module=(MODULE,))
    udfs = bind_udfs(spec, source, InProcess(settings))
    return udfs.of(SNAPSHOT.with_udfs([pb.SnapshotUdf(function=function, fingerprint="f")]))


def test_blocks_are_counted_from_the_start_of_the_split(tmp_path: Path) -> None:
    rows = pa.table({"id": pa.chunked_array([[3, 5, 7], [9, 11, 13, 15], [17, 19]])})
    udfs = bound(rows.schema, "mean_of_block", ["id"], tmp_path, mean="float64")
    place = SplitPlace(SNAPSHOT, Split(1, 1, 2, 9))
    made = udfs.apply(SplitTable(rows, rows), place, {"mean"})
    assert made.rows["mean"].to_pylist() == [6.0] * 4 + [14.0] * 4 + [19.0]
    assert made.parquet_rows is made.rows
    # Nothing that is used needs it.
    assert udfs.apply(SplitTable(rows, rows), place, {"id"}).rows.column_names == ["id"]


def test_rows_in_lists_have_the_values_of_their_parquet_row(tmp_path: Path) -> None:
    rows = pa.table({"price": pa.array([0.5, 1.5, 2.5, 3.5, 4.5], pa.float32())})
    requests = pa.table({"age": pa.array([10, 20, 30], pa.int16())})
    inverse = np.array([0, 0, 2, 2, 2], np.int32)
    table = SplitTable(rows, requests, np.array([2, 0, 3]), inverse)
    schema = pa.schema([*requests.schema, *rows.schema])
    udfs = bound(schema, "spread", ["age", "price"], tmp_path, total="float32")
    made = udfs.apply(table, SplitPlace(SNAPSHOT, Split(0, 0, 0, 3)), {"total"})
    assert made.rows["total"].to_pylist() == [10.5, 11.5, 32.5, 33.5, 34.5]
    assert made.parquet_rows is requests


def test_a_split_without_rows_still_has_the_columns(tmp_path: Path) -> None:
    rows = pa.table({"id": pa.array([], pa.int64())})
    udfs = bound(rows.schema, "mean_of_block", ["id"], tmp_path, mean="float64")
    made = udfs.apply(SplitTable(rows, rows), SplitPlace(SNAPSHOT, Split(0, 0, 0, 1)), {"mean"})
    assert made.rows.schema.field("mean").type == pa.float64()


@pytest.mark.parametrize("split", [Split(0, 0, 0, 9), Split(1, 0, 4, 5)])
def test_columns_are_plain_and_noise_is_of_the_block(tmp_path: Path, split: Split) -> None:
    price = pa.array(np.zeros(9, np.float32))
    cities = pa.array(["a", None, "b"] * 3)
    made = []
    for coded in (cities, cities.dictionary_encode()):
        rows = pa.table({"price": price, "city": coded})
        udfs = bound(
            rows.schema,
            "noisy",
            ["price", "city"],
            tmp_path,
            centred="float32",
            block_rows="int64",
            letters="list<int64>",
        )
        table = SplitTable(rows, rows)
        for epoch in (0, 1):
            place = SplitPlace(SNAPSHOT, split, seed=7, epoch=epoch)
            made.append(udfs.apply(table, place, {"centred"}).rows)
    assert made[0].drop_columns(["city"]).equals(made[2].drop_columns(["city"]))
    assert made[0]["letters"].to_pylist()[:3] == [[97], [], [98]]
    assert made[0]["centred"] != made[1]["centred"]
    noise = made[0]["centred"].to_numpy()
    assert len(set(noise.tolist())) == 9
    # Whoever starts at a later block of the split draws the same.
    rows = pa.table({"price": price, "city": cities}).slice(4)
    place = SplitPlace(SNAPSHOT, split, seed=7, skipped_rows=4)
    later = udfs.apply(SplitTable(rows, rows), place, {"centred"}).rows
    assert later["centred"].to_numpy().tolist() == noise[4:].tolist()


def test_random_numbers_are_those_of_the_documentation() -> None:
    assert seed_words(1, 2**32 + 5) == [1, 0, 5, 1]
    words = seed_words(7, 0, 3 << 40, 2, 0x0123456789ABCDEF)
    assert words == [7, 0, 0, 0, 0, 768, 2, 0, 0x89ABCDEF, 0x01234567]
    assert generator(words).integers(0, 2**32, 3).tolist() == GOLDEN
    assert generator([*words[:-1], 0]).integers(0, 2**32, 3).tolist() != GOLDEN


GOLDEN = [1734072397, 2755397080, 1510518620]


def test_a_snapshot_of_other_functions(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64())])
    udfs = bound(schema, "mean_of_block", ["id"], tmp_path, mean="float64")
    with pytest.raises(Exception, match="taken for other functions") as caught:
        udfs.of(SNAPSHOT)
    assert getattr(caught.value, "reason", "") == "SNAPSHOT_INVALID"


def test_a_module_is_allowed_by_whole_names(tmp_path: Path) -> None:
    form = {
        "function": "features.price:f",
        "inputs": ["x"],
        "outputs": [{"name": "y", "type": "bool"}],
    }
    spec = json_format.ParseDict({"udfs": [form]}, dataset_pb2.DatasetSpec())
    for allowed, fits in (
        (("features",), True),
        (("other", "features.price"), True),
        (("feat",), False),
        (("features.price.more",), False),
        ((), False),
    ):
        workers = InProcess(Settings(data_root=(tmp_path,), udf_module=allowed))
        if fits:
            assert bind_udfs(spec, pa.schema([("x", pa.int8())]), workers)
            continue
        with pytest.raises(DeploymentError, match=r"--udf-module features\.price"):
            bind_udfs(spec, pa.schema([("x", pa.int8())]), workers)


def test_other_layouts_of_a_type_are_taken() -> None:
    batch = pa.RecordBatch.from_pydict({"x": [1, 2]})
    made = call(
        lambda _: pa.RecordBatch.from_pydict({"y": pa.array(["a", None], pa.large_string())}),
        batch,
        [("y", "string")],
        None,
    )
    assert made.schema.field("y").type == pa.string()
    assert made["y"].to_pylist() == ["a", None]
    with pytest.raises(ReturnedError, match="2 columns called 'y'"):
        call(
            lambda b: pa.RecordBatch.from_arrays([b["x"], b["x"]], names=["y", "y"]),
            batch,
            [("y", "int64")],
            None,
        )
