"""Runs every benchmark, one after the other, and draws their pictures (make bench).

    python benchmarks/run_all.py              # the quick forms, under ten minutes
    python benchmarks/run_all.py --full       # the figures of the README
    python benchmarks/run_all.py stages wire  # only some

Each writes benchmarks/results/<name>.json, or <name>.quick.json, which git ignores: what is
committed are full forms. benchmarks/plot.py draws a PNG of each. One that fails does not stop the
others; the exit status says whether all succeeded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FAILED = "FAILED"
NAMES = (
    "end_to_end",
    "stages",
    "layouts",
    "wire",
    "decode",
    "jagged",
    "trainer_cost",
    "fan_in",
    "fleet_events",
    "memory",
    "startup",
    "stalled_streams",
    "workloads",
    "ops",
)
# Other layouts would take as long again as all the rest.
QUICK_FLAGS = {"end_to_end": ["--layout", "clustered"]}


def run(name: str, *, full: bool) -> str:
    """Runs one benchmark; how long it took, and whether it failed, for people."""
    print(f"\n== bench_{name} ==", flush=True)
    results = RESULTS / (f"{name}.json" if full else f"{name}.quick.json")
    command = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(results)]
    if not full:
        command += ["--quick", *QUICK_FLAGS.get(name, [])]
    began_s = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    took = f"{time.monotonic() - began_s:.0f} s"
    return took if status == 0 else f"{FAILED} after {took}"


def main() -> int:
    """Runs and draws; the exit status."""
    parser = argparse.ArgumentParser(description="Run the benchmarks and draw their pictures")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--full", action="store_true", help="the long form")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    RESULTS.mkdir(exist_ok=True)
    began_s = time.monotonic()
    took = {name: run(name, full=options.full) for name in options.names or NAMES}
    subprocess.run([sys.executable, str(HERE / "plot.py"), str(RESULTS)], check=True)
    print()
    for name, outcome in took.items():
        print(f"bench_{name:16} {outcome}")
    print(f"all in {time.monotonic() - began_s:.0f} s; pictures and JSON are in {RESULTS}")
    return int(any(outcome.startswith(FAILED) for outcome in took.values()))


if __name__ == "__main__":
    sys.exit(main())
