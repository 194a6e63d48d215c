"""What peers do to criteo and wide in numpy is what the server and the client deliver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import hot_path
from benchmarks.bench_workloads import CASES, Case, row_batch
from benchmarks.peers import flat, homefeed
from benchmarks.peers.arrow_columns import to_batch, to_rows
from benchmarks.peers.arrow_rows import packed, unpacked
from benchmarks.peers.checksum import Checksum, differences
from benchmarks.workload_criteo import hexadecimal, write_criteo
from benchmarks.workload_wide import write_wide
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server import kernels
from trainer_client import Dataset
from trainer_client.decode import Decoder

ROWS = 3_000
WRITERS = {"criteo": write_criteo, "wide": write_wide}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = {}
    for name, write in WRITERS.items():
        written[name] = tmp_path_factory.mktemp("flat") / name
        write(written[name], ROWS, 0)
    return written


def ours(dataset: Dataset, batch_size: int) -> Checksum:
    """The rows of an epoch, from the server's code and the client's."""
    server, decoder, total = hot_path.InlineServer(), None, Checksum()
    try:
        for data in server.messages(dataset.to_proto(), batch_size):
            message = pb.StreamBatchesResponse.FromString(data)
            if message.HasField("schema"):
                decoder = Decoder(message.schema)
            elif message.batch.row_count:
                assert decoder is not None
                total.add(row_batch(hot_path.decoded(decoder, data)))
    finally:
        server.close()
    return total


def theirs(case: Case, folder: Path, *, by_rows: bool) -> Checksum:
    """The same, as Ray Data's workers and its trainer do it, in either form."""
    workload, total = flat.flat(case.workload, case.columns(folder)), Checksum()
    table = pq.read_table(folder / "part-00000.parquet", columns=list(workload.columns))
    for rows in homefeed.batches([table], case.batch_size):
        batch = workload.transform(rows)
        total.add(to_batch(to_rows(batch, lists=0)) if by_rows else unpacked(packed(batch)))
    return total


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_peers_deliver_the_same_rows(case: Case, folders: dict[str, Path]) -> None:
    folder = folders[case.workload]
    got = ours(Dataset.from_yaml(folder / case.dataset), 1_000).as_json()
    assert got["rows"] == ROWS
    for by_rows in (False, True):
        assert differences(got, theirs(case, folder, by_rows=by_rows).as_json()) == []


def test_words_are_hashed_as_the_server_hashes_their_bytes() -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    strings = hexadecimal(numbers)
    data = np.frombuffer(strings.buffers()[2], np.uint8)
    offsets = np.arange(len(numbers) + 1) * 8
    words = data.view(np.uint64).copy()
    flat.hash_words(words)
    expected = kernels.hash_strings(offsets, data, 1 << flat.CRITEO_BUCKET_BITS, 0)
    np.testing.assert_array_equal(words.view(np.int64), expected)


def test_strings_of_another_length_are_refused(folders: dict[str, Path]) -> None:
    table = pq.read_table(folders["criteo"] / "part-00000.parquet")
    for wrong in ("abc", "0123456789abcdef"):
        strings = pa.chunked_array([pa.array([wrong] * ROWS)])
        index = table.column_names.index("cat_3")
        (rows,) = table.set_column(index, "cat_3", strings).combine_chunks().to_batches()
        with pytest.raises(ValueError, match="8 bytes each"):
            flat.criteo(rows)
