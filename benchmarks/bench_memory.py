"""How much memory server and client take, against batch size, row group size and read-ahead.

    python benchmarks/bench_memory.py [--quick] [--json FILE]

homefeed clustered, one server and one client, each a process of its own and fresh for every
setting; the figures are the peaks of their resident memory. The client expands every batch and
drops it. The first row are the defaults; others change one thing each. The last rows are many
epochs under the defaults (peak after the first and the last), and 32 streams that nobody reads.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
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
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from trainer_client import BatchStream, Dataset

GIB = 1 << 30
STALLED_STREAMS = 32
# Stalled streams fill what they may fill, and then nothing moves any more.
SETTLED_S, SETTLE_TIMEOUT_S, POLL_S = 2.0, 20.0, 0.25


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration; row_group_rows 0 leaves the files as homefeed writes them (50,000)."""

    batch_size: int = 4096
    row_group_rows: int = 0
    read_ahead_bytes: int = GIB
    epochs: int = 1

    @property
    def name(self) -> str:
        """What differs from the defaults."""
        default = Setting()
        names = {
            "batch_size": f"batch {self.batch_size:,}",
            "row_group_rows": f"row groups of {self.row_group_rows:,}",
            "read_ahead_bytes": f"read-ahead {self.read_ahead_bytes >> 20:,} MiB",
            "epochs": f"{self.epochs} epochs",
        }
        changed = [
            text for name, text in names.items() if getattr(self, name) != getattr(default, name)
        ]
        return ", ".join(changed) or "defaults"


def settings(quick: bool) -> list[Setting]:
    """What is measured."""
    default = Setting()
    found = [default]
    sizes = (65_536,) if quick else (512, 16_384, 65_536)
    found += [replace(default, batch_size=size) for size in sizes]
    groups = (100_000,) if quick else (10_000, 200_000, 1_000_000)
    found += [replace(default, row_group_rows=rows) for rows in groups]
    ahead = () if quick else (GIB // 2, 2 * GIB, 4 * GIB)
    found += [replace(default, read_ahead_bytes=size) for size in ahead]
    return [*found, replace(default, epochs=3 if quick else 10)]


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
    """The peaks so far of server and client after each epoch; for a process of its own."""
    idle_mib = memory_mib(os.getpid())
    peaks = []
    dataset = Dataset.from_yaml(path)
    with BatchStream(dataset, target=target, batch_size=batch_size) as stream:
        for _ in range(epochs):
            for batch in stream:
                expanded(batch)
            peaks.append(
                {
                    "server_mib": memory_mib(server_pid, "VmHWM"),
                    "client_mib": memory_mib(os.getpid(), "VmHWM"),
                    "client_idle_mib": idle_mib,
                }
            )
    return peaks


def measure(setting: Setting, rows: int) -> dict[str, Any]:
    """The peaks of one setting."""
    folder = homefeed("clustered", rows)
    if setting.row_group_rows:
        folder = rewritten(folder, setting.row_group_rows)
    with server("--read-ahead-bytes", str(setting.read_ahead_bytes)) as (target, pid):
        idle_mib = memory_mib(pid)
        peaks = fresh_process(
            read_epochs,
            folder / "dataset.yaml",
            target,
            setting.batch_size,
            setting.epochs,
            pid,
        )
    return {
        "setting": setting.name,
        **asdict(setting),
        "server_idle_mib": idle_mib,
        "first_epoch": peaks[0],
        "last_epoch": peaks[-1],
    }


def stalled(rows: int) -> dict[str, Any]:
    """The peak of a server, under its defaults, all of whose streams are opened and left unread."""
    dataset = Dataset.from_yaml(homefeed("clustered", rows) / "dataset.yaml").to_proto()
    options = [("grpc.max_receive_message_length", 512 << 20)]
    with server() as (target, pid):
        idle_mib = memory_mib(pid)
        with grpc.insecure_channel(target.removeprefix("static:///"), options=options) as channel:
            stub = pb_grpc.PreprocessorServiceStub(channel)
            identity = pb.BatchIdentity(batch_size=4096, shuffle=True, num_shards=8)
            requests = [
                pb.StreamBatchesRequest(dataset=dataset, identity=identity, shard=shard % 8)
                for shard in range(STALLED_STREAMS)
            ]
            streams = [stub.StreamBatches(request) for request in requests]
            for stream in streams:
                next(stream)
            _wait_until_settled(pid)
            peak_mib = memory_mib(pid, "VmHWM")
            for stream in streams:
                stream.cancel()
    return {
        "setting": f"{STALLED_STREAMS} stalled streams",
        "server_idle_mib": idle_mib,
        "last_epoch": {"server_mib": peak_mib},
    }


def _wait_until_settled(pid: int) -> None:
    """Waits until a process's memory has stayed within 1 % for a while, with a bound."""
    began_s = changed_s = time.monotonic()
    seen_mib = memory_mib(pid)
    while time.monotonic() < min(began_s + SETTLE_TIMEOUT_S, changed_s + SETTLED_S):
        time.sleep(POLL_S)
        now_mib = memory_mib(pid)
        if abs(now_mib - seen_mib) > 0.01 * seen_mib:
            seen_mib, changed_s = now_mib, time.monotonic()


def main() -> None:
    """Measures and reports."""
    options = arguments("Peak memory of server and client").parse_args()
    rows = 400_000 if options.quick else 1_000_000
    results = [
        *map(measure, settings(options.quick), itertools.repeat(rows)),
        stalled(rows),
    ]
    table(
        f"homefeed clustered, {rows:,} rows; peak resident memory in MiB",
        ("setting", "server", "server idle", "client", "client idle", "server, 1st epoch"),
        [
            (
                result["setting"],
                f"{result['last_epoch']['server_mib']:,.0f}",
                f"{result['server_idle_mib']:,.0f}",
                _cell(result["last_epoch"].get("client_mib")),
                _cell(result["last_epoch"].get("client_idle_mib")),
                _cell(result.get("first_epoch", {}).get("server_mib")),
            )
            for result in results
        ],
    )
    report(options, "bench_memory", results)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    main()
