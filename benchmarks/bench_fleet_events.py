"""What losing, gaining, restarting and slowing servers costs an epoch.

    python benchmarks/bench_fleet_events.py [--quick] [--json FILE]

homefeed clustered through four servers behind rate-limiting proxies (tests/chaos/proxy.py), each
held to a quarter of a rate that leaves the machine mostly idle: what an event costs is then not
hidden by the two cores. Against an epoch of the other three servers alone: one of four is killed;
one of four is slowed tenfold (stopped for nine tenths of the time; with hedge=True). A fourth
server joins three: how long until it has its share. All four are restarted one by one: the longest
time without a batch, and no error.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, homefeed, measured, report, runs_of, shown, table
from tests.chaos.rig import Node, Rig
from trainer_client import BatchStream, Dataset

BATCH_SIZE = 1024
SERVERS = 4
# About 100 bytes an example: an epoch of 400,000 examples takes four servers ten seconds.
BYTES_PER_S = 1.0e6
DUTY_PERIOD_S = 0.5
DUTY_SHARE = 0.1
WINDOW_S = 1.0
# A port at which nobody listens.
NOBODY = 1
# A share, of what an even one would be.
SHARE_REACHED = 0.8

Event = Callable[[threading.Event], None]


def epoch(
    dataset: Dataset, nodes: Sequence[Node], seed: int, event: Event | None = None, *, hedge: bool
) -> tuple[list[tuple[float, int, str]], dict[str, int]]:
    """(seconds since the first batch, rows, server) of every batch, and counts of the stream.

    event runs beside the epoch, told when it is over.
    """
    target = "static:///" + ",".join(node.proxy.address for node in nodes)
    steps: list[tuple[float, int, str]] = []
    over = threading.Event()
    striker = threading.Thread(target=event, args=(over,)) if event else None
    with BatchStream(
        dataset, target=target, batch_size=BATCH_SIZE, seed=seed, hedge=hedge, interleave=8
    ) as stream:
        began_s = 0.0
        for batch in stream:
            if not steps:
                began_s = time.monotonic()
                if striker is not None:
                    striker.start()
            steps.append((time.monotonic() - began_s, batch.batch_size, batch.server))
        over.set()
        if striker is not None:
            striker.join()
        stats = stream.stats()
    return steps, {"retries": stats.retries, "hedges": stats.hedges}


def stall_s(steps: Sequence[tuple[float, int, str]]) -> float:
    """The longest time between two batches."""
    return max(after[0] - before[0] for before, after in pairwise(steps))


def until_share_s(steps: Sequence[tuple[float, int, str]], server: str, since_s: float) -> float:
    """Seconds from since_s until a window in which a server has sent its share of the rows."""
    for at_s, _, _ in steps:
        window = [step for step in steps if at_s - WINDOW_S < step[0] <= at_s]
        rows = sum(step[1] for step in window)
        own = sum(step[1] for step in window if step[2] == server)
        if at_s > since_s and own >= SHARE_REACHED / SERVERS * rows:
            return at_s - since_s
    return float("inf")


def kill(node: Node, after_s: float) -> Event:
    """The server of a node is killed, for good."""

    def event(over: threading.Event) -> None:
        if not over.wait(after_s):
            os.kill(node.pid, signal.SIGKILL)

    return event


def join(node: Node, after_s: float, joined: list[float]) -> Event:
    """A node's server, out of reach until then, joins."""
    port, node.proxy.backend = node.proxy.backend, NOBODY
    node.proxy.reset()

    def event(over: threading.Event) -> None:
        over.wait(after_s)
        node.proxy.backend = port
        if not over.is_set():
            joined.append(after_s)

    return event


def slow_down(node: Node) -> Event:
    """A server runs a tenth of the time."""

    def event(over: threading.Event) -> None:
        while not over.is_set():
            os.kill(node.pid, signal.SIGSTOP)
            over.wait(DUTY_PERIOD_S * (1 - DUTY_SHARE))
            os.kill(node.pid, signal.SIGCONT)
            over.wait(DUTY_PERIOD_S * DUTY_SHARE)

    return event


