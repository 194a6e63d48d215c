from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from tests.fakes.encoder import Rows, edit_arena, encode_batch, encode_schema, seal, set_arena
from trainer_client import Batch, CorruptBatchError, DeploymentError
from trainer_client.decode import Decoder
from trainer_client.kernels import unpacking

ROWS = Rows(
    dense={"d0": [0.5, 1.5, -0.0, 4.0], "d1": [float("inf"), 2.0, 3.0, 1e-40]},
    sparse={
        "cat": [[1 << 40], [], [-7], [3]],
        "seq": [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4, 900]],
        "tag": [[5], [5], [5], [5]],
    },
    labels={"label": [0.0, 1.0, 0.0, 0.0]},
)
COUNT = 4
# Of few highest bytes, or few in all, so that they are laid out with a dictionary of them.
TOPPED_COUNT = 200
TOPPED = Rows(
    dense={"d0": [0.5 + i % 50 / 20 if i % 7 else 0.0 for i in range(TOPPED_COUNT)]},
    sparse={},
    labels={"label": [float(i % 5 == 0) for i in range(TOPPED_COUNT)]},
)
EITHER = st.sampled_from([(ROWS, COUNT), (TOPPED, TOPPED_COUNT)])
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOAT32 = st.floats(width=32)
# Widths of 1 to 64 bits, dictionaries and constants all come of these.
IDS = st.sampled_from([1, 3, 15, 255, 300, 1 << 20, 1 << 36, 1 << 50]).flatmap(
    lambda most: st.integers(-1, most)
)


def decode(message: batch_pb2.CompactBatch, schema: batch_pb2.BatchSchema) -> Batch:
    return Decoder(schema)(message.SerializeToString())


def repeated(lists: list[list[int]], run: int, count: int) -> list[list[int]]:
    return [each for each in lists for _ in range(run)][:count]


@st.composite
def any_rows(draw: st.DrawFn) -> tuple[Rows, int]:
    """Rows with lists that repeat in runs of their own length, feature by feature."""
    count = draw(st.integers(1, 40))
    numbers = st.lists(FLOAT32, min_size=count, max_size=count)

    def lists() -> list[list[int]]:
        values = draw(st.sampled_from([INT64, IDS]))
        each = st.lists(values, max_size=draw(st.sampled_from([1, 4, 20])))
        return repeated(
            draw(st.lists(each, min_size=count, max_size=count)),
            draw(st.sampled_from([1, 2, 5, 40])),
            count,
        )

    dense = {f"d{i}": draw(numbers) for i in range(draw(st.integers(0, 3)))}
    sparse = {f"s{i}": lists() for i in range(draw(st.integers(0, 4)))}
    return Rows(dense, sparse, {"l": draw(numbers)}), count


def same(batch: Batch, rows: Rows) -> bool:
    dense = batch.dense.t() if batch.dense is not None else torch.empty(0)
    labels = batch.labels.t() if batch.labels is not None else torch.empty(0)
    for matrix, columns in ((dense, rows.dense), (labels, rows.labels)):
        expected = torch.tensor([*columns.values()], dtype=torch.float32)
        if not torch.equal(matrix.contiguous().view(torch.int32), expected.view(torch.int32)):
            return False
    if batch.sparse is None:
        return not rows.sparse
    lists = [row for column in rows.sparse.values() for row in column]
    return (
        batch.sparse.keys == tuple(rows.sparse)
        and batch.sparse.values.tolist() == [value for row in lists for value in row]
        and batch.sparse.lengths.tolist() == [len(row) for row in lists]
    )


@given(any_rows(), st.sampled_from([batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD]))
def test_decodes_what_was_encoded(drawn: tuple[Rows, int], codec: batch_pb2.Codec) -> None:
    rows, count = drawn
    batch = decode(encode_batch(rows, row_count=count, codec=codec), encode_schema(rows))
    assert same(batch, rows)
    assert batch.batch_size == count


