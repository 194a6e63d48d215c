"""A server whose storage takes its time to answer every read, as a disk far away would.

    python -m tests.fakes.slow_storage serve ...

The variable READ_WAIT_S says for how long; the server is the real one.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from preprocessor_server.cli import main

READ_WAIT_S = float(os.environ["READ_WAIT_S"])


_preadv = os.preadv


def _slow_preadv(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
    threading.Event().wait(READ_WAIT_S)
    return _preadv(file, buffers, offset, flags)


if __name__ == "__main__":
    os.preadv = _slow_preadv
    main()
