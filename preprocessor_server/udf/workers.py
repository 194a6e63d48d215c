"""The worker processes of a server: started when needed, used again, ended when idle."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from preprocessor_server.errors import DeploymentError, TemporaryError
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import log
from preprocessor_server.udf.declared import DeclaredUdf
from preprocessor_server.udf.process import UdfFailedError, WorkerProcess

# A process that nobody has used for so long is ended.
IDLE_S = 60.0
# What may have gone wrong because of blocks that a process was given before.
_OF_ITS_PAST = frozenset({"memory", "died"})


class Workers(Protocol):
    """Runs functions."""

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Raises DeploymentError (UDF_NOT_ALLOWED) for a function of a module not allowed."""

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """Identifies the code of a function as it is now. Raises UdfFailedError."""

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The outputs of a block. Raises UdfFailedError; DeploymentError for other code."""

    def close(self) -> None:
        """Ends what there is."""


def check_module(udf: DeclaredUdf, allowed: Sequence[str]) -> None:
    """Raises DeploymentError unless a function's module is one that is allowed, or below one."""
    if any(udf.module == name or udf.module.startswith(f"{name}.") for name in allowed):
        return
    known = f"it allows {', '.join(allowed)}" if allowed else "it allows none"
    raise DeploymentError(
        "UDF_NOT_ALLOWED",
        f"udfs[{udf.index}]: this server may not run {udf.function}: {known}; start servers with "
        f"--udf-module {udf.module} (or HEADRACE_UDF_MODULE) where that module may be run",
        field=f"dataset.udfs[{udf.index}].function",
    )


def changed(udf: DeclaredUdf, recorded: str, found: str) -> DeploymentError:
    """The error for code that is other than what the snapshot recorded."""
    return DeploymentError(
        "UDF_CHANGED",
        f"the code of {udf.function} on this server ({found[:19]}…) is not what the snapshot "
        f"recorded ({recorded[:19]}…): install the same code on all servers, or take a new "
        "snapshot (refresh_snapshot, or a stream without the old state) to use the new code",
    )


@dataclass(frozen=True, slots=True)
class _Idle:
    process: WorkerProcess
    since: float


class WorkerProcesses:
    """Worker processes, at most cpu_threads of them for each function."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._idle: dict[str, list[_Idle]] = defaultdict(list)
        self._busy: dict[str, set[WorkerProcess]] = defaultdict(set)
        self._starting: dict[str, int] = defaultdict(int)
        self._reaper: threading.Thread | None = None
        self._closed = False

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Raises DeploymentError (UDF_NOT_ALLOWED) for a function of a module not allowed."""
        check_module(udf, self._settings.udf_module)

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """Identifies the code of a function as it is now. Raises UdfFailedError."""
        with self._taken(udf.function) as process:
            return process.fingerprint

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The outputs of a block. Raises UdfFailedError; DeploymentError for other code."""
        while True:
            past = 0
            try:
                with self._taken(udf.function) as process:
                    if process.fingerprint != fingerprint:
                        raise changed(udf, fingerprint, process.fingerprint)
                    past = process.block_count
                    return process.run(batch, udf.typed_outputs, seed)
            except UdfFailedError as error:
                if not (past and error.kind in _OF_ITS_PAST):
                    raise
                # It may have leaked; whether the block is at fault shows in a fresh process.
                log.warning("udf process replaced", function=udf.function, why=error.message)
                self._end_idle(udf.function)

    def close(self) -> None:
        """Ends all processes at once; who waits for one is told that the server ends."""
        with self._changed:
            self._closed = True
            processes = [idle.process for of in self._idle.values() for idle in of]
            processes += [process for of in self._busy.values() for process in of]
            self._idle.clear()
            self._changed.notify_all()
        for process in processes:
            process.close()
        if self._reaper is not None:
            self._reaper.join()

    @contextmanager
    def _taken(self, function: str) -> Iterator[WorkerProcess]:
        """A process for a function, for one thread. Raises UdfFailedError, TemporaryError."""
        process = self._take(function)
        failed = True
        try:
            yield process
            failed = False
        except UdfFailedError:
            if self._closed:
                raise _ending() from None
            raise
        finally:
            with self._changed:
                self._busy[function].discard(process)
                keep = not failed and not self._closed
                if keep:
                    self._idle[function].append(_Idle(process, time.monotonic()))
                    self._start_reaper()
                self._changed.notify_all()
            if not keep:
                process.close()

    def _take(self, function: str) -> WorkerProcess:
        # Each of those before may take as long to start, and then for its block.
        deadline = time.monotonic() + 4 * self._settings.udf_timeout_s
        outdated: list[WorkerProcess] = []
        try:
            with self._changed:
                while True:
                    if self._closed:
                        raise _ending()
                    idle = self._idle[function]
                    while idle:
                        process = idle.pop().process
                        if process.current:
                            self._busy[function].add(process)
                            return process
                        outdated.append(process)
                    there = len(self._busy[function]) + self._starting[function]
                    if there < self._settings.cpu_threads:
                        self._starting[function] += 1
                        break
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise TemporaryError(
                            "SERVER_BUSY",
                            f"all {there} processes of {function} (--cpu-threads) are taken; "
                            "use another server, or add some",
                        )
        finally:
            for process in outdated:
                process.close()
        return self._start(function)

    def _start(self, function: str) -> WorkerProcess:
        process = None
        try:
            process = WorkerProcess(
                function,
                timeout_s=self._settings.udf_timeout_s,
                memory_bytes=self._settings.udf_memory_bytes,
            )
        finally:
            with self._changed:
                self._starting[function] -= 1
                if process is not None:
                    self._busy[function].add(process)
                self._changed.notify_all()
        if self._closed:
            process.close()
        return process

    def _end_idle(self, function: str) -> None:
        """Ends the processes of a function that have nothing to do: the next one is fresh."""
        with self._changed:
            idle = self._idle.pop(function, [])
        for each in idle:
            each.process.close()

    def _start_reaper(self) -> None:
        if self._reaper is None:
            self._reaper = threading.Thread(target=self._reap, name="udf idle", daemon=True)
            self._reaper.start()

    def _reap(self) -> None:
        """Ends processes that were idle for too long, until the server ends."""
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                ended = []
                for function, idle in self._idle.items():
                    ended += [each for each in idle if now - each.since >= IDLE_S]
                    self._idle[function] = [each for each in idle if now - each.since < IDLE_S]
                left = [each.since + IDLE_S - now for of in self._idle.values() for each in of]
                if not ended:
                    self._changed.wait(min(left, default=None))
            for each in ended:
                each.process.close()


def _ending() -> TemporaryError:
    return TemporaryError("DRAINING", "this server is shutting down; open the stream on another")
