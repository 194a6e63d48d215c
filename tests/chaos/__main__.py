"""Random chaos for minutes (make chaos): python -m tests.chaos [--faults N] [--epochs N] [--seed N]

Runs go on, each with a seed of its own, until so many faults have struck over so many epochs.
Every run is checked as the tests check theirs. --seed runs that seed alone, and so again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from tests.chaos.oracles import check_batches, check_rows, check_sequence, write_inputs
from tests.chaos.rig import Outcome, Rig

SERVERS = 4
EPOCHS_A_RUN = 2
KILLS_A_RUN = 3
OPTIONS = {"batch_size": 16, "seed": 5, "timeout": 60.0, "uneven": "none", "hedge": True}


def one_run(rig: Rig, dataset: Path, calm: Path, seed: int) -> tuple[Outcome, int]:
    """A run by its seed, checked; and its epochs."""
    rng = random.Random(seed)
    run = rig.prepare(f"run-{seed}", dataset, EPOCHS_A_RUN, **OPTIONS)
    if rng.random() < 0.3:
        sizes = [rng.choice([1, 2, 3, 4]) for _ in range(3)]
        path = run / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 1}))
        outcome = rig.train_elastic(run, sizes, seed)
        check_rows(run, 1)
        check_batches(run, calm, epochs=1)
        return outcome, 1
    outcome = rig.train(run, seed, KILLS_A_RUN)
    check_rows(run, EPOCHS_A_RUN)
    check_sequence(run, calm)
    return outcome, EPOCHS_A_RUN


def main() -> None:
    """Runs, checks, and prints the table of faults."""
    parser = argparse.ArgumentParser(description="Random chaos")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    stalls: dict[str, list[float]] = defaultdict(list)
    crashed: set[int] = set()
    faults = epochs = kills = runs = flipped = 0
    said: Counter[str] = Counter()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, dataset = write_inputs(folder)
        with Rig(folder / "runs", data, SERVERS, damage=True) as rig:
            calm = rig.prepare("calm", dataset, EPOCHS_A_RUN, **OPTIONS)
            rig.train(calm)
            while not runs or (
                options.seed is None and (faults < options.faults or epochs < options.epochs)
            ):
                seed = random.randrange(1 << 31) if options.seed is None else options.seed
                print(f"seed {seed}: ", end="", flush=True)
                outcome, done = one_run(rig, dataset, calm, seed)
                runs += 1
                epochs += done
                kills += outcome.trainer_kills
                faults += len(outcome.strikes) + outcome.trainer_kills
                for counts in outcome.said:
                    said.update(counts)
                for strike in outcome.strikes:
                    stalls[strike.kind].append(outcome.stall_s(strike))
                    if strike.kind == "crash":
                        crashed.add(strike.node)
                print(
                    f"{len(outcome.strikes)} faults, {outcome.trainer_kills} trainers killed, "
                    f"{done} epochs: every row once, the same batches"
                )
            flipped = sum(node.proxy.flipped for node in rig.nodes)
    print(f"\n{'fault':<14}{'times':>7}{'median stall s':>16}{'worst stall s':>15}")
    for kind, each in sorted(stalls.items()):
        print(f"{kind:<14}{len(each):>7}{statistics.median(each):>16.2f}{max(each):>15.2f}")
    print(f"{'trainer kill':<14}{kills:>7}")
    print(f"{flipped} bits flipped; of the trainers that ended: {dict(said)}")
    print(
        f"{faults} faults in {epochs} epochs of {runs} runs, {time.monotonic() - began_s:.0f} s; "
        f"servers killed at least once: {len(crashed)} of {SERVERS}"
    )
    if options.seed is None and not (flipped and said["hedges"] and len(crashed) == SERVERS):
        raise SystemExit("some kind of fault never came about: run longer")


if __name__ == "__main__":
    main()
