"""`make k8s-check` is green on the tree, and red, saying why, for each fault it is there for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s import check

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Dockerfile.server", "Dockerfile.trainer", "pyproject.toml", "k8s", "examples")
DEPLOYMENT = "k8s/base/deployment.yaml"
SETTINGS = "k8s/base/settings.env"
JOB = "k8s/trainer/job.yaml"
TLS = "k8s/tls/kustomization.yaml"
TLS_SETTINGS = "k8s/tls/settings.env"

Edit = Callable[[str, str, str], None]
Failures = Callable[[], list[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that the check reads."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def edit(checkout: Path) -> Edit:
    """Replaces a text that stands in a file of the copy exactly once."""

    def replace(file: str, old: str, new: str) -> None:
        text = (checkout / file).read_text()
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        (checkout / file).write_text(text.replace(old, new))

    return replace


@pytest.fixture
def failures(checkout: Path, capsys: pytest.CaptureFixture[str]) -> Failures:
    """Runs the check on the copy and returns its red lines; none if it passed."""

    def run() -> list[str]:
        passed = check.run(checkout)
        lines = capsys.readouterr().out.splitlines()
        failed = [line for line in lines if line.startswith("FAIL ")]
        assert passed == (not failed)
        return failed

    return run


def test_green_on_this_tree() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "k8s.check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proto"), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = finished.stdout.splitlines()
    assert len(lines) == len(check.FIRST) + len(check.THEN)
    assert all(line.startswith("ok ") for line in lines)


def _section(file: str, start: str, end: str) -> str:
    """The part of a file from one line up to another."""
    text = (ROOT / file).read_text()
    return text[text.index(start) : text.index(end)]


STARTUP = """grpc:
              port: 50051
              service: headrace.v1.PreprocessorService
            periodSeconds: 2
"""
SERVER_IMAGE = """        - name: server
          image: headrace-server
"""
SERVER_RESOURCES = """            limits: {cpu: "4", memory: 6Gi}
"""
TRAINER_CACHE = """            - name: NUMBA_CACHE_DIR
              value: /var/cache/headrace
"""
TRAINER_CONTEXT = """              value: /var/cache/headrace
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
"""
FIRST_IMAGE = """        - name: kernels
          image: headrace-trainer
"""
DATA_MOUNT = """mountPath: /data
              readOnly: true
