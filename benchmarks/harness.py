"""What every benchmark shares: the machine, servers, CPU and memory of processes, tables, JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes.process import ServerProcess

CACHE = Path("data")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
RUNS, QUICK_RUNS = 5, 1

T = TypeVar("T")
Measured = dict[str, Any]


def arguments(question: str) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes: --quick, --runs, --json."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a first look: less data, one run")
    runs = f"runs that count (default: {RUNS}, with --quick {QUICK_RUNS})"
    parser.add_argument("--runs", type=int, help=runs)
    parser.add_argument("--json", type=Path, help="where to write every run")
    return parser


def runs_of(options: argparse.Namespace) -> int:
    """How many runs count."""
    return options.runs or (QUICK_RUNS if options.quick else RUNS)


def homefeed(layout: str, rows: int, variant: str = "mean16") -> Path:
    """The folder of a layout of homefeed, written if it is not there."""
    name = f"homefeed-{layout}-{rows}" + ("" if variant == "mean16" else f"-{variant}")
    arguments = ["homefeed", "--rows", str(rows), "--layout", layout, "--variant", variant]
    return written(CACHE / name, "workloads.py", *arguments)


def written(folder: Path, script: str, *arguments: str) -> Path:
    """A folder with its dataset.yaml, written by a script beside this one if it is not there."""
    if not (folder / "dataset.yaml").exists():
        print(f"writing {folder}", file=sys.stderr)
        # The dataset comes last: without it, what is there was cut short.
        shutil.rmtree(folder, ignore_errors=True)
        path = str(Path(__file__).parent / script)
        subprocess.run([sys.executable, path, *arguments, "--out", str(folder)], check=True)
    return folder


# As many servers: those of one thread never wait for one another's GIL.
CORES = os.cpu_count() or 1


@contextmanager
def server(*flags: str) -> Iterator[tuple[str, int]]:
    """A server on this machine: its target and its pid. It keeps nothing that it has sent."""
    usual = ("--data-root", ".", "--data-root", "/", "--shared-bytes", "0")
    with ServerProcess("--listen", "127.0.0.1:0", *usual, *flags) as process:
        address = process.wait_for("listening")["address"]
        process.wait_for("serving")
        yield f"static:///{address}", process.process.pid


@contextmanager
def fleet(count: int) -> Iterator[tuple[str, list[int]]]:
    """So many servers that share the cores of this machine: the target of all, and their pids."""
    threads = max(1, CORES // count)
    with ExitStack() as running:
        servers = [
            running.enter_context(server("--cpu-threads", str(threads))) for _ in range(count)
        ]
        addresses = [target.removeprefix("static:///") for target, _ in servers]
        yield "static:///" + ",".join(addresses), [pid for _, pid in servers]


def fresh_process(
    function: Callable[..., T], *arguments: Any, variables: Mapping[str, str] | None = None
) -> T:
    """What a function of a module returns in a process of its own, which keeps no former memory.

    variables are added to its environment.
    """
    former = dict(os.environ)
    os.environ.update(variables or {})
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(former)


def tree_cpu_s(pid: int) -> float:
    """User and system CPU time so far of a process and its children, ended ones too, in seconds."""
    own = _cpu_ticks(pid)
    while own is not None:
        spent_s = sum(map(tree_cpu_s, _children(pid)))
        before, own = own, _cpu_ticks(pid)
        if own is not None and own[2:] == before[2:]:
            return sum(own) / TICKS_A_SECOND + spent_s
        # A child was waited for meanwhile, so it may have been counted twice, or not at all.
    return 0.0  # It has ended meanwhile; its parent has its time.


def _cpu_ticks(pid: int) -> list[int] | None:
    """User and system time of a process, and of its children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [int(field) for field in fields[11:15]]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    # The process, and each of its threads, may end at any time.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """A memory figure of a process (VmRSS, VmHWM: its peak), in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = ("numpy", "numba", "pyarrow", "torch", "grpcio", "protobuf", "zstandard")
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def measured(runs: Sequence[float], unit: str) -> Measured:
    """The runs of one figure, as they go into JSON: each of them, median, and spread."""
    middle = statistics.median(runs)
    return {"unit": unit, "runs": list(runs), "median": middle, "min": min(runs), "max": max(runs)}


def spread(runs: Sequence[float], digits: int = 0) -> str:
    """Median, and minimum to maximum."""
    middle, low, high = statistics.median(runs), min(runs), max(runs)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def shown(figure: Measured, digits: int = 0) -> str:
    """A measured figure as a cell of a table."""
    return spread(figure["runs"], digits)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, the columns as wide as what is in them."""
    widths = [max(map(len, cells)) for cells in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for cells in (header, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip(), flush=True)


def report(options: argparse.Namespace, benchmark: str, results: Sequence[dict[str, Any]]) -> None:
    """Writes the JSON file, where one was asked for."""
    if options.json is None:
        return
    content = {
        "benchmark": benchmark,
        "quick": options.quick,
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "results": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(content, indent=2) + "\n")
