"""The estimate of what a row group takes up in memory, against what it does take up."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.source.footer import decoded_bytes
from preprocessor_server.source.leaves import leaves_of
from preprocessor_server.source.nesting import RowColumn, RowSchema

ROWS = 10_000
COLUMNS: dict[str, pa.Array] = {
    "int64": pa.array(range(ROWS)),
    "int8": pa.array([i % 100 for i in range(ROWS)], pa.int8()),
    "double": pa.array([i / 7 for i in range(ROWS)]),
    "short distinct strings": pa.array([f"value {i}" for i in range(ROWS)]),
    "long strings of few values": pa.array([f"{i % 50:05}" * 400 for i in range(ROWS)]),
    "lists": pa.array([list(range(i % 9)) for i in range(ROWS)]),
    "lists of strings": pa.array([["a long tag, all alike"] * (i % 9) for i in range(ROWS)]),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("dictionary", [True, False])
def test_the_estimate_is_of_the_right_size(tmp_path: Path, name: str, dictionary: bool) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"x": COLUMNS[name], "other": pa.array(range(ROWS))})
    pq.write_table(table, path, use_dictionary=dictionary)
    metadata = pq.read_metadata(path)
    columns = RowSchema((RowColumn("x", table.schema.field("x").type, "x"),), grouped=False)
    leaves = leaves_of("x.parquet", table.schema, metadata, columns)
    estimate = decoded_bytes(metadata, 0, leaves)
    actual = pq.read_table(path, columns=["x"]).nbytes
    assert 0.9 * actual <= estimate
    assert estimate <= 8 * actual
