"""preprocessor-server: serve, and look at a dataset without a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from google.protobuf import json_format
from google.protobuf.message import Message

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.authoring.reading import load_dataset
from preprocessor_server.cli_check import check
from preprocessor_server.cli_describe import describe
from preprocessor_server.cli_fit import fit
from preprocessor_server.cli_options import Command, reading_options
from preprocessor_server.errors import FleetError, ServerError, SettingsError
from preprocessor_server.settings import ENV_PREFIX, Settings


def main() -> None:
    """The console script."""
    from preprocessor_server.cli_ray import ray

    cli.add_command(ray)
    cli(prog_name="preprocessor-server")


@click.group()
@click.version_option(package_name="headrace")
def cli() -> None:
    """Reads Parquet, transforms features, and streams compact batches to trainers."""


for command_of_its_own in (check, describe, fit):
    cli.add_command(command_of_its_own)


def settings_options(command: Command, but: Collection[str] = ()) -> Command:
    """A flag for every setting, but some."""
    for name, info in reversed(Settings.model_fields.items()):
        if name in but:
            continue
        kind = info.annotation
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        many = name in {"data_root", "udf_module"}
        option = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=click.Choice(choices) if choices else str,
            multiple=many,
            help=f"{info.description}  [env: {ENV_PREFIX}{name.upper()}"
            + (
                f"; default: {info.default}]"
                if info.default not in (None, "")
                and not many
                and not info.is_required()
                and info.default_factory is None
                else "]"
            ),
        )
        command = option(command)
    return command


@cli.command()
@settings_options
def serve(**flags: Any) -> None:
    """Serve until SIGTERM, then drain."""
    from preprocessor_server import telemetry

    with explained():
        for name in ("data_root", "udf_module"):
            flags[name] = flags[name] or None
        settings = Settings.from_env(os.environ, **flags)
        telemetry.configure_logging(settings.log_format, settings.log_level)
        telemetry.log.info("starting", pid=os.getpid(), **_readable(settings))
        from preprocessor_server.server import serve as run

        run(settings)


def _readable(settings: Settings) -> dict[str, Any]:
    return {
        name: [str(part) for part in value] if isinstance(value, tuple) else value
        for name, value in settings.model_dump().items()
    }


def _local_options(command: Command) -> Command:
    command = click.option("--json", "as_json", is_flag=True, help="Print the response as JSON.")(
        command
    )
    command = reading_options(command)
    return click.argument("dataset", type=click.Path(exists=True, dir_okay=False, path_type=Path))(
        command
    )


@cli.command()
@_local_options
@click.option("--batch-size", type=int, default=4096, show_default=True)
@click.option("--num-shards", type=click.IntRange(0, 2**32 - 1), default=0, help="0: the default.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--epoch", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--shuffle/--no-shuffle", default=True, show_default=True)
def plan(
    dataset: Path,
    as_json: bool,
    batch_size: int,
    num_shards: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    **flags: Any,
) -> None:
    """Show how an epoch of DATASET would be dealt to shards."""
    with explained():
        from preprocessor_server import inspect_local

        identity = pb.BatchIdentity(
            batch_size=max(0, min(batch_size, 2**32 - 1)),
            num_shards=num_shards,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
        )
        settings = inspect_local.settings_of(**flags)
        response = inspect_local.plan(load_dataset(dataset), identity, settings)
        show(response, as_json, inspect_local.plan_text)


@cli.command()
@_local_options
@click.option("--rows", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--split",
    default="",
    metavar="FILE,ROW_GROUP,FIRST_ROW,ROW_COUNT",
    help="Run the UDFs on all of one split, in this process and not in workers, so that a "
    "debugger and breakpoint() reach them; an error names the split. Then show its first rows.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="With --split.")
@click.option("--epoch", type=click.IntRange(0, 2**64 - 1), default=0, help="With --split.")
def preview(
    dataset: Path, as_json: bool, rows: int, split: str, seed: int, epoch: int, **flags: Any
) -> None:
    """Show the first rows of DATASET, before and after transformation."""
    with explained():
        from preprocessor_server import inspect_local

        spec, settings = load_dataset(dataset), inspect_local.settings_of(**flags)
        if split:
            identity = pb.BatchIdentity(seed=seed, epoch=epoch)
            response = inspect_local.preview_split_rows(spec, split, identity, rows, settings)
        else:
            response = inspect_local.preview_rows(spec, rows, settings)
        show(response, as_json, inspect_local.preview_text)


M = TypeVar("M", bound=Message)


def show(response: M, as_json: bool, text: Callable[[M], str]) -> None:
    """Prints a message as text, or as JSON."""
    if as_json:
        click.echo(json_format.MessageToJson(response, preserving_proto_field_name=True))
    else:
        click.echo(text(response))


@contextmanager
def explained() -> Iterator[None]:
    """Turns an error of the user's into one message on stderr and exit status 2 or 1."""
    try:
        yield
    except SettingsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except ServerError as error:
        where = f" [{error.field}]" if error.field else ""
        click.echo(f"error: {error.reason}: {error.message}{where}", err=True)
        sys.exit(1)
    except FleetError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
