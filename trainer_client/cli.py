"""trainer-client: looks at a fleet from the trainer's side."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

import click

from trainer_client.cli_tls import NAMES as TLS_NAMES
from trainer_client.cli_tls import tls_options
from trainer_client.cli_verify import show, verify
from trainer_client.errors import HeadraceError
from trainer_client.tls import Tls

if TYPE_CHECKING:
    from trainer_client.batch import Batch
    from trainer_client.stream import BatchStream
    from trainer_client.telemetry import StreamStats

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143


@click.group()
@click.version_option(package_name="headrace")
def cli() -> None:
    """Pulls batches from preprocessing servers, and proves what runs were given."""


cli.add_command(verify)
cli.add_command(show)


@cli.command()
@click.argument("dataset", type=click.Path(dir_okay=False))
@click.option("--target", required=True, help="local://N, static:///h:p, dns:///n:p, ray:///n.")
@click.option("--batch-size", type=click.IntRange(1, 1 << 20), required=True, help="Rows.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--shuffle/--no-shuffle", default=True, show_default=True)
@click.option("--num-shards", type=click.IntRange(1), help="Default: chosen from the data.")
@click.option("--interleave", type=click.IntRange(1), default=4, show_default=True)
@click.option("--prefetch-bytes", type=click.IntRange(1), default=256 << 20, show_default=True)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
    help="Seconds without any progress after which to give up.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object an epoch, and no bar.")
@click.option("--metrics-listen", metavar="HOST:PORT", help="Serves Prometheus metrics there.")
@tls_options
def pull(
    dataset: str,
    *,
    target: str,
    batch_size: int,
    epochs: int,
    seed: int,
    shuffle: bool,
    num_shards: int | None,
    interleave: int,
    prefetch_bytes: int,
    timeout: float,
    as_json: bool,
    metrics_listen: str | None,
    tls: Tls | None,
) -> None:
    """Drains DATASET (a YAML file) as a trainer would, and says how fast it came."""
    # Imported here so that --help and wrong usage answer at once, without torch.
    from trainer_client.dataset import Dataset
    from trainer_client.stream import BatchStream

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    with _serving_metrics(metrics_listen):
        stream = BatchStream(
            Dataset.from_yaml(dataset),
            target=target,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            num_shards=num_shards,
            interleave=interleave,
            prefetch_bytes=prefetch_bytes,
            timeout=timeout,
            tls=tls,
        )
        said: set[str] = set()
        with stream:
            for epoch in range(epochs):
                asked_s = time.monotonic()
                stream.set_epoch(epoch)
                # Starting local servers and planning are no one's throughput: not on the clock.
                row_count = stream.row_count()
                for note in stream.plan_notes():
                    if note not in said:
                        click.secho(f"note: {note}", dim=True, err=True)
                        said.add(note)
                before, began_s = stream.stats(), time.monotonic()
                if as_json:
                    for _ in stream:
                        pass
                else:
                    _drain_with_bar(stream, epoch, row_count)
                figures = {
                    **_figures(epoch, before, stream.stats(), time.monotonic() - began_s),
                    "planning_seconds": round(began_s - asked_s, 3),
                }
                if as_json:
                    click.echo(json.dumps(figures))
                else:
                    _print_epoch(figures)


@cli.command()
@click.argument("dataset", type=click.Path(dir_okay=False))
@click.option(
    "--seconds", type=click.FloatRange(1.0), default=10.0, show_default=True,
    help="How long to draw batches, once the first ones are there.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@tls_options
def explain(dataset: str, *, seconds: float, as_json: bool, **options: Any) -> None:
    """Draws batches of DATASET (a YAML file) and says what bounds their rate.

    As fast as they come: what a training step takes is not in it (stream.explain() in the training
    loop has that too).
    """
    from trainer_client.dataset import Dataset
    from trainer_client.stream import BatchStream

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    with BatchStream(Dataset.from_yaml(dataset), **options) as stream:
        batches = _endless(stream)
        # How a stream begins is not how it goes on.
        for _ in range(options["interleave"]):
            next(batches)
        stream.explain()
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            next(batches)
        explanation = stream.explain()
    click.echo(json.dumps(explanation.to_dict()) if as_json else str(explanation))


# What a stream is opened with is the same for both.
explain.params += [
    option
    for option in pull.params
    if option.name not in {"dataset", "epochs", "as_json", "metrics_listen", *TLS_NAMES}
]


def _endless(stream: BatchStream) -> Iterator[Batch]:
    """The batches of one epoch after another. Raises ClickException if an epoch has none."""
    while True:
        batch = None
        for batch in stream:
            yield batch
        if batch is None:
            raise click.ClickException("no row passes the dataset's filter: there is no batch")


def main() -> NoReturn:
    """Runs the command line: exit code 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    try:
        sys.exit(cli.main(prog_name="trainer-client", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_ERROR)


@contextlib.contextmanager
def _serving_metrics(listen: str | None) -> Iterator[None]:
    if listen is None:
        yield
        return
    from trainer_client.telemetry import serve_metrics

    try:
        server = serve_metrics(listen)
    except (OSError, ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"metrics cannot be served on {listen}: {error}", param_hint="--metrics-listen"
        ) from error
    click.echo(f"metrics on port {server.port}", err=True)
    try:
        yield
    finally:
        server.close()


def _drain_with_bar(stream: BatchStream, epoch: int, row_count: int | None) -> None:
    from rich.columns import Columns
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Rates(ProgressColumn):
        def render(self, task: Task) -> Text:
            stats, elapsed = stream.stats(), task.elapsed or 0.0
            if not elapsed:
                return Text("waiting for the first batch")
            rows, sent = task.completed / elapsed, stats.wire_bytes - before.wire_bytes
            waited = (stats.wait_s - before.wait_s) / elapsed
            return Text(
                f"{rows:,.0f} examples/s  {sent / elapsed / 1e6:.1f} MB/s  "
                f"waiting {min(1.0, waited):.0%}"
            )

    class WithServers(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            elapsed = self.tasks[0].elapsed if self.tasks else None
            if elapsed:
                yield Columns(
                    [
                        Text(server_figure(address, rows / elapsed), style="dim", no_wrap=True)
                        for address, rows in _rows_since(before, stream.stats()).items()
                    ],
                    padding=(0, 3),
                )

    before = stream.stats()
    columns = (TextColumn("epoch {task.description}"), BarColumn(), Rates())
    with WithServers(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(str(epoch), total=row_count)
        for batch in stream:
            progress.advance(task, batch.batch_size)


def server_figure(address: str, rows_per_s: float) -> str:
    """A server's rate in few letters; a local one's socket says no more than its name."""
    name = PurePath(address).stem if address.startswith("unix:") else address
    rate = f"{rows_per_s / 1e3:.1f}k" if rows_per_s >= 1e3 else f"{rows_per_s:.0f}"
    return f"{name} {rate}/s"


def _rows_since(before: StreamStats, after: StreamStats) -> dict[str, int]:
    old = before.servers
    return {
        address: stats.rows - (old[address].rows if address in old else 0)
        for address, stats in after.servers.items()
    }


def _figures(
    epoch: int, before: StreamStats, after: StreamStats, seconds: float
) -> dict[str, object]:
    """What one epoch took; rates are over all of its time, waiting included."""
    names = (
        "rows", "batches", "wire_bytes", "arena_bytes", "retries", "moves", "refetches",
        "hedges", "hedges_won", "padded_batches",
        "left_out_batches", "left_out_rows", "dropped_batches", "dropped_rows",
    )  # fmt: skip
    counts: dict[str, int] = {n: getattr(after, n) - getattr(before, n) for n in names}
    servers = {}
    for address, stats in after.servers.items():
        old = before.servers.get(address)
        servers[address] = {
            "rows": stats.rows - (old.rows if old else 0),
            "batches": stats.batches - (old.batches if old else 0),
            "wire_bytes": stats.wire_bytes - (old.wire_bytes if old else 0),
        }
    return {
        "epoch": epoch,
        "seconds": round(seconds, 3),
        "examples_per_s": round(counts["rows"] / seconds, 1),
        "wire_mb_per_s": round(counts["wire_bytes"] / seconds / 1e6, 3),
        "wait_share": round(min(1.0, (after.wait_s - before.wait_s) / seconds), 4),
        **counts,
        "servers": servers,
    }


def _print_epoch(figures: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        "epoch {epoch}: {rows:,} examples in {batches:,} batches, {seconds:.2f} s: "
        "{examples_per_s:,.0f} examples/s, {wire_mb_per_s:.1f} MB/s on the wire, waiting "
        "{wait_share:.0%}; {retries} retries, {refetches} refetches; left out {left_out_rows} to "
        "keep ranks in step, {dropped_rows} by drop_last".format_map(figures),
        highlight=False,
    )
    table = Table()
    table.add_column("server", overflow="fold")
    for name in ("examples", "batches", "MB on the wire"):
        table.add_column(name, justify="right")
    servers = figures["servers"]
    assert isinstance(servers, dict)
    for address, row in servers.items():
        megabytes = f"{row['wire_bytes'] / 1e6:.1f}"
        table.add_row(address, f"{row['rows']:,}", f"{row['batches']:,}", megabytes)
    console.print(table)
