"""Snapshots on disk: the bytes by their hash, and which snapshot a dataset is pinned to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import zstandard

from headrace.v1 import preprocessor_service_pb2
from trainer_client.errors import RequestError

PREFIX = "sha256:"
# A snapshot of 10^6 row groups is a few MB; this only stops damaged files from eating memory.
MAX_SNAPSHOT_BYTES = 4 << 30


def default_directory() -> Path:
    """$XDG_CACHE_HOME/headrace/snapshots, by default under ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "headrace" / "snapshots"


class SnapshotStore:
    """A directory of snapshots; several processes may use it at the same time."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def get(self, snapshot_id: str) -> bytes | None:
        """The bytes of a snapshot, None if they are not here.

        Raises RequestError if the id is none, or the file is not what its name says.
        """
        path = self._path(snapshot_id)
        data = _read(path)
        if data is None:
            return None
        if identify(data) != snapshot_id:
            raise RequestError(f"{path} is damaged: remove it, so that it is fetched again")
        return data

    def put(self, snapshot_id: str, data: bytes) -> None:
        """Keeps the bytes of a snapshot. Raises OSError if the directory cannot be written."""
        path = self._path(snapshot_id)
        if not path.exists():
            self._write(path, data, replace=True)

    def pinned(self, name: str) -> str | None:
        """The id of the snapshot that a dataset is pinned to here, None if it is not."""
        data = _read(self._pin(name))
        return None if data is None else data.decode("ascii", errors="replace").strip()

    def pin(self, name: str, snapshot_id: str, *, replace: bool = False) -> str:
        """Pins a dataset to a snapshot unless it is pinned; the id that holds now."""
        pin = self._pin(name)
        try:
            self._write(pin, f"{snapshot_id}\n".encode("ascii"), replace=replace)
        except FileExistsError:
            return pin.read_text(encoding="ascii").strip()
        return snapshot_id

    def _path(self, snapshot_id: str) -> Path:
        digest = snapshot_id.removeprefix(PREFIX)
        if not snapshot_id.startswith(PREFIX) or len(digest) != 64 or not digest.isalnum():
            raise RequestError(f"snapshot {snapshot_id!r} is no id: {PREFIX} and 64 hex digits")
        return self.directory / f"{digest}.snapshot"

    def _pin(self, name: str) -> Path:
        return self.directory / f"{name.removeprefix(PREFIX)}.pin"

    def _write(self, path: Path, data: bytes, *, replace: bool) -> None:
        """Makes a file appear whole; FileExistsError if it is there and may not be replaced."""
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.directory, prefix=".writing-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            if replace:
                Path(name).replace(path)
            else:
                # Unlike rename, link never replaces; unlike O_EXCL, nobody sees half a file.
                path.hardlink_to(name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()


def _read(path: Path) -> bytes | None:
    """The bytes of a file, None if there is none. Raises RequestError if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}") from error


def identify(data: bytes) -> str:
    """The id of a snapshot's bytes: the hash of what their ZSTD frame holds, "" if it is none."""
    try:
        return PREFIX + hashlib.sha256(_decompress(data)).hexdigest()
    except zstandard.ZstdError:
        return ""


def first_difference(one: bytes, other: bytes) -> str:
    """The first file in which two snapshots differ, in words."""
    left, right = _files(one), _files(other)
    for mine, its in zip(left, right, strict=False):
        if mine.path != its.path:
            return f"{min(mine.path, its.path)} is in only one of them"
        if mine != its:
            return (
                f"{mine.path} is {mine.size_bytes} bytes of mtime {mine.mtime_ns} ns in one, "
                f"{its.size_bytes} bytes of mtime {its.mtime_ns} ns in the other"
            )
    longer = left if len(left) > len(right) else right
    if len(left) != len(right):
        return f"{longer[min(len(left), len(right))].path} is in only one of them"
    return "their files are the same; the columns, row groups or the code of functions are not"


def _files(data: bytes) -> list[preprocessor_service_pb2.SnapshotFile]:
    return list(preprocessor_service_pb2.Snapshot.FromString(_decompress(data)).files)


def _decompress(data: bytes) -> bytes:
    if zstandard.frame_content_size(data) > MAX_SNAPSHOT_BYTES:
        raise zstandard.ZstdError("larger than any snapshot")
    return zstandard.ZstdDecompressor().decompress(data)
