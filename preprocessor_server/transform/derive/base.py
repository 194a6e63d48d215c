"""What all kinds of derived columns have in common: how they are checked, compiled and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.place import Place


@dataclass(frozen=True, slots=True)
class Input:
    """A column that a derived one is made of: its name, the field that names it, and its type."""

    name: str
    field: str
    type: ColumnType


Compute: TypeAlias = Callable[[Sequence[Column], Place], Column]


class UnfitInputError(Exception):
    """A kind does not fit the type of an input; the message says what it takes, and a way out.

    field is that at fault, below the kind's message, where it is not the one that names the input.
    """

    def __init__(self, column: Input, message: str, field: str = "") -> None:
        super().__init__(message)
        self.column = column
        self.field = field


class Rule(NamedTuple):
    """A kind of headrace.v1.Derived, by its message.

    inputs gives the columns that it is made of, each with the field of the message that names it.
    compile takes the message and the inputs; it gives what makes the column of theirs, all of them
    columns of the same rows or runs, and the Arrow type of the result. It raises UnfitInputError if
    an input does not fit. check takes the message and its field path, and gives all that is wrong
    (DATASET_INVALID) whatever the inputs.
    """

    inputs: Callable[[Any], list[tuple[str, str]]]
    compile: Callable[[Any, Sequence[Input]], tuple[Compute, pa.DataType]]
    check: Callable[[Any, str], Iterator[DatasetError]]


def named(*fields: str) -> Callable[[Any], list[tuple[str, str]]]:
    """The inputs of a message that names each in a field of its own."""
    return lambda message: [(getattr(message, field), field) for field in fields]


def check_named(message: Any, path: str, *fields: str) -> Iterator[DatasetError]:
    """What is wrong with the fields that name a column each."""
    for field in fields:
        if not getattr(message, field):
            yield invalid(f"{path}.{field}", "it names no column; give one")


def take_lists_only(column: Input, kind: str) -> None:
    """Raises UnfitInputError for a column of single values."""
    if not column.type.is_list:
        raise UnfitInputError(column, f"{kind} takes lists; name a column of lists")


def list_of(value: pa.DataType, *, is_list: bool) -> pa.DataType:
    """The type of a column of values, or of lists of them."""
    return pa.list_(value) if is_list else value
