"""preprocessor-server check: every mistake in a dataset's file, with its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from preprocessor_server.authoring.check import Report

EXIT_FINE, EXIT_MISTAKES, EXIT_CANNOT_LOOK = 0, 1, 2


@click.command()
@click.argument("dataset", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data-root",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that relative paths start at (the first) and files may be read from. "
    "Default: this folder, then /.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Parquet files to check against in place of those that the dataset names.",
)
@click.option("--no-data", is_flag=True, help="Check the structure alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for editors.")
def check(
    dataset: Path, data_root: tuple[Path, ...], data: Path | None, no_data: bool, as_json: bool
) -> None:
    """Find every mistake in DATASET (a YAML file), each with its place and the way out.

    Exit code 0: none; 1: some; 2: cannot look.
    """
    if (data is not None) + no_data + bool(data_root) > 1:
        raise click.UsageError(
            "give one of --data-root (where the dataset's paths start), --data (other files "
            "instead of them) and --no-data"
        )
    from preprocessor_server.authoring.check import CannotLookError, Data
    from preprocessor_server.authoring.check import check as run
    from preprocessor_server.authoring.reading import read_file

    where = None if no_data else Data(data_root or (Path.cwd(), Path("/")), data)
    try:
        report = run(read_file(dataset), where)
    except OSError as error:
        click.echo(f"error: {dataset}: {error.strerror}; grant it, or name another file", err=True)
        sys.exit(EXIT_CANNOT_LOOK)
    except CannotLookError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CANNOT_LOOK)
    click.echo(json.dumps(_json(report)) if as_json else _text(report))
    sys.exit(EXIT_MISTAKES if report.mistakes else EXIT_FINE)


def _text(report: Report) -> str:
    lines = [f"{report.name}:{mistake}" for mistake in report.mistakes]
    count = len(report.mistakes)
    lines.append(f"{report.name}: {count or 'no'} mistake{'' if count == 1 else 's'}")
    lines += [f"  checked: {what}" for what in report.checked]
    lines += [f"  not checked: {what}" for what in report.not_checked]
    return "\n".join(lines)


def _json(report: Report) -> dict[str, Any]:
    return {
        "file": report.name,
        "mistakes": [
            {
                **mistake.place._asdict(),
                "field": mistake.field,
                "reason": mistake.reason,
                "message": mistake.message,
            }
            for mistake in report.mistakes
        ],
        "checked": report.checked,
        "not_checked": report.not_checked,
    }
