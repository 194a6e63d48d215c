"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: a slow moment of a shared machine is not a bug. In CI the examples are the same every
# time, so that a red run can be repeated; on a desk they are new each time and find more.
settings.register_profile("headrace", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("headrace")
