"""A batch of rows as tensors: views of one arena, so that moving it is one copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch

from trainer_client.arena_pool import Bytes
from trainer_client.cursor import Cursor
from trainer_client.layout import ArenaLayout, MatrixLayout, SparseLayout
from trainer_client.sparse import JaggedView, SparseBlock
from trainer_client.views import Arena, view

Block: TypeAlias = torch.Tensor | SparseBlock

# The blocks that features go to where the dataset names no other one.
DENSE, SPARSE, LABELS, META = "dense", "sparse", "labels", "meta"


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: dense float32 [B, D], labels float32 [B, L], sparse a SparseBlock; or None.

    blocks has these, and those that the dataset names, by name; meta, int64 [B, M], are columns
    that are carried through. The dataset may ask for other dtypes of a block. Matrices are
    transposed views of feature-major ones, so a column is contiguous.
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

    @property
    def dense(self) -> torch.Tensor | None:
        """float32 [B, D] unless the dataset asks for another dtype: the block "dense"."""
        return self._matrix(DENSE)

    @property
    def labels(self) -> torch.Tensor | None:
        """float32 [B, L] unless the dataset asks for another dtype: the block "labels"."""
        return self._matrix(LABELS)

    @property
    def meta(self) -> torch.Tensor | None:
        """int64 [B, M]: the block "meta"."""
        return self._matrix(META)

    @property
    def sparse(self) -> SparseBlock | None:
        """The block "sparse"; features that were sent once a run are expanded when asked for."""
        return self._lists(SPARSE)

    @cached_property
    def blocks(self) -> Mapping[str, Block]:
        """Every block by name, in the order of the schema: dense, sparse, label and meta blocks.

        Those of a kind are in the order of their first features in the dataset, and so are the
        features of a block.
        """
        return {name: self._block(name) for name in self.layout.blocks}

    @property
    def nbytes(self) -> int:
        """What the batch takes up in memory, in bytes."""
        expanded = self.expanded().values()
        return self.memory.nbytes + sum(block.expanded_nbytes for block in expanded)

    def expand(self) -> None:
        """Expands the runs of every sparse block now, so that the first use need not."""
        for block in self._sparse_blocks():
            block.expand()

    def expanded(self) -> dict[str, SparseBlock]:
        """The sparse blocks whose lists were expanded beside the arena, by name."""
        made = self._made.items()
        return {n: b for n, b in made if isinstance(b, SparseBlock) and b.expanded_nbytes}

    def take_expanded(self, name: str, memory: Bytes) -> None:
        """Takes the lists of a sparse block that were expanded elsewhere (SparseBlock)."""
        block = self._block(name)
        assert isinstance(block, SparseBlock)
        block.take_expanded(memory)

    def but(self, **changes: Any) -> Batch:
        """The same batch with other fields, and with what has been made of it already."""
        batch = object.__new__(Batch)
        batch.__dict__.update(self.__dict__, **changes)
        return batch

    def keys(self) -> list[str]:
        """The names of all features, block by block."""
        return [name for block in self.layout.blocks.values() for name in block.features]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: str) -> torch.Tensor | JaggedView:
        """One feature: [B] in the dtype of its block, or the lists of a sparse one.

        Raises KeyError that lists what there is.
        """
        for name, layout in self.layout.blocks.items():
            if key in layout.features:
                block = self._block(name)
                if isinstance(block, SparseBlock):
                    return block[key]
                return block[:, layout.features.index(key)]
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

    def _matrix(self, name: str) -> torch.Tensor | None:
        block = self._block(name) if name in self.layout.blocks else None
        assert not isinstance(block, SparseBlock)
        return block

    def _lists(self, name: str) -> SparseBlock | None:
        block = self._block(name) if name in self.layout.blocks else None
        assert not isinstance(block, torch.Tensor)
        return block

    def _sparse_blocks(self) -> Iterator[SparseBlock]:
        for name, layout in self.layout.blocks.items():
            if isinstance(layout, SparseLayout):
                block = self._block(name)
                assert isinstance(block, SparseBlock)
                yield block

    @cached_property
    def _made(self) -> dict[str, Block]:
        return {}

    def _block(self, name: str) -> Block:
        """A block, made when it is first asked for."""
        made = self._made.get(name)
        if made is None:
            layout = self.layout.blocks[name]
            if isinstance(layout, MatrixLayout):
                shape = (self.layout.row_count, len(layout.features))
                made = view(self.memory, layout.offset_bytes, shape, layout.dtype)
            else:
                made = SparseBlock(self.memory, layout, self.batch_size)
            self._made[name] = made
        return made


def register_pipelineable() -> None:
    """Tells torchrec, where the program has loaded it, that its pipelines can move a Batch."""
    if "torchrec" in sys.modules:
        from torchrec.streamable import (  # type: ignore[import-not-found]
            Pipelineable,
        )

        Pipelineable.register(Batch)
