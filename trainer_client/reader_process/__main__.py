"""python -m trainer_client.reader_process SOCKET MEMORY: a reader process, by two descriptors."""

import os
import select
import signal
import sys
import threading


def ends_with(descriptor: int) -> None:
    """Ends this process, wherever it is, when the other end of its socket is closed."""
    poll = select.poll()
    # Of that alone it is told whatever it asks for.
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    # What follows imports torch, and compiles kernels where there is no cache of them.
    threading.Thread(target=ends_with, args=(int(sys.argv[1]),), daemon=True).start()
    # They were blocked so far (parent.LEFT_TO_TRAINER).
    for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    from trainer_client.reader_process.child import main

    main(*map(int, sys.argv[1:]))
