"""An Arrow Flight client, and the server it reads from.

Settings: compression ("zstd" or null), streams (each with its own connection and its own row
groups), threads (pyarrow decodes the columns of a row group in parallel).
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as fl

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import protocol
from benchmarks.peers.arrow_rows import SCHEMA, unpacked
from benchmarks.peers.flight_server import ipc_options
from benchmarks.peers.homefeed import RowBatch, Split, dealt, splits

# Batches of each stream that may wait for the trainer.
READY_BATCHES = 2


class Client:
    """Streams of one server, as a peer."""

    def __init__(self, port: int, server_pid: int, settings: protocol.Settings) -> None:
        self._address = f"grpc://127.0.0.1:{port}"
        self._server_pid = server_pid
        self._settings = settings
        self._rows = 0
        self.wire_bytes_per_row = 0.0

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        """One pass; of several streams, whichever has a batch is next."""
        count = self._settings["streams"]
        if count == 1:
            received = self.records(wanted)
        else:
            received = self._merged([dealt(wanted, part, count) for part in range(count)])
        for record in received:
            batch = unpacked(record)
            self._rows += len(batch)
            yield batch

    def records(self, wanted: Sequence[Split]) -> Iterator[pa.RecordBatch]:
        """The messages of one stream."""
        asked = {"splits": list(wanted), "threads": self._settings["threads"]}
        with fl.connect(self._address) as client:
            for chunk in client.do_get(fl.Ticket(json.dumps(asked))):
                yield chunk.data

    def _merged(self, parts: Sequence[Sequence[Split]]) -> Iterator[pa.RecordBatch]:
        ready: queue.Queue[pa.RecordBatch | Exception | None] = queue.Queue(
            READY_BATCHES * len(parts)
        )

        def receive(part: Sequence[Split]) -> None:
            try:
                for record in self.records(part):
                    ready.put(record)
                ready.put(None)
            except pa.ArrowException as error:
                ready.put(error)

        for part in parts:
            threading.Thread(target=receive, args=(part,), daemon=True).start()
        open_streams = len(parts)
        while open_streams:
            got = ready.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                open_streams -= 1
            else:
                yield got

    def cpu_s(self) -> protocol.Cpu:
        """The server's process, and this one without it."""
        server = tree_cpu_s(self._server_pid)
        return {"server": server, "client": time.process_time()}

    def wire_bytes(self) -> int:
        """What the rows so far took, by the bytes a row of a sample."""
        return round(self._rows * self.wire_bytes_per_row)


def written_bytes(records: Sequence[pa.RecordBatch], compression: str | None) -> int:
    """How many bytes record batches take on the wire."""
    sink = pa.MockOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=ipc_options(compression)) as writer:
        for record in records:
            writer.write_batch(record)
    return int(sink.size())


@contextmanager
def start(folder: Path, settings: protocol.Settings) -> Iterator[Client]:
    """A server and its client."""
    command = [sys.executable, "-m", "benchmarks.peers.flight_server"]
    compression = settings["compression"]
    if compression:
        command += ["--compression", compression]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            client = Client(port, server.pid, settings)
            sample = list(client.records(splits(folder)[:1]))
            rows = sum(len(unpacked(record)) for record in sample)
            client.wire_bytes_per_row = written_bytes(sample, compression) / rows
            yield client
        finally:
            server.kill()


if __name__ == "__main__":
    protocol.serve(start, ("pyarrow", "numpy"))
