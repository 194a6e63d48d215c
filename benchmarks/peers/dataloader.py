"""torch's DataLoader: the trainer reads and transforms homefeed itself. No network.

Settings: workers (0: in the trainer's own process), threads (pyarrow decodes the columns of a row
group in parallel).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import homefeed, protocol
from benchmarks.peers.homefeed import RowBatch, Split


class Rows(IterableDataset[RowBatch]):
    """Batches of some row groups as tensors; workers deal the row groups among themselves."""

    def __init__(self, wanted: Sequence[Split], *, threads: bool) -> None:
        self._wanted = wanted
        self._threads = threads

    def __iter__(self) -> Iterator[RowBatch]:
        worker, wanted = get_worker_info(), self._wanted
        if worker is not None:
            wanted = homefeed.dealt(wanted, worker.id, worker.num_workers)
        for rows in homefeed.batches(homefeed.row_groups(wanted, threads=self._threads)):
            batch = homefeed.transform(rows)
            yield replace(
                batch,
                dense=torch.from_numpy(batch.dense),
                labels=torch.from_numpy(batch.labels),
                values=torch.from_numpy(batch.values),
                lengths=torch.from_numpy(batch.lengths),
            )


class Loader:
    """The loader as a peer."""

    def __init__(self, workers: int, threads: bool) -> None:
        self._workers = workers
        self._threads = threads

    def batches(self, wanted: Sequence[Split]) -> DataLoader[RowBatch]:
        """One pass."""
        rows = Rows(wanted, threads=self._threads)
        return DataLoader(rows, batch_size=None, num_workers=self._workers)

    def cpu_s(self) -> protocol.Cpu:
        """The trainer and its workers, living and ended; there is no server."""
        return {"server": 0.0, "client": tree_cpu_s(os.getpid())}

    def wire_bytes(self) -> None:
        """Nothing goes over a wire."""


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Loader]:
    """A loader."""
    del folder
    torch.set_num_threads(1)
    yield Loader(settings["workers"], settings["threads"])


if __name__ == "__main__":
    protocol.serve(start, ("torch", "pyarrow", "numpy"))
