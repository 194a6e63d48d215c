"""Every setting is a flag, a variable and a line of the documentation; wrong values are named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessor_server.errors import SettingsError
from preprocessor_server.settings import Settings
from tests.fakes.process import ROOT, python_environment

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert re.search(rf"^\|[^|]*`{name}`", OPERATIONS, re.MULTILINE)
    assert Settings.model_fields[name].description


def test_every_setting_is_a_flag_and_shows_its_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "preprocessor_server", "serve", "--help"],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in done.stdout
        assert f"HEADRACE_{name.upper()}" in done.stdout


def test_flags_win_over_the_environment(tmp_path: Path) -> None:
    environment = {"HEADRACE_DATA_ROOT": str(tmp_path), "HEADRACE_CPU_THREADS": "3", "PATH": "x"}
    settings = Settings.from_env(environment, max_streams=7)
    assert (settings.cpu_threads, settings.max_streams) == (3, 7)
    assert Settings.from_env(environment, cpu_threads=5).cpu_threads == 5


def test_several_roots_of_the_environment(tmp_path: Path) -> None:
    settings = Settings.from_env({"HEADRACE_DATA_ROOT": f"{tmp_path}:/"})
    assert settings.data_root == (tmp_path.resolve(), Path("/"))


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["--data-root", "HEADRACE_DATA_ROOT"]),
        ({"HEADRACE_DATA_ROOT": "/", "HEADRACE_PORT": "1"}, ["HEADRACE_PORT"]),
        ({"HEADRACE_DATA_ROOT": "/", "HEADRACE_MAX_STREAMS": "0"}, ["HEADRACE_MAX_STREAMS=0"]),
        ({"HEADRACE_DATA_ROOT": "/", "HEADRACE_LISTEN": "x:99999"}, ["HEADRACE_LISTEN", "99999"]),
    ],
)
def test_what_is_wrong_is_named(environment: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environment)
    for word in words:
        assert word in str(caught.value)
