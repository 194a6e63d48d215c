"""Writes the README's table of bench_end_to_end, and draws the picture above it.

    python benchmarks/readme.py [benchmarks/results/end_to_end.json]

What stands in README.md between the two markers is replaced by what the results say; a test holds
the README to the file that is committed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot import draw_file
from benchmarks.plot_end_to_end import SYSTEMS
from benchmarks.plot_parts import LAYOUTS, Result

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "end_to_end.json"
BEGIN, END = "<!-- benchmarks/readme.py writes this -->", "<!-- up to here -->"
COLUMNS = ("thousand/s", "CPU s/M", "B/example")


def block(content: dict[str, Any]) -> str:
    """The Markdown of a results file: picture, table, how it was taken, files and settings."""
    found = {(each["system"], each["layout"]): each for each in content["results"]}
    layouts = [layout for layout in LAYOUTS if any(layout == other for _, other in found)]
    systems = [system for system in SYSTEMS if any(system == other for other, _ in found)]
    headings = [""]
    for layout in layouts:
        headings += [f"{layout}: {COLUMNS[0]}", *COLUMNS[1:]]
    figures, settings = [], []
    for system in systems:
        results = [found.get((system, layout)) for layout in layouts]
        figures.append([SYSTEMS[system], *(cell for each in results for cell in cells(each))])
        settings.append([SYSTEMS[system], *map(chosen, results)])
    return "\n\n".join(
        [
            "![Rate and CPU of Headrace and other loaders](benchmarks/results/end_to_end.png)",
            table(headings, figures, "---:"),
            conditions(content),
            "<details><summary>Files and settings of each</summary>",
            table(["", *layouts], settings, "---"),
            "</details>",
        ]
    )


def cells(result: Result | None) -> list[str]:
    """COLUMNS of a result; dashes for one that there is not."""
    if result is None:
        return ["-"] * len(COLUMNS)
    spent, wire = result["cpu_s_per_million"], result["wire_bytes_per_example"]
    return [
        f"{result['examples_per_s_median'] / 1e3:,.0f}",
        f"{spent['server']:.2f} + {spent['client']:.2f}",
        "-" if wire is None else f"{wire:,.0f}",
    ]


def chosen(result: Result | None) -> str:
    """The files and settings of a result."""
    if result is None:
        return "-"
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return f"{result['files']}; {settings}"


def conditions(content: dict[str, Any]) -> str:
    """What the figures are, and on what they were taken."""
    results, machine = content["results"], content["machine"]
    runs = min(len(each["examples_per_s"]) for each in results)
    rows = min(each["rows"] for each in results)
    shortest_s = min(second for each in results for second in each["run_seconds"])
    form = "The quick form, for a first look" if content["quick"] else "The full form"
    orders = ""
    if any(each["settings"].get("shuffle") for each in results):
        orders = (
            " None of them shuffles the rows of a row group, other than Headrace *shuffled*, "
            "as it does unless told otherwise."
        )
    return (
        f"{form}: {rows:,} rows, batches of 4,096; medians of {runs} run{'s' * (runs > 1)} of "
        f"{shortest_s:.1f} s or longer, each a process and an epoch of its own; "
        f"{machine['cpus']} cores of {machine['cpu']}, shared by server and trainer; "
        f"{content['taken'][:10]}. CPU: server + trainer." + orders
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], rule: str) -> str:
    """A Markdown table; rule aligns all columns but the first."""
    rules = ["---", *[rule] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(each)} |" for each in (headings, rules, *rows))


def written(readme: str, content: dict[str, Any]) -> str:
    """A README with the block of a results file between its markers. Raises ValueError."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README lacks a line {BEGIN!r} and after it {END!r}")
    return f"{before}{BEGIN}\n\n{block(content)}\n\n{END}{after}"


def main() -> None:
    """Writes the README, draws the picture."""
    parser = argparse.ArgumentParser(description="Write the README's table and draw its picture")
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    results = parser.parse_args().results
    README.write_text(written(README.read_text(), json.loads(results.read_text())))
    draw_file(results, "end_to_end", RESULTS.with_suffix(".png"))
    print(f"{README}: the table of {results}")


if __name__ == "__main__":
    main()
