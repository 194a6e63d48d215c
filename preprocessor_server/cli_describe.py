"""preprocessor-server describe: what a dataset names, and what its columns hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from headrace.v1 import dataset_pb2
from preprocessor_server.cli_options import reading_options

_PARQUET = b"PAR1"


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="DATASET.yaml | PATH...")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the response as JSON.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Look at the rows, and write a page about every column to this file.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Look at about so many rows at most, the first ones of evenly spread row groups.",
)
def describe(
    sources: tuple[str, ...],
    as_json: bool,
    page: Path | None,
    rows: int,
    **flags: Any,
) -> None:
    """Show what DATASET (a YAML file) names: schema, counts, snapshot.

    With --html, or of PATHs (Parquet files, folders, globs), show what every column holds: nulls,
    distribution, distinct and frequent values, lengths of lists, runs of equal values. Filter,
    functions and operations of a dataset play no part in that.
    """
    from preprocessor_server import inspect_local
    from preprocessor_server.authoring.reading import load_dataset
    from preprocessor_server.cli import explained, show
    from preprocessor_server.report.gather import gather
    from preprocessor_server.report.page import report_html
    from preprocessor_server.report.text import report_text

    dataset = Path(sources[0]) if len(sources) == 1 and _is_dataset(sources[0]) else None
    if as_json and (page or not dataset):
        raise click.UsageError(
            "--json is of what a DATASET names; leave it out, or --html and PATH"
        )
    with explained():
        settings = inspect_local.settings_of(**flags)
        if dataset is not None and page is None:
            response = inspect_local.describe(load_dataset(dataset), settings)
            show(response, as_json, inspect_local.describe_text)
            return
        parquet = dataset_pb2.ParquetSource(paths=sources)
        spec = dataset_pb2.DatasetSpec(source=dataset_pb2.Source(parquet=parquet))
        if dataset is not None:
            spec = load_dataset(dataset)
        with _progress(rows) as report:
            found = gather(spec, " ".join(sources), settings, rows, report)
        if page is None:
            click.echo(report_text(found))
            return
        written = page.with_name(f".{page.name}.part")
        try:
            written.write_text(report_html(found), encoding="utf-8")
            written.replace(page)
        finally:
            written.unlink(missing_ok=True)
        click.echo(f"wrote {page}: {len(found.columns):,} columns, {found.rows_read:,} rows read")


def _is_dataset(source: str) -> bool:
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_PARQUET)) != _PARQUET


@contextlib.contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], None]]:
    with click.progressbar(length=rows, label="reading", file=sys.stderr) as bar:
        yield bar.update
