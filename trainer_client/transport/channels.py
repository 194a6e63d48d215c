"""One channel a server, kept for as long as the stream."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from headrace.v1 import preprocessor_service_pb2, preprocessor_service_pb2_grpc
from trainer_client.errors import StreamClosedError

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 512 << 20),
    ("grpc.max_send_message_length", 512 << 20),
    # What may be on its way for a stream that nobody reads from just now. gRPC's own estimate grows
    # to megabytes, and behind a slow link a new stream then waits seconds for the bytes of others.
    # A message that is being read gets a window of its own size.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
    # A server whose machine vanished is noticed without a word from it.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The retry table decides when to try again; a channel must not sit out minutes of its own.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
    # Servers are near: a proxy that the environment names for the web is not meant for them.
    ("grpc.enable_http_proxy", 0),
)

_SERVICE = preprocessor_service_pb2.DESCRIPTOR.services_by_name["PreprocessorService"].full_name


class ChannelPool:
    """Channels by address; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._closed = False

    def channel(self, address: str) -> grpc.Channel:
        """The channel to a server. Raises StreamClosedError after close()."""
        with self._lock:
            if self._closed:
                raise StreamClosedError("the stream is closed")
            if address not in self._channels:
                self._channels[address] = grpc.insecure_channel(address, options=OPTIONS)
            return self._channels[address]

    def stub(self, address: str) -> Any:
        """The calls of a server."""
        return preprocessor_service_pb2_grpc.PreprocessorServiceStub(self.channel(address))

    def stream_batches(
        self, address: str, request: preprocessor_service_pb2.StreamBatchesRequest
    ) -> grpc.Call:
        """A call of StreamBatches whose responses are the bytes that the server sent."""
        method: Any = self.channel(address).unary_stream(
            f"/{_SERVICE}/StreamBatches",
            request_serializer=preprocessor_service_pb2.StreamBatchesRequest.SerializeToString,
        )
        call: grpc.Call = method(request)
        return call

    def close(self) -> None:
        """Closes every channel and cancels its calls; idempotent."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()
