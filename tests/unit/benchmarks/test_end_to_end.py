"""The end-to-end benchmark: how runs are timed, what is written, what fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import bench_end_to_end as bench
from benchmarks import harness
from benchmarks.peer_process import Event, PeerError, only, run_module
from benchmarks.peer_systems import SYSTEMS, Input, Settings, System
from benchmarks.peers import homefeed, protocol, setup
from benchmarks.peers.homefeed import RowBatch, Split
from benchmarks.workloads import write_homefeed

SPLITS = [("file", number) for number in range(8)]


class CountingPeer:
    """Delivers a batch of ten rows and twenty ids a split; its clock ticks with every batch."""

    def __init__(self) -> None:
        self.delivered = 0
        self.starts = 0

    def batches(self, wanted: Sequence[Split]) -> Iterator[RowBatch]:
        self.starts += 1
        for _ in wanted:
            self.delivered += 1
            yield RowBatch(np.zeros((10, 13)), None, np.zeros(20), None)

    def now_s(self) -> float:
        """A batch takes a second, the start of a pass three."""
        return self.delivered + 3.0 * self.starts

    def cpu_s(self) -> protocol.Cpu:
        return {"server": 2.0 * self.now_s(), "client": 0.5 * self.delivered}

    def wire_bytes(self) -> int:
        return 700 * self.delivered


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> CountingPeer:
    peer = CountingPeer()
    monkeypatch.setattr("time.monotonic", peer.now_s)
    return peer


def test_whole_passes_count_their_starts(peer: CountingPeer) -> None:
    assert protocol.whole_passes(peer, SPLITS, seconds=12) == {
        "rows": 160,
        "values": 320,
        "seconds": 22,
        "cpu_s": {"server": 44, "client": 8},
        "wire_bytes": 11_200,
    }


def test_the_steady_rate_leaves_out_the_start(peer: CountingPeer) -> None:
    run = protocol.first_to_last(peer, SPLITS, seconds=12)
    assert (run["rows"], run["seconds"], run["wire_bytes"]) == (70, 7, 4_900)


def test_the_slope_leaves_out_what_every_start_costs(peer: CountingPeer) -> None:
    run = protocol.slope(peer, SPLITS, seconds=5)
    assert (run["rows"], run["values"], run["seconds"]) == (60, 120, 6)
    assert run["cpu_s"] == {"server": 12, "client": 3}


def test_a_slope_is_of_as_many_passes_as_it_takes(peer: CountingPeer) -> None:
    run = protocol.slope(peer, SPLITS, seconds=12.5)
    assert (run["rows"], run["values"], run["seconds"]) == (180, 360, 18)
    assert run["cpu_s"] == {"server": 36, "client": 9}


def entry(name: str, rates: Sequence[int], values: int = 2_000) -> bench.Entry:
    system = next(system for system in SYSTEMS if system.name == name)
    runs = [
        {
            "event": "run",
            "rows": 1_000,
            "values": values,
            "seconds": 1_000 / rate,
            "cpu_s": {"server": 0.001 * k, "client": 0.0005},
            "wire_bytes": 100_000 * k,
        }
        for k, rate in enumerate(rates, start=1)
    ]
    chosen = Input(Path("data"), "clustered")
    return bench.Entry(system, chosen, system.variants[0], {}, {"versions": {}}, runs)


def test_a_result_has_every_run_and_its_spread() -> None:
    found = bench.result(entry("headrace", [100, 300, 200]), "clustered", 1_000)
    json.dumps(found)
    assert found["system"] == "headrace"
    assert found["layout"] == "clustered"
    assert found["examples_per_s"] == pytest.approx([100, 300, 200])
    assert found["examples_per_s_median"] == pytest.approx(200)
    assert found["examples_per_s_spread"] == pytest.approx([100, 300])
    assert found["cpu_s_per_million"] == pytest.approx({"server": 2, "client": 0.5})
    assert found["cpu_s_per_million_runs"]["server"] == pytest.approx([1, 2, 3])
    assert found["wire_bytes_per_example"] == pytest.approx(200)
    assert found["settings"] == {"form": "expanded", "servers": harness.CORES, "shuffle": False}


def test_what_has_no_wire_has_no_bytes() -> None:
    local = entry("dataloader", [100])
    local.runs[0]["wire_bytes"] = None
    assert bench.result(local, "clustered", 1_000)["wire_bytes_per_example"] is None


def test_the_table_shows_ratios_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [
        entry("headrace", [900, 600, 600]),
        entry("headrace_as_sent", [1_200], values=0),
        entry("flight", [300]),
    ]
    bench.check_counts(entries)
    bench.show(entries, "clustered", 1_000)
    lines = capsys.readouterr().out.splitlines()
    flight = next(line for line in lines if line.startswith("flight"))
    assert flight.split()[1:4] == ["300", "(300-300)", "2.00"]
    assert flight.split()[4] == "4.00"


def test_systems_that_deliver_other_rows_are_an_error() -> None:
    with pytest.raises(PeerError, match=r"flight delivered 2\.5 ids a row"):
        bench.check_counts([entry("headrace", [1]), entry("flight", [1], values=2_500)])


def test_an_unknown_system_is_named_with_those_that_are_there() -> None:
    with pytest.raises(PeerError, match="no system kafka; there are headrace, headrace_as_sent"):
        bench.chosen_systems("flight,kafka", quick=False)
    assert [system.name for system in bench.chosen_systems("flight,headrace", quick=False)] == [
        "flight",
        "headrace",
    ]


def test_the_quick_form_leaves_out_further_forms_and_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "is_ready", lambda name: name == "flight")
    names = [system.name for system in bench.chosen_systems(None, quick=True)]
    assert names == ["headrace", "headrace_as_sent", "flight"]
    assert "without tfdata, raydata, dataloader, decode_only:" in capsys.readouterr().err
    assert len(bench.chosen_systems(None, quick=False)) == len(SYSTEMS)


def test_a_file_keeps_the_other_layouts_of_the_same_machine_and_form(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert bench.kept(path, "logged", quick=False) == []
    found = [bench.result(entry("headrace", [100]), layout, 1_000) for layout in bench.LAYOUTS]
    options = harness.arguments("?").parse_args(["--json", str(path)])
    harness.report(options, "end_to_end", found)
    assert bench.kept(path, "logged", quick=False) == found[1:]
    with pytest.raises(PeerError, match=r"out\.json is of another machine or form"):
        bench.kept(path, "logged", quick=True)


class ScriptedSystem(System):
    """Runs at the rates that its settings name; writes down what was run."""

    def run(self, chosen: Input, settings: Settings, *_: str) -> list[Event]:
        TRIED.append((chosen.files, settings["rate"]))
        if settings["rate"] == 0:
            raise PeerError("it failed")
        run = {"event": "run", "rows": 100, "values": 0, "seconds": 100 / settings["rate"]}
        run |= {"cpu_s": {"server": 1.0, "client": 1.0}, "wire_bytes": None}
        return [{"event": "ready", "versions": {}}, run]


TRIED: list[tuple[str, int]] = []


def scripted(name: str, folder: Path, *rates: int) -> System:
    variants: list[Settings] = [{"rate": rate} for rate in rates]
    inputs = [Input(folder, "one"), Input(folder / "two", "two")]
    return ScriptedSystem(name, "flight", None, lambda *_: inputs, variants, checked_as=None)


def test_settings_that_were_tried_are_not_tried_again(tmp_path: Path) -> None:
    TRIED.clear()
    system = scripted("flight", tmp_path, 25, 100, 50)
    known: bench.Tried = {}
    for _ in range(2):
        found = bench.calibrated(system, "grouped", 1_000, known)
        assert (found.chosen.files, found.settings) == ("one", {"rate": 100})
        assert found.calibration["one: {'rate': 100}"] == pytest.approx(100)
    once = [("one", 25), ("two", 25), ("one", 100), ("one", 50)]
    assert [each for each in once for _ in range(bench.TRIES)] == TRIED


def test_what_is_done_is_written_even_if_a_later_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = [scripted("headrace", tmp_path, 100), scripted("flight", tmp_path, 0)]
    monkeypatch.setattr(bench, "SYSTEMS", systems)
    path = tmp_path / "out.json"
    flags = ["--quick", "--layout", "logged", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["bench_end_to_end", *flags])
    assert bench.main() == 1
    assert "it failed" in capsys.readouterr().err
    (found,) = json.loads(path.read_text())["results"]
    assert (found["system"], found["examples_per_s"]) == ("headrace", [100])


def test_every_peer_has_a_module_and_an_environment() -> None:
    peers = Path(setup.__file__).parent
    for system in SYSTEMS:
        assert (peers / f"{system.module}.py").exists()
        assert system.environment is None or system.environment in setup.PACKAGES


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"(?s)repack ended with 1.*not enough values to unpack"):
        run_module(Path(sys.executable), "repack", str(tmp_path))


def test_an_event_that_is_missing_is_an_error() -> None:
    assert only([{"event": "ready", "settings": {}}], "ready")["settings"] == {}
    with pytest.raises(PeerError, match=r"no 'run' among \['ready'\]"):
        only([{"event": "ready"}], "run")


def test_repacked_files_hold_the_same_row_groups(tmp_path: Path) -> None:
    write_homefeed(tmp_path / "whole", 140_000, layout="grouped")
    run_module(Path(sys.executable), "repack", str(tmp_path / "whole"), str(tmp_path / "out"))

    def groups(folder: Path) -> list[Any]:
        return [
            pq.ParquetFile(path).read_row_group(number) for path, number in homefeed.splits(folder)
        ]

    files = sorted((tmp_path / "out").iterdir())
    assert [pq.ParquetFile(path).num_row_groups for path in files] == [2, 1]
    assert groups(tmp_path / "out") == groups(tmp_path / "whole")
