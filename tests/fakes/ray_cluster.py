"""A Ray cluster of several nodes on this machine, in a process of its own.

As a program it starts the cluster, prints its address, and obeys lines on stdin until they end:
"kill N" kills node N as a machine dies. Nodes: 0 the head, 1 and 2 with CPUs, 3 with a GPU too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.fakes.process import ROOT, python_environment

CPUS = 2
START_S, END_S = 90.0, 60.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Processes that nobody has asked for yet: most are never used.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


class RayCluster:
    """The cluster, as other processes see it; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.ray_cluster"],
            env=python_environment(**QUIET),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def kill_node(self, number: int) -> None:
        """Kills a node and all that runs there; returns when it is dead."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"kill {number}\n")
        self._process.stdin.flush()
        assert self._answer() == "killed"

    def environment(self) -> dict[str, str]:
        """The environment of a program that uses the cluster."""
        return python_environment(RAY_ADDRESS=self.address, **QUIET)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(END_S) == 0
        finally:
            self._process.kill()
            self._process.stdout.close()

    def _answer(self) -> str:
        """The next line after the program's own mark; Ray writes to stdout too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").strip()
        raise AssertionError("the cluster's process has ended")


def main() -> None:
    """The program."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": CPUS, "include_dashboard": False, "num_gpus": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = [cluster.head_node]
    nodes += [cluster.add_node(wait=False, num_cpus=CPUS, num_gpus=gpus) for gpus in (0, 0, 1)]
    cluster.wait_for_nodes(START_S)
    print(f"> {cluster.address}", flush=True)  # noqa: T201 - what this program is for
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line.split()[1])], allow_graceful=False)
        print("> killed", flush=True)  # noqa: T201 - likewise
    cluster.shutdown()


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    main()
