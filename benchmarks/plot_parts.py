"""What the pictures are made of: bars and lines with whiskers, in the same colours everywhere.

Bars and points are medians, whiskers go from the slowest to the fastest run. What is Headrace's own
is blue, what it is compared with is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import measured

OWN, OWN_LIGHT, OTHER, OTHER_LIGHT = "#1f5fa8", "#7fb0e0", "#6b6b6b", "#b9b9b9"
LAYOUTS = ("logged", "clustered", "grouped")

Result = dict[str, Any]


class Bar(NamedTuple):
    """One bar: what it is called, its figure, its colour."""

    label: str
    figure: Result
    colour: str


def bars(axes: Axes, values: Sequence[Bar], unit: str, form: str = "{:,.0f}") -> None:
    """Horizontal bars with whiskers and their medians written beside them, the first on top."""
    middles = [bar.figure["median"] for bar in values]
    whiskers = [
        [middle - bar.figure["min"] for middle, bar in zip(middles, values, strict=True)],
        [bar.figure["max"] - middle for middle, bar in zip(middles, values, strict=True)],
    ]
    places = range(len(values))
    axes.barh(
        places,
        middles,
        xerr=whiskers,
        color=[bar.colour for bar in values],
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )
    longest = max(bar.figure["max"] for bar in values) or 1.0
    for place, bar in zip(places, values, strict=True):
        axes.text(
            bar.figure["max"] + 0.015 * longest,
            place,
            form.format(bar.figure["median"]),
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, [bar.label for bar in values])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * longest)
    axes.set_xlabel(unit)


def figure_of(width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)
    return figure, list(panels[0])


def of_layout(results: Sequence[Result], layout: str) -> list[Result]:
    """The results of one layout."""
    return [result for result in results if result["layout"] == layout]


def scaled(figure: Result, factor: float) -> Result:
    """A measured figure in another unit."""
    return measured([run * factor for run in figure["runs"]], figure["unit"])


def single(value: float) -> Result:
    """A figure that was taken once."""
    return measured([value], "")


def line(
    axes: Axes, places: Sequence[int], figures: Sequence[Result], colour: str, label: str
) -> None:
    """Points with whiskers, joined."""
    middles = [figure["median"] for figure in figures]
    low = [figure["median"] - figure["min"] for figure in figures]
    high = [figure["max"] - figure["median"] for figure in figures]
    axes.errorbar(places, middles, yerr=[low, high], fmt="o-", color=colour, capsize=3, label=label)
