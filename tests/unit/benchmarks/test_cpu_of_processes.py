"""The CPU time of a process and of its children, while these come and go."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import tree_cpu_s

CHILDREN, CHILD_S = 15, 0.1
CHILD = f"import time\nwhile time.process_time() < {CHILD_S}: pass"
PARENT = f"""
import subprocess, sys
for _ in range({CHILDREN}):
    subprocess.run([sys.executable, "-S", "-c", {CHILD!r}], check=True)
print(flush=True)
sys.stdin.read()
"""


def test_children_that_end_are_counted_once_at_any_time() -> None:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        found = [0.0]
        while found[-1] < CHILDREN * CHILD_S:
            assert process.poll() is None
            found.append(tree_cpu_s(process.pid))
            # Clocks of ended and of running processes are rounded each for itself.
            assert found[-1] > found[-2] - CHILD_S / 3
        process.stdout.readline()
        assert tree_cpu_s(process.pid) < 2 * CHILDREN * CHILD_S + 1
        process.communicate(timeout=60)
    assert tree_cpu_s(process.pid) == 0
