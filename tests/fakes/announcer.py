"""Checksums of answers, as the servers send them, before fakes that gRPC's own stubs made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from preprocessor_server.service import announced

Damage = Callable[[str], bool]


class Announcer(grpc.ServerInterceptor):
    """Sends the checksum of an answer's first message; damage says if it is damaged after that."""

    def __init__(self, damage: Damage) -> None:
        self._damage = damage

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = continuation(handler_call_details)
        name = handler_call_details.method.rpartition("/")[2]

        def announce(message: Any, context: grpc.ServicerContext) -> bytes:
            data = announced(handler.response_serializer(message), context)
            return _flipped(data) if self._damage(name) else data

        def unary(request: Any, context: grpc.ServicerContext) -> bytes:
            return announce(handler.unary_unary(request, context), context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            messages = handler.unary_stream(request, context)
            for message in messages:
                yield announce(message, context)
                break
            for message in messages:
                yield handler.response_serializer(message)

        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer)
        return grpc.unary_stream_rpc_method_handler(stream, handler.request_deserializer)


def _flipped(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    return bytes(damaged)
