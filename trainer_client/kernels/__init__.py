"""The loops that no array library does in one pass: compiled by numba, run without the GIL.

Importing this package imports no numba; its modules do. load() compiles their kernels, warm() does
so in the background, so that the first batch does not wait for it.
"""

from __future__ import annotations

import os
import threading

_starting = threading.Lock()
_warming: threading.Thread | None = None


def load() -> None:
    """Compiles every kernel, or loads it from numba's cache."""
    from trainer_client.kernels import expansion, parsing, unpacking

    kernels = (
        parsing.read_header,
        unpacking.place_buffers,
        unpacking.unpack,
        expansion.expand,
    )
    for kernel in kernels:
        # A program that ends meanwhile waits for one kernel at most.
        if not threading.main_thread().is_alive():
            return
        kernel.compile()


def warm() -> None:
    """Starts load() in a thread of its own, once a process; first uses wait for it."""
    global _warming  # noqa: PLW0603 - one a process, as what it loads
    with _starting:
        if _warming is None:
            _warming = threading.Thread(target=load, name="kernel-loader")
            _warming.start()


def _finish_warming() -> None:
    thread = _warming
    if thread is not None and thread is not threading.current_thread():
        thread.join()


# A child that is forked in the middle of an import could never import the same.
os.register_at_fork(before=_finish_warming)
