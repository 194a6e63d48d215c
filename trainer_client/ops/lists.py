"""Operations on lists that look at places, not at values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import (
    Constant,
    Op,
    OpDoc,
    check_constant,
    check_range,
    constant_of,
    scalar_of,
)

MIN_BOUND, MAX_COUNT = -(1 << 31), (1 << 31) - 1
MAX_PAD = 1 << 16


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
        check_range("Tail count", self.count, 1, MAX_COUNT)

    def _message(self) -> dataset_pb2.Tail:
        return dataset_pb2.Tail(count=self.count)

    @classmethod
    def of_message(cls, message: dataset_pb2.Tail) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a count out of range."""
        return cls(message.count)


@dataclass(frozen=True, slots=True)
class Head(Op):
    """Keeps the first count elements of each list."""

    proto_field: ClassVar[str] = "head"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Head(k)`",
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
        check_range("Head count", self.count, 1, MAX_COUNT)

    def _message(self) -> dataset_pb2.Head:
        return dataset_pb2.Head(count=self.count)

    @classmethod
    def of_message(cls, message: dataset_pb2.Head) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a count out of range."""
        return cls(message.count)


@dataclass(frozen=True, slots=True)
class Slice(Op):
    """Keeps the elements [start:stop] of each list, by Python's rules; None for no stop."""

    proto_field: ClassVar[str] = "slice"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Slice(start, stop)`",
        takes="lists of anything",
        gives="the same type",
        null="kept or cut like any element",
        nan="as an element",
        inf="as elements",
        negative_zero="as an element",
        empty_list="stays empty",
        out_of_range="bounds beyond an end stand for it, below 0 they count from the end; "
        "bounds that leave nothing of any list: DATASET_INVALID",
    )
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        check_range("Slice start", self.start, MIN_BOUND, MAX_COUNT)
        if self.stop is None:
            return
        check_range("Slice stop", self.stop, MIN_BOUND, MAX_COUNT)
        if self.stop == 0 or ((self.start < 0) == (self.stop < 0) and self.start >= self.stop):
            raise InvalidDatasetError(
                f"Slice [{self.start}:{self.stop}] leaves nothing of any list: put stop behind "
                "start"
            )

    def _message(self) -> dataset_pb2.Slice:
        return dataset_pb2.Slice(start=self.start, stop=self.stop)

    @classmethod
    def of_message(cls, message: dataset_pb2.Slice) -> Self:
        """The operation of its message. Raises InvalidDatasetError if it keeps nothing."""
        return cls(message.start, message.stop if message.HasField("stop") else None)


@dataclass(frozen=True, slots=True)
class ListLength(Op):
    """Counts the elements of each list, null ones too: one integer a row."""

    proto_field: ClassVar[str] = "list_length"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`ListLength`",
        takes="lists of anything",
        gives="int64, one a row",
        null="null elements count",
        nan="counts",
        inf="count",
        negative_zero="counts",
        empty_list="gives 0",
        out_of_range="-",
    )

    def _message(self) -> dataset_pb2.ListLength:
        return dataset_pb2.ListLength()

    @classmethod
    def of_message(cls, message: dataset_pb2.ListLength) -> Self:
        """The operation of its message."""
        del message
        return cls()


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Appends a value to lists shorter than length, until they have it; longer ones stay."""

    proto_field: ClassVar[str] = "pad"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Pad(length, v)`",
        takes="lists of numbers, booleans, strings, binary",
        gives="the same type",
        null="stays",
        nan="stays",
        inf="stay",
        negative_zero="stays",
        empty_list="becomes `length` times `v`, a null list too",
        out_of_range="longer lists stay whole; `v` by the rule of FillNull",
    )
    length: int
    value: Constant

    def __post_init__(self) -> None:
        check_range("Pad length", self.length, 1, MAX_PAD)
        check_constant("Pad value", self.value)

    def _message(self) -> dataset_pb2.Pad:
        return dataset_pb2.Pad(length=self.length, value=scalar_of(self.value))

    @classmethod
    def of_message(cls, message: dataset_pb2.Pad) -> Self:
        """The operation of its message. Raises InvalidDatasetError for what is out of range."""
        value = constant_of(message.value)
        if value is None:
            raise InvalidDatasetError("pad has no value")
        return cls(message.length, value)


@dataclass(frozen=True, slots=True)
class Enumerate(Op):
    """Replaces the elements of each list by their number in it, from 0."""

    proto_field: ClassVar[str] = "enumerate"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Enumerate`",
        takes="lists of anything",
        gives="int64 from 0, a number an element",
        null="null elements get a number",
        nan="as an element",
        inf="as elements",
        negative_zero="as an element",
        empty_list="stays empty",
        out_of_range="-",
    )

    def _message(self) -> dataset_pb2.Enumerate:
        return dataset_pb2.Enumerate()

    @classmethod
    def of_message(cls, message: dataset_pb2.Enumerate) -> Self:
        """The operation of its message."""
        del message
        return cls()
