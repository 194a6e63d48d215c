"""A batch of rows as tensors: views of one arena, so that moving it is one copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from trainer_client.cursor import Cursor
from trainer_client.layout import ArenaLayout, MatrixLayout
from trainer_client.sparse import JaggedView, SparseBlock
from trainer_client.views import Arena, view


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: dense float32 [B, D], labels float32 [B, L], sparse a SparseBlock; or None.

    dense and labels are transposed views of feature-major matrices, so a column is contiguous.
    cursor and next_cursor are the positions in the shard before and after the batch. padding says
    that it repeats the one before, so that ranks take as many steps; its rows were delivered
    already. server sent it, in wire_bytes. content_checksum fixes every value (see header.Header).
    position and mark are for BatchStream.state_dict alone.
    """

    memory: Arena = field(repr=False)
    layout: ArenaLayout = field(repr=False)
    shard: int
    index: int
    cursor: Cursor
    next_cursor: Cursor
    padding: bool = False
    server: str = ""
    wire_bytes: int = 0
    position: object = field(default=None, repr=False)
    content_checksum: int = 0
    mark: tuple[str, int] | None = field(default=None, repr=False)

    @cached_property
    def arena(self) -> torch.Tensor:
        """uint8 [n]: all that was sent, as layout says."""
        memory = self.memory
        return memory if isinstance(memory, torch.Tensor) else torch.from_numpy(memory)

    @property
    def batch_size(self) -> int:
        """The number of rows."""
        return self.layout.row_count

    def __len__(self) -> int:
        return self.layout.row_count

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.arena.device

    @cached_property
    def dense(self) -> torch.Tensor | None:
        """float32 [B, D], features in the dataset's order."""
        return self._matrix(self.layout.dense)

    @cached_property
    def labels(self) -> torch.Tensor | None:
        """float32 [B, L], labels in the dataset's order."""
        return self._matrix(self.layout.labels)

    @cached_property
    def sparse(self) -> SparseBlock | None:
        """Every sparse feature; those that were sent once a run are expanded when asked for."""
        layout = self.layout.sparse
        return None if layout is None else SparseBlock(self.memory, layout, self.batch_size)

    @property
    def nbytes(self) -> int:
        """What the batch takes up in memory, in bytes."""
        return self.memory.nbytes + (0 if self.sparse is None else self.sparse.expanded_nbytes)

    def but(self, **changes: Any) -> Batch:
        """The same batch with other fields, and with what has been made of it already."""
        batch = object.__new__(Batch)
        batch.__dict__.update(self.__dict__, **changes)
        return batch

    def keys(self) -> list[str]:
        """The names of all features: dense, sparse, then labels."""
        blocks = (self.layout.dense, self.layout.sparse, self.layout.labels)
        return [name for block in blocks if block is not None for name in block.features]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: str) -> torch.Tensor | JaggedView:
        """One feature: float32 [B] of a dense feature or label, the lists of a sparse one.

        Raises KeyError that lists what there is.
        """
        for layout, matrix in ((self.layout.dense, "dense"), (self.layout.labels, "labels")):
            if layout is not None and key in layout.features:
                column: torch.Tensor = getattr(self, matrix)[:, layout.features.index(key)]
                return column
        if self.sparse is not None and key in self.sparse:
            return self.sparse[key]
        raise KeyError(f"{key!r}; this batch has {', '.join(self.keys())}")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on a device: itself if it is there, else a new one made by one copy."""
        arena = self.arena.to(device, non_blocking=non_blocking)
        return self if arena is self.arena else replace(self, memory=arena)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory: itself if it is, else a new one made by one copy."""
        if self.arena.is_pinned():
            return self
        return replace(self, memory=self.arena.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory from being reused before the work queued on stream is done."""
        if self.arena.device.type != "cpu":
            self.arena.record_stream(stream)

    def _matrix(self, layout: MatrixLayout | None) -> torch.Tensor | None:
        if layout is None:
            return None
        shape = (self.layout.row_count, len(layout.features))
        return view(self.memory, layout.offset_bytes, shape, torch.float32)


def register_pipelineable() -> None:
    """Tells torchrec, where the program has loaded it, that its pipelines can move a Batch."""
    if "torchrec" in sys.modules:
        from torchrec.streamable import (  # type: ignore[import-not-found]
            Pipelineable,
        )

        Pipelineable.register(Batch)
