"""Single calls to whichever server answers, and snapshots handed to those that lack them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import grpc

from headrace.v1 import preprocessor_service_pb2
from trainer_client.errors import (
    CorruptBatchError,
    DeploymentError,
    HeadraceError,
    StreamClosedError,
    from_rpc_error,
)
from trainer_client.telemetry import Meter
from trainer_client.tls import Credentials
from trainer_client.transport.channels import ChannelPool
from trainer_client.transport.diagnosis import Diagnosis
from trainer_client.transport.fleet import Fleet
from trainer_client.transport.placement import Placement
from trainer_client.transport.retry import Attempts
from trainer_client.transport.server_counters import ServerCounters


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's id and its bytes (one ZSTD frame).

    encoding_version is the highest that the server had which described it, 0 if none just did.
    """

    snapshot_id: str
    data: bytes
    encoding_version: int = 0


class Connection:
    """A fleet, its channels, and the limits of everything that is asked of it."""

    def __init__(
        self, fleet: Fleet, *, timeout_s: float, meter: Meter, tls: Credentials | None = None
    ) -> None:
        self.fleet = fleet
        self.tls = tls
        self.pool = ChannelPool(tls)
        self.placement = Placement()
        self.counters = ServerCounters(tls)
        self.diagnosis = Diagnosis(tls, timeout_s)
        self.timeout_s = timeout_s
        self.meter = meter
        self.closed = threading.Event()

    def call(
        self,
        method: str,
        request: Any,
        *,
        what: str,
        snapshot: Snapshot | None = None,
    ) -> Any:
        """The response of a call, from the first server that gives one.

        A server that does not know the snapshot is handed it. Raises the HeadraceError that ended
        the tries.
        """
        attempts = self.attempts(what, method.encode())
        while not self.closed.is_set():
            address = "?"
            error: HeadraceError
            try:
                with attempts.server() as address:
                    answer = self.pool.ask(address, method, request, attempts.patience_s())
                    self.diagnosis.answered(address)
                    return answer
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, address)
                error.__cause__ = rpc_error
            except HeadraceError as failure:
                error = failure
            self.recover(attempts, error, address, snapshot)
        raise StreamClosedError(f"{what}: the stream was closed meanwhile")

    def attempts(self, what: str, key: bytes, avoid: str = "") -> Attempts:
        """A count of tries at something; servers are chosen by its key, one to be avoided last."""
        return Attempts(
            self.fleet, self.placement, what, key=key, timeout_s=self.timeout_s, avoid=avoid
        )

    def leaves(self, address: str) -> bool:
        """Whether a stream should leave a server for another one; counts it if so."""
        leaves = self.placement.leaves(address, self.fleet.addresses())
        if leaves:
            self.meter.add(moves=1)
        return leaves

    def recover(
        self, attempts: Attempts, error: HeadraceError, address: str, snapshot: Snapshot | None
    ) -> None:
        """Mends what made a try fail, or notes it and waits as long as it asks for.

        A server that does not know the snapshot is handed it; one that cannot take it now is no
        reason to end, another may have it. Raises what ends the tries, among them DeploymentError
        for a server that still lacks what it was handed, and StreamClosedError.
        """
        left: HeadraceError | None = error
        if error.reason == "SNAPSHOT_UNKNOWN" and snapshot is not None:
            if attempts.was_mended(address):
                raise DeploymentError(
                    f"{address} was handed snapshot {snapshot.snapshot_id} and does not know it: "
                    "raise its snapshot_cache_bytes",
                    reason=error.reason,
                    server=address,
                ) from error
            left = self._hand_over(address, snapshot, attempts.patience_s())
        if left is None:
            attempts.mended(address)
            return
        if self.closed.is_set():
            raise StreamClosedError("the stream was closed meanwhile") from left
        pause_s = attempts.failed(self.diagnosis.of(left))
        self.meter.add(retries=1)
        self.closed.wait(pause_s)

    def _hand_over(
        self, address: str, snapshot: Snapshot, patience_s: float
    ) -> HeadraceError | None:
        """Why a server cannot take a snapshot now; None once it has it.

        Raises DeploymentError if it reads it as another.
        """
        request = preprocessor_service_pb2.PutSnapshotRequest(snapshot=snapshot.data)
        try:
            reply = self.pool.ask(address, "PutSnapshot", request, patience_s)
        except grpc.RpcError as rpc_error:
            failure = from_rpc_error(rpc_error, address)
            failure.__cause__ = rpc_error
            return failure
        except CorruptBatchError as damaged:
            return damaged
        if reply.snapshot_id != snapshot.snapshot_id:
            raise DeploymentError(
                f"{address} reads the snapshot {snapshot.snapshot_id} as {reply.snapshot_id}: the "
                "kept bytes are damaged, or the server is of another version",
                server=address,
            )
        return None

    def close(self) -> None:
        """Ends every call and wait, then lets the fleet go; idempotent."""
        self.closed.set()
        self.pool.close()
        self.fleet.close()
