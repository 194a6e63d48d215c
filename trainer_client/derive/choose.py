"""Elements of a list chosen by those of another one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.derive.base import Derived, DerivedDoc
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Constant, check_constant, check_range, constant_of, scalar_of

_PREFIX = "COMPARISON_"
COMPARISONS = tuple(
    name.removeprefix(_PREFIX).lower() for name, number in dataset_pb2.Comparison.items() if number
)
_OF_SEVERAL = ("equal", "not_equal")


@dataclass(frozen=True, slots=True)
class Mask(Derived):
    """Keeps the elements of lists where the element at the same place of another list compares.

    comparison is "equal" (to one of the values), "not_equal" (to all of them), "less",
    "less_equal", "greater" or "greater_equal" (than the one value).
    """

    proto_field: ClassVar[str] = "mask"
    doc: ClassVar[DerivedDoc] = DerivedDoc(
        kind="`Mask(column, by, comparison, values)`",
        takes="column: lists of anything; by: lists of numbers, booleans, strings, binary (the "
        "last two for equality only)",
        gives="the type of column",
        null="of column: kept or left out like any element; of by: left out, also by `not_equal`",
        nan="of by: above every number, so kept by `not_equal`, `greater`, `greater_equal`",
        empty_list="stays empty; lists of which nothing is kept become empty",
        uneven="LISTS_UNEVEN",
        out_of_range="values by the rule of FillNull (TYPE_UNFIT)",
    )
    name: str
    column: str
    by: str
    comparison: str
    values: Sequence[Constant]

    def __post_init__(self) -> None:
        self._check_names(column=self.column, by=self.by)
        title = f"Mask {self.name!r}"
        if self.comparison not in COMPARISONS:
            near = difflib.get_close_matches(str(self.comparison), COMPARISONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"{title} comparison is {self.comparison!r}: give one of "
                f"{', '.join(COMPARISONS)}{hint}"
            )
        if isinstance(self.values, str) or not isinstance(self.values, Sequence):
            raise InvalidDatasetError(f"{title} values is {self.values!r}: give a list")
        object.__setattr__(self, "values", tuple(self.values))
        for i, value in enumerate(self.values):
            check_constant(f"{title} values[{i}]", value)
            if isinstance(value, float) and math.isnan(value):
                raise InvalidDatasetError(f"{title} values[{i}] is NaN: give a number")
        if not self.values:
            raise InvalidDatasetError(f"{title} values is empty: give at least one")
        if len(self.values) > 1 and self.comparison not in _OF_SEVERAL:
            raise InvalidDatasetError(
                f"{title} has {len(self.values)} values: {self.comparison!r} takes one; only "
                f"{' and '.join(map(repr, _OF_SEVERAL))} take several"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return (self.column, self.by)

    def _message(self) -> dataset_pb2.Mask:
        return dataset_pb2.Mask(
            column=self.column,
            by=self.by,
            comparison=_PREFIX + self.comparison.upper(),
            values=[scalar_of(value) for value in self.values],
        )

    @classmethod
    def of_message(cls, name: str, message: dataset_pb2.Mask) -> Self:
        """The column of its name and message. Raises InvalidDatasetError if it is none."""
        names = {number: name for name, number in dataset_pb2.Comparison.items()}
        comparison = names.get(message.comparison, str(message.comparison))
        values = []
        for i, scalar in enumerate(message.values):
            value = constant_of(scalar)
            if value is None:
                raise InvalidDatasetError(f"Mask {name!r} values[{i}] is empty: give a value")
            values.append(value)
        comparison = comparison.removeprefix(_PREFIX).lower()
        return cls(name, message.column, message.by, comparison, tuple(values))


@dataclass(frozen=True, slots=True)
class TopK(Derived):
    """Keeps the count elements of lists with the greatest weights in another list, heaviest first.

    Equally heavy ones keep their order.
    """

    proto_field: ClassVar[str] = "top_k"
    doc: ClassVar[DerivedDoc] = DerivedDoc(
        kind="`TopK(column, by, k)`",
        takes="column: lists of anything; by: lists of numbers, booleans, strings, binary",
        gives="the type of column, by descending weight, equal weights in their order",
        null="of column: kept or left out like any element; of by: behind all other weights",
        nan="of by: behind all weights but nulls",
        empty_list="stays empty",
        uneven="LISTS_UNEVEN",
        out_of_range="shorter lists are ordered and stay whole",
    )
    name: str
    column: str
    by: str
    count: int

    def __post_init__(self) -> None:
        self._check_names(column=self.column, by=self.by)
        check_range("TopK count", self.count, 1, (1 << 31) - 1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return (self.column, self.by)

    def _message(self) -> dataset_pb2.TopK:
        return dataset_pb2.TopK(column=self.column, by=self.by, count=self.count)

    @classmethod
    def of_message(cls, name: str, message: dataset_pb2.TopK) -> Self:
        """The column of its name and message. Raises InvalidDatasetError if it is none."""
        return cls(name, message.column, message.by, message.count)
