"""TLS to the servers: the files that a user names, read and checked."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer_client.errors import RequestError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_NO_PEM = "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the servers of a target; Tls() trusts the roots of this machine.

    Files are PEM. Servers of local:// stay plain: they listen on Unix sockets that only this user
    may enter.
    """

    ca: str | os.PathLike[str] | None = None
    """CAs that sign the servers' certificates; None for the roots of this machine."""
    cert: str | os.PathLike[str] | None = None
    """This trainer's certificate, followed by what leads to its CA; for --tls-client-ca."""
    key: str | os.PathLike[str] | None = None
    """The private key of cert, not encrypted."""
    server_name: str = ""
    """The name that the servers' certificates must be for; "" for that of the target, which is the
    name of dns:///, else each server's host or address."""

    def read(self) -> Credentials:
        """The files as they are now.

        Raises RequestError, naming the argument and its file, for one that is missing, unreadable
        or damaged, for a key of another certificate, and for one that is not valid today.
        """
        if not isinstance(self.server_name, str):
            raise RequestError(f"tls: server_name is {self.server_name!r}: it must be a string")
        if (self.cert is None) != (self.key is None):
            given, lacking = ("cert", "key") if self.key is None else ("key", "cert")
            raise self._wrong(given, f"give the {lacking} that goes with it too")
        ca = roots_of_this_machine() if self.ca is None else self._authorities()
        asked = ca, str(self.ca or "the roots of this machine"), self.server_name
        if self.cert is None:
            return Credentials(*asked)
        cert, key = self._content("cert"), self._content("key")
        files = str(self.cert), str(self.key)
        return Credentials(*asked, cert, key, files, self._checked(cert))

    def _authorities(self) -> bytes:
        # Bundles have comments between, which need not be ASCII.
        ca = b"\n".join(_CERTIFICATE.findall(self._content("ca")))
        try:
            trusting(ca)
        except (ssl.SSLError, ValueError):
            raise self._wrong("ca", _NO_PEM) from None
        return ca

    def _checked(self, content: bytes) -> Certificate:
        assert self.cert is not None
        found = _CERTIFICATE.search(content)
        try:
            trusting(found[0] if found else b"")
        except (ssl.SSLError, ValueError):
            raise self._wrong("cert", _NO_PEM) from None
        assert found is not None
        try:
            certificate = _shown(self.cert, self.key, found[0])
        except _EncryptedKeyError:
            raise self._wrong("key", "it is encrypted: store the key without a password") from None
        except ssl.SSLCertVerificationError as error:
            raise self._wrong(
                "cert",
                f"no server would accept it ({error.verify_message}): issue one for clients "
                "(extendedKeyUsage=clientAuth, or none)",
            ) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                problem = "it is not the key of the certificate in {}: give the one made with it"
            else:
                problem = "it holds no private key in PEM that goes with {}"
            raise self._wrong("key", problem.format(self.cert)) from None
        if certificate.expired:
            raise self._wrong("cert", f"it expired on {certificate.last}: renew it")
        if certificate.early:
            raise self._wrong(
                "cert",
                f"it is valid only from {certificate.first}: set this machine's clock, or wait",
            )
        return certificate

    def _content(self, name: str) -> bytes:
        try:
            return Path(getattr(self, name)).read_bytes()
        except (OSError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise self._wrong(name, f"it cannot be read ({why})") from None

    def _wrong(self, name: str, problem: str) -> RequestError:
        value = getattr(self, name)
        return RequestError(f"tls: {name}={str(value)!r}: {problem}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: of whom it is, by whom, for which names, and when (Unix seconds)."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: float
    not_after: float

    @classmethod
    def from_peer(cls, said: Mapping[str, Any]) -> Certificate:
        """From what SSLSocket.getpeercert() returns."""
        return cls(
            _name(said["subject"]),
            _name(said["issuer"]),
            tuple(value for _, value in said.get("subjectAltName", ())),
            ssl.cert_time_to_seconds(said["notBefore"]),
            ssl.cert_time_to_seconds(said["notAfter"]),
        )

    @property
    def expired(self) -> bool:
        """Whether it was valid and is no longer."""
        return self.not_after < time.time()

    @property
    def early(self) -> bool:
        """Whether it is not yet valid."""
        return self.not_before > time.time()

    @property
    def first(self) -> str:
        """When it becomes valid, for people."""
        return _date(self.not_before)

    @property
    def last(self) -> str:
        """When it ends, for people."""
        return _date(self.not_after)

    def __str__(self) -> str:
        return f"{self.subject or 'no subject'}, issued by {self.issuer}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The content of the files, as PEM, and the names of those files for messages.

    own, key and about are None where this side has no certificate.
    """

    ca: bytes = field(repr=False)
    ca_file: str
    server_name: str
    own: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    files: tuple[str, str] = ("", "")
    about: Certificate | None = None

    def name_for(self, address: str) -> str:
        """The name that the certificate of a server must be for."""
        if self.server_name:
            return self.server_name
        unix = address.startswith("unix:")
        return "localhost" if unix else address.rpartition(":")[0].strip("[]")


def roots_of_this_machine() -> bytes:
    """The CAs that the system trusts, as PEM. Raises RequestError if there are none.

    gRPC would take a list of its own, of the day it was packaged.
    """
    paths = ssl.get_default_verify_paths()
    files = (
        [Path(paths.cafile)] if paths.cafile else sorted(Path(paths.capath or "").glob("*.[0-9]"))
    )
    found = [pem for each in files for pem in _CERTIFICATE.findall(each.read_bytes())]
    if not found:
        raise RequestError(
            f"tls: this machine has no roots (looked at {paths.openssl_cafile} and "
            f"{paths.openssl_capath}): install ca-certificates, or name the CA of the servers with "
            "Tls(ca=...)"
        )
    return b"\n".join(found)


def trusting(ca: bytes) -> ssl.SSLContext:
    """A client that trusts CAs. Raises SSLError or ValueError if there are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode("ascii"))
    return context


def trust_only(context: ssl.SSLContext, certificate: bytes) -> None:
    """Has a context trust one certificate of a peer (DER), whoever issued it and when.

    The ssl module shows the content only of certificates that it trusts.
    """
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.load_verify_locations(cadata=certificate)


def _shown(
    cert: str | os.PathLike[str], key: str | os.PathLike[str] | None, pem: bytes
) -> Certificate:
    """The certificate that a client shows, by a handshake in memory.

    Raises SSLCertVerificationError if it may not be a client's, other SSLErrors for wrong files.
    """
    client, server = (
        ssl.SSLContext(protocol) for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
    )
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (client, server):
        context.load_cert_chain(cert, key, _no_password)
    trust_only(server, ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asked = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client.wrap_bio(to_client, to_server), asked) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return Certificate.from_peer(asked.getpeercert() or {})


class _EncryptedKeyError(Exception):
    """OpenSSL asks for a password; by itself it would do so on the terminal, and wait."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU"}
    return ", ".join(f"{short.get(k, k)}={v}" for part in parts for k, v in part)


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
