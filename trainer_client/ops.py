"""Operations on columns: builders of headrace.v1.Op.

What each does to nulls, NaN and lists is said in dataset.proto, which binds the server.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError

Constant: TypeAlias = int | float | str
TYPE_PREFIX = "SCALAR_TYPE_"
TYPE_NAMES = tuple(
    name.removeprefix(TYPE_PREFIX).lower()
    for name, number in dataset_pb2.ScalarType.items()
    if number
)


@dataclass(frozen=True, slots=True)
class FillNull:
    """Replaces nulls, and null elements of lists, by a value of the column's own type."""

    proto_field: ClassVar[str] = "fill_null"
    value: Constant

    def __post_init__(self) -> None:
        _check_constant("FillNull value", self.value)

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(fill_null=dataset_pb2.FillNull(value=_scalar(self.value)))


@dataclass(frozen=True, slots=True)
class Log1p:
    """Takes the natural logarithm of 1 + x."""

    proto_field: ClassVar[str] = "log1p"

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(log1p=dataset_pb2.Log1p())


@dataclass(frozen=True, slots=True)
class Clip:
    """Limits numbers to [min, max]; None for no bound, at least one is given."""

    proto_field: ClassVar[str] = "clip"
    min: int | float | None = None
    max: int | float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise InvalidDatasetError("Clip has no bound: give min, max or both")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            _check_constant(f"Clip {name}", bound)
            if isinstance(bound, str) or math.isnan(bound):
                raise InvalidDatasetError(f"Clip {name} is {bound!r}: it must be a number")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InvalidDatasetError(f"Clip min ({self.min}) is above max ({self.max})")

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(
            clip=dataset_pb2.Clip(
                min=None if self.min is None else _scalar(self.min),
                max=None if self.max is None else _scalar(self.max),
            )
        )


@dataclass(frozen=True, slots=True)
class Cast:
    """Converts to another type ("int32", "int64", "float32", "float64") without changing values."""

    proto_field: ClassVar[str] = "cast"
    to: str

    def __post_init__(self) -> None:
        if self.to not in TYPE_NAMES:
            near = difflib.get_close_matches(str(self.to), TYPE_NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"Cast to {self.to!r}: the types are {', '.join(TYPE_NAMES)}{hint}"
            )

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(cast=dataset_pb2.Cast(to=TYPE_PREFIX + self.to.upper()))


@dataclass(frozen=True, slots=True)
class HashBucket:
    """Hashes integers, booleans, strings and binary to [0, num_buckets); null stays null."""

    proto_field: ClassVar[str] = "hash_bucket"
    num_buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check_range("HashBucket num_buckets", self.num_buckets, 1, 1 << 32)
        _check_range("HashBucket seed", self.seed, 0, (1 << 64) - 1)

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(
            hash_bucket=dataset_pb2.HashBucket(num_buckets=self.num_buckets, seed=self.seed)
        )


@dataclass(frozen=True, slots=True)
class Tail:
    """Keeps the last count elements of each list."""

    proto_field: ClassVar[str] = "tail"
    count: int

    def __post_init__(self) -> None:
        _check_range("Tail count", self.count, 1, (1 << 31) - 1)

    def to_proto(self) -> dataset_pb2.Op:
        """The message of this operation."""
        return dataset_pb2.Op(tail=dataset_pb2.Tail(count=self.count))


Op: TypeAlias = FillNull | Log1p | Clip | Cast | HashBucket | Tail
ALL: tuple[type[Op], ...] = (FillNull, Log1p, Clip, Cast, HashBucket, Tail)


def from_proto(message: dataset_pb2.Op) -> Op:
    """The operation of a message. Raises InvalidDatasetError if it is none known here."""
    match message.WhichOneof("op"):
        case "fill_null":
            value = _constant(message.fill_null.value)
            if value is None:
                raise InvalidDatasetError("fill_null has no value")
            return FillNull(value)
        case "log1p":
            return Log1p()
        case "clip":
            low, high = _constant(message.clip.min), _constant(message.clip.max)
            if isinstance(low, str) or isinstance(high, str):
                raise InvalidDatasetError("clip: min and max must be numbers, not text")
            return Clip(low, high)
        case "cast":
            names = {number: name for name, number in dataset_pb2.ScalarType.items()}
            name = names.get(message.cast.to, str(message.cast.to))
            return Cast(name.removeprefix(TYPE_PREFIX).lower())
        case "hash_bucket":
            return HashBucket(message.hash_bucket.num_buckets, message.hash_bucket.seed)
        case "tail":
            return Tail(message.tail.count)
        case _:
            known = ", ".join(op.proto_field for op in ALL)
            raise InvalidDatasetError(f"no operation is given: one of {known} is expected")


def _scalar(value: Constant) -> dataset_pb2.Scalar:
    if isinstance(value, str):
        return dataset_pb2.Scalar(text=value)
    if isinstance(value, int):
        return dataset_pb2.Scalar(integer=value)
    return dataset_pb2.Scalar(number=value)


def _constant(message: dataset_pb2.Scalar) -> Constant | None:
    match message.WhichOneof("value"):
        case "number":
            return message.number
        case "integer":
            return message.integer
        case "text":
            return message.text
        case _:
            return None


def _check_constant(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidDatasetError(
            f"{what} is {value!r}: it must be an int, a float or a str (0 or 1 for booleans)"
        )
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidDatasetError(f"{what} is {value}: integers must fit 64 bits")


def _check_range(what: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidDatasetError(
            f"{what} is {value!r}: it must be an integer from {low} to {high:,}"
        )
