"""The committed Python form of the contract is the one that its *.proto files give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def _generated(folder: Path) -> dict[str, bytes]:
    files = [path for pattern in GENERATED for path in folder.rglob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_committed_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(PROTO / "generate.py"), "--out", str(tmp_path)], check=True, cwd=ROOT
    )
    fresh, committed = _generated(tmp_path), _generated(PROTO)

    assert sorted(fresh) == sorted(committed), "run `make proto`"
    stale = [name for name in sorted(fresh) if fresh[name] != committed[name]]
    assert not stale, "run `make proto`"
