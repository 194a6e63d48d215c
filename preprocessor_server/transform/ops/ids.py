"""Operations that make ids."""

from __future__ import annotations

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Opaque, Scalars
from preprocessor_server.kernels import hash_integers, hash_strings
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, as_bytes
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.place import Place

MAX_BUCKETS = 1 << 32


def _hash_bucket(op: dataset_pb2.HashBucket, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family not in {Family.INTEGER, Family.BOOLEAN, *BYTES}:
        raise UnfitError(
            "HashBucket takes integers, booleans, strings and binary; put a Cast to int64 before it"
        )
    num_buckets, seed = op.num_buckets, op.seed

    def run(values: Scalars, _: Place) -> Scalars:
        if not isinstance(values, Flat):
            return hash_bytes(values, num_buckets, seed)
        return Flat(hash_integers(values.values, num_buckets, seed), values.valid)

    return on_values(run), column.of(np.dtype(np.int64))


def hash_bytes(values: Scalars, num_buckets: int, seed: int, *, narrow: bool = False) -> Flat:
    """The buckets of strings or binary values, int64, or int32 if narrow, by hash_strings.

    Of a dictionary, each distinct value is hashed once.
    """
    if not isinstance(values, Opaque):
        values = as_bytes(values)
        buckets = hash_strings(values.offsets, values.data, num_buckets, seed, narrow=narrow)
        return Flat(buckets, values.valid)
    distinct, codes = arrow_to_column(values.array.dictionary), values.array.indices
    assert isinstance(distinct, Bytes)
    hashes = hash_strings(distinct.offsets, distinct.data, num_buckets, seed, narrow=narrow)
    places = arrow_to_column(codes)
    assert isinstance(places, Flat)
    if codes.null_count == len(codes):
        return Flat(np.zeros(len(codes), hashes.dtype), places.valid)
    # The code of a null may be anything.
    rows = codes.fill_null(0).to_numpy() if codes.null_count else places.values
    return Flat(np.take(hashes, rows.astype(np.int64, copy=False)), places.valid)


def _check_hash_bucket(op: dataset_pb2.HashBucket, path: str) -> None:
    if not 1 <= op.num_buckets <= MAX_BUCKETS:
        raise invalid(
            f"{path}.num_buckets",
            f"num_buckets is {op.num_buckets:,}; it lies between 1 and {MAX_BUCKETS:,} (2^32)",
        )


RULES = {"hash_bucket": Rule(_hash_bucket, _check_hash_bucket)}
