"""What all operations have in common, and their constants."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from google.protobuf.message import Message

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError

Constant: TypeAlias = int | float | str


class OpDoc(NamedTuple):
    """What an operation does to every kind of value: its row of the table in docs/ops.md.

    Markdown, as short as can be; "-" for what cannot happen. dataset.proto says the same and binds.
    """

    operation: str
    takes: str
    gives: str
    null: str
    nan: str
    inf: str
    negative_zero: str
    empty_list: str
    out_of_range: str


class Op(ABC):
    """An operation on a column; proto_field is that of headrace.v1.Op which holds it."""

    __slots__ = ()
    proto_field: ClassVar[str]
    doc: ClassVar[OpDoc]

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        body: dict[str, Any] = {self.proto_field: self._message()}
        return dataset_pb2.Op(**body)

    @abstractmethod
    def _message(self) -> Message:
        """The message of this operation alone."""

    @classmethod
    @abstractmethod
    def of_message(cls, message: Any) -> Self:
        """The operation of its message. Raises InvalidDatasetError if it is none."""


def scalar_of(value: Constant) -> dataset_pb2.Scalar:
    """The message of a constant."""
    if isinstance(value, str):
        return dataset_pb2.Scalar(text=value)
    if isinstance(value, int):
        return dataset_pb2.Scalar(integer=value)
    return dataset_pb2.Scalar(number=value)


def constant_of(message: dataset_pb2.Scalar) -> Constant | None:
    """The constant of a message, None if it holds none."""
    match message.WhichOneof("value"):
        case "number":
            return message.number
        case "integer":
            return message.integer
        case "text":
            return message.text
        case _:
            return None


def check_constant(what: str, value: object) -> None:
    """Raises InvalidDatasetError for what is no constant."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidDatasetError(
            f"{what} is {value!r}: it must be an int, a float or a str (0 or 1 for booleans)"
        )
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidDatasetError(f"{what} is {value}: integers must fit 64 bits")


def check_finite(what: str, value: object) -> None:
    """Raises InvalidDatasetError for what is no finite float64, integers beyond 2^53 included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidDatasetError(f"{what} is {value!r}: it must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidDatasetError(f"{what} is {value}: it must be finite")
    if isinstance(value, int) and abs(value) > 1 << 53:
        raise InvalidDatasetError(
            f"{what} is {value}: integers beyond 2^53 in size are not exact as float64; write the "
            "float that is meant, with a point"
        )


def check_range(what: str, value: object, low: int, high: int) -> None:
    """Raises InvalidDatasetError for what is no integer of a range, both ends included."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidDatasetError(
            f"{what} is {value!r}: it must be an integer from {low} to {high:,}"
        )
