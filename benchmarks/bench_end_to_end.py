"""Headrace beside other loaders: how fast a trainer gets the same rows, and what it costs.

    python benchmarks/bench_end_to_end.py --json FILE
    python benchmarks/bench_end_to_end.py --layout clustered --json FILE --add
    python benchmarks/bench_end_to_end.py --layout grouped --systems headrace,flight --quick

homefeed (benchmarks/workloads.py), batch 4096; server and trainer both on this machine, files in
the page cache. None shuffles the rows of a row group, other than headrace_shuffled: our default,
beside the others. Peers run in their own environments (make bench-setup). For each the better of
its settings and inputs is found first, in short runs (ours is a server a core); then every system's
rows are compared by checksum; then it is timed, run 1 of all systems, run 2 of all, and so on, each
in a new process after a warm-up. FILE is written anew after every run, so that one that is cut
short leaves what it has measured; with --add it keeps its other layouts. --quick takes fewer rows,
the settings that are usually best, fewer forms of the same system, and of the peers those that are
installed; it compares how many ids a row has, as the full form does of timed runs too, not
checksums. benchmarks/peers/protocol.py says how a run is timed, benchmarks/readme.py makes the
README's table and picture of FILE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peer_process import Event, PeerError, only
from benchmarks.peer_systems import SYSTEMS, Input, Settings, System
from benchmarks.peers.checksum import differences
from benchmarks.peers.setup import is_ready

LAYOUTS = ("logged", "clustered", "grouped")
# Fewer row groups are too few for Ray Data, whose rate is that of a long pass less a short one.
LEAST_ROWS = 400_000
ROWS, QUICK_ROWS = 4_000_000, LEAST_ROWS
SECONDS, QUICK_SECONDS = 5.0, 1.0
CHECKED_ROWS = 100_000
CALIBRATION_ROW_GROUPS = 8
# Single runs of a second differ by more than some settings do.
TRIES = 2
STARTED_S = time.monotonic()
OURS, AS_SENT = "headrace", "headrace_as_sent"
# Further forms of systems that the quick form has.
FULL_FORM_ONLY = {"headrace_shuffled", "raydata_rows", "flight_uncompressed", "decode_one_thread"}

# The mean rate of a system with an input and settings, in short runs: layouts share some inputs.
Tried = dict[tuple[str, str, str], float]


@dataclass(frozen=True, slots=True)
class Entry:
    """One system in one layout: the files and settings chosen for it, why, and its runs."""

    system: System
    chosen: Input
    settings: Settings
    calibration: dict[str, float]
    ready: Event
    runs: list[Event] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Examples a second of each run."""
        return [rate(run) for run in self.runs]

    @property
    def costs(self) -> dict[str, list[float]]:
        """CPU seconds a million examples of each side, of each run."""
        sides = self.runs[0]["cpu_s"]
        return {
            side: [run["cpu_s"][side] / run["rows"] * 1e6 for run in self.runs] for side in sides
        }

    @property
    def wire(self) -> float | None:
        """Bytes an example on the wire; None where there is none, or nobody knows."""
        first = self.runs[0]
        if first["wire_bytes"] is None:
            return None
        return statistics.median(float(run["wire_bytes"] / run["rows"]) for run in self.runs)


def say(text: str) -> None:
    """A line of progress on stderr, with the seconds since this process began."""
    print(f"{time.monotonic() - STARTED_S:7.0f} s  {text}", file=sys.stderr, flush=True)


def rate(run: Event) -> float:
    """Examples a second of a run."""
    return float(run["rows"] / run["seconds"])


def usual(system: System, layout: str, rows: int) -> Entry:
    """A system with the first of its inputs and of its settings."""
    return Entry(system, system.inputs(layout, rows)[0], system.variants[0], {}, {})


