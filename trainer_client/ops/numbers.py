"""Operations on single values, most of them numbers."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import (
    Constant,
    Op,
    OpDoc,
    check_constant,
    constant_of,
    scalar_of,
)

TYPE_PREFIX = "SCALAR_TYPE_"
TYPE_NAMES = ("int32", "int64", "float32", "float64")


@dataclass(frozen=True, slots=True)
class FillNull(Op):
    """Replaces nulls, and null elements of lists, by a value of the column's own type."""

    proto_field: ClassVar[str] = "fill_null"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`FillNull(v)`",
        takes="numbers, booleans, strings, binary",
        gives="the same type",
        null="becomes `v`",
        nan="stays",
        inf="stay",
        negative_zero="stays",
        empty_list="stays empty",
        out_of_range="`v` is rounded to the nearest float of a float column; "
        "else it must fit the type exactly (TYPE_UNFIT)",
    )
    value: Constant

    def __post_init__(self) -> None:
        check_constant("FillNull value", self.value)

    def _message(self) -> dataset_pb2.FillNull:
        return dataset_pb2.FillNull(value=scalar_of(self.value))

    @classmethod
    def of_message(cls, message: dataset_pb2.FillNull) -> Self:
        """The operation of its message. Raises InvalidDatasetError if it has no value."""
        value = constant_of(message.value)
        if value is None:
            raise InvalidDatasetError("fill_null has no value")
        return cls(value)


@dataclass(frozen=True, slots=True)
class Log1p(Op):
    """Takes the natural logarithm of 1 + x."""

    proto_field: ClassVar[str] = "log1p"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Log1p`",
        takes="integers, floats",
        gives="float32 of float16 and float32, else float64",
        null="stays",
        nan="stays",
        inf="+inf stays, -inf gives NaN",
        negative_zero="stays",
        empty_list="stays empty",
        out_of_range="-1 gives -inf, below -1 NaN",
    )

    def _message(self) -> dataset_pb2.Log1p:
        return dataset_pb2.Log1p()

    @classmethod
    def of_message(cls, message: dataset_pb2.Log1p) -> Self:
        """The operation of its message."""
        del message
        return cls()


@dataclass(frozen=True, slots=True)
class Clip(Op):
    """Limits numbers to [min, max]; None for no bound, at least one is given."""

    proto_field: ClassVar[str] = "clip"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Clip(min, max)`",
        takes="integers, floats",
        gives="the same type",
        null="stays",
        nan="stays",
        inf="clipped",
        negative_zero="stays, also at a bound of 0",
        empty_list="stays empty",
        out_of_range="bounds by the rule of FillNull",
    )
    min: int | float | None = None
    max: int | float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise InvalidDatasetError("Clip has no bound: give min, max or both")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            check_constant(f"Clip {name}", bound)
            if isinstance(bound, str) or math.isnan(bound):
                raise InvalidDatasetError(f"Clip {name} is {bound!r}: it must be a number")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InvalidDatasetError(f"Clip min ({self.min}) is above max ({self.max})")

    def _message(self) -> dataset_pb2.Clip:
        return dataset_pb2.Clip(
            min=None if self.min is None else scalar_of(self.min),
            max=None if self.max is None else scalar_of(self.max),
        )

    @classmethod
    def of_message(cls, message: dataset_pb2.Clip) -> Self:
        """The operation of its message. Raises InvalidDatasetError for bounds that are text."""
        low, high = constant_of(message.min), constant_of(message.max)
        if isinstance(low, str) or isinstance(high, str):
            raise InvalidDatasetError("clip: min and max must be numbers, not text")
        return cls(low, high)


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """Converts to another type ("int32", "int64", "float32", "float64") without changing values."""

    proto_field: ClassVar[str] = "cast"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Cast(to)`",
        takes="everything but binary",
        gives="int32, int64, float32, float64",
        null="stays",
        nan="to a float: stays; to an integer: VALUE_OUT_OF_RANGE",
        inf="to a float: stay; to an integer: VALUE_OUT_OF_RANGE",
        negative_zero="to a float: stays; to an integer: 0",
        empty_list="stays empty",
        out_of_range="to an integer: VALUE_OUT_OF_RANGE, fractions too; "
        "to a float: nearest, ±inf beyond its range",
    )
    to: str

    def __post_init__(self) -> None:
        if self.to not in TYPE_NAMES:
            near = difflib.get_close_matches(str(self.to), TYPE_NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"Cast to {self.to!r}: the types are {', '.join(TYPE_NAMES)}{hint}"
            )

    def _message(self) -> dataset_pb2.Cast:
        return dataset_pb2.Cast(to=TYPE_PREFIX + self.to.upper())

    @classmethod
    def of_message(cls, message: dataset_pb2.Cast) -> Self:
        """The operation of its message. Raises InvalidDatasetError for an unknown type."""
        names = {number: name for name, number in dataset_pb2.ScalarType.items()}
        name = names.get(message.to, str(message.to))
        return cls(name.removeprefix(TYPE_PREFIX).lower())
