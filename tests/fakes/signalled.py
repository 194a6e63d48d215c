"""A server that is told to end just when it begins to wait for that, in the middle of the call.

python -m tests.fakes.signalled serve ...
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from preprocessor_server import server
from preprocessor_server.cli import main


def _on_event(frame: FrameType, event: str, _: object) -> None:
    """Sends SIGTERM when the program, having started, calls what it waits with.

    Of threading's Python that is where a lock is held already.
    """
    if event == "return" and frame.f_code is server.Server.start.__code__:
        sys.setprofile(_when_waiting)


def _when_waiting(frame: FrameType, event: str, _: object) -> None:
    in_threading = event == "call" and frame.f_code is threading.Condition.wait.__code__
    in_c = event == "c_call" and frame.f_code is server.serve.__code__
    if in_threading or in_c:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.setprofile(_on_event)
    main()
