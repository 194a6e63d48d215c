"""Operations on lists."""

from __future__ import annotations

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Indices, Jagged, Scalars, take_column
from preprocessor_server.kernels import copy_tails, tail
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError
from preprocessor_server.transform.place import Place

MAX_TAIL = (1 << 31) - 1


def _tail(op: dataset_pb2.Tail, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if not column.is_list:
        raise UnfitError("Tail takes lists; leave it out")
    count = op.count

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        offsets = tail(values.offsets, count)
        if offsets[-1] == values.offsets[-1]:
            return values
        return Jagged(offsets, _tails(values, offsets))

    return run, column


def _tails(lists: Jagged, offsets: Indices) -> Scalars:
    values = lists.values
    if isinstance(values, Flat):
        valid = values.valid
        return Flat(
            copy_tails(lists.offsets, values.values, offsets),
            None if valid is None else copy_tails(lists.offsets, valid, offsets).view(np.bool_),
        )
    kept = np.diff(offsets)
    elements = np.arange(offsets[-1]) + np.repeat(lists.offsets[1:] - offsets[1:], kept)
    taken = take_column(values, elements)
    assert not isinstance(taken, Jagged)
    return taken


def _check_tail(op: dataset_pb2.Tail, path: str) -> None:
    if not 1 <= op.count <= MAX_TAIL:
        raise invalid(
            f"{path}.count",
            f"count is {op.count:,}; it lies between 1 and {MAX_TAIL:,} (2^31 - 1)",
        )


RULES = {"tail": Rule(_tail, _check_tail)}
