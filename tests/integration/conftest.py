"""Real servers on port 0, in this process, and real Parquet to serve."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.server import Server
from preprocessor_server.settings import Settings
from tests.fakes.parquet import ROW_COUNT, write_dataset
from tests.fakes.refusal import Stub

LARGE_MESSAGES = [("grpc.max_receive_message_length", 512 * 1024 * 1024)]


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows/: several files of several row groups, ROW_COUNT rows, ids 0, 1, 2 …"""
    root = tmp_path_factory.mktemp("data")
    assert write_dataset(root / "rows") == ROW_COUNT
    return root


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Starts a server; call it with the fields of Settings."""
    servers: list[Server] = []

    def start(**fields: object) -> Server:
        defaults: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "drain_timeout_s": 2.0,
            "cpu_threads": 2,
        }
        server = Server(Settings.model_validate(defaults | fields))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[str], pb_grpc.PreprocessorServiceStub]]:
    """Gives a stub for an address."""
    channels: list[grpc.Channel] = []

    def stub(address: str) -> pb_grpc.PreprocessorServiceStub:
        channel = grpc.insecure_channel(address, options=LARGE_MESSAGES)
        channels.append(channel)
        return pb_grpc.PreprocessorServiceStub(channel)

    yield stub
    for channel in channels:
        channel.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data" / "rows")
    return tmp_path / "data"


@pytest.fixture
def stub(root: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]) -> Stub:
    return connect(start_server(data_root=(root,)).address)
