"""The server's end of a worker process: started, fed with blocks within limits, and ended."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from preprocessor_server.telemetry import log
from preprocessor_server.udf import wire
from preprocessor_server.udf.archive import Code

# For a process that was killed to be gone.
_END_TIMEOUT_S = 5.0
# Fewer switches between the two processes for a block.
_PIPE_BYTES = 1 << 20
# What is kept of what a process prints, in lines, for the error that says how it ended.
_LAST_LINES = 12
# Workers are many already, so libraries in them take one thread each; a set of strings has one
# order on every server.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    ),
    # What is freed goes back, and what is counted is what is used.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class UdfFailedError(Exception):
    """A function did not do what it declares.

    kind is "raised", "returned", "memory", "hung" or "died"; traceback is the function's own, or
    what the process printed last.
    """

    def __init__(self, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.traceback = traceback


class WorkerProcess:
    """A process that runs one function, for one thread at a time.

    With code that a dataset carries it works in an empty folder of its own, which ends with it.
    Raises UdfFailedError if the function cannot be imported within the time limit.
    """

    def __init__(self, code: Code, *, timeout_s: float, memory_bytes: int) -> None:
        self._function = code.function
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self.block_count = 0
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._folder = (
            tempfile.TemporaryDirectory(prefix="headrace-udf-", ignore_cleanup_errors=True)
            if code.archive
            else None
        )
        # Closed by the system when this process ends, however it ends.
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "preprocessor_server.udf.worker", str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(lifeline,),
                env=_environment(),
                cwd=None if self._folder is None else self._folder.name,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._input, self._output):
            os.set_blocking(pipe, False)
            with suppress(OSError):
                # Unprivileged users have an allowance of these; without it a pipe holds 64 KiB.
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._printing = threading.Thread(target=self._follow, name="udf output", daemon=True)
        self._printing.start()
        setup = {**code._asdict(), "memory_bytes": memory_bytes}
        try:
            head, _ = self._ask(setup, b"", "the import of its module")
        except BaseException:
            self.close()
            raise
        self.fingerprint = str(head["fingerprint"])
        self._files: list[tuple[str, int, int]] = [tuple(file) for file in head["files"]]

    @property
    def current(self) -> bool:
        """Whether the files are still those that the process has imported."""
        try:
            return all(
                (stat.st_size, stat.st_mtime_ns) == (size, mtime_ns)
                for path, size, mtime_ns in self._files
                for stat in (os.stat(path),)
            )
        except OSError:
            return False

    def run(
        self,
        batch: pa.RecordBatch,
        outputs: Sequence[tuple[str, str]],
        seed: Sequence[int] | None,
    ) -> pa.RecordBatch:
        """The outputs (name, type) of a block.

        Raises UdfFailedError, after which the process is of no use.
        """
        packed = pa.BufferOutputStream()
        with pa.ipc.new_stream(packed, batch.schema) as writer:
            writer.write_batch(batch)
        _, payload = self._ask({"outputs": outputs, "seed": seed}, packed.getvalue(), "a block")
        self.block_count += 1
        with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
            return reader.read_next_batch()

    def close(self) -> None:
        """Ends the process and all that it has started. Idempotent, and safe from any thread."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        if self._folder is not None:
            self._folder.cleanup()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            os.close(self._lifeline)
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()

    def _ask(self, head: dict[str, Any], payload: Any, what: str) -> tuple[dict[str, Any], Any]:
        deadline = time.monotonic() + self._timeout_s
        try:
            wire.send(self._input, head, payload, deadline)
            answer, content = wire.receive(self._output, deadline)
        except TimeoutError:
            self.close()
            raise UdfFailedError(
                "hung",
                f"{what} took longer than {self._timeout_s:g} s, and its process was ended; make "
                "blocks smaller (udf_block_rows), or raise the server's --udf-timeout-s",
            ) from None
        except wire.PipeClosedError:
            raise self._died() from None
        if "failure" not in answer:
            return answer, content
        message = answer["message"]
        if answer["failure"] == "memory":
            message = (
                f"its process may take {self._memory_bytes:,} bytes (--udf-memory-bytes), and "
                f"{what} needs more; make blocks smaller (udf_block_rows), or raise the setting"
            )
        raise UdfFailedError(answer["failure"], message, answer["traceback"])

    def _died(self) -> UdfFailedError:
        """The failure of a process that is gone."""
        try:
            status = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.close()
            return UdfFailedError("died", "it closed the pipes of its process", self._printed())
        if status >= 0:
            return UdfFailedError(
                "died", f"it ended its process with status {status}", self._printed()
            )
        name = signal.Signals(-status).name
        more = "; is the machine out of memory?" if -status == signal.SIGKILL else ""
        message = f"its process was ended by {name}{more}"
        return UdfFailedError("died", message, self._printed())

    def _printed(self) -> str:
        self._printing.join(_END_TIMEOUT_S)
        return "\n".join(self._last_lines)

    def _follow(self) -> None:
        """Logs what the process prints."""
        assert self._process.stderr is not None
        with self._process.stderr as printed:
            for line in printed:
                text = line.decode(errors="replace").rstrip()
                self._last_lines.append(text)
                log.info("udf prints", function=self._function, text=text)


def _environment() -> dict[str, str]:
    """What a worker inherits: it can import what this process can, from the same places."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    return _ENVIRONMENT | os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
