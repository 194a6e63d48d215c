"""What test_vanishing_machine runs in a network of its own: a server behind a cable that is cut.

    unshare --map-root-user --net --mount python -m tests.integration.vanishing_machine DATA_ROOT

Prints, as JSON, whether the batches were the same, the longest wait for one, and the retries.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.process import ServerProcess
from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

NEAR, FAR = "10.77.0.1", "10.77.0.2"
TIMEOUT_S = 4.0
PEER = "far"


def network() -> None:
    """Another machine: a network namespace at the end of a veth pair, the cable."""
    for command in (
        "mount -t tmpfs tmpfs /run",
        f"ip netns add {PEER}",
        "ip link set lo up",
        f"ip link add cable type veth peer name cable netns {PEER}",
        f"ip addr add {NEAR}/24 dev cable",
        "ip link set cable up",
        f"ip -n {PEER} addr add {FAR}/24 dev cable",
        f"ip -n {PEER} link set lo up",
        f"ip -n {PEER} link set cable up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)


def main() -> None:
    """Trains; the far machine vanishes without a word."""
    network()
    root = Path(sys.argv[1])
    far = ["nsenter", f"--net=/run/netns/{PEER}"]
    with (
        ServerProcess(f"--listen={NEAR}:7001", f"--data-root={root}") as near,
        ServerProcess(f"--listen={FAR}:7001", f"--data-root={root}", prefix=far) as away,
        BatchStream(
            Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")]),
            target=f"static:///{NEAR}:7001,{FAR}:7001",
            batch_size=20,
            num_shards=16,
            interleave=4,
            prefetch_bytes=1,
            timeout=TIMEOUT_S,
        ) as stream,
    ):
        near.wait_for("serving")
        away.wait_for("serving")
        expected = [batch.index for batch in stream]
        stream.set_epoch(0, reset=True)
        indexes, waits = [], []
        asked_s = time.monotonic()
        for step, batch in enumerate(stream):
            waits.append(time.monotonic() - asked_s)
            indexes.append(batch.index)
            if step == 60:
                subprocess.run(f"ip -n {PEER} link set cable down".split(), check=True)
            asked_s = time.monotonic()
        said = {
            "same": indexes == expected,
            "longest_s": max(waits),
            "retries": stream.stats().retries,
        }
        print(json.dumps(said))  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
