"""What is wrong in a dataset's file, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """A stretch of a file: lines and columns count from 1, the end is behind the last character."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: its place, the path of the field ("dataset.features[2].ops[0]") and a message.

    The message ends with the way out. reason is a name of headrace.v1.ErrorReason.
    """

    place: Place
    field: str
    message: str
    reason: str = "DATASET_INVALID"

    def __str__(self) -> str:
        """The line and column, the field and the message, as compilers print them."""
        field = self.field.removeprefix("dataset.")
        message = self.message.removeprefix(f"{field}: ")
        return f"{self.place.line}:{self.place.column}: {field}: {message}"
