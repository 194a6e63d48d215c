"""A column that an SQL expression over others gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.derive.base import Derived, DerivedDoc


@dataclass(frozen=True, slots=True)
class Expression(Derived):
    """Computes an SQL expression, as of where, over columns of single values.

    A boolean, a number or a string a row: Expression("is_long", "dwell_ms > 30000 AND label = 1").
    """

    proto_field: ClassVar[str] = "expression"
    doc: ClassVar[DerivedDoc] = DerivedDoc(
        kind="`Expression(sql)`",
        takes="columns of single values, in SQL as of `where`",
        gives="a boolean, integer, floating-point number or string",
        null="by the rules of SQL: mostly null; a condition may be null too",
        nan="equals itself and is above every number",
        empty_list="-",
        uneven="-",
        out_of_range="FILTER_FAILED",
    )
    name: str
    sql: str

    def __post_init__(self) -> None:
        self._check_names(sql=self.sql)

    @property
    def inputs(self) -> tuple[str, ...]:
        """None that is known here: servers read the expression."""
        return ()

    def _message(self) -> dataset_pb2.Expression:
        return dataset_pb2.Expression(sql=self.sql)

    @classmethod
    def of_message(cls, name: str, message: dataset_pb2.Expression) -> Self:
        """The column of its name and message. Raises InvalidDatasetError if it is none."""
        return cls(name, message.sql)
