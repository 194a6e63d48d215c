"""A position in a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from headrace.v1 import batch_pb2


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position between two rows of a shard; it means the same on every server.

    split is the index of the first split of the shuffle window that the position lies in,
    parquet_row the number of that window's Parquet rows before it, offset the rows of the next
    Parquet row before it, batch the batches of the shard before it.
    """

    split: int = 0
    parquet_row: int = 0
    offset: int = 0
    batch: int = 0

    def __reduce__(self) -> tuple[type[Cursor], tuple[int, ...]]:
        # A slotted dataclass's own way takes several times as long.
        return Cursor, (self.split, self.parquet_row, self.offset, self.batch)

    def to_proto(self) -> batch_pb2.Cursor:
        """The message of this position."""
        return batch_pb2.Cursor(
            split=self.split, parquet_row=self.parquet_row, offset=self.offset, batch=self.batch
        )

    @classmethod
    def from_proto(cls, message: batch_pb2.Cursor) -> Cursor:
        """The position of a message."""
        return cls(message.split, message.parquet_row, message.offset, message.batch)

    def to_json(self) -> list[int]:
        """[split, parquet_row, offset, batch]."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, value: Sequence[int]) -> Cursor:
        """The position that to_json wrote. Raises ValueError if it is none."""
        if len(value) != 4 or not all(type(part) is int and part >= 0 for part in value):
            raise ValueError(f"{value!r} is no cursor: four integers from 0 are expected")
        return cls(*value)
