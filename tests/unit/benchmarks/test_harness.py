"""What benchmarks share: figures with their spread, JSON with the machine, CPU and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness


def test_a_figure_has_its_runs_median_and_spread() -> None:
    assert harness.measured([3.0, 1.0, 2.0], "s") == {
        "unit": "s",
        "runs": [3.0, 1.0, 2.0],
        "median": 2.0,
        "min": 1.0,
        "max": 3.0,
    }
    assert harness.spread([3_000.0, 1_000.0, 2_000.0]) == "2,000 (1,000-3,000)"


@pytest.mark.parametrize(
    ("flags", "runs"), [([], 5), (["--quick"], 1), (["--quick", "--runs", "7"], 7)]
)
def test_medians_are_of_five_runs_and_the_quick_form_has_one(flags: list[str], runs: int) -> None:
    assert harness.runs_of(harness.arguments("?").parse_args(flags)) == runs


def test_json_says_on_what_machine_and_with_what_versions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.json"
    options = harness.arguments("?").parse_args(["--json", str(path)])
    harness.report(options, "bench_x", [{"system": "headrace"}])
    content = json.loads(path.read_text())
    assert content["benchmark"] == "bench_x"
    assert content["results"] == [{"system": "headrace"}]
    assert content["quick"] is False
    machine = content["machine"]
    assert machine["cpus"] >= 1
    assert machine["memory_gib"] > 0
    assert {"torch", "pyarrow", "grpcio"} <= machine["versions"].keys()


def test_cpu_of_a_tree_counts_children_that_have_ended() -> None:
    before_s = harness.tree_cpu_s(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert harness.tree_cpu_s(os.getpid()) - before_s >= 0.15


def test_the_peak_of_a_process_is_no_less_than_what_it_has() -> None:
    assert 0 < harness.memory_mib(os.getpid()) <= harness.memory_mib(os.getpid(), "VmHWM") + 1


def test_a_fresh_process_has_the_variables_and_none_stay_behind() -> None:
    assert harness.fresh_process(os.getpid) != os.getpid()
    seen = harness.fresh_process(os.getenv, "BENCH_TEST", variables={"BENCH_TEST": "seen"})
    assert seen == "seen"
    assert "BENCH_TEST" not in os.environ


def test_a_folder_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "workload"
    folder.mkdir()
    (folder / "part-00000.parquet").write_bytes(b"half")
    harness.written(folder, "workload_wide.py", "--rows", "10")
    assert (folder / "dataset.yaml").exists()
    assert (folder / "part-00000.parquet").stat().st_size > 4


def test_a_table_is_as_wide_as_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    harness.table("title", ("a", "bb"), [("longer", "1"), ("x", "22")])
    assert capsys.readouterr().out == "\ntitle\na       bb\nlonger  1\nx       22\n"
