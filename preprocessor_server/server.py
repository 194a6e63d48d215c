"""The composition root: one server process, from its settings to its end."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from concurrent import futures
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from preprocessor_server.allocator import keep_freed_memory
from preprocessor_server.catalog import Catalog
from preprocessor_server.errors import SettingsError
from preprocessor_server.kernels import cache_place, warm
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.scheduling import wake_gently
from preprocessor_server.service import MAX_SHORT_CALLS, SERVICE, PreprocessorService
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics, log
from preprocessor_server.tls import read as read_tls

# Threads beside those of streams and short calls: health checks, reflection, refusals.
SPARE_THREADS = 16
# Of --health-listen: the probes of one kubelet.
PROBE_THREADS = 2
# For the last messages of the calls that ended to leave. Health watches never end by themselves.
FLUSH_S = 0.5
# For the transport to close.
STOP_TIMEOUT_S = 5.0

_KEEPALIVE_OPTIONS = [
    # A trainer that vanished without a word is noticed within 30 + 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Trainers may ask as often as every 10 s whether this server is still there.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # A second server on the same port is an error, never half of the calls.
    ("grpc.so_reuseport", 0),
]


class Server:
    """One server: built, listening and warm in start(); drained and closed in stop().

    Raises SettingsError if the files of TLS cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tls = read_tls(settings)
        self._metrics = Metrics()
        self._catalog = Catalog(settings)
        self._pipeline = Pipeline(settings, self._catalog, self._metrics)
        self._health = health.HealthServicer()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        threads = settings.max_streams + MAX_SHORT_CALLS + SPARE_THREADS
        self._calls = futures.ThreadPoolExecutor(threads, "call")
        self._server = grpc.server(
            self._calls,
            options=[
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                *_KEEPALIVE_OPTIONS,
            ],
        )
        self._service = PreprocessorService(self._pipeline)
        self._server.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._probe_calls = futures.ThreadPoolExecutor(PROBE_THREADS, "probe")
        self._probes = self._make_probes()
        self.address = ""
        self.health_address = ""
        self.budget = self._pipeline.budget

    def start(self) -> None:
        """Listens, compiles the kernels, and only then says that it serves.

        Raises SettingsError if an address cannot be listened on.
        """
        began = time.monotonic()
        self.address = self._listen(self._server, "listen", self._credentials())
        self._server.start()
        log.info("listening", address=self.address, pid=os.getpid(), tls=self._tls is not None)
        if self._probes is not None:
            self.health_address = self._listen(self._probes, "health_listen", None)
            self._probes.start()
            log.info("health", address=self.health_address)
        if self._settings.metrics_listen:
            log.info("metrics", port=self._serve_metrics())
        log.info("kernel cache", place=cache_place())
        warm(lambda step: log.info("kernels", step=step))
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info("serving", address=self.address, after_s=round(time.monotonic() - began, 2))

    def stop(self) -> None:
        """Drains: streams end at their next batch boundary, or are cut when time is up."""
        began = time.monotonic()
        log.info("draining", timeout_s=self._settings.drain_timeout_s)
        self._health.enter_graceful_shutdown()
        self._pipeline.draining.set()
        if not self._service.wait_until_idle(self._settings.drain_timeout_s):
            log.warning("cutting calls that did not end in time")
        if self._probes is not None:
            self._probes.stop(None).wait(STOP_TIMEOUT_S)
        self._server.stop(FLUSH_S).wait(FLUSH_S + STOP_TIMEOUT_S)
        self._calls.shutdown(wait=False)
        self._probe_calls.shutdown(wait=False)
        self._pipeline.close()
        self._catalog.close()
        log.info("stopped", after_s=round(time.monotonic() - began, 2))

    def _make_probes(self) -> grpc.Server | None:
        """A server of its own for health alone: a second port of the first would serve all."""
        if not self._settings.health_listen:
            return None
        probes = grpc.server(self._probe_calls, options=_KEEPALIVE_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, probes)
        return probes

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._tls is None:
            return None
        return grpc.ssl_server_credentials(
            [(self._tls.key, self._tls.cert)],
            root_certificates=self._tls.client_ca,
            require_client_auth=self._tls.client_ca is not None,
        )

    def _listen(
        self, server: grpc.Server, setting: str, credentials: grpc.ServerCredentials | None
    ) -> str:
        listen: str = getattr(self._settings, setting)
        try:
            if credentials is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise SettingsError(
                f"--{setting.replace('_', '-')}={listen}: cannot listen there ({error}); is "
                "another server on it?"
            ) from None
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    def _serve_metrics(self) -> int:
        try:
            return self._metrics.serve(self._settings.metrics_listen)
        except OSError as error:
            address = self._settings.metrics_listen
            raise SettingsError(
                f"--metrics-listen={address}: cannot listen there ({error.strerror})"
            ) from None

    def _set_health(self, status: int) -> None:
        for name in ("", SERVICE):
            self._health.set(name, status)


def serve(settings: Settings) -> None:
    """Runs one server until SIGTERM, SIGINT or the end of its lifeline, then drains it.

    Raises SettingsError if it cannot start.
    """
    # Whoever ends it writes a byte; of a signal Python does so itself, at once and in whichever
    # thread the system delivers it to. A lock would do for neither: one that the signal finds taken
    # is never freed, and a wait for one is not ended by a signal to another thread.
    ends, ending = os.pipe()
    os.set_blocking(ending, False)
    signal.set_wakeup_fd(ending, warn_on_full_buffer=False)
    asked: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if asked:
            # Asked twice: whoever waits does not want to wait any longer.
            os._exit(128 + number)
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    keep_freed_memory()
    wake_gently()
    server = Server(settings)
    if settings.lifeline:
        _follow(settings.lifeline, lambda: os.write(ending, b"\0"))
    try:
        server.start()
        os.read(ends, 1)
    finally:
        server.stop()
    if not _threads_ended():
        # A read that hangs in the kernel cannot be ended, and Python would wait for it for ever.
        log.warning("leaving threads behind that storage holds up")
        os._exit(0)


def _threads_ended() -> bool:
    """Waits for the threads of the pools, with a bound; whether all have ended."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    pools = tuple(f"{name}_" for name in ("worker", "footer", "call", "udf"))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(pools)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _follow(lifeline: str, end: Callable[[], object]) -> None:
    """Calls end, in another thread, once no process holds the FIFO open for writing any more."""
    try:
        # Without waiting for a writer: who starts a server holds the FIFO open before it does, so
        # one that nobody holds any more means that its holder is gone already.
        fifo = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise SettingsError(f"--lifeline={lifeline}: {error.strerror}") from None

    def wait() -> None:
        readable = select.poll()
        readable.register(fifo, select.POLLIN)
        held = True
        while held:
            try:
                held = os.read(fifo, 64) != b""
            except BlockingIOError:
                # Somebody holds it, and has written nothing.
                readable.poll()
        os.close(fifo)
        end()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
