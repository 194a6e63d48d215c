"""The worker processes of a server: started when needed, used again, ended when idle."""

from __future__ import annotations

import sys
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
from preprocessor_server.udf.archive import Code
from preprocessor_server.udf.declared import DeclaredUdf
from preprocessor_server.udf.process import UdfFailedError, WorkerProcess

# A process that nobody has used for so long is ended.
IDLE_S = 60.0
# What may have gone wrong because of blocks that a process was given before.
_OF_ITS_PAST = frozenset({"memory", "died"})


class Workers(Protocol):
    """Runs functions."""

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Raises DeploymentError for a function that the server may not run."""

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """Identifies the code of a function as it is now. Raises UdfFailedError."""

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The outputs of a block. Raises UdfFailedError; DeploymentError for other code."""

    def close(self) -> None:
        """Ends what there is."""


def check_code(udf: DeclaredUdf, settings: Settings) -> None:
    """Raises DeploymentError unless the settings allow a function's code, written for this Python.

    UDF_NOT_ALLOWED for a module that is not allowed, nor below one that is; UDF_UPLOAD_FORBIDDEN
    and UDF_PYTHON_MISMATCH for code that the dataset carries.
    """
    if udf.code.archive:
        _check_upload(udf, settings)
        return
    allowed = settings.udf_module
    if any(udf.module == name or udf.module.startswith(f"{name}.") for name in allowed):
        return
    known = f"it allows {', '.join(allowed)}" if allowed else "it allows none"
    raise DeploymentError(
        "UDF_NOT_ALLOWED",
        f"udfs[{udf.index}]: this server may not run {udf.function}: {known}; start servers with "
        f"--udf-module {udf.module} (or HEADRACE_UDF_MODULE) where that module may be run",
        field=f"dataset.udfs[{udf.index}].function",
    )


def _check_upload(udf: DeclaredUdf, settings: Settings) -> None:
    field = f"dataset.udfs[{udf.index}].archive"
    if settings.udf != "upload":
        raise DeploymentError(
            "UDF_UPLOAD_FORBIDDEN",
            f"udfs[{udf.index}]: this server takes no code from trainers, and {udf.function} is "
            "uploaded: start servers with --udf=upload (or HEADRACE_UDF=upload) where trainers may "
            "run code on them, or install the function there and name it by its import path",
            field=field,
        )
    own = "{}.{}".format(*sys.version_info)
    if udf.python_version != own:
        raise DeploymentError(
            "UDF_PYTHON_MISMATCH",
            f"udfs[{udf.index}]: {udf.function} comes from Python {udf.python_version}, and this "
            f"server has Python {own}: run both with the same one",
            field=field + ".python_version",
        )


def changed(udf: DeclaredUdf, recorded: str, found: str) -> DeploymentError:
    """The error for code that is other than what the snapshot recorded."""
    if udf.code.archive:
        return DeploymentError(
            "UDF_CHANGED",
            f"the code of {udf.function} ({found[:19]}…) is not what the snapshot recorded "
            f"({recorded[:19]}…): give the snapshot of this dataset (snapshot=), or none",
        )
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
        # Of each code that has processes.
        self._idle: dict[Code, list[_Idle]] = defaultdict(list)
        self._busy: dict[Code, set[WorkerProcess]] = defaultdict(set)
        self._starting: dict[Code, int] = defaultdict(int)
        self._reaper: threading.Thread | None = None
        self._closed = False

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Raises DeploymentError as check_code() does."""
        check_code(udf, self._settings)

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """Identifies the code of a function as it is now. Raises UdfFailedError."""
        with self._taken(udf.code) as process:
            return process.fingerprint

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The outputs of a block. Raises UdfFailedError; DeploymentError for other code."""
        while True:
            past = 0
            try:
                with self._taken(udf.code) as process:
                    if process.fingerprint != fingerprint:
                        raise changed(udf, fingerprint, process.fingerprint)
                    past = process.block_count
                    return process.run(batch, udf.typed_outputs, seed)
            except UdfFailedError as error:
                if not (past and error.kind in _OF_ITS_PAST):
                    raise
                # It may have leaked; whether the block is at fault shows in a fresh process.
                log.warning("udf process replaced", function=udf.function, why=error.message)
                self._end_idle(udf.code)

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
    def _taken(self, code: Code) -> Iterator[WorkerProcess]:
        """A process for a code, for one thread. Raises UdfFailedError, TemporaryError."""
        process = self._take(code)
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
                self._busy[code].discard(process)
                keep = not failed and not self._closed
                if keep:
                    self._idle[code].append(_Idle(process, time.monotonic()))
                    self._start_reaper()
                self._changed.notify_all()
            if not keep:
                process.close()

    def _take(self, code: Code) -> WorkerProcess:
        # Each of those before may take as long to start, and then for its block.
        deadline = time.monotonic() + 4 * self._settings.udf_timeout_s
        outdated: list[WorkerProcess] = []
        try:
            with self._changed:
                while True:
                    if self._closed:
                        raise _ending()
                    idle = self._idle[code]
                    while idle:
                        process = idle.pop().process
                        if process.current:
                            self._busy[code].add(process)
                            return process
                        outdated.append(process)
                    there = len(self._busy[code]) + self._starting[code]
                    if there < self._settings.cpu_threads:
                        self._starting[code] += 1
                        break
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise TemporaryError(
                            "SERVER_BUSY",
                            f"all {there} processes of {code.function} (--cpu-threads) are taken; "
                            "use another server, or add some",
                        )
        finally:
            for process in outdated:
                process.close()
        return self._start(code)

    def _start(self, code: Code) -> WorkerProcess:
        process = None
        try:
            process = WorkerProcess(
                code,
                timeout_s=self._settings.udf_timeout_s,
                memory_bytes=self._settings.udf_memory_bytes,
            )
        finally:
            with self._changed:
                self._starting[code] -= 1
                if process is not None:
                    self._busy[code].add(process)
                self._changed.notify_all()
        if self._closed:
            process.close()
        return process

    def _end_idle(self, code: Code) -> None:
        """Ends the processes of a code that have nothing to do: the next one is fresh."""
        with self._changed:
            idle = self._idle.pop(code, [])
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
                for code, idle in list(self._idle.items()):
                    ended += [each for each in idle if now - each.since >= IDLE_S]
                    self._idle[code] = [each for each in idle if now - each.since < IDLE_S]
                    if not (self._idle[code] or self._busy[code] or self._starting[code]):
                        # Trainers upload ever new code.
                        for of in (self._idle, self._busy, self._starting):
                            of.pop(code, None)
                left = [each.since + IDLE_S - now for of in self._idle.values() for each in of]
                if not ended:
                    self._changed.wait(min(left, default=None))
            for each in ended:
                each.process.close()


def _ending() -> TemporaryError:
    return TemporaryError("DRAINING", "this server is shutting down; open the stream on another")
