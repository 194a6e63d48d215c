#!/usr/bin/env python3
"""Writes the tables of operations and of derived columns in docs/ops.md from their own docs.

    python docs/generate.py

What stands between two markers is replaced, in the order of trainer_client.ops.ALL and of
trainer_client.derive.ALL; a test holds the page to the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer_client import derive, ops
from trainer_client.derive import DerivedDoc
from trainer_client.ops import OpDoc

PAGE = Path(__file__).resolve().parent / "ops.md"
BEGIN, END = "<!-- docs/generate.py writes this -->", "<!-- up to here -->"
OPERATIONS = OpDoc(
    operation="operation",
    takes="takes",
    gives="gives",
    null="null, null element",
    nan="NaN",
    inf="±inf",
    negative_zero="-0.0",
    empty_list="empty list",
    out_of_range="out of range",
)
KINDS = DerivedDoc(
    kind="kind",
    takes="takes",
    gives="gives",
    null="null, null element",
    nan="NaN",
    empty_list="empty list",
    uneven="lists of different lengths in a row",
    out_of_range="out of range",
)


def tables() -> list[str]:
    """The table of all operations and that of all kinds of derived columns, as Markdown."""
    return [
        table(OPERATIONS, (op.doc for op in ops.ALL)),
        table(KINDS, (kind.doc for kind in derive.ALL)),
    ]


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, as Markdown."""
    names = tuple(headings)
    return "\n".join(map(line, [names, ["---"] * len(names), *rows]))


def line(row: Iterable[str]) -> str:
    """A row of a table; bars inside a cell are escaped, a line break is a space."""
    cells = (" ".join(cell.split()).replace("|", r"\|") for cell in row)
    return f"| {' | '.join(cells)} |"


def write_into(text: str) -> str:
    """The page with each table put between its markers. Raises ValueError if they are not there."""
    written = ""
    for each in tables():
        before, begin, rest = text.partition(BEGIN)
        _, end, text = rest.partition(END)
        if not begin or not end:
            raise ValueError(
                f"{PAGE.name} lacks lines {BEGIN!r} and {END!r}: put them around a table"
            )
        written += f"{before}{BEGIN}\n\n{each}\n\n{END}"
    return written + text


def main() -> None:
    """Runs from the command line."""
    PAGE.write_text(write_into(PAGE.read_text()))


if __name__ == "__main__":
    main()
