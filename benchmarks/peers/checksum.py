"""Whether two systems delivered the same rows, in whatever order and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.homefeed import RowBatch

# log1p may differ in the last two bits of a float32 (docs/decisions/011-log1p.md).
DENSE_TOLERANCE = 1e-6

Words = npt.NDArray[np.uint64]
_ODD = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)))


class Checksum:
    """Sums over all rows that are equal for equal rows: exact for ids, lengths and labels.

    Every id is mixed with its feature and its place in the list, these are added up to one word a
    row, and the mixed words of all rows are added up modulo 2^64. Dense values are added up by
    feature, once plainly and once weighted by the word of their row, which ties them to it. All
    batches have as many features as the first.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.values = 0
        self._ids = 0
        self._row_words = 0
        self._keys = 0
        self._dense = np.zeros((2, 0))

    def add(self, batch: RowBatch) -> None:
        """Adds the rows of a batch. Raises ValueError where a type or a shape is not as agreed."""
        dense, labels = np.asarray(batch.dense), np.asarray(batch.labels)
        values, lengths = np.asarray(batch.values), np.asarray(batch.lengths)
        count = len(dense)
        types = [str(array.dtype) for array in (dense, labels, values, lengths)]
        if types != ["float32", "float32", "int64", "int32"]:
            raise ValueError(f"dense, labels, values, lengths are {', '.join(types)}")
        if not self.rows:
            self._keys = len(lengths) // max(1, count)
            self._dense = np.zeros((2, *dense.shape[1:]))
        shapes = [dense.shape, labels.shape, lengths.shape, values.shape]
        agreed = (count, *self._dense.shape[1:])
        if shapes != [agreed, (count,), (self._keys * count,), (lengths.sum(),)]:
            raise ValueError(f"the shapes of dense, labels, lengths, values are {shapes}")
        words = _row_words(values, lengths, labels)
        self.rows += count
        self.values += len(values)
        self._ids += int(values.view(np.uint64).sum(dtype=np.uint64))
        self._row_words += int(_mixed(words).sum(dtype=np.uint64))
        wide = dense.astype(np.float64)
        self._dense[0] += wide.sum(axis=0)
        self._dense[1] += (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 @ wide

    def as_json(self) -> dict[str, Any]:
        """The sums, for a line of JSON."""
        return {
            "rows": self.rows,
            "values": self.values,
            "ids": self._ids % 2**64,
            "row_words": self._row_words % 2**64,
            "dense": self._dense[0].tolist(),
            "dense_of_rows": self._dense[1].tolist(),
        }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two checksums, in words; empty where the rows are equal."""
    found = [
        f"{name}: {ours[name]} and {theirs[name]}"
        for name in ("rows", "values", "ids", "row_words")
        if ours[name] != theirs[name]
    ]
    return found + [
        f"{name}: {ours[name]} and {theirs[name]}"
        for name in ("dense", "dense_of_rows")
        if not np.allclose(ours[name], theirs[name], rtol=DENSE_TOLERANCE, atol=0)
    ]


def _row_words(values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], labels: Any) -> Words:
    count = len(labels)
    keys = len(lengths) // max(1, count)
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    key = np.repeat(np.arange(keys, dtype=np.uint64), count)
    place = (np.arange(len(values)) - np.repeat(starts, lengths)).view(np.uint64)
    words = values.view(np.uint64) * _ODD[0] + place * _ODD[1] + np.repeat(key, lengths) * _ODD[2]
    # Modulo 2^64 a difference of prefix sums is the sum between, empty lists included.
    sums = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(words), dtype=np.uint64)])
    lists = sums[ends] - sums[starts] + _mixed(lengths.astype(np.uint64) + key * _ODD[2])
    label_bits = np.ascontiguousarray(labels).view(np.uint32).astype(np.uint64)
    total: Words = lists.reshape(keys, count).sum(axis=0, dtype=np.uint64)
    return _mixed(total + _mixed(label_bits))


def _mixed(words: Words) -> Words:
    """SplitMix64's finaliser."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
