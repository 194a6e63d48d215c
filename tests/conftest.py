"""Settings that all tests share."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A runner in the background may have been started with Ctrl-C ignored, which programs inherit; the
# tests of Ctrl-C start programs as a terminal does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a slow moment of a shared machine is not a bug. In CI the examples are the same every
# time, so that a red run can be repeated; on a desk they are new each time and find more.
settings.register_profile("headrace", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("headrace")
