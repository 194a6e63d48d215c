"""What a user installs: the wheel, and each side with nothing but what its extra declares."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"headrace", "preprocessor_server", "trainer_client"}

# Imports every module of a package while the named top-level modules cannot be found. Integrations
# are left out: each belongs to an extra of its own.
IMPORT_ALL = """
import importlib, pkgutil, sys

blocked = set(sys.argv[2].split(","))

class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Fence())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if ".integrations." not in module.name and not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (built,) = folder.glob("*.whl")
    return built


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def _closure(wheel: Path, extra: str) -> set[str]:
    """The names of all distributions that `pip install headrace[extra]` brings."""
    pending = [(Requirement(line), extra) for line in _metadata(wheel).get_all("Requires-Dist", [])]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, wanted = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted}):
            continue
        name = canonicalize_name(requirement.name)
        for inner in ("", *requirement.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                pending += [(Requirement(line), inner) for line in metadata.requires(name) or []]
    return {name for name, _ in seen}


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        source = ROOT / "proto" if package == "headrace" else ROOT
        modules = {str(path.relative_to(source)) for path in (source / package).rglob("*.py")}
        assert modules <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".so"))]
    assert "headrace/v1/dataset.schema.json" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_metadata(wheel: Path) -> None:
    described = _metadata(wheel)

    assert described["Name"] == "headrace"
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.11"
    extras = {"dev", "iceberg", "lightning", "ray", "server", "torchrec", "trainer"}
    assert set(described.get_all("Provides-Extra", [])) == extras


def test_console_scripts(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        lines = archive.read(name).decode().splitlines()

    assert "preprocessor-server = preprocessor_server.cli:main" in lines
    assert "trainer-client = trainer_client.cli:main" in lines


def test_server_needs_no_torch(wheel: Path) -> None:
    assert "pyarrow" in _closure(wheel, "server")
    assert "torch" not in _closure(wheel, "server")


def test_client_needs_no_pyarrow(wheel: Path) -> None:
    assert "torch" in _closure(wheel, "trainer")
    assert not {"pyarrow", "duckdb"} & _closure(wheel, "trainer")


@pytest.mark.parametrize(
    ("package", "extra"), [("preprocessor_server", "server"), ("trainer_client", "trainer")]
)
def test_every_module_runs_on_what_its_extra_declares(
    wheel: Path, package: str, extra: str
) -> None:
    declared = _closure(wheel, extra)
    blocked = PACKAGES - {"headrace", package}
    for module, distributions in metadata.packages_distributions().items():
        if module not in PACKAGES and not {canonicalize_name(d) for d in distributions} & declared:
            blocked.add(module)

    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package, ",".join(sorted(blocked))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proto"), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
