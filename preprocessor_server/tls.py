"""The files of TLS, read and checked before the server listens: gRPC itself would say little."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preprocessor_server.errors import SettingsError
from preprocessor_server.settings import Settings

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h: times are compared here, where both are known.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server identifies itself with, and the CAs of its clients, as PEM.

    Without client_ca, clients need no certificate.
    """

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


def read(settings: Settings) -> Tls | None:
    """What the settings name, None without TLS.

    Raises SettingsError, naming the setting and its file, for one that is missing, unreadable or
    damaged, for a key of another certificate, and for a certificate that is not valid today.
    """
    if not settings.tls_cert:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(settings, name):
                raise _wrong(
                    settings, name, "it goes with --tls-cert: give that too, or leave both out"
                )
        return None
    if not settings.tls_key:
        raise _wrong(settings, "tls_cert", "give its private key too, with --tls-key")
    cert, key = _content(settings, "tls_cert"), _content(settings, "tls_key")
    client_ca = _content(settings, "tls_client_ca") if settings.tls_client_ca else None
    if client_ca is not None:
        _check_ca(settings, client_ca)
    _check_certificate(settings, cert)
    return Tls(cert, key, client_ca)


def _check_ca(settings: Settings, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(
            cadata=content.decode("ascii")
        )
    except (ssl.SSLError, UnicodeDecodeError):
        raise _wrong(
            settings, "tls_client_ca", "it holds no certificate in PEM: give the CA of the clients"
        ) from None


def _check_certificate(settings: Settings, content: bytes) -> None:
    found = _CERTIFICATE.search(content)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        asking.load_verify_locations(cadata=found[0].decode("ascii") if found else "")
    except (ssl.SSLError, ValueError):
        raise _wrong(
            settings, "tls_cert", "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from None
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        serving.load_cert_chain(settings.tls_cert, settings.tls_key, _no_password)
    except _EncryptedKeyError:
        raise _wrong(
            settings, "tls_key", "it is encrypted: store the key without a password"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = "it is not the key of the certificate in {}: give the one made with it"
        else:
            problem = "it holds no private key in PEM that goes with {}"
        raise _wrong(settings, "tls_key", problem.format(settings.tls_cert)) from None
    try:
        certificate = _served(serving, asking)
    except ssl.SSLCertVerificationError as error:
        raise _wrong(
            settings,
            "tls_cert",
            f"no client would accept it ({error.verify_message}): issue one for servers "
            "(extendedKeyUsage=serverAuth, or none)",
        ) from None
    first, last = (ssl.cert_time_to_seconds(certificate[k]) for k in ("notBefore", "notAfter"))
    if last < time.time():
        raise _wrong(settings, "tls_cert", f"it expired on {_date(last)}: renew it")
    if first > time.time():
        raise _wrong(
            settings,
            "tls_cert",
            f"it is valid only from {_date(first)}: set this machine's clock, or wait",
        )


class _EncryptedKeyError(Exception):
    """OpenSSL asks for a password; by itself it would do so on the terminal, and wait."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _served(serving: ssl.SSLContext, asking: ssl.SSLContext) -> dict[str, Any]:
    """A server's certificate as a client sees it that trusts it.

    By a handshake in memory: the ssl module reads only the certificates of peers. Raises
    SSLCertVerificationError if it may not serve.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server)
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert() or {}


def _content(settings: Settings, name: str) -> bytes:
    try:
        return Path(getattr(settings, name)).read_bytes()
    except OSError as error:
        raise _wrong(
            settings, name, f"it cannot be read ({error.strerror}): check the path and its mode"
        ) from None


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _wrong(settings: Settings, name: str, problem: str) -> SettingsError:
    return SettingsError(f"--{name.replace('_', '-')}={getattr(settings, name)}: {problem}")
