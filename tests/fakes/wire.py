"""Reads streams as a foreign client would: message by message, nothing but the contract."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zstandard
from google.protobuf import json_format

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc

TIMEOUT_S = 60.0


def spec(where: str = "", **changes: object) -> dataset_pb2.DatasetSpec:
    """The dataset of tests.fakes.parquet in a folder called rows, with features of every kind."""
    form: dict[str, object] = {
        "source": {"parquet": {"paths": ["rows"], "group_by": ["request"]}},
        "where": where,
        "features": [
            {
                "dense": {
                    "columns": ["dense", "price"],
                    "ops": [{"fill_null": {"value": {"number": 0.0}}}, {"log1p": {}}],
                }
            },
            {"sparse": {"columns": ["id"]}},
            {
                "sparse": {
                    "columns": ["seq"],
                    "ops": [{"tail": {"count": 5}}, {"hash_bucket": {"num_buckets": 1000}}],
                }
            },
            {
                "sparse": {
                    "columns": ["city", "tags"],
                    "ops": [{"hash_bucket": {"num_buckets": 100}}],
                }
            },
            {"label": {"columns": ["label"]}},
        ],
    }
    return json_format.ParseDict(form | changes, dataset_pb2.DatasetSpec())


def arena(batch: batch_pb2.CompactBatch) -> bytes:
    """The bytes of a batch after decompression."""
    if batch.codec == batch_pb2.CODEC_NONE:
        return batch.payload
    return decompressed(batch.payload)


def decompressed(payload: bytes) -> bytes:
    """What ZSTD frames hold, one behind the other."""
    return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(payload)


def canonical(batch: batch_pb2.CompactBatch) -> bytes:
    """Everything that the batch identity fixes: all fields, and the arena for the payload."""
    plain = batch_pb2.CompactBatch()
    plain.CopyFrom(batch)
    plain.codec = batch_pb2.CODEC_NONE
    plain.header_checksum = 0
    plain.payload = arena(batch)
    return plain.SerializeToString(deterministic=True)


def ids(schema: batch_pb2.BatchSchema, batch: batch_pb2.CompactBatch) -> npt.NDArray[np.int64]:
    """The values of the sparse feature "id" (one a row, no two equal), by docs/compact_batch.md."""
    number = [block.name for block in schema.blocks].index("sparse")
    feature = list(schema.blocks[number].features).index("id")
    (part,) = (part for part in batch.blocks[number].parts if feature in part.features)
    values = [b for b in part.buffers if b.role == batch_pb2.BUFFER_ROLE_VALUES]
    return _integers(values[list(part.features).index(feature)], arena(batch))


def _integers(buffer: batch_pb2.Buffer, content: bytes) -> npt.NDArray[np.int64]:
    count = buffer.element_count
    if buffer.layout == batch_pb2.BUFFER_LAYOUT_CONSTANT:
        return np.full(count, buffer.base)
    laid_out = content[buffer.offset_bytes : buffer.offset_bytes + buffer.size_bytes]
    known = np.frombuffer(laid_out, "<i8", buffer.dictionary_size)
    planes = np.frombuffer(laid_out, np.uint8, offset=known.nbytes)
    whole, bits = divmod(buffer.width_bits, 8)
    words = np.zeros(count, np.uint64)
    for k in range(whole):
        words |= planes[k * count : (k + 1) * count].astype(np.uint64) << np.uint64(8 * k)
    if bits:
        packed = np.unpackbits(planes[whole * count :], bitorder="little")[: count * bits]
        tops = packed.reshape(count, bits) @ (1 << np.arange(bits))
        words |= tops.astype(np.uint64) << np.uint64(8 * whole)
    places = words.view(np.int64)
    return known[places] if len(known) else places + buffer.base


@dataclass
class Received:
    """What one stream sent."""

    schema: batch_pb2.BatchSchema = field(default_factory=batch_pb2.BatchSchema)
    batches: list[batch_pb2.CompactBatch] = field(default_factory=list)
    end: pb.StreamEnd | None = None


def receive(stub: pb_grpc.PreprocessorServiceStub, request: pb.StreamBatchesRequest) -> Received:
    """Reads a stream to its end, and checks that schema and end are where they must be."""
    received = Received()
    for i, message in enumerate(stub.StreamBatches(request, timeout=TIMEOUT_S)):
        assert received.end is None
        match message.WhichOneof("message"):
            case "schema":
                assert i == 0
                received.schema = message.schema
            case "batch":
                assert i > 0
                received.batches.append(message.batch)
            case "end":
                received.end = message.end
    assert received.end is not None
    return received


def shard_requests(
    stub: pb_grpc.PreprocessorServiceStub,
    dataset: dataset_pb2.DatasetSpec,
    identity: pb.BatchIdentity,
) -> Sequence[pb.StreamBatchesRequest]:
    """The request for every shard of an epoch, planned by the server."""
    plan = stub.PlanEpoch(
        pb.PlanEpochRequest(dataset=dataset, identity=identity), timeout=TIMEOUT_S
    )
    assert not plan.next_page_token
    return [
        pb.StreamBatchesRequest(
            dataset=dataset,
            snapshot_id=plan.snapshot_id,
            identity=plan.identity,
            shard=shard.shard,
            splits=shard.splits,
        )
        for shard in plan.shards
    ]
