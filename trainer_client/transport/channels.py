"""One channel a server, kept for as long as the stream."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import xxhash
from google.protobuf.message import DecodeError, Message

from headrace.v1 import preprocessor_service_pb2
from trainer_client.errors import CorruptBatchError, DeploymentError, StreamClosedError
from trainer_client.tls import Credentials

# The key of metadata that holds the XXH64 of a request's name and bytes, or of the bytes of the
# first message of an answer.
CHECKSUM_KEY = "headrace-checksum"

OPTIONS: tuple[tuple[str, int | str], ...] = (
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
    # Despite its name: what one attempt to connect may take. Busy machines need more than moments.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
    # Servers are near: a proxy that the environment names for the web is not meant for them.
    ("grpc.enable_http_proxy", 0),
)

_SERVICE = preprocessor_service_pb2.DESCRIPTOR.services_by_name["PreprocessorService"].full_name


def check_announced(message: bytes, call: grpc.Call, what: str, server: str) -> None:
    """Raises CorruptBatchError if the first message of an answer is not what the server sent."""
    announced = dict(call.initial_metadata() or ()).get(CHECKSUM_KEY)
    if announced != xxhash.xxh64_hexdigest(message):
        problem = "comes without a checksum" if announced is None else "does not match its checksum"
        raise CorruptBatchError(f"{what}, {len(message):,} bytes, {problem}", server=server)


def _announced(request: Message, data: bytes) -> tuple[tuple[str, str]]:
    """The metadata of a request that is sent as these bytes."""
    checksum = xxhash.xxh64(request.DESCRIPTOR.full_name.encode())
    checksum.update(data)
    return ((CHECKSUM_KEY, checksum.hexdigest()),)


class ChannelPool:
    """Channels by address; any thread may use it.

    Channels to one address share a connection, other than with own_connections. Without tls they
    are plain.
    """

    def __init__(self, tls: Credentials | None = None, *, own_connections: bool = False) -> None:
        self._options = (*OPTIONS, ("grpc.use_local_subchannel_pool", int(own_connections)))
        self._tls = tls
        self._credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            self._credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.own)
        # Reentrant: a signal handler that closes may interrupt the thread that holds it.
        self._lock = threading.RLock()
        self._channels: dict[str, grpc.Channel] = {}
        self._closed = False

    def channel(self, address: str) -> grpc.Channel:
        """The channel to a server. Raises StreamClosedError after close()."""
        with self._lock:
            if self._closed:
                raise StreamClosedError("the stream is closed")
            channel = self._channels.get(address)
            if channel is None:
                channel = self._open(address)
                if self._closed:
                    channel.close()
                    raise StreamClosedError("the stream is closed")
                self._channels[address] = channel
            return channel

    def _open(self, address: str) -> grpc.Channel:
        if self._tls is None or self._credentials is None:
            return grpc.insecure_channel(address, options=self._options)
        name = ("grpc.ssl_target_name_override", self._tls.name_for(address))
        return grpc.secure_channel(address, self._credentials, options=(*self._options, name))

    def ask(self, address: str, method: str, request: Message, timeout_s: float) -> Any:
        """The answer of a server to a short call. Raises CorruptBatchError if it is damaged."""
        data = request.SerializeToString()
        unary: Any = self.channel(address).unary_unary(f"/{_SERVICE}/{method}")
        answer, call = unary.with_call(data, timeout=timeout_s, metadata=_announced(request, data))
        check_announced(answer, call, f"the answer of {address} to {method}", address)
        try:
            return getattr(preprocessor_service_pb2, f"{method}Response").FromString(answer)
        except DecodeError as error:
            raise DeploymentError(
                f"{address} answered {method} with {len(answer)} bytes that cannot be read: is it "
                "of another version?",
                server=address,
            ) from error

    def stream_batches(
        self, address: str, request: preprocessor_service_pb2.StreamBatchesRequest
    ) -> grpc.Call:
        """A call of StreamBatches whose responses are the bytes that the server sent."""
        data = request.SerializeToString()
        method: Any = self.channel(address).unary_stream(f"/{_SERVICE}/StreamBatches")
        call: grpc.Call = method(data, metadata=_announced(request, data))
        return call

    def close(self) -> None:
        """Closes every channel and cancels its calls; idempotent."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()