def test_batches_of_a_stream_may_differ_in_their_parts_and_stay_when_others_follow() -> None:
    """Whatever a decoder knows of the batch before."""
    seqs = [[[1, 2]] * 4, [[1], [2], [3], [4]], [[7]] * 2 + [[8]] * 2, [[9] * 30_000] * 4]
    given = [
        (Rows(ROWS.dense, {**ROWS.sparse, "seq": seqs[n]}, ROWS.labels), codec)
        for codec in (batch_pb2.CODEC_ZSTD, batch_pb2.CODEC_NONE)
        for n in (0, 2, 1, 1, 3, 0, 3, 1)
    ]
    messages = [encode_batch(rows, row_count=COUNT, codec=codec) for rows, codec in given]
    run_counts = [[p.run_count for b in message.blocks for p in b.parts] for message in messages]
    assert len({tuple(count > 0 for count in each) for each in run_counts}) > 1
    decoder = Decoder(encode_schema(ROWS))
    batches = [decoder(message.SerializeToString()) for message in messages]
    assert all(same(batch, rows) for batch, (rows, _) in zip(batches, given, strict=True))


def test_run_counts_are_checked_where_parts_are_those_of_the_batch_before() -> None:
    message, decoder = encode_batch(ROWS, row_count=COUNT), Decoder(encode_schema(ROWS))
    decoder(message.SerializeToString())
    part = next(part for block in message.blocks for part in block.parts if part.run_count)
    part.run_count = COUNT + 1
    seal(message)
    with pytest.raises(CorruptBatchError, match=f"cannot be: .* {COUNT + 1} runs"):
        decoder(message.SerializeToString())


@pytest.mark.parametrize("bits", [*range(1, 65)])
def test_every_width_over_many_blocks(bits: int) -> None:
    """Of more values than the kernel unpacks at a time, the last block a broken one."""
    step = (1 << 64) // 3001
    values = [(i * step) % (1 << bits) for i in range(3001)]
    values[0], values[-1] = 0, (1 << bits) - 1
    if bits == 64:
        values = [value - (1 << 63) for value in values]
    rows = Rows({}, {"s": [values[:1500], values[1500:]]}, {})
    if bits <= 12:
        # Else few distinct values among many would make it a dictionary.
        rows = Rows({}, {"s": [[v] * (v % 3) for v in values]}, {})
    batch = decode(encode_batch(rows, row_count=len(rows.sparse["s"])), encode_schema(rows))
    assert same(batch, rows)


@pytest.mark.parametrize("distinct", [2, 3, 4, 5, 16, 17, 255, 256])
def test_every_size_of_dictionary(distinct: int) -> None:
    values = [(i % distinct) * 1000 - 500 for i in range(4 * distinct + 2100)]
    rows = Rows({}, {"s": [values, []]}, {})
    message = encode_batch(rows, row_count=2)
    assert message.blocks[0].parts[0].buffers[1].dictionary_size == distinct
    assert same(decode(message, encode_schema(rows)), rows)


@pytest.mark.parametrize("distinct", [2, 3, 4, 5, 16, 17, 200, 256])
def test_every_size_of_dictionary_of_numbers(distinct: int) -> None:
    numbers = [(i % distinct - 100) / 8 for i in range(16 * distinct + 2100)]
    rows = Rows({}, {}, {"l": numbers})
    message = encode_batch(rows, row_count=len(numbers))
    (buffer,) = message.blocks[0].parts[0].buffers
    assert (buffer.layout, buffer.dictionary_size) == (batch_pb2.BUFFER_LAYOUT_DICTIONARY, distinct)
    assert same(decode(message, encode_schema(rows)), rows)


