"""preprocessor-server fit: the constants of operations, found in the data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from preprocessor_server.cli_options import reading_options


@click.command()
@click.argument("dataset", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for dataset.yaml, summary.json and vocabularies. Servers read these: keep it "
    "below a data root.",
)
@reading_options
@click.option("--cpu-threads", help="Threads that read and count. Default: the cores.")
@click.option(
    "--memory-mib",
    type=click.IntRange(256),
    default=2048,
    show_default=True,
    help="Memory for rows and counts, in MiB; counts beyond it lie on disk, in a temporary folder "
    "inside the one of --out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json, and no progress.")
def fit(
    dataset: Path,
    out: Path,
    data_root: tuple[Path, ...],
    udf_module: tuple[str, ...],
    udf: str,
    cpu_threads: str | None,
    memory_mib: int,
    as_json: bool,
) -> None:
    """Find the constants that DATASET (a YAML file) leaves open, and write it anew with them.

    It reads the rows once, or as often as a feature has operations to be fitted after each other.
    """
    from preprocessor_server.authoring.reading import load_dataset
    from preprocessor_server.cli import explained
    from preprocessor_server.errors import SettingsError
    from preprocessor_server.fit.run import DATASET, MIB, FitOptions
    from preprocessor_server.fit.run import fit as run
    from preprocessor_server.settings import Settings

    with explained():
        if (out / DATASET).resolve() == dataset.resolve():
            raise SettingsError(
                f"--out {out}: the fitted dataset would replace {dataset} itself; name another "
                "folder"
            )
        settings = Settings.from_env(
            {},
            data_root=data_root or (Path.cwd(), Path("/")),
            udf_module=udf_module or None,
            udf=udf,
            cpu_threads=cpu_threads,
        )
        options = FitOptions(memory_mib * MIB, None if as_json else _progress)
        summary = run(load_dataset(dataset), str(dataset), out, settings, options)
        click.echo((out / "summary.json").read_text() if as_json else _text(summary, out / DATASET))


@contextlib.contextmanager
def _progress(title: str, rows: int) -> Iterator[Callable[[int], None]]:
    import sys

    with click.progressbar(length=rows, label=title, file=sys.stderr) as bar:
        yield bar.update


def _text(summary: dict[str, Any], written: Path) -> str:
    passes = f"{summary['passes']} pass{'' if summary['passes'] == 1 else 'es'}"
    lines = [f"{summary['rows']:,} rows of {summary['files']:,} files, {passes}"]
    width = max(len(each["column"]) for each in summary["fitted"])
    lines += [f"  {each['column']:<{width}}  {_fitted(each)}" for each in summary["fitted"]]
    lines.append(f"wrote {written}")
    return "\n".join(lines)


def _fitted(entry: dict[str, Any]) -> str:
    [(name, constants)] = entry["became"].items()
    if name == "vocabulary":
        return (
            f"vocabulary of {entry['listed']:,} of {entry['distinct']:,} values, "
            f"{entry['share_of_values']:.2%} of what occurs"
        )
    if name == "bucketize":
        boundaries = constants["boundaries"]
        shown = ", ".join(f"{each:g}" for each in boundaries[:8])
        more = ", …" if len(boundaries) > 8 else ""
        return f"bucketize at {shown}{more} (rank error at most {entry['rank_error']:.2%})"
    if name == "fill_null":
        [value] = constants["value"].values()
        return f"fill_null with {value}"
    keys = ("mean", "std") if name == "normalize" else ("min", "max")
    return f"{name} by " + ", ".join(f"{key} {entry[key]:g}" for key in keys)
