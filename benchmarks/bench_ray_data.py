"""What a Ray Data pipeline gains by a fleet in front of it: the same rows, the same batches.

    python benchmarks/bench_ray_data.py [--layout clustered] [--quick] [--json FILE]

The pipeline of benchmarks/peers/raydata.py (read_parquet, map_batches, iter_batches), and the same
with a BatchStream as its source (raydata_stream.py). homefeed, batch 4096, all on this machine;
both in the environment of the peer (make bench-setup), in turn, each run a process with a Ray of
its own. Rows are compared by checksum first. A rate is that of a long pass less a short one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks import harness
from benchmarks.peer_process import PeerError, only
from benchmarks.peer_systems import Input, System, own_files, repacked_files
from benchmarks.peers.checksum import differences

CHECKED_ROWS = 100_000


def with_dataset(layout: str, rows: int) -> list[Input]:
    """The same files, and the dataset that they are of."""
    dataset = own_files(layout, rows)[0].folder.resolve() / "dataset.yaml"
    return [
        replace(each, settings={"dataset": str(dataset)}) for each in repacked_files(layout, rows)
    ]


PIPELINE = System("Ray Data", "raydata", "raydata", repacked_files, [{"torch": False}])
BEHIND_US = System("Ray Data behind a fleet", "raydata_stream", "raydata", with_dataset, [{}])
SYSTEMS = (PIPELINE, BEHIND_US)


def check(layout: str) -> None:
    """Raises PeerError if the two deliver different rows."""
    sums = []
    for system in SYSTEMS:
        chosen = system.inputs(layout, CHECKED_ROWS)[0]
        sums.append(only(system.run(chosen, system.variants[0], "--check"), "checksums"))
    if wrong := differences(*sums):
        raise PeerError(f"the pipelines deliver other rows: {'; '.join(wrong)}")


def measure(layout: str, rows: int, runs: int) -> list[dict[str, Any]]:
    """The runs of both, and how they compare run by run."""
    rates: dict[str, list[float]] = {system.name: [] for system in SYSTEMS}
    cpu: dict[str, list[float]] = {system.name: [] for system in SYSTEMS}
    for _ in range(runs):
        for system in SYSTEMS:
            chosen = system.inputs(layout, rows)[0]
            run = only(system.run(chosen, system.variants[0]), "run")
            rates[system.name].append(run["rows"] / run["seconds"])
            cpu[system.name].append(sum(run["cpu_s"].values()) / run["rows"] * 1e6)
    results = [
        {
            "what": system.name,
            "layout": layout,
            "examples_per_s": harness.measured(rates[system.name], "examples/s"),
            "cpu_s_per_million": harness.measured(cpu[system.name], "s/million examples"),
        }
        for system in SYSTEMS
    ]
    before, behind = PIPELINE.name, BEHIND_US.name
    faster = [new / old for new, old in zip(rates[behind], rates[before], strict=True)]
    cheaper = [old / new for new, old in zip(cpu[behind], cpu[before], strict=True)]
    ratio = {
        "what": "ratio",
        "layout": layout,
        "examples_per_s": harness.measured(faster, "times as fast"),
        "cpu_s_per_million": harness.measured(cheaper, "times less CPU"),
    }
    return [*results, ratio]


def main() -> int:
    """Measures and reports."""
    parser = harness.arguments("A Ray Data pipeline, and the same behind a fleet")
    parser.add_argument("--layout", default="clustered", choices=("logged", "clustered"))
    options = parser.parse_args()
    rows = 1_000_000 if options.quick else 4_000_000
    try:
        check(options.layout)
        results = measure(options.layout, rows, harness.runs_of(options))
    except PeerError as error:
        print(f"bench_ray_data: {error}", file=sys.stderr)
        return 1
    harness.table(
        f"homefeed {options.layout}, {rows:,} rows",
        ("", "examples/s", "CPU s a million"),
        [
            (
                result["what"],
                harness.shown(result["examples_per_s"], 2 if result["what"] == "ratio" else 0),
                harness.shown(result["cpu_s_per_million"], 2),
            )
            for result in results
        ],
    )
    harness.report(options, "ray_data", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
