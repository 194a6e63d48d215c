"""A directory that processes of one user share, and a FIFO that servers live by.

In the directory: `lock` (held while anybody comes or goes), `users` (locked shared by each
process that uses the directory; whoever can lock it alone is the last), `lifeline` (a FIFO: its
readers are the servers, its writers the users). All of these the kernel lets go when a process
dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from trainer_client.errors import DeploymentError, StreamTimeoutError

PREFIX = "headrace-"
# sockaddr_un.sun_path, unix(7), less the name of a socket in the directory.
MAX_DIRECTORY_BYTES = 107 - len("/server-000.sock")
LOCK_TIMEOUT_S = 60.0


def directory_for(key: str) -> Path:
    """Where processes with the same key meet. Raises DeploymentError if no path is short enough."""
    name = f"{PREFIX}{os.getuid()}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    for root in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - a 0700 directory, owner checked
        path = Path(root, name)
        if len(os.fsencode(path)) <= MAX_DIRECTORY_BYTES:
            return path
    raise DeploymentError(f"{tempfile.gettempdir()} is too long for Unix sockets: set TMPDIR")


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """The directory, made if it is not there, while no other process comes or goes.

    Raises DeploymentError if it is not this user's alone, StreamTimeoutError if another process
    holds it for a minute.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        _check_owner(path)
        try:
            lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            _lock(lock, path)
            # Whoever held it before may have been the last, and removed what was locked here.
            if _same_file(lock, path / "lock"):
                yield
                return
        finally:
            os.close(lock)


def join_users(path: Path) -> int:
    """A descriptor that counts its process among the users until it is closed."""
    users = os.open(path / "users", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def is_last_user(users: int) -> bool:
    """Whether no other process uses the directory; call it with the directory locked."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_writer(path: Path) -> int | None:
    """The lifeline opened for writing, None if no server lives by it."""
    try:
        return os.open(path / "lifeline", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # ENOENT: nobody made it; ENXIO (fifo(7)): nobody reads it.
        return None


def make_lifeline(path: Path) -> tuple[int, int]:
    """A new lifeline: (a reader for the servers to inherit, the writer)."""
    fifo = path / "lifeline"
    with contextlib.suppress(FileNotFoundError):
        fifo.unlink()
    os.mkfifo(fifo, 0o600)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return reader, os.open(fifo, os.O_WRONLY | os.O_CLOEXEC)


def remove_leftovers(keep: Path) -> None:
    """Removes directories of this user whose users all died without going through the door."""
    for path in keep.parent.glob(f"{PREFIX}{os.getuid()}-*"):
        if path == keep or not (path / "users").exists():
            continue
        with contextlib.suppress(OSError):
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
            users = os.open(path / "users", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_last_user(users):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(users)
                os.close(lock)


def _check_owner(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise DeploymentError(
            f"{path} is in the way: it must be a directory that only this user may enter; remove it"
        )


def _lock(lock: int, path: Path) -> None:
    """An flock with a bound: the kernel's has none, so a thread waits for it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiter = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True)
        waiter.start()
        waiter.join(LOCK_TIMEOUT_S)
        if waiter.is_alive():
            raise StreamTimeoutError(
                f"{path}/lock was held by another process for {LOCK_TIMEOUT_S:.0f} s; is one of "
                "this machine's ranks stopped?"
            ) from None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
