"""Operations on lists that look at the values in them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc, check_range

_PREFIX = "AGGREGATION_"
AGGREGATIONS = tuple(
    name.removeprefix(_PREFIX).lower() for name, number in dataset_pb2.Aggregation.items() if number
)


@dataclass(frozen=True, slots=True)
class ListAggregate(Op):
    """Makes one value of each list: the "count", "sum", "mean", "min", "max", "first" or "last"."""

    proto_field: ClassVar[str] = "list_aggregate"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`ListAggregate(by)`",
        takes="lists of anything for count, first, last; of numbers for sum, mean, min, max",
        gives="count: int64; sum: int64 of integers, float64 of floats; mean: float64; others: "
        "the elements' type; one a row",
        null="left out",
        nan="counts; first, last: as an element; others: gives NaN",
        inf="count; sum, mean: both signs give NaN; others: as numbers",
        negative_zero="first, last: stays; others: 0.0",
        empty_list="count and sum 0, others null; so are lists of nulls only",
        out_of_range="sum of integers beyond int64: VALUE_OUT_OF_RANGE",
    )
    by: str

    def __post_init__(self) -> None:
        if self.by not in AGGREGATIONS:
            near = difflib.get_close_matches(str(self.by), AGGREGATIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"ListAggregate by {self.by!r}: give one of {', '.join(AGGREGATIONS)}{hint}"
            )

    def _message(self) -> dataset_pb2.ListAggregate:
        return dataset_pb2.ListAggregate(by=_PREFIX + self.by.upper())

    @classmethod
    def of_message(cls, message: dataset_pb2.ListAggregate) -> Self:
        """The operation of its message. Raises InvalidDatasetError for an unknown aggregation."""
        names = {number: name for name, number in dataset_pb2.Aggregation.items()}
        name = names.get(message.by, str(message.by))
        return cls(name.removeprefix(_PREFIX).lower())


@dataclass(frozen=True, slots=True)
class Deduplicate(Op):
    """Keeps each value of a list where it first occurs, in the order of the list."""

    proto_field: ClassVar[str] = "deduplicate"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Deduplicate`",
        takes="lists of numbers, booleans, strings, binary",
        gives="the same type",
        null="all null elements are one value",
        nan="all NaN are one value",
        inf="as elements",
        negative_zero="is the same value as 0.0; the first stays",
        empty_list="stays empty",
        out_of_range="-",
    )

    def _message(self) -> dataset_pb2.Deduplicate:
        return dataset_pb2.Deduplicate()

    @classmethod
    def of_message(cls, message: dataset_pb2.Deduplicate) -> Self:
        """The operation of its message."""
        del message
        return cls()


@dataclass(frozen=True, slots=True)
class Sort(Op):
    """Orders the elements of each list, the least first, or the greatest if descending."""

    proto_field: ClassVar[str] = "sort"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Sort(descending)`",
        takes="lists of numbers, booleans, strings, binary",
        gives="the same type",
        null="null elements come last, in both directions",
        nan="comes last but for nulls, in both directions",
        inf="above and below all numbers",
        negative_zero="is equal to 0.0 and keeps its place among equals",
        empty_list="stays empty",
        out_of_range="-",
    )
    descending: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.descending, bool):
            raise InvalidDatasetError(
                f"Sort descending is {self.descending!r}: it must be True or False"
            )

    def _message(self) -> dataset_pb2.Sort:
        return dataset_pb2.Sort(descending=self.descending)

    @classmethod
    def of_message(cls, message: dataset_pb2.Sort) -> Self:
        """The operation of its message."""
        return cls(message.descending)


@dataclass(frozen=True, slots=True)
class NGram(Op):
    """Hashes every n elements of a list that follow each other to [0, num_buckets)."""

    proto_field: ClassVar[str] = "n_gram"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`NGram(n, buckets, seed)`",
        takes="lists of integers, booleans, strings, binary",
        gives="lists of int64 from 0 to buckets - 1",
        null="n-grams with a null element are null",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="lists of fewer than n elements become empty",
    )
    n: int
    num_buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("NGram n", self.n, 1, 64)
        check_range("NGram num_buckets", self.num_buckets, 1, 1 << 32)
        check_range("NGram seed", self.seed, 0, (1 << 64) - 1)

    def _message(self) -> dataset_pb2.NGram:
        return dataset_pb2.NGram(n=self.n, num_buckets=self.num_buckets, seed=self.seed)

    @classmethod
    def of_message(cls, message: dataset_pb2.NGram) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.n, message.num_buckets, message.seed)


@dataclass(frozen=True, slots=True)
class Sample(Op):
    """Keeps count elements of each list, in their order, chosen by its values and a seed alone."""

    proto_field: ClassVar[str] = "sample"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Sample(k, seed)`",
        takes="lists of numbers, booleans, strings, binary",
        gives="the same type",
        null="kept or left out like any element",
        nan="as an element, all NaN alike",
        inf="as elements",
        negative_zero="as an element, another one than 0.0",
        empty_list="stays empty",
        out_of_range="shorter lists stay whole",
    )
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("Sample count", self.count, 1, (1 << 31) - 1)
        check_range("Sample seed", self.seed, 0, (1 << 64) - 1)

    def _message(self) -> dataset_pb2.Sample:
        return dataset_pb2.Sample(count=self.count, seed=self.seed)

    @classmethod
    def of_message(cls, message: dataset_pb2.Sample) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.count, message.seed)
