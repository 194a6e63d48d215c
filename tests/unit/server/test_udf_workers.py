"""Worker processes: none outlives its server, idle ones end, and limits hold."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from preprocessor_server.errors import DeploymentError, TemporaryError
from preprocessor_server.settings import Settings
from preprocessor_server.udf import workers
from preprocessor_server.udf.archive import Code
from preprocessor_server.udf.declared import DeclaredUdf, UdfOutput
from preprocessor_server.udf.process import UdfFailedError
from preprocessor_server.udf.workers import WorkerProcesses
from tests.fakes.process import python_environment

BATCH = pa.RecordBatch.from_pydict({"price": pa.array([1.0, 2.0], pa.float32())})
# A server that is killed while its function hangs: it says the number of the function's process.
SERVER = """
import os, sys, threading
from tests.unit.server.test_udf_workers import BATCH, declared, processes
from pathlib import Path
started = processes(Path(sys.argv[1]))
udf = declared("hangs")
code = started.fingerprint(udf)
(idle,) = started._idle[udf.code]
threading.Thread(target=started.run, args=(udf, code, BATCH, None)).start()
print(idle.process._process.pid, flush=True)
"""


def declared(name: str, module: str = "tests.fakes.udfs") -> DeclaredUdf:
    outputs = (UdfOutput("made", "float32", pa.float32()),)
    return DeclaredUdf(0, Code(f"{module}:{name}"), ("price",), outputs, random=False)


def processes(root: Path, **fields: object) -> WorkerProcesses:
    return WorkerProcesses(Settings.model_validate({"data_root": (root,), **fields}))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[WorkerProcesses]:
    found = processes(tmp_path)
    yield found
    found.close()


def ended(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        return bool(poll.poll(10_000))
    finally:
        os.close(handle)


def pid_of(started: WorkerProcesses, udf: DeclaredUdf) -> int:
    (idle,) = started._idle[udf.code]
    return idle.process._process.pid


def test_a_process_is_used_again(started: WorkerProcesses) -> None:
    udf = declared("same")
    code = started.fingerprint(udf)
    first = pid_of(started, udf)
    made = started.run(udf, code, BATCH, None)
    assert made.to_pydict() == {"made": [1.0, 2.0]}
    assert pid_of(started, udf) == first
    with pytest.raises(DeploymentError, match="is not what the snapshot"):
        started.run(udf, "sha256:other", BATCH, None)


def test_no_process_is_left_when_its_server_is_killed(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        env=python_environment(),
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    with server.stdout as printed:
        pid = int(printed.readline())
    server.send_signal(signal.SIGKILL)
    server.wait(10)
    assert ended(pid)


def test_idle_processes_end(started: WorkerProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_S", 0.0)
    udf = declared("same")
    with started._taken(udf.code) as process:
        pid = process._process.pid
    assert ended(pid)


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    started = processes(tmp_path)
    udf = declared("same")
    pids: list[int] = []

    def close_and_run() -> None:
        with started._taken(udf.code) as process:
            pids.append(process._process.pid)
            started.close()
            process.run(BATCH, udf.typed_outputs, None)

    with pytest.raises(TemporaryError, match="shutting down"):
        close_and_run()
    assert ended(pids[0])
    with pytest.raises(TemporaryError, match="shutting down"):
        started.run(udf, "", BATCH, None)


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("absent_udf", None, "ModuleNotFoundError: No module named 'absent_udf'"),
        ("bad_udf", "def same(:\n", "SyntaxError"),
        ("empty_udf", "", "has no attribute 'same'"),
        ("data_udf", "same = 3\n", "data_udf:same is int, which cannot be called"),
        ("exit_udf", "import os\nos._exit(9)\n", "status 9"),
    ],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: WorkerProcesses,
    module: str,
    code: str | None,
    words: str,
) -> None:
    if code is not None:
        (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UdfFailedError) as caught:
        started.fingerprint(declared("same", module))
    assert words in f"{caught.value.message}\n{caught.value.traceback}"


def test_the_fingerprint_is_that_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: WorkerProcesses
) -> None:
    found = []
    for folder, part in (("one", "1"), ("two", "1"), ("three", "2")):
        package = tmp_path / folder / "own"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "part.py").write_text(f"NUMBER = {part}\n")
        (package / "udf.py").write_text("from own.part import NUMBER\nsame = print\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(package.parent)
            started._end_idle(Code("own.udf:same"))
            found.append(started.fingerprint(declared("same", "own.udf")))
    assert found[0] == found[1]
    assert found[0] != found[2]
