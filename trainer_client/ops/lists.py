"""Operations on lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.ops.base import Op, check_range


@dataclass(frozen=True, slots=True)
class Tail(Op):
    """Keeps the last count elements of each list."""

    proto_field: ClassVar[str] = "tail"
    count: int

    def __post_init__(self) -> None:
        check_range("Tail count", self.count, 1, (1 << 31) - 1)

    def _message(self) -> dataset_pb2.Tail:
        return dataset_pb2.Tail(count=self.count)

    @classmethod
    def of_message(cls, message: dataset_pb2.Tail) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a count out of range."""
        return cls(message.count)
