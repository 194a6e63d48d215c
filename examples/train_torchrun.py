"""Data-parallel training that stops and goes on with any number of ranks.

    torchrun --nproc-per-node 2 examples/train_torchrun.py demo/dataset.yaml --target local://2

Every rank trains on its own batches of the epoch. A checkpoint holds the model and the merged state
of the stream, which any number of ranks can load: stop it, and start it again with
--nproc-per-node 4. --stop-after ends it early, as a machine would that goes away.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

from trainer_client import Batch, BatchStream, Dataset, merge_state_dicts

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


def main() -> None:
    """Trains the epochs that are left, and says what this rank was given."""
    options = arguments()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(Ranker())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with BatchStream(
        Dataset.from_yaml(options.dataset),
        target=options.target,
        batch_size=options.batch_size,
        uneven=options.uneven,
        count=options.count,
        snapshot_dir=options.snapshots,
        ledger=options.ledger,
    ) as stream:
        if options.checkpoint.exists():
            checkpoint = torch.load(options.checkpoint, weights_only=True)
            stream.load_state_dict(checkpoint["stream"])
            model.load_state_dict(checkpoint["model"])
        steps = 0
        for epoch in range(stream.epoch, options.epochs):
            stream.set_epoch(epoch)
            # Lets ranks end their epoch at different steps, as uneven="none" has them do.
            with Join([model], enable=options.uneven == "none"):
                for batch in stream:
                    assert batch.labels is not None
                    loss = binary_cross_entropy_with_logits(model(batch), batch.labels[:, 0])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    steps += 1
                    if steps == options.stop_after:
                        break
            save(options.checkpoint, stream, model)
            if steps == options.stop_after:
                break
        stats = stream.stats()
        said = {"rank": dist.get_rank(), "steps": steps, "rows": stats.rows}
        said |= {"left_out_rows": stats.left_out_rows, "padded_batches": stats.padded_batches}
        print(json.dumps(said), flush=True)
    dist.destroy_process_group()


def save(path: Path, stream: BatchStream, model: nn.Module) -> None:
    """Writes a checkpoint at the step at which every rank is."""
    # A group of its own works beside NCCL too. DDP never lets go of its group's threads, and one
    # that still holds a tensor of Python's when Python ends aborts the process.
    group = dist.new_group(backend="gloo")
    states: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(states, stream.state_dict(), group=group)
    dist.destroy_process_group(group)
    if dist.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"stream": merge_state_dicts(states), "model": model.state_dict()}, path)
    dist.barrier()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Data-parallel training on a Headrace stream")
    parser.add_argument("dataset", help="a dataset.yaml")
    parser.add_argument("--target", default="local://2", help="the servers")
    parser.add_argument("--batch-size", type=int, default=1024, help="rows a batch and rank")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--uneven", help="drop, pad, sync, sync-pad or none")
    parser.add_argument("--count", help="exact: have the rows that pass a filter counted first")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    parser.add_argument("--snapshots", type=Path, help="a folder that all ranks share")
    parser.add_argument("--ledger", type=Path, help="a folder for what each rank was handed")
    parser.add_argument("--stop-after", type=int, help="steps after which to stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
