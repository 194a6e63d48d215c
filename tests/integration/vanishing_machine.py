"""What test_vanishing_machine runs in a network of its own: a server behind a cable that is cut.

    unshare --map-root-user --net --mount python -m tests.integration.vanishing_machine DATA_ROOT

Prints, as JSON, whether the batches were the same, the longest wait for one, and the retries.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.fakes import cable
from tests.fakes.process import ServerProcess
from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

TIMEOUT_S = 4.0


def main() -> None:
    """Trains; the far machine vanishes without a word."""
    cable.lay()
    root = Path(sys.argv[1])
    with (
        ServerProcess(f"--listen={cable.NEAR}:7001", f"--data-root={root}") as near,
        ServerProcess(
            f"--listen={cable.FAR}:7001", f"--data-root={root}", prefix=cable.THERE
        ) as away,
        BatchStream(
            Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")]),
            target=f"static:///{cable.NEAR}:7001,{cable.FAR}:7001",
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
                cable.cut()
            asked_s = time.monotonic()
        said = {
            "same": indexes == expected,
            "longest_s": max(waits),
            "retries": stream.stats().retries,
        }
        print(json.dumps(said))  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
