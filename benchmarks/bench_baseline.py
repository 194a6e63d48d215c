"""One server feeding one trainer: how fast, and what a million examples cost each side.

    python benchmarks/bench_baseline.py                # 4 million rows a layout, 5 runs
    python benchmarks/bench_baseline.py --quick        # 1 million rows, 3 runs

homefeed (benchmarks/workloads.py), batch 4096, shuffled; server and trainer both on this machine,
files in the page cache. A run is a fresh epoch, after one that is not counted. The table shows
medians; the JSON file (--json) has every run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.fakes.process import ServerProcess
from trainer_client import BatchStream, Dataset

LAYOUTS = ("logged", "clustered")
BATCH_SIZE = 4096
CACHE = Path("data")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def homefeed(layout: str, rows: int) -> Path:
    """The folder of a layout, written if it is not there."""
    folder = CACHE / f"homefeed-{layout}-{rows}"
    if not (folder / "dataset.yaml").exists():
        print(f"writing {folder}", file=sys.stderr)
        command = ["workloads.py", "homefeed", "--rows", str(rows), "--layout", layout]
        script = str(Path(__file__).parent / command[0])
        subprocess.run([sys.executable, script, *command[1:], "--out", str(folder)], check=True)
    return folder


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A server on this machine: its target and its pid."""
    roots = ("--data-root", ".", "--data-root", "/")
    with ServerProcess("--listen", "127.0.0.1:0", *roots) as process:
        address = process.wait_for("listening")["address"]
        process.wait_for("serving")
        yield f"static:///{address}", process.process.pid


def server_cpu_s(pid: int) -> float:
    """User and system CPU time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def own_cpu_s() -> float:
    """User and system CPU time of this process so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(layout: str, rows: int, runs: int) -> dict[str, object]:
    """Every run of a layout: rates, CPU seconds a million examples, bytes an example."""
    dataset = Dataset.from_yaml(homefeed(layout, rows) / "dataset.yaml")
    rates, server_costs, client_costs, wire = [], [], [], []
    with (
        server() as (target, pid),
        BatchStream(dataset, target=target, batch_size=BATCH_SIZE) as stream,
    ):
        for run in range(runs + 1):
            before = stream.stats()
            began_s, server_s, client_s = time.monotonic(), server_cpu_s(pid), own_cpu_s()
            for _ in stream:
                pass
            took_s = time.monotonic() - began_s
            after = stream.stats()
            count = after.rows - before.rows
            if run:
                rates.append(count / took_s)
                server_costs.append((server_cpu_s(pid) - server_s) / count * 1e6)
                client_costs.append((own_cpu_s() - client_s) / count * 1e6)
                wire.append((after.wire_bytes - before.wire_bytes) / count)
    return {
        "system": "headrace",
        "layout": layout,
        "rows": rows,
        "examples_per_s": rates,
        "cpu_s_per_million": {"server": server_costs, "client": client_costs},
        "wire_bytes_per_example": statistics.median(wire),
    }


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    names = ("numpy", "numba", "pyarrow", "torch", "grpcio", "protobuf", "zstandard")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def spread(values: list[float], digits: int) -> str:
    """Median, and minimum to maximum."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description="One server, one trainer, homefeed")
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 million rows, 3 runs")
    parser.add_argument("--json", type=Path, help="where to write every run")
    arguments = parser.parse_args()
    rows, runs = (1_000_000, 3) if arguments.quick else (arguments.rows, arguments.runs)
    results = []
    print(f"{'layout':10} {'examples/s':28} {'server CPU s/M':18} {'client CPU s/M':18} B/example")
    for layout in LAYOUTS:
        result = measure(layout, rows, runs)
        results.append(result)
        costs = result["cpu_s_per_million"]
        rates = result["examples_per_s"]
        assert isinstance(costs, dict)
        assert isinstance(rates, list)
        print(
            f"{layout:10} {spread(rates, 0):28} {spread(costs['server'], 2):18} "
            f"{spread(costs['client'], 2):18} {result['wire_bytes_per_example']:.0f}",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
