"""Derived columns bound to their inputs, and made of Frames."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa

from preprocessor_server.frame import Frame
from preprocessor_server.stage_clock import count_parts
from preprocessor_server.transform.derive.base import Compute
from preprocessor_server.transform.derive.levels import bring_together, with_column
from preprocessor_server.transform.place import Place


@dataclass(frozen=True, slots=True)
class DerivedColumn:
    """A column that is made of others: its name, what to call it in errors, and its Arrow type."""

    name: str
    place: str
    type: pa.DataType
    inputs: tuple[str, ...]
    compute: Compute


def needed(columns: Iterable[DerivedColumn], names: Collection[str]) -> tuple[DerivedColumn, ...]:
    """The derived columns that named columns need, directly or through others, in order."""
    wanted, found = set(names), []
    for column in reversed(tuple(columns)):
        if column.name in wanted:
            found.append(column)
            wanted |= set(column.inputs)
    return tuple(reversed(found))


def derive(columns: Iterable[DerivedColumn], frame: Frame) -> Frame:
    """The frame with derived columns, each made once per run where all its inputs are kept so.

    Raises DataError (LISTS_UNEVEN, VALUE_OUT_OF_RANGE) that names the derived column and a row.
    """
    took_ns: dict[str, int] = {}
    for column in columns:
        began_ns = time.perf_counter_ns()
        inputs, inverse = bring_together(frame, column.inputs)
        made = column.compute(inputs, Place(column.place, inverse))
        frame = with_column(frame, column.name, made, inverse)
        took_ns[f"{column.name} (derived)"] = time.perf_counter_ns() - began_ns
    count_parts("transform", took_ns)
    return frame
