"""Speeds are differences of counts, and the picture is a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from movielens_report import COLOURS, Run, Speedometer, draw, median_auc


@dataclass(frozen=True)
class Counted:
    rows: int
    elapsed_s: float
    wait_s: float


def test_speed_leaves_out_what_was_before_and_samples_what_is_between() -> None:
    counts = iter(
        [Counted(100, 5.0, 5.0), Counted(110, 5.1, 5.0), Counted(300, 6.0, 5.5)]
        + [Counted(500, 7.0, 5.5)] * 2
    )
    meter = Speedometer(lambda: next(counts))
    for _ in range(3):
        meter.step()
    assert [sample.rows_per_s for sample in meter.samples] == [200.0, 200.0]
    assert [sample.wait_share for sample in meter.samples] == [0.5, 0.0]
    overall = meter.overall()
    assert (overall.training_s, overall.rows_per_s, overall.wait_share) == (2.0, 200.0, 0.25)


def test_a_stream_that_has_not_begun_has_no_speed() -> None:
    speed = Speedometer(lambda: Counted(0, 0.0, 0.0)).overall()
    assert (speed.rows_per_s, speed.wait_share) == (0.0, 0.0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_picture_is_written(tmp_path: Path, seeds: int) -> None:
    runs = [
        Run(variant, seed, [512, 1024], [0.7, 0.6], [0.7, 0.71 + seed / 100])
        for seed in range(seeds)
        for variant in COLOURS
    ]
    assert median_auc(runs, "with history") == pytest.approx(0.71 + (seeds // 2) / 100)
    meter = Speedometer(lambda: Counted(0, 0.0, 0.0))
    draw(tmp_path / "new" / "report.png", runs, meter, baseline=0.65)
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")
