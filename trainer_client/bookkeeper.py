"""What a stream tells its ledger, if it has one."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from google.protobuf import json_format

from trainer_client.batch import Batch
from trainer_client.dataset import Dataset
from trainer_client.ledger.lines import PADDED, SKIPPED, TRAINED
from trainer_client.ledger.writer import Ledger
from trainer_client.options import Options
from trainer_client.rank_plan import RankPlan
from trainer_client.schedule import Position
from trainer_client.state import Restored, Setup


def open_ledger(
    dataset: Dataset, target: str, options: Options, rank: int, world_size: int
) -> Ledger | None:
    """The ledger that the options ask for, None if none.

    Its first line says what a reader needs besides the epochs' own lines.
    """
    if options.ledger is None:
        return None
    try:
        release = version("headrace")
    except PackageNotFoundError:
        release = "unknown"
    about = {
        "rank": rank,
        "world_size": world_size,
        "headrace": release,
        "target": target,
        "count": options.count,
        "dataset": json_format.MessageToDict(dataset.to_proto(), preserving_proto_field_name=True),
    }
    return Ledger(options.ledger, batch_size=options.batch_size, about=about)


class Bookkeeper:
    """Keeps a ledger of what a stream hands over; without a ledger it does nothing."""

    def __init__(self, ledger: Ledger | None) -> None:
        self.ledger = ledger
        self._ended = False

    def begin(
        self,
        epoch: int,
        start: Position | None,
        plan: RankPlan,
        setup: Setup,
        interleave: int,
    ) -> None:
        """An iterator starts at a position (None: at the start of the epoch)."""
        if self.ledger is None:
            return
        self._ended = False
        earlier = start.deals if start is not None else ()
        self.ledger.begin(
            epoch,
            start.delivered if start is not None else 0,
            deals=[*(len(deal.positions) for deal in earlier), setup.world_size],
            counted=plan.steps is not None,
            uneven=plan.uneven,
            interleave=interleave,
            left_out=[[s.shard, s.first_batch, s.batch_count] for s in plan.rest],
            setup={k: v for k, v in asdict(setup).items() if k not in {"rank", "world_size"}},
        )

    def step(self, batch: Batch, *, skipped: bool = False) -> Batch:
        """A batch is handed over, or skipped; the batch with the place after it in the ledger."""
        if self.ledger is None:
            return batch
        kind = PADDED if batch.padding else SKIPPED if skipped else TRAINED
        marked = batch.but(mark=self.ledger.step(batch, kind))
        position = batch.position
        assert isinstance(position, Position)
        if position.finished:
            # Known already: the state of this batch is that of the next epoch's start.
            self.end(position.epoch)
        return marked

    def end(self, epoch: int) -> None:
        """No step of the epoch is left."""
        if self.ledger is not None and not self._ended:
            self._ended = True
            self.ledger.end(epoch)

    def loaded(self, restored: Restored) -> None:
        """The stream goes on from a state."""
        if self.ledger is not None:
            self.ledger.resumed(
                restored.ledger,
                restored.epoch,
                middle=restored.position is not None,
                merged=restored.merged,
            )

    def marks(self, batch: Batch | None) -> dict[str, Any]:
        """What a state says of the ledger, which holds all steps up to it from now on."""
        if self.ledger is None:
            return {}
        self.ledger.flush()
        mark = self.ledger.mark() if batch is None else batch.mark
        return {} if mark is None else {"ledger": [list(mark)]}

    def close(self) -> None:
        """Ends the ledger; idempotent."""
        if self.ledger is not None:
            self.ledger.close()
