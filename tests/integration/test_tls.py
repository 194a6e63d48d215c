"""TLS and mTLS: an epoch, each refusal with the words that say which, probes, and grpcurl."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.errors import SettingsError
from preprocessor_server.peers import peer_is_trusted
from preprocessor_server.server import Server
from tests.fakes.certificates import Authority, Pair
from tests.fakes.parquet import ROW_COUNT
from tests.fakes.process import ROOT
from trainer_client import (
    Batch,
    BatchStream,
    Dataset,
    DeploymentError,
    Label,
    ServerUnavailableError,
    Sparse,
    StreamTimeoutError,
    Tls,
    parquet,
)
from trainer_client.cli import cli
from trainer_client.errors import HeadraceError
from trainer_client.transport.diagnosis import Diagnosis
from trainer_client.transport.handshake import problem_with

Start = Callable[..., Server]
PAST = ("20200101000000Z", "20210101000000Z")
FUTURE = ("20470101000000Z", "20480101000000Z")
DATASET = Dataset(
    source=parquet("rows"), features=[Sparse("id"), Label("label")], where="id IS NOT NULL"
)
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Files:
    """Two authorities and what they issue; other is the one that nobody trusts."""

    ca: Path
    other_ca: Path
    server: Pair
    localhost: Pair
    past: Pair
    future: Pair
    trainer: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = Authority(folder / "ours", "Ours"), Authority(folder / "theirs", "Theirs")
    return Files(
        ca=ca.cert,
        other_ca=other.cert,
        server=ca.issue("server", "IP:127.0.0.1"),
        localhost=ca.issue("localhost", "DNS:localhost"),
        past=ca.issue("past", valid=PAST),
        future=ca.issue("future", valid=FUTURE),
        trainer=ca.issue("trainer", "DNS:trainer", usage="clientAuth"),
        stranger=other.issue("stranger", "DNS:trainer"),
    )


@pytest.fixture
def start(start_server: Start, dataset_root: Path) -> Start:
    def started(pair: Pair | None = None, client_ca: Path | None = None, **fields: Any) -> Server:
        if pair is not None:
            fields |= {"tls_cert": str(pair.cert), "tls_key": str(pair.key)}
        if client_ca is not None:
            fields["tls_client_ca"] = str(client_ca)
        return start_server(data_root=(dataset_root,), **fields)

    return started


@pytest.fixture
def start_anyhow() -> Iterator[Callable[[Pair], str]]:
    """Starts a server with a certificate that ours refuses to start with; its address."""
    servers = []

    def started(pair: Pair) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(1))
        credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield started
    for server in servers:
        server.stop(None).wait(10)


def tls(ca: Path, pair: Pair | None = None, name: str = "") -> Tls:
    return Tls(ca, pair and pair.cert, pair and pair.key, name)


def stream_from(
    *addresses: str, tls: Tls | None, timeout: float = TIMEOUT_S, reader_process: bool = False
) -> BatchStream:
    target = "static:///" + ",".join(addresses)
    return BatchStream(
        DATASET,
        target=target,
        batch_size=512,
        tls=tls,
        timeout=timeout,
        reader_process=reader_process,
    )


def ids_of(batch: Batch) -> list[list[int]]:
    assert batch.sparse is not None
    return batch.sparse["id"].to_list()


def refusal(address: str, tls: Tls | None) -> str:
    with stream_from(address, tls=tls) as stream, pytest.raises(DeploymentError) as caught:
        next(iter(stream))
    assert caught.value.server == address
    return str(caught.value)


def test_an_epoch_with_certificates_is_the_same_as_one_in_plain_text(
    start: Start, files: Files
) -> None:
    servers = [start(files.server, files.ca).address for _ in range(2)]
    seen: list[dict[tuple[int, int], list[list[int]]]] = []
    secured = tls(files.ca, files.trainer)
    for addresses, own, process in (
        (servers, secured, False),
        (servers, secured, True),
        ([start().address], None, False),
    ):
        with stream_from(*addresses, tls=own, reader_process=process) as stream:
            ids = {(b.shard, b.index): ids_of(b) for b in stream}
            assert stream.stats().retries == 0
            # Servers are asked for their counters on connections of their own.
            explained = stream.explain().situation.servers
            assert explained
            assert not any(isinstance(each, str) for each in explained.values())
        seen.append(ids)
    assert seen[0] == seen[1] == seen[2]
    assert sum(map(len, seen[0].values())) == ROW_COUNT


def test_names_are_known_by_themselves_whatever_they_resolve_to(start: Start, files: Files) -> None:
    port = start(files.localhost).address.rpartition(":")[2]
    options: dict[str, Any] = {"batch_size": 512, "timeout": TIMEOUT_S, "tls": Tls(files.ca)}
    with BatchStream(DATASET, target=f"dns:///localhost:{port}", **options) as stream:
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT
    with stream_from(f"127.0.0.1:{port}", tls=tls(files.ca, name="localhost")) as stream:
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT


def test_a_unix_socket_can_have_tls(start: Start, files: Files, tmp_path: Path) -> None:
    server = start(files.localhost, listen=f"unix:{tmp_path}/s")
    with stream_from(server.address, tls=Tls(files.ca)) as stream:
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT
    assert "is not signed by a CA of" in refusal(server.address, Tls(files.other_ca))


def test_refusals_of_a_server_that_wants_certificates(start: Start, files: Files) -> None:
    address = start(files.server, files.ca).address
    said = refusal(address, None)
    assert said.startswith(f"{address} speaks TLS, and this stream does not: give tls=")
    said = refusal(address, tls(files.ca))
    assert "takes only clients that show a certificate" in said
    assert "Tls(cert=..., key=...)" in said
    said = refusal(address, tls(files.ca, files.stranger))
    assert (
        f"does not take the certificate {files.stranger.cert} (CN=stranger, issued by CN=Th" in said
    )
    assert "is not signed by a CA of the server's --tls-client-ca" in said


def test_a_certificate_that_ended_after_the_stream_was_made(start: Start, files: Files) -> None:
    address = start(files.server, files.ca).address
    made = tls(files.ca, files.trainer).read()
    assert made.about is not None
    ended = replace(
        made,
        files=(str(files.past.cert), str(files.past.key)),
        about=replace(made.about, not_after=1609459200),
    )
    said = problem_with(address, ended, 5)
    assert said is not None
    assert f"does not take the certificate {files.past.cert}" in said
    assert "it expired on 2021-01-01 00:00 UTC; renew it" in said
    assert problem_with(address, made, 5) is None


def test_refusals_of_servers_that_cannot_be_trusted(
    start: Start, start_anyhow: Callable[[Pair], str], files: Files
) -> None:
    address = start(files.server).address
    said = refusal(address, tls(files.other_ca))
    assert f"the certificate of {address} (CN=server, issued by CN=Ours) is not signed by" in said
    assert f"a CA of {files.other_ca}: give the CA that signs the servers" in said
    assert "a CA of the roots of this machine" in refusal(address, Tls())
    said = refusal(address, tls(files.ca, name="elsewhere"))
    assert "is for 127.0.0.1, not for 'elsewhere': issue one that has this name" in said
    past, future = start_anyhow(files.past), start_anyhow(files.future)
    assert "has expired on 2021-01-01 00:00 UTC: renew it" in refusal(past, Tls(files.ca))
    assert "is not valid before 2047-01-01 00:00 UTC: set" in refusal(future, Tls(files.ca))


def test_a_plain_server_for_a_stream_with_tls(start: Start, files: Files) -> None:
    address = start().address
    assert f"{address} does not speak TLS, and this stream does: start" in refusal(
        address, Tls(files.ca)
    )


def test_a_server_that_is_away_is_tried_again(files: Files) -> None:
    with (
        stream_from("127.0.0.1:1", tls=Tls(files.ca), timeout=0.5) as stream,
        pytest.raises(StreamTimeoutError, match="Connection refused"),
    ):
        next(iter(stream))


def test_one_bad_server_of_a_fleet_that_answers_is_left_alone(
    start: Start, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    diagnosis = Diagnosis(Tls(files.ca).read(), 5)
    plain = start().address
    diagnosis.answered("127.0.0.1:2")
    away = ServerUnavailableError("", server=plain, status=grpc.StatusCode.UNAVAILABLE)
    with caplog.at_level(logging.WARNING, "trainer_client"):
        told = [diagnosis.of(away) for _ in range(2)]
    assert all(isinstance(each, ServerUnavailableError) for each in told)
    assert all("does not speak TLS" in each.message for each in told)
    (record,) = caplog.records
    assert record.getMessage().endswith("streams go to other servers")
    # What is no fault of TLS is left as it is.
    for other in (
        ServerUnavailableError("", server="127.0.0.1:1", status=grpc.StatusCode.UNAVAILABLE),
        ServerUnavailableError("", server="127.0.0.1:2", status=grpc.StatusCode.UNAVAILABLE),
        ServerUnavailableError("", server=plain, status=away.status, reason="DRAINING"),
        HeadraceError("", server=plain),
    ):
        assert diagnosis.of(other) is other


def test_a_server_does_not_start_with_a_certificate_that_has_expired(
    start: Start, files: Files
) -> None:
    with pytest.raises(SettingsError, match=r"--tls-cert=.*past\.pem: it expired on 2021-01-01"):
        start(files.past)


def grpcurl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "grpcurl"
    return subprocess.run(
        [program, "-max-time", "20", "-connect-timeout", "3", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_grpcurl_by_hand(start: Start, files: Files) -> None:
    address = start(files.server, files.ca).address
    own = ("-cert", files.trainer.cert, "-key", files.trainer.key)
    done = grpcurl("-cacert", files.ca, *own, address, "list")
    assert "headrace.v1.PreprocessorService" in done.stdout, done.stderr
    done = grpcurl("-cacert", files.ca, *own, address, "grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}
    # grpcurl, unlike a stream, shows what has expired.
    expired = ("-cert", files.past.cert, "-key", files.past.key)
    assert grpcurl("-cacert", files.ca, *expired, address, "list").returncode != 0


def test_probes_that_speak_no_tls_get_health_and_nothing_else(start: Start, files: Files) -> None:
    server = start(files.server, files.ca, health_listen="127.0.0.1:0")
    with grpc.insecure_channel(server.health_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="headrace.v1.PreprocessorService")
        assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        contract = pb_grpc.PreprocessorServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            contract.DescribeDataset(pb.DescribeDatasetRequest(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_documents_certificates_serve_every_command(
    start_server: Start, dataset_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (flags,) = re.findall(r"--tls-ca ca.pem --tls-cert client.pem --tls-key client.key", text)
    subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = start_server(
        data_root=(dataset_root,),
        tls_cert="server.pem",
        tls_key="server.key",
        tls_client_ca="ca.pem",
    )
    target = f"static:///{server.address}"
    secured = Tls("ca.pem", "client.pem", "client.key")
    ledger: dict[str, Any] = {"ledger": tmp_path / "run", "batch_size": 512}
    with BatchStream(DATASET, target=target, tls=secured, **ledger) as stream:
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT
    Path("dataset.yaml").write_text(DATASET.to_yaml())
    show = ("show", "run", "--epoch", "0", "--shard", "0", "--index", "0")
    pull = ("pull", "dataset.yaml", "--target", target, "--batch-size", "512", "--json")
    for command in (pull, ("verify", "run", "--complete"), show):
        done = CliRunner().invoke(cli, [*command, *flags.split()])
        assert done.exit_code == 0, (command, done.output, done.exception)
    done = CliRunner().invoke(cli, [*show, "--tls-ca", "ca.pem"])
    assert done.exit_code == 2
    assert "takes only clients that show a certificate" in done.output


class Asked(grpc.GenericRpcHandler):
    """Answers every call with whether its peer is trusted."""

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(
            lambda _request, context: bytes([peer_is_trusted(context)])
        )


def test_peers_of_this_machine_and_those_with_a_certificate_are_trusted(
    files: Files, tmp_path: Path
) -> None:
    read = Path.read_bytes
    pair = [(read(files.server.key), read(files.server.cert))]
    server = grpc.server(futures.ThreadPoolExecutor(2), [Asked()])
    ports = [server.add_insecure_port(place) for place in ("127.0.0.1:0", f"unix:{tmp_path}/s")] + [
        server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials(pair, read(files.ca), True)
        )
    ]
    server.start()
    shown = grpc.ssl_channel_credentials(
        read(files.ca), read(files.trainer.key), read(files.trainer.cert)
    )
    channels = [
        grpc.insecure_channel(f"127.0.0.1:{ports[0]}"),
        grpc.insecure_channel(f"unix:{tmp_path}/s"),
        grpc.secure_channel(f"127.0.0.1:{ports[2]}", shown),
    ]
    try:
        for channel in channels:
            ask: Any = channel.unary_unary("/any/thing")
            assert ask(b"", timeout=20) == b"\1"
    finally:
        for channel in channels:
            channel.close()
        server.stop(None).wait(10)