@pytest.mark.parametrize("tops", [2, 3, 4, 5, 8, 9, 16])
def test_every_size_of_top_dictionary(tops: int) -> None:
    """Over many blocks; the last one is a broken one."""
    count = 64 * tops + 2049
    chosen = (np.arange(count) * 7 % tops * 255 // (tops - 1)).astype(np.uint32)
    words = (chosen << 24) | (np.arange(count, dtype=np.uint32) * 2654435761 >> 8)
    numbers: list[float] = words.view(np.float32).tolist()
    # Python's floats do not keep the bits of NaN, of which there are some here.
    rows = Rows({}, {}, {"l": [0.0 if math.isnan(number) else number for number in numbers]})
    message = encode_batch(rows, row_count=count)
    (buffer,) = message.blocks[0].parts[0].buffers
    assert buffer.layout == batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY
    assert same(decode(message, encode_schema(rows)), rows)


def test_shapes_and_dtypes() -> None:
    batch = decode(encode_batch(ROWS, row_count=COUNT), encode_schema(ROWS))
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    assert (batch.dense.shape, batch.dense.dtype) == ((4, 2), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((4, 1), torch.float32)
    assert batch.sparse.values.dtype == torch.int64
    assert batch.sparse.lengths.dtype == torch.int32
    assert batch.sparse.lengths.tolist() == [1, 0, 1, 1, 3, 3, 3, 2, 1, 1, 1, 1]
    assert batch.sparse.offsets.tolist() == [0, 1, 1, 2, 3, 6, 9, 12, 14, 15, 16, 17, 18]
    assert batch.sparse.offsets.dtype == torch.int64


def test_every_tensor_that_was_sent_is_an_aligned_view_of_the_arena() -> None:
    batch = decode(encode_batch(ROWS, row_count=COUNT), encode_schema(ROWS))
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    assert batch.arena.data_ptr() % 64 == 0
    tensors = [batch.dense, batch.labels]
    for part in batch.sparse.deduplicated.parts:
        tensors += [part.values, part.lengths]
        if part.run_lengths is not None:
            tensors.append(part.run_lengths)
    for tensor in tensors:
        assert (tensor.data_ptr() - batch.arena.data_ptr()) % 64 == 0
        assert 0 <= tensor.data_ptr() - batch.arena.data_ptr() <= batch.arena.nbytes - tensor.nbytes


@settings(max_examples=500)
@given(st.data())
def test_a_changed_byte_never_gives_other_data(data: st.DataObject) -> None:
    schema = encode_schema(ROWS)
    good = encode_batch(ROWS, row_count=COUNT).SerializeToString()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        batch = Decoder(schema)(bytes(changed))
    except CorruptBatchError:
        return
    # A byte that means nothing (a field number that nobody knows, slack of the ZSTD frame).
    assert same(batch, ROWS)
    assert (batch.index, batch.shard, batch.next_cursor.batch) == (0, 0, 1)


NUMBERS = ["offset_bytes", "size_bytes", "element_count", "width_bits", "base", "dictionary_size"]


@settings(max_examples=500)
@given(st.data())
def test_a_wrong_header_with_a_right_checksum_is_refused_or_harmless(data: st.DataObject) -> None:
    """A buggy server: every bound is checked, none believed."""
    rows, row_count = data.draw(EITHER)
    schema = encode_schema(rows)
    message = encode_batch(rows, row_count=row_count)
    parts = [part for block in message.blocks for part in block.parts]
    buffer = data.draw(st.sampled_from([buffer for part in parts for buffer in part.buffers]))
    name = data.draw(st.sampled_from(NUMBERS))
    top = {"width_bits": 32, "dictionary_size": 32, "base": 63}.get(name, 64)
    value = data.draw(st.integers(0, (1 << top) - 1) | st.sampled_from([0, 1, 2, 64, 1 << 20]))
    setattr(buffer, name, value)
    seal(message)
    try:
        batch = decode(message, schema)
    except CorruptBatchError:
        return
    # Another base is the server's word; nothing else passes unless it was so before.
    assert name == "base" or same(batch, rows)


@settings(max_examples=300)
@given(st.data())
def test_a_wrong_arena_with_a_right_checksum_is_refused_or_harmless(data: st.DataObject) -> None:
    rows, row_count = data.draw(EITHER)
    message = encode_batch(rows, row_count=row_count, codec=batch_pb2.CODEC_NONE)
    arena = bytearray(message.payload)
    for _ in range(data.draw(st.integers(1, 8))):
        arena[data.draw(st.integers(0, len(arena) - 1))] = data.draw(st.integers(0, 255))
    set_arena(message, bytes(arena))
    try:
        batch = decode(message, encode_schema(rows))
    except CorruptBatchError:
        return
    if batch.sparse is None:
        assert batch.labels is not None
        assert batch.labels.shape == (row_count, 1)
        return
    # What was not refused can be expanded, whatever it says.
    assert len(batch.sparse.lengths) == 3 * COUNT
    assert int(batch.sparse.lengths.sum()) == len(batch.sparse.values)


@pytest.mark.parametrize("field", ["row_count", "uncompressed_size_bytes", "payload_checksum"])
def test_a_header_that_lies_is_refused(field: str) -> None:
    message = encode_batch(ROWS, row_count=COUNT)
    setattr(message, field, getattr(message, field) + 64)
    seal(message)
    with pytest.raises(CorruptBatchError, match="batch 0 of shard 0"):
        decode(message, encode_schema(ROWS))


@pytest.mark.parametrize("payload", [b"", b"not zstd", b"\x28\xb5\x2f\xfd"])
def test_a_payload_that_is_no_frame_is_refused(payload: bytes) -> None:
    message = encode_batch(ROWS, row_count=COUNT)
    message.payload = payload
    with pytest.raises(CorruptBatchError):
        decode(message, encode_schema(ROWS))


@given(st.data())
def test_a_payload_may_be_several_frames(data: st.DataObject) -> None:
    message = encode_batch(ROWS, row_count=COUNT, codec=batch_pb2.CODEC_NONE)
    arena = message.payload
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arena)), max_size=4)))
    levels = st.integers(-3, 3)
    frames = [
        zstandard.ZstdCompressor(level=data.draw(levels)).compress(arena[start:end])
        for start, end in itertools.pairwise([0, *cuts, len(arena)])
    ]
    message.codec = batch_pb2.CODEC_ZSTD
    seal(message)
    message.payload = b"".join(frames)
    assert same(decode(message, encode_schema(ROWS)), ROWS)
    surplus = zstandard.ZstdCompressor().compress(bytes(64))
    lacking = [frame for frame in frames if zstandard.frame_content_size(frame)][:-1]
    for other in ([*frames, surplus], lacking):
        message.payload = b"".join(other)
        with pytest.raises(CorruptBatchError, match=f"{len(arena)} bytes announced"):
            decode(message, encode_schema(ROWS))


