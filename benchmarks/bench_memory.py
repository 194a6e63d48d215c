"""How much memory server and client take, against batch size, row group size and read-ahead.

    python benchmarks/bench_memory.py [--quick] [--json FILE]

homefeed clustered, one server and one client, each a process of its own and fresh for every
setting; the figures are the peaks of their resident memory. The client expands every batch and
drops it. The first row are the defaults; others change what they name. Some are of streams that are
opened and left unread, without a client. Of the setting with many epochs there is a table of its
own: what both sides hold after each.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.delivery import expanded
from benchmarks.harness import (
    arguments,
    fresh_process,
    homefeed,
    memory_mib,
    report,
    server,
    table,
)
from benchmarks.stalled import stalled, wait_until_settled
from preprocessor_server.settings import Settings
from trainer_client import BatchStream, Dataset

GIB = 1 << 30
STALLED_STREAMS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration; row_group_rows 0 leaves the files as homefeed writes them (50,000)."""

    batch_size: int = 4096
    row_group_rows: int = 0
    read_ahead_bytes: int = GIB
    epochs: int = 1
    stalled_streams: int = 0

    @property
    def name(self) -> str:
        """What differs from the defaults."""
        default = Setting()
        names = {
            "batch_size": f"batch {self.batch_size:,}",
            "row_group_rows": f"row groups of {self.row_group_rows:,}",
            "read_ahead_bytes": f"read-ahead {self.read_ahead_bytes >> 20:,} MiB",
            "epochs": f"{self.epochs} epochs",
            "stalled_streams": f"{self.stalled_streams} stalled streams",
        }
        changed = [
            text for name, text in names.items() if getattr(self, name) != getattr(default, name)
        ]
        return ", ".join(changed) or "defaults"


def settings(quick: bool) -> list[Setting]:
    """What is measured."""
    default = Setting()
    sizes = (65_536,) if quick else (512, 16_384, 65_536)
    groups = (400_000,) if quick else (10_000, 200_000, 1_000_000)
    ahead = () if quick else (GIB // 2, 2 * GIB, 4 * GIB)
    stalled_streams = replace(default, stalled_streams=STALLED_STREAMS)
    return [
        default,
        *(replace(default, batch_size=size) for size in sizes),
        *(replace(default, row_group_rows=rows) for rows in groups),
        *(replace(default, read_ahead_bytes=size) for size in ahead),
        stalled_streams,
        replace(stalled_streams, row_group_rows=groups[-1]),
        replace(default, epochs=3 if quick else 10),
    ]


def rewritten(source: Path, row_group_rows: int) -> Path:
    """The rows of a folder in row groups of another size, one file; written if not there."""
    folder = source.with_name(f"{source.name}-groups-{row_group_rows}")
    if not (folder / "dataset.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        files = [pq.ParquetFile(path) for path in sorted(source.glob("*.parquet"))]
        with pq.ParquetWriter(
            folder / "part-00000.parquet", files[0].schema_arrow, compression="zstd"
        ) as writer:
            for file in files:
                # A file of homefeed is a million rows at most.
                writer.write_table(file.read(), row_group_size=row_group_rows)
        text = (source / "dataset.yaml").read_text()
        (folder / "dataset.yaml").write_text(text.replace(source.name, folder.name))
    return folder


def read_epochs(
    path: Path, target: str, batch_size: int, epochs: int, server_pid: int
) -> list[dict[str, float]]:
    """The memory of server and client after each epoch, and at their peaks so far.

    For a process of its own.
    """
    dataset = Dataset.from_yaml(path)
    found = []
    with BatchStream(dataset, target=target, batch_size=batch_size) as stream:
        for _ in range(epochs):
            for batch in stream:
                expanded(batch)
            found.append(memory_of("server", server_pid) | memory_of("client", os.getpid()))
    return found


def memory_of(side: str, pid: int) -> dict[str, float]:
    """The memory of a process, and its peak, in MiB."""
    return {f"{side}_held_mib": memory_mib(pid), f"{side}_mib": memory_mib(pid, "VmHWM")}


def measure(setting: Setting, rows: int) -> dict[str, Any]:
    """The memory of one setting."""
    folder = homefeed("clustered", rows)
    if setting.row_group_rows:
        folder = rewritten(folder, setting.row_group_rows)
    path = folder / "dataset.yaml"
    kept = str(Settings.model_fields["shared_bytes"].default)
    flags = ("--read-ahead-bytes", str(setting.read_ahead_bytes), "--shared-bytes", kept)
    with server(*flags) as (target, pid):
        idle_mib = memory_mib(pid)
        if setting.stalled_streams:
            with stalled(target, Dataset.from_yaml(path).to_proto(), setting.stalled_streams):
                wait_until_settled(pid)
                epochs = [memory_of("server", pid)]
        else:
            epochs = fresh_process(
                read_epochs, path, target, setting.batch_size, setting.epochs, pid
            )
    return {
        "setting": setting.name,
        **asdict(setting),
        "rows": rows,
        "server_idle_mib": idle_mib,
        "epochs_mib": epochs,
        "last_epoch": epochs[-1],
    }


def main() -> None:
    """Measures and reports."""
    options = arguments("Peak memory of server and client").parse_args()
    rows = 400_000 if options.quick else 4_000_000
    results = []
    for setting in settings(options.quick):
        print(f"{setting.name} …", file=sys.stderr)
        results.append(measure(setting, rows))
    table(
        f"homefeed clustered, {rows:,} rows; peak resident memory in MiB",
        ("setting", "server", "server idle", "client"),
        [
            (
                result["setting"],
                f"{result['last_epoch']['server_mib']:,.0f}",
                f"{result['server_idle_mib']:,.0f}",
                _cell(result["last_epoch"].get("client_mib")),
            )
            for result in results
        ],
    )
    table(
        "resident memory in MiB after each epoch, and the peak until then",
        ("epoch", "server", "peak", "client", "peak"),
        [
            (str(number), *(_cell(value) for value in epoch.values()))
            for number, epoch in enumerate(results[-1]["epochs_mib"], start=1)
        ],
    )
    report(options, "bench_memory", results)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    main()
