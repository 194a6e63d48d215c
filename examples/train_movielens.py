"""Trains a small sequence-aware model on MovieLens-100K, fed by Headrace.

    python examples/train_movielens.py --prepare --data demo/data --report demo/report.png

Will a user like a film, given what they rated before? The script trains the same model with the
user's history and with the history emptied, and compares both with each film's mean label. It ends
with 0 if the model beats that baseline by 0.02 AUC (median over seeds), with 1 if it does not, with
2 on an error, and with 130 on Ctrl-C. Nothing but --target changes between servers started on this
machine (local://2) and a fleet (dns:///headrace-preprocessor:50051).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from movielens_model import (
    BUCKETS,
    HISTORIES,
    TABLE_BY_FEATURE,
    TABLE_ROWS,
    Bag,
    LikeModel,
    area_under_roc,
)
from movielens_raw import DataUnavailableError
from movielens_report import VARIANTS, Run, Speedometer, draw, median_auc, progress_note
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from trainer_client import (
    Batch,
    BatchStream,
    Dataset,
    Dense,
    HeadraceError,
    Label,
    Sparse,
    ops,
    parquet,
)

GOAL = 0.02
DENSE_FEATURES = 4
TEST_BATCH_SIZE = 4096
BASELINE_PRIOR_ROWS = 5.0


def movielens(folder: str) -> Dataset:
    """The dataset: which columns of the Parquet files become which tensors, and how."""
    return Dataset(
        source=parquet(folder),
        features=(
            Dense("age"),
            Dense("release_year", ops=[ops.FillNull(1995), ops.Clip(min=1930)]),
            Dense("user_rating_count", "item_rating_count", ops=[ops.Log1p()]),
            Sparse("user_id", "item_id"),
            Sparse("gender", "occupation", "zip_prefix", "genres", ops=[ops.HashBucket(BUCKETS)]),
            Sparse(*HISTORIES, ops=[ops.Tail(50)]),
            Label("label"),
        ),
    )


def unpack(batch: Batch, *, history: bool = True) -> tuple[Tensor, dict[str, Bag], Tensor]:
    """The dense [B, 4], sparse and label [B] tensors of a batch.

    Without history, rows keep their place and lose the ids of their lists.
    """
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.labels is not None
    bags = {}
    for name in TABLE_BY_FEATURE:
        ids = batch.sparse[name]
        bag = Bag(ids.values, ids.offsets)
        bags[name] = bag if history or name not in HISTORIES else bag.emptied()
    return batch.dense, bags, batch.labels[:, 0]


def item_means(train: BatchStream) -> Tensor:
    """The baseline: each film's mean label in the training part, drawn towards the overall mean."""
    sums, counts = torch.zeros(TABLE_ROWS["item"]), torch.zeros(TABLE_ROWS["item"])
    for batch in train:
        _, bags, labels = unpack(batch)
        sums.index_add_(0, bags["item_id"].values, labels)
        counts.index_add_(0, bags["item_id"].values, torch.ones_like(labels))
    overall = sums.sum() / counts.sum()
    means: Tensor = (sums + BASELINE_PRIOR_ROWS * overall) / (counts + BASELINE_PRIOR_ROWS)
    return means


Scorer = Callable[[Tensor, dict[str, Bag]], Tensor]


@torch.no_grad()
def auc_on(scorer: Scorer, test: BatchStream, *, history: bool = True) -> float:
    """The AUC on the test part of a scorer, which makes scores [B] of dense and sparse tensors."""
    scores, labels = [], []
    for batch in test:
        dense, bags, liked = unpack(batch, history=history)
        scores.append(scorer(dense, bags))
        labels.append(liked.clone())
    return area_under_roc(torch.cat(scores), torch.cat(labels))


def train_one(
    run: Run, train: BatchStream, test: BatchStream, epochs: int, first_epoch: int
) -> Iterator[None]:
    """Trains one model, filling run; yields after every step."""
    torch.manual_seed(run.seed)
    history = run.variant == VARIANTS[0]
    model = LikeModel(dense_features=DENSE_FEATURES)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=3e-3, total_steps=epochs * len(train)
    )
    seen = 0
    for epoch in range(first_epoch, first_epoch + epochs):
        train.set_epoch(epoch)
        for batch in train:
            dense, bags, liked = unpack(batch, history=history)
            loss = nn.functional.binary_cross_entropy_with_logits(model(dense, bags), liked)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            seen += batch.batch_size
            run.examples.append(seen)
            run.losses.append(loss.item())
            yield
        model.eval()
        run.aucs.append(auc_on(model, test, history=history))
        model.train()


