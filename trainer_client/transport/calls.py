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
        handed: set[str] = set()
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
            left = self.hand_over(error, address, snapshot, handed, attempts.patience_s())
            if left is not None:
                self.pause(attempts, left)
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

    def pause(self, attempts: Attempts, error: HeadraceError) -> None:
        """Notes a failure and waits as long as it asks for, or until the stream is closed.

        Raises what ends the tries.
        """
        if self.closed.is_set():
            raise StreamClosedError("the stream was closed meanwhile") from error
        pause_s = attempts.failed(self.diagnosis.of(error))
        self.meter.add(retries=1)
        self.closed.wait(pause_s)

    def hand_over(
        self,
        error: HeadraceError,
        address: str,
        snapshot: Snapshot | None,
        handed: set[str],
        patience_s: float,
    ) -> HeadraceError | None:
        """None if the error was that a server lacks the snapshot, and it has it now.

        Else the error that is left, for pause(): a server that cannot take the snapshot now is no
        reason to end, another may have it. handed holds the servers that were given it for this
        call; one that still lacks it is a DeploymentError.
        """
        if error.reason != "SNAPSHOT_UNKNOWN" or snapshot is None:
            return error
        if address in handed:
            raise DeploymentError(
                f"{address} was handed snapshot {snapshot.snapshot_id} and does not know it: raise "
                "its snapshot_cache_bytes",
                reason=error.reason,
                server=address,
            ) from error
        request = preprocessor_service_pb2.PutSnapshotRequest(snapshot=snapshot.data)
        try:
            reply = self.pool.ask(address, "PutSnapshot", request, patience_s)
        except grpc.RpcError as rpc_error:
            failure = from_rpc_error(rpc_error, address)
            failure.__cause__ = rpc_error
            return failure
        except CorruptBatchError as damaged:
            return damaged
        handed.add(address)
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
