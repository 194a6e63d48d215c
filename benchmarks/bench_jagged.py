"""What jagged sequences save against padded ones: memory, wire, the model's time, the whole way.

    python benchmarks/bench_jagged.py [--quick] [--json FILE]

Three lists of ids a row, 32 long on average and 128 at most (benchmarks/workload_sequences.py),
pooled by an embedding bag on the CPU: jagged by offsets, padded as a matrix whose padding is a row
of zeros (so that torch's fast path serves both). Three ways from Parquet to the model's output,
server and trainer both on this machine:

jagged             jagged files, sent jagged, pooled by offsets
padded by trainer  jagged files, sent jagged, padded in the trainer
padded at source   padded files, sent padded

Outputs are checked equal before anything is timed. A run is a fresh epoch; ways take turns.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import (
    CACHE,
    arguments,
    measured,
    report,
    runs_of,
    server,
    shown,
    table,
    written,
)
from benchmarks.workload_sequences import IDS, KEYS, LONGEST
from trainer_client import Batch, BatchStream, Dataset, SparseBlock

BATCH_SIZE = 4096
WIDTH = 32
WAYS = ("jagged", "padded by trainer", "padded at source")
FORWARD_BATCHES = 10


class Pooling(torch.nn.Module):
    """Sums the embeddings of each list, then one linear layer: a logit a row, float32 [B]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(IDS + 1, WIDTH, generator=generator)
        weight[0] = 0.0  # The id of padding.
        self.weight = torch.nn.Parameter(weight)
        self.head = torch.nn.Linear(len(KEYS) * WIDTH, 1)

    def jagged(self, block: SparseBlock) -> torch.Tensor:
        """From values and offsets."""
        pooled = torch.nn.functional.embedding_bag(
            block.values, self.weight, block.offsets[:-1], mode="sum"
        )
        return self._logits(pooled)

    def padded(self, ids: torch.Tensor) -> torch.Tensor:
        """From a matrix int64 [F * B, LONGEST]."""
        return self._logits(torch.nn.functional.embedding_bag(ids, self.weight, mode="sum"))

    def _logits(self, pooled: torch.Tensor) -> torch.Tensor:
        by_row = pooled.view(len(KEYS), -1, WIDTH).transpose(0, 1).flatten(1)
        logits: torch.Tensor = self.head(by_row).squeeze(1)
        return logits


def padded_here(block: SparseBlock) -> torch.Tensor:
    """The lists as a matrix int64 [F * B, LONGEST], filled up with zeros."""
    matrix = torch.zeros(len(block.lengths), LONGEST, dtype=torch.int64)
    # Of the ways to do it in torch, this is the fastest by a factor of two.
    return matrix.masked_scatter_(torch.arange(LONGEST) < block.lengths[:, None], block.values)


def forward(way: str, model: Pooling, batch: Batch) -> torch.Tensor:
    """The model's output for a batch that came one of the WAYS."""
    block = batch.sparse
    assert block is not None
    if way == "jagged":
        return model.jagged(block)
    if way == "padded by trainer":
        return model.padded(padded_here(block))
    return model.padded(block.values.view(-1, LONGEST))


def tensor_bytes(way: str, batch: Batch) -> int:
    """What the model is given of a batch, in bytes."""
    block = batch.sparse
    assert block is not None
    if way == "jagged":
        return block.values.nbytes + block.lengths.nbytes + block.offsets.nbytes
    return len(block.lengths) * LONGEST * 8


def datasets(folder: Path) -> dict[str, Dataset]:
    """The dataset that each way reads."""
    return {
        way: Dataset.from_yaml(
            folder / ("padded" if way == "padded at source" else "jagged") / "dataset.yaml"
        )
        for way in WAYS
    }


def first_batches(folder: Path, target: str, count: int) -> dict[str, list[Batch]]:
    """The same rows for every way, in file order."""
    found = {}
    for way, dataset in datasets(folder).items():
        with BatchStream(
            dataset, target=target, batch_size=BATCH_SIZE, shuffle=False, interleave=1
        ) as stream:
            found[way] = [batch for batch, _ in zip(stream, range(count), strict=False)]
    return found


def time_forward(model: Pooling, batches: dict[str, list[Batch]], runs: int) -> dict[str, Any]:
    """Milliseconds a batch from what arrived to the model's output, ways taking turns."""
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        for way in WAYS:
            began_s = time.perf_counter()
            for batch in batches[way]:
                forward(way, model, batch)
            times[way].append((time.perf_counter() - began_s) / len(batches[way]) * 1e3)
    return {way: measured(times[way], "ms/batch") for way in WAYS}


def time_end_to_end(
    folder: Path, target: str, runs: int, step: Callable[[str, Batch], object]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Examples a second from Parquet to the model's output, and bytes an example on the wire."""
    rates: dict[str, list[float]] = defaultdict(list)
    wire: dict[str, float] = {}
    streams = {
        way: BatchStream(dataset, target=target, batch_size=BATCH_SIZE)
        for way, dataset in datasets(folder).items()
    }
    for run in range(runs + 1):
        for way, stream in streams.items():
            before, began_s = stream.stats(), time.monotonic()
            for batch in stream:
                step(way, batch)
            after, took_s = stream.stats(), time.monotonic() - began_s
            rows = after.rows - before.rows
            wire[way] = (after.wire_bytes - before.wire_bytes) / rows
            if run:
                rates[way].append(rows / took_s)
    for stream in streams.values():
        stream.close()
    return {way: measured(rates[way], "examples/s") for way in WAYS}, wire


def main() -> None:
    """Measures and reports."""
    options = arguments("Jagged against padded sequences").parse_args()
    rows, runs = 100_000 if options.quick else 400_000, runs_of(options)
    folder = CACHE / f"sequences-{rows}"
    written(folder, "workload_sequences.py", "--rows", str(rows))
    torch.set_num_threads(1)
    model = Pooling()
    with torch.no_grad(), server() as (target, _):
        batches = first_batches(folder, target, FORWARD_BATCHES)
        outputs = {way: forward(way, model, batches[way][0]) for way in WAYS}
        for way in WAYS:
            torch.testing.assert_close(outputs[way], outputs["jagged"])
        times = time_forward(model, batches, runs)
        memory = {way: tensor_bytes(way, batches[way][0]) / BATCH_SIZE for way in WAYS}
        rates, wire = time_end_to_end(
            folder, target, runs, lambda way, batch: forward(way, model, batch)
        )
    table(
        f"three lists of 0-{LONGEST} ids, {LONGEST // 4} on average, batch {BATCH_SIZE}",
        ("way", "examples/s", "jagged is", "forward ms/batch", "tensors B/ex", "wire B/ex"),
        [
            (
                way,
                shown(rates[way]),
                f"{rates['jagged']['median'] / rates[way]['median']:.2f} x",
                shown(times[way], 1),
                f"{memory[way]:,.0f}",
                f"{wire[way]:,.0f}",
            )
            for way in WAYS
        ],
    )
    results = [
        {
            "way": way,
            "rows": rows,
            "examples_per_s": rates[way],
            "forward_ms_per_batch": times[way],
            "tensor_bytes_per_example": memory[way],
            "wire_bytes_per_example": wire[way],
        }
        for way in WAYS
    ]
    report(options, "bench_jagged", results)


if __name__ == "__main__":
    main()
