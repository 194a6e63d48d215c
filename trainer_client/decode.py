"""Compact batches to tensors: one decompression, one pass of a kernel, and views of the result.

docs/compact_batch.md specifies the bytes. Nothing in a message is used before the header checksum
holds, and nothing in the arena is handed out before the payload checksum holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from headrace.v1 import batch_pb2, dataset_pb2
from trainer_client.arena_pool import ALIGNMENT, POOL
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.errors import DeploymentError
from trainer_client.header import BUFFER_WORDS, Header, damaged, read_header, unknown
from trainer_client.layout import ArenaLayout, MatrixLayout, PartLayout, SparseLayout
from trainer_client.payload import Payload, unwrap

ENCODING_VERSION = 1
# Far above any sane batch: a header that asks for more is wrong, whatever its checksum says.
MAX_ARENA_BYTES = 16 << 30

_DTYPE: dict[int, int] = {
    batch_pb2.BLOCK_KIND_DENSE: dataset_pb2.SCALAR_TYPE_FLOAT32,
    batch_pb2.BLOCK_KIND_SPARSE: dataset_pb2.SCALAR_TYPE_INT64,
    batch_pb2.BLOCK_KIND_LABEL: dataset_pb2.SCALAR_TYPE_FLOAT32,
}

Table = npt.NDArray[np.int64]


def check_version(version: int, who: str) -> None:
    """Raises DeploymentError if this encoding version cannot be decoded here."""
    if version != ENCODING_VERSION:
        raise DeploymentError(
            f"{who} encoding version {version}, this client decodes version {ENCODING_VERSION}: "
            "upgrade the older of the two"
        )


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    kind: int
    features: tuple[str, ...]


class Decoder:
    """Decodes the batches of one stream.

    pin_memory unpacks straight into page-locked memory. Raises DeploymentError if batches of this
    schema cannot be decoded here.
    """

    def __init__(self, schema: batch_pb2.BatchSchema, *, pin_memory: bool = False) -> None:
        check_version(schema.encoding_version, "the server sends")
        for block in schema.blocks:
            if block.kind not in _DTYPE:
                unknown(f"block {block.name!r}", "kind", block.kind)
            if block.dtype != _DTYPE[block.kind]:
                unknown(f"block {block.name!r}", "dtype", block.dtype)
            if not block.features:
                raise DeploymentError(
                    f"block {block.name!r} of the server's schema has no features"
                )
        self._blocks = [_Block(b.name, b.kind, tuple(b.features)) for b in schema.blocks]
        self._pin_memory = pin_memory
        kinds = {block.kind for block in self._blocks}
        if not kinds or len(kinds) != len(self._blocks):
            raise DeploymentError(
                f"the server's schema has {len(self._blocks)} blocks of {len(kinds)} kinds; this "
                "client takes one of each kind: upgrade it"
            )

    def __call__(self, message: batch_pb2.CompactBatch, payload: Payload) -> Batch:
        """The batch of a message, of which payload is given apart.

        Raises CorruptBatchError if the bytes are not those that were sent, DeploymentError if a
        newer server made them.
        """
        from trainer_client.kernels import unpacking

        header = read_header(message)
        buffers, parts = self._tables(message, header)
        wire_bytes = message.uncompressed_size_bytes
        if wire_bytes % ALIGNMENT or wire_bytes > MAX_ARENA_BYTES:
            damaged(message, f"an arena of {wire_bytes} bytes is not possible")
        size = unpacking.place_buffers(buffers, parts, wire_bytes)
        if size < 0:
            self._raise(message, header, buffers, size)
        if size > MAX_ARENA_BYTES:
            damaged(message, f"{size} bytes of tensors are not possible")
        wire = unwrap(message, payload)
        if self._pin_memory:
            arena = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        else:
            arena = torch.from_numpy(POOL.take(size))
        fault = unpacking.unpack(wire, buffers, parts, arena.numpy())
        if fault < 0:
            self._raise(message, header, buffers, fault)
        return Batch(
            arena=arena,
            layout=self._layout(message.row_count, header, buffers),
            shard=message.shard,
            index=message.index,
            cursor=Cursor.from_proto(message.cursor),
            next_cursor=Cursor.from_proto(message.next_cursor),
        )

    def _tables(self, message: batch_pb2.CompactBatch, header: Header) -> tuple[Table, Table]:
        """The kernel's tables of buffers and parts; all that concerns whole parts is checked."""
        from trainer_client.kernels.unpacking import BUFFER_COLUMNS

        if message.row_count < 1:
            damaged(message, "it has no rows")
        self._check_parts(message, header)
        words = np.frombuffer(header.words, "<i8")
        buffers = np.zeros((sum(p.buffer_count for p in header.parts), BUFFER_COLUMNS), np.int64)
        parts, first = [], 0
        for part in header.parts:
            end, end_word = first + part.buffer_count, part.first_word
            end_word += BUFFER_WORDS * part.buffer_count
            of_part = words[part.first_word : end_word].reshape(-1, BUFFER_WORDS)
            buffers[first:end, :BUFFER_WORDS] = of_part
            is_sparse = self._blocks[part.block].kind == batch_pb2.BLOCK_KIND_SPARSE
            sizes = len(part.features), part.run_count, message.row_count
            parts.append((is_sparse, *sizes, first, end))
            first = end
        return buffers, np.array(parts, np.int64)

    def _check_parts(self, message: batch_pb2.CompactBatch, header: Header) -> None:
        """Checks that the parts have every feature once, and as many buffers as they need."""
        if len(message.blocks) != len(self._blocks):
            damaged(message, f"{len(message.blocks)} blocks for a schema of {len(self._blocks)}")
        for number, block in enumerate(self._blocks):
            parts = [part for part in header.parts if part.block == number]
            is_sparse = block.kind == batch_pb2.BLOCK_KIND_SPARSE
            found: list[int] = []
            for i, part in enumerate(parts):
                found += part.features
                by_run = part.run_count > 0
                expected = (1 + by_run + len(part.features)) if is_sparse else 1
                if (
                    part.buffer_count != expected
                    or not part.features
                    or part.run_count > (message.row_count if is_sparse else 0)
                    or (i > 0 and not by_run)
                    or (
                        i > 0
                        and parts[i - 1].run_count > 0
                        and part.features[0] < parts[i - 1].features[0]
                    )
                    or any(a >= b for a, b in zip(part.features, part.features[1:], strict=False))
                ):
                    damaged(
                        message,
                        f"part {i} of block {block.name!r} cannot be: {len(part.features)} "
                        f"features, {part.run_count} runs, {part.buffer_count} buffers",
                    )
            if sorted(found) != [*range(len(block.features))] or not (is_sparse or len(parts) == 1):
                damaged(message, f"the parts of block {block.name!r} do not have each feature once")

    def _layout(self, rows: int, header: Header, buffers: Table) -> ArenaLayout:
        """Where the kernel put everything."""
        from trainer_client.kernels.unpacking import COUNT, DECODED_OFFSET, EXPANDED_COUNT

        matrices: dict[int, MatrixLayout] = {}
        sparse: SparseLayout | None = None
        sparse_parts: list[PartLayout] = []
        offsets: list[int] = buffers[:, DECODED_OFFSET].tolist()
        counts, expanded = buffers[:, COUNT].tolist(), buffers[:, EXPANDED_COUNT].tolist()
        first = 0
        for part in header.parts:
            block, end = self._blocks[part.block], first + part.buffer_count
            if block.kind == batch_pb2.BLOCK_KIND_SPARSE:
                lengths = first + (part.run_count > 0)
                layout = PartLayout(
                    features=tuple(part.features),
                    run_count=part.run_count,
                    run_lengths_offset_bytes=offsets[first],
                    lengths_offset_bytes=offsets[lengths],
                    values_offset_bytes=offsets[lengths + 1],
                    value_counts=tuple(counts[lengths + 1 : end]),
                    expanded_counts=tuple(expanded[lengths + 1 : end]),
                )
                sparse_parts.append(layout)
                sparse = SparseLayout(block.features, tuple(sparse_parts))
            else:
                matrices[block.kind] = MatrixLayout(block.features, offsets[first])
            first = end
        dense = matrices.get(batch_pb2.BLOCK_KIND_DENSE)
        return ArenaLayout(rows, dense, sparse, matrices.get(batch_pb2.BLOCK_KIND_LABEL))

    def _raise(
        self, message: batch_pb2.CompactBatch, header: Header, buffers: Table, fault: int
    ) -> NoReturn:
        """Raises what a kernel found wrong, naming the buffer at fault."""
        from trainer_client.kernels import unpacking as k

        row, code = divmod(-fault, k.FAULT_STEP)
        name = self._name_of(header, row)
        b: Sequence[int] = buffers[row].tolist()
        unknowns = {
            k.UNKNOWN_ROLE: ("role", b[k.ROLE]),
            k.UNKNOWN_LAYOUT: ("layout", b[k.LAYOUT]),
            k.UNKNOWN_TYPE: ("type", b[k.TYPE]),
        }
        if code in unknowns:
            unknown(f"the buffer of {name}", *unknowns[code])
        wire_bytes, end = message.uncompressed_size_bytes, b[k.OFFSET] + b[k.SIZE]
        problems = {
            k.WRONG_KIND: f"have role {b[k.ROLE]} and type {b[k.TYPE]}",
            k.WRONG_COUNT: f"are {b[k.COUNT]} elements",
            k.WRONG_PLACE: f"take bytes {b[k.OFFSET]} to {end} of {wire_bytes}",
            k.WRONG_WIDTH: f"have {b[k.WIDTH]} bits in layout {b[k.LAYOUT]}",
            k.WRONG_SIZE: f"take {b[k.SIZE]} bytes for {b[k.COUNT]} elements of {b[k.WIDTH]} bits",
            k.CODE_OUTSIDE: f"have codes beyond a dictionary of {b[k.DICTIONARY_SIZE]}",
            k.RUNS_UNEVEN: f"do not share {message.row_count} rows among {b[k.COUNT]} runs",
            k.LENGTHS_UNEVEN: f"are {b[k.COUNT]}, and their list lengths do not add up to that",
        }
        damaged(message, f"{name} {problems[code]}")

    def _name_of(self, header: Header, row: int) -> str:
        """What the buffer of a row is to its block."""
        first = 0
        for part in header.parts:
            block, place = self._blocks[part.block], row - first
            if place >= part.buffer_count:
                first += part.buffer_count
                continue
            if block.kind != batch_pb2.BLOCK_KIND_SPARSE:
                return f"the numbers of block {block.name!r}"
            place -= part.run_count > 0
            if place > 0:
                return f"the values of feature {block.features[part.features[place - 1]]!r}"
            what = "list lengths" if place == 0 else "run lengths"
            return f"the {what} of feature {block.features[part.features[0]]!r}"
        raise AssertionError(f"no part has buffer {row}")
