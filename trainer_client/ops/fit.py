"""Operations whose constants are still to be found in the data: preprocessor-server fit does it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc, check_range

_PREFIX = "FILLING_"
FILLINGS = tuple(
    name.removeprefix(_PREFIX).lower() for name, number in dataset_pb2.Filling.items() if number
)
MAX_FITTED_BUCKETS = 1 << 16


def _doc(operation: str, becomes: str, takes: str, unfit: str) -> OpDoc:
    """The row of an operation that servers refuse: the columns say what is left out of the fit."""
    return OpDoc(
        operation=f"`{operation}`",
        takes=takes,
        gives=f"what `{becomes}` gives, after `preprocessor-server fit`; servers refuse it before",
        null="left out of the fit",
        nan="left out of the fit",
        inf="left out of the fit",
        negative_zero="as 0",
        empty_list="nothing to fit",
        out_of_range=unfit,
    )


_CONSTANT = "a column of equal values cannot be fitted"


@dataclass(frozen=True, slots=True)
class FitFillNull(Op):
    """Becomes a FillNull of the column's "mean" or "median"."""

    proto_field: ClassVar[str] = "fit_fill_null"
    doc: ClassVar[OpDoc] = _doc(
        "FitFillNull(by)", "FillNull", "floats; integers for the median", "-"
    )
    by: str

    def __post_init__(self) -> None:
        if self.by not in FILLINGS:
            near = difflib.get_close_matches(str(self.by), FILLINGS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"FitFillNull by {self.by!r}: give one of {', '.join(FILLINGS)}{hint}"
            )

    def _message(self) -> dataset_pb2.FitFillNull:
        return dataset_pb2.FitFillNull(by=_PREFIX + self.by.upper())

    @classmethod
    def of_message(cls, message: dataset_pb2.FitFillNull) -> Self:
        """The operation of its message. Raises InvalidDatasetError for an unknown filling."""
        names = {number: name for name, number in dataset_pb2.Filling.items()}
        return cls(names.get(message.by, str(message.by)).removeprefix(_PREFIX).lower())


@dataclass(frozen=True, slots=True)
class FitNormalize(Op):
    """Becomes a Normalize by the column's mean and standard deviation."""

    proto_field: ClassVar[str] = "fit_normalize"
    doc: ClassVar[OpDoc] = _doc("FitNormalize", "Normalize", "integers, floats", _CONSTANT)

    def _message(self) -> dataset_pb2.FitNormalize:
        return dataset_pb2.FitNormalize()

    @classmethod
    def of_message(cls, message: dataset_pb2.FitNormalize) -> Self:
        """The operation of its message."""
        del message
        return cls()


@dataclass(frozen=True, slots=True)
class FitMinMax(Op):
    """Becomes a MinMax by the column's least and greatest value."""

    proto_field: ClassVar[str] = "fit_min_max"
    doc: ClassVar[OpDoc] = _doc("FitMinMax", "MinMax", "integers, floats", _CONSTANT)

    def _message(self) -> dataset_pb2.FitMinMax:
        return dataset_pb2.FitMinMax()

    @classmethod
    def of_message(cls, message: dataset_pb2.FitMinMax) -> Self:
        """The operation of its message."""
        del message
        return cls()


@dataclass(frozen=True, slots=True)
class FitBucketize(Op):
    """Becomes a Bucketize into num_buckets of about equally many values; fewer, if many are equal.

    The boundaries are quantiles of the column.
    """

    proto_field: ClassVar[str] = "fit_bucketize"
    doc: ClassVar[OpDoc] = _doc("FitBucketize(n)", "Bucketize", "integers, floats", _CONSTANT)
    num_buckets: int

    def __post_init__(self) -> None:
        check_range("FitBucketize num_buckets", self.num_buckets, 2, MAX_FITTED_BUCKETS)

    def _message(self) -> dataset_pb2.FitBucketize:
        return dataset_pb2.FitBucketize(num_buckets=self.num_buckets)

    @classmethod
    def of_message(cls, message: dataset_pb2.FitBucketize) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.num_buckets)


@dataclass(frozen=True, slots=True)
class FitVocabulary(Op):
    """Becomes a Vocabulary of the column's values, the most frequent one first, in a file.

    Values that occur less than min_count times are left out, and those behind the first max_size
    ones (0: none). Both get one of num_oov_buckets then, or null.
    """

    proto_field: ClassVar[str] = "fit_vocabulary"
    doc: ClassVar[OpDoc] = _doc(
        "FitVocabulary(min_count, max_size, n)",
        "Vocabulary",
        "integers; strings, binary",
        "a column without values cannot be fitted, nor one with integers above 2^63 - 1",
    )
    min_count: int = 1
    max_size: int = 0
    num_oov_buckets: int = 0

    def __post_init__(self) -> None:
        check_range("FitVocabulary min_count", self.min_count, 1, (1 << 63) - 1)
        check_range("FitVocabulary max_size", self.max_size, 0, (1 << 63) - 1)
        check_range("FitVocabulary num_oov_buckets", self.num_oov_buckets, 0, 1 << 32)

    def _message(self) -> dataset_pb2.FitVocabulary:
        return dataset_pb2.FitVocabulary(
            min_count=self.min_count if self.min_count > 1 else 0,
            max_size=self.max_size,
            num_oov_buckets=self.num_oov_buckets,
        )

    @classmethod
    def of_message(cls, message: dataset_pb2.FitVocabulary) -> Self:
        """The operation of its message. Raises InvalidDatasetError for a number out of range."""
        return cls(message.min_count or 1, message.max_size, message.num_oov_buckets)
