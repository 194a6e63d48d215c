"""Several columns hashed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.kernels import first_state, fold_words
from preprocessor_server.transform.column_type import BYTES, Family
from preprocessor_server.transform.derive.aligned import align, rejoin
from preprocessor_server.transform.derive.base import (
    Compute,
    Input,
    Rule,
    UnfitInputError,
    list_of,
)
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.ids import MAX_BUCKETS
from preprocessor_server.transform.ops.words import hash_words
from preprocessor_server.transform.place import Place

MAX_COLUMNS = 64
_HASHED = frozenset({Family.INTEGER, Family.BOOLEAN, Family.NULL, *BYTES})
_32 = np.uint64(32)


def _inputs(message: dataset_pb2.Cross) -> list[tuple[str, str]]:
    return [(name, f"columns[{index}]") for index, name in enumerate(message.columns)]


def _compile(message: dataset_pb2.Cross, inputs: Sequence[Input]) -> tuple[Compute, pa.DataType]:
    for column in inputs:
        if column.type.family not in _HASHED:
            raise UnfitInputError(
                column,
                "Cross takes integers, booleans, strings and binary; write the column as one, or "
                "leave it out",
            )
    names = [column.name for column in inputs]
    num_buckets, seed = np.uint64(message.num_buckets), message.seed

    def run(columns: Sequence[Column], place: Place) -> Column:
        # Single values are hashed before they are put beside elements.
        offsets, words = align([_words(column, seed) for column in columns], names, place)
        states, valid = np.full(len(words[0]), first_state(seed)), None
        for each in words:
            assert isinstance(each, Flat)
            states = fold_words(states, each.values)
            if each.valid is not None:
                valid = each.valid if valid is None else valid & each.valid
        buckets = ((states >> _32) * num_buckets) >> _32
        return rejoin(offsets, Flat(buckets.view(np.int64), valid))

    is_list = any(column.type.is_list for column in inputs)
    return run, list_of(pa.int64(), is_list=is_list)


def _words(column: Column, seed: int) -> Column:
    if isinstance(column, Jagged):
        return Jagged(column.offsets, hash_words(column.values, seed))
    return hash_words(column, seed)


def _check(message: dataset_pb2.Cross, path: str) -> Iterator[DatasetError]:
    if not 2 <= len(message.columns) <= MAX_COLUMNS:
        yield invalid(
            f"{path}.columns",
            f"Cross has {len(message.columns)} columns; give from 2 to {MAX_COLUMNS} (of one, "
            "HashBucket makes ids)",
        )
    for index, name in enumerate(message.columns):
        if not name:
            yield invalid(f"{path}.columns[{index}]", "an empty column; name it, or leave it out")
    if not 1 <= message.num_buckets <= MAX_BUCKETS:
        yield invalid(
            f"{path}.num_buckets",
            f"num_buckets is {message.num_buckets:,}; it lies between 1 and {MAX_BUCKETS:,} (2^32)",
        )


RULES = {"cross": Rule(_inputs, _compile, _check)}
