"""What a trainer takes of a batch, expanded to rows or as it was sent, and what an epoch costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.harness import tree_cpu_s
from trainer_client import Batch, BatchStream

Take = Callable[[Batch], list[torch.Tensor]]


def expanded(batch: Batch) -> list[torch.Tensor]:
    """Per-row tensors: dense [B, D], labels [B, L], key-major sparse values and lengths [F * B]."""
    tensors = [each for each in (batch.dense, batch.labels) if each is not None]
    if batch.sparse is not None:
        tensors += [batch.sparse.values, batch.sparse.lengths]
    return tensors


def as_sent(batch: Batch) -> list[torch.Tensor]:
    """The same, sparse features as they travelled: once a run, with the rows of each run."""
    tensors = [each for each in (batch.dense, batch.labels) if each is not None]
    if batch.sparse is not None:
        for part in batch.sparse.deduplicated.parts:
            tensors += [part.values, part.lengths]
            if part.run_lengths is not None:
                tensors.append(part.run_lengths)
    return tensors


MODES: dict[str, Take] = {"expanded": expanded, "as sent": as_sent}

EPOCH_UNITS = {
    "examples_per_s": "examples/s",
    "server_cpu_s_per_million": "s/million examples",
    "client_cpu_s_per_million": "s/million examples",
    "wire_bytes_per_example": "bytes",
}


def one_epoch(stream: BatchStream, server_pids: Sequence[int], take: Take) -> dict[str, float]:
    """The next epoch of a stream in EPOCH_UNITS; this process is the client.

    Raises RuntimeError if a batch has no tensors: then nothing is measured.
    """
    before, began_s = stream.stats(), time.monotonic()
    server_s, client_s = sum(map(tree_cpu_s, server_pids)), time.process_time()
    for batch in stream:
        if not take(batch):
            raise RuntimeError("a batch without tensors: the dataset has no features")
    took_s = time.monotonic() - began_s
    client_s = time.process_time() - client_s
    server_s = sum(map(tree_cpu_s, server_pids)) - server_s
    after = stream.stats()
    rows = after.rows - before.rows
    return {
        "examples_per_s": rows / took_s,
        "server_cpu_s_per_million": server_s / rows * 1e6,
        "client_cpu_s_per_million": client_s / rows * 1e6,
        "wire_bytes_per_example": (after.wire_bytes - before.wire_bytes) / rows,
    }
