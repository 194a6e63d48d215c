"""Runs a command as a pod would: as another user, on a read-only root, with writable folders."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sandbox:
    """Where a container's command runs: which words go before it, and its writable folder."""

    prefix: tuple[str, ...]
    folder: Path

    def emptied(self, name: str) -> Path:
        """A new empty folder that any user may write to, as an emptyDir is."""
        path = self.folder / name
        path.mkdir()
        path.chmod(0o777)
        return path

    def start(self, command: tuple[str, ...], environment: Mapping[str, str]) -> Process:
        """Starts a command."""
        popen = subprocess.Popen(
            [*self.prefix, *command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Process(popen)

    def run(
        self, command: tuple[str, ...], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [*self.prefix, *command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


class Process:
    """A server, the JSON lines that it has logged, and when it was started."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.began = time.monotonic()
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged of one kind."""
        with self._changed:
            entries = [json.loads(line) for line in self._lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def await_event(self, name: str, timeout_s: float) -> dict[str, Any]:
        """The first line of one kind; fails with all lines if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self.events(name) or self._ended, timeout_s)
            found = self.events(name)
            assert found, f"no {name!r} among:\n{''.join(self._lines)}"
            return found[0]

    def end(self, timeout_s: float) -> int:
        """Sends SIGTERM and returns the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)

    def close(self) -> None:
        """Ends it whatever it does, and its reader."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._reader.join()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


def confinement(folder: Path, user: int, group: int) -> tuple[str, ...]:
    """The words that confine a command as a pod does; none where this machine does not allow it.

    Only root may become another user and remount its root read-only, with unshare and setpriv
    (util-linux).
    """
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return ()
    identity = (f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs")
    unprivileged = ("setpriv", *identity, "--bounding-set=-all", "--inh-caps=-all", "--")
    prefix = ("unshare", "--mount", "sh", "-ec", _mounts(folder), "sh", *unprivileged)
    probe = ("sh", "-c", 'id -u; cat /proc/self/mounts; test -r "$0" && test -x "$1"')
    finished = subprocess.run(
        [*prefix, *probe, str(ROOT / "pyproject.toml"), sys.executable],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if not finished.stdout:
        return ()
    user_line, *mounts = finished.stdout.splitlines()
    assert user_line == str(user)
    (*_, root) = (mount.split() for mount in mounts if mount.split()[1] == "/")
    assert "ro" in root[3].split(",")
    assert finished.returncode == 0, f"user {user} cannot read this checkout or its interpreter"
    return prefix


def _mounts(folder: Path) -> str:
    """Shell commands for a mount namespace of its own: only folder can be written to.

    An interpreter or checkout inside a folder that is closed to others (a home) is shown there by
    itself, on an empty folder that hides the rest. Nothing changes outside the namespace.
    """
    quoted = shlex.quote(str(folder))
    lines = ["mount --make-rprivate /", f"mount --bind {quoted} {quoted}"]
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT}
    hidden: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        closed = next((up for up in reversed(path.parents) if not up.stat().st_mode & 0o001), None)
        if closed is not None and not any(
            path.is_relative_to(kept) for kept in hidden.get(closed, [])
        ):
            hidden.setdefault(closed, []).append(path)
    for closed, kept in hidden.items():
        over = shlex.quote(str(closed))
        places = {path: shlex.quote(str(folder / f"kept-{path.name}")) for path in kept}
        lines += [
            f"mkdir {place} && mount --bind {shlex.quote(str(path))} {place}"
            for path, place in places.items()
        ]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {over}")
        for path, place in places.items():
            at = shlex.quote(str(path))
            lines.append(
                f"mkdir -p {at} && mount --bind {place} {at} && mount -o remount,ro,bind {at}"
            )
            lines.append(f"umount {place} && rmdir {place}")
        lines.append(f"mount -o remount,ro {over}")
    lines.append("mount -o remount,ro,bind /")
    return " && ".join([*lines, 'exec "$@"'])
