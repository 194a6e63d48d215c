"""A batch of rows as tensors: views of one arena, so that moving it is one copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from trainer_client.cursor import Cursor


@dataclass(frozen=True, slots=True)
class MatrixLayout:
    """Where a feature-major float32 matrix [features, rows] starts in the arena, in bytes."""

    features: tuple[str, ...]
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class JaggedLayout:
    """Where int32 lengths [features, rows] and int64 values [value_count] start, in bytes."""

    features: tuple[str, ...]
    lengths_offset_bytes: int
    values_offset_bytes: int
    value_count: int


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Which blocks an arena holds, and where."""

    row_count: int
    dense: MatrixLayout | None = None
    sparse: JaggedLayout | None = None
    labels: MatrixLayout | None = None


@dataclass(frozen=True, eq=False, slots=True)
class JaggedView:
    """One list of ids a row: values int64 [n], lengths int32 [B], offsets int64 [B + 1].

    Row i has values[offsets[i]:offsets[i + 1]]; offsets[0] is 0.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    offsets: torch.Tensor

    def to_list(self) -> list[list[int]]:
        """The lists, row by row; for looking at, not for training."""
        rows: list[list[int]] = [
            part.tolist() for part in torch.split(self.values, self.lengths.tolist())
        ]
        return rows


@dataclass(frozen=True, eq=False)
class SparseBlock:
    """Every sparse feature as one key-major jagged block.

    values is int64 [n]; lengths is int32 [F * B], the B lengths of keys[0] first.
    """

    keys: tuple[str, ...]
    values: torch.Tensor
    lengths: torch.Tensor
    batch_size: int

    @cached_property
    def offsets(self) -> torch.Tensor:
        """int64 [F * B + 1]; made when first asked for, on the tensors' device."""
        offsets = torch.zeros(len(self.lengths) + 1, dtype=torch.int64, device=self.lengths.device)
        torch.cumsum(self.lengths, dim=0, dtype=torch.int64, out=offsets[1:])
        return offsets

    @cached_property
    def _bounds(self) -> list[int]:
        """Where each key's values start, and the end; on a GPU this waits for it once."""
        bounds: list[int] = self.offsets[:: self.batch_size].tolist()
        return bounds

    def __getitem__(self, key: str) -> JaggedView:
        """The lists of one feature. Raises KeyError if there is no such feature."""
        try:
            f = self.keys.index(key)
        except ValueError:
            raise KeyError(key) from None
        size, bounds = self.batch_size, self._bounds
        return JaggedView(
            values=self.values[bounds[f] : bounds[f + 1]],
            lengths=self.lengths[f * size : (f + 1) * size],
            offsets=self.offsets[f * size : (f + 1) * size + 1] - bounds[f],
        )

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def to_kjt(self) -> Any:
        """The block as a torchrec KeyedJaggedTensor, sharing memory; needs torchrec."""
        from torchrec import KeyedJaggedTensor  # type: ignore[import-not-found]

        return KeyedJaggedTensor(keys=list(self.keys), values=self.values, lengths=self.lengths)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: dense float32 [B, D], labels float32 [B, L], sparse a SparseBlock; or None.

    dense and labels are transposed views of feature-major matrices, so a column is contiguous.
    cursor and next_cursor are the positions in the shard before and after the batch. position is
    for BatchStream.state_dict alone.
    """

    arena: torch.Tensor = field(repr=False)
    layout: ArenaLayout = field(repr=False)
    shard: int
    index: int
    cursor: Cursor
    next_cursor: Cursor
    position: object = field(default=None, repr=False)

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
        """Every sparse feature."""
        layout = self.layout.sparse
        if layout is None:
            return None
        rows = self.layout.row_count
        lengths = self._view(layout.lengths_offset_bytes, len(layout.features) * rows, torch.int32)
        values = self._view(layout.values_offset_bytes, layout.value_count, torch.int64)
        return SparseBlock(layout.features, values, lengths, rows)

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
        return self if arena is self.arena else replace(self, arena=arena)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory: itself if it is, else a new one made by one copy."""
        return self if self.arena.is_pinned() else replace(self, arena=self.arena.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory from being reused before the work queued on stream is done."""
        if self.arena.device.type != "cpu":
            self.arena.record_stream(stream)

    def _matrix(self, layout: MatrixLayout | None) -> torch.Tensor | None:
        if layout is None:
            return None
        shape = (len(layout.features), self.layout.row_count)
        return self._view(layout.offset_bytes, shape[0] * shape[1], torch.float32).view(shape).t()

    def _view(self, offset_bytes: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        return self.arena[offset_bytes : offset_bytes + count * dtype.itemsize].view(dtype)


def register_pipelineable() -> None:
    """Tells torchrec, where the program has loaded it, that its pipelines can move a Batch."""
    if "torchrec" in sys.modules:
        from torchrec.streamable import (  # type: ignore[import-not-found]
            Pipelineable,
        )

        Pipelineable.register(Batch)
