"""Splits are permuted, cut or kept whole, and dealt to shards so that rows are even."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocessor_server.kernels import shuffle_keys
from preprocessor_server.plan.identity import Identity, Split

BATCHES_A_SHARD = 16
MAX_DEFAULT_SHARDS = 4096
MAX_REREAD_SHARE = 0.05
SPLITS_ORDINAL = 2**64 - 1
# A tuple of four integers, two of them too large to be shared.
_SPLIT_BYTES = 160


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The row groups of a snapshot, file by file: int64 arrays [row groups].

    rows are those before the filter, delivered those that pass it, or all where that is not known.
    whole says that a Parquet row delivers any number of rows: where in a row group a row lies is
    known only once it is read. Else delivered equals parquet_rows.
    """

    file: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    parquet_rows: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    delivered: npt.NDArray[np.int64]
    decoded_bytes: npt.NDArray[np.int64]
    whole: bool = False


@dataclass(frozen=True)
class EpochPlan:
    """The splits of every shard, and what is known of their rows.

    row_counts and batch_counts are by shard, None where only reading tells.
    """

    shards: tuple[tuple[Split, ...], ...]
    batch_size: int
    row_counts: tuple[int, ...] | None
    reread_share: float
    notes: tuple[str, ...]

    @cached_property
    def batch_counts(self) -> tuple[int, ...] | None:
        """The batches that each shard delivers."""
        if self.row_counts is None:
            return None
        return tuple(-(-rows // self.batch_size) for rows in self.row_counts)

    @cached_property
    def size_bytes(self) -> int:
        """What the plan takes up in memory, in bytes; an estimate."""
        return sum(64 + _SPLIT_BYTES * len(shard) for shard in self.shards)


def plan_epoch(
    groups: RowGroups, identity: Identity, *, max_split_bytes: int, counts_known: bool
) -> EpochPlan:
    """The plan of an epoch.

    Row groups over max_split_bytes are always cut. With known counts, shards are cut at multiples
    of the batch size (one short batch in the epoch), as long as that makes no more than 5 % of
    the rows be decoded twice; else shards are whole splits. Of grouped or filtered files, shards
    are whole row groups.
    """
    splits = _permute(cut_row_groups(groups, max_split_bytes), identity)
    total = int(groups.parquet_rows.sum())
    batches = -(-int(groups.delivered.sum()) // identity.batch_size)
    wanted = identity.num_shards or min(
        max(1, round(batches / BATCHES_A_SHARD)), MAX_DEFAULT_SHARDS
    )
    forced = _reread(splits)
    notes = []
    if forced:
        cut = len({(s.file, s.row_group) for s in splits if s.first_row})
        notes.append(
            f"{cut} row groups decode to more than max_split_bytes ({max_split_bytes:,}) and are "
            f"cut; each cut decodes its row group from the start again, {forced / total:.0%} of "
            "the rows in all: files rewritten with smaller row groups would be read once"
        )
    shards = None
    if counts_known and groups.whole:
        notes.append(
            "shards are whole row groups: where a row lies in a grouped or filtered row group is "
            "only known once it is read, so each shard may end with a short batch"
        )
    elif counts_known:
        shards = _cut(splits, total, wanted, identity.batch_size)
        reread = _reread(itertools.chain.from_iterable(shards)) - forced
        if reread > MAX_REREAD_SHARE * total:
            notes.append(
                f"shards are whole row groups: shards of whole batches would decode "
                f"{reread / total:.0%} of the rows twice (at most {MAX_REREAD_SHARE:.0%} is "
                "accepted), so each shard may end with a short batch"
            )
            shards = None
    row_counts = None
    if shards is None:
        units = _units(splits, groups)
        shards = _deal(splits, units, identity.num_shards or max(1, min(wanted, len(units))))
        if counts_known:
            rows = {unit.first: unit.rows for unit in units}
            row_counts = tuple(sum(rows.get(split, 0) for split in shard) for shard in shards)
    elif counts_known:
        row_counts = tuple(sum(split.row_count for split in shard) for shard in shards)
    every = itertools.chain.from_iterable(shards)
    return EpochPlan(
        shards=shards,
        batch_size=identity.batch_size,
        row_counts=row_counts,
        reread_share=_reread(every) / total if total else 0.0,
        notes=tuple(notes),
    )


def cut_row_groups(groups: RowGroups, max_split_bytes: int, only: int | None = None) -> list[Split]:
    """One split a row group; several equal ones where it is too large. Empty ones are left out.

    only numbers the row group that is wanted, None stands for all.
    """
    wanted = slice(None) if only is None else slice(only, only + 1)
    rows_of = groups.parquet_rows[wanted]
    pieces = np.maximum(1, -(-groups.decoded_bytes[wanted] // max_split_bytes))
    splits = []
    for file, index, rows, count in zip(
        groups.file[wanted].tolist(),
        groups.index[wanted].tolist(),
        rows_of.tolist(),
        np.minimum(pieces, rows_of).tolist(),
        strict=True,
    ):
        bounds = [rows * piece // count for piece in range(count + 1)] if count else []
        splits += [
            Split(file, index, first, last - first) for first, last in itertools.pairwise(bounds)
        ]
    return splits


def _permute(splits: list[Split], identity: Identity) -> list[Split]:
    if not identity.shuffle:
        return splits
    keys = shuffle_keys(identity.seed, identity.epoch, SPLITS_ORDINAL, len(splits))
    return [splits[i] for i in np.argsort(keys, kind="stable").tolist()]


def _cut(
    splits: list[Split], total: int, num_shards: int, batch_size: int
) -> tuple[tuple[Split, ...], ...]:
    """Stretches of whole batches, one a shard, of the splits laid end to end."""
    batches = -(-total // batch_size)
    ends = [min(total, batches * (s + 1) // num_shards * batch_size) for s in range(num_shards)]
    shards: list[tuple[Split, ...]] = []
    queue = iter(splits)
    split, position = next(queue, None), 0
    for end in ends:
        shard = []
        while split is not None and position < end:
            taken = min(split.row_count, end - position)
            shard.append(split._replace(row_count=taken))
            position += taken
            if taken == split.row_count:
                split = next(queue, None)
            else:
                split = Split(
                    split.file, split.row_group, split.first_row + taken, split.row_count - taken
                )
        shards.append(tuple(shard))
    return tuple(shards)


class _Unit(NamedTuple):
    """Splits, by their number, that go to the same shard, and their rows."""

    first: Split
    numbers: list[int]
    rows: int


def _units(splits: list[Split], groups: RowGroups) -> list[_Unit]:
    """Each split by itself; or all of a row group, where its rows are only known together."""
    if not groups.whole:
        return [_Unit(split, [number], split.row_count) for number, split in enumerate(splits)]
    keys = zip(groups.file.tolist(), groups.index.tolist(), strict=True)
    rows = dict(zip(keys, groups.delivered.tolist(), strict=True))
    numbers: dict[tuple[int, int], list[int]] = {}
    for number, split in enumerate(splits):
        numbers.setdefault((split.file, split.row_group), []).append(number)
    return [_Unit(splits[of[0]], of, rows[key]) for key, of in numbers.items()]


def _deal(
    splits: list[Split], units: list[_Unit], num_shards: int
) -> tuple[tuple[Split, ...], ...]:
    """Whole units, largest first to the shard with the fewest rows; in order within a shard.

    Graham's LPT rule: https://doi.org/10.1137/0117039.
    """
    heap = [(0, shard) for shard in range(num_shards)]
    dealt: list[list[int]] = [[] for _ in range(num_shards)]
    for unit in sorted(units, key=lambda unit: (-unit.rows, unit.numbers)):
        rows, shard = heap[0]
        dealt[shard] += unit.numbers
        heapq.heapreplace(heap, (rows + unit.rows, shard))
    return tuple(tuple(splits[i] for i in sorted(shard)) for shard in dealt)


def _reread(splits: itertools.chain[Split] | list[Split]) -> int:
    """Rows decoded only to reach a split's first row: a row group is decoded from its start."""
    return sum(split.first_row for split in splits)
