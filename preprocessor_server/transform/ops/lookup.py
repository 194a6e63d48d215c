"""Operations that look values up in what the dataset lists.

pyarrow builds a hash table of what is listed at every call: 4 ms of 100,000 strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Scalars
from preprocessor_server.kernels import hash_integers
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.from_arrow import bytes_to_arrow
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.ops.ids import MAX_BUCKETS, hash_bytes, integers_only, of_bytes
from preprocessor_server.transform.place import Place

_INT64 = np.dtype(np.int64)
_MAX_INT64 = np.uint64((1 << 63) - 1)
_NONE = -1


def _map_id(op: dataset_pb2.MapId, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    integers_only(column, "MapId")
    keys = pa.array(op.keys, pa.int64())
    # The last one is what _NONE leads to.
    mapped = np.array([*op.values, op.default], np.int64)
    complete = op.HasField("default")

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        found = _find_integers(values.values, keys)
        return _known(np.take(mapped, found), values, None if complete else found)

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
    integers = pa.array(op.integers, pa.int64())
    strings = pa.array([text.encode() for text in op.strings], pa.large_binary())

    def of_integers(values: Scalars) -> Flat:
        assert isinstance(values, Flat)
        found = _find_integers(values.values, integers)
        if not num_oov_buckets:
            return _known(found, values, found)
        buckets = hash_integers(values.values, num_oov_buckets, 0)
        return Flat(np.where(found == _NONE, buckets + len(integers), found), values.valid)

    def of_strings(values: Bytes) -> Flat:
        found = _indices(pc.index_in(bytes_to_arrow(values), strings))
        if not num_oov_buckets:
            return _known(found, values, found)
        buckets = hash_bytes(values, num_oov_buckets, 0).values
        return Flat(np.where(found == _NONE, buckets + len(strings), found), values.valid)

    def run(values: Scalars, _: Place) -> Scalars:
        return of_integers(values) if op.integers else of_bytes(values, of_strings)

    return on_values(run), column.of(_INT64)


def _find_integers(values: npt.NDArray[Any], listed: pa.Array) -> npt.NDArray[np.int64]:
    """The index of each integer in what is listed, _NONE of others."""
    found = _indices(pc.index_in(pa.array(values.astype(_INT64, copy=False)), listed))
    if values.dtype == np.uint64:
        # As int64 they would be numbers below 0.
        found = np.where(values > _MAX_INT64, _NONE, found)
    return found


def _indices(found: pa.Array) -> npt.NDArray[np.int64]:
    indices: npt.NDArray[np.int64] = found.fill_null(_NONE).to_numpy().astype(np.int64)
    return indices


def _known(
    ids: npt.NDArray[np.int64], values: Flat | Bytes, found: npt.NDArray[np.int64] | None
) -> Flat:
    """The ids of values, null where those are, or where nothing was found."""
    if found is None:
        return Flat(ids, values.valid)
    known = found != _NONE
    if values.valid is not None:
        known &= values.valid
    return Flat(ids, None if known.all() else known)


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
                f"{value!r} stands at {first[value]} already; leave one of the two out",
            )
        first[value] = index


RULES = {
    "map_id": Rule(_map_id, _check_map_id),
    "vocabulary": Rule(_vocabulary, _check_vocabulary),
}
