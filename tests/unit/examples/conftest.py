"""Examples import what lies beside them, as scripts do; the tests import it the same way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "examples"))

from movielens_raw import WHEEL_NAME, Raw, read_folder, read_wheel  # noqa: E402

from tests.unit.examples.synthetic_movielens import write_raw_files  # noqa: E402


@pytest.fixture(scope="session", params=["synthetic", "real"])
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """The raw tables: made up ones always, MovieLens itself where `make demo` has fetched it."""
    if request.param == "synthetic":
        folder = tmp_path_factory.mktemp("raw")
        write_raw_files(folder)
        return read_folder(folder)
    wheel = ROOT / "demo" / "cache" / WHEEL_NAME
    if not wheel.exists():
        pytest.skip(f"{wheel} is not there: make demo fetches it (the synthetic tables ran)")
    return read_wheel(wheel)
