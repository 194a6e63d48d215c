"""The first rows of a dataset, before and after transformation, as tables for people."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf import json_format

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2
from trainer_client.errors import RequestError
from trainer_client.transport.asking import connected

if TYPE_CHECKING:
    from rich.table import Table

Value: TypeAlias = float | str | bool | list["Value"] | dict[str, "Value"] | None

MAX_ROWS = 100
# What a table shows of a list, and of a text.
_ELEMENTS, _LETTERS = 4, 40
# What a table in a terminal shows of a value at least, and leaves between two columns.
_LEAST_LETTERS, _GAP = 12, 3

_DTYPE_PREFIX = "SCALAR_TYPE_"
_CSS = "text-align: left"


@dataclass(frozen=True, slots=True)
class PreviewColumn:
    """A column of the source, or a feature: its values, one a row.

    block and dtype are those of a feature's block, "" for a column of the source. Integers that
    JSON cannot hold exactly, binary values and times are strings, as PreviewBatch gives them.
    Weights of ids follow their feature, named "feature (weights)".
    """

    name: str
    values: tuple[Value, ...]
    block: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Preview:
    """The first rows that pass the filter: columns that are read, and features made of them.

    repr() is a table, and so is what a notebook shows; rows are across, so that hundreds of
    features stay readable.
    """

    source: tuple[PreviewColumn, ...]
    features: tuple[PreviewColumn, ...]
    row_count: int
    rows_scanned: int

    def __repr__(self) -> str:
        """Both tables, as wide as the terminal."""
        from rich.console import Console

        out = io.StringIO()
        console = Console(
            file=out, width=shutil.get_terminal_size().columns, highlight=False, markup=False
        )
        for title, head, columns in self._tables():
            console.print(title)
            for table in _rich_tables(head, self._row_names(), columns, console.width):
                console.print(table)
        console.print(self._summary())
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())

    def _repr_html_(self) -> str:
        """Both tables, for a notebook."""
        parts = []
        for title, head, columns in self._tables():
            parts.append(f"<table><caption style='{_CSS}'>{html.escape(title)}</caption>")
            parts.append(_html_row("th", [*head, *self._row_names()]))
            parts += [_html_row("td", _cells(column)) for column in columns]
            parts.append("</table>")
        return "".join([*parts, f"<p>{html.escape(self._summary())}</p>"])

    def _tables(self) -> Iterator[tuple[str, list[str], tuple[PreviewColumn, ...]]]:
        yield "before: columns of the source", ["column"], self.source
        yield "after: features", ["feature", "block", "dtype"], self.features

    def _row_names(self) -> list[str]:
        return [f"row {index}" for index in range(self.row_count)]

    def _summary(self) -> str:
        rows = f"{self.row_count} row{'' if self.row_count == 1 else 's'}"
        if self.row_count == 0:
            rows = "no row passes the filter"
        return f"{rows}; {self.rows_scanned:,} scanned"


def fetch_preview(
    dataset: dataset_pb2.DatasetSpec, rows: int, target: str, timeout_s: float
) -> Preview:
    """The first rows of a dataset, from a fleet. Raises HeadraceError as a stream would."""
    if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
        raise RequestError(f"rows is {rows!r}: it must be an integer from 1 to {MAX_ROWS}")
    request = preprocessor_service_pb2.PreviewBatchRequest(dataset=dataset, row_count=rows)
    with connected(target, timeout_s) as connection:
        return _preview(connection.call("PreviewBatch", request, what="previewing the dataset"))


def _preview(response: preprocessor_service_pb2.PreviewBatchResponse) -> Preview:
    before: list[dict[str, Any]] = [json_format.MessageToDict(row.source) for row in response.rows]
    after: list[dict[str, Any]] = [json_format.MessageToDict(row.output) for row in response.rows]
    return Preview(
        source=tuple(
            PreviewColumn(name, tuple(row.get(name) for row in before))
            for name in sorted({name for row in before for name in row})
        ),
        features=tuple(
            column
            for block in response.output_schema.blocks
            for name in block.features
            for column in _features(block, name, [row.get(name) for row in after])
        ),
        row_count=len(response.rows),
        rows_scanned=response.rows_scanned,
    )


def _features(
    block: batch_pb2.BlockSchema, name: str, rows: Sequence[Any]
) -> Iterator[PreviewColumn]:
    """A feature, and its weights as a column of their own."""
    if not block.weights_dtype:
        yield PreviewColumn(name, tuple(rows), block.name, _dtype(block.dtype))
        return
    dtypes = {"values": block.dtype, "weights": block.weights_dtype}
    for part, dtype in dtypes.items():
        title = name if part == "values" else f"{name} (weights)"
        yield PreviewColumn(title, tuple(row[part] for row in rows), block.name, _dtype(dtype))


def _dtype(number: dataset_pb2.ScalarType) -> str:
    return dataset_pb2.ScalarType.Name(number).removeprefix(_DTYPE_PREFIX).lower()


def _cells(column: PreviewColumn) -> list[str]:
    head = [column.name, column.block, column.dtype] if column.block else [column.name]
    return [*head, *map(_show, column.values)]


def _show(value: Value) -> str:
    """A value in few letters."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
        case str():
            return value if len(value) <= _LETTERS else f"{value[:_LETTERS]}…"
        case list():
            shown = ", ".join(map(_show, value[:_ELEMENTS]))
            more = f", … {len(value):,} in all" if len(value) > _ELEMENTS else ""
            return f"[{shown}{more}]"
        case _:
            # A Struct of protobuf has no order of its own.
            parts = [f"{name}: {_show(part)}" for name, part in sorted(value.items())]
            return "{" + ", ".join(parts) + "}"


def _rich_tables(
    head: Sequence[str], row_names: Sequence[str], columns: Sequence[PreviewColumn], width: int
) -> Iterator[Table]:
    """A table, or several below each other if rows are many; names are not cut for values.

    Rich would take room from all columns alike, and from short ones all of it.
    """
    from rich import box
    from rich.table import Table

    rows = [_cells(column) for column in columns]
    names = [row[: len(head)] for row in rows]
    taken = sum(_GAP + max(map(len, each)) for each in zip(head, *names, strict=True))
    at_once = max(1, (width - taken) // (_GAP + _LEAST_LETTERS))
    for first in range(0, max(1, len(row_names)), at_once):
        shown = slice(first, first + at_once)
        values = [row[len(head) :][shown] for row in rows]
        widths = [max(map(len, each)) for each in zip(row_names[shown], *values, strict=True)]
        limit = max(widths, default=1)
        while limit > 1 and sum(_GAP + min(each, limit) for each in widths) > width - taken:
            limit -= 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in head:
            table.add_column(name, no_wrap=True)
        for name in row_names[shown]:
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=limit)
        for row, cells in zip(names, values, strict=True):
            table.add_row(*row, *cells)
        yield table


def _html_row(kind: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{kind} style='{_CSS}'>{html.escape(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"
