from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from headrace.v1.preprocessor_service_pb2 import END_REASON_DRAINING, StreamBatchesResponse
from tests.fakes.encoder import encode_batch, encode_end, encode_schema
from tests.fakes.epochs import rows_of
from trainer_client import CorruptBatchError
from trainer_client.transport.wire import read_response

ROWS = rows_of([1, 2, 3, 4])
BATCH = encode_batch(ROWS, row_count=4)


def read_batch(data: bytes) -> bytes | None:
    """The batch that was found, in the one form that protobuf writes it in."""
    batch = read_response(data).batch
    if batch is None:
        return None
    message = batch_pb2.CompactBatch.FromString(bytes(batch))
    return message.SerializeToString(deterministic=True)


def test_a_batch_stays_where_it_arrived() -> None:
    for payload in (b"", b"abc", bytes(200), bytes(1 << 20)):
        batch = batch_pb2.CompactBatch(payload=payload)
        data = StreamBatchesResponse(batch=batch).SerializeToString()
        response = read_response(data)
        assert (response.kind, response.size) == ("batch", len(data))
        assert isinstance(response.batch, memoryview)
        assert response.batch.obj is data
        assert response.batch == batch.SerializeToString()


def test_other_messages() -> None:
    schema = encode_schema(ROWS)
    response = read_response(StreamBatchesResponse(schema=schema).SerializeToString())
    assert (response.kind, response.schema) == ("schema", schema)
    end = encode_end(END_REASON_DRAINING, (1, 2, 3, 4))
    response = read_response(StreamBatchesResponse(end=end).SerializeToString())
    assert (response.kind, response.end) == ("end", end)


@pytest.mark.parametrize("data", [b"", b"\xa2\x06\x03abc"])
def test_messages_of_an_unknown_kind_are_told_as_such(data: bytes) -> None:
    assert read_response(data).kind == "a message of an unknown kind"


def test_unusual_but_legal_encodings_mean_what_protobuf_says() -> None:
    plain = StreamBatchesResponse(batch=BATCH).SerializeToString()
    unknown = b"\xa5\x06abcd\xa9\x06abcdefgh\xa0\x06\xff\x01"
    more = StreamBatchesResponse(batch=batch_pb2.CompactBatch(payload=b"x")).SerializeToString()
    for data in (plain + unknown, unknown + plain, plain + more, b"\x12\x80\x00", b"\x12\x00"):
        expected = StreamBatchesResponse.FromString(data).batch
        assert read_batch(data) == expected.SerializeToString(deterministic=True)


@settings(max_examples=300)
@given(st.data())
def test_damaged_messages_are_refused_or_read_as_protobuf_reads_them(data: st.DataObject) -> None:
    good = bytearray(StreamBatchesResponse(batch=BATCH).SerializeToString())
    at = data.draw(st.integers(0, 8) | st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        expected = StreamBatchesResponse.FromString(damaged)
    except DecodeError:
        # Whatever is inside a batch is the decoder's to look at.
        with pytest.raises((CorruptBatchError, DecodeError)):
            read_batch(damaged)
        return
    found = read_batch(damaged)
    if expected.HasField("batch"):
        assert found == expected.batch.SerializeToString(deterministic=True)
    else:
        assert found is None
