"""Random chaos for minutes (make chaos): python -m tests.chaos [--faults N] [--epochs N] [--seed N]

Runs go on, each with a seed of its own, until so many faults have struck over so many epochs, and
so many trainers were killed. Every run is checked as the tests check theirs. --seed runs that seed
alone, and so again.

--minutes N is another thing: one trainer and one server live through N minutes of chaos, and must
take no more memory at its end than they did after a sixth of it.
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

from tests.chaos.oracles import (
    check_batches,
    check_ledger,
    check_rows,
    check_sequence,
    check_whole_epochs,
    write_inputs,
)
from tests.chaos.rig import Outcome, Rig

SERVERS = 4
EPOCHS_A_RUN = 2
KILLS_A_RUN = 3
LEAST_KILLS = 20
# What may be left of the memory's growth, over the middle third of a soak.
MAX_GROWTH = 1.05
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
        check_ledger(run, 1, rig)
        check_batches(run, calm, epochs=1)
        return outcome, 1
    outcome = rig.train(run, seed, KILLS_A_RUN)
    check_rows(run, EPOCHS_A_RUN)
    check_ledger(run, EPOCHS_A_RUN, rig)
    check_sequence(run, calm)
    return outcome, EPOCHS_A_RUN


def main() -> None:
    """Runs, checks, and prints the table of faults."""
    parser = argparse.ArgumentParser(description="Random chaos")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    if options.minutes is not None:
        soak(options.minutes, options.seed)
        return
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
                options.seed is None
                and (faults < options.faults or epochs < options.epochs or kills < LEAST_KILLS)
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
                    f"{done} epochs: every row once, the same batches, by their ledgers too"
                )
            flipped = sum(node.proxy.flipped for node in rig.nodes)
    print(f"\n{'fault':<14}{'times':>7}{'median stall s':>16}{'worst stall s':>15}")
    for kind, each in sorted(stalls.items()):
        print(f"{kind:<14}{len(each):>7}{statistics.median(each):>16.2f}{max(each):>15.2f}")
    print(f"{'trainer kill':<14}{kills:>7}")
    print(
        f"{flipped} bits flipped; what the trainers that ended did again or elsewhere: {dict(said)}"
    )
    print(
        f"{faults} faults in {epochs} epochs of {runs} runs, {time.monotonic() - began_s:.0f} s; "
        f"servers killed at least once: {len(crashed)} of {SERVERS}"
    )
    if options.seed is None and not (flipped and said["hedges"] and len(crashed) == SERVERS):
        raise SystemExit("some kind of fault never came about: run longer")


def soak(minutes: float, seed: int | None) -> None:
    """Chaos for so long around one trainer and one server; their memory must not grow."""
    chosen = random.randrange(1 << 31) if seed is None else seed
    print(f"seed {chosen}: {minutes:g} minutes", flush=True)
    began_s = time.monotonic()
    samples: list[tuple[float, int, int]] = []

    def sample(trainer: int, server: int) -> None:
        minute = (time.monotonic() - began_s) / 60
        samples.append((minute, resident_kib(trainer), resident_kib(server)))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, dataset = write_inputs(folder)
        with Rig(folder / "runs", data, SERVERS, damage=True, spared=True) as rig:
            run = rig.prepare("soak", dataset, 1_000_000, **OPTIONS)
            outcome = rig.soak(run, chosen, 60 * minutes, sample)
            epochs = check_whole_epochs(run)
            check_ledger(run, epochs, rig)
    kinds = Counter(strike.kind for strike in outcome.strikes)
    steps = sum(map(len, outcome.steps_s))
    print(
        f"{steps:,} steps, {epochs} whole epochs, each row once, by its ledger too; {dict(kinds)}"
    )
    grown = False
    for column, side in ((1, "trainer"), (2, "server")):
        early = [s[column] for s in samples if minutes / 6 <= s[0] < minutes / 2]
        late = [s[column] for s in samples if s[0] >= minutes * 2 / 3]
        before, after = statistics.median(early), statistics.median(late)
        grown |= after > MAX_GROWTH * before
        print(
            f"{side}: median {before / 1024:.0f} MiB from minute {minutes / 6:.1f} to "
            f"{minutes / 2:.1f}, {after / 1024:.0f} MiB in the last {minutes / 3:.1f} minutes: "
            f"{after / before:.3f}"
        )
    if grown:
        raise SystemExit(f"memory grew by more than {MAX_GROWTH - 1:.0%}")


def resident_kib(pid: int) -> int:
    """What a process has in memory, in KiB (proc(5), VmRSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


if __name__ == "__main__":
    main()
