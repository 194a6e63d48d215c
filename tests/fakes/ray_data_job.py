"""A Ray Data pipeline behind a fleet; the process of one of its read tasks dies in the middle.

As a program: ray_data_job FOLDER FLEET. Prints the rows that arrived, as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[np.generic]]
FATAL_BATCH = 3


class DiesOnce:
    """Passes batches on; the first process that comes to its third one ends there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = 0

    def __call__(self, batch: Columns) -> Columns:
        self._seen += 1
        if self._seen == FATAL_BATCH:
            try:
                (self._folder / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return batch


def main() -> None:
    """The driver."""
    import ray

    from trainer_client import Dataset, Dense, Label, Sparse, parquet
    from trainer_client.integrations.ray_data import read_batch_stream

    folder, fleet = Path(sys.argv[1]), sys.argv[2]
    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Rows that are handed on in small blocks: some have left the task when it dies.
    ray.data.DataContext.get_current().target_max_block_size = 16 << 10
    dataset = Dataset(
        source=parquet("rows"),
        features=[Dense("price"), Sparse("id", "seq"), Label("label")],
    )
    rows = read_batch_stream(
        dataset,
        target=f"ray:///{fleet}",
        batch_size=100,
        seed=5,
        streams=2,
    ).map_batches(DiesOnce(folder), batch_size=100)
    found = [
        [int(row["id"][0]), float(row["price"]), row["seq"].tolist(), float(row["label"])]
        for row in rows.iter_rows()
    ]
    print(json.dumps(found), flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
