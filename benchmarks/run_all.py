"""Runs every benchmark, one after the other, and draws their pictures (make bench).

    python benchmarks/run_all.py              # the quick forms, under ten minutes
    python benchmarks/run_all.py --full       # the figures of the README
    python benchmarks/run_all.py stages wire  # only some

Each writes benchmarks/results/<name>.json; benchmarks/plot.py draws the PNGs from them. One that
fails does not stop the others; the exit status says whether all succeeded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAMES = (
    "end_to_end",
    "stages",
    "layouts",
    "wire",
    "decode",
    "jagged",
    "trainer_cost",
    "fan_in",
    "memory",
    "workloads",
)
# The whole comparison takes longer than all the rest.
QUICK_FLAGS = {"end_to_end": ["--layout", "clustered"]}


def run(name: str, *, full: bool) -> bool:
    """Runs one benchmark; whether it succeeded."""
    print(f"\n== bench_{name} ==", flush=True)
    command = [sys.executable, str(HERE / f"bench_{name}.py")]
    command += ["--json", str(RESULTS / f"{name}.json")]
    began_s = time.monotonic()
    if not full:
        command += ["--quick", *QUICK_FLAGS.get(name, [])]
    status = subprocess.run(command, check=False).returncode
    took_s = time.monotonic() - began_s
    print(f"bench_{name} {'took' if status == 0 else 'FAILED after'} {took_s:.0f} s", flush=True)
    return status == 0


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
    failed = [name for name in options.names or NAMES if not run(name, full=options.full)]
    subprocess.run([sys.executable, str(HERE / "plot.py"), str(RESULTS)], check=True)
    print(f"\nall in {time.monotonic() - began_s:.0f} s; pictures and JSON are in {RESULTS}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
