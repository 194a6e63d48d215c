"""The files of TLS on the trainer's side: what is wrong is said before anything is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes.certificates import Authority, Pair
from tests.unit.client.conftest import MakeStream
from trainer_client import RequestError, Tls
from trainer_client.tls import roots_of_this_machine
from trainer_client.transport.opening import credentials_for
from trainer_client.transport.targets import parse_target


class Files(NamedTuple):
    ca: Path
    own: Pair
    past: Pair
    future: Pair
    server: Pair
    junk: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca = Authority(folder / "ca", "Ours")
    junk = folder / "junk.pem"
    junk.write_text("nothing")
    return Files(
        ca.cert,
        ca.issue("own", "DNS:trainer"),
        ca.issue("past", valid=("20200101000000Z", "20210101000000Z")),
        ca.issue("future", valid=("20470101000000Z", "20480101000000Z")),
        ca.issue("server", usage="serverAuth"),
        junk,
    )


def test_files_are_read_and_keys_are_not_shown(files: Files) -> None:
    read = Tls(files.ca, files.own.cert, files.own.key, "a.example").read()
    assert (read.own, read.key) == (files.own.cert.read_bytes(), files.own.key.read_bytes())
    assert read.about is not None
    assert str(read.about) == "CN=own, issued by CN=Ours"
    assert read.about.names == ("trainer",)
    assert "PRIVATE KEY" not in repr(read)
    assert read.name_for("10.0.0.7:50051") == "a.example"


def test_a_bundle_may_hold_several_and_comments_between(files: Files, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    text = files.ca.read_text()
    bundle.write_text(f"# Főtanúsítvány\n{text}\n# and once more\n{text}")
    assert Tls(bundle).read().ca.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize(
    ("ca", "cert", "key", "words"),
    [
        (None, "own.cert", None, "own.pem': give the key that goes with it too"),
        (None, None, "own.key", "own.key': give the cert that goes with it too"),
        ("none", None, None, "tls: ca='none': it cannot be read (No such file or directory)"),
        ("junk", None, None, "junk.pem': it holds no certificate in PEM"),
        ("ca", "none", "own.key", "tls: cert='none': it cannot be read"),
        ("ca", "own.cert", "none", "tls: key='none': it cannot be read"),
        ("ca", "junk", "own.key", "junk.pem': it holds no certificate in PEM"),
        ("ca", "own.cert", "junk", "junk.pem': it holds no private key in PEM that goes with"),
        ("ca", "own.cert", "past.key", "past.key': it is not the key of the certificate in"),
        ("ca", "past.cert", "past.key", "past.pem': it expired on 2021-01-01 00:00 UTC: renew it"),
        ("ca", "future.cert", "future.key", "it is valid only from 2047-01-01 00:00 UTC: set"),
        ("ca", "server.cert", "server.key", "no server would accept it (un"),
    ],
)
def test_what_cannot_be_used_is_named(
    files: Files, ca: str | None, cert: str | None, key: str | None, words: str
) -> None:
    def resolve(place: str | None) -> Any:
        if place in (None, "none"):
            return place
        found: Any = files
        for part in place.split("."):
            found = getattr(found, part)
        return found

    with pytest.raises(RequestError) as caught:
        Tls(*map(resolve, (ca, cert, key))).read()
    assert words in str(caught.value)


def test_an_encrypted_key_is_said_to_be_one(files: Files, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    words = ["openssl", "ec", "-in", str(files.own.key), "-aes128", "-passout", "pass:x"]
    subprocess.run([*words, "-out", str(locked)], check=True, capture_output=True, timeout=30)
    with pytest.raises(RequestError, match=r"locked\.key': it is encrypted"):
        Tls(cert=files.own.cert, key=locked).read()


def test_the_stream_checks_its_option_when_it_is_made(
    files: Files, make_stream: MakeStream
) -> None:
    with pytest.raises(RequestError, match=r"tls is True: it must be Tls\(ca="):
        make_stream("static:///127.0.0.1:1", tls=True)
    with pytest.raises(RequestError, match=r"past\.pem': it expired on"):
        make_stream("static:///127.0.0.1:1", tls=Tls(files.ca, *files.past))
    with pytest.raises(RequestError, match="server_name is 7"):
        make_stream("static:///127.0.0.1:1", tls=Tls(files.ca, server_name=7))  # type: ignore[arg-type]


def test_which_name_a_certificate_must_be_for(files: Files) -> None:
    def name(target: str, address: str, server_name: str = "") -> str:
        credentials = credentials_for(parse_target(target), Tls(files.ca, server_name=server_name))
        assert credentials is not None
        return credentials.name_for(address)

    assert name("dns:///preprocessor:1", "10.0.0.7:1") == "preprocessor"
    assert name("dns:///preprocessor:1", "10.0.0.7:1", "other") == "other"
    assert name("static:///a:1,b:1", "b:1") == "b"
    assert name("static:///[::1]:1", "[::1]:1") == "::1"
    assert name("static:///unix:/s", "unix:/s") == "localhost"
    assert name("ray:///homefeed", "10.0.0.7:1") == "10.0.0.7"


def test_servers_of_this_machine_are_plain(files: Files) -> None:
    assert credentials_for(parse_target("local://2"), Tls(files.ca)) is None
    assert credentials_for(parse_target("static:///a:1"), None) is None


def test_roots_of_this_machine(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    assert Tls().read().ca == roots_of_this_machine() == files.ca.read_bytes().strip()
    folder = tmp_path / "certs"
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    with pytest.raises(RequestError, match=r"this machine has no roots .*install ca-certificates"):
        Tls().read()
    (folder / "0a1b2c3d.0").write_bytes(files.ca.read_bytes())
    assert Tls().read().ca == files.ca.read_bytes().strip()
