"""The paths that a dataset names: expanded once, in order, and never outside the data roots."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from preprocessor_server.errors import DatasetError, ServerError, raising

_MAGIC = frozenset("*?[")


class NamedFile(NamedTuple):
    """A file as the dataset named it, and where it really is."""

    name: str
    real: Path


class Roots:
    """The folders that files may be read from; relative paths start at the first."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def resolve(self, name: str, field: str = "") -> Path:
        """Where a path really is, after "..", and symbolic links.

        Raises DatasetError (PATH_OUTSIDE_ROOT) for a path outside every root.
        """
        real = Path(os.path.realpath(self._roots[0] / name))
        if any(real == root or root in real.parents for root in self._roots):
            return real
        roots = ", ".join(map(str, self._roots))
        raise DatasetError(
            "PATH_OUTSIDE_ROOT",
            f"path {name!r} lies outside the folders that this server may read ({roots}); move "
            "the data there or start the server with another --data-root",
            field=field,
        )

    def expand(self, paths: Sequence[str]) -> list[NamedFile]:
        """Every file that the paths name, in order.

        Raises DatasetError for a path that names nothing, lies outside the roots, or names a file
        that another path has named already.
        """
        return list(raising(self.look_up(paths)))

    def look_up(self, paths: Sequence[str]) -> Iterator[NamedFile | ServerError]:
        """Every file that the paths name, or what expand refuses about it."""
        named_by: dict[Path, str] = {}
        for i, path in enumerate(paths):
            field = f"dataset.source.parquet.paths[{i}]"
            found = 0
            try:
                for file in self._expand_one(path, field):
                    found += 1
                    if file.real in named_by:
                        yield DatasetError(
                            "DATASET_INVALID",
                            f"file {file.name!r} is named twice, by {named_by[file.real]!r} and by "
                            f"{path!r}: its rows would be delivered twice; name it once",
                            field=field,
                        )
                        continue
                    named_by[file.real] = path
                    yield file
            except ServerError as error:
                yield error
                continue
            if not found:
                yield DatasetError("PATH_NOT_FOUND", self._nothing(path), field=field)

    def _expand_one(self, path: str, field: str) -> Iterator[NamedFile]:
        literal = path.split("/")
        magic = next((i for i, part in enumerate(literal) if _MAGIC & set(part)), None)
        if magic is None:
            names = [path]
        else:
            self.resolve("/".join(literal[:magic]) or ("/" if path.startswith("/") else "."), field)
            names = sorted(glob.glob(path, root_dir=self._roots[0], recursive=True))
        for name in names:
            real = self.resolve(name, field)
            if real.is_dir():
                yield from self._walk(name, real, field)
            elif real.is_file():
                yield NamedFile(name, real)

    def _walk(self, name: str, folder: Path, field: str) -> Iterator[NamedFile]:
        """The "*.parquet" files below a folder; hidden ones and "_" ones are not data."""

        def fail(error: OSError) -> None:
            raise _unreadable(name, error)

        found = []
        for parent, folders, files in os.walk(folder, onerror=fail):
            folders[:] = [f for f in folders if not f.startswith((".", "_"))]
            below = os.path.relpath(parent, folder)
            found += [
                os.path.normpath(os.path.join(below, file))
                for file in files
                if file.endswith(".parquet") and not file.startswith((".", "_"))
            ]
        for file in sorted(found):
            whole = f"{name.rstrip('/')}/{file}"
            yield NamedFile(whole, self.resolve(whole, field))

    def _nothing(self, path: str) -> str:
        where = "" if path.startswith("/") else f" below {self._roots[0]}"
        if _MAGIC & set(path):
            return f"glob {path!r} matches no file{where}; check it with ls"
        if (self._roots[0] / path).is_dir():
            return f"folder {path!r}{where} holds no *.parquet file"
        return f"no such file or folder: {path!r}{where}"


def _unreadable(name: str, error: OSError) -> ServerError:
    return DatasetError(
        "PATH_UNREADABLE",
        f"the server may not read {name!r} ({error.strerror}); grant it, or name another path",
    )


def stat_file(file: NamedFile) -> os.stat_result:
    """The state of a file now. Raises DatasetError if it is gone or may not be read."""
    try:
        if not os.access(file.real, os.R_OK) and file.real.exists():
            raise PermissionError(13, "permission denied")
        return file.real.stat()
    except PermissionError as error:
        raise _unreadable(file.name, error) from None
    except FileNotFoundError:
        raise DatasetError("PATH_NOT_FOUND", f"file {file.name!r} is gone") from None