def restart_all(nodes: Sequence[Node]) -> Event:
    """Every server gets a SIGTERM and is started again, one by one, with empty caches."""

    def event(over: threading.Event) -> None:
        for node in nodes:
            if over.is_set():
                return
            os.kill(node.pid, signal.SIGTERM)
            node.replace()

    return event


@contextmanager
def fleet() -> Iterator[list[Node]]:
    """Four servers, each held to its rate."""
    with tempfile.TemporaryDirectory() as scratch, Rig(Path(scratch), Path.cwd(), SERVERS) as rig:
        for node in rig.nodes:
            node.proxy.bytes_per_s = BYTES_PER_S
        yield rig.nodes


def one_run(dataset: Dataset, run: int) -> dict[str, Any]:
    """Every event once, each with a fleet of its own; timelines are (seconds, rows, server)."""
    found: dict[str, Any] = {"timelines": {}}
    # Servers keep batches for others that want the same ones: nobody does.
    seeds = itertools.count(1000 * run)

    def note(
        name: str, nodes: Sequence[Node], event: Event | None = None, *, hedge: bool = False
    ) -> Sequence[tuple[float, int, str]]:
        steps, counts = epoch(dataset, nodes, next(seeds), event, hedge=hedge)
        found["timelines"][name] = [(round(at, 3), rows, server) for at, rows, server in steps]
        found[name] = {"epoch_s": steps[-1][0], "stall_s": stall_s(steps)} | counts
        return steps

    with fleet() as nodes:
        note("three servers", nodes[:3])
        note("four servers", nodes)
        third = found["four servers"]["epoch_s"] / 3
        note("restarted one by one", nodes, restart_all(nodes))
        note("one is slowed tenfold", nodes, slow_down(nodes[3]), hedge=True)
        joined: list[float] = []
        steps = note("one joins", nodes, join(nodes[3], third, joined))
        share_s = until_share_s(steps, nodes[3].proxy.address, third) if joined else float("inf")
        found["one joins"]["share_s"] = share_s
        note("one is lost", nodes, kill(nodes[3], third))
    return found


def main() -> None:
    """Measures and reports."""
    options = arguments("What losing, gaining and slowing servers costs").parse_args()
    rows = 200_000 if options.quick else 400_000
    dataset = Dataset.from_yaml(homefeed("clustered", rows) / "dataset.yaml")
    runs = [one_run(dataset, run) for run in range(runs_of(options))]
    results = []
    for name in runs[0]["timelines"]:
        alone = [run["three servers"]["epoch_s"] for run in runs]
        results.append(
            {
                "event": name,
                "epoch_s": measured([run[name]["epoch_s"] for run in runs], "s"),
                "of_three_servers": measured(
                    [run[name]["epoch_s"] / one for run, one in zip(runs, alone, strict=True)], ""
                ),
                "longest_stall_s": measured([run[name]["stall_s"] for run in runs], "s"),
                "retries": [run[name]["retries"] for run in runs],
                "hedges": [run[name]["hedges"] for run in runs],
                "share_after_s": [run[name].get("share_s") for run in runs],
                "timeline": runs[0]["timelines"][name],
            }
        )
    table(
        f"homefeed clustered, {rows:,} examples, {SERVERS} servers of {BYTES_PER_S / 1e6:g} MB/s",
        ("event", "epoch s", "of three servers'", "longest stall s", "retries", "hedges"),
        [
            (
                result["event"],
                shown(result["epoch_s"], 1),
                shown(result["of_three_servers"], 2),
                shown(result["longest_stall_s"], 2),
                str(result["retries"]),
                str(result["hedges"]),
            )
            for result in results
        ],
    )
    shares = next(each["share_after_s"] for each in results if each["event"] == "one joins")
    print("a server that joins has its share after", [round(share, 1) for share in shares], "s")
    report(options, "bench_fleet_events", results)


if __name__ == "__main__":
    main()
