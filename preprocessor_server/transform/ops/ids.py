"""Operations that make ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Opaque, Scalars
from preprocessor_server.kernels import hash_integers, hash_strings, look_up
from preprocessor_server.transform.column_type import BYTES, ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, as_bytes
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.place import Place

MAX_BUCKETS = 1 << 32
MAX_DIVISOR = (1 << 63) - 1


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

    def buckets(strings: Bytes) -> Flat:
        hashes = hash_strings(strings.offsets, strings.data, num_buckets, seed, narrow=narrow)
        return Flat(hashes, strings.valid)

    return of_bytes(values, buckets)


def of_bytes(values: Scalars, make: Callable[[Bytes], Flat]) -> Flat:
    """What is made of strings or binary values, each for itself; of a dictionary, of each once.

    Of one that has more values than there are rows, as a part's may, each row for itself.
    """
    if not isinstance(values, Opaque) or len(values.array.dictionary) > len(values.array):
        return make(as_bytes(values))
    distinct, codes = arrow_to_column(values.array.dictionary), values.array.indices
    assert isinstance(distinct, Bytes)
    made = make(distinct)
    places = arrow_to_column(codes)
    assert isinstance(places, Flat)
    valid = places.valid
    found = look_up(made.values, places.values, valid)
    if made.valid is not None:
        valid = look_up(made.valid, places.values, valid)
    return Flat(found, valid)


def integers_only(column: ColumnType, name: str) -> None:
    """Raises UnfitError for a column of anything but integers."""
    if column.family is not Family.INTEGER:
        raise UnfitError(f"{name} takes integers; put a Cast to int64 or a HashBucket before it")


def _positive_modulus(
    op: dataset_pb2.PositiveModulus, column: ColumnType
) -> tuple[ColumnOp, ColumnType]:
    integers_only(column, "PositiveModulus")
    unsigned = column.dtype == np.uint64
    divisor = np.uint64(op.divisor) if unsigned else np.int64(op.divisor)

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        # numpy's remainder has the sign of the divisor.
        remainders = values.values.astype(divisor.dtype, copy=False) % divisor
        return Flat(remainders.astype(np.int64, copy=False), values.valid)

    return on_values(run), column.of(np.dtype(np.int64))


def _check_hash_bucket(op: dataset_pb2.HashBucket, path: str) -> None:
    if not 1 <= op.num_buckets <= MAX_BUCKETS:
        raise invalid(
            f"{path}.num_buckets",
            f"num_buckets is {op.num_buckets:,}; it lies between 1 and {MAX_BUCKETS:,} (2^32)",
        )


def _check_positive_modulus(op: dataset_pb2.PositiveModulus, path: str) -> None:
    if not 1 <= op.divisor <= MAX_DIVISOR:
        raise invalid(
            f"{path}.divisor",
            f"divisor is {op.divisor:,}; it lies between 1 and {MAX_DIVISOR:,} (2^63 - 1)",
        )


RULES = {
    "hash_bucket": Rule(_hash_bucket, _check_hash_bucket),
    "positive_modulus": Rule(_positive_modulus, _check_positive_modulus),
}
