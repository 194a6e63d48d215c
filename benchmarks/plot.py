"""Draws a picture of every benchmark whose JSON is there.

python benchmarks/plot.py [benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.harness import measured
from benchmarks.plot_end_to_end import plot_end_to_end
from benchmarks.plot_formats import (
    plot_decode,
    plot_fleet_events,
    plot_jagged,
    plot_memory,
    plot_ops,
    plot_stalled_streams,
    plot_startup,
    plot_wire,
)
from benchmarks.plot_parts import (
    LAYOUTS,
    OTHER,
    OTHER_LIGHT,
    OWN,
    OWN_LIGHT,
    Bar,
    Result,
    bars,
    figure_of,
    line,
    of_layout,
    scaled,
)

STAGE_COLOURS = {
    "read": "#0d2f54",
    "transform": "#1f5fa8",
    "cut": "#3f83c9",
    "encode": "#6ba3dc",
    "compress": "#9cc4ec",
    "send": "#cfe3f7",
    "receive": "#fbe0c3",
    "decompress": "#e59a4c",
    "decode": "#c97520",
    "expand": "#8a4d10",
}


def plot_stages(results: Sequence[Result]) -> Figure:
    """CPU of each stage, stacked: server, client, and decoding alone."""
    names = [name for name in results[0]["cpu_s_per_million"] if "alone" not in name]
    names.sort(key=list(STAGE_COLOURS).index)
    figure, (axes,) = figure_of(11, 4.2, 1)
    labels: list[str] = []
    for layout in LAYOUTS:
        for result in of_layout(results, layout):
            times = result["cpu_s_per_million"]
            alone = times["parquet decode alone"]["median"]
            axes.barh(
                len(labels), alone, color=OTHER_LIGHT, label=None if labels else "decode alone"
            )
            labels.append(f"{layout}: Parquet decode alone")
            left = 0.0
            for name in names:
                width = max(0.0, times[name]["median"])
                label = name if len(labels) == 1 else None
                axes.barh(len(labels), width, left=left, color=STAGE_COLOURS[name], label=label)
                left += width
            axes.text(left + 0.02, len(labels), f"{left:.2f}", va="center", fontsize=8)
            labels.append(f"{layout}: server and client")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds per million examples, one thread (medians)")
    axes.set_title("What each stage costs")
    axes.legend(ncols=1, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_layouts(results: Sequence[Result]) -> Figure:
    """Size of the files, CPU of reading them, and rate end to end."""
    figure, panels = figure_of(13, 3.0, 3)
    firsts = [next(iter(of_layout(results, layout)), None) for layout in LAYOUTS]
    known = [result for result in firsts if result is not None]
    sizes = [
        Bar(each["layout"], measured([each["file_bytes_per_example"]], "B"), OTHER)
        for each in known
    ]
    bars(panels[0], sizes, "bytes per example in Parquet files")
    reads = [Bar(each["layout"], each["read_cpu_s_per_million"], OTHER) for each in known]
    bars(panels[1], reads, "CPU s per million examples, decoding alone", "{:.2f}")
    rates = [
        Bar(
            f"{each['layout']}, {each['mode']}",
            scaled(each["examples_per_s"], 1e-3),
            OWN if each["mode"] == "expanded" else OWN_LIGHT,
        )
        for each in results
    ]
    bars(panels[2], rates, "thousand examples/s end to end")
    figure.suptitle("The same rows in three layouts")
    return figure


def plot_trainer_cost(results: Sequence[Result]) -> Figure:
    """Speed that a training loop keeps, and CPU of feeding it, a panel a layout."""
    layouts = [layout for layout in LAYOUTS if of_layout(results, layout)]
    figure = Figure(figsize=(13, 5), layout="constrained")
    panels = figure.subplots(2, len(layouts), squeeze=False)
    rows: tuple[tuple[str, Callable[[Result], Result], str], ...] = (
        ("% of the speed alone", lambda r: scaled(r["speed_kept"], 100), "{:.1f}"),
        ("CPU s per million examples", lambda r: r["cpu_s_per_million"], "{:.2f}"),
    )
    for (unit, of, form), row in zip(rows, panels, strict=True):
        for axes, layout in zip(row, layouts, strict=True):
            values = [
                Bar(r["system"], of(r), OWN if r["system"].startswith("headrace") else OTHER_LIGHT)
                for r in of_layout(results, layout)
            ]
            bars(axes, values, unit, form)
            axes.set_title(layout)
            if axes is not row[0]:
                axes.set_yticklabels([])
    figure.suptitle("A busy Python training loop, fed 200,000 examples/s")
    return figure


def plot_fan_in(results: Sequence[Result]) -> Figure:
    """Rate against servers, beside what is linear; and the cores that the client takes."""
    figure, panels = figure_of(11, 3.8, 2)
    growing = [result for result in results if result["mode"] == "growing"]
    parted = [result for result in results if result["mode"] == "parted"]
    counts = [result["servers"] for result in growing]
    line(panels[0], counts, [scaled(r["examples_per_s"], 1e-3) for r in growing], OWN, "measured")
    slope = growing[0]["examples_per_s"]["median"] / growing[0]["servers"] / 1e3
    panels[0].plot(counts, [slope * n for n in counts], "--", color=OTHER, label="linear")
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("thousand examples/s")
    panels[0].set_title("each server limited to 25,000 examples/s")
    line(panels[1], counts, [r["client_cpu_share"] for r in parted], OWN, "client")
    panels[1].set_ylabel("cores that the client takes")
    panels[1].set_ylim(bottom=0)
    panels[1].set_title("all servers together limited to 200,000 examples/s")
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.set_xlabel("servers")
        axes.legend()
    figure.suptitle("Many servers into one client")
    return figure


def plot_workloads(results: Sequence[Result]) -> Figure:
    """Rates of the other workloads beside decoding alone."""
    figure, (axes,) = figure_of(9, 3.4, 1)
    values = []
    for result in results:
        rate = scaled(result["examples_per_s"], 1e-3)
        alone = scaled(result["decode_rows_per_s"], 1e-3)
        values += [
            Bar(result["case"], rate, OWN),
            Bar("pyarrow decode alone, one thread", alone, OTHER_LIGHT),
        ]
    bars(axes, values, "thousand examples/s")
    axes.set_title("Strings to hash, and a table of 200 columns")
    return figure


PLOTS: dict[str, Callable[[Sequence[Result]], Figure]] = {
    "end_to_end": plot_end_to_end,
    "stages": plot_stages,
    "layouts": plot_layouts,
    "wire": plot_wire,
    "decode": plot_decode,
    "jagged": plot_jagged,
    "trainer_cost": plot_trainer_cost,
    "fan_in": plot_fan_in,
    "fleet_events": plot_fleet_events,
    "memory": plot_memory,
    "startup": plot_startup,
    "stalled_streams": plot_stalled_streams,
    "workloads": plot_workloads,
    "ops": plot_ops,
}


def draw(folder: Path) -> list[Path]:
    """Draws what can be drawn of a folder's JSON files, quick forms too; the pictures."""
    sources = [
        (name, source)
        for name in PLOTS
        for source in (folder / f"{name}.json", folder / f"{name}.quick.json")
        if source.exists()
    ]
    return [draw_file(source, name, source.with_suffix(".png")) for name, source in sources]


def draw_file(source: Path, name: str, picture: Path) -> Path:
    """Draws the picture of one benchmark's JSON file; the picture."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        PLOTS[name](json.loads(source.read_text())["results"]).savefig(picture, dpi=130)
    return picture


def main() -> None:
    """Draws, and says what."""
    parser = argparse.ArgumentParser(description="Draw the benchmarks' results")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    for picture in draw(parser.parse_args().folder):
        print(picture)


if __name__ == "__main__":
    main()
