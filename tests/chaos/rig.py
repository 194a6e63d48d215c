"""A real fleet behind proxies, a real trainer, and faults that strike while it trains."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tests.chaos.proxy import Proxy
from tests.fakes.process import ROOT, ServerProcess, python_environment
from trainer_client import merge_state_dicts

TRAINER_LIMIT_S = 300.0
SAMPLE_EVERY_S = 5.0
# A fault may show a moment after it is over.
SOON_S = 0.5


class Node:
    """A server process behind a proxy: a place in the fleet, whoever serves there just now."""

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self.proxy = Proxy()
        self.server = self._start()

    def _start(self) -> ServerProcess:
        server = ServerProcess(
            "--listen=127.0.0.1:0",
            f"--data-root={self._data_root}",
            "--drain-timeout-s=2",
            # Full after a minute, so that what grows then is something else.
            f"--shared-bytes={8 << 20}",
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


Fault: TypeAlias = Callable[[Node, random.Random], None]
ENDING: tuple[Fault, ...] = (crash, drain)
GENTLE: tuple[Fault, ...] = (pause, reset, black_hole, slow_network)


@dataclass(frozen=True)
class Strike:
    """A fault that struck: when it began and ended (monotonic seconds), and on which node."""

    kind: str
    node: int
    began_s: float
    ended_s: float


@dataclass
class Outcome:
    """What became of a run: its faults, when each trainer took steps, its restarts, what it said.

    failures are those of the harness itself.
    """

    failures: list[str] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    steps_s: list[list[float]] = field(default_factory=list)
    trainer_kills: int = 0
    said: list[dict[str, Any]] = field(default_factory=list)

    def stall_s(self, strike: Strike) -> float:
        """The longest time between two steps of a trainer, of those that overlap a fault or begin
        soon after it: where it restarts, the fault is not to blame."""
        gaps = (
            after - before
            for steps_s in self.steps_s
            for before, after in itertools.pairwise(steps_s)
            if after >= strike.began_s and before <= strike.ended_s + SOON_S
        )
        return max(gaps, default=0.0)


class Rig:
    """A fleet over one dataset; a context manager. At most half of it is being restarted at a time.

    With damage, the first machine flips bits too. With spared, no fault ends the last one's server.
    """

    def __init__(
        self,
        folder: Path,
        data_root: Path,
        servers: int,
        *,
        damage: bool = False,
        spared: bool = False,
    ) -> None:
        self.folder = folder
        self._damage = damage
        self._spared = spared
        self._restarts = threading.BoundedSemaphore(max(1, servers // 2))
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

    def train(self, folder: Path, seed: int | None = None, kills: int = 0) -> Outcome:
        """One rank trains to the end, killed some times; with a seed, faults strike meanwhile."""
        rng = random.Random(seed)
        outcome = Outcome()
        with self._faults(seed, outcome):
            while True:
                kill = outcome.trainer_kills < kills
                ranks = [Trainer(folder, 0, 1, rng.randint(1, 150) if kill else None)]
                if _finish(ranks, outcome):
                    return outcome

    def soak(
        self, folder: Path, seed: int, seconds: float, sample: Callable[[int, int], None]
    ) -> Outcome:
        """One rank trains for so long, then is killed; sample gets its pid and the spared server's.

        It is called every few seconds.
        """
        outcome = Outcome()
        with self._faults(seed, outcome):
            trainer = Trainer(folder, 0, 1, None, limit_s=seconds + TRAINER_LIMIT_S)
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s and trainer.running(SAMPLE_EVERY_S):
                sample(trainer.pid, self.nodes[-1].pid)
            trainer.killed = trainer.running(0)
            trainer.kill()
            _finish([trainer], outcome)
        return outcome

    def train_elastic(self, folder: Path, sizes: Sequence[int], seed: int | None = None) -> Outcome:
        """One epoch by changing numbers of ranks, all of which are killed but for the last ones."""
        rng = random.Random(seed)
        outcome = Outcome()
        with self._faults(seed, outcome):
            for phase, size in enumerate(sizes):
                last = phase == len(sizes) - 1
                kill_after = None if last else rng.randint(1, 60)
                ranks = [Trainer(folder, rank, size, kill_after) for rank in range(size)]
                finished = _finish(ranks, outcome)
                assert finished or not last
                _put_together(folder, size, phase)
        return outcome

    @contextlib.contextmanager
    def _faults(self, seed: int | None, outcome: Outcome) -> Iterator[None]:
        """Faults on every node, one after the other on each."""
        done = threading.Event()
        strikers = []
        if seed is not None:
            strikers = [
                threading.Thread(target=self._strike, args=(number, seed, done, outcome))
                for number in range(len(self.nodes))
            ]
        for striker in strikers:
            striker.start()
        try:
            yield
        finally:
            done.set()
            for striker in strikers:
                striker.join(60)
                assert not striker.is_alive()
            assert not outcome.failures, outcome.failures

    def _strike(self, number: int, seed: int, done: threading.Event, outcome: Outcome) -> None:
        rng = random.Random(f"{seed} {number}")
        spared = self._spared and number == len(self.nodes) - 1
        faults = GENTLE if spared else (*ENDING, *GENTLE)
        # One machine damages bits. Where two do, the client says so and ends.
        if self._damage and number == 0:
            faults = (*faults, flip_bits)
        while not done.wait(rng.uniform(0.3, 1.5)):
            fault = rng.choice(faults)
            try:
                with self._restarts if fault in ENDING else contextlib.nullcontext():
                    began_s = time.monotonic()
                    fault(self.nodes[number], rng)
            except BaseException as error:  # noqa: BLE001 - a node that stays broken is a failure
                said = self.nodes[number].server.log[-3:]
                outcome.failures.append(
                    f"{fault.__name__} of node {number}: {error!r}; log: {said}"
                )
                return
            outcome.strikes.append(Strike(fault.__name__, number, began_s, time.monotonic()))


class Trainer:
    """A rank as a process, killed after so many steps if a number is given."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        world_size: int,
        kill_after: int | None,
        limit_s: float = TRAINER_LIMIT_S,
    ) -> None:
        self.steps_s: list[float] = []
        self.said: list[dict[str, Any]] = []
        self._kill_after = kill_after
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.trainer", str(folder)],
            env=python_environment(RANK=str(rank), WORLD_SIZE=str(world_size), OMP_NUM_THREADS="1"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.killed = self.timed_out = False
        self._watchdog = threading.Timer(limit_s, self._time_out)
        self._watchdog.start()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def running(self, seconds: float) -> bool:
        """Whether it still runs after so long; returns earlier if not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()

    def _time_out(self) -> None:
        self.timed_out = True
        self.kill()

    def wait(self) -> int:
        """The exit status; -9 if it was killed."""
        self._reader.join(TRAINER_LIMIT_S)
        status = self._process.wait(TRAINER_LIMIT_S)
        self._watchdog.cancel()
        return status

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.said.append(json.loads(line))
            elif line.startswith("step"):
                self.steps_s.append(time.monotonic())
                if self._kill_after is not None and len(self.steps_s) >= self._kill_after:
                    self.killed = True
                    self._process.kill()
                    break
        self._process.stdout.close()


def _finish(ranks: Sequence[Trainer], outcome: Outcome) -> bool:
    """Waits for all ranks; whether none of them was killed."""
    statuses = [rank.wait() for rank in ranks]
    for rank in ranks:
        outcome.said += rank.said
        outcome.steps_s.append(rank.steps_s)
    # One that ended by itself before it could be killed has ended.
    killed = [rank.killed and status != 0 for rank, status in zip(ranks, statuses, strict=True)]
    outcome.trainer_kills += sum(killed)
    assert not any(rank.timed_out for rank in ranks), "a trainer hung"
    ended = [status for status, kill in zip(statuses, killed, strict=True) if not kill]
    assert not any(ended), (ended, outcome.said)
    return not any(killed)


def _put_together(folder: Path, size: int, phase: int) -> None:
    """Merges the states of all ranks into the run's, and keeps what they trained on apart."""
    run = json.loads((folder / "run.json").read_text())
    states = []
    for rank in range(size):
        log, path = folder / f"rank-{rank}.log", folder / f"rank-{rank}.json"
        state = json.loads(path.read_text())
        (folder / f"phase-{phase}-{rank}.log").write_bytes(log.read_bytes()[: state["log"]])
        log.unlink()
        path.unlink()
        states.append(state["stream"])
    run["state"] = merge_state_dicts(states)
    (folder / "run.json").write_text(json.dumps(run))


def trained(folder: Path) -> Iterator[list[Any]]:
    """The lines of a run's logs: epoch, shard, index, hash, ids."""
    logs = sorted(folder.glob("phase-*.log")) or [folder / "rank-0.log"]
    for log in logs:
        for line in log.read_text().splitlines():
            yield json.loads(line)
