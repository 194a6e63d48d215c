"""A training on Ray Train without torch.distributed: ranks come from Ray Train's own context.

As a program: ray_train_job FOLDER FLEET. Rank 1 dies in the middle of its first try. What each
worker was given is in FOLDER/ids: a file a try and rank, with a line of JSON a step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

WORKERS, BATCH, SAVED_STEP, FATAL_STEP = 2, 100, 20, 25


def train(config: dict[str, Any]) -> None:
    """What every worker runs."""
    import ray.train

    from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

    folder = Path(config["folder"])
    rank = ray.train.get_context().get_world_rank()
    checkpoint = ray.train.get_checkpoint()
    with BatchStream(
        Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")]),
        target=f"ray:///{config['fleet']}",
        batch_size=BATCH,
        snapshot_dir=folder / "snapshots",
    ) as stream:
        if checkpoint is not None:
            with checkpoint.as_directory() as saved:
                stream.load_state_dict(json.loads(Path(saved, f"{rank}.json").read_text()))
        name = f"{'first' if checkpoint is None else 'second'}-{rank}"
        with (folder / "ids" / name).open("w") as ids:
            for step, batch in enumerate(stream, 1):
                assert batch.sparse is not None
                ids.write(f"{json.dumps(batch.sparse['id'].values.tolist())}\n")
                ids.flush()
                if checkpoint is None and step == SAVED_STEP:
                    with tempfile.TemporaryDirectory() as made:
                        Path(made, f"{rank}.json").write_text(json.dumps(stream.state_dict(batch)))
                        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(made))
                if checkpoint is None and step == FATAL_STEP and rank == 1:
                    # Ray takes the checkpoint down a while after it was reported.
                    ray.train.get_all_reported_checkpoints()
                    os._exit(1)
        ray.train.report({"left_out_rows": stream.stats().left_out_rows})


def main() -> None:
    """The driver."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    folder, fleet = Path(sys.argv[1]), sys.argv[2]
    (folder / "ids").mkdir()
    ray.init(log_to_driver=False)
    result = DataParallelTrainer(
        train,
        train_loop_config={"folder": str(folder), "fleet": fleet},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            storage_path=str(folder), name="job", failure_config=FailureConfig(max_failures=1)
        ),
    ).fit()
    print(json.dumps(result.metrics), flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
