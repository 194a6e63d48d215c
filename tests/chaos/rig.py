"""A real fleet behind proxies, a real trainer, and faults that strike while it trains."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.proxy import Proxy
from tests.fakes.process import ROOT, ServerProcess, python_environment

TRAINER_LIMIT_S = 180.0


class Node:
    """A server process behind a proxy: a place in the fleet, whoever serves there just now."""

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self.proxy = Proxy()
        self.server = self._start()

    def _start(self) -> ServerProcess:
        server = ServerProcess(
            "--listen=127.0.0.1:0", f"--data-root={self._data_root}", "--drain-timeout-s=2"
        )
        address = server.wait_for("listening")["address"]
        server.wait_for("serving")
        self.proxy.backend = int(address.rpartition(":")[2])
        return server

    @property
    def pid(self) -> int:
        """The process that serves here."""
        return self.server.process.pid

    def replace(self) -> None:
        """Another process, on another port, in place of one that has ended."""
        self.server.wait()
        self.server.__exit__()
        self.server = self._start()

    def close(self) -> None:
        """Ends the server and the proxy."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        self.server.__exit__()
        self.proxy.close()


# What strikes a node, and is over when it returns; survivable by the stream.


def crash(node: Node, _: random.Random) -> None:
    """kill -9, and a new process on another port."""
    os.kill(node.pid, signal.SIGKILL)
    node.replace()


def drain(node: Node, _: random.Random) -> None:
    """SIGTERM, and a new process on another port."""
    os.kill(node.pid, signal.SIGTERM)
    node.replace()


def pause(node: Node, rng: random.Random) -> None:
    """SIGSTOP for a while."""
    os.kill(node.pid, signal.SIGSTOP)
    time.sleep(rng.uniform(0.2, 2.5))
    os.kill(node.pid, signal.SIGCONT)


def reset(node: Node, _: random.Random) -> None:
    """Every connection is reset, in the middle of a message if there is one."""
    node.proxy.reset()


def black_hole(node: Node, rng: random.Random) -> None:
    """Nothing passes for a while, and no connection ends."""
    node.proxy.freeze()
    time.sleep(rng.uniform(0.2, 2.5))
    node.proxy.thaw()


def slow_network(node: Node, rng: random.Random) -> None:
    """Latency and a low bandwidth for a while."""
    node.proxy.latency_s, node.proxy.bytes_per_s = rng.uniform(0.005, 0.05), rng.uniform(5e4, 1e6)
    time.sleep(rng.uniform(0.2, 2.0))
    node.proxy.latency_s = node.proxy.bytes_per_s = 0.0


def flip_bits(node: Node, _: random.Random) -> None:
    """One bit of what the server sends next is flipped: in a payload, a header or a frame."""
    node.proxy.flips += 1


FAULTS: tuple[Callable[[Node, random.Random], None], ...] = (
    *(crash, drain, pause, reset, black_hole, slow_network, flip_bits),
)


@dataclass
class Outcome:
    """What became of a run: a line a fault, and the trainer's restarts."""

    faults: list[tuple[str, float]] = field(default_factory=list)
    trainer_kills: int = 0
    said: list[dict[str, Any]] = field(default_factory=list)

    def count(self) -> Counter[str]:
        """Faults by kind."""
        return Counter(name for name, _ in self.faults)


class Rig:
    """A fleet over one dataset; a context manager."""

    def __init__(self, folder: Path, data_root: Path, servers: int) -> None:
        self.folder = folder
        self.nodes = [Node(data_root) for _ in range(servers)]

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.close()

    @property
    def target(self) -> str:
        """The fleet's target: the proxies."""
        return "static:///" + ",".join(node.proxy.address for node in self.nodes)

    def prepare(self, name: str, dataset: Path, epochs: int, **options: Any) -> Path:
        """The folder of a run."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        run = {
            "dataset": str(dataset),
            "target": self.target,
            "snapshots": str(folder / "snapshots"),
            "epochs": epochs,
            "options": options,
        }
        (folder / "run.json").write_text(json.dumps(run))
        return folder

    def train(self, folder: Path, rng: random.Random | None = None, kills: int = 0) -> Outcome:
        """Trains to the end, with faults all the time if there is a source of chance."""
        outcome = Outcome()
        done = threading.Event()
        striker = None
        if rng is not None:
            striker = threading.Thread(target=self._strike, args=(rng, done, outcome))
            striker.start()
        try:
            while True:
                kill = rng is not None and outcome.trainer_kills < kills
                status, said = _trainer(folder, rng.randint(1, 60) if rng and kill else None)
                outcome.said += said
                if status != -signal.SIGKILL:
                    break
                outcome.trainer_kills += 1
        finally:
            done.set()
            if striker is not None:
                striker.join(60)
        assert status == 0, outcome.said
        return outcome

    def _strike(self, rng: random.Random, done: threading.Event, outcome: Outcome) -> None:
        while not done.wait(rng.uniform(0.05, 0.4)):
            fault = rng.choice(FAULTS)
            node = rng.choice(self.nodes)
            began_s = time.monotonic()
            fault(node, rng)
            outcome.faults.append((fault.__name__, time.monotonic() - began_s))


def _trainer(folder: Path, kill_after: int | None) -> tuple[int, list[dict[str, Any]]]:
    """Runs the trainer, and kills it after so many steps; its status and what it says."""
    environment = python_environment(RANK="0", WORLD_SIZE="1", OMP_NUM_THREADS="1")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.trainer", str(folder)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(TRAINER_LIMIT_S, process.kill)
    watchdog.start()
    said, steps = [], 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                said.append(json.loads(line))
            steps += line.startswith("step")
            if kill_after is not None and steps >= kill_after:
                process.kill()
                break
        process.stdout.close()
        return process.wait(TRAINER_LIMIT_S), said
    finally:
        watchdog.cancel()


def trained(folder: Path) -> Iterator[list[Any]]:
    """The lines of a run's log: epoch, shard, index, hash, ids."""
    for line in (folder / "rank-0.log").read_text().splitlines():
        yield json.loads(line)
