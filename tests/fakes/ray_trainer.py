"""A trainer in a process of its own, which goes on as far as it is told.

As a program: reads lines "N" from stdin, and prints the ids of the next N batches (of all that are
left: 0) as a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.fakes.process import ROOT

BATCH = 100
MARK = "ids "


class RayTrainer:
    """The trainer, as a test drives it; options are those of its stream, as JSON."""

    def __init__(self, environment: Mapping[str, str], **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.ray_trainer", json.dumps(options)],
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ids: list[int] = []

    def take(self, batches: int) -> int:
        """Takes batches (0: all that are left); how many ids came."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{batches}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                ids = json.loads(line.removeprefix(MARK))
                self.ids += ids
                return len(ids)
        raise AssertionError("the trainer has ended")

    def __enter__(self) -> RayTrainer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


def main() -> None:
    """The program."""
    from trainer_client import BatchStream, Dataset, Label, RayFleet, Sparse, parquet

    options = json.loads(sys.argv[1])
    if "fleet" in options:
        options["fleet"] = RayFleet(**options["fleet"])
    dataset = Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")])
    with BatchStream(
        dataset,
        batch_size=BATCH,
        seed=3,
        resolve_interval=0.2,
        interleave=2,
        prefetch_factor=1,
        **options,
    ) as stream:
        batches = iter(stream)
        for line in sys.stdin:
            ids: list[int] = []
            for count, batch in enumerate(batches, 1):
                assert batch.sparse is not None
                ids += batch.sparse["id"].values.tolist()
                if count == int(line):
                    break
            print(f"{MARK}{json.dumps(ids)}", flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
