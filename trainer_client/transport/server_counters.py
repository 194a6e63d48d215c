"""The counters of servers: as they were when a stream was opened there, and as they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from headrace.v1.preprocessor_service_pb2 import GetCountersRequest, GetCountersResponse
from trainer_client.errors import HeadraceError
from trainer_client.tls import Credentials
from trainer_client.transport.channels import ChannelPool

# The key of metadata that holds the counters of the server as a stream of batches begins.
COUNTERS_KEY = "headrace-counters-bin"
# Whoever asks may be a training loop.
TIMEOUT_S = 2.0
MAX_THREADS = 16


class Reading(NamedTuple):
    """A server's counters now and before, and the least time that an answer took, in seconds.

    Without now, failure says why.
    """

    before: GetCountersResponse | None = None
    now: GetCountersResponse | None = None
    round_trip_s: float = 0.0
    failure: str = ""


class ServerCounters:
    """Counters by address; any thread may use it."""

    def __init__(self, tls: Credentials | None = None) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._before: dict[str, GetCountersResponse] = {}
        self._round_trips_s: dict[str, float] = {}

    def opened(self, address: str, call: grpc.Call, took_s: float) -> None:
        """Takes what a server said of itself as it began a stream, if nothing was known of it.

        took_s is the time until it did: the first time, nothing else is under way yet.
        """
        data = dict(call.initial_metadata() or ()).get(COUNTERS_KEY)
        self.said(address, data if isinstance(data, bytes) else None, took_s)

    def said(self, address: str, data: bytes | None, took_s: float) -> None:
        """Takes the same from another process; data is what the server said, if it did."""
        with self._lock:
            self._note(address, took_s)
            if address in self._before:
                return
            try:
                # An older server says nothing; GetCounters says so in its turn.
                if data is not None:
                    self._before[address] = GetCountersResponse.FromString(data)
            except DecodeError:
                # Damaged on its way: without it, one answer has no beginning.
                return

    def forget(self) -> None:
        """Has the next streams that are opened say where counting begins."""
        with self._lock:
            self._before.clear()

    def read(self, addresses: Collection[str]) -> dict[str, Reading]:
        """Asks servers, all at once; the next call counts from here on. Takes TIMEOUT_S at most."""
        if not addresses:
            return {}
        # On connections of their own: an answer must not queue behind the batches of streams.
        pool = ChannelPool(self._tls, own_connections=True)
        deadline_s = time.monotonic() + TIMEOUT_S
        try:
            threads = min(MAX_THREADS, len(addresses))
            with ThreadPoolExecutor(threads, "headrace-counters") as executor:
                found = executor.map(lambda each: self._ask(pool, each, deadline_s), addresses)
                return dict(zip(addresses, found, strict=True))
        finally:
            pool.close()

    def _ask(self, pool: ChannelPool, address: str, deadline_s: float) -> Reading:
        request = GetCountersRequest()
        try:
            # The first call connects.
            for _ in range(2):
                asked_s = time.monotonic()
                left_s = max(0.01, deadline_s - asked_s)
                now: GetCountersResponse = pool.ask(address, "GetCounters", request, left_s)
                took_s = time.monotonic() - asked_s
        except grpc.RpcError as error:
            return Reading(failure=_failure(error))
        except HeadraceError as error:
            return Reading(failure=error.message)
        with self._lock:
            self._note(address, took_s)
            before, self._before[address] = self._before.get(address), now
            return Reading(before, now, self._round_trips_s[address])

    def _note(self, address: str, took_s: float) -> None:
        """Keeps the least time: on a line that is full, every answer takes longer."""
        self._round_trips_s[address] = min(took_s, self._round_trips_s.get(address, took_s))


def _failure(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "it is older than this client and has no counters: upgrade it"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"it did not answer within {TIMEOUT_S:g} s"
    return f"{error.code().name}: {error.details()}"
