"""What a layout of the files costs and gains: their size, reading them, and the whole way.

    python benchmarks/bench_layouts.py [--quick] [--json FILE]

The same rows of homefeed logged, clustered and grouped. Reading is one thread that decodes the
needed columns with pyarrow and does nothing else. End to end is one server and one client on this
machine, batch 4096, shuffled: a run is a fresh epoch, after one that is not counted, expanded to
rows and as sent; layouts take turns.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from benchmarks.delivery import EPOCH_UNITS, MODES, one_epoch
from benchmarks.harness import (
    arguments,
    homefeed,
    measured,
    report,
    runs_of,
    server,
    shown,
    table,
)
from benchmarks.hot_path import decode_files_cpu_s, needed_columns
from benchmarks.workloads import LAYOUTS
from trainer_client import BatchStream, Dataset

BATCH_SIZE = 4096


def measure(rows: int, runs: int) -> list[dict[str, Any]]:
    """Every layout in every mode."""
    folders = {layout: homefeed(layout, rows) for layout in LAYOUTS}
    datasets = {
        layout: Dataset.from_yaml(folder / "dataset.yaml") for layout, folder in folders.items()
    }
    columns = {layout: needed_columns(dataset) for layout, dataset in datasets.items()}
    figures: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    reads: dict[str, list[float]] = defaultdict(list)
    file_bytes: dict[str, float] = {}
    with ExitStack() as stack:
        target, pid = stack.enter_context(server())
        streams = {
            layout: stack.enter_context(BatchStream(dataset, target=target, batch_size=BATCH_SIZE))
            for layout, dataset in datasets.items()
        }
        for run in range(runs + 1):
            for layout, stream in streams.items():
                seconds, _, size = decode_files_cpu_s(folders[layout], columns[layout])
                file_bytes[layout] = size / rows
                if run:
                    reads[layout].append(seconds / rows * 1e6)
                for mode, take in MODES.items():
                    found = one_epoch(stream, [pid], take)
                    for name, value in found.items() if run else ():
                        figures[layout, mode][name].append(value)
    return [
        {
            "layout": layout,
            "mode": mode,
            "rows": rows,
            "file_bytes_per_example": file_bytes[layout],
            "read_cpu_s_per_million": measured(reads[layout], "s/million examples"),
        }
        | {name: measured(values, EPOCH_UNITS[name]) for name, values in figure.items()}
        for (layout, mode), figure in figures.items()
    ]


def main() -> None:
    """Measures and reports."""
    options = arguments("Layouts of the same rows").parse_args()
    results = measure(400_000 if options.quick else 4_000_000, runs_of(options))
    table(
        f"homefeed, batch {BATCH_SIZE}",
        (
            "layout",
            "delivered",
            "file B/ex",
            "read CPU s/M",
            "examples/s",
            "server CPU s/M",
            "client CPU s/M",
            "wire B/ex",
        ),
        [
            (
                result["layout"],
                result["mode"],
                f"{result['file_bytes_per_example']:.0f}",
                shown(result["read_cpu_s_per_million"], 2),
                shown(result["examples_per_s"]),
                shown(result["server_cpu_s_per_million"], 2),
                shown(result["client_cpu_s_per_million"], 2),
                f"{result['wire_bytes_per_example']['median']:.0f}",
            )
            for result in results
        ],
    )
    report(options, "bench_layouts", results)


if __name__ == "__main__":
    main()
