"""Headrace itself, run as the peers are: a server process, and a trainer that takes the tensors.

Settings: form ("expanded": per-row tensors, as the peers deliver them; "as sent": once a run; or
"reassembled", which shows that the form as sent holds the same rows); servers (how many share the
cores of this machine); shuffle (the peers do not shuffle the rows of a row group).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import delivery
from benchmarks.harness import fleet, tree_cpu_s
from benchmarks.peers import protocol
from benchmarks.peers.homefeed import BATCH_SIZE, KEYS, RowBatch, Split
from trainer_client import Batch, BatchStream, Dataset
from trainer_client.sparse import SparsePart


def expanded(batch: Batch) -> RowBatch:
    """The per-row tensors of a batch."""
    dense, labels, values, lengths = delivery.expanded(batch)
    return RowBatch(dense, labels[:, 0], values, lengths)


def as_sent(batch: Batch) -> RowBatch:
    """A batch whose tensors have been taken in the form in which they travelled."""
    dense, labels, *_ = delivery.as_sent(batch)
    return RowBatch(dense, labels[:, 0], None, None)


def reassembled(batch: Batch) -> RowBatch:
    """The per-row tensors, made here from the form as sent, in plain numpy."""
    assert batch.sparse is not None
    dense, labels, *_ = delivery.as_sent(batch)
    parts = batch.sparse.deduplicated.parts
    lists = [rows_of(part, key) for key in KEYS for part in parts if key in part]
    values, lengths = (np.concatenate(each) for each in zip(*lists, strict=True))
    return RowBatch(dense, labels[:, 0], values, lengths)


def rows_of(part: SparsePart, key: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Values and lengths of one feature's lists, one a row."""
    view = part[key]
    values, lengths, starts = view.values.numpy(), view.lengths.numpy(), view.offsets[:-1].numpy()
    if part.inverse is None:
        return values, lengths
    lengths, starts = lengths[part.inverse], starts[part.inverse]
    before = np.cumsum(lengths) - lengths
    return values[np.repeat(starts - before, lengths) + np.arange(lengths.sum())], lengths


FORMS = {"expanded": expanded, "as sent": as_sent, "reassembled": reassembled}


class Stream:
    """One stream as a peer; every pass is an epoch that was not read before."""

    def __init__(self, stream: BatchStream, server_pids: Sequence[int], form: str) -> None:
        self._stream = stream
        self._server_pids = server_pids
        self._take = FORMS[form]

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        """The next epoch: all row groups of the folder."""
        del wanted
        for batch in self._stream:
            yield self._take(batch)

    def cpu_s(self) -> protocol.Cpu:
        """The servers' processes, and this one."""
        return {"server": sum(map(tree_cpu_s, self._server_pids)), "client": time.process_time()}

    def wire_bytes(self) -> int:
        """What the client has counted."""
        return self._stream.stats().wire_bytes


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Stream]:
    """Servers and a stream from them."""
    dataset = Dataset.from_yaml(folder / "dataset.yaml")
    with (
        fleet(settings["servers"]) as (target, pids),
        BatchStream(
            dataset, target=target, batch_size=BATCH_SIZE, shuffle=settings["shuffle"]
        ) as stream,
    ):
        yield Stream(stream, pids, settings["form"])


if __name__ == "__main__":
    protocol.serve(start, ("torch", "pyarrow", "numpy", "numba", "grpcio", "protobuf"))
