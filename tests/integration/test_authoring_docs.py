"""Whatever docs/authoring.md shows is run."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from preprocessor_server.cli import cli
from tests.fakes.process import ROOT, python_environment

PAGE = (ROOT / "docs" / "authoring.md").read_text()
LIMIT_S = 100
MISTAKEN = """\
source:
  parquet:
    paths: [demo/data]
where: lable IS NOT NULL
features:
- dense:
    columns: [agee, user_id]
    ops:
    - {log2p: {}}
- label:
    columns: [label]
    'ops: []
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "demo" / "data"
    data.mkdir(parents=True)
    for part in range(2):
        rows = {"age": [20.0, None], "user_id": ["u", "v"], "label": [part, 1]}
        pq.write_table(pa.table(rows), data / f"{part}.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments])


def test_python_and_shell_blocks(folder: Path) -> None:
    program = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=python_environment(COLUMNS="100"),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "before: columns of the source",
        "after: features",
        "3.04452",
        "2 rows; 2 scanned",
    ):
        assert shown in done.stdout
    assert "read       3 of 3 columns, 4 rows in 2 row groups of 2 files" in done.stdout
    looked, checked = (block.splitlines() for block in blocks("sh"))
    starts = ["wrote demo/report.html", "2 files, ", "dataset "]
    starts += ["demo/dataset.yaml: no mistakes\n"] * len(checked)
    for line, start in zip([*looked, *checked], starts, strict=True):
        name, *arguments = line.split()
        assert name == "preprocessor-server"
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(start)
    (first,) = blocks("yaml")
    assert (ROOT / first.strip().partition("$schema=")[2]).is_file()


def test_the_mistakes_that_are_shown(folder: Path) -> None:
    (folder / "demo" / "mistaken.yaml").write_text(MISTAKEN)
    result = check("demo/mistaken.yaml")
    assert result.exit_code == 1
    (shown,) = blocks("text")
    assert result.output == shown
