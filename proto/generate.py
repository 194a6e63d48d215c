"""Generates the Python form of the contract next to its *.proto files.

    python proto/generate.py            rewrites the committed code
    python proto/generate.py --out DIR  writes it to DIR instead, so that the two can be compared

Messages become *_pb2.py and *_pb2.pyi, services *_pb2_grpc.py. The output depends on the version of
grpcio-tools, which pyproject.toml therefore fixes exactly.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import resources
from pathlib import Path

PROTO = Path(__file__).resolve().parent
SERVICE = "headrace/v1/preprocessor_service.proto"


def generate(out: Path) -> None:
    """Writes the generated code under out; raises CalledProcessError when protoc refuses."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    run_protoc(f"--python_out={out}", f"--pyi_out={out}", *files)
    run_protoc(f"--grpc_python_out={out}", SERVICE)


def run_protoc(*arguments: str) -> None:
    """Runs protoc on the contract; raises CalledProcessError when it refuses."""
    well_known = resources.files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{well_known}"]
    subprocess.run([*command, *arguments], check=True, cwd=PROTO)


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PROTO, help="folder to write to")
    generate(parser.parse_args().out.resolve())


if __name__ == "__main__":
    main()
