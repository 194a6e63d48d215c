"""What all kinds of derived columns have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

from google.protobuf.message import Message

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError


class DerivedDoc(NamedTuple):
    """What a kind does to every kind of value: its row of the second table in docs/ops.md.

    Markdown, as short as can be; "-" for what cannot happen. dataset.proto says the same and binds.
    """

    kind: str
    takes: str
    gives: str
    null: str
    nan: str
    empty_list: str
    uneven: str
    out_of_range: str


class Derived(ABC):
    """A column made of others; proto_field is that of headrace.v1.Derived which holds its kind.

    name is what later derived columns and features call it by.
    """

    __slots__ = ()
    proto_field: ClassVar[str]
    doc: ClassVar[DerivedDoc]
    name: str

    def to_proto(self) -> dataset_pb2.Derived:
        """The message of this column."""
        body: dict[str, Any] = {self.proto_field: self._message()}
        return dataset_pb2.Derived(name=self.name, **body)

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made of."""

    @abstractmethod
    def _message(self) -> Message:
        """The message of its kind alone."""

    @classmethod
    @abstractmethod
    def of_message(cls, name: str, message: Any) -> Self:
        """The column of its name and its kind's message. Raises InvalidDatasetError."""

    def _check_names(self, **columns: object) -> None:
        """Raises InvalidDatasetError if the name, or what ought to name a column, is no name."""
        kind = type(self).__name__
        for what, name in {"name": self.name, **columns}.items():
            if not isinstance(name, str) or not name:
                raise InvalidDatasetError(
                    f"{kind} {what} is {name!r}: it must be a non-empty string"
                )
