"""Operations that look values up in what the dataset lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc, check_range

_SHA256 = re.compile("[0-9a-f]{64}")
_LOW, _HIGH = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True, init=False)
class MapId(Op):
    """Replaces integers by others: mapping[x], or default; None makes what is not mapped null.

    pairs is the mapping, by key.
    """

    proto_field: ClassVar[str] = "map_id"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`MapId(mapping, default)`",
        takes="integers",
        gives="int64",
        null="stays",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="what is not mapped becomes the default, null without one",
    )
    pairs: tuple[tuple[int, int], ...]
    default: int | None

    def __init__(self, mapping: Mapping[int, int], default: int | None = None) -> None:
        if not isinstance(mapping, Mapping) or not mapping:
            raise InvalidDatasetError(
                f"MapId mapping is {mapping!r}: it must be a mapping of integers to integers that "
                "is not empty"
            )
        for key, value in mapping.items():
            check_range("MapId key", key, _LOW, _HIGH)
            check_range(f"MapId mapping[{key}]", value, _LOW, _HIGH)
        if default is not None:
            check_range("MapId default", default, _LOW, _HIGH)
        object.__setattr__(self, "pairs", tuple(sorted(mapping.items())))
        object.__setattr__(self, "default", default)

    def _message(self) -> dataset_pb2.MapId:
        return dataset_pb2.MapId(
            keys=[key for key, _ in self.pairs],
            values=[value for _, value in self.pairs],
            default=self.default,
        )

    @classmethod
    def of_message(cls, message: dataset_pb2.MapId) -> Self:
        """The operation of its message. Raises InvalidDatasetError if it is no mapping."""
        keys, values = len(message.keys), len(message.values)
        if keys != values:
            raise InvalidDatasetError(
                f"map_id has {keys:,} keys and {values:,} values: give one value a key"
            )
        mapping = dict(zip(message.keys, message.values, strict=True))
        if len(mapping) < keys:
            raise InvalidDatasetError(f"map_id keys: {_twice(message.keys)} is given twice")
        return cls(mapping, message.default if message.HasField("default") else None)


@dataclass(frozen=True, slots=True, init=False)
class Vocabulary(Op):
    """Gives each value its position in values, all int or all str, or in a file that lists them.

    Others hash to num_oov_buckets ids behind the last position; without buckets they become null.
    file is a Parquet file with the column "value", as servers see its path, and sha256 the
    hexadecimal SHA-256 of its bytes; preprocessor-server fit writes both.
    """

    proto_field: ClassVar[str] = "vocabulary"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Vocabulary(values, n)`, `Vocabulary(num_oov_buckets=n, file=, sha256=)`",
        takes="integers; strings, binary",
        gives="int64: the position in the values",
        null="stays",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="what is not listed becomes the number of values + its HashBucket(n), "
        "null if n is 0",
    )
    values: tuple[int, ...] | tuple[str, ...]
    num_oov_buckets: int
    file: str
    sha256: str

    def __init__(
        self,
        values: Iterable[int] | Iterable[str] = (),
        num_oov_buckets: int = 0,
        *,
        file: str = "",
        sha256: str = "",
    ) -> None:
        listed = _listed(values)
        if file:
            _check_file(file, sha256, listed)
        elif sha256:
            raise InvalidDatasetError("Vocabulary sha256 is given without file: name the file")
        elif not listed:
            raise InvalidDatasetError(
                "Vocabulary values is empty: give at least one, or a file that lists them"
            )
        check_range("Vocabulary num_oov_buckets", num_oov_buckets, 0, 1 << 32)
        object.__setattr__(self, "values", listed)
        object.__setattr__(self, "num_oov_buckets", num_oov_buckets)
        object.__setattr__(self, "file", file)
        object.__setattr__(self, "sha256", sha256)

    def _message(self) -> dataset_pb2.Vocabulary:
        listed: dict[str, Any] = {"file": self.file, "sha256": self.sha256}
        if self.values:
            kind = "strings" if isinstance(self.values[0], str) else "integers"
            listed = {kind: self.values}
        return dataset_pb2.Vocabulary(**listed, num_oov_buckets=self.num_oov_buckets)

    @classmethod
    def of_message(cls, message: dataset_pb2.Vocabulary) -> Self:
        """The operation of its message. Raises InvalidDatasetError for both kinds or none."""
        if message.integers and message.strings:
            raise InvalidDatasetError("vocabulary has integers and strings: give one of them")
        values = message.integers or message.strings
        return cls(values, message.num_oov_buckets, file=message.file, sha256=message.sha256)


def _listed(values: Iterable[int] | Iterable[str]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidDatasetError(
            f"Vocabulary values is {values!r}: it must be a list of integers or of strings"
        )
    listed: tuple[Any, ...] = tuple(values)
    check = _check_text if listed and isinstance(listed[0], str) else _check_integer
    for i, value in enumerate(listed):
        check(f"Vocabulary values[{i}]", value)
    if len(set(listed)) < len(listed):
        raise InvalidDatasetError(f"Vocabulary values: {_twice(listed)!r} is given twice")
    return listed


def _check_file(file: object, sha256: object, listed: tuple[Any, ...]) -> None:
    if listed:
        raise InvalidDatasetError("Vocabulary has values and a file: give one of them")
    if not isinstance(file, str):
        raise InvalidDatasetError(f"Vocabulary file is {file!r}: it must be a path, as a str")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise InvalidDatasetError(
            f"Vocabulary sha256 is {sha256!r}: it must be the 64 lower-case hexadecimal digits "
            f"that `sha256sum {file}` prints"
        )


def _check_integer(what: str, value: object) -> None:
    if type(value) is not int:
        raise InvalidDatasetError(f"{what} is {value!r}: all must be int, or all str")
    check_range(what, value, _LOW, _HIGH)


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidDatasetError(f"{what} is {value!r}: all must be int, or all str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidDatasetError(f"{what} is {value!r}: no UTF-8 can be made of it") from error


def _twice(values: Iterable[int | str]) -> int | str | None:
    """The first value that stands twice."""
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
