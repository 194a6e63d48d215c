"""A rank's part of an epoch, or of what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer_client.options import Uneven
from trainer_client.schedule import Segment
from trainer_client.transport import planner


@dataclass(frozen=True, slots=True)
class RankPlan:
    """A rank's part of an epoch; steps is None where counts are unknown.

    uneven says what happens where ranks have different numbers of batches, fewest is how many the
    rank with fewest has. left_out and dropped are (batches, rows) over all ranks, rest is what is
    left out.
    """

    summary: planner.PlanSummary
    segments: Sequence[Segment]
    steps: int | None
    uneven: Uneven
    fewest: int
    left_out: tuple[int, int] = (0, 0)
    dropped: tuple[int, int] = (0, 0)
    rest: Sequence[Segment] = ()