def test_a_frame_that_is_longer_than_announced_is_refused() -> None:
    rows = Rows({}, {}, {"l": [0.0] * 16, "m": [1.0, *[2.0] * 15]})
    message = encode_batch(rows, row_count=16)
    (buffer,) = message.blocks[0].parts[0].buffers
    buffer.element_count, buffer.size_bytes = 16, 64
    message.blocks[0].parts[0].features[:] = [0]
    message.uncompressed_size_bytes -= 64
    seal(message)
    with pytest.raises(CorruptBatchError, match="64 bytes announced"):
        decode(message, encode_schema(Rows({}, {}, {"l": [0.0] * 16})))


def sparse_part(message: batch_pb2.CompactBatch, number: int) -> batch_pb2.Part:
    return message.blocks[1].parts[number]


def one_run_too_long(message: batch_pb2.CompactBatch) -> None:
    sparse_part(message, 1).buffers[0].base += 1
    seal(message)


def run_without_rows(message: batch_pb2.CompactBatch) -> None:
    # Runs of 3 and 1 rows become such of 4 and 0.
    buffer = sparse_part(message, 1).buffers[0]
    buffer.base = 0
    buffer.width_bits = 4
    edit_arena(message, buffer.offset_bytes, bytes([0x04]))


def lengths_of_other_values(message: batch_pb2.CompactBatch) -> None:
    sparse_part(message, 1).buffers[1].base += 1
    seal(message)


