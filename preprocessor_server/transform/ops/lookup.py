"""Operations that look values up in what the dataset lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Mask, Scalars
from preprocessor_server.kernels import hash_integers
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.ops.ids import MAX_BUCKETS, hash_bytes, integers_only, of_bytes
from preprocessor_server.transform.ops.listed import Listed, list_integers, list_strings
from preprocessor_server.transform.place import Place

_INT64 = np.dtype(np.int64)
_SHA256 = re.compile("[0-9a-f]{64}")

Ids: TypeAlias = npt.NDArray[np.int64]


def _map_id(op: dataset_pb2.MapId, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    integers_only(column, "MapId")
    keys = list_integers(op.keys)
    # The last one is that of what is no key: it has the index -1.
    mapped = np.array([*op.values, op.default], np.int64)
    complete = op.HasField("default")

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        found = keys.find(values)
        return Flat(mapped[found], values.valid if complete else _known(found, values.valid))

    return on_values(run), column.of(_INT64)


def _vocabulary(op: dataset_pb2.Vocabulary, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if op.integers:
        return look_up(list_integers(op.integers), op, column)
    return look_up(list_strings([text.encode() for text in op.strings]), op, column)


def look_up(
    listed: Listed, op: dataset_pb2.Vocabulary, column: ColumnType
) -> tuple[ColumnOp, ColumnType]:
    """What a Vocabulary of listed values does to columns of a type, and what comes out.

    Raises UnfitError if it lists values of another kind than the column's.
    """
    if column.family not in {Family.INTEGER, *BYTES}:
        raise UnfitError(
            "Vocabulary takes integers, strings and binary; put a Cast to int64 before it"
        )
    integers = isinstance(listed.values, Flat)
    if integers != (column.family is Family.INTEGER):
        held, wanted = ("integers", "strings") if integers else ("strings", "integers")
        raise UnfitError(f"the Vocabulary lists {held}; list {wanted}")
    num_oov_buckets = op.num_oov_buckets
    count = len(listed)

    def ids(values: Flat | Bytes, buckets: Callable[[], Ids]) -> Flat:
        found = listed.find(values)
        if not num_oov_buckets:
            return Flat(found, _known(found, values.valid))
        unknown = found < 0
        if unknown.any():
            # A choice without a branch, which would be guessed wrong half of the time.
            found += (buckets() + (count + 1)) * unknown
        return Flat(found, values.valid)

    def of_strings(values: Bytes) -> Flat:
        return ids(values, lambda: hash_bytes(values, num_oov_buckets, 0).values)

    def run(values: Scalars, _: Place) -> Scalars:
        if not isinstance(values, Flat):
            return of_bytes(values, of_strings)
        return ids(values, lambda: hash_integers(values.values, num_oov_buckets, 0))

    return on_values(run), column.of(_INT64)


def _known(found: Ids, valid: Mask | None) -> Mask | None:
    """Which values were found and are not null; None for all."""
    known: Mask = found >= 0
    if known.all():
        return valid
    return known if valid is None else known & valid


def _check_map_id(op: dataset_pb2.MapId, path: str) -> None:
    keys, values = len(op.keys), len(op.values)
    if not keys:
        raise invalid(f"{path}.keys", "MapId has no key; give at least one")
    if keys != values:
        raise invalid(
            f"{path}.values", f"{values:,} values for {keys:,} keys; give one value a key"
        )
    _refuse_twice(op.keys, f"{path}.keys")


def _check_vocabulary(op: dataset_pb2.Vocabulary, path: str) -> None:
    given = [name for name in ("integers", "strings", "file") if getattr(op, name)]
    if not given:
        raise invalid(path, "Vocabulary has no value; give integers, strings, or a file of them")
    if len(given) > 1:
        raise invalid(path, f"Vocabulary has {' and '.join(given)}; give one of them")
    if op.file and not _SHA256.fullmatch(op.sha256):
        raise invalid(
            f"{path}.sha256",
            f"sha256 is {op.sha256!r}; give the 64 lower-case hexadecimal digits that "
            "`sha256sum` prints of the file",
        )
    if op.sha256 and not op.file:
        raise invalid(f"{path}.sha256", "sha256 is given without file; name the file")
    if op.num_oov_buckets > MAX_BUCKETS:
        raise invalid(
            f"{path}.num_oov_buckets",
            f"num_oov_buckets is {op.num_oov_buckets:,}; it is at most {MAX_BUCKETS:,} (2^32)",
        )
    _refuse_twice(op.integers, f"{path}.integers")
    _refuse_twice(op.strings, f"{path}.strings")


def _refuse_twice(listed: Sequence[int | str], path: str) -> None:
    if len(set(listed)) == len(listed):
        return
    first: dict[int | str, int] = {}
    for index, value in enumerate(listed):
        if value in first:
            raise invalid(
                f"{path}[{index}]",
                f"{value!r} stands at index {first[value]} already; leave one of the two out",
            )
        first[value] = index


RULES = {
    "map_id": Rule(_map_id, _check_map_id),
    "vocabulary": Rule(_vocabulary, _check_vocabulary),
}
