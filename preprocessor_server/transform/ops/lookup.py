"""Operations that look values up in what the dataset lists.

pyarrow builds a hash table of what is listed at every call: 4 ms of 100,000 strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Mask, Scalars
from preprocessor_server.kernels import hash_integers
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, bytes_to_arrow
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.ops.ids import MAX_BUCKETS, hash_bytes, integers_only, of_bytes
from preprocessor_server.transform.place import Place

_INT64 = np.dtype(np.int64)
_MAX_INT64 = np.uint64((1 << 63) - 1)

Ids: TypeAlias = npt.NDArray[np.int64]


def _map_id(op: dataset_pb2.MapId, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    integers_only(column, "MapId")
    keys = pa.array(op.keys, pa.int64())
    # The last one is that of what is no key.
    mapped = np.array([*op.values, op.default], np.int64)
    complete = op.HasField("default")

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        found, known = _find_integers(values.values, keys)
        ids = np.take(mapped, _where(known, found, len(keys)))
        return Flat(ids, values.valid if complete else _both(known, values.valid))

    return on_values(run), column.of(_INT64)


def _vocabulary(op: dataset_pb2.Vocabulary, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family not in {Family.INTEGER, *BYTES}:
        raise UnfitError(
            "Vocabulary takes integers, strings and binary; put a Cast to int64 before it"
        )
    if bool(op.integers) != (column.family is Family.INTEGER):
        held, wanted = ("integers", "strings") if op.integers else ("strings", "integers")
        raise UnfitError(f"the Vocabulary lists {held}; list {wanted}")
    num_oov_buckets = op.num_oov_buckets
    count = len(op.integers) + len(op.strings)
    integers = pa.array(op.integers, pa.int64())
    strings = pa.array([text.encode() for text in op.strings], pa.large_binary())

    def ids(
        found: Ids, known: Mask | None, values: Flat | Bytes, buckets: Callable[[], Ids]
    ) -> Flat:
        if num_oov_buckets and known is not None:
            return Flat(_where(known, found, buckets() + count), values.valid)
        return Flat(found, _both(known, values.valid))

    def of_integers(values: Flat) -> Flat:
        return ids(
            *_find_integers(values.values, integers),
            values,
            lambda: hash_integers(values.values, num_oov_buckets, 0),
        )

    def of_strings(values: Bytes) -> Flat:
        return ids(
            *_find(bytes_to_arrow(values), strings),
            values,
            lambda: hash_bytes(values, num_oov_buckets, 0).values,
        )

    def run(values: Scalars, _: Place) -> Scalars:
        return of_integers(values) if isinstance(values, Flat) else of_bytes(values, of_strings)

    return on_values(run), column.of(_INT64)


def _find_integers(values: npt.NDArray[Any], listed: pa.Array) -> tuple[Ids, Mask | None]:
    """The index of each integer in what is listed, and which of them are in it; None for all."""
    found, known = _find(pa.array(values.astype(_INT64, copy=False)), listed)
    if values.dtype == np.uint64:
        # As int64 the others would be numbers below 0.
        known = _both(known, values <= _MAX_INT64)
    return found, known


def _find(values: pa.Array, listed: pa.Array) -> tuple[Ids, Mask | None]:
    """The index of each value in what is listed, and which of them are in it; None for all."""
    found = arrow_to_column(pc.index_in(values, listed))
    assert isinstance(found, Flat)
    return found.values.astype(np.int64), found.valid


def _where(known: Mask | None, found: Ids, other: Ids | int) -> Ids:
    """What was found where that is known, else the other: np.where, which guesses at branches."""
    if known is None:
        return found
    ids: Ids = (found - other) * known
    ids += other
    return ids


def _both(a: Mask | None, b: Mask | None) -> Mask | None:
    if a is None or b is None:
        return b if a is None else a
    both: Mask = a & b
    return both


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
    if bool(op.integers) == bool(op.strings):
        given = "integers and strings; give one of them" if op.integers else "no value; give some"
        raise invalid(path, f"Vocabulary has {given}")
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
