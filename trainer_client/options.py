"""The options of a stream: each checked once, by an error that names it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from trainer_client.errors import RequestError
from trainer_client.tls import Tls

U64 = (1 << 64) - 1

Uneven: TypeAlias = Literal["drop", "pad", "sync", "sync-pad", "none"]
Count: TypeAlias = Literal["exact"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a BatchStream was asked for. Raises RequestError that names the option at fault."""

    batch_size: int
    """Rows in a batch, from 1 to 2^20. Part of what fixes the batches."""
    seed: int
    """Seeds every random choice, from 0 to 2^64 - 1. Part of what fixes the batches."""
    shuffle: bool
    """Permutes splits, and groups within shuffle windows. Part of what fixes the batches."""
    shuffle_window_splits: int
    """Splits in a shuffle window, from 1 to 1024. Part of what fixes the batches."""
    num_shards: int | None
    """Shards of an epoch, from 1 to 2^20; None leaves the number to the plan. Fixes the batches."""
    uneven: Uneven | None
    """What happens where ranks have different numbers of batches; None chooses (docs/ranks.md)."""
    count: Count | None
    """"exact" has the servers count once which rows pass the filter; None leaves that unknown."""
    drop_last: bool
    """Leaves out batches with fewer than batch_size rows, and counts them."""
    interleave: int
    """Segments read at the same time, from 1 to 256. Fixes the order of batches on a rank."""
    prefetch_factor: int
    """Batches read ahead on each open segment, at least 1."""
    prefetch_bytes: int
    """Bytes of decompressed batches read ahead, over all open segments, at least 1."""
    hedge: bool
    """Asks a second server for a batch that holds up the others, for at most 5 % of batches."""
    expand: bool
    """Expands what was sent once a run on the reading threads, ahead of its first use."""
    pin_memory: bool
    """Decompresses into page-locked memory, from which copies to a GPU are asynchronous."""
    reader_process: bool
    """Receives, decodes and expands in a process of its own, beside the training loop's GIL."""
    device: torch.device | None
    """Where batches are delivered; None leaves them on the CPU."""
    timeout_s: float
    """Seconds without any progress after which waits end in a StreamTimeoutError."""
    resolve_interval_s: float
    """Seconds between two looks at the addresses of a dns:/// or ray:/// target, at least 0.1."""
    snapshot: str
    """The snapshot to use, by id; "" for the pinned one, or a new one."""
    snapshot_dir: str | os.PathLike[str] | None
    """Where snapshots are kept and the dataset's is pinned; None for the user's cache, unpinned."""
    tls: Tls | None = None
    """TLS to the servers (docs/security.md); None is plain text."""
    ledger: str | os.PathLike[str] | None = None
    """A folder in which to write down what the trainer is handed (docs/ledger.md); None: none."""

    def __post_init__(self) -> None:
        self._whole("batch_size", 1, 1 << 20)
        self._whole("seed", 0, U64)
        self._whole("shuffle_window_splits", 1, 1024)
        if self.num_shards is not None:
            self._whole("num_shards", 1, 1 << 20)
        if self.uneven is not None and self.uneven not in get_args(Uneven):
            known = ", ".join(map(repr, get_args(Uneven)))
            raise RequestError(f"uneven is {self.uneven!r}: it must be one of {known}, or None")
        if self.count is not None and self.count not in get_args(Count):
            raise RequestError(
                f'count is {self.count!r}: it must be "exact" (the servers count which rows pass '
                "the filter), or None (that stays unknown)"
            )
        self._whole("interleave", 1, 256)
        self._whole("prefetch_factor", 1, 1 << 20)
        self._whole("prefetch_bytes", 1, U64)
        for name in ("shuffle", "drop_last", "hedge", "expand", "pin_memory", "reader_process"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {getattr(self, name)!r}: it must be True or False")
        if self.expand and self.device is not None:
            raise RequestError(
                f"expand=True with device={str(self.device)!r}: batches travel as they were sent "
                "and are expanded on the device when batch.sparse is used; leave one of them out"
            )
        if self.reader_process and self.pin_memory:
            raise RequestError(
                "pin_memory=True with reader_process=True: batches lie in memory of the reader "
                "process, which no GPU of this one can lock; leave one of them out"
            )
        if self.reader_process and not hasattr(os, "memfd_create"):
            raise RequestError(
                "reader_process=True needs Linux, for memory that two processes share: leave it out"
            )
        self._seconds("timeout", self.timeout_s, 0.0)
        self._seconds("resolve_interval", self.resolve_interval_s, 0.1)

        if self.tls is not None:
            if not isinstance(self.tls, Tls):
                raise RequestError(
                    f"tls is {self.tls!r}: it must be Tls(ca=..., cert=..., key=...), Tls() to "
                    "trust the roots of this machine, or None for plain text"
                )
            # Now rather than where the stream connects: an hour of waiting for a node ends there.
            self.tls.read()

    def _seconds(self, name: str, value: float, low: float) -> None:
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not value > 0 or value < low:
            bound = f"at least {low:g}" if low else "above 0"
            raise RequestError(f"{name} is {value!r}: it must be a number of seconds {bound}")

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not low <= value <= high:
            raise RequestError(f"{name} is {value!r}: it must be an integer from {low} to {high:,}")
