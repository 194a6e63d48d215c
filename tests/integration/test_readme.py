"""Whatever the README shows is run: its Python, its shell, and its grpcurl by the real grpcurl."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.server import Server
from tests.fakes.process import ROOT, python_environment

TIMEOUT_S = 100
ROWS = 3000


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in order."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with demo/data/train, with the columns of the demo that the README names."""
    train = tmp_path / "demo" / "data" / "train"
    train.mkdir(parents=True)
    table = pa.table(
        {
            "user_id": [row % 90 for row in range(ROWS)],
            "item_id": [row % 170 for row in range(ROWS)],
            "age": [20 + row % 50 for row in range(ROWS)],
            "user_rating_count": [row % 300 for row in range(ROWS)],
            "item_rating_count": [row % 500 for row in range(ROWS)],
            "genres": [["Drama", "War"][: row % 3] for row in range(ROWS)],
            "history": [list(range(row % 60)) for row in range(ROWS)],
            "label": pa.array([row % 2 for row in range(ROWS)], pa.int8()),
        }
    )
    for part in range(2):
        half = table.slice(part * ROWS // 2, ROWS // 2)
        pq.write_table(half, train / f"{part}.parquet", row_group_size=500)
    return tmp_path


def environment(**extra: str) -> dict[str, str]:
    clean = python_environment(**extra)
    return clean | {"PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"}


def shell(script: str, folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_python_and_shell_blocks(folder: Path) -> None:
    python = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-c", python],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rows=6000" in done.stdout
    done = shell("\n".join(blocks("sh")), folder)
    assert done.returncode == 0, done.stderr + done.stdout
    for shown in ("output blocks", "reread share", "row 1", f"{ROWS:,}"):
        assert shown in done.stdout


def test_grpcurl_blocks(folder: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(data_root=(folder / "demo" / "data",))
    # One script, since later blocks use what earlier ones set; a line between their outputs.
    script = "\necho ======\n".join(blocks("grpcurl"))
    done = shell(script, folder, SERVER=server.address)
    assert done.returncode == 0, done.stderr
    listed, described, planned, streamed = done.stdout.split("======\n")
    for name in ("grpc.health.v1.Health", "headrace.v1.PreprocessorService", "SERVING"):
        assert name in listed
    assert json.loads(described)["row_count"] == str(ROWS)
    plan, preview = planned.split("\n}\n")[:2]
    assert json.loads(plan + "\n}")["batch_count"] == "6"
    rows = json.loads(preview + "\n}")["rows"]
    assert rows[1]["source"]["history"] == rows[1]["output"]["history"] == [0]
    messages = [
        json.loads(part + "\n}") for part in streamed.strip().removesuffix("\n}").split("\n}\n")
    ]
    assert [next(iter(message)) for message in messages] == ["schema", "batch", "batch", "end"]
    assert messages[1]["batch"]["row_count"] == 64
    assert messages[0]["schema"]["blocks"][1]["features"] == ["item_id", "history"]


def test_grpcurl_block_that_fails_says_why(
    folder: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server(data_root=(folder / "demo" / "data",))
    (block,) = blocks("grpcurl-fails")
    done = shell(block, folder, SERVER=server.address)
    assert done.returncode != 0
    for word in ("NotFound", "nothing-*", "PATH_NOT_FOUND"):
        assert word in done.stderr


def test_make_targets_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z0-9-]+)", text)) - {"only"}
    assert {"demo", "test", "help", "fleet"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
