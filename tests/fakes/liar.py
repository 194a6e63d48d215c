"""A server that passes on what another one answers, but for one lie, well sealed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.service import SERVICE, announced
from tests.fakes.encoder import encode_end, seal

Response = pb.StreamBatchesResponse
Lie = Callable[[Iterator[Response]], Iterator[Response]]
CALLS = ("DescribeDataset", "PutSnapshot", "PlanEpoch", "CountRows")
TIMEOUT_S = 30.0


def skips_a_batch(messages: Iterator[Response]) -> Iterator[Response]:
    """Leaves out the second batch of a stream."""
    for number, message in enumerate(messages):
        if number != 2:
            yield message


def repeats_a_batch(messages: Iterator[Response]) -> Iterator[Response]:
    """Sends the second batch of a stream twice."""
    for number, message in enumerate(messages):
        yield message
        if number == 2:
            yield message


def starts_elsewhere(messages: Iterator[Response]) -> Iterator[Response]:
    """Says of the second batch that it starts a row later."""
    for number, message in enumerate(messages):
        if number == 2 and message.HasField("batch"):
            message.batch.cursor.parquet_row += 1
            seal(message.batch)
        yield message


def takes_another_shard(messages: Iterator[Response]) -> Iterator[Response]:
    """Says of the second batch that it is of another shard."""
    for number, message in enumerate(messages):
        if number == 2 and message.HasField("batch"):
            message.batch.shard += 1
            seal(message.batch)
        yield message


def falls_silent(messages: Iterator[Response]) -> Iterator[Response]:
    """Ends a stream after its first batch without a word."""
    for number, message in enumerate(messages):
        yield message
        if number == 1:
            return


def ends_early(messages: Iterator[Response]) -> Iterator[Response]:
    """Says after the first batch that the shard has no more."""
    for message in messages:
        yield message
        if message.HasField("batch"):
            c = message.batch.next_cursor
            place = c.split, c.parquet_row, c.offset, c.batch
            yield Response(end=encode_end(pb.END_REASON_SHARD_END, place))
            return


def has_another_version(messages: Iterator[Response]) -> Iterator[Response]:
    """Announces an encoding that nobody knows."""
    for message in messages:
        if message.HasField("schema"):
            message.schema.encoding_version = 99
        yield message


def is_of_another_snapshot(messages: Iterator[Response]) -> Iterator[Response]:
    """Says that the batches are of another snapshot."""
    for message in messages:
        if message.HasField("schema"):
            message.snapshot_id = "sha256:" + "0" * 64
        yield message


def says_nothing_of_itself(messages: Iterator[Response]) -> Iterator[Response]:
    """Leaves out what the batches are of, as a server would that does not know of that."""
    for message in messages:
        message.ClearField("snapshot_id")
        message.ClearField("identity")
        yield message


def swaps_features(messages: Iterator[Response]) -> Iterator[Response]:
    """Has the features of every block in another order."""
    for message in messages:
        for block in message.schema.blocks if message.HasField("schema") else ():
            block.features[:] = list(block.features)[::-1]
        yield message


def says_something_unknown(messages: Iterator[Response]) -> Iterator[Response]:
    """Sends a message of a kind that is not known here, after the schema."""
    for number, message in enumerate(messages):
        yield message
        if number == 0:
            yield Response.FromString(b"\xfa\x01\x00")


class Liar:
    """A server in front of backend that tells a lie in every stream; a context manager.

    plan changes its plans, asks what backend is asked to stream; ahead is told the name of every
    short call, before it is passed on. asked counts them.
    """

    def __init__(
        self,
        backend: str,
        lie: Lie = lambda messages: messages,
        plan: Callable[[pb.PlanEpochResponse], None] = lambda _: None,
        ahead: Callable[[str], None] = lambda _: None,
        asks: Callable[[pb.StreamBatchesRequest], None] = lambda _: None,
    ) -> None:
        self._channel = grpc.insecure_channel(
            backend, options=[("grpc.max_receive_message_length", 512 << 20)]
        )
        self._lie = lie
        self._plan = plan
        self._ahead = ahead
        self._asks = asks
        self._lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.lies = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        methods: dict[str, Any] = {
            call: grpc.unary_unary_rpc_method_handler(self._passes_on(call)) for call in CALLS
        }
        methods["StreamBatches"] = grpc.unary_stream_rpc_method_handler(self._stream)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, methods),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def die(self) -> None:
        """Ends every call at once and takes no more, as a crash would; for any thread."""
        self._server.stop(None)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(TIMEOUT_S)
        self._channel.close()

    def _passes_on(self, call: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        ask: Any = self._channel.unary_unary(f"/{SERVICE}/{call}")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.asked[call] += 1
            self._ahead(call)
            try:
                data: bytes = ask(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                _repeat(error, context)
            if call == "PlanEpoch":
                plan = pb.PlanEpochResponse.FromString(data)
                self._plan(plan)
                data = plan.SerializeToString()
            return announced(data, context)

        return answer

    def _stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        ask: Any = self._channel.unary_stream(f"/{SERVICE}/StreamBatches")
        wanted = pb.StreamBatchesRequest.FromString(request)
        self._asks(wanted)
        honest = ask(wanted.SerializeToString(), timeout=TIMEOUT_S)
        context.add_callback(honest.cancel)
        self.lies += 1
        try:
            for number, message in enumerate(self._lie(map(Response.FromString, honest))):
                data = message.SerializeToString()
                yield data if number else announced(data, context)
        except grpc.RpcError as error:
            _repeat(error, context)


def _repeat(error: Any, context: grpc.ServicerContext) -> None:
    context.set_trailing_metadata(error.trailing_metadata() or ())
    context.abort(error.code(), error.details())
