"""The picture of a training run: what was learnt, how fast, and who waited for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VARIANTS = ("with history", "history emptied")
COLOURS = dict(zip(VARIANTS, ("#1f6feb", "#d97706"), strict=True))
BASELINE_COLOUR = "#6b7280"
SMOOTHING = 0.05
SPEED_SAMPLE_S = 0.5


@dataclass(slots=True)
class Run:
    """One training of one model. losses has one entry a step, aucs one an epoch."""

    variant: str
    seed: int
    examples: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    aucs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SpeedSample:
    """What happened since the sample before: rows per second, and the share of it spent waiting.

    training_s counts training only: evaluation and what lies between epochs are left out.
    """

    training_s: float
    rows_per_s: float
    wait_share: float


class Counts(Protocol):
    """What a stream has counted since it was made."""

    @property
    def rows(self) -> int:
        """Rows delivered."""

    @property
    def elapsed_s(self) -> float:
        """Seconds of training."""

    @property
    def wait_s(self) -> float:
        """Seconds of it spent waiting."""


class Speedometer:
    """Samples how fast a stream is consumed, and how long its consumer waited."""

    def __init__(self, read: Callable[[], Counts]) -> None:
        self._read = read
        self._first = self._last = read()
        self.samples: list[SpeedSample] = []

    def step(self) -> None:
        """Takes a sample if the last one is long enough ago."""
        now = self._read()
        if now.elapsed_s - self._last.elapsed_s >= SPEED_SAMPLE_S:
            self.samples.append(_between(self._first, self._last, now))
            self._last = now

    def overall(self) -> SpeedSample:
        """All since the beginning, as one sample."""
        return _between(self._first, self._first, self._read())


def _between(first: Counts, last: Counts, now: Counts) -> SpeedSample:
    elapsed_s = now.elapsed_s - last.elapsed_s
    if elapsed_s <= 0:
        return SpeedSample(now.elapsed_s - first.elapsed_s, 0.0, 0.0)
    wait_share = min(1.0, (now.wait_s - last.wait_s) / elapsed_s)
    return SpeedSample(
        now.elapsed_s - first.elapsed_s, (now.rows - last.rows) / elapsed_s, wait_share
    )


def progress_note(run: Run, speed: SpeedSample) -> str:
    """What stands beside the bar of a run."""
    auc = f" AUC {run.aucs[-1]:.4f}" if run.aucs else ""
    speeds = f"{speed.rows_per_s / 1000:.0f}k/s wait {speed.wait_share:.0%}"
    return f"{speeds} loss {run.losses[-1]:.3f}{auc}"


def median_auc(runs: Sequence[Run], variant: str) -> float:
    """The median over seeds of the test AUC after the last epoch."""
    return median(run.aucs[-1] for run in runs if run.variant == variant)


def draw(path: Path, runs: Sequence[Run], speed: Speedometer, baseline: float) -> None:
    """Writes the picture as PNG, making its folder where that is missing."""
    # Only here: a trainer pod that draws nothing has no matplotlib.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=110, layout="constrained")
    (loss, auc), (rate, wait) = figure.subplots(2, 2)
    seeds = len({run.seed for run in runs})
    lift = median_auc(runs, VARIANTS[0]) - baseline
    figure.suptitle(
        f"MovieLens-100K through Headrace: {lift:+.3f} test AUC over the item-mean baseline"
        f" (median of {seeds} seed{'s' if seeds > 1 else ''})",
        fontsize=14,
    )
    _draw_loss(loss, runs)
    _draw_auc(auc, runs, baseline)
    _draw_speed(rate, wait, speed)
    for axes in (loss, auc, rate, wait):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_loss(axes: Axes, runs: Sequence[Run]) -> None:
    labelled = set()
    for run in runs:
        smooth, trail = run.losses[0], []
        for loss in run.losses:
            smooth += SMOOTHING * (loss - smooth)
            trail.append(smooth)
        label = run.variant if run.variant not in labelled else None
        labelled.add(run.variant)
        axes.plot(
            [count / 1000 for count in run.examples],
            trail,
            color=COLOURS[run.variant],
            alpha=0.7,
            linewidth=1.2,
            label=label,
        )
    axes.set_title("Training loss (moving average, one line a seed)")
    axes.set_xlabel("training examples seen [thousands]")
    axes.set_ylabel("binary cross-entropy [nats]")
    axes.legend(frameon=False)


def _draw_auc(axes: Axes, runs: Sequence[Run], baseline: float) -> None:
    for variant, colour in COLOURS.items():
        by_epoch = list(zip(*(run.aucs for run in runs if run.variant == variant), strict=True))
        epochs = range(1, len(by_epoch) + 1)
        middle = [median(aucs) for aucs in by_epoch]
        axes.fill_between(
            epochs, [min(a) for a in by_epoch], [max(a) for a in by_epoch], color=colour, alpha=0.2
        )
        axes.plot(epochs, middle, color=colour, marker="o", label=f"{variant}: {middle[-1]:.4f}")
    axes.axhline(
        baseline, color=BASELINE_COLOUR, linestyle="--", label=f"item-mean baseline: {baseline:.4f}"
    )
    axes.set_xticks(list(range(1, 1 + max(len(run.aucs) for run in runs))))
    axes.set_title("Test AUC (median over seeds, band from lowest to highest)")
    axes.set_xlabel("epoch")
    axes.set_ylabel("area under the ROC curve")
    axes.legend(frameon=False, loc="center right")


def _draw_speed(rate: Axes, wait: Axes, speed: Speedometer) -> None:
    overall, samples = speed.overall(), speed.samples
    seconds = [sample.training_s for sample in samples]
    for axes, values, mean, unit in (
        (rate, [s.rows_per_s / 1000 for s in samples], overall.rows_per_s / 1000, "k/s"),
        (wait, [100 * s.wait_share for s in samples], 100 * overall.wait_share, "%"),
    ):
        axes.plot(seconds, values, color="#15803d", linewidth=0.9, label=f"in {SPEED_SAMPLE_S:g} s")
        axes.axhline(
            mean, color=BASELINE_COLOUR, linestyle="--", label=f"overall: {mean:.1f} {unit}"
        )
        axes.set_xlabel("time in training, all runs one after another [s]")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    rate.set_title("Training speed")
    rate.set_ylabel("examples per second [thousands]")
    wait.set_title("How long the trainer waited for data")
    wait.set_ylabel("share of training time [%]")
    wait.set_ylim(0, 100)
