"""All steps of an epoch as one table, and the places of its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_client.ledger.lines import KINDS, PADDED, STEP, Steps
from trainer_client.ledger.run import Epoch

Ints = npt.NDArray[np.int64]
# The index of a batch in its shard stays below it: 2^40 batches of a shard.
INDEX_BITS = 40


def key(shard: int, index: int) -> int:
    """The number of a batch in an epoch."""
    return (shard << INDEX_BITS) + index


def name_of(number: int) -> tuple[int, int]:
    """(shard, index) of a batch's number."""
    return number >> INDEX_BITS, number & ((1 << INDEX_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Place:
    """A step of a run; cursor is (split, parquet_row, offset, batch) before the batch."""

    epoch: int
    step: int
    rank: int
    deal: int
    world_size: int
    shard: int
    index: int
    rows: int
    content: str
    kind: str
    cursor: tuple[int, int, int, int]
    session: str

    def __str__(self) -> str:
        where = f"step {self.step:,} of rank {self.rank}"
        if self.world_size == 1:
            where = f"step {self.step:,}"
        return where if not self.deal else f"{where} (dealt anew {self.deal} times)"


class Table:
    """The steps of an epoch, rank by rank in each deal."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self._places = list(epoch.sequences)
        parts = [epoch.sequences[place].steps for place in self._places]
        self._lengths = [len(part) for part in parts]
        self._starts = np.concatenate(([0], np.cumsum(self._lengths))).astype(np.int64)
        self.steps: Steps = np.concatenate(parts) if parts else np.zeros(0, STEP)
        self.keys: Ints = (self.steps["shard"].astype(np.int64) << INDEX_BITS) + self.steps["index"]
        # Padding repeats what was delivered already.
        self.counts = self.steps["kind"] != PADDED

    def __len__(self) -> int:
        return len(self.steps)

    def lengths(self) -> dict[tuple[int, int], int]:
        """The steps of each rank in each deal."""
        return dict(zip(self._places, self._lengths, strict=True))

    def rows_of(self, place: tuple[int, int]) -> slice:
        """The rows of a rank in a deal, in order."""
        at = self._places.index(place)
        return slice(int(self._starts[at]), int(self._starts[at + 1]))

    def first(self, rows: Iterable[int]) -> int:
        """The row of those given that came first: by deal, step and rank."""
        return min(rows, key=self._when)

    def first_of(self, chosen: Ints | npt.NDArray[np.bool_]) -> int | None:
        """The first of the rows that are chosen (by mask or number), None if there is none."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else np.sort(chosen)
        if not len(rows):
            return None
        # The first of each rank in each deal will do.
        ranks = np.searchsorted(self._starts, rows, side="right")
        _, firsts = np.unique(ranks, return_index=True)
        return self.first(rows[firsts].tolist())

    def where(self, number: int) -> Ints:
        """The rows of a batch, padding aside."""
        return np.flatnonzero((self.keys == number) & self.counts)

    def place(self, row: int) -> Place:
        """Where a row stands."""
        deal, step, rank = self._when(row)
        session, line = self.epoch.sequences[deal, rank].at(step)
        fields: Any = self.steps[row]
        index = int(fields["index"])
        return Place(
            epoch=self.epoch.number,
            step=step,
            rank=rank,
            deal=deal,
            world_size=self.epoch.deals[deal],
            shard=int(fields["shard"]),
            index=index,
            rows=int(fields["rows"]) or session.batch_size,
            content=f"{int(fields['hash']):08x}",
            kind=KINDS[int(fields["kind"])],
            cursor=(*session.cursor(line), index),
            session=session.name,
        )

    def _when(self, row: int) -> tuple[int, int, int]:
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        # Ranks without a step start where the next one does.
        deal, rank = self._places[at]
        return deal, row - int(self._starts[at]), rank
