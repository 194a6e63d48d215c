"""Operations that bring numbers into another range, or into buckets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc, check_finite

_FLOATS = "float32 of float16 and float32, else float64"


@dataclass(frozen=True, slots=True)
class Logit(Op):
    """Takes log(x / (1 - x)), x limited to [epsilon, 1 - epsilon]; 0 for no limits."""

    proto_field: ClassVar[str] = "logit"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Logit(epsilon)`",
        takes="integers, floats",
        gives=_FLOATS,
        null="stays",
        nan="stays",
        inf="limited; NaN where epsilon is 0",
        negative_zero="as 0",
        empty_list="stays empty",
        out_of_range="limited to epsilon and 1 - epsilon; where epsilon is 0, 0 gives -inf, "
        "1 +inf, and what is outside NaN",
    )
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_finite("Logit epsilon", self.epsilon)
        if not 0 <= self.epsilon < 0.5:
            raise InvalidDatasetError(
                f"Logit epsilon is {self.epsilon}: it must be at least 0 and below 0.5"
            )

    def _message(self) -> dataset_pb2.Logit:
        return dataset_pb2.Logit(epsilon=self.epsilon)

    @classmethod
    def of_message(cls, message: dataset_pb2.Logit) -> Self:
        """The operation of its message. Raises InvalidDatasetError for an epsilon out of range."""
        return cls(message.epsilon)


@dataclass(frozen=True, slots=True)
class BoxCox(Op):
    """Takes (x^lmbda - 1) / lmbda, or log(x) where lmbda is 0."""

    proto_field: ClassVar[str] = "box_cox"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`BoxCox(lmbda)`",
        takes="integers, floats",
        gives=_FLOATS,
        null="stays",
        nan="stays",
        inf="+inf stays, or gives -1 / lmbda where lmbda < 0; -inf gives NaN",
        negative_zero="as 0",
        empty_list="stays empty",
        out_of_range="0 gives -1 / lmbda, or -inf where lmbda <= 0; below 0 NaN",
    )
    lmbda: float = 0.0

    def __post_init__(self) -> None:
        check_finite("BoxCox lmbda", self.lmbda)

    def _message(self) -> dataset_pb2.BoxCox:
        return dataset_pb2.BoxCox(lmbda=self.lmbda)

    @classmethod
    def of_message(cls, message: dataset_pb2.BoxCox) -> Self:
        """The operation of its message. Raises InvalidDatasetError for what is not finite."""
        return cls(message.lmbda)


@dataclass(frozen=True, slots=True)
class Normalize(Op):
    """Takes (x - mean) / std."""

    proto_field: ClassVar[str] = "normalize"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Normalize(mean, std)`",
        takes="integers, floats",
        gives=_FLOATS,
        null="stays",
        nan="stays",
        inf="stay",
        negative_zero="as 0; stays where the mean is 0",
        empty_list="stays empty",
        out_of_range="beyond the range of the result ±inf",
    )
    mean: float
    std: float

    def __post_init__(self) -> None:
        check_finite("Normalize mean", self.mean)
        check_finite("Normalize std", self.std)
        if self.std <= 0:
            raise InvalidDatasetError(
                f"Normalize std is {self.std}: it must be above 0; leave the operation out for a "
                "column of equal values"
            )

    def _message(self) -> dataset_pb2.Normalize:
        return dataset_pb2.Normalize(mean=self.mean, std=self.std)

    @classmethod
    def of_message(cls, message: dataset_pb2.Normalize) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.mean, message.std)


@dataclass(frozen=True, slots=True)
class MinMax(Op):
    """Takes (x - min) / (max - min): min becomes 0, max 1. What is outside is not limited."""

    proto_field: ClassVar[str] = "min_max"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`MinMax(min, max)`",
        takes="integers, floats",
        gives=_FLOATS,
        null="stays",
        nan="stays",
        inf="stay",
        negative_zero="as 0; stays where min is 0",
        empty_list="stays empty",
        out_of_range="below 0 and above 1, not limited: put a Clip before it",
    )
    min: float
    max: float

    def __post_init__(self) -> None:
        check_finite("MinMax min", self.min)
        check_finite("MinMax max", self.max)
        if self.min >= self.max:
            raise InvalidDatasetError(f"MinMax min ({self.min}) must be below max ({self.max})")
        if not math.isfinite(float(self.max) - float(self.min)):
            raise InvalidDatasetError(
                f"MinMax max - min ({self.max} - {self.min}) is no float64; give a narrower range"
            )

    def _message(self) -> dataset_pb2.MinMax:
        return dataset_pb2.MinMax(min=self.min, max=self.max)

    @classmethod
    def of_message(cls, message: dataset_pb2.MinMax) -> Self:
        """The operation of its message. Raises InvalidDatasetError for what is no range."""
        return cls(message.min, message.max)


@dataclass(frozen=True, slots=True)
class Bucketize(Op):
    """Counts the boundaries b (ascending) with b <= x: a bucket from 0 to len(boundaries)."""

    proto_field: ClassVar[str] = "bucketize"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`Bucketize(boundaries)`",
        takes="integers, floats",
        gives="int64 from 0 to n, of n boundaries",
        null="stays",
        nan="n",
        inf="-inf 0, +inf n",
        negative_zero="as 0",
        empty_list="stays empty",
        out_of_range="below the first boundary 0, from the last one on n; boundaries are rounded "
        "to the nearest float of a float column (TYPE_UNFIT beyond its range), integers are "
        "compared exactly",
    )
    boundaries: Sequence[float]

    def __post_init__(self) -> None:
        given = self.boundaries
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise InvalidDatasetError(
                f"Bucketize boundaries is {given!r}: it must be a list of numbers (tolist() makes "
                "one of an array)"
            )
        # A value that can be hashed, whatever sequence was given.
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        if not self.boundaries:
            raise InvalidDatasetError("Bucketize boundaries is empty: give at least one")
        for index, boundary in enumerate(self.boundaries):
            check_finite(f"Bucketize boundaries[{index}]", boundary)
            if index and boundary <= self.boundaries[index - 1]:
                raise InvalidDatasetError(
                    f"Bucketize boundaries[{index}] is {boundary}, not above the one before, "
                    f"{self.boundaries[index - 1]}: sort them, and give each once"
                )

    def _message(self) -> dataset_pb2.Bucketize:
        return dataset_pb2.Bucketize(boundaries=self.boundaries)

    @classmethod
    def of_message(cls, message: dataset_pb2.Bucketize) -> Self:
        """The operation of its message. Raises InvalidDatasetError for what is not ascending."""
        return cls(tuple(message.boundaries))
