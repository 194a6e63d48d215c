"""What the trainer's process and its reader process tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.v1 import dataset_pb2, preprocessor_service_pb2
from trainer_client.cursor import Cursor
from trainer_client.layout import ArenaLayout
from trainer_client.loop_clock import Lane, LoopTimes
from trainer_client.read_ahead import ReadAhead
from trainer_client.tls import Credentials
from trainer_client.transport.calls import Snapshot

# To the reader process.


@dataclass(frozen=True, slots=True)
class Read:
    """Read an epoch, in place of the one before. number tells its batches from another one's.

    answered are servers that have answered the trainer's process.
    """

    number: int
    dataset: dataset_pb2.DatasetSpec
    snapshot: Snapshot
    identity: preprocessor_service_pb2.BatchIdentity
    ahead: ReadAhead
    addresses: Sequence[str]
    tls: Credentials | None
    timeout_s: float
    expand: bool
    answered: Sequence[str]


class Stop(NamedTuple):
    """Stop reading."""


class Took(NamedTuple):
    """A batch was taken of each of these segments; these loans are no longer in use."""

    epoch: int
    segments: Sequence[int]
    returned: Sequence[int]


class Hedge(NamedTuple):
    """Race for the next batch of a segment."""

    epoch: int
    segment: int


class Servers(NamedTuple):
    """The fleet has other addresses now."""

    addresses: Sequence[str]


# From it.


class Ready(NamedTuple):
    """It has started."""


class Piece(NamedTuple):
    """Memory that is lent under a number: size bytes from start."""

    number: int
    start: int
    size: int


class Arrived(NamedTuple):
    """A batch of a segment, as Batch and Fetched have it. expanded are its lists by block."""

    epoch: int
    segment: int
    arena: Piece
    expanded: Mapping[str, Piece]
    layout: ArenaLayout
    shard: int
    index_in_shard: int
    cursor: Cursor
    next_cursor: Cursor
    content_checksum: int
    server: str
    wire_bytes: int
    lane: Lane

    @property
    def pieces(self) -> list[Piece]:
        """All memory that it is in."""
        return [self.arena, *self.expanded.values()]

    @property
    def nbytes(self) -> int:
        """What it takes up, in bytes."""
        return sum(piece.size for piece in self.pieces)


class Ended(NamedTuple):
    """A segment has ended, by an error if there is one."""

    epoch: int
    segment: int
    error: BaseException | None


class Counts(NamedTuple):
    """What was counted since the last of these: of StreamStats, and by the clock of the lanes.

    hedges and hedges_won are all of an epoch.
    """

    epoch: int
    stats: Mapping[str, float]
    times: LoopTimes
    hedges: int
    hedges_won: int


class Said(NamedTuple):
    """What a server said of its counters as it began a stream, took_s after it was asked."""

    address: str
    data: bytes | None
    took_s: float


class Logged(NamedTuple):
    """A line for the log."""

    level: int
    text: str
