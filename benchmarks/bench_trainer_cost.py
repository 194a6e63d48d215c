"""What a trainer pays for its batches: CPU, time without the GIL, and speed of its own loop.

    python benchmarks/bench_trainer_cost.py [--quick] [--json FILE]

A training loop in pure Python (benchmarks/training_loop.py) has a core of its own and consumes
homefeed at 200,000 examples/s; whatever feeds it runs on the other cores. It is fed by this
client (as sent, and expanded ahead of the loop; by threads, and by a reader process), from a
replay server (benchmarks/replay_server.py) that is faster than the loop, and by a torch DataLoader
that reads the same Parquet and does the same work in the trainer with 0, 1 and 2
workers (where files are grouped: the cheaper of those and clustered ones). Every run times the
loop fed and alone in one process, some tenths of a second each in turn. The speed that it keeps
counts everything; what it loses is shown apart: its own CPU for taking a batch and expanding it,
waiting for one, the time that it was computing and another thread held the GIL, with how often the
GIL was handed over, and the CPU that its own bytecode takes, as a multiple of what it takes alone.
--quick takes clustered files only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.delivery import MODES
from benchmarks.harness import (
    arguments,
    fresh_process,
    homefeed,
    measured,
    report,
    runs_of,
    shown,
    table,
)
from benchmarks.peer_systems import KEEP_MEMORY
from benchmarks.peers.dataloader import Rows
from benchmarks.peers.homefeed import splits
from benchmarks.replay_server import replay
from benchmarks.training_loop import Lap, TrainingLoop
from benchmarks.workloads import LAYOUTS
from trainer_client import Batch, BatchStream, Dataset

BATCH_SIZE = 4096
EXAMPLES_PER_S = 200_000
# How much faster the replay server is than the loop.
HEADROOM = 2.0
PASSES = 100
DISTURBED_SHARE = 0.02


def fed_by_client(folder: Path, addresses: list[str], runs: int, seconds: float) -> list[Any]:
    """(how batches are taken, lap alone, lap fed) of every run; for a process of its own."""
    loop = _loop()
    dataset = Dataset.from_yaml(folder / "dataset.yaml")
    laps = []
    for run, process, mode in itertools.product(range(runs), (False, True), MODES):
        with BatchStream(
            dataset,
            target=f"static:///{addresses[0]}",
            batch_size=BATCH_SIZE,
            seed=run,
            expand=mode == "expanded",
            reader_process=process,
        ) as stream:
            laps.append((_named(mode, process), *loop.both(_epochs(stream), MODES[mode], seconds)))
    return laps


def fed_by_loader(folder: Path, workers: int, runs: int, seconds: float) -> list[Any]:
    """The same of a DataLoader; for a process of its own."""
    loop = _loop()
    laps = []
    for _ in range(runs):
        # More passes than a run can take.
        rows = Rows(splits(folder) * PASSES, threads=False)
        batches = iter(DataLoader(rows, batch_size=None, num_workers=workers))
        laps.append((f"{workers} workers", *loop.both(batches, lambda _: None, seconds)))
        del batches  # Ends its workers.
    return laps


def _named(mode: str, process: bool) -> str:
    return f"{mode}, reader process" if process else mode


def _epochs(stream: BatchStream) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    while True:
        yield from stream


def _loop() -> TrainingLoop:
    torch.set_num_threads(1)
    return TrainingLoop(BATCH_SIZE / EXAMPLES_PER_S)


def summary(layout: str, system: str, laps: list[tuple[Lap, Lap]]) -> dict[str, Any]:
    """The figures of one system, a list of runs each."""

    def figure(unit: str, of: Callable[[Lap, Lap], float]) -> dict[str, Any]:
        return measured([of(alone, fed) for alone, fed in laps], unit)

    return {
        "layout": layout,
        "system": system,
        "speed_kept": figure("of alone", lambda alone, fed: fed.steps_per_s / alone.steps_per_s),
        "examples_per_s": figure("examples/s", lambda _, fed: fed.steps_per_s * BATCH_SIZE),
        "cpu_s_per_million": figure(
            "s/million examples", lambda _, fed: fed.feeding_cpu_s / BATCH_SIZE * 1e6
        ),
        "take_ms_per_batch": figure("ms", lambda alone, fed: (fed.take_s - alone.take_s) * 1e3),
        "wait_ms_per_batch": figure("ms", lambda _, fed: fed.wait_s * 1e3),
        "without_gil_ms_per_batch": figure(
            "ms", lambda alone, fed: (fed.without_gil_s - alone.without_gil_s) * 1e3
        ),
        "hand_overs_per_batch": figure("", lambda alone, fed: fed.hand_overs - alone.hand_overs),
        "own_cpu": figure(
            "of alone",
            lambda alone, fed: (
                (fed.computing.cpu_s / fed.steps) / (alone.computing.cpu_s / alone.steps)
            ),
        ),
        # What else ran on the loop's core, to judge the rest by.
        "disturbed_share": figure("of the time", lambda _, fed: fed.disturbed_share),
    }


def measure(
    layout: str, rows: int, workers: tuple[int, ...], runs: int, seconds: float
) -> list[dict[str, Any]]:
    """Every system on one layout."""
    folder = homefeed(layout, rows)
    results = []
    with replay(folder / "dataset.yaml", BATCH_SIZE, examples_per_s=HEADROOM * EXAMPLES_PER_S) as (
        addresses,
        _,
    ):
        laps = fresh_process(fed_by_client, folder, addresses, runs, seconds)
    for way in (_named(mode, process) for process in (False, True) for mode in MODES):
        own = [(alone, fed) for name, alone, fed in laps if name == way]
        results.append(summary(layout, f"headrace, {way}", own))
    for count in workers:
        system = f"DataLoader, {count} workers"
        tried = []
        for source in _loader_folders(layout, rows):
            laps = fresh_process(fed_by_loader, source, count, runs, seconds, variables=KEEP_MEMORY)
            own = [(alone, fed) for _, alone, fed in laps]
            tried.append(summary(layout, system, own) | {"files": source.name})
        results.append(min(tried, key=lambda each: float(each["cpu_s_per_million"]["median"])))
    return results


def _loader_folders(layout: str, rows: int) -> list[Path]:
    """What a loader may read: grouped files exploded, or the same rows clustered."""
    names = ("grouped", "clustered") if layout == "grouped" else (layout,)
    return [homefeed(name, rows) for name in names]


def main() -> None:
    """Measures and reports."""
    options = arguments("What a trainer pays for its batches").parse_args()
    rows = 400_000 if options.quick else 1_000_000
    workers, seconds = ((0,), 0.8) if options.quick else ((0, 1, 2), 3.0)
    layouts = ("clustered",) if options.quick else LAYOUTS
    results: list[dict[str, Any]] = []
    calm = True
    for layout in layouts:
        found = measure(layout, rows, workers, runs_of(options), seconds)
        results += found
        calm &= all(result["disturbed_share"]["median"] < DISTURBED_SHARE for result in found)
        table(
            f"homefeed {layout}, batch {BATCH_SIZE}, {EXAMPLES_PER_S:,} examples/s",
            (
                "fed by",
                "speed kept",
                "CPU s/M",
                "take ms/batch",
                "wait ms/batch",
                "without GIL ms/batch",
                "hand-overs/batch",
                "own CPU",
            ),
            [
                (
                    result["system"],
                    f"{result['speed_kept']['median']:.1%}",
                    shown(result["cpu_s_per_million"], 2),
                    shown(result["take_ms_per_batch"], 2),
                    shown(result["wait_ms_per_batch"], 2),
                    shown(result["without_gil_ms_per_batch"], 2),
                    shown(result["hand_overs_per_batch"], 1),
                    shown(result["own_cpu"], 3),
                )
                for result in found
            ],
        )
    if not calm:
        print("Other processes used the loop's core: take the figures on a machine that is idle.")
    report(options, "bench_trainer_cost", results)


if __name__ == "__main__":
    main()
