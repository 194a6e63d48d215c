"""The pipeline of raydata.py behind a fleet: its read and its transformation become a source.

Settings: dataset (a dataset.yaml, whose files are those of the folder instead).
Ray Data gets rows that are ready, and its iterator hands them out in training batches, from which
the trainer makes the tensors. Servers, read tasks and Ray share the cores of one local Ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import protocol
from benchmarks.peers.homefeed import BATCH_SIZE, DENSE, KEYS, LABEL, RowBatch, Split
from trainer_client import Dataset, RayFleet, parquet
from trainer_client.integrations.ray_data import read_batch_stream

CORES = len(os.sched_getaffinity(0))
OBJECT_STORE_BYTES = 3 << 30
PREFETCHED_BATCHES = 4
TARGET = "ray:///benchmark"
# Servers take the work, read tasks hand it on: a quarter of the cores for them all.
FLEET = RayFleet(replicas=1, cpus=0.5, data_root="/", settings={"cpu_threads": CORES})
READ_CPUS = 0.25
# Ray ends idle workers beyond one a CPU, and what they have spent would be lost to the count.
KEEP_WORKERS = {
    "RAY_num_workers_soft_limit": "16",
    "RAY_idle_worker_killing_time_threshold_ms": "900000",
}


def received(rows: pa.Table) -> RowBatch:
    """The tensors of rows."""
    dense = np.stack([rows[name].to_numpy() for name in DENSE])
    lists = [rows[name].combine_chunks() for name in KEYS]
    values = np.concatenate([each.flatten().to_numpy() for each in lists])
    lengths = np.concatenate([each.value_lengths().to_numpy() for each in lists])
    return RowBatch(dense.T, rows[LABEL].to_numpy(), values, lengths)


class Trainer:
    """The driver of a local Ray, as a peer; every pass is an epoch that was not read before."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._epoch = 0

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        """One pass over the files of these row groups, all row groups of each."""
        self._epoch += 1
        source = parquet(*dict.fromkeys(path for path, _ in wanted))
        source = replace(self._dataset.source, paths=source.paths)
        rows = read_batch_stream(
            replace(self._dataset, source=source),
            target=TARGET,
            fleet=FLEET,
            batch_size=BATCH_SIZE,
            epoch=self._epoch,
            streams=CORES,
            num_cpus=READ_CPUS,
        )
        for batch in rows.iter_batches(
            batch_size=BATCH_SIZE, batch_format="pyarrow", prefetch_batches=PREFETCHED_BATCHES
        ):
            yield received(batch)

    def cpu_s(self) -> protocol.Cpu:
        """Ray's processes, servers and read tasks included, and this one without them."""
        client = sum(os.times()[:2])
        return {"server": tree_cpu_s(os.getpid()) - client, "client": client}

    def wire_bytes(self) -> None:
        """Batches come through shared memory from the read tasks."""


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Trainer]:
    """A local Ray with a worker a core."""
    del folder
    dataset = Dataset.from_yaml(Path(settings["dataset"]))
    os.environ.update(KEEP_WORKERS)
    ray.init(
        num_cpus=CORES,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield Trainer(dataset)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    packages = ("ray", "torch", "pyarrow", "numpy", "numba", "grpcio", "protobuf")
    protocol.serve(start, packages, protocol.slope)
