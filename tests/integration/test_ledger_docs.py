"""Whatever docs/ledger.md shows is run."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.process import ROOT, python_environment
from trainer_client import Dataset, Label, Sparse, parquet

PAGE = (ROOT / "docs" / "ledger.md").read_text()
LIMIT_S = 100


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    rows = {"id": [*range(3000)], "label": [n % 2 for n in range(3000)]}
    pq.write_table(pa.table(rows), folder / "rows.parquet", row_group_size=500)
    source = parquet("demo/rows.parquet")
    dataset = Dataset(source=source, features=[Sparse("id"), Label("label")])
    (folder / "dataset.yaml").write_text(dataset.to_yaml())
    environment = python_environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    (program,) = blocks("python")
    commands = blocks("sh")
    assert len(commands) == 2
    # The command of this source tree, whatever else is installed.
    name = f"{sys.executable} -m trainer_client"
    said = []
    for script in (
        [sys.executable, "-c", program],
        *(["bash", "-euc", c.replace("trainer-client", name)] for c in commands),
    ):
        result = subprocess.run(
            script,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        said.append(result.stdout)
    assert said[1].endswith("SAME: both runs trained on the same bytes\n")
    assert said[2].endswith("COMPLETE: every row of every finished epoch arrived exactly once\n")
