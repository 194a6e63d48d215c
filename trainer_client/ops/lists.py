"""Operations on lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.ops.base import Op, OpDoc, check_range


@dataclass(frozen=True, slots=True)
class Tail(Op):
    """Keeps the last count elements of each list."""

    proto_field: ClassVar[str] = "tail"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Tail(k)`",
        takes="lists of anything",
        gives="the same type",
        null="kept or cut like any element",
        nan="as an element",
        inf="as elements",
        negative_zero="as an element",
        empty_list="stays empty",
        out_of_range="shorter lists stay whole",
    )
    count: int

    def __post_init__(self) -> None:
        check_range("Tail count", self.count, 1, (1 << 31) - 1)

    def _message(self) -> dataset_pb2.Tail:
        return dataset_pb2.Tail(count=self.count)

    @classmethod
    def of_message(cls, message: dataset_pb2.Tail) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a count out of range."""
        return cls(message.count)
