"""A trainer to be killed: it writes down what it trained on, and a state after every step.

    python -m tests.chaos.trainer RUN_FOLDER

RUN_FOLDER/run.json says what to train on, RUN_FOLDER/ledger is the stream's ledger. Each rank
appends to RUN_FOLDER/rank-R.log a line a step: epoch, shard, index, a hash of every tensor, the
ids; and puts RUN_FOLDER/rank-R.json, its state with the length of the log that belongs to it, in
place of the one before. Where there is a state it goes on from there, and what the log has beyond
it is cut off, as a model that is restored forgets what it had learned since.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from trainer_client import Batch, BatchStream, Dataset, HeadraceError


def digest_of(batch: Batch) -> str:
    """A hash of all that reaches the trainer, and of where the batch stands."""
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.labels is not None
    digest = hashlib.sha256(repr((batch.shard, batch.index, batch.next_cursor)).encode())
    for tensor in (batch.dense, batch.labels, batch.sparse.values, batch.sparse.lengths):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Trains to the last epoch; exit status 3 and the error as JSON if the stream ends the run."""
    folder = Path(sys.argv[1])
    run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    log_path, state_path = folder / f"rank-{rank}.log", folder / f"rank-{rank}.json"
    state: dict[str, Any] = {"log": 0, "stream": run.get("state", {})}
    if state_path.exists():
        state = json.loads(state_path.read_text())
    with (
        open(log_path, "ab") as log,
        BatchStream(
            Dataset.from_yaml(run["dataset"]),
            target=run["target"],
            rank=rank,
            world_size=world_size,
            snapshot_dir=run["snapshots"],
            ledger=folder / "ledger",
            **run["options"],
        ) as stream,
    ):
        log.truncate(state["log"])
        log.seek(0, os.SEEK_END)
        try:
            stream.load_state_dict(state["stream"])
            # One that is killed before its first step has a state too.
            save(state_path, {"log": log.tell(), "stream": stream.state_dict()})
            for epoch in range(stream.epoch, run["epochs"]):
                stream.set_epoch(epoch)
                for batch in stream:
                    train(batch, epoch, log)
                    save(state_path, {"log": log.tell(), "stream": stream.state_dict(batch)})
                    print(f"step {epoch} {log.tell()}", flush=True)
        except HeadraceError as error:
            said = {"error": type(error).__name__, "reason": error.reason, "message": str(error)}
            print(json.dumps(said), flush=True)
            sys.exit(3)
        stats = stream.stats()
        names = ("retries", "moves", "refetches", "hedges", "hedges_won")
        print(json.dumps({name: getattr(stats, name) for name in names}), flush=True)


def train(batch: Batch, epoch: int, log: Any) -> None:
    """Writes down what a batch holds."""
    assert batch.sparse is not None
    ids = batch.sparse["id"].values.tolist()
    line = [epoch, batch.shard, batch.index, digest_of(batch), ids]
    log.write(json.dumps(line).encode() + b"\n")
    log.flush()


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces a state at once: there is always a whole one."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(state))
    scratch.replace(path)


if __name__ == "__main__":
    main()
