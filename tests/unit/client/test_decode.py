from __future__ import annotations

import pytest
import torch
import xxhash
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2, dataset_pb2
from tests.fakes.encoder import Rows, encode_batch, encode_schema, seal
from trainer_client import Batch, CorruptBatchError, DeploymentError
from trainer_client.decode import check_schema, decode

ROWS = Rows(
    dense={"d0": [0.5, 1.5, -0.0], "d1": [float("inf"), 2.0, 3.0]},
    sparse={"cat": [[1 << 40], [], [-7]], "seq": [[1, 2, 3], [4], []]},
    labels={"label": [0.0, 1.0, 0.0]},
)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOAT32 = st.floats(width=32)


@st.composite
def any_rows(draw: st.DrawFn) -> tuple[Rows, int]:
    count = draw(st.integers(1, 6))

    def columns(prefix: str, values: st.SearchStrategy[list[object]]) -> dict[str, list[object]]:
        return {f"{prefix}{i}": draw(values) for i in range(draw(st.integers(0, 3)))}

    numbers: st.SearchStrategy[list[object]] = st.lists(FLOAT32, min_size=count, max_size=count)
    lists: st.SearchStrategy[list[object]] = st.lists(
        st.lists(INT64, max_size=4), min_size=count, max_size=count
    )
    dense, sparse = columns("d", numbers), columns("s", lists)
    labels = columns("l", numbers) or {"l": [0.0] * count}
    return Rows(dense, sparse, labels), count  # type: ignore[arg-type] # drawn to fit


def same(batch: Batch, rows: Rows) -> bool:
    dense = batch.dense.t() if batch.dense is not None else torch.empty(0)
    labels = batch.labels.t() if batch.labels is not None else torch.empty(0)
    for matrix, columns in ((dense, rows.dense), (labels, rows.labels)):
        expected = torch.tensor([*columns.values()], dtype=torch.float32)
        if not torch.equal(matrix.contiguous().view(torch.int32), expected.view(torch.int32)):
            return False
    if batch.sparse is None:
        return not rows.sparse
    return {key: batch.sparse[key].to_list() for key in batch.sparse.keys} == {
        key: [list(row) for row in column] for key, column in rows.sparse.items()
    }


@given(any_rows(), st.sampled_from([batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD]))
def test_decodes_what_was_encoded(drawn: tuple[Rows, int], codec: batch_pb2.Codec) -> None:
    rows, count = drawn
    schema = encode_schema(rows)
    check_schema(schema)
    batch = decode(encode_batch(rows, row_count=count, codec=codec), schema)
    assert same(batch, rows)
    assert batch.batch_size == count


def test_shapes_and_dtypes() -> None:
    batch = decode(encode_batch(ROWS, row_count=3), encode_schema(ROWS))
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    assert (batch.dense.shape, batch.dense.dtype) == ((3, 2), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((3, 1), torch.float32)
    assert batch.sparse.values.dtype == torch.int64
    assert batch.sparse.lengths.dtype == torch.int32
    assert batch.sparse.lengths.tolist() == [1, 0, 1, 3, 1, 0]
    assert batch.sparse.offsets.tolist() == [0, 1, 1, 2, 5, 6, 6]
    assert batch.sparse.offsets.dtype == torch.int64


def test_every_tensor_is_a_view_of_the_arena() -> None:
    batch = decode(encode_batch(ROWS, row_count=3), encode_schema(ROWS))
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    start, end = batch.arena.data_ptr(), batch.arena.data_ptr() + batch.arena.nbytes
    for tensor in (batch.dense, batch.labels, batch.sparse.values, batch.sparse.lengths):
        assert start <= tensor.data_ptr() < end
        assert tensor.untyped_storage().data_ptr() == batch.arena.untyped_storage().data_ptr()


@settings(max_examples=500)
@given(st.data())
def test_a_changed_byte_never_gives_other_data(data: st.DataObject) -> None:
    schema = encode_schema(ROWS)
    good = encode_batch(ROWS, row_count=3).SerializeToString()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] ^= data.draw(st.integers(1, 255))
    message = batch_pb2.CompactBatch()
    try:
        message.ParseFromString(bytes(changed))
    except DecodeError:
        # gRPC reports it before a batch is there.
        return
    try:
        batch = decode(message, schema)
    except CorruptBatchError:
        return
    # A byte that means nothing (a field number that nobody knows, slack of the ZSTD frame).
    assert same(batch, ROWS)
    assert (batch.index, batch.shard, batch.next_cursor.batch) == (0, 0, 1)


