"""Which systems bench_end_to_end compares, with what settings, and on which files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peer_process import Event, python_of, run_module

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Input:
    """Files that a system reads: a folder, a word for the table, and settings that name more."""

    folder: Path
    files: str
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class System:
    """One system: a module of benchmarks.peers, its environment (None: Headrace's own).

    inputs gives, for layout and rows, the inputs to choose from; variants are the settings to
    choose from. variables are environment variables that make it faster. checked_as changes the
    settings for a check of what it delivers; None where it delivers no batches.
    """

    name: str
    module: str
    environment: str | None
    inputs: Callable[[str, int], Sequence[Input]]
    variants: Sequence[Settings]
    variables: Mapping[str, str] = field(default_factory=dict)
    checked_as: Settings | None = field(default_factory=dict)

    def run(self, chosen: Input, settings: Settings, *arguments: str) -> list[Event]:
        """One process of it; its events. Raises PeerError."""
        return run_module(
            python_of(self.environment),
            self.module,
            str(chosen.folder.resolve()),
            "--settings",
            json.dumps(settings | chosen.settings),
            *arguments,
            variables=self.variables,
        )


def own_files(layout: str, rows: int) -> list[Input]:
    """The layout's own Parquet files."""
    return [Input(harness.homefeed(layout, rows), layout)]


def row_files(layout: str, rows: int) -> list[Input]:
    """For grouped files, those of clustered rows, or grouped ones exploded to rows by pyarrow."""
    if layout != "grouped":
        return own_files(layout, rows)
    exploded = Input(harness.homefeed("grouped", rows), "grouped, exploded")
    return [*own_files("clustered", rows), exploded]


def repacked_files(layout: str, rows: int) -> list[Input]:
    """The row_files with fewer row groups a file."""
    return [
        Input(prepared(each.folder, "repack", None), each.files) for each in row_files(layout, rows)
    ]


def tfrecord_files(layout: str, rows: int) -> list[Input]:
    """TFRecords of the rows; of clustered rows for the grouped layout."""
    (rows_of,) = own_files("clustered" if layout == "grouped" else layout, rows)
    records = prepared(rows_of.folder, "tfrecords", "tfdata")
    return [Input(rows_of.folder, f"TFRecord, {rows_of.files}", {"records": str(records)})]


def prepared(folder: Path, module: str, environment: str | None) -> Path:
    """What a module of benchmarks.peers makes of a folder, made if it is not there."""
    out = folder.with_name(f"{folder.name}-{module}")
    run_module(python_of(environment), module, str(folder.resolve()), str(out.resolve()))
    return out


# glibc gives the memory of every batch back to the kernel, which then clears it for the next one.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
LOADERS: list[Settings] = [
    {"workers": 0, "threads": True},
    {"workers": 0, "threads": False},
    {"workers": 1, "threads": False},
    {"workers": 2, "threads": False},
]


def own(form: str, *, shuffle: bool) -> Sequence[Settings]:
    """A server a core: other fleets are not tried, as the settings of peers are."""
    return [{"form": form, "servers": harness.CORES, "shuffle": shuffle}]


def flight_variants(compression: str | None) -> list[Settings]:
    """One stream, whose reader may use both cores, or two streams."""
    return [
        {"compression": compression, "streams": streams, "threads": streams == 1}
        for streams in (1, 2)
    ]


SYSTEMS = (
    System(
        "headrace",
        "headrace",
        None,
        own_files,
        own("expanded", shuffle=False),
    ),
    System(
        "headrace_as_sent",
        "headrace",
        None,
        own_files,
        own("as sent", shuffle=False),
        checked_as={"form": "reassembled"},
    ),
    System(
        "headrace_shuffled",
        "headrace",
        None,
        own_files,
        own("expanded", shuffle=True),
    ),
    System(
        "tfdata",
        "tfdata",
        "tfdata",
        tfrecord_files,
        [{"compression": None}, {"compression": "AUTO"}],
        {"TF_CPP_MIN_LOG_LEVEL": "2"},
    ),
    System("raydata", "raydata", "raydata", repacked_files, [{"torch": False}, {"torch": True}]),
    System("raydata_rows", "raydata", "raydata", repacked_files, [{"torch": False, "rows": True}]),
    System("flight", "flight", "flight", row_files, flight_variants("zstd"), KEEP_MEMORY),
    System(
        "flight_uncompressed", "flight", "flight", row_files, flight_variants(None), KEEP_MEMORY
    ),
    System("dataloader", "dataloader", "dataloader", row_files, LOADERS, KEEP_MEMORY),
    System(
        "decode_only",
        "decode_only",
        "decode_only",
        own_files,
        [{"threads": 2}],
        checked_as=None,
    ),
    System(
        "decode_one_thread",
        "decode_only",
        "decode_only",
        own_files,
        [{"threads": 1}],
        checked_as=None,
    ),
)
