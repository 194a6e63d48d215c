"""The stages of server and client in one thread: all rows, every stage counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.delivery import as_sent, expanded
from benchmarks.hot_path import (
    InlineServer,
    decode_files_cpu_s,
    decoded,
    full_batches,
    needed_columns,
    parse,
)
from headrace.v1 import batch_pb2
from tests.fakes.parquet import ROW_COUNT, write_dataset
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet
from trainer_client.decode import Decoder

BATCH_SIZE = 256


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "rows"
    write_dataset(folder)
    return Dataset(
        source=parquet(folder),
        features=(
            Dense("price"),
            Sparse("id", "seq", ops=[ops.HashBucket(1000)]),
            Label("label"),
        ),
    )


def test_an_epoch_has_every_row_and_counts_every_stage(dataset: Dataset) -> None:
    server = InlineServer()
    try:
        messages = list(server.messages(dataset.to_proto(), BATCH_SIZE))
    finally:
        server.close()
    batches = [batch for batch in map(parse, messages) if batch.row_count]
    assert sum(batch.row_count for batch in batches) == ROW_COUNT
    assert {batch.codec for batch in batches} == {batch_pb2.CODEC_ZSTD}
    assert server.clock.cpu_s.keys() == {"read", "transform", "encode"}


def test_full_batches_are_decoded_to_the_same_rows_expanded_and_as_sent(dataset: Dataset) -> None:
    schema, messages = full_batches(dataset, BATCH_SIZE, 3)
    assert len(messages) == 3
    decoder = Decoder(schema)
    for data in messages:
        batch = decoded(decoder, data)
        assert len(batch) == BATCH_SIZE
        dense, labels, values, lengths = expanded(batch)
        assert dense.shape == labels.shape == (BATCH_SIZE, 1)
        assert len(lengths) == 2 * BATCH_SIZE
        assert lengths.sum() == len(values)
        sent = as_sent(batch)
        assert sum(tensor.nbytes for tensor in sent) <= sum(
            tensor.nbytes for tensor in (dense, labels, values, lengths)
        )


def test_decoding_alone_reads_what_a_server_reads(dataset: Dataset) -> None:
    columns = needed_columns(dataset)
    assert sorted(columns) == ["id", "label", "price", "seq"]
    folder = Path(dataset.source.paths[0])
    seconds, arrow_bytes, file_bytes = decode_files_cpu_s(folder, columns)
    assert seconds > 0
    assert arrow_bytes > ROW_COUNT * (8 + 1 + 4)
    assert file_bytes == sum(path.stat().st_size for path in folder.glob("*.parquet"))
