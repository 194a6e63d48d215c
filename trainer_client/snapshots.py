"""Which snapshot a stream uses: one, the same on every rank, later epochs and resumes included."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from trainer_client.errors import HeadraceError, RequestError, SnapshotMismatchError
from trainer_client.ranks import Group
from trainer_client.snapshot_store import SnapshotStore, first_difference, identify
from trainer_client.transport.calls import Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotChoice:
    """Where snapshots come from.

    store keeps the bytes; pins is where the dataset is pinned, by name, for others to adopt (None:
    nowhere); describe asks the fleet what the dataset names now; group is how ranks talk (None: not
    at all).
    """

    name: str
    store: SnapshotStore
    pins: SnapshotStore | None
    describe: Callable[[], Snapshot]
    group: Group | None
    world_size: int

    def choose(self, wanted: str) -> Snapshot:
        """The snapshot that is wanted, or if none is (""), the pinned one, or a new one.

        With a group, rank 0 chooses and the others adopt. Raises SnapshotMismatchError if ranks
        want different ones, RequestError if the wanted one is neither kept nor what the files are.
        """
        if self.group is None:
            if self.world_size > 1 and self.pins is None and not wanted:
                warnings.warn(
                    "several ranks choose their snapshots each for itself; files that arrive "
                    "between them would mix two datasets: initialise torch.distributed first, or "
                    "give every rank the same snapshot_dir=",
                    UserWarning,
                    stacklevel=2,
                )
            return self._find(wanted)
        self._compare(self.group, wanted)
        return self._from_first_rank(self.group, lambda: self._find(wanted))

    def refresh(self) -> Snapshot:
        """A new snapshot of what the dataset names now, pinned in place of the old one."""
        if self.group is not None:
            return self._from_first_rank(self.group, self._renew)
        if self.world_size > 1:
            raise RequestError(
                "refresh_snapshot() of several ranks needs torch.distributed, so that they agree: "
                "initialise it first, or describe once and give every rank snapshot="
            )
        return self._renew()

    def keep(self, snapshot: Snapshot) -> None:
        """Keeps the bytes; a directory that was not asked for may be unwritable, with a warning."""
        if self.pins is not None and self.pins is not self.store:
            self.pins.put(snapshot.snapshot_id, snapshot.data)
        try:
            self.store.put(snapshot.snapshot_id, snapshot.data)
        except OSError as error:
            if self.store is self.pins:
                raise RequestError(
                    f"snapshot_dir {self.store.directory} cannot be written: {error}"
                ) from error
            warnings.warn(
                f"the snapshot is not kept, since {self.store.directory} cannot be written "
                f"({error}): a resume after files have changed will fail; give snapshot_dir=",
                UserWarning,
                stacklevel=2,
            )

    def _renew(self) -> Snapshot:
        snapshot = self.describe()
        self.keep(snapshot)
        if self.pins is not None:
            self.pins.pin(self.name, snapshot.snapshot_id, replace=True)
        return snapshot

    def _find(self, wanted: str) -> Snapshot:
        pinned = None
        if not wanted and self.pins is not None:
            pinned = self.pins.pinned(self.name)
        name = wanted or pinned or ""
        data = self._kept(name) if name else None
        if data is not None:
            return Snapshot(name, data)
        snapshot = self.describe()
        if name and snapshot.snapshot_id != name:
            raise RequestError(
                f"snapshot {name} is not kept in {self.store.directory}, and the files are no "
                f"longer what it recorded (now {snapshot.snapshot_id}), or it was taken with "
                "another count=: give the snapshot_dir= that it was kept in, or start anew without "
                "the state"
            )
        self.keep(snapshot)
        if not name and self.pins is not None:
            holds = self.pins.pin(self.name, snapshot.snapshot_id)
            if holds != snapshot.snapshot_id:
                # Another rank was first.
                return self._find(holds)
        return snapshot

    def _kept(self, snapshot_id: str) -> bytes | None:
        stores = [self.store] if self.pins in (None, self.store) else [self.store, self.pins]
        return next((d for s in stores if s is not None and (d := s.get(snapshot_id))), None)

    def _compare(self, group: Group, wanted: str) -> None:
        names = group.share(wanted)
        if len(set(names)) == 1:
            return
        held = group.share(self._kept(wanted) if wanted else None)
        first = names[0]
        other = next(rank for rank, name in enumerate(names) if name != first)
        difference = "their bytes are not kept here, so files cannot be compared"
        if held[0] is not None and held[other] is not None:
            difference = first_difference(held[0], held[other])
        raise SnapshotMismatchError(
            f"rank 0 wants snapshot {first or '(none)'}, rank {other} wants "
            f"{names[other] or '(none)'}: {difference}; give every rank the same snapshot= or state"
        )

    def _from_first_rank(self, group: Group, find: Callable[[], Snapshot]) -> Snapshot:
        """What rank 0 finds; if it fails, every rank fails, rather than wait for it."""
        found: Snapshot | None = None
        failure: Exception | None = None
        if group.rank == 0:
            try:
                found = find()
            except (HeadraceError, OSError) as error:
                failure = error
        found_or_none = found or Snapshot("", b"")
        news = (
            found_or_none.snapshot_id,
            found_or_none.data,
            found_or_none.encoding_version,
            "" if found else str(failure),
        )
        name, data, version, problem = group.share(news if group.rank == 0 else None)[0]
        if failure is not None:
            raise failure
        if problem:
            raise RequestError(f"rank 0 found no snapshot: {problem}")
        if identify(data) != name:
            raise SnapshotMismatchError(f"the bytes from rank 0 are not snapshot {name}")
        snapshot = Snapshot(name, data, version)
        if group.rank:
            self.keep(snapshot)
        return snapshot
