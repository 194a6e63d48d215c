"""Every dependency is explained in docs/dependencies.md, pinned for CI, and no floor is a guess."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
# Extras whose code is still to come: CI does not install them.
NOT_INSTALLED = {"iceberg", "lightning", "torchrec"}


def _declared() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    requirements = {group: [Requirement(line) for line in lines] for group, lines in groups.items()}
    return {
        group: [each for each in found if each.name != "headrace"]
        for group, found in requirements.items()
    }


def _pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_table_is_complete() -> None:
    declared = defaultdict(set)
    for group, requirements in _declared().items():
        for requirement in requirements:
            declared[canonicalize_name(requirement.name)].add(group)

    text = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|", text, flags=re.MULTILINE)
    explained = {canonicalize_name(name): set(groups.split(", ")) for name, groups in rows}
    assert explained == dict(declared)


def test_every_dependency_is_pinned_for_ci() -> None:
    pins = _pins()
    for group, requirements in _declared().items():
        if group not in NOT_INSTALLED:
            for requirement in requirements:
                pin = pins[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(pin), f"{requirement} is pinned at {pin}"


def test_no_floor_is_below_what_is_tested() -> None:
    pins = _pins()
    for group, requirements in _declared().items():
        if group in NOT_INSTALLED | {"dev"}:
            continue
        for requirement in requirements:
            pin = pins[canonicalize_name(requirement.name)]
            (floor,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
            assert floor.release[:2] == pin.release[:2], f"{requirement} is tested with {pin} only"
