"""The README's figures are those of the results that are committed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.readme import BEGIN, END, README, RESULTS, block, written


def result(system: str, layout: str, rate: float, wire: float | None) -> dict[str, Any]:
    return {
        "system": system,
        "layout": layout,
        "rows": 4_000_000,
        "examples_per_s": [rate] * 5,
        "examples_per_s_median": rate,
        "cpu_s_per_million": {"server": 1.5, "client": 0.25},
        "wire_bytes_per_example": wire,
        "files": layout,
        "settings": {"form": "expanded"},
        "run_seconds": [5.25, 6.0, 7.0, 5.5, 9.0],
    }


CONTENT: dict[str, Any] = {
    "quick": False,
    "taken": "2026-11-26T10:00:00Z",
    "machine": {"cpu": "A CPU", "cpus": 2},
    "results": [
        result("dataloader", "clustered", 571_400, None),
        result("headrace", "clustered", 711_400, 113.4),
        result("headrace", "logged", 433_000, 360.0),
    ],
}


def test_the_readme_shows_what_the_committed_results_say() -> None:
    text = README.read_text()
    assert text == written(text, json.loads(RESULTS.read_text()))
    assert RESULTS.with_suffix(".png").exists()


def test_the_table_has_a_row_a_system_and_a_dash_where_nothing_was_measured() -> None:
    lines = block(CONTENT).splitlines()
    assert (
        "|  | logged: thousand/s | CPU s/M | B/example "
        "| clustered: thousand/s | CPU s/M | B/example |"
    ) in lines
    assert "| Headrace | 433 | 1.50 + 0.25 | 360 | 711 | 1.50 + 0.25 | 113 |" in lines
    assert "| torch DataLoader | - | - | - | 571 | 1.50 + 0.25 | - |" in lines


def test_how_it_was_taken_stands_beside_it() -> None:
    text = block(CONTENT)
    assert "4,000,000 rows" in text
    assert "medians of 5 runs of 5.2 s or longer" in text
    assert "2 cores of A CPU" in text
    assert "quick form" not in text
    assert "shuffle" not in text
    shuffled = result("headrace_shuffled", "logged", 1, 1) | {"settings": {"shuffle": True}}
    both = block(CONTENT | {"results": [*CONTENT["results"], shuffled]})
    assert "None of them shuffles the rows of a row group, other than Headrace" in both
    assert "quick form" in block(CONTENT | {"quick": True})
    assert "| torch DataLoader | - | clustered; form expanded |" in text


def test_only_what_is_between_the_markers_is_replaced() -> None:
    readme = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    assert written(readme, CONTENT) == f"before\n{BEGIN}\n\n{block(CONTENT)}\n\n{END}\nafter\n"


@pytest.mark.parametrize("readme", ["", BEGIN, f"{END}\n{BEGIN}"])
def test_a_readme_without_the_markers_is_an_error(readme: str) -> None:
    with pytest.raises(ValueError, match="the README lacks a line"):
        written(readme, CONTENT)
