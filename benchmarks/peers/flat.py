"""criteo and wide in vectorised numpy, for peers whose transformations are Python.

As in homefeed.py: dense columns to one feature-major float32 matrix, ids of all features to one
key-major jagged block. criteo's strings are hashed by the hash of docs/ops.md without becoming
Python objects: all have 8 bytes, so a column's bytes are an array of 64-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.peers.homefeed import DENSE, LABEL, PASS, RowBatch, filled, hash_in_place

CRITEO_KEYS = tuple(f"cat_{k}" for k in range(26))
CRITEO_BUCKET_BITS = 20
WIDE_BUCKET_BITS = 10

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_WORD_BYTES = 8

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Flat:
    """A workload with one row a Parquet row: the columns that are read, and what becomes of rows.

    Where a workload has no labels, those of a batch are zeros.
    """

    columns: tuple[str, ...]
    transform: Callable[[pa.RecordBatch], RowBatch]


def flat(name: str, columns: list[str]) -> Flat:
    """criteo, or wide with the given columns."""
    if name == "criteo":
        return Flat((*DENSE, *CRITEO_KEYS, LABEL), criteo)
    return Flat(tuple(columns), wide)


def criteo(rows: pa.RecordBatch) -> RowBatch:
    """Dense float32 [B, 13], labels, and the 26 keys: a list of one id, or of none for a null."""
    count = rows.num_rows
    dense = filled(rows, DENSE)
    np.log1p(dense, out=dense)
    lengths = np.empty((len(CRITEO_KEYS), count), np.int32)
    words = []
    for k, name in enumerate(CRITEO_KEYS):
        strings = rows.column(name)
        offsets = np.frombuffer(strings.buffers()[1], np.int32)[strings.offset :][: count + 1]
        np.floor_divide(np.diff(offsets), _WORD_BYTES, out=lengths[k])
        data = np.frombuffer(strings.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        words.append(data.view(np.uint64))
    values = np.concatenate(words)
    if len(values) != lengths.sum() or lengths.max(initial=0) > 1:
        raise ValueError(f"criteo's strings have {_WORD_BYTES} bytes each")
    hash_words(values)
    labels = rows.column(LABEL).to_numpy().astype(np.float32)
    return RowBatch(dense.T, labels, values.view(np.int64), lengths.ravel())


def hash_words(words: Words) -> None:
    """Every 8 bytes become their bucket: XXH64 with seed 0, its CRITEO_BUCKET_BITS high bits."""
    scratch = np.empty(min(PASS, len(words)), np.uint64)
    for start in range(0, len(words), PASS):
        h = words[start : start + PASS]
        shifted = scratch[: len(h)]
        h *= _PRIME_2
        _rotate(h, 31, shifted)
        h *= _PRIME_1
        h ^= _PRIME_5 + np.uint64(_WORD_BYTES)
        _rotate(h, 27, shifted)
        h *= _PRIME_1
        h += _PRIME_4
        for shift, factor in ((33, _PRIME_2), (29, _PRIME_3)):
            np.right_shift(h, np.uint64(shift), out=shifted)
            h ^= shifted
            h *= factor
        # XXH64's last step changes the low half only.
        h >>= np.uint64(64 - CRITEO_BUCKET_BITS)


def _rotate(words: Words, bits: int, scratch: Words) -> None:
    np.left_shift(words, np.uint64(bits), out=scratch)
    words >>= np.uint64(64 - bits)
    words |= scratch


def wide(rows: pa.RecordBatch) -> RowBatch:
    """Dense float32 [B, D] of floating-point columns, and a list of one id for each integer."""
    count = rows.num_rows
    names = rows.schema.names
    keys = [name for name in names if pa.types.is_integer(rows.schema.field(name).type)]
    dense = filled(rows, [name for name in names if name not in set(keys)])
    values = np.empty(len(keys) * count, np.int64)
    for k, name in enumerate(keys):
        values[k * count : (k + 1) * count] = rows.column(name).to_numpy()
    hash_in_place(values, WIDE_BUCKET_BITS)
    return RowBatch(
        dense.T, np.zeros(count, np.float32), values, np.ones(len(keys) * count, np.int32)
    )
