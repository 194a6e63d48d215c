"""Pictures of wire formats, decoding, jagged sequences, memory, and of how long things take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

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
    of_layout,
    scaled,
    single,
)

# Over how many seconds a rate is shown.
EVENT_WINDOW_S = 0.5


def plot_wire(results: Sequence[Result]) -> Figure:
    """Bytes against CPU of writing and reading, a point a format, a panel a layout."""
    figure, panels = figure_of(13, 4.4, len(LAYOUTS))
    markers = "os^Dv<>PX*hp"
    for axes, layout in zip(panels, LAYOUTS, strict=True):
        for marker, result in zip(markers, of_layout(results, layout), strict=False):
            cpu_s = [
                result[side]["median"]
                for side in ("encode_cpu_s_per_million", "decode_cpu_s_per_million")
            ]
            axes.plot(
                sum(cpu_s),
                result["bytes_per_example"]["median"],
                marker,
                ms=8,
                color=OWN if result["format"].startswith("headrace") else OTHER,
                mfc=OWN if result["format"].startswith("headrace") else "none",
                label=result["format"],
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("CPU s per million examples, written and read")
        axes.set_title(layout)
    panels[0].set_ylabel("bytes per example on the wire")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Bytes and CPU of wire formats: lower left is better (medians)")
    return figure


def plot_decode(results: Sequence[Result]) -> Figure:
    """CPU of decoding, a panel a layout."""
    figure, panels = figure_of(13, 2.6, len(LAYOUTS))
    for axes, layout in zip(panels, LAYOUTS, strict=True):
        values = [
            Bar(
                result["form"],
                result["cpu_s_per_million"],
                OWN if result["form"].startswith("compact") else OTHER_LIGHT,
            )
            for result in of_layout(results, layout)
        ]
        if values:
            bars(axes, values, "CPU s per million examples", "{:.2f}")
        axes.set_title(layout)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    figure.suptitle("Decoding a batch against unpickling it")
    return figure


def plot_jagged(results: Sequence[Result]) -> Figure:
    """Rate, forward pass, memory and wire of jagged and padded sequences."""
    figure, panels = figure_of(13, 2.2, 4)
    colours = [OWN if result["way"] == "jagged" else OTHER_LIGHT for result in results]
    figures: tuple[tuple[str, Callable[[Result], Result], str], ...] = (
        ("thousand examples/s end to end", lambda r: scaled(r["examples_per_s"], 1e-3), "{:,.0f}"),
        ("ms per batch, forward pass", lambda r: r["forward_ms_per_batch"], "{:.1f}"),
        ("tensor bytes per example", lambda r: single(r["tensor_bytes_per_example"]), "{:,.0f}"),
        ("wire bytes per example", lambda r: single(r["wire_bytes_per_example"]), "{:,.0f}"),
    )
    for axes, (unit, of, form) in zip(panels, figures, strict=True):
        values = [Bar(r["way"], of(r), colour) for r, colour in zip(results, colours, strict=True)]
        bars(axes, values, unit, form)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    figure.suptitle("Sequences whose mean length is a quarter of their maximum")
    return figure


def plot_memory(results: Sequence[Result]) -> Figure:
    """Peaks of both sides by setting."""
    figure, panels = figure_of(12, 0.34 * len(results) + 1.4, 2)
    server = [
        Bar(result["setting"], single(result["last_epoch"]["server_mib"]), OWN)
        for result in results
    ]
    bars(panels[0], server, "server, MiB at its peak")
    client = [
        Bar(result["setting"], single(result["last_epoch"]["client_mib"]), OWN_LIGHT)
        for result in results
        if "client_mib" in result["last_epoch"]
    ]
    bars(panels[1], client, "client, MiB at its peak")
    figure.suptitle("Peak resident memory")
    return figure


def plot_startup(results: Sequence[Result]) -> Figure:
    """Seconds until a server serves, and until a stream's first batch."""
    figure, (axes,) = figure_of(8, 2.4, 1)
    bars(axes, [Bar(each["what"], each["seconds"], OWN) for each in results], "seconds", "{:.2f}")
    axes.set_title("Until a started server is SERVING, until an opened stream has a batch")
    return figure


def plot_stalled_streams(results: Sequence[Result]) -> Figure:
    """Milliseconds of short calls to a server whose streams nobody reads."""
    figure, (axes,) = figure_of(8, 2.4, 1)
    values = [
        Bar(f"{call}, {each['state']}", each[key], colour)
        for each in results
        for call, key, colour in (
            ("Health/Check", "health_ms", OWN),
            ("DescribeDataset", "describe_ms", OWN_LIGHT),
        )
    ]
    bars(axes, values, "milliseconds", "{:.1f}")
    axes.set_title(f"Answers of a server with {results[0]['streams']} streams that nobody reads")
    return figure


def plot_fleet_events(results: Sequence[Result]) -> Figure:
    """Examples/s over time through each event, of the first run."""
    figure = Figure(figsize=(9, 1.3 * len(results) + 0.6), layout="constrained")
    panels = figure.subplots(len(results), 1, sharex=True, squeeze=False)[:, 0]
    for axes, result in zip(panels, results, strict=True):
        end = result["timeline"][-1][0]
        bins = [EVENT_WINDOW_S * i for i in range(int(end / EVENT_WINDOW_S) + 2)]
        times = [step[0] for step in result["timeline"]]
        weights = [step[1] / EVENT_WINDOW_S / 1e3 for step in result["timeline"]]
        axes.hist(times, bins, weights=weights, color=OWN, histtype="stepfilled")
        axes.set_title(
            f"{result['event']}: {result['epoch_s']['median']:.1f} s, longest wait "
            f"{result['longest_stall_s']['median']:.2f} s",
            loc="left",
        )
        axes.set_ylabel("thousand/s")
    panels[-1].set_xlabel("seconds since the first batch")
    figure.suptitle("Examples through events in the fleet (first run; medians in the titles)")
    return figure


def plot_ops(results: Sequence[Result]) -> Figure:
    """CPU of an operation a value, as a share of what numpy or pyarrow takes for the same."""
    figure, (axes,) = figure_of(9, 0.6 + 0.22 * len(results), 1)
    values = [
        Bar(
            f"{result['operation']} : {result['peer']}",
            scaled(result["ns_per_value"], 1 / result["peer_ns_per_value"]["median"]),
            OWN,
        )
        for result in results
    ]
    bars(axes, values, "times the peer's CPU", "{:.2f}")
    axes.axvline(1.0, color=OTHER, linewidth=1)
    axes.set_title("Operations beside numpy and pyarrow")
    return figure
