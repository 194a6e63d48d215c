"""The picture of bench_end_to_end: rate and CPU of every system in every layout."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.harness import measured
from benchmarks.plot_parts import LAYOUTS, Result, figure_of

SYSTEMS = {
    "headrace": "Headrace",
    "headrace_as_sent": "Headrace, as sent",
    "headrace_shuffled": "Headrace, shuffled",
    "tfdata": "tf.data service",
    "raydata": "Ray Data",
    "raydata_rows": "Ray Data, by rows",
    "flight": "Arrow Flight, zstd",
    "flight_uncompressed": "Arrow Flight, plain",
    "dataloader": "torch DataLoader",
    "decode_only": "pyarrow decode alone, 2 threads",
    "decode_one_thread": "pyarrow decode alone, 1 thread",
}
OWN_SHADES = dict(zip(LAYOUTS, ("#0d2f54", "#1f5fa8", "#7fb0e0"), strict=True))
OTHER_SHADES = dict(zip(LAYOUTS, ("#4a4a4a", "#8a8a8a", "#c4c4c4"), strict=True))
# A group of three bars takes this much of the place between two systems.
GROUP = 0.8


def plot_end_to_end(results: Sequence[Result]) -> Figure:
    """Examples a second, and CPU of both sides, a group of bars a system, a bar a layout."""
    layouts = [name for name in LAYOUTS if any(each["layout"] == name for each in results)]
    systems = [name for name in SYSTEMS if any(each["system"] == name for each in results)]
    figure, (rates, costs) = figure_of(13, 1.8 + 0.2 * len(systems) * len(layouts), 2)
    for result in results:
        group, bar = systems.index(result["system"]), layouts.index(result["layout"])
        height = GROUP / len(layouts)
        place = group - GROUP / 2 + (bar + 0.5) * height
        shades = OWN_SHADES if result["system"].startswith("headrace") else OTHER_SHADES
        _rate(rates, place, height, result, shades[result["layout"]])
        _cost(costs, place, height, result, shades[result["layout"]])
    for axes, unit in (
        (rates, "thousand examples/s (median; slowest to fastest run)"),
        (costs, "CPU seconds per million examples (hatched: the trainer's side)"),
    ):
        axes.set_yticks(range(len(systems)), [SYSTEMS[name] for name in systems])
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * axes.get_xlim()[1])
        axes.set_xlabel(unit)
    costs.set_yticklabels([])
    # The second panel has most room where its shortest bars are: beside Headrace.
    costs.legend(
        handles=[
            Patch(color=shades[name], label=f"{whose}{name}")
            for whose, shades in (("Headrace, ", OWN_SHADES), ("others, ", OTHER_SHADES))
            for name in layouts
        ],
        loc="upper right",
    )
    figure.suptitle("homefeed from Parquet to tensors: server and trainer on one machine")
    return figure


def _rate(axes: Axes, place: float, height: float, result: Result, colour: str) -> None:
    figure = measured([rate / 1e3 for rate in result["examples_per_s"]], "thousand/s")
    middle = figure["median"]
    whiskers = [[middle - figure["min"]], [figure["max"] - middle]]
    axes.barh(
        place,
        middle,
        0.92 * height,
        xerr=whiskers,
        color=colour,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#c0392b"},
    )
    _label(axes, figure["max"], place, f"{middle:,.0f}")


def _cost(axes: Axes, place: float, height: float, result: Result, colour: str) -> None:
    spent = result["cpu_s_per_million"]
    axes.barh(place, spent["server"], 0.92 * height, color=colour)
    axes.barh(
        place,
        spent["client"],
        0.92 * height,
        left=spent["server"],
        color=colour,
        hatch="/////",
        edgecolor="white",
        linewidth=0,
    )
    both = spent["server"] + spent["client"]
    _label(axes, both, place, f"{both:.2f}")


def _label(axes: Axes, end: float, place: float, text: str) -> None:
    axes.annotate(
        text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7
    )
