"""What a stream holds while it runs: a connection, a snapshot, plans, and one epoch being read."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import TypeAlias

from headrace.v1 import dataset_pb2, preprocessor_service_pb2
from trainer_client import decode, kernels, schedule
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.dataset import Dataset
from trainer_client.epoch import EpochReader
from trainer_client.errors import RequestError, StreamClosedError
from trainer_client.header import end_checksum
from trainer_client.in_step import (
    UNEVEN_WARNING,
    Has,
    InStep,
    Reader,
    choose_uneven,
    warn_of_no_step,
)
from trainer_client.ledger.writer import Ledger
from trainer_client.options import Options, Uneven
from trainer_client.payload import ACCEPTED_CODECS
from trainer_client.prefetch import Ahead
from trainer_client.rank_plan import RankPlan
from trainer_client.ranks import StepGroup, group_of
from trainer_client.read_ahead import ReadAhead, SegmentRead, prefetch
from trainer_client.reader_process.parent import ReaderProcess
from trainer_client.sampling import chooses_rows
from trainer_client.schedule import Deal, Position, Schedule, Segment
from trainer_client.snapshot_store import SnapshotStore, default_directory
from trainer_client.snapshots import SnapshotChoice
from trainer_client.state import of_another_deal, of_another_plan, with_ranks_ahead
from trainer_client.telemetry import Meter
from trainer_client.transport import counting, planner
from trainer_client.transport.calls import Connection, Snapshot
from trainer_client.transport.local import LocalFleet
from trainer_client.transport.opening import credentials_for, open_fleet
from trainer_client.transport.shard_stream import Codec, Fetched, Job, ShardStream
from trainer_client.transport.stall import StallGuard
from trainer_client.transport.targets import Target

# An epoch, and the deals of it that came before.
Deals: TypeAlias = tuple[int, tuple[Deal, ...]]


class Session:
    """Opens everything when it is first needed; close() lets everything go, from any thread."""

    def __init__(
        self,
        dataset: Dataset,
        target: Target,
        options: Options,
        rank: int,
        world_size: int,
        meter: Meter,
        ledger: Ledger | None = None,
    ) -> None:
        self.wanted_snapshot = options.snapshot
        self.num_shards = options.num_shards
        # None until a plan, or a state, says which.
        self.encoding_version: int | None = None
        self._dataset = dataset
        self._message = dataset.to_proto()
        self._target = target
        self._options = options
        self._rank = rank
        self._world_size = world_size
        self._meter = meter
        self._ledger = ledger
        # Reentrant: a signal handler that closes may interrupt the thread that holds it.
        self._lock = threading.RLock()
        self._guard = StallGuard()
        self._connection: Connection | None = None
        self._snapshot: Snapshot | None = None
        self._plans: dict[Deals, RankPlan] = {}
        self._counted: set[Deals] = set()
        self._process: ReaderProcess | None = None
        self._reader: Reader | None = None
        self._step_group: StepGroup | None = None
        self._closed = False
        self._warned = False
        self._codec = Codec(
            accepted=ACCEPTED_CODECS,
            decoder=decode.Decoders(pin_memory=options.pin_memory, expand=options.expand),
            end_checksum=end_checksum,
        )
        # Decoding waits for them; until the first batch is there, they have time.
        kernels.warm()

    @property
    def snapshot_id(self) -> str:
        """The snapshot in use or wanted, "" if none was chosen yet."""
        return self._snapshot.snapshot_id if self._snapshot else self.wanted_snapshot

    def plan(self, epoch: int, deals: tuple[Deal, ...] = ()) -> RankPlan:
        """The part that falls to this rank of an epoch, or of what is left of it after deals.

        Raises StateMismatchError if the deals do not fit the epoch.
        """
        key = epoch, deals
        if key not in self._plans:
            # The one before is no longer asked for, and a plan may hold 10^6 counts.
            self._plans = {key: self._make_plan(epoch, deals)}
        return self._plans[key]

    def read(self, epoch: int, position: Position | None) -> Reader:
        """The batches of an epoch from a position (None: from its start)."""
        self.stop_reading()
        self._meet()
        try:
            return self._open(epoch, position)
        except Exception:
            if self._step_group is not None:
                # The others wait for a word of this rank before the first step.
                self._step_group.ask(Has.FAILURE, epoch, 0)
            raise

    def _meet(self) -> None:
        """Makes the group for steps, where ranks will ask each other; collective."""
        wanted = self._options.uneven
        filtered = chooses_rows(self._message) and self._options.count is None
        asks = wanted in ("sync", "sync-pad") or (wanted is None and filtered)
        if asks and self._step_group is None and group_of(self._rank, self._world_size):
            self._step_group = StepGroup(self._options.timeout_s)

    def _open(self, epoch: int, position: Position | None) -> Reader:
        deals = position.deals if position else ()
        plan = self.plan(epoch, deals)
        segments = plan.segments
        even = plan.uneven == "drop"
        if position is not None and position.delivered and position.even != even:
            raise of_another_deal(position.even, plan.uneven)
        pad = plan.uneven in ("pad", "sync-pad")
        try:
            start = schedule.start_of(position or Position(epoch), segments, even=even, pad=pad)
        except ValueError as error:
            raise of_another_plan(epoch, error) from error
        if plan.uneven == "pad" and start.last is None and start.delivered >= plan.fewest > 0:
            # States of "pad" know their last batch.
            raise with_ranks_ahead(start.delivered, epoch)
        if (epoch, deals) not in self._counted:
            # Not at every read: an epoch that goes on from a state leaves nothing out anew.
            self._counted.add((epoch, deals))
            self._meter.add(
                left_out_batches=plan.left_out[0],
                left_out_rows=plan.left_out[1],
                dropped_batches=plan.dropped[0],
                dropped_rows=plan.dropped[1],
            )
        padded_steps = plan.steps if plan.uneven == "pad" else None
        ordered = Schedule(segments, self._options.interleave, start, padded_steps, keep_last=pad)
        reading_order = list(ordered.reading_order())
        job = self._job(plan)
        shards = {segments[o.segment].shard for o in reading_order}
        shards |= {start.last[0]} if start.last else set()
        splits = planner.splits(*self._asked(), plan.summary.identity, shards)

        def reopen(shard: int, batch: int) -> ShardStream[Batch]:
            return ShardStream(job, shard, splits[shard], batch or Cursor(), 1)

        reads = []
        for at in reading_order:
            segment, left = segments[at.segment], ordered.remaining(at)
            if left != 0:
                first = at.cursor or segment.cursor or segment.first_batch or Cursor()
                place = segment.shard, splits[segment.shard], first, left
                reads.append(SegmentRead(at.segment, *place))
        options = self._options
        ahead = ReadAhead(
            reads,
            lanes=max(options.interleave, len(ordered.position.open)),
            budget_bytes=options.prefetch_bytes,
            items_per_lane=options.prefetch_factor,
        )
        reader: Reader = EpochReader(
            ordered,
            self._read_ahead(job, ahead),
            reopen,
            self._meter,
            full_size=options.batch_size if options.drop_last else 0,
            timeout_s=options.timeout_s,
            hedge=options.hedge,
            ledger=self._ledger,
        )
        if plan.uneven in ("sync", "sync-pad"):
            assert self._step_group is not None
            reader = InStep(
                *(reader, self._step_group.ask, epoch, self._meter),
                pad=pad,
                count_for_s=options.timeout_s,
                ledger=self._ledger,
            )
        with self._lock:
            if not self._closed:
                self._reader = reader
                return reader
        reader.close()
        raise StreamClosedError("the stream was closed")

    def _read_ahead(self, job: Job[Batch], ahead: ReadAhead) -> Ahead[Fetched[Batch]]:
        if not self._options.reader_process:
            return prefetch(job, ahead)
        process = self._living_process()
        return process.read(job, ahead, expand=self._options.expand)

    def _living_process(self) -> ReaderProcess:
        """The reader process; another one if it has ended."""
        with self._lock:
            if self._closed:
                raise StreamClosedError("the stream was closed")
            before = self._process
            if before is not None and before.alive:
                return before
            process = self._process = ReaderProcess()
            # By a signal handler, which found none to close.
            closed = self._closed
        if closed:
            process.close()
            raise StreamClosedError("the stream was closed")
        if before is not None:
            before.close()
        return process

    def catch_up(self) -> None:
        """Takes in what a reader process has counted."""
        process = self._process
        if process is not None:
            process.catch_up()

    def stop_reading(self) -> None:
        """Ends the readers of the epoch that is being read, if there is one."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def refresh_snapshot(self) -> str:
        """Looks at the dataset again; the id of the snapshot that holds from now on."""
        self._snapshot = self._choice().refresh()
        self.wanted_snapshot = ""
        self.num_shards = self._options.num_shards
        self.encoding_version = None
        self._plans.clear()
        return self._snapshot.snapshot_id

    def close(self) -> None:
        """Ends readers, calls and local servers, with bounds; idempotent."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            reader, self._reader = self._reader, None
            process, self._process = self._process, None
        if connection is not None:
            connection.closed.set()
        if reader is not None:
            reader.close()
        if process is not None:
            process.close()
        if connection is not None:
            connection.close()
        if self._step_group is not None:
            self._step_group.close()
        self._guard.close()

    @property
    def connection(self) -> Connection | None:
        """The connection, once there is one."""
        return self._connection

    def _connect(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StreamClosedError("the stream is closed")
            if self._connection is not None:
                return self._connection
        if self._options.reader_process:
            # Its start takes as long as that of a trainer: an epoch is planned meanwhile.
            self._living_process()
        # Not under the lock: local servers take up to a minute to start, and close() may come
        # from a signal handler of this very thread.
        tls = credentials_for(self._target, self._options.tls)
        fleet = open_fleet(self._target, self._world_size, self._options.resolve_interval_s)
        timeout_s, meter = self._options.timeout_s, self._meter
        opened = Connection(fleet, timeout_s=timeout_s, meter=meter, tls=tls)
        with self._lock:
            if not self._closed and self._connection is None:
                self._connection = opened
            held = None if self._closed else self._connection
        if held is not opened:
            opened.close()
        if held is None:
            raise StreamClosedError("the stream was closed")
        return held

    def _choice(self) -> SnapshotChoice:
        connection = self._connect()
        group = group_of(self._rank, self._world_size)
        directory = self._options.snapshot_dir
        store = SnapshotStore(default_directory() if directory is None else directory)
        pins = store if directory is not None else None
        fleet = connection.fleet
        if (
            pins is None
            and group is None
            and self._world_size > 1
            and isinstance(fleet, LocalFleet)
        ):
            # Ranks of one machine without a process group still meet where their servers are.
            pins = SnapshotStore(fleet.directory / "snapshots")

        def describe() -> Snapshot:
            found = planner.describe(connection, self._message, self._dataset.source.paths)
            return counting.count(connection, self._message, found) if self._counts else found

        return SnapshotChoice(
            # What is counted is pinned beside what is not.
            name=self._dataset.fingerprint + (".counted" if self._counts else ""),
            store=store,
            pins=pins,
            describe=describe,
            group=group,
            world_size=self._world_size,
        )

    @property
    def _counts(self) -> bool:
        """Whether the servers are to count the rows that pass the filter."""
        return self._options.count is not None and chooses_rows(self._message)

    def _chosen(self) -> Snapshot:
        if self._snapshot is None:
            chosen = self._choice().choose(self.wanted_snapshot)
            if self._counts:
                counting.check_counted(chosen, self._message)
            self._snapshot = chosen
        return self._snapshot

    def _asked(self) -> tuple[Connection, dataset_pb2.DatasetSpec, Snapshot]:
        """Who is asked for plans, and of what."""
        return self._connect(), self._message, self._chosen()

    def _job(self, plan: RankPlan) -> Job[Batch]:
        return Job(
            connection=self._connect(),
            guard=self._guard,
            dataset=self._message,
            snapshot=self._chosen(),
            identity=plan.summary.identity,
            codec=self._codec,
        )

    def _make_plan(self, epoch: int, deals: tuple[Deal, ...]) -> RankPlan:
        options, snapshot = self._options, self._chosen()
        newest = decode.ENCODING_VERSION
        # A fleet may be older than its trainers; a kept snapshot does not say what it has.
        version = self.encoding_version or min(newest, snapshot.encoding_version or newest)
        identity = preprocessor_service_pb2.BatchIdentity(
            seed=options.seed,
            epoch=epoch,
            num_shards=self.num_shards or 0,
            batch_size=options.batch_size,
            shuffle=options.shuffle,
            shuffle_window_splits=options.shuffle_window_splits,
            encoding_version=version,
        )
        summary = planner.plan(*self._asked(), identity)
        decode.check_version(summary.identity.encoding_version, "the fleet plans")
        self.num_shards = summary.identity.num_shards
        self.encoding_version = summary.identity.encoding_version
        unknown = [None] * self.num_shards
        counts: list[int | None] = list(summary.batch_counts or unknown)
        dropped = (0, 0)
        uneven = self._uneven(known=summary.batch_counts is not None)
        if summary.batch_counts is not None and options.drop_last:
            rows = planner.row_counts(*self._asked(), summary.identity, ())
            short = {shard: n % options.batch_size for shard, n in rows.items()}
            counts = [n - bool(short[shard]) for shard, n in enumerate(summary.batch_counts)]
            dropped = (sum(map(bool, short.values())), sum(short.values()))
        try:
            own = schedule.share(
                *(counts, deals, self._rank, self._world_size),
                even=uneven == "drop",
                pad=uneven == "pad",
            )
        except ValueError as error:
            raise of_another_plan(epoch, error) from error
        some_lack = min(own.batches) == 0 < max(own.batches)
        if uneven == "pad" and some_lack and schedule.last_of(deals) is None:
            # On every rank: those that have a batch would wait for those that have none.
            raise RequestError(
                f'uneven="pad" repeats the last batch of a rank, but epoch {epoch} has '
                f"{sum(own.batches)} batches for {self._world_size} ranks, so some have none: use "
                'uneven="drop" or "none", or a smaller batch_size'
            )
        if own.rest and not any(own.batches):
            warn_of_no_step(epoch, sum(s.batch_count or 0 for s in own.rest), self._world_size)
        if deals:
            # Counted when the epoch began.
            dropped = (0, 0)
        left_out = self._rows(summary, own.rest)
        return RankPlan(
            *(summary, own.segments, own.steps, uneven, min(own.batches)),
            *(left_out, dropped, own.rest),
        )

    def _uneven(self, *, known: bool) -> Uneven:
        uneven = choose_uneven(self._options.uneven, self._rank, self._world_size, known=known)
        chosen = self._options.uneven is None and self._world_size > 1
        if uneven == "none" and chosen and not self._warned:
            self._warned = True
            warnings.warn(UNEVEN_WARNING, UserWarning, stacklevel=2)
        return uneven

    def _rows(self, summary: planner.PlanSummary, rest: Sequence[Segment]) -> tuple[int, int]:
        """The batches and rows of segments."""
        if not rest:
            return 0, 0
        size = self._options.batch_size
        shards = sorted({segment.shard for segment in rest})
        counts = planner.row_counts(*self._asked(), summary.identity, shards)
        batches = rows = 0
        for segment in rest:
            assert segment.batch_count is not None
            batches += segment.batch_count
            end = min((segment.first_batch + segment.batch_count) * size, counts[segment.shard])
            rows += end - segment.first_batch * size
        return batches, rows
