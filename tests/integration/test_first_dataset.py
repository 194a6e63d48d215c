"""Whatever docs/first_dataset.md shows is run, one command after the other."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.process import ROOT, python_environment

PAGE = (ROOT / "docs" / "first_dataset.md").read_text()
LIMIT_S = 100
ROWS = 600


def write_clicks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part in range(2):
        prices = [float(price) if price > 0.3 else None for price in rng.lognormal(0, 1, ROWS)]
        histories = [rng.integers(0, 1 << 40, size).tolist() for size in rng.integers(0, 5, ROWS)]
        rows = {
            "price": prices,
            "country": rng.choice(["br", "de", "fr", "us"], ROWS),
            "item": rng.integers(0, 1 << 40, ROWS),
            "history": histories,
            "label": rng.integers(0, 2, ROWS).astype(np.int8),
        }
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")


def run(folder: Path, command: str) -> str:
    program, *arguments = command.split()
    start = {"preprocessor-server": ["-m", "preprocessor_server"], "python": []}[program]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=python_environment(COLUMNS="100"),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_from_a_folder_to_a_training_loop(tmp_path: Path) -> None:
    (tmp_path / "clicks").mkdir()
    write_clicks(tmp_path / "clicks")
    said: dict[str, str] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        if language == "sh":
            said |= {command: run(tmp_path, command) for command in text.splitlines()}
            continue
        name = text.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(text)
    described, fitted, checked, previewed, trained = said.values()
    assert described == "wrote clicks.html: 5 columns, 1,200 rows read\n"
    assert "history" in (tmp_path / "clicks.html").read_text()
    assert "vocabulary of 4 of 4 values" in fitted
    assert checked.startswith("stats/dataset.yaml: no mistakes\n")
    assert "country" in previewed
    assert re.fullmatch(r"loss 0\.\d{3}\n", trained)