def calibrated(system: System, layout: str, rows: int, tried: Tried) -> Entry:
    """The faster of a system's inputs, then of its settings with that; adds to what was tried."""
    inputs = system.inputs(layout, rows)
    if len(inputs) == len(system.variants) == 1:
        return usual(system, layout, rows)
    found: dict[str, float] = {}

    def rate_of(chosen: Input, settings: Settings) -> float:
        key = system.name, str(chosen.folder), json.dumps(settings)
        if key not in tried:
            flags = ["--seconds", "1", "--row-groups", str(CALIBRATION_ROW_GROUPS)]
            tried[key] = statistics.mean(
                rate(only(system.run(chosen, settings, *flags), "run")) for _ in range(TRIES)
            )
            took = f"{tried[key]:10,.0f} examples/s  {chosen.files} {settings}"
            say(f"try    {system.name:20} {took}")
        found[f"{chosen.files}: {settings}"] = tried[key]
        return tried[key]

    by_input = [rate_of(each, system.variants[0]) for each in inputs]
    chosen = inputs[by_input.index(max(by_input))]
    by_settings = [rate_of(chosen, each) for each in system.variants]
    settings = system.variants[by_settings.index(max(by_settings))]
    return Entry(system, chosen, settings, found, {})


def check(entries: Sequence[Entry], layout: str) -> None:
    """Compares what the systems deliver. Raises PeerError with what differs."""
    first: tuple[str, Event] | None = None
    for entry in entries:
        system = entry.system
        if system.checked_as is None:
            continue
        inputs = {each.files: each for each in system.inputs(layout, CHECKED_ROWS)}
        settings = entry.settings | system.checked_as
        got = only(system.run(inputs[entry.chosen.files], settings, "--check"), "checksums")
        if first is None:
            first = system.name, got
        if wrong := differences(first[1], got):
            raise PeerError(f"{first[0]} and {system.name} deliver other rows: {'; '.join(wrong)}")


def check_counts(entries: Sequence[Entry]) -> None:
    """Compares ids a row of the timed runs. Raises PeerError where they are not alike.

    A rate between two batches leaves out a few rows, so the mean may differ a little.
    """
    for entry in entries:
        means = [run["values"] / run["rows"] for run in entry.runs if run["values"]]
        expected = [run["values"] / run["rows"] for run in entries[0].runs if run["values"]]
        if means and expected and abs(means[0] / expected[0] - 1) > 0.01:
            raise PeerError(f"{entry.system.name} delivered {means[0]:.1f} ids a row")


def warm(folder: Path) -> None:
    """Reads every file of a folder, so that the page cache has it."""
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            while file.read(64 << 20):
                pass


def timed(entries: Sequence[Entry], runs: int, seconds: float) -> Iterator[None]:
    """Runs the systems in turn, so that what disturbs the machine disturbs all; a run a step."""
    folders = {entry.chosen.folder for entry in entries}
    folders |= {Path(path) for entry in entries for path in entry.chosen.settings.values()}
    for folder in sorted(folders):
        warm(folder)
    for number in range(1, runs + 1):
        for entry in entries:
            flags = ["--seconds", str(seconds)]
            events = entry.system.run(entry.chosen, entry.settings, *flags)
            entry.ready.update(only(events, "ready"))
            run = only(events, "run")
            entry.runs.append(run)
            took = f"{rate(run):10,.0f} examples/s in {run['seconds']:4.1f} s"
            say(f"run {number}  {entry.system.name:20} {took}")
            yield


def result(entry: Entry, layout: str, rows: int) -> dict[str, Any]:
    """An entry as it goes into JSON."""
    costs = entry.costs
    return {
        "system": entry.system.name,
        "layout": layout,
        "rows": rows,
        "examples_per_s": entry.rates,
        "examples_per_s_median": statistics.median(entry.rates),
        "examples_per_s_spread": [min(entry.rates), max(entry.rates)],
        "cpu_s_per_million": {side: statistics.median(spent) for side, spent in costs.items()},
        "cpu_s_per_million_runs": costs,
        "wire_bytes_per_example": entry.wire,
        "files": entry.chosen.files,
        "settings": entry.settings,
        "environment": dict(entry.system.variables),
        "versions": entry.ready.get("versions"),
        "calibration_examples_per_s": entry.calibration,
        "run_seconds": [run["seconds"] for run in entry.runs],
    }


def times(numerator: Sequence[float] | None, denominator: Sequence[float]) -> str:
    """How many times as fast, by medians; a dash where one was not measured."""
    if not numerator:
        return "-"
    return f"{statistics.median(numerator) / statistics.median(denominator):.2f}"