def negative_length(message: batch_pb2.CompactBatch) -> None:
    # Lengths 3 and 2 become 6 and -1.
    buffer = sparse_part(message, 1).buffers[1]
    buffer.base = -1
    buffer.width_bits = 4
    edit_arena(message, buffer.offset_bytes, bytes([0x07]))


FEATURES_TWICE = [[0], [1, 1], [2]]
FEATURES_MISSING = [[0], [1], [1]]


def with_features(features: list[list[int]]) -> Callable[[batch_pb2.CompactBatch], None]:
    def change(message: batch_pb2.CompactBatch) -> None:
        for part, places in zip(message.blocks[1].parts, features, strict=True):
            part.features[:] = places
        seal(message)

    return change


def parts_in_another_order(message: batch_pb2.CompactBatch) -> None:
    parts = [*message.blocks[1].parts]
    del message.blocks[1].parts[:]
    message.blocks[1].parts.extend([parts[0], parts[2], parts[1]])
    seal(message)


def without_a_buffer(message: batch_pb2.CompactBatch) -> None:
    del sparse_part(message, 1).buffers[0]
    seal(message)


def dense_with_runs(message: batch_pb2.CompactBatch) -> None:
    message.blocks[0].parts[0].run_count = 2
    seal(message)


def more_runs_than_rows(message: batch_pb2.CompactBatch) -> None:
    sparse_part(message, 1).run_count = COUNT + 1
    seal(message)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (one_run_too_long, "run lengths of feature 'seq' do not share 4 rows among 2 runs"),
        (run_without_rows, "run lengths of feature 'seq' do not share 4 rows among 2 runs"),
        (lengths_of_other_values, "values of feature 'seq' are 5, and their list lengths"),
        (negative_length, "values of feature 'seq' are 5, and their list lengths"),
        (with_features(FEATURES_TWICE), "parts beyond its schema"),
        (with_features(FEATURES_MISSING), "block 'sparse' do not have each feature once"),
        (parts_in_another_order, "a part of block 'sparse'"),
        (without_a_buffer, "a part of block 'sparse'"),
        (dense_with_runs, "a part of block 'dense'"),
        (more_runs_than_rows, "a part of block 'sparse'"),
    ],
)
def test_what_cannot_be_is_refused_and_named(
    change: Callable[[batch_pb2.CompactBatch], None], problem: str
) -> None:
    message = encode_batch(ROWS, row_count=COUNT, codec=batch_pb2.CODEC_NONE)
    change(message)
    with pytest.raises(CorruptBatchError, match=problem):
        decode(message, encode_schema(ROWS))


def test_codes_beyond_the_dictionary_are_refused() -> None:
    rows = Rows({}, {"s": [[1000 * (i % 3) for i in range(40)], []]}, {})
    message = encode_batch(rows, row_count=2, codec=batch_pb2.CODEC_NONE)
    buffer = message.blocks[0].parts[0].buffers[1]
    assert struct.unpack_from("<3q", message.payload, buffer.offset_bytes) == (0, 1000, 2000)
    edit_arena(message, buffer.offset_bytes + 24, bytes([0b11]))
    with pytest.raises(CorruptBatchError, match="'s' have codes beyond a dictionary of 3"):
        decode(message, encode_schema(rows))


def test_codes_beyond_the_dictionary_of_highest_bytes_are_refused() -> None:
    message = encode_batch(TOPPED, row_count=TOPPED_COUNT, codec=batch_pb2.CODEC_NONE)
    buffer = message.blocks[0].parts[0].buffers[0]
    assert buffer.dictionary_size == 3
    edit_arena(message, buffer.offset_bytes + buffer.size_bytes - 1, bytes([0b11]))
    with pytest.raises(CorruptBatchError, match="codes beyond a dictionary of 3"):
        decode(message, encode_schema(TOPPED))


