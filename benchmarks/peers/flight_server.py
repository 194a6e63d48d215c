"""An Arrow Flight server that reads and transforms homefeed; a process of its own.

A ticket is the JSON of {"splits": [[path, row group], ...], "threads": bool}. Every message is one
training batch: a record batch of one row whose lists are the tensors. Prints its port.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from benchmarks.peers import homefeed
from benchmarks.peers.arrow_rows import SCHEMA, packed


def ipc_options(compression: str | None) -> pa.ipc.IpcWriteOptions:
    """How record batches are written: compression is "zstd" (Arrow's default level) or None."""
    return pa.ipc.IpcWriteOptions(compression=compression)


class Server(fl.FlightServerBase):  # type: ignore[misc]
    """Answers tickets."""

    def __init__(self, compression: str | None) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._options = ipc_options(compression)

    def do_get(self, context: Any, ticket: fl.Ticket) -> fl.GeneratorStream:
        """The batches of a ticket's splits."""
        del context
        asked = json.loads(ticket.ticket)
        tables = homefeed.row_groups(asked["splits"], threads=asked["threads"])
        return fl.GeneratorStream(SCHEMA, self._batches(tables), options=self._options)

    @staticmethod
    def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for rows in homefeed.batches(tables):
            yield packed(homefeed.transform(rows))


def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--compression", choices=["zstd"])
    server = Server(parser.parse_args().compression)
    print(json.dumps({"port": server.port}), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
