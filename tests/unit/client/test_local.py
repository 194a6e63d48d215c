"""local://: real processes, with a stand-in for the server that starts at once."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.client.conftest import MakeStream
from trainer_client import DeploymentError, HeadraceError, StreamClosedError
from trainer_client.transport import lifeline

STAND_IN = Path(__file__).parents[2] / "fakes" / "local_server"
TRAINER = """
import sys
from trainer_client.transport import local
local.QUIET_TIMEOUT_S = float(sys.argv[2])
fleet = local.LocalFleet(2, shared=sys.argv[1] == "shared")
print(fleet.directory, flush=True)
sys.stdin.readline()
fleet.close()
print("closed", flush=True)
"""
WAIT_S = 20


class Trainer:
    """A process that opens a local fleet and holds it until it is told to go."""

    def __init__(self, tmp_path: Path, sharing: str, quiet_timeout_s: float = WAIT_S) -> None:
        paths = [str(STAND_IN), *filter(None, sys.path)]
        environment = os.environ | {"PYTHONPATH": ":".join(paths), "TMPDIR": str(tmp_path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, sharing, str(quiet_timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def directory(self) -> Path:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=WAIT_S)[1]
        return Path(line.strip())

    def leave(self) -> None:
        out, errors = self.process.communicate("go\n", timeout=WAIT_S)
        assert (out, errors) == ("closed\n", "")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp") as name:
        yield Path(name)


def server_pids(directory: Path) -> list[int]:
    logs = sorted(directory.glob("server-*.log"))
    return [int(re.findall(r"pid (\d+)", log.read_text())[0]) for log in logs]


def ends(pid: int) -> bool:
    """Whether a process that is not ours to wait for ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], WAIT_S)[0])
    finally:
        os.close(descriptor)


def test_ranks_of_one_parent_share_the_servers_and_the_last_one_ends_them(short_tmp: Path) -> None:
    ranks = [Trainer(short_tmp, "shared") for _ in range(3)]
    directories = {rank.directory() for rank in ranks}
    assert len(directories) == 1
    (directory,) = directories
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    pids = server_pids(directory)
    assert len(pids) == 2
    for rank in ranks[:2]:
        rank.leave()
    assert server_pids(directory) == pids
    for pid in pids:
        os.kill(pid, 0)
    ranks[2].leave()
    assert all(ends(pid) for pid in pids)
    assert not directory.exists()


def test_one_process_has_its_servers_to_itself(short_tmp: Path) -> None:
    alone, other = Trainer(short_tmp, "private"), Trainer(short_tmp, "private")
    assert alone.directory() != other.directory()
    alone.leave()
    other.leave()
    assert list(short_tmp.iterdir()) == []


def test_settings_for_servers_that_others_reach_are_not_handed_on(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "TLS_CERT",
        "TLS_KEY",
        "TLS_CLIENT_CA",
        "HEALTH_LISTEN",
        "METRICS_LISTEN",
        "ZSTD_LEVEL",
    )
    for name in names:
        monkeypatch.setenv(f"HEADRACE_{name}", "1")
    trainer = Trainer(short_tmp, "private")
    log = (trainer.directory() / "server-0.log").read_text()
    # They run the code of whoever starts them, who may forbid it.
    assert "settings ['HEADRACE_UDF=upload', 'HEADRACE_ZSTD_LEVEL=1']" in log
    trainer.leave()


def test_a_killed_trainer_leaves_no_process_and_its_folder_goes_with_the_next(
    short_tmp: Path,
) -> None:
    killed = Trainer(short_tmp, "private")
    directory = killed.directory()
    pids = server_pids(directory)
    killed.kill()
    assert all(ends(pid) for pid in pids)
    following = Trainer(short_tmp, "private")
    following.directory()
    assert not directory.exists()
    following.leave()


def test_servers_that_were_killed_are_started_again_by_the_next_rank(short_tmp: Path) -> None:
    first = Trainer(short_tmp, "shared")
    directory = first.directory()
    old = server_pids(directory)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
        assert ends(pid)
    second = Trainer(short_tmp, "shared")
    assert second.directory() == directory
    assert not set(server_pids(directory)) & set(old)
    first.leave()
    second.leave()
    assert list(short_tmp.iterdir()) == []


def test_a_server_that_dies_at_its_start_is_quoted(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "die")
    trainer = Trainer(short_tmp, "private")
    _, errors = trainer.process.communicate(timeout=WAIT_S)
    assert trainer.process.returncode == 1
    assert "DeploymentError" in errors
    assert re.search(r"(?s)exit code 3 before it served.*the setting is wrong", errors)
    assert list(short_tmp.iterdir()) == []


