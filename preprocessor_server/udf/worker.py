"""A worker process: imports one function, and calls it with blocks until its input ends.

Started by the server (process.py) as python -m preprocessor_server.udf.worker LIFELINE.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import threading
from typing import Any

import pyarrow as pa

from preprocessor_server.udf import archive, wire
from preprocessor_server.udf.archive import Code
from preprocessor_server.udf.call import (
    ReturnedError,
    call,
    fingerprint,
    load,
    source_files,
    traceback_of,
)


def main() -> None:
    """Runs until the server closes the pipe, or is gone."""
    faulthandler.enable()
    threading.Thread(target=_follow, args=(int(sys.argv[1]),), daemon=True).start()
    # What the function reads, prints and starts never gets at the pipes.
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    pa.set_cpu_count(1)
    try:
        _serve(source, sink)
    except wire.PipeClosedError:
        # Threads that the function has left running have nobody to work for.
        os._exit(0)


def _follow(lifeline: int) -> None:
    """Ends the process once the server is gone, whatever the function is at."""
    os.read(lifeline, 1)
    os._exit(0)


def _serve(source: int, sink: int) -> None:
    setup, _ = wire.receive(source)
    limit = setup["memory_bytes"]
    # Of data and not of address space: Arrow and BLAS reserve far more than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        code = Code(setup["function"], archive.from_json(setup["archive"]))
        function = load(code)
        files = [] if code.archive else source_files(code.function)
        found = archive.fingerprint(code.archive) if code.archive else fingerprint(files)
    except BaseException as error:  # noqa: BLE001 - whatever the module does, the server is told
        wire.send(sink, _failure(error, "it cannot be imported"))
        return
    stats = [(str(path), path.stat()) for _, path in files]
    seen = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    wire.send(sink, {"fingerprint": found, "files": seen})
    while True:
        head, payload = wire.receive(source)
        try:
            with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
                batch = reader.read_next_batch()
            result = call(function, batch, head["outputs"], head["seed"])
            packed = pa.BufferOutputStream()
            with pa.ipc.new_stream(packed, result.schema) as writer:
                writer.write_batch(result)
            content = packed.getvalue()
        except BaseException as error:  # noqa: BLE001 - likewise
            wire.send(sink, _failure(error, f"it raised {type(error).__name__}"))
            continue
        wire.send(sink, {}, content)


def _failure(error: BaseException, message: str) -> dict[str, Any]:
    if isinstance(error, ReturnedError):
        return {"failure": "returned", "message": str(error), "traceback": ""}
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    return {"failure": kind, "message": message, "traceback": traceback_of(error)}


if __name__ == "__main__":
    main()
