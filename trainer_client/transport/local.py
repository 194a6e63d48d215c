"""local://N: servers that the client starts on this machine, and that end with it.

They listen on Unix sockets in a directory that only this user may enter. Ranks of one machine
(children of one process) share them: whoever comes first starts them. They live by a FIFO, so
they end when the last trainer does, even if it is killed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trainer_client.errors import DeploymentError, StreamTimeoutError
from trainer_client.transport import lifeline

# How long a server may say nothing before it serves. Without a kernel cache it compiles for half a
# minute of one core, longer where servers share cores, and says so before each kernel.
QUIET_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
LOG_LINES = 15

# A server may outlive the object that started it (other ranks use it), never this process.
_STARTED: list[subprocess.Popen[bytes]] = []
_FLEETS: weakref.WeakSet[LocalFleet] = weakref.WeakSet()


class LocalFleet:
    """Servers of this machine, started or attached to; close() lets them go.

    shared says whether ranks with the same parent process share them. Raises DeploymentError that
    quotes the log of a server that died, StreamTimeoutError if one neither serves nor logs anything
    for a minute.
    """

    def __init__(self, count: int, *, shared: bool) -> None:
        if importlib.util.find_spec("preprocessor_server") is None:
            raise DeploymentError(
                "local:// needs the server on this machine: pip install 'headrace[server]', or "
                "name servers elsewhere with static:/// or dns:///"
            )
        self.directory = lifeline.directory_for(_key(count, shared=shared))
        self._count = count
        self._closed = False
        self._pid = os.getpid()
        self._servers: list[subprocess.Popen[bytes]] = []
        lifeline.remove_leftovers(self.directory)
        with lifeline.locked_directory(self.directory):
            self._users = lifeline.join_users(self.directory)
            writer = lifeline.open_writer(self.directory)
            self._writer = self._start() if writer is None else writer
        try:
            _FLEETS.add(self)
            self._wait_until_serving()
        except BaseException:
            self.close()
            raise

    def addresses(self) -> list[str]:
        """The servers' sockets."""
        return [f"unix:{self._path(k, 'sock')}" for k in range(self._count)]

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """They stay where they are."""

    def close(self) -> None:
        """Lets the servers go; the last of the users waits for those it started, with a bound."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        with lifeline.locked_directory(self.directory):
            last = lifeline.is_last_user(self._users)
            os.close(self._writer)
            os.close(self._users)
            if last:
                self._end_own_servers()
                shutil.rmtree(self.directory, ignore_errors=True)

    def let_go_after_fork(self) -> None:
        """Closes what a forked child inherited: it must not keep the servers alive."""
        if not self._closed:
            self._closed = True
            os.close(self._writer)
            os.close(self._users)

    def _path(self, k: int, suffix: str) -> Path:
        return self.directory / f"server-{k}.{suffix}"

    def _start(self) -> int:
        """Starts the servers; the writing end of their lifeline."""
        reader, writer = lifeline.make_lifeline(self.directory)
        threads = max(1, len(os.sched_getaffinity(0)) // self._count)
        # What is for servers that others reach too. These are reached by nobody but this user.
        foreign = ("HEADRACE_TLS_", "HEADRACE_METRICS_LISTEN", "HEADRACE_HEALTH_LISTEN")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        # Their user runs whatever code he likes, and they take calls from nobody else.
        environment.setdefault("HEADRACE_UDF", "upload")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        try:
            for k in range(self._count):
                self._path(k, "sock").unlink(missing_ok=True)
                # -P: what lies in the trainer's folder must not shadow the server's modules.
                command = [sys.executable, "-P", "-m", "preprocessor_server", "serve"]
                command += ["--listen", f"unix:{self._path(k, 'sock')}"]
                command += ["--data-root", str(Path.cwd()), "--data-root", "/"]
                command += ["--cpu-threads", str(threads), "--log-format", "json"]
                command += ["--lifeline", str(self.directory / "lifeline")]
                with self._path(k, "log").open("wb") as log:
                    server = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        # Ctrl-C in the terminal is the trainer's; the lifeline ends the servers.
                        start_new_session=True,
                        # Held from birth: the FIFO has a reader exactly while a server lives.
                        pass_fds=(reader,),
                    )
                self._servers.append(server)
                _STARTED.append(server)
        except BaseException:
            # Before the lifeline closes: a server that has not opened it yet would wait there,
            # for ever, for somebody to write.
            for server in self._servers:
                server.kill()
                server.wait(END_TIMEOUT_S)
            os.close(writer)
            os.close(self._users)
            raise
        finally:
            os.close(reader)
        return writer

    def _wait_until_serving(self) -> None:
        for k, address in enumerate(self.addresses()):
            with grpc.insecure_channel(address) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                logged = self._logged_bytes(k)
                while not self._serves_in_time(k, stub):
                    logged_before, logged = logged, self._logged_bytes(k)
                    if logged == logged_before:
                        log = self._path(k, "log")
                        raise StreamTimeoutError(
                            f"server {k} of local://{self._count} does not serve, and has logged "
                            f"nothing for {QUIET_TIMEOUT_S:.0f} s; the end of {log}:\n"
                            f"{_last_lines(log)}"
                        )

    def _serves_in_time(self, k: int, stub: Any) -> bool:
        call = stub.Watch(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=QUIET_TIMEOUT_S
        )
        if self._servers:
            # A server that dies is noticed at once, not when the time is up.
            _cancel_at_exit(self._servers[k], call)
        try:
            for response in call:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    call.cancel()
                    return True
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return False
            code = self._servers[k].poll() if self._servers else None
            how = f"({error.code().name})" if code is None else f"with exit code {code}"
            raise DeploymentError(
                f"server {k} of local://{self._count} ended {how} before it served; the end of its "
                f"log:\n{_last_lines(self._path(k, 'log'))}"
            ) from error
        raise DeploymentError(f"server {k} of local://{self._count} ended while it started")

    def _logged_bytes(self, k: int) -> int:
        return self._path(k, "log").stat().st_size

    def _end_own_servers(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        for server in self._servers:
            try:
                server.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(END_TIMEOUT_S)


def _key(count: int, *, shared: bool) -> str:
    owner = os.getppid() if shared else os.getpid()
    return "\0".join([str(owner), _started_at(owner), str(count), str(Path.cwd())])


def _started_at(pid: int) -> str:
    """When a process started, in clock ticks since boot: proc_pid_stat(5), field 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]


def _cancel_at_exit(server: subprocess.Popen[bytes], call: grpc.Call) -> None:
    def wait() -> None:
        server.wait()
        call.cancel()

    threading.Thread(target=wait, name="headrace-server-exit", daemon=True).start()


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"(the log cannot be read: {error})"
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:]) or "  (empty)"


def _after_fork() -> None:
    for fleet in list(_FLEETS):
        fleet.let_go_after_fork()


os.register_at_fork(after_in_child=_after_fork)
