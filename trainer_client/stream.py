"""BatchStream: what a trainer iterates over."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch.utils.data import IterableDataset

from trainer_client import state
from trainer_client.batch import Batch, register_pipelineable
from trainer_client.bookkeeper import Bookkeeper, open_ledger
from trainer_client.dataset import Dataset
from trainer_client.device import DeviceMover
from trainer_client.epoch_steps import EpochSteps
from trainer_client.errors import RequestError, StateMismatchError, StreamClosedError
from trainer_client.explain import Explanation
from trainer_client.explainer import Explainer
from trainer_client.options import Count, Options, Uneven
from trainer_client.rank_plan import RankPlan
from trainer_client.ranks import resolve
from trainer_client.ray_fleet import RayFleet
from trainer_client.schedule import Position
from trainer_client.session import Session
from trainer_client.telemetry import Meter, StreamStats
from trainer_client.tls import Tls
from trainer_client.transport.targets import parse_target


class BatchStream(IterableDataset[Batch]):
    """The batches of a dataset, prepared by a fleet of servers, always in the same order.

    Each iter() is one epoch; it asks for nothing until its first next(). Only one iterator of a
    stream is live: a new one closes the one before. options.py explains the options; timeout and
    resolve_interval are in seconds, prefetch_bytes in bytes. Raises RequestError for a wrong
    argument; iterating raises the errors of trainer_client.errors.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        target: str,
        fleet: RayFleet | None = None,
        tls: Tls | None = None,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_window_splits: int = 1,
        num_shards: int | None = None,
        uneven: Uneven | None = None,
        count: Count | None = None,
        drop_last: bool = False,
        interleave: int = 4,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch_factor: int = 2,
        prefetch_bytes: int = 256 << 20,
        hedge: bool = False,
        expand: bool = False,
        pin_memory: bool = False,
        reader_process: bool = False,
        device: torch.device | str | None = None,
        timeout: float = 60.0,
        resolve_interval: float = 3.0,
        snapshot: str | None = None,
        snapshot_dir: str | os.PathLike[str] | None = None,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(dataset, Dataset):
            raise RequestError(f"dataset is {dataset!r}: give a Dataset (see Dataset.from_yaml)")
        if pin_memory and not torch.accelerator.is_available():
            # As torch's DataLoader does: the same script runs on machines without a GPU.
            warnings.warn("pin_memory=True has no effect without a GPU", UserWarning, stacklevel=2)
            pin_memory = False
        self._options = Options(
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            shuffle_window_splits=shuffle_window_splits,
            num_shards=num_shards,
            uneven=uneven,
            count=count,
            drop_last=drop_last,
            interleave=interleave,
            prefetch_factor=prefetch_factor,
            prefetch_bytes=prefetch_bytes,
            hedge=hedge,
            expand=expand,
            pin_memory=pin_memory,
            reader_process=reader_process,
            device=None if device is None else torch.device(device),
            timeout_s=timeout,
            resolve_interval_s=resolve_interval,
            snapshot=snapshot or "",
            snapshot_dir=snapshot_dir,
            tls=tls,
            ledger=ledger,
        )
        self._fingerprint = dataset.fingerprint
        self._rank, self._world_size = resolve(rank, world_size)
        self._meter = Meter()
        servers, ranks = parse_target(target, fleet), (self._rank, self._world_size)
        self._books = Bookkeeper(open_ledger(dataset, target, self._options, *ranks))
        self._session = Session(
            dataset, servers, self._options, *ranks, self._meter, self._books.ledger
        )
        self._pid = os.getpid()
        self._closed = False
        self._epoch = 0
        # Where the last batch that next() returned ended, or where a loaded state goes on.
        self._progress: Position | None = None
        self._restored = False
        # Batches still to be left out of this epoch, and those that were.
        self._to_skip = self._skipped = 0
        self._generation = 0
        self._live: Callable[[], EpochSteps | None] = _none
        self._explainer = Explainer(self._meter, self._session, self._options)
        self._finalizer = weakref.finalize(self, _close_in, self._pid, self._session, self._books)

    @property
    def epoch(self) -> int:
        """The epoch that is being read, or that the next iter() reads."""
        return self._epoch

    @property
    def sampler(self) -> BatchStream:
        """The stream itself, for trainers that call sampler.set_epoch."""
        return self

    def set_epoch(self, epoch: int, *, reset: bool = False) -> None:
        """Chooses the epoch of the next iter(); the epoch that is being read goes on.

        Another one, or reset, ends the live iterator. The epoch of a loaded state keeps its
        position; another one is a StateMismatchError unless reset, which drops the position.
        """
        if type(epoch) is not int or epoch < 0:
            raise RequestError(f"epoch is {epoch!r}: it must be an integer from 0")
        if self._restored and not reset:
            if epoch == self._epoch:
                return
            raise StateMismatchError(
                f"the loaded state goes on in epoch {self._epoch}, set_epoch asks for {epoch}: "
                "start the loop at stream.epoch, or drop the state's position with "
                f"set_epoch({epoch}, reset=True)"
            )
        if self._live() is not None:
            if epoch == self._epoch and not reset:
                return
            # Else its next batch would be the new epoch's progress, and rows would be lost.
            self._end_iterator()
        self._epoch, self._progress, self._restored = epoch, None, False
        self._to_skip = 0

    def __iter__(self) -> Iterator[Batch]:
        self._end_iterator()
        register_pipelineable()
        start = self._progress if self._restored else None
        self._progress, self._restored = start, False
        steps = EpochSteps(self._batches(self._generation, self._epoch, start), self._meter.clock)
        # Weak: an iterator that its loop has left is abandoned, not live.
        self._live = weakref.ref(steps)
        return steps

    def __len__(self) -> int:
        """The steps of this epoch on this rank. Raises TypeError where counts are unknown.

        Of an epoch that goes on from a merged state, those since it was loaded.

        With torch.distributed initialised, the first use of a stream is collective (the ranks
        agree on a snapshot): every rank must call it, or those that do wait for the others.
        """
        self._check_usable()
        steps = self._plan().steps
        if steps is None:
            raise TypeError(
                "the number of batches is unknown, since a filter, sampling or distinct_by decides "
                'which rows count: give count="exact" to have them counted once'
            )
        return steps

    def row_count(self) -> int | None:
        """The rows of this epoch over all ranks, None where only reading tells.

        With torch.distributed initialised, the first use of a stream is collective, as that of
        len() is: every rank must call it.
        """
        self._check_usable()
        return self._plan().summary.row_count

    def plan_notes(self) -> tuple[str, ...]:
        """What the servers say about this epoch's plan, for people. Collective as row_count is."""
        self._check_usable()
        return self._plan().summary.notes

    def state_dict(self, batch: Batch | None = None) -> dict[str, Any]:
        """The state after a batch; without one, after the last batch that next() returned.

        JSON-able and small. Raises RequestError if the batch is not of a stream.
        """
        position = self._progress
        if batch is not None:
            if not isinstance(batch.position, Position):
                raise RequestError("the batch carries no position: is it from a BatchStream?")
            position = batch.position
        epoch = self._epoch if position is None else position.epoch
        saved = state.save(self._setup(), self._options.interleave, epoch, position)
        return saved | self._books.marks(batch)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on, at the next iter(), where a state was taken; an empty one changes nothing.

        Raises StateMismatchError (a ValueError) that names the field that differs, both values
        and the way out.
        """
        if not state_dict:
            return
        self._check_usable()
        restored = state.load(state_dict, self._setup())
        self._end_iterator()
        self._books.loaded(restored)
        self._to_skip = 0
        self._session.wanted_snapshot = restored.snapshot or self._session.wanted_snapshot
        self._session.num_shards = restored.num_shards or self._session.num_shards
        self._session.encoding_version = restored.encoding_version or self._session.encoding_version
        self._epoch, self._progress, self._restored = restored.epoch, restored.position, True

    def refresh_snapshot(self) -> str:
        """Takes in files that have changed or arrived, between epochs; the new snapshot's id.

        Every rank calls it. Raises RequestError in the middle of an epoch.
        """
        self._check_usable()
        if self._progress is not None:
            raise RequestError(
                f"epoch {self._epoch} is under way: refresh between epochs (set_epoch starts one)"
            )
        return self._session.refresh_snapshot()

    def skip(self, batches: int) -> None:
        """Leaves out the next batches of this epoch on this rank (a spike of the loss, say).

        They are read and dropped by the next next(), counted in stats(), and recorded in the state.
        Every rank leaves out as many, or they end at different steps. Raises RequestError for a
        number below 0.
        """
        if type(batches) is not int or batches < 0:
            raise RequestError(f"batches is {batches!r}: it must be an integer from 0")
        self._check_usable()
        self._to_skip += batches

    def stats(self) -> StreamStats:
        """What the stream has done since it was made."""
        self._session.catch_up()
        return self._meter.stats()

    def explain(self) -> Explanation:
        """What bounds the rate of this stream, and what would help; str() of it is a table.

        Over the time since the last call, or since the epoch began; a few seconds tell most. Asks
        the servers for their counters, which takes 2 seconds at most.
        """
        self._check_usable()
        self._session.catch_up()
        return self._explainer.explain()

    def close(self) -> None:
        """Ends readers, calls and local servers, with bounds; idempotent."""
        self._closed = True
        self._finalizer()

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a BatchStream cannot be pickled, since threads and connections do not travel: make it "
            "in the process that uses it (with a DataLoader: num_workers=0)"
        )

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _batches(self, generation: int, epoch: int, start: Position | None) -> Iterator[Batch]:
        self._check_live(generation)
        self._skipped = 0
        self._meter.began()
        began_s = time.monotonic()
        try:
            with self._explainer.opening():
                reader = self._session.read(epoch, start)
            plan = self._session.plan(epoch, start.deals if start else ())
            self._books.begin(epoch, start, plan, self._setup(), self._options.interleave)
        finally:
            self._meter.add(wait_s=time.monotonic() - began_s)
        batches: Iterator[Batch] = reader
        if self._options.device is not None:
            batches = DeviceMover(reader, self._options.device, reader.ready, self._meter.clock)
        try:
            for batch in batches:
                self._check_live(generation)
                assert isinstance(batch.position, Position)
                position = batch.position
                if self._to_skip:
                    self._to_skip -= 1
                    self._skipped += 1
                    rows = 0 if batch.padding else batch.batch_size
                    self._meter.add(skipped_batches=1, skipped_rows=rows)
                    self._books.step(batch, skipped=True)
                    self._progress = replace(position, skipped=position.skipped + self._skipped)
                    continue
                if self._skipped:
                    position = replace(position, skipped=position.skipped + self._skipped)
                    batch = batch.but(position=position)  # noqa: PLW2901 - the same batch
                self._progress = position
                self._count(batch)
                yield self._books.step(batch)
                self._check_live(generation)
            self._check_live(generation)
            self._books.end(epoch)
        finally:
            if os.getpid() == self._pid:
                reader.close()
                self._meter.paused()
                self._meter.clock.leaves()
                if generation == self._generation:
                    self._live = _none
        self._epoch, self._progress = epoch + 1, None
        self._to_skip = 0

    def _plan(self) -> RankPlan:
        return self._session.plan(self._epoch, self._progress.deals if self._progress else ())

    def _count(self, batch: Batch) -> None:
        if batch.padding:
            self._meter.add(padded_batches=1)
            return
        wire, arena = batch.wire_bytes, batch.memory.nbytes
        self._meter.delivered(
            server=batch.server, rows=batch.batch_size, wire_bytes=wire, arena_bytes=arena
        )

    def _end_iterator(self) -> None:
        self._check_usable()
        self._generation += 1
        self._live = _none
        self._session.stop_reading()

    def _check_live(self, generation: int) -> None:
        self._check_usable()
        if generation != self._generation:
            raise StreamClosedError(
                "this iterator was closed, since a newer one of the same stream was started, "
                "another epoch was chosen or a state was loaded: use one iterator at a time, or "
                "two streams"
            )

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise StreamClosedError(
                f"the stream was made in process {self._pid} and is used in its child "
                f"{os.getpid()}: threads and connections do not survive a fork; make the stream "
                "where it is used (with a DataLoader: num_workers=0)"
            )
        if self._closed:
            raise StreamClosedError("the stream is closed: make a new one")

    def _setup(self) -> state.Setup:
        options = self._options
        return state.Setup(
            dataset=self._fingerprint,
            snapshot=self._session.snapshot_id,
            seed=options.seed,
            num_shards=self._session.num_shards,
            batch_size=options.batch_size,
            shuffle=options.shuffle,
            shuffle_window_splits=options.shuffle_window_splits,
            encoding_version=self._session.encoding_version,
            drop_last=options.drop_last,
            rank=self._rank,
            world_size=self._world_size,
        )


def _none() -> None:
    return None


def _close_in(pid: int, session: Session, books: Bookkeeper) -> None:
    if os.getpid() == pid:
        session.close()
        books.close()
