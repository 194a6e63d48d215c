"""The files of TLS on the server's side: what cannot be used is named before it listens."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from preprocessor_server.errors import SettingsError
from preprocessor_server.settings import Settings
from preprocessor_server.tls import read
from tests.fakes.certificates import Authority, Pair


class Files(NamedTuple):
    ca: Path
    server: Pair
    trainer: Pair
    past: Pair
    future: Pair
    junk: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca = Authority(folder / "ca", "Ours")
    junk = folder / "junk.pem"
    junk.write_text("nothing")
    return Files(
        ca.cert,
        ca.issue("server"),
        ca.issue("trainer", usage="clientAuth"),
        ca.issue("past", valid=("20200101000000Z", "20210101000000Z")),
        ca.issue("future", valid=("20470101000000Z", "20480101000000Z")),
        junk,
    )


def settings(**fields: object) -> Settings:
    return Settings.model_validate({"data_root": "/"} | {k: str(v) for k, v in fields.items()})


def test_what_is_read(files: Files) -> None:
    assert read(settings()) is None
    pair = {"tls_cert": files.server.cert, "tls_key": files.server.key}
    alone, mutual = read(settings(**pair)), read(settings(**pair, tls_client_ca=files.ca))
    assert alone is not None
    assert mutual is not None
    assert (alone.cert, alone.client_ca) == (files.server.cert.read_bytes(), None)
    assert (mutual.key, mutual.client_ca) == (files.server.key.read_bytes(), files.ca.read_bytes())
    assert "PRIVATE KEY" not in repr(mutual)


WRONG: dict[str, tuple[dict[str, str], list[str]]] = {
    "no key": ({"tls_cert": "server.cert"}, ["--tls-cert=", "server.pem", "--tls-key"]),
    "no certificate": ({"tls_key": "server.key"}, ["--tls-key=", "server.key", "--tls-cert"]),
    "a CA without a certificate": ({"tls_client_ca": "ca"}, ["--tls-client-ca=", "--tls-cert"]),
    "no such file": (
        {"tls_cert": "/none.pem", "tls_key": "server.key"},
        ["--tls-cert=/none.pem: it cannot be read (No such file or directory): check the path"],
    ),
    "a key of another": (
        {"tls_cert": "server.cert", "tls_key": "trainer.key"},
        ["--tls-key=", "trainer.key: it is not the key of the certificate in", "server.pem"],
    ),
    "no PEM": ({"tls_cert": "junk", "tls_key": "server.key"}, ["--tls-cert=", "no certificate"]),
    "a key that is none": (
        {"tls_cert": "server.cert", "tls_key": "junk"},
        ["--tls-key=", "junk.pem: it holds no private key in PEM that goes with"],
    ),
    "expired": (
        {"tls_cert": "past.cert", "tls_key": "past.key"},
        ["--tls-cert=", "past.pem: it expired on 2021-01-01 00:00 UTC: renew it"],
    ),
    "not valid yet": (
        {"tls_cert": "future.cert", "tls_key": "future.key"},
        ["--tls-cert=", "it is valid only from 2047-01-01 00:00 UTC"],
    ),
    "of a client": (
        {"tls_cert": "trainer.cert", "tls_key": "trainer.key"},
        ["--tls-cert=", "no client would accept it", "extendedKeyUsage=serverAuth"],
    ),
    "a CA that is none": (
        {"tls_cert": "server.cert", "tls_key": "server.key", "tls_client_ca": "junk"},
        ["--tls-client-ca=", "junk.pem: it holds no certificate in PEM"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_named(files: Files, case: str) -> None:
    def resolve(place: str) -> str:
        found: Any = files
        for part in place.split("."):
            found = getattr(found, part)
        return str(found)

    given, words = WRONG[case]
    fields = {k: v if v.startswith("/") else resolve(v) for k, v in given.items()}
    with pytest.raises(SettingsError) as caught:
        read(settings(**fields))
    for word in words:
        assert word in str(caught.value)


def test_an_encrypted_key_is_said_to_be_one(files: Files, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    words = ["openssl", "ec", "-in", str(files.server.key), "-aes128", "-passout", "pass:x"]
    subprocess.run([*words, "-out", str(locked)], check=True, capture_output=True, timeout=30)
    with pytest.raises(SettingsError, match=r"locked\.key: it is encrypted"):
        read(settings(tls_cert=files.server.cert, tls_key=locked))
