"""Records of a real DNS server, added and removed while a client looks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.fakes.process import ROOT, python_environment
from tests.integration.following_dns import INTERVAL_S

pytestmark = pytest.mark.alone

UNSHARE = ["unshare", "--map-root-user", "--net", "--mount"]


def can_unshare() -> bool:
    """Whether this machine lets a test have a network of its own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no network namespace of its own")
def test_records_are_followed() -> None:
    command = [sys.executable, "-m", "tests.fakes.dns_server", "tests.integration.following_dns"]
    result = subprocess.run(
        [*UNSHARE, *command],
        env=python_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    times = [float(time) for time in re.findall(r"followed after ([\d.]+) s", result.stdout)]
    assert len(times) == 4
    # One interval, and a lot for a busy machine.
    assert max(times) <= INTERVAL_S + 5
