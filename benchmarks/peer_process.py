"""Runs one peer in its own process and environment, and reads what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.setup import interpreter, is_ready

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900.0
STDERR_LINES = 20

Event = dict[str, Any]


class PeerError(Exception):
    """A peer could not be run, or failed."""


def python_of(environment: str | None) -> Path:
    """The interpreter of a peer's environment, or this one. Raises PeerError if it is not ready."""
    if environment is None:
        return Path(sys.executable)
    if not is_ready(environment):
        raise PeerError(f"the environment of {environment} is missing or old: make bench-setup")
    return interpreter(environment)


def run_module(
    python: Path, module: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> list[Event]:
    """Runs a module of benchmarks.peers to its end; the events on its stdout.

    Raises PeerError with the end of its stderr if it fails, or has not ended in TIMEOUT_S.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    environment = {**os.environ, "PYTHONPATH": path, **(variables or {})}
    command = [str(python), "-m", f"benchmarks.peers.{module}", *arguments]
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # A group of its own, so that none of its processes outlives a run.
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            status = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            output, status = "", f"had not ended after {TIMEOUT_S:.0f} s"
        finally:
            end_group(process)
        if process.returncode:
            stderr.seek(0)
            last = "".join(stderr.readlines()[-STDERR_LINES:])
            raise PeerError(f"{module} {status}; the end of what it said:\n{last}")
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends what is left of a process and its group."""
    # Nothing is left where all have ended, as they should.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def only(events: Sequence[Event], name: str) -> Event:
    """The one event of a name. Raises PeerError if there is none."""
    for event in events:
        if event["event"] == name:
            return event
    raise PeerError(f"no {name!r} among {[event['event'] for event in events]}")
