"""trainer-client verify and show: what runs trained on, from their ledgers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer_client.cli_tls import tls_options
from trainer_client.errors import HeadraceError, RequestError
from trainer_client.tls import Tls

if TYPE_CHECKING:
    from trainer_client.batch import Batch

EXIT_SAME, EXIT_DIFFERENT, EXIT_UNKNOWN = 0, 1, 2
FOLDER = click.Path(path_type=Path)
_TARGET = click.option(
    "--target", help="The servers to ask. Default: those that the run used last."
)
_SNAPSHOTS = click.option(
    "--snapshot-dir",
    type=FOLDER,
    help="Where the run kept its snapshot. Default: your cache.",
)
_TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
    help="Seconds without any progress after which to give up.",
)  # fmt: skip


@click.command()
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER, required=False)
@click.option("--complete", is_flag=True, help="Check A against the plans of its epochs.")
@_TARGET
@_SNAPSHOTS
@_TIMEOUT
@tls_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(
    a: Path,
    b: Path | None,
    *,
    complete: bool,
    target: str | None,
    snapshot_dir: Path | None,
    timeout: float,
    tls: Tls | None,
    as_json: bool,
) -> None:
    """Says whether runs A and B trained on the same bytes, or where they first part.

    A and B are the folders that their streams' ledger= named. With --complete and A alone: whether
    every row of its plan arrived exactly once.

    Exit code 0: the same (complete); 1: different (rows lost or doubled); 2: cannot tell.
    """
    if complete == (b is not None):
        raise click.UsageError(
            "give two runs to compare them, or one run and --complete to check it against its plan"
        )
    with _errors_mean_unknown():
        if b is not None:
            sys.exit(_compare(a, b, as_json=as_json))
        sys.exit(_complete(a, target, snapshot_dir, timeout, tls, as_json=as_json))


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--epoch", type=click.IntRange(0), required=True)
@click.option("--shard", type=click.IntRange(0), required=True)
@click.option("--index", type=click.IntRange(0), required=True, help="Of the batch in its shard.")
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="Rows to print.")
@_TARGET
@_SNAPSHOTS
@_TIMEOUT
@tls_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(
    run: Path,
    *,
    epoch: int,
    shard: int,
    index: int,
    rows: int,
    target: str | None,
    snapshot_dir: Path | None,
    timeout: float,
    tls: Tls | None,
    as_json: bool,
) -> None:
    """Fetches a batch that RUN's ledger names, and compares it with what the ledger says of it.

    Exit code 0: the same as in the ledger, or not in it; 1: the servers give other values today;
    2: cannot tell.
    """
    with _errors_mean_unknown():
        found = _fetch(run, (epoch, shard, index), rows, target, snapshot_dir, timeout, tls)
        if as_json:
            click.echo(json.dumps(found))
        else:
            _print_batch(found)
        sys.exit(EXIT_DIFFERENT if found["ledger"] not in {None, found["content"]} else EXIT_SAME)


@contextlib.contextmanager
def _errors_mean_unknown() -> Iterator[None]:
    """An error says nothing about the runs: exit code 2."""
    try:
        yield
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_UNKNOWN)


def _compare(a: Path, b: Path, *, as_json: bool) -> int:
    from trainer_client.ledger.run import load
    from trainer_client.verify import compare, report

    left, right = load(a), load(b)
    found = compare.compare(left, right)
    if as_json:
        value = {"verdict": found.verdict, **asdict(found)}
        for epoch, result in zip(value["epochs"], found.epochs, strict=True):
            for name, run in (("a", left), ("b", right)):
                place = getattr(result.first, name, None)
                if place is not None:
                    epoch["first"][name]["show"] = report.show_command(run, place)
        click.echo(json.dumps(value))
    else:
        for line in report.comparison_lines(left, right, found):
            click.echo(line)
    return {compare.SAME: EXIT_SAME, compare.DIFFERENT: EXIT_DIFFERENT}.get(
        found.verdict, EXIT_UNKNOWN
    )


def _complete(
    a: Path,
    target: str | None,
    snapshot_dir: Path | None,
    timeout: float,
    tls: Tls | None,
    *,
    as_json: bool,
) -> int:
    from trainer_client.ledger.run import load
    from trainer_client.verify import complete, report
    from trainer_client.verify.served import connected

    run = load(a)
    with connected(run, target, snapshot_dir, timeout, tls) as served:
        reports = complete.check(run, served.shards)
    verdict = complete.verdict_of(reports, run)
    if as_json:
        value = {
            "verdict": verdict,
            "steps": run.steps,
            "rolled_back": run.rolled_back,
            "problems": run.problems,
            "epochs": [asdict(each) for each in reports],
        }
        click.echo(json.dumps(value))
    else:
        for line in report.complete_lines(run, reports):
            click.echo(line)
    return {complete.COMPLETE: EXIT_SAME, complete.FAULTY: EXIT_DIFFERENT}.get(
        verdict, EXIT_UNKNOWN
    )


def _fetch(
    folder: Path,
    batch: tuple[int, int, int],
    rows: int,
    target: str | None,
    snapshot_dir: Path | None,
    timeout: float,
    tls: Tls | None,
) -> dict[str, Any]:
    from trainer_client.ledger.lines import HASH_MASK
    from trainer_client.ledger.run import load
    from trainer_client.verify.served import connected
    from trainer_client.verify.table import Table, key

    number, shard, index = batch
    run = load(folder)
    if number not in run.epochs:
        known = ", ".join(map(str, run.epochs)) or "none"
        raise RequestError(f"{folder} holds nothing of epoch {number}; there is {known}")
    table = Table(run.epochs[number])
    row = table.first_of(table.where(key(shard, index)))
    place = None if row is None else table.place(row)
    cursor = None if place is None else place.cursor
    with connected(run, target, snapshot_dir, timeout, tls) as served:
        fetched = served.fetch(run.epochs[number], shard, index, cursor)
    found = fetched.value
    return {
        "epoch": number,
        "shard": shard,
        "index": index,
        "row_count": found.batch_size,
        "cursor": found.cursor.to_json(),
        "next_cursor": found.next_cursor.to_json(),
        "content": f"{found.content_checksum & HASH_MASK:08x}",
        "ledger": None if place is None else place.content,
        "at": None if place is None else str(place),
        "server": fetched.server,
        "rows": [_row(found, at) for at in range(min(rows, found.batch_size))],
    }


def _row(batch: Batch, at: int) -> dict[str, Any]:
    """The values of a row, by feature."""
    values: dict[str, Any] = {}
    for name in batch:
        feature = batch[name]
        if hasattr(feature, "to_list"):
            values[name] = feature.to_list()[at]
        else:
            values[name] = feature[at].item()
    return values


def _print_batch(found: dict[str, Any]) -> None:
    click.echo(
        f"epoch {found['epoch']}, batch {found['index']:,} of shard {found['shard']}: "
        f"{found['row_count']:,} rows from {found['server']}"
    )
    for name in ("cursor", "next_cursor"):
        split, row, offset, batch = found[name]
        where = f"split {split}, Parquet row {row:,}, offset {offset}, batch {batch:,}"
        click.echo(f"  {name.replace('_', ' ')}: {where}")
    content, ledger = found["content"], found["ledger"]
    if ledger is None:
        click.echo(f"  content {content}; this run's ledger has no such batch")
    elif ledger == content:
        click.echo(f"  content {content}, as the ledger has it at {found['at']}")
    else:
        click.echo(f"  content {content}, but the ledger has {ledger} at {found['at']}:")
        click.echo("  the servers give other values today than the run was given")
    for row in found["rows"]:
        click.echo(json.dumps(row))
