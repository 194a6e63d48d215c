"""Compact batches to tensors: one decompression, one pass of a kernel, and views of the result.

docs/compact_batch.md specifies the bytes. Nothing in a message is used before the header checksum
holds, and nothing in the arena is handed out before the payload checksum holds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from headrace.v1 import batch_pb2, dataset_pb2
from trainer_client.arena_pool import ALIGNMENT, POOL, keep_freed_messages
from trainer_client.batch import DENSE, LABELS, META, SPARSE, Batch
from trainer_client.errors import DeploymentError
from trainer_client.header import Bytes, Header, HeaderReader, PartHeader, unknown
from trainer_client.layout import (
    ArenaLayout,
    BlockLayout,
    MatrixLayout,
    PartLayout,
    SparseLayout,
)
from trainer_client.payload import unwrap
from trainer_client.views import Arena

ENCODING_VERSION = 1
# Far above any sane batch: a header that asks for more is wrong, whatever its checksum says.
MAX_ARENA_BYTES = 16 << 30

_DTYPES: dict[int, torch.dtype] = {
    dataset_pb2.SCALAR_TYPE_INT32: torch.int32,
    dataset_pb2.SCALAR_TYPE_INT64: torch.int64,
    dataset_pb2.SCALAR_TYPE_FLOAT32: torch.float32,
    dataset_pb2.SCALAR_TYPE_FLOAT64: torch.float64,
    dataset_pb2.SCALAR_TYPE_FLOAT16: torch.float16,
    dataset_pb2.SCALAR_TYPE_BFLOAT16: torch.bfloat16,
}
_NUMBERS = {
    dataset_pb2.SCALAR_TYPE_FLOAT32,
    dataset_pb2.SCALAR_TYPE_FLOAT64,
    dataset_pb2.SCALAR_TYPE_FLOAT16,
    dataset_pb2.SCALAR_TYPE_BFLOAT16,
}
# The dtypes that blocks of each kind may have.
_KINDS: dict[int, set[dataset_pb2.ScalarType]] = {
    batch_pb2.BLOCK_KIND_DENSE: _NUMBERS,
    batch_pb2.BLOCK_KIND_SPARSE: {dataset_pb2.SCALAR_TYPE_INT64, dataset_pb2.SCALAR_TYPE_INT32},
    batch_pb2.BLOCK_KIND_LABEL: _NUMBERS,
    batch_pb2.BLOCK_KIND_META: {dataset_pb2.SCALAR_TYPE_INT64},
}
# The dtypes that weights may have, 0 where there are none.
_WEIGHTS: dict[int, torch.dtype | None] = {0: None, dataset_pb2.SCALAR_TYPE_FLOAT32: torch.float32}
_OWN_KINDS = {
    DENSE: batch_pb2.BLOCK_KIND_DENSE,
    SPARSE: batch_pb2.BLOCK_KIND_SPARSE,
    LABELS: batch_pb2.BLOCK_KIND_LABEL,
    META: batch_pb2.BLOCK_KIND_META,
}

Table = npt.NDArray[np.int64]


def check_version(version: int, who: str) -> None:
    """Raises DeploymentError if this encoding version cannot be decoded here."""
    if version != ENCODING_VERSION:
        raise DeploymentError(
            f"{who} encoding version {version}, this client decodes version {ENCODING_VERSION}: "
            "upgrade the older of the two"
        )


class Decoders:
    """Makes the decoders of a trainer's streams; any thread may call it.

    Raises DeploymentError for a schema that is not that of the streams before: a model that learned
    from one order of features cannot go on with another.
    """

    def __init__(self, *, pin_memory: bool = False, expand: bool = False) -> None:
        keep_freed_messages()
        self._pin_memory = pin_memory
        self._expand = expand
        self._lock = threading.Lock()
        self._schema: batch_pb2.BatchSchema | None = None

    def __call__(self, schema: batch_pb2.BatchSchema) -> Decoder:
        """A decoder of one stream."""
        decoder = Decoder(schema, pin_memory=self._pin_memory, expand=self._expand)
        with self._lock:
            first = self._schema = self._schema or schema
        if schema != first:
            raise DeploymentError(
                f"the server sends {_features(schema)} where another one sent {_features(first)}: "
                "the servers disagree about the dataset; are they of one version?"
            )
        return decoder


def _features(schema: batch_pb2.BatchSchema) -> str:
    return ", ".join(f"{block.name} {list(block.features)}" for block in schema.blocks)


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    kind: int
    dtype: int
    features: tuple[str, ...]
    places: list[int]
    weights_dtype: int


class Decoder:
    """Decodes the batches of one stream, one at a time.

    pin_memory unpacks straight into page-locked memory; expand expands runs right away. Raises
    DeploymentError if batches of this schema cannot be decoded here.
    """

    def __init__(
        self, schema: batch_pb2.BatchSchema, *, pin_memory: bool = False, expand: bool = False
    ) -> None:
        from trainer_client.kernels import unpacking

        check_version(schema.encoding_version, "the server sends")
        for block in schema.blocks:
            if block.kind not in _KINDS:
                unknown(f"block {block.name!r}", "kind", block.kind)
            if block.dtype not in _KINDS[block.kind]:
                unknown(f"block {block.name!r}", "dtype", block.dtype)
            if block.weights_dtype not in _WEIGHTS or (
                block.weights_dtype and block.kind != batch_pb2.BLOCK_KIND_SPARSE
            ):
                unknown(f"block {block.name!r}", "weights_dtype", block.weights_dtype)
            if not block.features:
                raise DeploymentError(
                    f"block {block.name!r} of the server's schema has no features"
                )
        self._blocks = [
            _Block(
                b.name,
                b.kind,
                b.dtype,
                tuple(b.features),
                [*range(len(b.features))],
                b.weights_dtype,
            )
            for b in schema.blocks
        ]
        self._pin_memory = pin_memory
        self._expand = expand
        names = {block.name for block in self._blocks}
        if len(names) != len(self._blocks):
            raise DeploymentError(
                f"the server's schema has {len(self._blocks)} blocks of {len(names)} names: are "
                "server and trainer of one version?"
            )
        for name, kind in ((block.name, block.kind) for block in self._blocks):
            if kind != _OWN_KINDS.get(name, kind):
                raise DeploymentError(
                    f"block {name!r} of the server's schema is of kind {kind}: are server and "
                    "trainer of one version?"
                )
        self._reader = HeaderReader(sum(len(block.features) for block in self._blocks))
        self._kernels = unpacking
        # What the parts of the header before are, and the kernel's table of them.
        self._parts: Sequence[PartHeader] | None = None
        self._table: Table = np.empty((0, unpacking.PART_COLUMNS), np.int64)

    def __call__(self, message: Bytes) -> Batch:
        """The batch of an encoded CompactBatch.

        Raises CorruptBatchError if the bytes are not those that were sent, DeploymentError if a
        newer server made them.
        """
        unpacking = self._kernels
        header = self._reader.read(message)
        wire_bytes, buffers = header.uncompressed_size_bytes, header.buffers
        if not 1 <= header.row_count < 1 << 32:
            header.damaged(f"{header.row_count} rows are not possible")
        if wire_bytes % ALIGNMENT or wire_bytes > MAX_ARENA_BYTES:
            header.damaged(f"an arena of {wire_bytes} bytes is not possible")
        parts = self._table_of_parts(header)
        size = unpacking.place_buffers(buffers, parts, wire_bytes)
        if size < 0:
            self._raise(header, size)
        if size > MAX_ARENA_BYTES:
            header.damaged(f"{size} bytes of tensors are not possible")
        wire = unwrap(header)
        if self._pin_memory:
            # A tensor, whose views are torch's: it knows how long what it has locked is in use.
            memory: Arena = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        else:
            memory = POOL.take(size)
        array = memory.numpy() if isinstance(memory, torch.Tensor) else memory
        fault = unpacking.unpack(wire, header.payload_checksum, buffers, parts, array)
        if fault < 0:
            self._raise(header, fault)
        batch = Batch(
            memory=memory,
            layout=self._layout(header),
            shard=header.shard,
            index=header.index,
            cursor=header.cursor,
            next_cursor=header.next_cursor,
            content_checksum=header.content_checksum,
        )
        if self._expand:
            batch.expand()
        return batch

    def _table_of_parts(self, header: Header) -> Table:
        """The kernel's table of parts; all that concerns whole parts is checked."""
        if header.block_count != len(self._blocks):
            header.damaged(f"{header.block_count} blocks for a schema of {len(self._blocks)}")
        if header.parts is not self._parts:
            self._table = self._checked_table(header)
            self._parts = header.parts
        for number, run_count in enumerate(header.run_counts):
            if not 0 <= run_count <= header.row_count:
                self._raise_part(header, number)
        self._table[:, self._kernels.RUNS] = header.run_counts
        self._table[:, self._kernels.ROWS] = header.row_count
        return self._table

    def _checked_table(self, header: Header) -> Table:
        """The table of parts, except for what differs between batches of equal parts."""
        rows = []
        found: list[list[int]] = [[] for _ in self._blocks]
        before: PartHeader | None = None
        for number, part in enumerate(header.parts):
            block = self._blocks[part.block]
            if before is not None and before.block != part.block:
                before = None
            if not self._can_be(part, before):
                self._raise_part(header, number)
            found[part.block] += part.features
            buffers = part.first_buffer, part.buffer_end
            rows.append(
                (block.kind, len(part.features), 0, 0, *buffers, block.dtype, block.weights_dtype)
            )
            before = part
        for block, places in zip(self._blocks, found, strict=True):
            if sorted(places) != block.places:
                header.damaged(f"the parts of block {block.name!r} do not have each feature once")
        return np.array(rows, np.int64).reshape(-1, self._kernels.PART_COLUMNS)

    def _can_be(self, part: PartHeader, before: PartHeader | None) -> bool:
        """Whether a part is one that the format allows, after the one before it in its block."""
        features, count = part.features, part.buffer_end - part.first_buffer
        if not features or any(a > b for a, b in pairwise(features)):
            return False
        block = self._blocks[part.block]
        kind = block.kind
        if kind != batch_pb2.BLOCK_KIND_SPARSE:
            expected = len(features) if kind == batch_pb2.BLOCK_KIND_META else 1
            return before is None and not part.by_run and count == expected
        if before is not None and not part.by_run:
            return False
        if before is not None and before.by_run and features[0] < before.features[0]:
            return False
        return count == 1 + part.by_run + len(features) + (block.weights_dtype > 0)

    def _raise_part(self, header: Header, number: int) -> NoReturn:
        """Raises that a part cannot be."""
        part = header.parts[number]
        header.damaged(
            f"a part of block {self._blocks[part.block].name!r} cannot be: features "
            f"{list(part.features)}, {header.run_counts[number]} runs, "
            f"{part.buffer_end - part.first_buffer} buffers"
        )

    def _layout(self, header: Header) -> ArenaLayout:
        """Where the kernel put everything."""
        found: dict[str, BlockLayout] = {}
        sparse_parts: dict[str, tuple[PartLayout, ...]] = {}
        k, buffers = self._kernels, header.buffers
        offsets: list[int] = buffers[:, k.DECODED_OFFSET].tolist()
        counts: list[int] = buffers[:, k.COUNT].tolist()
        expanded: list[int] = buffers[:, k.EXPANDED_COUNT].tolist()
        for part, run_count in zip(header.parts, header.run_counts, strict=True):
            block, first, end = self._blocks[part.block], part.first_buffer, part.buffer_end
            if block.kind == batch_pb2.BLOCK_KIND_SPARSE:
                lengths = first + part.by_run
                weights = end - (block.weights_dtype > 0)
                layout = PartLayout(
                    features=part.features,
                    run_count=run_count,
                    run_lengths_offset_bytes=offsets[first],
                    lengths_offset_bytes=offsets[lengths],
                    values_offset_bytes=offsets[lengths + 1],
                    value_counts=tuple(counts[lengths + 1 : weights]),
                    expanded_counts=tuple(expanded[lengths + 1 : weights]),
                    weights_offset_bytes=offsets[weights] if weights < end else 0,
                )
                parts = sparse_parts[block.name] = (*sparse_parts.get(block.name, ()), layout)
                found[block.name] = SparseLayout(
                    block.features, parts, _DTYPES[block.dtype], _WEIGHTS[block.weights_dtype]
                )
            else:
                dtype = _DTYPES[block.dtype]
                found[block.name] = MatrixLayout(block.features, offsets[first], dtype)
        return ArenaLayout(header.row_count, found)

    def _raise(self, header: Header, fault: int) -> NoReturn:
        """Raises what a kernel found wrong, naming the buffer at fault."""
        k = self._kernels
        row, code = divmod(-fault, k.FAULT_STEP)
        if code == k.WRONG_CHECKSUM:
            header.damaged("the payload does not match its checksum")
        name = self._name_of(header, row)
        b: Sequence[int] = header.buffers[row].tolist()
        unknowns = {
            k.UNKNOWN_ROLE: ("role", b[k.ROLE]),
            k.UNKNOWN_LAYOUT: ("layout", b[k.LAYOUT]),
            k.UNKNOWN_TYPE: ("type", b[k.TYPE]),
        }
        if code in unknowns:
            unknown(f"the buffer of {name}", *unknowns[code])
        wire_bytes, end = header.uncompressed_size_bytes, b[k.OFFSET] + b[k.SIZE]
        problems = {
            k.WRONG_KIND: f"have role {b[k.ROLE]} and type {b[k.TYPE]}",
            k.WRONG_COUNT: f"are {b[k.COUNT]} elements",
            k.WRONG_PLACE: f"take bytes {b[k.OFFSET]} to {end} of {wire_bytes}",
            k.WRONG_WIDTH: f"have {b[k.WIDTH]} bits in layout {b[k.LAYOUT]}",
            k.WRONG_SIZE: f"take {b[k.SIZE]} bytes for {b[k.COUNT]} elements of {b[k.WIDTH]} bits",
            k.WRONG_LAYOUT: f"have layout {b[k.LAYOUT]}, which is not for type {b[k.TYPE]}",
            k.WRONG_BASE: f"have base {b[k.BASE]} in layout {b[k.LAYOUT]}",
            k.WRONG_DICTIONARY: "have a dictionary out of order or range",
            k.CODE_OUTSIDE: f"have codes beyond a dictionary of {b[k.DICTIONARY_SIZE]}",
            k.RUNS_UNEVEN: f"do not share {header.row_count} rows among {b[k.COUNT]} runs",
            k.LENGTHS_UNEVEN: f"are {b[k.COUNT]}, and their list lengths do not add up to that",
        }
        header.damaged(f"{name} {problems[code]}")

    def _name_of(self, header: Header, row: int) -> str:
        """What the buffer of a row is to its block."""
        part = next(part for part in header.parts if part.first_buffer <= row < part.buffer_end)
        block, place = self._blocks[part.block], row - part.first_buffer
        if block.kind == batch_pb2.BLOCK_KIND_META:
            return f"the values of column {block.features[part.features[place]]!r}"
        if block.kind != batch_pb2.BLOCK_KIND_SPARSE:
            return f"the numbers of block {block.name!r}"
        if block.weights_dtype and row == part.buffer_end - 1:
            return f"the weights of feature {block.features[part.features[0]]!r}"
        place -= part.by_run
        if place > 0:
            return f"the values of feature {block.features[part.features[place - 1]]!r}"
        what = "list lengths" if place == 0 else "run lengths"
        return f"the {what} of feature {block.features[part.features[0]]!r}"
