"""A server in the process of a Ray actor."""

from __future__ import annotations

import os
import threading
from typing import Any

from preprocessor_server.allocator import keep_freed_memory
from preprocessor_server.errors import SettingsError
from preprocessor_server.fleet.spec import FleetSpec, wrong_release
from preprocessor_server.scheduling import wake_gently
from preprocessor_server.server import Server
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import configure_logging, log

# For kernels to compile, where a drain comes in the middle of a start.
START_LIMIT_S = 60.0


class Replica:
    """Serves on a free port of its node as soon as its kernels are compiled.

    Ray makes it anew, elsewhere if it must, when its process or node is gone. What the user has to
    put right is told by state(), since an actor that fails to start cannot tell.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        import ray

        fleet = FleetSpec(**spec)
        host = ray.util.get_node_ip_address()
        self._host = host
        self._node = ray.get_runtime_context().get_node_id()
        self._server: Server | None = None
        self._serving = False
        self._problem = wrong_release(fleet, f"node {host}")
        # state() answers meanwhile, so that a slow start and a lack of room can be told apart.
        self._starting = threading.Thread(target=self._start, args=(fleet,), name="start")
        self._starting.start()

    def state(self) -> dict[str, Any]:
        """Its address ("" before it serves), node, pid, and what keeps it from serving or ""."""
        return {
            "address": self._server.address if self._server and self._serving else "",
            "node": self._node,
            "pid": os.getpid(),
            "problem": self._problem,
        }

    def drain(self) -> None:
        """Ends its streams at a batch boundary each, as SIGTERM does; it serves no more."""
        self._starting.join(START_LIMIT_S)
        if self._server is not None:
            self._server.stop()

    def _start(self, fleet: FleetSpec) -> None:
        if self._problem:
            return
        try:
            self._serve(fleet.name, fleet.settings_on(self._host))
        except SettingsError as error:
            self._problem = f"node {self._host}: {error}"
        except (
            Exception
        ) as error:  # a thread's error would otherwise end in a log that nobody reads
            self._problem = f"node {self._host}: the server does not start: {error!r}"
            raise

    def _serve(self, fleet: str, settings: Settings) -> None:
        configure_logging(settings.log_format, settings.log_level)
        log.info("starting", pid=os.getpid(), fleet=fleet, node=self._node)
        keep_freed_memory()
        wake_gently()
        self._server = Server(settings)
        self._server.start()
        self._serving = True
