"""Ray Data: read_parquet, map_batches, and an iterator in the trainer.

Settings: torch (iter_torch_batches instead of iter_batches), or rows; for another workload than
homefeed flat (criteo or wide), columns (of wide, those to deliver) and batch_size.

map_batches turns rows into training batches, one Arrow row each whose lists are the tensors, so the
iterator hands them out without a copy. Ray reads a file in one task: the files that it is given
hold few row groups (repack.py). Batches end where its blocks end, so some are smaller than those
of the other systems. With rows it is as Ray's documentation shows it: map_batches transforms rows,
a column a feature, iter_batches makes batches of them, and the trainer tensors of those.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data.collate_fn import ArrowBatchCollateFn

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import homefeed, protocol
from benchmarks.peers.arrow_columns import to_batch, to_rows
from benchmarks.peers.arrow_rows import packed, unpacked
from benchmarks.peers.flat import flat
from benchmarks.peers.homefeed import BATCH_SIZE, COLUMNS, LABEL, SEQUENCES, RowBatch, Split

CORES = len(os.sched_getaffinity(0))
OBJECT_STORE_BYTES = 3 << 30
PREFETCHED_BATCHES = 4


def transformed(block: pa.Table) -> pa.Table:
    """The training batches of a block of rows."""
    batches = homefeed.batches([homefeed.exploded(block)])
    return pa.Table.from_batches([packed(homefeed.transform(batch)) for batch in batches])


def flat_transformed(
    block: pa.Table, transform: Callable[[pa.RecordBatch], RowBatch], size: int
) -> pa.Table:
    """The same for a flat workload."""
    batches = homefeed.batches([block], size)
    return pa.Table.from_batches([packed(transform(batch)) for batch in batches])


def transformed_rows(
    block: pa.Table, transform: Callable[[pa.RecordBatch], RowBatch], lists: int
) -> pa.Table:
    """The rows of a block, transformed."""
    if LABEL in block.column_names:
        block = homefeed.exploded(block)
    (rows,) = block.combine_chunks().to_batches()
    return to_rows(transform(rows), lists)


def received(row: pa.Table) -> RowBatch:
    """The training batch in a table of one row."""
    (record,) = row.combine_chunks().to_batches()
    return unpacked(record)


class ToTensors(ArrowBatchCollateFn):
    """Makes tensors of one row."""

    def __call__(  # type: ignore[override]  # Ray's is a type variable that nothing binds
        self, batch: pa.Table
    ) -> dict[str, torch.Tensor]:
        """The tensors, without copies."""
        arrays = received(batch)
        return {
            "dense": torch.from_numpy(arrays.dense),
            "labels": torch.from_numpy(arrays.labels),
            "values": torch.from_numpy(arrays.values),
            "lengths": torch.from_numpy(arrays.lengths),
        }


class Trainer:
    """The driver of a local Ray, as a peer."""

    def __init__(self, settings: protocol.Settings) -> None:
        self._as_torch, self._as_rows = settings["torch"], settings.get("rows", False)
        self._size = settings.get("batch_size", BATCH_SIZE)
        self._columns, self._transformed = COLUMNS, transformed
        transform: Callable[[pa.RecordBatch], RowBatch] = homefeed.transform
        lists = len(SEQUENCES)
        if "flat" in settings:
            workload = flat(settings["flat"], settings["columns"])
            self._columns, transform, lists = workload.columns, workload.transform, 0
            self._transformed = partial(flat_transformed, transform=transform, size=self._size)
        if self._as_rows:
            self._transformed = partial(transformed_rows, transform=transform, lists=lists)

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        """One pass over the files of these row groups, all row groups of each."""
        paths = list(dict.fromkeys(path for path, _ in wanted))
        rows = ray.data.read_parquet(paths).select_columns(list(self._columns))
        ready = rows.map_batches(
            self._transformed,
            batch_format="pyarrow",
            batch_size=self._size if self._as_rows else None,
            zero_copy_batch=True,
        )
        prefetch: dict[str, Any] = {
            "batch_size": self._size if self._as_rows else 1,
            "prefetch_batches": PREFETCHED_BATCHES,
        }
        if self._as_torch:
            for tensors in ready.iter_torch_batches(collate_fn=ToTensors(), **prefetch):
                yield RowBatch(**tensors)
            return
        read = to_batch if self._as_rows else received
        for block in ready.iter_batches(batch_format="pyarrow", **prefetch):
            yield read(block)

    def cpu_s(self) -> protocol.Cpu:
        """Ray's processes, workers under nice included, and this one without them."""
        client = sum(os.times()[:2])
        return {"server": tree_cpu_s(os.getpid()) - client, "client": client}

    def wire_bytes(self) -> None:
        """Batches come through shared memory."""


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Trainer]:
    """A local Ray with a worker a core."""
    del folder
    ray.init(
        num_cpus=CORES,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield Trainer(settings)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    protocol.serve(start, ("ray", "torch", "pyarrow", "numpy"), protocol.slope)
