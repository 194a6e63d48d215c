#!/usr/bin/env python3
"""Writes the table of operations in docs/ops.md from the operations' own docs.

    python docs/generate.py

What stands between the two markers is replaced, in the order of trainer_client.ops.ALL; a test
holds the page to the code.
"""

from __future__ import annotations

from pathlib import Path

from trainer_client.ops import ALL, OpDoc

PAGE = Path(__file__).resolve().parent / "ops.md"
BEGIN, END = "<!-- docs/generate.py writes this -->", "<!-- up to here -->"
HEADINGS = OpDoc(
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


def table() -> str:
    """The table of all operations, as Markdown."""
    rule = OpDoc(*["---"] * len(HEADINGS))
    return "\n".join(map(line, [HEADINGS, rule, *(op.doc for op in ALL)]))


def line(row: OpDoc) -> str:
    """A row of the table; bars inside a cell are escaped, a line break is a space."""
    cells = (" ".join(cell.split()).replace("|", r"\|") for cell in row)
    return f"| {' | '.join(cells)} |"


def write_into(text: str) -> str:
    """The page with the table put between its markers. Raises ValueError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no lines {BEGIN!r} and {END!r}: put them around a table")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    """Runs from the command line."""
    PAGE.write_text(write_into(PAGE.read_text()))


if __name__ == "__main__":
    main()
