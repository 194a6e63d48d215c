"""The operation that makes several features of one column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.ops.base import Op, OpDoc, check_range

MAX_CLASSES = 1024


@dataclass(frozen=True, slots=True)
class OneHot(Op):
    """Makes num_classes features of a column of integers: "hour_0" is 1 where hour is 0, else 0.

    The last operation of a dense or label feature. Of a list, each feature says whether its number
    is there (multi-hot). num_classes 0 is the number below which the operations before it keep the
    values.
    """

    proto_field: ClassVar[str] = "one_hot"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`OneHot(n)`",
        takes="integers from 0 to n - 1; the last operation of a dense or label feature",
        gives="n features `<column>_0`, `<column>_1` ...: 1 where the value, or an element of the "
        "list, is that number, else 0",
        null="0 in all of them",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="0 in all of them",
        out_of_range="below 0, n and above: VALUE_OUT_OF_RANGE; operations that may give n and "
        "above: DATASET_INVALID",
    )
    num_classes: int = 0

    def __post_init__(self) -> None:
        check_range("OneHot num_classes", self.num_classes, 0, MAX_CLASSES)

    def _message(self) -> dataset_pb2.OneHot:
        return dataset_pb2.OneHot(num_classes=self.num_classes)

    @classmethod
    def of_message(cls, message: dataset_pb2.OneHot) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.num_classes)