@pytest.mark.parametrize("what", ["codec", "layout", "role", "type"])
@pytest.mark.parametrize("value", [0, 77, -1])
def test_unknown_enum_values_name_a_newer_server(what: str, value: int) -> None:
    message = encode_batch(ROWS, row_count=COUNT)
    setattr(message if what == "codec" else message.blocks[0].parts[0].buffers[0], what, value)
    seal(message)
    with pytest.raises(DeploymentError, match=rf"{what} {value}, .*newer server"):
        decode(message, encode_schema(ROWS))


def test_unknown_schemas_are_refused() -> None:
    schema = encode_schema(ROWS)
    schema.blocks[0].kind = 9  # type: ignore[assignment] # as a newer server would
    with pytest.raises(DeploymentError, match=r"kind 9.*newer server"):
        Decoder(schema)
    schema = encode_schema(ROWS)
    schema.encoding_version = 2
    with pytest.raises(DeploymentError, match=r"encoding version 2"):
        Decoder(schema)
    schema = encode_schema(ROWS)
    schema.blocks[1].dtype = dataset_pb2.SCALAR_TYPE_FLOAT32
    with pytest.raises(DeploymentError, match="dtype"):
        Decoder(schema)


def test_every_enum_value_is_decoded_or_refused_by_design() -> None:
    """A new value in the contract fails here until the decoder knows it."""
    assert set(batch_pb2.Codec.keys()) == {"CODEC_UNSPECIFIED", "CODEC_NONE", "CODEC_ZSTD"}
    assert len(batch_pb2.BlockKind.keys()) == 5
    assert batch_pb2.BLOCK_KIND_SPARSE == unpacking.SPARSE
    assert batch_pb2.BLOCK_KIND_META == unpacking.META
    known: dict[str, int] = {
        "BUFFER_LAYOUT_BYTE_PLANES": unpacking.BYTE_PLANES,
        "BUFFER_LAYOUT_CONSTANT": unpacking.CONSTANT,
        "BUFFER_LAYOUT_DICTIONARY": unpacking.DICTIONARY,
        "BUFFER_LAYOUT_TOP_DICTIONARY": unpacking.TOP_DICTIONARY,
        "BUFFER_LAYOUT_UNSPECIFIED": 0,
    }
    assert dict(batch_pb2.BufferLayout.items()) == known
    known = {
        "BUFFER_ROLE_VALUES": unpacking.VALUES,
        "BUFFER_ROLE_LENGTHS": unpacking.LENGTHS,
        "BUFFER_ROLE_RUN_LENGTHS": unpacking.RUN_LENGTHS,
        "BUFFER_ROLE_WEIGHTS": unpacking.WEIGHTS,
        "BUFFER_ROLE_UNSPECIFIED": 0,
    }
    assert dict(batch_pb2.BufferRole.items()) == known
    types: dict[str, int] = {
        "SCALAR_TYPE_INT32": unpacking.TYPE_INT32,
        "SCALAR_TYPE_INT64": unpacking.TYPE_INT64,
        "SCALAR_TYPE_FLOAT32": unpacking.TYPE_FLOAT32,
        "SCALAR_TYPE_FLOAT64": unpacking.TYPE_FLOAT64,
        "SCALAR_TYPE_FLOAT16": unpacking.TYPE_FLOAT16,
        "SCALAR_TYPE_BFLOAT16": unpacking.TYPE_BFLOAT16,
        "SCALAR_TYPE_UNSPECIFIED": 0,
    }
    assert dict(dataset_pb2.ScalarType.items()) == types


@given(st.integers(0, 20), st.randoms(use_true_random=False))
def test_the_checksum_is_xxh64(blocks: int, random: Random) -> None:
    data = np.frombuffer(random.randbytes(64 * blocks), np.uint8)
    assert unpacking._checksum(data) == xxhash.xxh64_intdigest(data.data)