def train_all(
    arguments: argparse.Namespace, train: BatchStream, test: BatchStream
) -> tuple[list[Run], Speedometer]:
    """Trains both models with every seed, both on the same batches, with a progress bar."""
    steps = arguments.epochs * len(train)
    runs = [Run(variant, seed) for seed in range(arguments.seeds) for variant in VARIANTS]
    meter = Speedometer(train.stats)
    columns = (
        TextColumn("{task.description:22}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[note]:36}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        for run in runs:
            bar = progress.add_task(f"seed {run.seed} {run.variant}", total=steps, note="")
            first_epoch = run.seed * arguments.epochs
            for _ in train_one(run, train, test, arguments.epochs, first_epoch):
                meter.step()
                progress.update(bar, advance=1, note=progress_note(run, meter.overall()))
            progress.update(bar, note=progress_note(run, meter.overall()))
    return runs, meter


def run_demo(arguments: argparse.Namespace) -> bool:
    """Trains, prints the figures, draws the picture; returns whether the goal was reached."""
    began_s = time.monotonic()
    # Steps this small gain nothing from a second thread, and local servers need the other cores.
    torch.set_num_threads(1)
    with (
        BatchStream(
            movielens(f"{arguments.data}/train"),
            target=arguments.target,
            batch_size=arguments.batch_size,
            # Files in time order hold a user's ratings side by side. Few shards, each shuffled
            # across all of its row groups, make batches of many users, which train better.
            num_shards=4,
            shuffle_window_splits=16,
        ) as train,
        BatchStream(
            movielens(f"{arguments.data}/test"),
            target=arguments.target,
            batch_size=TEST_BATCH_SIZE,
            shuffle=False,
        ) as test,
    ):
        means = item_means(train)
        baseline = auc_on(lambda _, bags: means[bags["item_id"].values], test)
        print(f"item-mean baseline   test AUC {baseline:.4f}")
        runs, meter = train_all(arguments, train, test)
    speed = meter.overall()
    medians = {variant: median_auc(runs, variant) for variant in VARIANTS}
    lift = medians["with history"] - baseline
    print(
        f"training             {speed.rows_per_s:,.0f} examples/s,"
        f" the trainer waited {speed.wait_share:.1%} of the time"
    )
    for variant, auc in medians.items():
        seeds = ", ".join(f"{run.aucs[-1]:.4f}" for run in runs if run.variant == variant)
        print(f"{variant:20} test AUC {auc:.4f} (median of {seeds})")
    print(f"lift over baseline   {lift:+.4f} ({GOAL:+.2f} is the goal)")
    if arguments.report is not None:
        draw(arguments.report, runs, meter, baseline)
        print(f"picture              {arguments.report}")
    print(f"took                 {time.monotonic() - began_s:.0f} s")
    return lift >= GOAL


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Train on MovieLens-100K, fed by Headrace")
    add = parser.add_argument
    add("--data", default="demo/data", help="folder with train/ and test/, as the servers see it")
    add("--prepare", action="store_true", help="fetch MovieLens-100K and write --data if absent")
    add("--target", default="local://2", help="the servers: local://N, static:///…, dns:///…")
    add("--epochs", type=int, default=5)
    add("--seeds", type=int, default=3, help="how many times each model is trained")
    add("--batch-size", type=int, default=512)
    add("--report", type=Path, help="where to write the picture (PNG)")
    arguments = parser.parse_args()
    for name in ("epochs", "seeds", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


def main() -> int:
    """Runs the demo; returns the exit status."""
    arguments = parse_arguments()
    try:
        if arguments.prepare:
            # Only here: a trainer pod has no pyarrow, and reads what servers already see.
            from movielens_data import prepare

            data = Path(arguments.data)
            written = prepare(data, cache=data.parent / "cache")
            print(f"{'wrote' if written else 'found'} {data}")
        if run_demo(arguments):
            return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (DataUnavailableError, HeadraceError) as error:
        print(f"train_movielens: {error}", file=sys.stderr)
        return 2
    print("train_movielens: the model did not reach the goal", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
