"""Checks the manifests and Dockerfiles without a cluster: `make k8s-check`.

Builds each kustomization, validates every object against the schemas of Kubernetes, lints the
Dockerfiles, and checks what no schema can see. Prints a line for each check, and for each fault
its file, its field, its value and the remedy. The exit status is 1 if there is any.

    python -m k8s.check [ROOT]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import kubernetes_validate

from k8s import fleet_checks, pod_checks
from k8s.manifests import BuildError, Finding, Tree, build

REPOSITORY = Path(__file__).resolve().parents[1]
# The oldest release that has every field used here on by default (the sleep action of preStop),
# and the newest whose schemas are installed.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())
HADOLINT_TIMEOUT_S = 60.0


def schemas(tree: Tree) -> Iterator[Finding]:
    """Every object is valid in Kubernetes, and has no field that Kubernetes does not know."""
    for document in tree.documents:
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(document.body, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                field = ".".join(str(part) for part in error.path) or document.kind
                yield Finding(
                    document.file, field, error.instance, f"{error.message} (in {version})"
                )
                break
            except kubernetes_validate.SchemaNotFoundError as error:
                yield Finding(document.file, "kind", document.kind, error.message)
                break


def dockerfiles(tree: Tree) -> Iterator[Finding]:
    """The Dockerfiles pass hadolint."""
    files = sorted(path.name for path in tree.root.glob("Dockerfile.*"))
    # The programs of an environment that is not activated are not on PATH.
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    hadolint = shutil.which("hadolint", path=search)
    if hadolint is None:
        yield Finding("Dockerfile.*", "hadolint", "not installed", "make setup installs it")
        return
    finished = subprocess.run(
        [hadolint, "--format", "json", *files],
        cwd=tree.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HADOLINT_TIMEOUT_S,
        check=False,
    )
    try:
        faults = json.loads(finished.stdout)
    except json.JSONDecodeError:
        output = (finished.stdout + finished.stderr).strip()
        yield Finding(", ".join(files), "hadolint", output, "mend what it names")
        return
    for fault in faults:
        yield Finding(fault["file"], f"line {fault['line']}", fault["code"], fault["message"])


Check = Callable[[Tree], Iterable[Finding]]
# The others read fields whose types these have checked, so they run only where these pass.
FIRST: tuple[Check, ...] = (schemas, pod_checks.bounded)
THEN: tuple[Check, ...] = (
    dockerfiles,
    pod_checks.unprivileged,
    pod_checks.images,
    pod_checks.commands,
    pod_checks.writable_folders,
    pod_checks.kernel_caches,
    fleet_checks.known_settings,
    fleet_checks.probe_ports,
    fleet_checks.container_ports,
    fleet_checks.grace_time,
    fleet_checks.resources,
    fleet_checks.data_roots,
    fleet_checks.certificates,
    fleet_checks.selectors,
)


def run(root: Path) -> bool:
    """Runs all checks on the checkout at root and prints them; returns whether all passed."""
    paint = sys.stdout.isatty()
    try:
        tree = build(root)
    except BuildError as error:
        print(_line("FAIL", str(error.finding), paint))
        return False
    if not _passed(FIRST, tree, paint):
        print(_line("FAIL", "The other checks have to wait until these pass.", paint))
        return False
    return _passed(THEN, tree, paint)


def _passed(checks: tuple[Check, ...], tree: Tree, paint: bool) -> bool:
    passed = True
    for check in checks:
        findings = list(dict.fromkeys(str(finding) for finding in check(tree)))
        for finding in findings:
            print(_line("FAIL", finding, paint))
        if not findings:
            print(_line("ok", str(check.__doc__), paint))
        passed = passed and not findings
    return passed


def _line(verdict: str, text: str, paint: bool) -> str:
    color = "32" if verdict == "ok" else "31"
    start, end = (f"\x1b[{color}m", "\x1b[0m") if paint else ("", "")
    return f"{start}{verdict:4}{end} {text}"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(0 if run(Path(arguments[0]).resolve() if arguments else REPOSITORY) else 1)
