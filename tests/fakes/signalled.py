"""A server that is told to end at an awkward moment, while it waits for just that.

    python -m tests.fakes.signalled serve ...

SIGTERM comes when its main thread sleeps in that wait, and to another thread: the system may choose
any, where the main one has just been stopped and continued, say.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from preprocessor_server import server
from preprocessor_server.cli import main

LOOK_EVERY_S = 0.05


def _is_waiting(main_thread: int) -> bool:
    """Whether serve() sleeps in a wait of its own, or in one of threading's."""
    frame: FrameType | None = sys._current_frames()[main_thread]
    while frame is not None and frame.f_code.co_filename == threading.__file__:
        frame = frame.f_back
    state = Path(f"/proc/self/task/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[0]
    return frame is not None and frame.f_code is server.serve.__code__ and state == "S"


def _signal_another_thread(main_thread: int) -> None:
    pause = threading.Event()
    while not _is_waiting(main_thread):
        pause.wait(LOOK_EVERY_S)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


if __name__ == "__main__":
    main_ident = threading.get_ident()
    threading.Thread(target=_signal_another_thread, args=(main_ident,), daemon=True).start()
    main()
