"""Options that commands share which read files without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from preprocessor_server.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def reading_options(command: Command) -> Command:
    """--data-root, --udf and --udf-module: where files lie, and which functions may run."""
    command = click.option(
        "--udf-module",
        multiple=True,
        help="Module whose functions the dataset may run (UDFs), with those of the modules below "
        "it.",
    )(command)
    command = click.option(
        "--udf",
        type=click.Choice(get_args(Settings.model_fields["udf"].annotation)),
        default="modules",
        show_default=True,
        help="upload: run the code too that the dataset carries (UDFs), on this machine.",
    )(command)
    return click.option(
        "--data-root",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder that relative paths start at (the first) and files may be read from. "
        "Default: this folder, then /.",
    )(command)