"""

MUTATIONS = {
    "wrong probe port": (
        (DEPLOYMENT, STARTUP, STARTUP.replace("50051", "50052")),
        (DEPLOYMENT, "containers[server].startupProbe.grpc.port is 50052", "set it to 50051"),
    ),
    "probe of no such health service": (
        (DEPLOYMENT, STARTUP, STARTUP.replace("v1.P", "v2.P")),
        (DEPLOYMENT, "startupProbe.grpc.service is 'headrace.v2.PreprocessorService'"),
    ),
    "server that only its pod can reach": (
        (SETTINGS, "LISTEN=0.0.0.0:50051", "LISTEN=127.0.0.1:50051"),
        (SETTINGS, "HEADRACE_LISTEN is '127.0.0.1:50051'", "listen on 0.0.0.0"),
    ),
    "settings that listen elsewhere": (
        (SETTINGS, "0.0.0.0:50051", "0.0.0.0:50061"),
        (DEPLOYMENT, "ports[grpc].containerPort is 50051", "0.0.0.0:50061"),
    ),
    "metrics elsewhere": (
        (SETTINGS, "0.0.0.0:9464", "0.0.0.0:9465"),
        (DEPLOYMENT, "ports[metrics].containerPort is 9464", "0.0.0.0:9465"),
    ),
    "root user": (
        (DEPLOYMENT, "runAsUser: 65532", "runAsUser: 0"),
        (DEPLOYMENT, "securityContext.runAsUser is 0", "would run as root"),
    ),
    "image's own user": (
        (JOB, "        runAsUser: 65532\n", ""),
        (JOB, "securityContext.runAsUser is None", "set a numeric user"),
    ),
    "root allowed": (
        (JOB, "runAsNonRoot: true", "runAsNonRoot: false"),
        (JOB, "securityContext.runAsNonRoot is False", "set it to True"),
    ),
    "writable root": (
        (JOB, TRAINER_CONTEXT, TRAINER_CONTEXT.replace("Filesystem: true", "Filesystem: false")),
        (JOB, "containers[trainer].securityContext.readOnlyRootFilesystem is False"),
    ),
    "capabilities kept": (
        (JOB, TRAINER_CONTEXT, TRAINER_CONTEXT.replace("[ALL]", "[NET_RAW]")),
        (JOB, "capabilities.drop is ['NET_RAW']", "set it to ['ALL']"),
    ),
    "service links": (
        (DEPLOYMENT, "enableServiceLinks: false", "enableServiceLinks: true"),
        (DEPLOYMENT, "enableServiceLinks is True", "set it to False"),
    ),
    "no such setting": (
        (SETTINGS, "HEADRACE_LOG_FORMAT=json", "HEADRACE_LOG_FROMAT=json"),
        (SETTINGS, "HEADRACE_LOG_FROMAT is 'json'", "no such setting", "HEADRACE_LOG_FORMAT"),
    ),
    "setting that does not parse": (
        (SETTINGS, "HEADRACE_MAX_STREAMS=32", "HEADRACE_MAX_STREAMS=many"),
        (SETTINGS, "HEADRACE_MAX_STREAMS=many", "valid integer"),
    ),
    "no data root": (
        (SETTINGS, "HEADRACE_DATA_ROOT=/data\n", ""),
        (SETTINGS, "HEADRACE_DATA_ROOT", "is required"),
    ),
    "more threads than cores": (
        (SETTINGS, "CPU_THREADS=4", "CPU_THREADS=16"),
        (SETTINGS, "HEADRACE_CPU_THREADS is 16", "the pod has 4 cores"),
    ),
    "grace time below the drain": (
        (DEPLOYMENT, "GracePeriodSeconds: 45", "GracePeriodSeconds: 30"),
        (DEPLOYMENT, "terminationGracePeriodSeconds is 30", "need 40 s"),
    ),
    "drain beyond the grace time": (
        (SETTINGS, "DRAIN_TIMEOUT_S=25", "DRAIN_TIMEOUT_S=60"),
        (DEPLOYMENT, "terminationGracePeriodSeconds is 45", "need 75 s"),
    ),
    "no preStop": (
        (
            DEPLOYMENT,
            "              sleep:\n                seconds: 5\n",
            "              exec: {}\n",
        ),
        (DEPLOYMENT, "lifecycle.preStop.sleep.seconds is None", "new streams still come"),
    ),
    "memory limit below the settings": (
        (DEPLOYMENT, SERVER_RESOURCES, SERVER_RESOURCES.replace("6Gi", "4Gi")),
        (DEPLOYMENT, "containers[server].resources.limits.memory is '4Gi'", "= 5120 MiB"),
    ),
    "no limit": (
        (DEPLOYMENT, SERVER_RESOURCES, '            limits: {cpu: "4"}\n'),
        (DEPLOYMENT, "containers[server].resources.limits.memory is None", "state it"),
    ),
    "data root that is no volume": (
        (SETTINGS, "DATA_ROOT=/data", "DATA_ROOT=/datasets"),
        (DEPLOYMENT, "volumeMounts", "mount a volume at /datasets"),
    ),
    "data that can be written": (
        (DEPLOYMENT, DATA_MOUNT, DATA_MOUNT.replace("true", "false")),
        (DEPLOYMENT, "volumeMounts", "with readOnly: true"),
    ),
    "cache on the read-only root": (
        (DEPLOYMENT, "value: /var/cache/headrace", "value: /opt/headrace/kernels"),
        (DEPLOYMENT, "NUMBA_CACHE_DIR (/opt/headrace/kernels) is on the read-only root"),
    ),
    "trainer without a cache": (
        (JOB, TRAINER_CACHE, ""),
        (JOB, "containers[trainer].env[NUMBA_CACHE_DIR] is None", "name an emptyDir"),
    ),
    "trainer's cache on the read-only root": (
        (JOB, "value: /var/cache/headrace", "value: /opt/headrace/kernels"),
        (JOB, "NUMBA_CACHE_DIR (/opt/headrace/kernels) is on the read-only root"),
    ),
    "trainer's cache that starts empty": (
        (JOB, _section(JOB, "      initContainers:\n", "      containers:\n"), ""),
        (JOB, "initContainers is []", "copy /opt/headrace/kernels/. of headrace-trainer:0.1.0"),
    ),
    "cache that is filled from another folder": (
        (DEPLOYMENT, "/opt/headrace/kernels/., ", "/opt/kernels/., "),
        (DEPLOYMENT, "initContainers is", "copy /opt/headrace/kernels/. of headrace-server:0.1.0"),
    ),
    "cache that is filled from another image": (
        (JOB, FIRST_IMAGE, FIRST_IMAGE.replace("-trainer", "-server:0.1.0")),
        (JOB, "initContainers is", "of headrace-trainer:0.1.0 to the volume"),
    ),
    "image without a cache": (
        ("Dockerfile.trainer", "NUMBA_CACHE_DIR=", "NUMBA_CACHE="),
        ("Dockerfile.trainer", "NUMBA_CACHE_DIR is None", "compile the kernels into it"),
    ),
    "wrong type": (
        (DEPLOYMENT, "replicas: 4", "replicas: four"),
        (DEPLOYMENT, "spec.replicas is 'four'", "'four' is not of type 'integer'"),
    ),
    "no such field": (
        (DEPLOYMENT, "failureThreshold: 30", "failureTreshold: 30"),
        (DEPLOYMENT, "'failureTreshold' was unexpected"),
    ),
    "probes that would have to speak TLS": (
        (TLS_SETTINGS, "HEADRACE_HEALTH_LISTEN=0.0.0.0:50052\n", ""),
        (TLS_SETTINGS, "HEADRACE_HEALTH_LISTEN is ''", "probes speak no TLS"),
    ),
    "probe of the port with TLS": (
        (
            "k8s/tls/deployment.yaml",
            "livenessProbe:\n            grpc:\n              port: 50052",
            "livenessProbe:\n            grpc:\n              port: 50051",
        ),
        (TLS, "livenessProbe.grpc.port is 50051", "set it to 50052"),
    ),
    "certificate that is not mounted": (
        (TLS_SETTINGS, "/etc/headrace/tls/tls.crt", "/etc/tls/tls.crt"),
        (TLS, "volumeMounts", "mount a Secret at /etc/tls (HEADRACE_TLS_CERT)"),
    ),
    "selector that chooses nothing": (
        (
            "k8s/base/service.yaml",
            "  selector:\n    app.kubernetes.io/name: headrace\n",
            "  selector:\n    app.kubernetes.io/name: headgate\n",
        ),
        ("k8s/base/service.yaml", "spec.selector is", "does not choose the pods"),
    ),
    "service with an address of its own": (
        ("k8s/base/service.yaml", "  clusterIP: None\n", ""),
        ("k8s/base/service.yaml", "spec.clusterIP is None", "set clusterIP: None"),
    ),
    "service port that the pods do not have": (
        ("k8s/base/service.yaml", "port: 50051", "port: 443"),
        ("k8s/base/service.yaml", "spec.ports[grpc].port is 443", "50051"),
    ),
    "trainer that calls another name": (
        (JOB, "dns:///headrace-preprocessor:50051", "dns:///preprocessor:50051"),
        (JOB, "command is 'dns:///preprocessor:50051'", "dns:///headrace-preprocessor:50051"),
    ),
    "image that nobody builds": (
        (DEPLOYMENT, SERVER_IMAGE, SERVER_IMAGE.replace("-server\n", "-gateway:1\n")),
        (DEPLOYMENT, "image is 'headrace-gateway:1'", "there is no Dockerfile.gateway"),
    ),
    "image without a tag": (
        ("k8s/base/kustomization.yaml", "newTag: 0.1.0", "newTag: latest"),
        (DEPLOYMENT, "image is 'headrace-server:latest'", "pin a tag"),
    ),
    "no such command": (
        (DEPLOYMENT, "[preprocessor-server, serve]", "[preprocessor-sever, serve]"),
        (DEPLOYMENT, "command is 'preprocessor-sever serve'", "neither a console script"),
    ),
    "no such program": (
        (JOB, "examples/train_movielens.py", "examples/train_netflix.py"),
        (JOB, "python examples/train_netflix.py", "neither a console script"),
    ),
    "Dockerfile that hadolint rejects": (
        ("Dockerfile.server", "FROM python:3.11-slim-bookworm AS base", "FROM python AS base"),
        ("Dockerfile.server", "DL3006"),
    ),
    "manifest that is not there": (
        ("k8s/base/kustomization.yaml", "  - service.yaml", "  - services.yaml"),
        ("k8s/base/kustomization.yaml", "services.yaml"),
    ),
}


@pytest.mark.parametrize(("change", "said"), MUTATIONS.values(), ids=MUTATIONS.keys())
def test_red_and_says_why(
    change: tuple[str, str, str], said: tuple[str, ...], edit: Edit, failures: Failures
) -> None:
    edit(*change)

    lines = failures()
    assert any(all(part in line for part in said) for line in lines), "\n".join(lines)


def test_exit_status_of_a_red_check(checkout: Path, edit: Edit) -> None:
    edit(DEPLOYMENT, "runAsUser: 65532", "runAsUser: 0")

    finished = subprocess.run(
        [sys.executable, "-m", "k8s.check", str(checkout)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proto"), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr == ""


def test_says_that_kubectl_is_missing(
    failures: Failures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    (line,) = failures()
    assert "kubectl is 'not on PATH'" in line
    assert "install it" in line
