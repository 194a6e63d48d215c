"""Rows of feature Frames to one compact batch: one arena, filled once, compressed once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.encode.arrange import Arranger, Section
from preprocessor_server.encode.checksum import header_checksum
from preprocessor_server.encode.compress import Compression, Level, compress_bound
from preprocessor_server.encode.message import batch_response
from preprocessor_server.encode.parts import PartRows, sparse_parts
from preprocessor_server.errors import DeploymentError
from preprocessor_server.frame import Array, Flat, Frame, Indices, Runs, concat_frames
from preprocessor_server.kernels import float_layout, gather_columns, lay_out

# What checksums, and the tags and lengths of message and payload, take up at most.
_ENVELOPE_BYTES = 64

Arena = npt.NDArray[np.uint8]
MAX_LENGTH = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a feature Frame, in the order in which they go into the batch."""

    frame: Frame
    rows: Indices


class _Worker(threading.local):
    """What a worker thread uses again for every batch."""

    def __init__(self) -> None:
        self.arena = np.empty(0, np.uint8)

    def take_arena(self, size: int) -> Arena:
        if len(self.arena) < size:
            self.arena = np.empty(size + size // 8, np.uint8)
        return self.arena[:size]


_worker = _Worker()


class BatchEncoder:
    """Encodes batches of one schema; the same rows give the same arena, always."""

    def __init__(
        self,
        schema: batch_pb2.BatchSchema,
        codec: batch_pb2.Codec,
        zstd_level: Level,
        max_message_bytes: int,
    ) -> None:
        self._schema = schema
        self._codec = codec
        self._compression = Compression(zstd_level)
        self._max_message_bytes = max_message_bytes

    def encode(
        self,
        pieces: Sequence[Piece],
        shard: int,
        cursor: batch_pb2.Cursor,
        next_cursor: batch_pb2.Cursor,
    ) -> bytes:
        """The serialised StreamBatchesResponse of the pieces' rows, one piece after the other.

        Raises DeploymentError (BATCH_TOO_LARGE) if it cannot fit a message.
        """
        frame, rows = _merge(pieces)
        batch = batch_pb2.CompactBatch(
            shard=shard,
            index=cursor.batch,
            row_count=len(rows),
            cursor=cursor,
            next_cursor=next_cursor,
            codec=self._codec,
        )
        arranger = Arranger()
        for schema in self._schema.blocks:
            block = batch.blocks.add()
            if schema.kind == batch_pb2.BLOCK_KIND_SPARSE:
                for part in sparse_parts(frame, rows, schema.features):
                    _add_part(block, arranger, part)
            else:
                _add_matrix(block, arranger, frame, rows, schema.features)
        batch.uncompressed_size_bytes = arranger.size_bytes
        self._check_size(batch)
        arena = _worker.take_arena(arranger.size_bytes)
        arranger.write(arena)
        batch.payload_checksum = xxhash.xxh64_intdigest(arena.data)
        batch.header_checksum = header_checksum(batch)
        return batch_response(batch, self._compress(arena))

    def _check_size(self, batch: batch_pb2.CompactBatch) -> None:
        """Before the work is done, as if nothing could be compressed: the same for every codec."""
        size = batch.ByteSize() + _ENVELOPE_BYTES + compress_bound(batch.uncompressed_size_bytes)
        if size > self._max_message_bytes:
            raise DeploymentError(
                "BATCH_TOO_LARGE",
                f"a batch of {batch.row_count:,} rows takes up to {size:,} bytes, more than a "
                f"message may hold ({self._max_message_bytes:,}, --max-message-bytes); use a "
                "smaller batch_size or raise the setting",
                field="identity.batch_size",
            )

    def _compress(self, arena: Arena) -> bytes | memoryview:
        if self._codec == batch_pb2.CODEC_NONE:
            return arena.data
        return self._compression.compress(arena)


def _merge(pieces: Sequence[Piece]) -> tuple[Frame, Indices]:
    """One frame that has the rows of all pieces, and their numbers in it."""
    if len(pieces) == 1:
        return pieces[0].frame, pieces[0].rows
    frame = concat_frames([piece.frame.take(piece.rows) for piece in pieces])
    return frame, np.arange(frame.row_count)


def _add_matrix(
    block: batch_pb2.Block,
    arranger: Arranger,
    frame: Frame,
    rows: Indices,
    names: Sequence[str],
) -> None:
    """Arranges the matrix of a dense or label block."""
    matrix = np.empty((len(names), len(rows)), np.float32)
    places: dict[int, list[int]] = {}
    runs_of: dict[int, Runs | None] = {}
    columns = []
    for number, name in enumerate(names):
        column, runs = frame.locate(name)
        assert isinstance(column, Flat)
        columns.append(column.values)
        places.setdefault(id(runs), []).append(number)
        runs_of[id(runs)] = runs
    for key, numbers in places.items():
        runs = runs_of[key]
        wanted = rows if runs is None else runs.inverse[rows].astype(np.int64)
        gathered = gather_columns([columns[number] for number in numbers], wanted)
        if len(numbers) == len(names):
            matrix = gathered
        else:
            matrix[numbers] = gathered
    elements = matrix.reshape(1, -1)
    part = block.parts.add(features=range(len(names)))
    layouts = float_layout(elements.shape[1])
    arranger.add(
        part,
        batch_pb2.BUFFER_ROLE_VALUES,
        dataset_pb2.SCALAR_TYPE_FLOAT32,
        [Section(elements, layouts)],
    )


def _add_part(block: batch_pb2.Block, arranger: Arranger, rows: PartRows) -> None:
    """Arranges a part of a sparse block."""
    features = rows.features
    run_count = 0 if rows.run_lengths is None else rows.size
    part = block.parts.add(features=features, run_count=run_count)
    int32, int64 = dataset_pb2.SCALAR_TYPE_INT32, dataset_pb2.SCALAR_TYPE_INT64
    if rows.run_lengths is not None:
        section = _integers(rows.run_lengths.reshape(1, -1), with_dictionaries=False)
        arranger.add(part, batch_pb2.BUFFER_ROLE_RUN_LENGTHS, int32, [section])
    lengths = np.ones((len(features), rows.size), np.int32)
    for feature, (offsets, _) in rows.lists.items():
        lengths[features.index(feature)] = _lengths(offsets)
    section = _integers(lengths.reshape(1, -1), with_dictionaries=False)
    arranger.add(part, batch_pb2.BUFFER_ROLE_LENGTHS, int32, [section])
    sections = [_integers(rows.ids, with_dictionaries=True)] if rows.singles else []
    numbers = list(rows.singles)
    for feature, (_, values) in rows.lists.items():
        sections.append(_integers(values.reshape(1, -1), with_dictionaries=True))
        numbers.append(feature)
    arranger.add(part, batch_pb2.BUFFER_ROLE_VALUES, int64, sections, np.argsort(numbers))


def _integers(elements: Array, *, with_dictionaries: bool) -> Section:
    return Section(elements, lay_out(elements, with_dictionaries=with_dictionaries))


def _lengths(offsets: Indices) -> Indices:
    lengths = np.diff(offsets)
    if lengths.max() > MAX_LENGTH:
        raise OverflowError("a list has more than 2^31 - 1 elements; cut it with Tail")
    return lengths