def test_a_server_that_says_what_it_does_is_waited_for(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "compile")
    trainer = Trainer(short_tmp, "private", quiet_timeout_s=4)
    assert (trainer.directory() / "server-1.log").read_text().count("compiling") == 2
    trainer.leave()


def test_a_server_that_neither_serves_nor_says_anything_ends_the_wait(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hang")
    trainer = Trainer(short_tmp, "private", quiet_timeout_s=4)
    _, errors = trainer.process.communicate(timeout=WAIT_S)
    assert trainer.process.returncode == 1
    assert "StreamTimeoutError" in errors
    assert "server 0 of local://2 does not serve, and has logged nothing for 4 s" in errors
    assert re.search(r"the end of .*server-0\.log:\n  pid ", errors)
    assert list(short_tmp.iterdir()) == []


def test_a_forked_child_does_not_keep_the_servers_alive(short_tmp: Path) -> None:
    script = TRAINER.replace(
        "sys.stdin.readline()",
        "import os, signal\npid = os.fork()\nif not pid:\n    signal.pause()\n"
        "print(pid, flush=True)\nsys.stdin.readline()",
    )
    trainer = Trainer.__new__(Trainer)
    paths = [str(STAND_IN), *filter(None, sys.path)]
    trainer.process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, "private", str(WAIT_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(paths), "TMPDIR": str(short_tmp)},
    )
    pids = server_pids(trainer.directory())
    assert trainer.process.stdout is not None
    child = int(trainer.process.stdout.readline())
    trainer.process.kill()
    assert all(ends(pid) for pid in pids)
    os.kill(child, signal.SIGKILL)
    trainer.process.communicate(timeout=WAIT_S)


def test_a_folder_that_others_may_enter_is_refused(short_tmp: Path) -> None:
    path = short_tmp / "headrace-x"
    path.mkdir(mode=0o755)
    with (
        pytest.raises(DeploymentError, match="only this user may enter"),
        lifeline.locked_directory(path),
    ):
        pass


def test_a_long_temporary_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert lifeline.directory_for("key").parent == Path("/tmp")  # noqa: S108


def test_a_start_that_fails_halfway_kills_what_it_has_started(short_tmp: Path) -> None:
    """A server that has not opened the lifeline yet would wait there for a writer for ever."""
    script = """
from trainer_client.transport import lifeline, local
directory = lifeline.directory_for(local._key(2, shared=False))
directory.mkdir(mode=0o700)
(directory / "server-1.log").mkdir()
try:
    local.LocalFleet(2, shared=False)
except IsADirectoryError:
    print([server.poll() for server in local._STARTED])
"""
    paths = [str(STAND_IN), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": ":".join(paths), "TMPDIR": str(short_tmp)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"[{-signal.SIGKILL}]\n", "")


SLOW_STAND_IN = f"""
import os, runpy
with open(os.environ["STARTED"], "w") as started:
    started.write("x")
with open(os.environ["GO_ON"]) as go_on:
    go_on.read()
runpy.run_path({str(STAND_IN / "preprocessor_server" / "__main__.py")!r}, run_name="__main__")
"""


def test_closing_does_not_wait_for_servers_that_start(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, make_stream: MakeStream
) -> None:
    package = short_tmp / "modules" / "preprocessor_server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SLOW_STAND_IN)
    fifos = {name: short_tmp / name.lower() for name in ("STARTED", "GO_ON")}
    for name, path in fifos.items():
        os.mkfifo(path)
        monkeypatch.setenv(name, str(path))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp))
    stream = make_stream("local://1")
    failures: list[Exception] = []

    def use() -> None:
        try:
            stream.row_count()
        except HeadraceError as error:
            failures.append(error)

    started = os.open(fifos["STARTED"], os.O_RDONLY | os.O_NONBLOCK)
    user, closer = threading.Thread(target=use), threading.Thread(target=stream.close)
    user.start()
    try:
        assert select.select([started], [], [], WAIT_S)[0]
        closer.start()
        closer.join(5)
        closed_at_once = not closer.is_alive()
    finally:
        os.close(started)
        fifos["GO_ON"].write_text("")
        user.join(WAIT_S)
    closer.join(WAIT_S)
    assert closed_at_once
    assert [type(error) for error in failures] == [StreamClosedError]
    assert not list(short_tmp.glob("headrace-*"))
