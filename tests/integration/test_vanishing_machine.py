"""A machine that vanishes: no connection ends, no packet comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.cable import UNSHARE, can_unshare
from tests.fakes.process import ROOT, python_environment
from tests.integration.vanishing_machine import TIMEOUT_S

pytestmark = pytest.mark.alone


@pytest.mark.skipif(not can_unshare(), reason="no network namespace of its own")
def test_a_machine_that_vanishes_is_left(dataset_root: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.vanishing_machine", str(dataset_root)]
    result = subprocess.run(
        [*UNSHARE, *command],
        env=python_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["same"]
    assert said["retries"] > 0
    # Silence is borne for half of the timeout; then another server has to open the shard.
    assert said["longest_s"] < TIMEOUT_S