@settings(max_examples=300)
@given(st.data())
def test_a_wrong_header_with_a_right_checksum_is_refused(data: st.DataObject) -> None:
    """A buggy server: bounds are checked, not believed."""
    schema = encode_schema(ROWS)
    message = encode_batch(ROWS, row_count=3)
    buffers = [buffer for block in message.blocks for buffer in block.buffers]
    buffer = data.draw(st.sampled_from(buffers))
    name = data.draw(st.sampled_from(["offset_bytes", "size_bytes", "element_count"]))
    value = data.draw(st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, 64, 128, 1 << 20]))
    if getattr(buffer, name) == value:
        return
    setattr(buffer, name, value)
    seal(message)
    try:
        batch = decode(message, schema)
    except CorruptBatchError:
        return
    # Only an aligned offset inside the arena passes; what it points at is the server's word.
    assert name == "offset_bytes"
    assert batch.dense is not None


@pytest.mark.parametrize("field", ["row_count", "uncompressed_size_bytes", "payload_checksum"])
def test_a_header_that_lies_is_refused(field: str) -> None:
    message = encode_batch(ROWS, row_count=3)
    setattr(message, field, getattr(message, field) + 64)
    seal(message)
    with pytest.raises(CorruptBatchError, match="batch 0 of shard 0"):
        decode(message, encode_schema(ROWS))


@pytest.mark.parametrize("payload", [b"", b"not zstd", b"\x28\xb5\x2f\xfd"])
def test_a_payload_that_is_no_frame_is_refused(payload: bytes) -> None:
    message = encode_batch(ROWS, row_count=3)
    message.payload = payload
    with pytest.raises(CorruptBatchError):
        decode(message, encode_schema(ROWS))


def test_a_frame_that_is_longer_than_announced_is_refused() -> None:
    message = encode_batch(ROWS, row_count=3)
    message.uncompressed_size_bytes -= 64
    for block in message.blocks[2:]:
        block.buffers[0].offset_bytes = 0
    seal(message)
    with pytest.raises(CorruptBatchError):
        decode(message, encode_schema(ROWS))


def test_negative_lengths_are_refused() -> None:
    rows = Rows({}, {"s": [[1], [2, 3]]}, {})
    message = encode_batch(rows, row_count=2, codec=batch_pb2.CODEC_NONE)
    arena = bytearray(message.payload)
    arena[:8] = (4).to_bytes(4, "little") + (-1).to_bytes(4, "little", signed=True)
    message.payload = bytes(arena)
    message.payload_checksum = xxhash.xxh64_intdigest(bytes(arena))
    seal(message)
    with pytest.raises(CorruptBatchError, match="lengths"):
        decode(message, encode_schema(rows))


@pytest.mark.parametrize("what", ["codec", "layout", "role", "type"])
def test_unknown_enum_values_name_a_newer_server(what: str) -> None:
    message = encode_batch(ROWS, row_count=3)
    setattr(message if what == "codec" else message.blocks[0].buffers[0], what, 77)
    seal(message)
    with pytest.raises(DeploymentError, match=rf"{what} 77.*newer server"):
        decode(message, encode_schema(ROWS))


def test_unknown_schemas_are_refused() -> None:
    schema = encode_schema(ROWS)
    schema.blocks[0].kind = 9  # type: ignore[assignment] # as a newer server would
    with pytest.raises(DeploymentError, match=r"kind 9.*newer server"):
        check_schema(schema)
    schema = encode_schema(ROWS)
    schema.encoding_version = 2
    with pytest.raises(DeploymentError, match=r"encoding version 2"):
        check_schema(schema)
    schema = encode_schema(ROWS)
    schema.blocks[1].dtype = dataset_pb2.SCALAR_TYPE_INT32
    with pytest.raises(DeploymentError, match="dtype"):
        check_schema(schema)


def test_every_enum_value_is_decoded_or_refused_by_design() -> None:
    """A new value in the contract fails here until the decoder knows it."""
    assert set(batch_pb2.Codec.keys()) == {"CODEC_UNSPECIFIED", "CODEC_NONE", "CODEC_ZSTD"}
    assert len(batch_pb2.BufferLayout.keys()) == 2
    assert len(batch_pb2.BufferRole.keys()) == 3
    assert len(batch_pb2.BlockKind.keys()) == 4