def show(entries: Sequence[Entry], layout: str, rows: int) -> None:
    """The table of a layout."""
    rates = {entry.system.name: entry.rates for entry in entries}
    cells = []
    for entry in entries:
        costs = {side: statistics.median(spent) for side, spent in entry.costs.items()}
        settings = ", ".join(f"{name} {value}" for name, value in entry.settings.items())
        cells.append(
            [
                entry.system.name,
                harness.spread(entry.rates),
                times(rates.get(OURS), entry.rates),
                times(rates.get(AS_SENT), entry.rates),
                f"{costs['server']:.2f}",
                f"{costs['client']:.2f}",
                f"{sum(costs.values()):.2f}",
                "-" if entry.wire is None else f"{entry.wire:,.0f}",
                f"{entry.chosen.files}; {settings}",
            ]
        )
    header = ["system", "examples/s", "ours x", "as sent x", "server", "client", "both", "B/row"]
    title = f"homefeed {layout}, {rows:,} rows; CPU in seconds a million examples"
    harness.table(title, [*header, "files; settings"], cells)


def chosen_systems(names: str | None, *, quick: bool) -> list[System]:
    """The systems of a comma-separated list, or all; or those of the quick form that are installed.

    Raises PeerError for an unknown one.
    """
    known = {system.name: system for system in SYSTEMS}
    if names is not None:
        listed = names.split(",")
        if unknown := [name for name in listed if name not in known]:
            raise PeerError(f"no system {', '.join(unknown)}; there are {', '.join(known)}")
        return [known[name] for name in listed]
    if not quick:
        return list(SYSTEMS)
    wanted = [system for system in SYSTEMS if system.name not in FULL_FORM_ONLY]
    found = [each for each in wanted if each.environment is None or is_ready(each.environment)]
    if missing := [system.name for system in wanted if system not in found]:
        say(f"without {', '.join(missing)}: not installed (make bench-setup)")
    return found


def kept(path: Path, layout: str, *, quick: bool) -> list[dict[str, Any]]:
    """What a file has of other layouts. Raises PeerError where it was measured otherwise."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    if content["machine"] != harness.machine() or content["quick"] != quick:
        raise PeerError(f"{path} is of another machine or form; choose another file, or remove it")
    found: list[dict[str, Any]] = content["results"]
    return [each for each in found if each["layout"] != layout]


def measure(options: argparse.Namespace) -> None:
    """Everything that was asked for; what is there is written after every run."""
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    systems = chosen_systems(options.systems, quick=options.quick)
    results = kept(options.json, options.layout, quick=options.quick) if options.add else []
    tried: Tried = {}
    for layout in [options.layout] if options.layout else LAYOUTS:
        if options.quick:
            entries = [usual(system, layout, rows) for system in systems]
        else:
            entries = [calibrated(system, layout, rows, tried) for system in systems]
            check(entries, layout)
            say(f"all deliver the same {CHECKED_ROWS:,} rows of {layout}")
        found: list[dict[str, Any]] = []
        for _ in timed(entries, harness.runs_of(options), seconds):
            found = [result(entry, layout, rows) for entry in entries if entry.runs]
            harness.report(options, "end_to_end", results + found)
        check_counts(entries)
        show(entries, layout, rows)
        results += found


def main() -> int:
    """Measures and reports."""
    parser = harness.arguments("Headrace and other loaders, end to end")
    parser.add_argument("--layout", choices=LAYOUTS, help="default: one after the other")
    parser.add_argument("--systems", help="comma-separated; default: all")
    parser.add_argument("--rows", type=int, help=f"default {ROWS:,}, with --quick {QUICK_ROWS:,}")
    parser.add_argument("--add", action="store_true", help="keep other layouts of the --json file")
    options = parser.parse_args()
    if options.rows is not None and options.rows < LEAST_ROWS:
        parser.error(f"--rows must be at least {LEAST_ROWS:,}")
    if options.add and not (options.layout and options.json):
        parser.error("--add needs --layout and --json")
    try:
        measure(options)
    except PeerError as error:
        print(f"bench_end_to_end: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
