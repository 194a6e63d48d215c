"""What servers spend where several trainers read the same epoch at once.

    python benchmarks/bench_shared_epochs.py [--quick] [--trainers N] [--json FILE]

homefeed through four servers with their default settings. One trainer alone; then several of the
same dataset, seed and epoch, started up to five seconds apart; then the same again, one of them
stopped (SIGSTOP) in the middle for a while. Server CPU a trainer against the lone one's; all
sequences of batches (shard, index, checksum of the arena) must be equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import (
    arguments,
    homefeed,
    measured,
    memory_mib,
    report,
    runs_of,
    shown,
    table,
    tree_cpu_s,
)
from tests.fakes.process import ServerProcess, python_environment
from trainer_client import BatchStream, Dataset

BATCH_SIZE = 4096
SERVERS = 4
APART_S = 5.0
STOP_AFTER_S = 2.0
LAYOUT = "clustered"


def train(path: str, target: str, seed: int, rows_per_s: float) -> None:
    """One epoch, no faster than a rate; prints its seconds, rows, and the hash of its sequence."""
    digest = hashlib.sha256()
    rows, began_s = 0, time.monotonic()
    with BatchStream(
        Dataset.from_yaml(path), target=target, batch_size=BATCH_SIZE, seed=seed
    ) as stream:
        for batch in stream:
            if not rows:
                print("began", flush=True)
            rows += batch.batch_size
            assert batch.sparse is not None
            digest.update(f"{batch.shard} {batch.index} ".encode())
            digest.update(batch.labels.numpy().tobytes() if batch.labels is not None else b"")
            for part in batch.sparse.deduplicated.parts:
                for key in part.keys:
                    digest.update(part[key].values.numpy().tobytes())
            # A training step: the trainer is no faster than its model.
            pause_s = began_s + rows / rows_per_s - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
    took_s = time.monotonic() - began_s
    print(json.dumps({"s": took_s, "rows": rows, "hash": digest.hexdigest()}), flush=True)


def trainers(
    count: int, path: str, target: str, seed: int, rows_per_s: float, stopped_s: float = 0.0
) -> list[dict[str, Any]]:
    """What trainers say, in the order of their start; the last is stopped for a while."""
    running = []
    for number in range(count):
        command = [sys.executable, "-m", "benchmarks.bench_shared_epochs", "train"]
        command += [path, target, str(seed), str(rows_per_s)]
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, env=python_environment(), text=True)
        )
        if number + 1 < count:
            time.sleep(APART_S / (count - 1))
    if stopped_s:
        assert running[-1].stdout is not None
        running[-1].stdout.readline()
        time.sleep(STOP_AFTER_S)
        os.kill(running[-1].pid, signal.SIGSTOP)
        waker = threading.Timer(stopped_s, os.kill, (running[-1].pid, signal.SIGCONT))
        waker.start()
    said = [trainer.communicate()[0] for trainer in running]
    if any(trainer.returncode for trainer in running):
        raise RuntimeError("a trainer failed; its traceback is above")
    return [json.loads(lines.splitlines()[-1]) for lines in said]


def one_run(options: Any, path: str, run: int) -> dict[str, Any]:
    """One fleet: a lone trainer, several, several of which one is stopped."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        fleet = [
            stack.enter_context(
                ServerProcess("--listen", "127.0.0.1:0", "--data-root", ".", "--cpu-threads", "1")
            )
            for _ in range(SERVERS)
        ]
        addresses = [server.wait_for("serving")["address"] for server in fleet]
        target = "static:///" + ",".join(addresses)
        pids = [server.process.pid for server in fleet]
        cases: Sequence[tuple[str, int, float]] = (
            ("one", 1, 0.0),
            ("several", options.trainers, 0.0),
            ("one of them stopped", options.trainers, options.stopped_s),
        )
        for case, (name, count, stopped_s) in enumerate(cases):
            before = [tree_cpu_s(pid) for pid in pids]
            seed = 100 * run + case
            said = trainers(count, path, target, seed, options.rate, stopped_s)
            cpu_s = sum(tree_cpu_s(pid) for pid in pids) - sum(before)
            found[name] = {
                "cpu_s_a_trainer": cpu_s / count,
                "epoch_s": [each["s"] for each in said],
                "equal": len({each["hash"] for each in said}) == 1,
                "server_mib": max(memory_mib(pid, "VmHWM") for pid in pids),
            }
    return found


def main() -> None:
    """Measures and reports."""
    if sys.argv[1:2] == ["train"]:
        path, target, seed, rate = sys.argv[2:]
        train(path, target, int(seed), float(rate))
        return
    parser = arguments("What several trainers of one epoch cost the servers")
    parser.add_argument("--trainers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=60_000, help="rows a second a trainer takes")
    parser.add_argument("--stopped-s", type=float, default=60.0)
    options = parser.parse_args()
    rows = 400_000 if options.quick else 1_000_000
    path = str(homefeed(LAYOUT, rows) / "dataset.yaml")
    runs = [one_run(options, path, run) for run in range(runs_of(options))]
    if not all(case["equal"] for run in runs for case in run.values()):
        raise RuntimeError("trainers of one epoch got different batches")
    results: list[dict[str, Any]] = []
    for name in runs[0]:
        cases = [run[name] for run in runs]
        lone = [run["one"]["cpu_s_a_trainer"] for run in runs]
        results.append(
            {
                "case": name,
                "cpu_s_a_trainer": measured([case["cpu_s_a_trainer"] for case in cases], "s"),
                "of_a_lone_one": measured(
                    [case["cpu_s_a_trainer"] / one for case, one in zip(cases, lone, strict=True)],
                    "",
                ),
                "epoch_s": [case["epoch_s"] for case in cases],
                "slowest_epoch_s": measured([max(c["epoch_s"]) for c in cases], "s"),
                "undisturbed_epoch_s": measured(
                    [max(c["epoch_s"][:-1] or c["epoch_s"]) for c in cases], "s"
                ),
                "server_mib": measured([case["server_mib"] for case in cases], "MiB"),
            }
        )
    table(
        f"homefeed {LAYOUT}, {rows:,} examples, {SERVERS} servers, {options.trainers} trainers of "
        f"{options.rate:,.0f} examples/s",
        (
            "trainers",
            "server CPU s a trainer",
            "of a lone one's",
            "epoch s",
            "others' epoch s",
            "server MiB",
        ),
        [
            (
                result["case"],
                shown(result["cpu_s_a_trainer"], 2),
                shown(result["of_a_lone_one"], 2),
                shown(result["slowest_epoch_s"], 1),
                shown(result["undisturbed_epoch_s"], 1),
                shown(result["server_mib"]),
            )
            for result in results
        ],
    )
    report(options, "bench_shared_epochs", results)


if __name__ == "__main__":
    main()
