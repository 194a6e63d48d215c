"""Operations that are done in one pass where they stand together; the values are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Indices, Jagged, Mask, Scalars
from preprocessor_server.kernels import (
    MAX_NARROW_BUCKETS,
    copy_tails,
    hash_ends,
    tail,
)
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.ops.base import ColumnOp
from preprocessor_server.transform.ops.ids import hash_bytes
from preprocessor_server.transform.place import Place


def fuse_ids(
    ops: Sequence[dataset_pb2.Op], columns: Sequence[ColumnType], steps: Sequence[ColumnOp]
) -> list[ColumnOp]:
    """The steps of a sparse feature, with the HashBucket that ends them writing int32 ids.

    A Tail right before it is done in the same pass. columns[i] is the type that ops[i], which
    steps[i] does, is given.
    """
    if not ops or ops[-1].WhichOneof("op") != "hash_bucket":
        return list(steps)
    hashed = ops[-1].hash_bucket
    if hashed.num_buckets > MAX_NARROW_BUCKETS:
        return list(steps)
    if columns[-1].family in BYTES:
        return [*steps[:-1], _hash_bytes(hashed)]
    assert columns[-1].family in {Family.INTEGER, Family.BOOLEAN}
    if len(ops) > 1 and ops[-2].WhichOneof("op") == "tail":
        return [*steps[:-2], _hash_numbers(hashed, ops[-2].tail.count)]
    return [*steps[:-1], _hash_numbers(hashed, None)]


def _hash_numbers(hashed: dataset_pb2.HashBucket, count: int | None) -> ColumnOp:
    def run(column: Column, _: Place) -> Column:
        if isinstance(column, Flat):
            every = np.array([0, len(column)])
            return Flat(_hash(column, every, every), column.valid)
        assert isinstance(column, Jagged)
        elements = column.values
        assert isinstance(elements, Flat)
        ends = column.offsets if count is None else tail(column.offsets, count)
        ids = _hash(elements, column.offsets, ends)
        return Jagged(ends, Flat(ids, _ends_of_mask(elements.valid, column.offsets, ends)))

    def _hash(values: Flat, offsets: Indices, ends: Indices) -> npt.NDArray[np.int32]:
        return hash_ends(values.values, offsets, ends, hashed.num_buckets, hashed.seed)

    return run


def _ends_of_mask(valid: Mask | None, offsets: Indices, ends: Indices) -> Mask | None:
    return None if valid is None else copy_tails(offsets, valid, ends).view(np.bool_)


def _hash_bytes(hashed: dataset_pb2.HashBucket) -> ColumnOp:
    def ids(values: Scalars) -> Flat:
        return hash_bytes(values, hashed.num_buckets, hashed.seed, narrow=True)

    def run(column: Column, _: Place) -> Column:
        if isinstance(column, Jagged):
            return Jagged(column.offsets, ids(column.values))
        return ids(column)

    return run
