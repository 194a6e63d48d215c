"""Several columns hashed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.derive.base import Derived, DerivedDoc
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import check_range

MAX_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class Cross(Derived):
    """Hashes the values of several columns together to [0, num_buckets), as int64.

    Lists are taken element by element, a single value stands beside every element.
    """

    proto_field: ClassVar[str] = "cross"
    doc: ClassVar[DerivedDoc] = DerivedDoc(
        kind="`Cross(columns, n, seed)`",
        takes="2 to 64 columns of integers, booleans, strings, binary; single values and lists",
        gives="int64 from 0 to n - 1; lists if one of the columns holds lists",
        null="what has a null in it is null; a null beside a list makes all its elements null",
        nan="-",
        empty_list="stays empty",
        uneven="LISTS_UNEVEN",
        out_of_range="everything hashes",
    )
    name: str
    columns: Sequence[str]
    num_buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise InvalidDatasetError(
                f"Cross {self.name!r} columns is {self.columns!r}: give a list of column names"
            )
        object.__setattr__(self, "columns", tuple(self.columns))
        if not 2 <= len(self.columns) <= MAX_COLUMNS:
            raise InvalidDatasetError(
                f"Cross {self.name!r} has {len(self.columns)} columns: give from 2 to {MAX_COLUMNS}"
            )
        self._check_names(**{f"columns[{i}]": name for i, name in enumerate(self.columns)})
        check_range("Cross num_buckets", self.num_buckets, 1, 1 << 32)
        check_range("Cross seed", self.seed, 0, (1 << 64) - 1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return tuple(self.columns)

    def _message(self) -> dataset_pb2.Cross:
        return dataset_pb2.Cross(columns=self.columns, num_buckets=self.num_buckets, seed=self.seed)

    @classmethod
    def of_message(cls, name: str, message: dataset_pb2.Cross) -> Self:
        """The column of its name and message. Raises InvalidDatasetError if it is none."""
        return cls(name, tuple(message.columns), message.num_buckets, message.seed)
