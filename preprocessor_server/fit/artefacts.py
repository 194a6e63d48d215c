"""What a fit writes: vocabularies, the fitted dataset, and a summary; each whole or not at all."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.fit.inputs import Target
from preprocessor_server.source.vocabulary import VALUE
from preprocessor_server.transform.column_type import Family

_TYPES = {Family.INTEGER: pa.int64(), Family.TEXT: pa.string(), Family.BINARY: pa.binary()}
_TOP = 5


class Vocabulary(NamedTuple):
    """A vocabulary's file, as a dataset names it: its hash, and what it lists.

    occurrences are those of all its values together; top are the first values and their counts.
    """

    file: str
    sha256: str
    size: int
    occurrences: int
    top: tuple[tuple[int | str, int], ...]


class Folder:
    """The folder that a fit writes to.

    Everything is written in a temporary folder inside it, and moved to its place once it is whole.
    """

    def __init__(self, path: Path, named: str, temporary: Path) -> None:
        self.temporary = temporary
        self._path = path
        self._named = named
        self._new: list[Path] = []

    def put_text(self, name: str, text: str) -> None:
        """Writes a file, in place of one that is there."""
        written = self.temporary / name
        written.write_text(text, encoding="utf-8")
        written.replace(self._path / name)

    def put_vocabulary(self, target: Target, batches: Iterator[pa.RecordBatch]) -> Vocabulary:
        """Writes the values of batches, and their counts, for a target.

        The file's name holds its hash: what an earlier fit has written stays as it is. Raises
        DatasetError if there is no value.
        """
        written = self.temporary / "vocabulary.parquet"
        kind = _TYPES[target.type.family]
        schema = pa.schema({VALUE: kind, "count": pa.int64()})
        size, occurrences = 0, 0
        top: list[tuple[int | str, int]] = []
        with pq.ParquetWriter(written, schema, compression="zstd") as writer:
            for batch in batches:
                values, counts = _as_written(batch.column(0), kind, target), batch.column(1)
                writer.write_batch(pa.record_batch([values, counts], schema=schema))
                size += len(batch)
                occurrences += pc.sum(counts).as_py()
                more = _TOP - len(top)
                first = zip(values[:more].to_pylist(), counts[:more].to_pylist(), strict=True)
                top += [(_readable(value), count) for value, count in first]
        if not size:
            raise DatasetError(
                "DATASET_INVALID",
                f"{target.title}: no value occurs {max(1, target.op.fit_vocabulary.min_count):,} "
                "times; lower min_count, or leave the operation out",
            )
        with written.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = re.sub(r"[^\w.-]+", "_", target.table or target.column, flags=re.ASCII)[:80]
        place = self._path / "vocabulary" / f"{name}-{sha256[:12]}.parquet"
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            self._new.append(place)
        written.replace(place)
        named = f"{self._named}/vocabulary/{place.name}"
        return Vocabulary(named, sha256, size, occurrences, tuple(top))

    def take_back(self) -> None:
        """Removes the vocabularies that were not there before."""
        for place in self._new:
            place.unlink(missing_ok=True)
        with_vocabularies = self._path / "vocabulary"
        if with_vocabularies.is_dir() and not any(with_vocabularies.iterdir()):
            with_vocabularies.rmdir()


@contextmanager
def writing_to(path: Path, root: Path) -> Iterator[Folder]:
    """The folder at a path; below the root datasets name its files relative to that, else whole.

    What was written is taken back where the block is left by an error, or by Ctrl-C.
    """
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    real, base = path.resolve(), root.resolve()
    named = str(real.relative_to(base)) if real.is_relative_to(base) else str(real)
    try:
        with tempfile.TemporaryDirectory(prefix=".fit-", dir=path) as temporary:
            folder = Folder(path, named.removeprefix("./"), Path(temporary))
            try:
                yield folder
            except BaseException:
                folder.take_back()
                raise
    except BaseException:
        if made and not any(path.iterdir()):
            path.rmdir()
        raise


def dataset_yaml(spec: dataset_pb2.DatasetSpec) -> str:
    """The dataset as YAML, with the field names of the .proto files."""
    value = json_format.MessageToDict(spec, preserving_proto_field_name=True)
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return (
        f"# Written by `preprocessor-server fit`; summary.json says what it is fitted to.\n{text}"
    )


def _as_written(values: pa.Array, kind: pa.DataType, target: Target) -> pa.Array:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(
            "VALUE_OUT_OF_RANGE",
            f"{target.title}: a string is not UTF-8 ({error}); write the column as binary",
        ) from error


def _readable(value: int | str | bytes) -> int | str:
    return value.hex() if isinstance(value, bytes) else value
