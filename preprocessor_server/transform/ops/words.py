"""Values as 64-bit words: to tell them apart, to order them, and to hash them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.frame import Bytes, Flat, Scalars
from preprocessor_server.transform.column_type import BYTES, ColumnType
from preprocessor_server.transform.from_arrow import bytes_to_arrow
from preprocessor_server.transform.ops.base import CAST_FIRST, UnfitError
from preprocessor_server.transform.ops.ids import MAX_BUCKETS, hash_bytes, of_bytes
from preprocessor_server.transform.ops.lists import take_lists_only

Words: TypeAlias = npt.NDArray[np.uint64]

_SIGN = np.uint64(1 << 63)
# Of signalling NaN numpy would warn.
_quiet = np.errstate(invalid="ignore")


def lists_of_words_only(column: ColumnType, name: str) -> None:
    """Raises UnfitError for a column of anything but lists of what has words."""
    take_lists_only(column, name)
    if column.dtype is None and column.family not in BYTES:
        raise UnfitError(
            f"{name} takes lists of numbers, booleans, strings and binary; {CAST_FIRST}"
        )


@_quiet
def hash_words(values: Scalars, seed: int) -> Flat:
    """What stands for the values in a hash, uint64: see NGram and Sample in dataset.proto."""
    if not isinstance(values, Flat):
        hashes = hash_bytes(values, MAX_BUCKETS, seed)
        return Flat(hashes.values.view(np.uint64), hashes.valid)
    return Flat(_bits(values.values), values.valid)


@_quiet
def equal_words(values: Scalars) -> Flat:
    """Words uint64 that are equal where values are: all NaN are, and -0.0 and 0.0."""
    if not isinstance(values, Flat):
        return of_bytes(values, _codes)
    numbers = values.values
    if numbers.dtype.kind == "f":
        numbers = numbers + numbers.dtype.type(0)
    return Flat(_bits(numbers), values.valid)


@_quiet
def ordered_words(values: Scalars, *, descending: bool) -> Flat:
    """Words uint64 in the order of the values, with NaN behind all others; see Sort.

    Those of values of up to 32 bits are less than 2^32 apart.
    """
    if not isinstance(values, Flat):
        ranks = of_bytes(values, _ranks)
        return Flat(~ranks.values if descending else ranks.values, ranks.valid)
    numbers = values.values
    if numbers.dtype.kind == "f":
        return Flat(_ordered_floats(numbers, descending), values.valid)
    words = _bits(numbers)
    if numbers.dtype.kind == "i":
        words = words ^ _SIGN
    return Flat(~words if descending else words, values.valid)


def _bits(numbers: npt.NDArray[Any]) -> Words:
    """Integers and booleans as 64-bit two's complement, floats as binary64 with one NaN."""
    if numbers.dtype.kind == "f":
        wide = numbers.astype(np.float64)
        wide[np.isnan(wide)] = np.nan
    else:
        wide = numbers.astype(np.int64 if numbers.dtype.kind == "i" else np.uint64, copy=False)
    return np.ascontiguousarray(wide).view(np.uint64)


def _ordered_floats(numbers: npt.NDArray[Any], descending: bool) -> Words:
    # Of IEEE 754: the bits of positive numbers are in their order, those of negative ones in the
    # opposite one. -0.0 becomes 0.0.
    wide = numbers.astype(np.float64 if numbers.dtype.itemsize == 8 else np.float32) + 0
    word = np.dtype(f"u{wide.itemsize}").type
    bits = wide.view(word)
    sign = word(1 << (8 * wide.itemsize - 1))
    ordered = np.where(bits & sign, ~bits, bits | sign)
    if descending:
        ordered = ~ordered
    # No other number has this word.
    ordered[np.isnan(wide)] = np.iinfo(word).max
    words: Words = ordered.astype(np.uint64, copy=False)
    return words


def _encoded(values: Bytes) -> tuple[Words, pa.Array]:
    """The place of each value, 0 for null, among the distinct ones."""
    encoded = bytes_to_arrow(values).dictionary_encode()
    codes = encoded.indices.fill_null(0) if encoded.indices.null_count else encoded.indices
    return codes.to_numpy().astype(np.uint64), encoded.dictionary


def _codes(values: Bytes) -> Flat:
    return Flat(_encoded(values)[0], values.valid)


def _ranks(values: Bytes) -> Flat:
    codes, distinct = _encoded(values)
    if len(distinct) == 0:
        return Flat(codes, values.valid)
    order = pc.array_sort_indices(distinct).to_numpy()
    ranks = np.empty(len(order), np.uint64)
    ranks[order] = np.arange(len(order), dtype=np.uint64)
    return Flat(ranks[codes.astype(np.int64)], values.valid)
