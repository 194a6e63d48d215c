"""A server as a process of its own, as an operator starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0


def python_environment(**extra: str) -> dict[str, str]:
    """This environment, with the source tree importable and without settings of a server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return clean | {"PYTHONPATH": f"{ROOT / 'proto'}{os.pathsep}{ROOT}"} | extra


class ServerProcess:
    """preprocessor-server serve, with its log read as it comes; prefix is what runs it.

    module is what runs in place of preprocessor_server.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        module: str = "preprocessor_server",
    ) -> None:
        self.process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-m",
                module,
                "serve",
                "--log-format",
                "json",
                *arguments,
            ],
            env=dict(environment or python_environment()),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line of an event; fails if the process ends, or in time, without one."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.log if line.get("event") == event), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._reader.is_alive(), TIMEOUT_S)
            line = found()
        assert line is not None, f"no {event!r} in the log: {self.log}"
        return line

    def wait(self) -> int:
        """The exit status."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return status

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line = json.loads(text) if text.startswith("{") else {"text": text.rstrip()}
            with self._changed:
                self.log.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
