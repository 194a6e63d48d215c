"""Data-parallel training on a Ray cluster, which starts its own fleet of servers there.

    python examples/ray_train/train.py demo/dataset.yaml --storage /shared/runs --workers 2

Ray Train starts a worker a rank and torch.distributed among them; the stream of each takes its rank
from there, and the first one starts the fleet if it is not there. Checkpoints hold the model and
the merged state of the stream: after a failure, or when the script is run again with the same
--storage and --name, training goes on at the step after the last one, with any number of workers.
--stop-after ends it early.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer_client import Batch, BatchStream, Dataset, RayFleet, merge_state_dicts

BUCKETS, WIDTH = 1 << 12, 8


class Ranker(nn.Module):
    """Embeddings of all sparse ids, summed a row, through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits float32 [B] of a batch with sparse features."""
        assert batch.sparse is not None
        lists = [batch.sparse[name] for name in batch if name in batch.sparse]
        bags = [self.embedding(each.values % BUCKETS, each.offsets[:-1]) for each in lists]
        logits: torch.Tensor = self.head(torch.stack(bags).sum(0))
        return logits.squeeze(1)


def train(config: dict[str, Any]) -> None:
    """What every worker runs."""
    torch.manual_seed(0)
    model = prepare_model(Ranker())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    said = {"steps": 0, "rows": 0, "left_out_rows": 0}
    with BatchStream(
        Dataset.from_yaml(config["dataset"]),
        target=config["target"],
        fleet=config["fleet"],
        batch_size=config["batch_size"],
    ) as stream:
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                saved = torch.load(Path(folder, "state.pt"), weights_only=True)
            stream.load_state_dict(saved["stream"])
            model.load_state_dict(saved["model"])
            said = saved["said"]
        here = 0
        for epoch in range(stream.epoch, config["epochs"]):
            stream.set_epoch(epoch)
            for batch in stream:
                assert batch.labels is not None
                loss = binary_cross_entropy_with_logits(model(batch), batch.labels[:, 0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                here += 1
                if here % config["checkpoint_every"] == 0 or here == config["stop_after"]:
                    save(stream, model, said, here)
                if here == config["stop_after"]:
                    return
            save(stream, model, said, here)


def save(stream: BatchStream, model: nn.Module, said: dict[str, int], steps: int) -> None:
    """Reports a checkpoint at the step at which every rank is."""
    states: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(states, stream.state_dict())
    stats = stream.stats()
    rows = torch.tensor(stats.rows)
    dist.all_reduce(rows)
    metrics = {
        "steps": said["steps"] + steps,
        "rows": said["rows"] + int(rows),
        "left_out_rows": stats.left_out_rows,
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if dist.get_rank() == 0:
            saved = {"stream": merge_state_dicts(states), "model": model.state_dict()}
            torch.save(saved | {"said": metrics}, Path(folder, "state.pt"))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def main() -> None:
    """Trains, and says how far it came."""
    options = arguments()
    trainer = TorchTrainer(
        train,
        train_loop_config={
            # As text: the workers' nodes need not have the file.
            "dataset": options.dataset.read_text(),
            "target": options.target,
            "fleet": RayFleet(
                replicas=options.replicas, cpus=options.cpus, data_root=options.data_root
            ),
            "batch_size": options.batch_size,
            "epochs": options.epochs,
            "checkpoint_every": options.checkpoint_every,
            "stop_after": options.stop_after,
        },
        scaling_config=ray.train.ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=ray.train.RunConfig(
            name=options.name,
            storage_path=str(options.storage.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    )
    result = trainer.fit()
    print(json.dumps(result.metrics), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ray Train on a Headrace stream")
    parser.add_argument("dataset", type=Path, help="a dataset.yaml")
    parser.add_argument("--target", default="ray:///ray-train", help="the fleet, by name")
    parser.add_argument("--replicas", type=int, default=2, help="servers, if it must be started")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of each")
    parser.add_argument("--data-root", type=Path, default=Path(), help="folder of relative paths")
    parser.add_argument("--workers", type=int, default=2, help="ranks")
    parser.add_argument("--gpu", action="store_true", help="a GPU a worker")
    parser.add_argument("--batch-size", type=int, default=1024, help="rows a batch and rank")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--storage", type=Path, required=True, help="a folder all nodes share")
    parser.add_argument("--name", default="headrace", help="the run; one of that name goes on")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    parser.add_argument("--stop-after", type=int, help="steps after which to stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
