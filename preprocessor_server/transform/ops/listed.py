"""Values that a dataset lists, so that those of a column can be found among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.frame import Bytes, Flat, Indices
from preprocessor_server.kernels import (
    find_strings,
    find_words,
    hash_integers,
    hash_strings,
    make_table,
)
from preprocessor_server.transform.from_arrow import arrow_to_column

_HASHES = 1 << 32
_MAX_INT64 = np.uint64((1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Listed:
    """Integers (Flat of int64) or byte strings, none twice and none null, and where to find them.

    The table is built once, whatever number of columns and splits are looked up in it.
    """

    values: Flat | Bytes
    hashes: Indices
    table: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """What it takes up in memory, in bytes."""
        values = self.values
        arrays = (values.values,) if isinstance(values, Flat) else (values.offsets, values.data)
        held = sum(each.nbytes for each in arrays)
        return int(held + self.hashes.nbytes + self.table.nbytes)

    def find(self, values: Flat | Bytes) -> Indices:
        """The index of each value, int64 [n], -1 for one that is not listed; of a null any."""
        if isinstance(values, Flat):
            assert isinstance(self.values, Flat)
            listed, words = self.values.values.view(np.uint64), _words(values.values)
            found = find_words(_hash_numbers(words), words, self.table, listed)
            if values.values.dtype == np.uint64:
                # As int64 they would be numbers below 0.
                found[values.values > _MAX_INT64] = -1
            return found
        assert isinstance(self.values, Bytes)
        return find_strings(
            hash_strings(values.offsets, values.data, _HASHES, 0),
            values.offsets,
            values.data,
            self.table,
            self.hashes,
            self.values.offsets,
            self.values.data,
        )


# A vocabulary's values by path, SHA-256 and the field that names them.
ReadListed: TypeAlias = Callable[[str, str, str], Listed]


def list_integers(values: Sequence[int] | pa.Array) -> Listed:
    """Listed integers, each in the range of int64 and none twice."""
    numbers = np.asarray(values, np.int64)
    hashes = _hash_numbers(numbers.view(np.uint64))
    return Listed(Flat(numbers), hashes, make_table(hashes))


def list_strings(values: Sequence[bytes] | pa.Array) -> Listed:
    """Listed byte strings, none twice; of an Arrow array of strings or binary their bytes."""
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.large_binary())
    strings = arrow_to_column(array)
    assert isinstance(strings, Bytes)
    hashes = hash_strings(strings.offsets, strings.data, _HASHES, 0).astype(np.int64, copy=False)
    return Listed(strings, hashes, make_table(hashes))


def read_no_file(path: str, sha256: str, field: str) -> Listed:
    """For who binds datasets without files: there is no one to read one."""
    raise AssertionError(f"{field}: nobody reads {path!r} ({sha256})")


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Integers as 64-bit two's complement."""
    wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64, copy=False)
    return np.ascontiguousarray(wide).view(np.uint64)


def _hash_numbers(words: npt.NDArray[np.uint64]) -> Indices:
    return hash_integers(words, _HASHES, 0)
