"""Every benchmark's JSON becomes a picture; what is not there is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import measured
from benchmarks.plot import PLOTS, draw, plot_trainer_cost
from benchmarks.run_all import NAMES

LAYOUTS = ("logged", "clustered", "grouped")
FIGURE = measured([1.0, 2.0, 3.0], "")
STAGES = (
    *("read", "transform", "cut", "encode", "compress", "send"),
    *("receive", "decompress", "decode", "expand", "parquet decode alone"),
)


def results() -> dict[str, list[dict[str, Any]]]:
    """What each benchmark writes, in its smallest form."""
    return {
        "end_to_end": [
            {
                "system": system,
                "layout": layout,
                "examples_per_s": [1e5, 2e5],
                "cpu_s_per_million": {"server": 2.0, "client": 0.5},
            }
            for layout in LAYOUTS
            for system in ("headrace", "tfdata")
        ],
        "stages": [
            {"layout": layout, "cpu_s_per_million": dict.fromkeys(STAGES, FIGURE)}
            for layout in LAYOUTS
        ],
        "layouts": [
            {
                "layout": layout,
                "mode": mode,
                "file_bytes_per_example": 100.0,
                "read_cpu_s_per_million": FIGURE,
                "examples_per_s": FIGURE,
            }
            for layout in LAYOUTS
            for mode in ("expanded", "as sent")
        ],
        "wire": [
            {
                "layout": layout,
                "format": form,
                "bytes_per_example": FIGURE,
                "encode_cpu_s_per_million": FIGURE,
                "decode_cpu_s_per_million": FIGURE,
            }
            for layout in LAYOUTS
            for form in ("headrace, expanded", "torch.save")
        ],
        "decode": [
            {"layout": layout, "form": form, "cpu_s_per_million": FIGURE}
            for layout in LAYOUTS
            for form in ("compact batch, as sent", "pickle")
        ],
        "jagged": [
            {
                "way": way,
                "examples_per_s": FIGURE,
                "forward_ms_per_batch": FIGURE,
                "tensor_bytes_per_example": 10.0,
                "wire_bytes_per_example": 5.0,
            }
            for way in ("jagged", "padded at source")
        ],
        "trainer_cost": [
            {
                "layout": layout,
                "system": system,
                "speed_kept": FIGURE,
                "cpu_s_per_million": FIGURE,
            }
            for layout in LAYOUTS
            for system in ("headrace, expanded", "DataLoader, 0 workers")
        ],
        "fan_in": [
            {
                "mode": mode,
                "servers": servers,
                "examples_per_s": FIGURE,
                "client_cpu_share": FIGURE,
            }
            for mode in ("growing", "parted")
            for servers in (1, 8)
        ],
        "fleet_events": [
            {
                "event": event,
                "epoch_s": FIGURE,
                "longest_stall_s": FIGURE,
                "timeline": [[0.0, 1024, "a:1"], [0.7, 1024, "b:1"]],
            }
            for event in ("four servers", "one is lost")
        ],
        "memory": [
            {"setting": "defaults", "last_epoch": {"server_mib": 900.0, "client_mib": 300.0}},
            {"setting": "32 stalled streams", "last_epoch": {"server_mib": 1200.0}},
        ],
        "startup": [{"what": "server SERVING", "seconds": FIGURE}],
        "stalled_streams": [
            {"streams": 64, "state": state, "health_ms": FIGURE, "describe_ms": FIGURE}
            for state in ("filling", "stalled")
        ],
        "workloads": [
            {"case": "criteo", "examples_per_s": FIGURE, "decode_rows_per_s": FIGURE},
        ],
        "ops": [
            {
                "operation": operation,
                "peer": "numpy log",
                "ns_per_value": FIGURE,
                "peer_ns_per_value": FIGURE,
            }
            for operation in ("BoxCox 0", "Log1p")
        ],
    }


def test_every_benchmark_has_a_picture() -> None:
    assert set(PLOTS) == set(NAMES) == set(results())


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_of_what_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps({"results": results()[name]}))
    assert draw(tmp_path) == [tmp_path / f"{name}.png"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_trainers_cost_has_panels_of_the_layouts_that_are_there() -> None:
    every = results()["trainer_cost"]
    clustered = [each for each in every if each["layout"] == "clustered"]
    assert len(plot_trainer_cost(every).axes) == 6
    assert [axes.get_title() for axes in plot_trainer_cost(clustered).axes] == ["clustered"] * 2


def test_quick_forms_have_pictures_of_their_own(tmp_path: Path) -> None:
    for name in ("decode.json", "decode.quick.json"):
        (tmp_path / name).write_text(json.dumps({"results": results()["decode"]}))
    assert draw(tmp_path) == [tmp_path / "decode.png", tmp_path / "decode.quick.png"]


def test_every_benchmark_of_the_list_is_a_script() -> None:
    folder = Path(__file__).parents[3] / "benchmarks"
    assert {f"bench_{name}.py" for name in NAMES} <= {path.name for path in folder.iterdir()}
