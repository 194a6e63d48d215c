"""tf.data service: a dispatcher and a worker that read TFRecords, and a trainer that takes batches.

Settings: records (the folder that tfrecords.py wrote), compression ("AUTO", which is Snappy, or
null).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import protocol
from benchmarks.peers.homefeed import (
    BATCH_SIZE,
    BUCKET_BITS,
    CATEGORICAL,
    DENSE,
    SEQUENCES,
    TAIL,
    RowBatch,
    Split,
    splits,
)

FEATURES = {
    "cat": tf.io.FixedLenFeature([len(CATEGORICAL)], tf.int64),
    "dense": tf.io.FixedLenFeature([len(DENSE)], tf.float32),
    "label": tf.io.FixedLenFeature([], tf.float32),
    **{name: tf.io.RaggedFeature(tf.int64) for name in SEQUENCES},
}
CORES = len(os.sched_getaffinity(0))


def transform(records: Any) -> tuple[Any, Any, Any, Any]:
    """Serialised rows [B] to dense, labels, values and lengths, as RowBatch has them."""
    rows = tf.io.parse_example(records, FEATURES)
    dense = rows["dense"]
    dense = tf.math.log1p(tf.where(tf.math.is_nan(dense), 0.0, dense))
    scalars = tf.reshape(tf.transpose(rows["cat"]), [-1])
    tails = [tail(rows[name]) for name in SEQUENCES]
    values = hashed(tf.concat([scalars, *(kept for kept, _ in tails)], 0))
    ones = tf.ones(tf.shape(scalars), tf.int32)
    lengths = tf.concat([ones, *(of_rows for _, of_rows in tails)], 0)
    return dense, rows["label"], values, lengths


def tail(lists: Any) -> tuple[Any, Any]:
    """The last TAIL values of every list, and how many those are; a slice takes longer."""
    lengths = tf.cast(lists.row_lengths(), tf.int32)
    kept = tf.minimum(lengths, TAIL)
    runs = tf.reshape(tf.stack([lengths - kept, kept], 1), [-1])
    chosen = tf.repeat(tf.tile([False, True], [tf.shape(lengths)[0]]), runs)
    return tf.boolean_mask(lists.values, chosen), kept


def hashed(values: Any) -> Any:
    """The bucket of every value: SplitMix64 with seed 0, its high bits."""
    z = tf.bitcast(values, tf.uint64) + word(0x9E3779B97F4A7C15)
    z = shifted(z, 30) * word(0xBF58476D1CE4E5B9)
    z = shifted(z, 27) * word(0x94D049BB133111EB)
    z = tf.bitwise.right_shift(shifted(z, 31), word(64 - BUCKET_BITS))
    return tf.bitcast(z, tf.int64)


def shifted(z: Any, bits: int) -> Any:
    """Words mixed with their own high bits: z ^ (z >> bits)."""
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, word(bits)))


def word(value: int) -> Any:
    """A uint64 constant."""
    return tf.constant(np.uint64(value))


class Service:
    """A trainer of the service, as a peer."""

    def __init__(
        self,
        address: str,
        pids: Sequence[int],
        files: dict[Split, str],
        compression: str | None,
    ) -> None:
        self._address = address
        self._pids = pids
        self._files = files
        self._compression = compression
        self._wire_bytes = 0

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        """One pass, a job of the service."""
        files = [self._files[split] for split in wanted]
        records = tf.data.TFRecordDataset(files, buffer_size=8 << 20, num_parallel_reads=CORES)
        rows = records.batch(BATCH_SIZE).map(
            transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
        )
        distribute = tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
            service=f"grpc://{self._address}",
            compression=self._compression,
        )
        for tensors in rows.prefetch(tf.data.AUTOTUNE).apply(distribute).prefetch(2):
            self._wire_bytes += sum(each.shape.num_elements() * each.dtype.size for each in tensors)
            yield RowBatch(*tensors)

    def cpu_s(self) -> protocol.Cpu:
        """Dispatcher and worker, and this process without them."""
        server = sum(map(tree_cpu_s, self._pids))
        return {"server": server, "client": tree_cpu_s(os.getpid()) - server}

    def wire_bytes(self) -> int | None:
        """The tensors' bytes where they travel as they are."""
        return None if self._compression else self._wire_bytes


@contextmanager
def process(*flags: str) -> Iterator[tuple[str, int]]:
    """A dispatcher or a worker: its address and its pid."""
    command = [sys.executable, "-m", "benchmarks.peers.tfdata_service", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            yield json.loads(started.stdout.readline())["address"], started.pid
        finally:
            started.kill()


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Service]:
    """A dispatcher, a worker, and their trainer."""
    records = sorted(Path(settings["records"]).glob("*.tfrecord"))
    files = dict(zip(splits(folder), map(str, records), strict=True))
    with ExitStack() as stack:
        address, dispatcher = stack.enter_context(process())
        _, worker = stack.enter_context(process("--dispatcher", address))
        yield Service(address, [dispatcher, worker], files, settings["compression"])


if __name__ == "__main__":
    protocol.serve(start, ("tensorflow-cpu", "numpy"), protocol.first_to_last)
