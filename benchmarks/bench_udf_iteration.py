"""How long from a changed function in a training script to a batch with the changed feature.

    python benchmarks/bench_udf_iteration.py [--quick] [--json FILE]

Two servers run, with --udf=upload, and are never touched. Each run changes make_feature in a copy
of examples/iterate_udf.py and starts that anew: to the first batch, from the start of its process
(Python and torch are imported), and from BatchStream(...). One run before them is not counted; that
the feature has changed as the code has is checked in each.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import arguments, homefeed, measured, report, runs_of, server, shown, table
from tests.fakes.process import ROOT, python_environment

SCRIPT = ROOT / "examples" / "iterate_udf.py"
SCALE = "/ 2\n"


def run_s(script: Path, files: Path, target: str) -> tuple[float, dict[str, Any]]:
    """Seconds from the start of a script's process until it has its first batch; what it found."""
    command = [sys.executable, str(script), str(files), "dense_0", "--target", target]
    began_s = time.monotonic()
    with subprocess.Popen(command, env=python_environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took_s = time.monotonic() - began_s
    if process.returncode:
        raise RuntimeError(f"{script} ended with status {process.returncode}")
    return took_s, json.loads(line)


def measure(files: Path, runs: int) -> list[dict[str, Any]]:
    """Every run, in seconds."""
    from_start, from_stream = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        server("--udf", "upload") as (first, _),
        server("--udf", "upload") as (second, _),
    ):
        script, text = Path(folder) / "train.py", SCRIPT.read_text()
        if text.count(SCALE) != 1:
            raise RuntimeError(f"{SCRIPT} has no {SCALE!r} to change")
        target = f"{first},{second.removeprefix('static:///')}"
        expected = 0.0
        for run in range(runs + 1):
            script.write_text(text.replace(SCALE, f"* {run + 1}\n"))
            took_s, found = run_s(script, files, target)
            if run == 0:
                expected = found["std"]
                continue
            if not math.isclose(found["std"], expected * (run + 1), rel_tol=1e-4):
                raise RuntimeError(f"run {run} has {found}: not the feature of the changed code")
            from_start.append(took_s)
            from_stream.append(found["stream_s"])
    return [
        {"what": "the start of the script", "seconds": measured(from_start, "s")},
        {"what": "BatchStream(...) in it", "seconds": measured(from_stream, "s")},
    ]


def main() -> None:
    """Measures and reports."""
    options = arguments("Time from a changed function to a batch with it").parse_args()
    rows = 400_000 if options.quick else 4_000_000
    files = homefeed("clustered", rows).resolve()
    results = measure(files, runs_of(options))
    table(
        f"homefeed, {rows:,} rows, batch 4,096, 2 servers",
        ("to the first batch from", "seconds"),
        [(result["what"], shown(result["seconds"], 2)) for result in results],
    )
    report(options, "bench_udf_iteration", results)


if __name__ == "__main__":
    main()
