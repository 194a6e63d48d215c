"""Whether TLS is what keeps a server from answering: gRPC says no more than UNAVAILABLE.

A handshake of our own, by Python's ssl, tells; what gRPC would have said is still to be had there.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

from trainer_client.tls import Certificate, Credentials, trust_only, trusting

# https://www.rfc-editor.org/rfc/rfc9113#section-3.4: the client's preface, with empty SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
# Its answer, a frame of SETTINGS: three bytes of length, then the type.
_SETTINGS = 4
# Codes of OpenSSL's x509_vfy.h.
_EARLY, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_OTHER_NAME = {62, 64}


@dataclass(frozen=True, slots=True)
class _Peer:
    """A server, and until when (of time.monotonic) it may take to answer."""

    address: str
    deadline_s: float

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection. Raises OSError."""
        if self.address.startswith("unix:"):
            path = self.address.removeprefix("unix:")
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(self.left_s())
                raw.connect(path.removeprefix("//") if path.startswith("///") else path)
                yield raw
        else:
            host, _, port = self.address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), self.left_s()) as raw:
                raw.settimeout(self.left_s())
                yield raw

    def left_s(self) -> float:
        """The seconds that the next step may take."""
        return max(0.01, self.deadline_s - time.monotonic())

    @contextlib.contextmanager
    def secured(self, context: ssl.SSLContext, name: str = "") -> Iterator[ssl.SSLSocket]:
        """A connection after the handshake. Raises OSError, of which SSLError is one."""
        context.set_alpn_protocols(["h2"])
        asked = name or None
        with self.connected() as raw, context.wrap_socket(raw, server_hostname=asked) as secure:
            secure.settimeout(self.left_s())
            yield secure


def problem_with(address: str, tls: Credentials | None, timeout_s: float) -> str | None:
    """What is wrong with TLS between this side and a server, for people; None if nothing is seen.

    Takes timeout_s at most, apart from resolving a name.
    """
    peer = _Peer(address, time.monotonic() + timeout_s)
    with contextlib.suppress(OSError):
        return _without_tls(peer) if tls is None else _with_tls(peer, tls)
    return None


def _without_tls(peer: _Peer) -> str | None:
    context = _unverified()
    try:
        with peer.secured(context):
            pass
    except ssl.SSLError as error:
        # Only who speaks TLS has an alert to send.
        if "ALERT" not in (error.reason or ""):
            return None
    return (
        f"{peer.address} speaks TLS, and this stream does not: give tls=Tls(ca=...) "
        "(trainer-client: --tls-ca)"
    )


def _with_tls(peer: _Peer, tls: Credentials) -> str | None:
    name = tls.name_for(peer.address)
    try:
        refusal = _refusal(peer, tls, name)
        # Once more: a server that is being ended looks the same.
        refused = refusal is not None and _refusal(peer, tls, name) is not None
    except ssl.SSLCertVerificationError as error:
        return _unverifiable(peer, tls, name, error)
    except ssl.SSLError:
        if _speaks_plainly(peer):
            return (
                f"{peer.address} does not speak TLS, and this stream does: start the server with "
                "--tls-cert and --tls-key, or leave tls= out"
            )
        return None
    return _refused(peer, tls) + (f" ({refusal})" if refusal else "") if refused else None


def _refusal(peer: _Peer, tls: Credentials, name: str) -> str | None:
    """None if a server goes on after the handshake, else the alert that it sends, or "" if none.

    With TLS 1.3 a server looks at the client's certificate after the client is done; that of gRPC
    closes the connection without a word.
    """
    context = trusting(tls.ca)
    if tls.own is not None:
        context.load_cert_chain(*tls.files)
    with peer.secured(context, name) as secure:
        try:
            secure.sendall(_PREFACE)
            return None if secure.recv(9) else ""
        except ssl.SSLError as error:
            return error.reason or ""
        except ConnectionError:
            return ""


def _refused(peer: _Peer, tls: Credentials) -> str:
    if tls.about is None:
        return (
            f"{peer.address} takes only clients that show a certificate, and this stream has none: "
            "give tls=Tls(cert=..., key=...), signed by the CA of the server's --tls-client-ca "
            "(trainer-client: --tls-cert, --tls-key)"
        )
    begun = f"{peer.address} does not take the certificate {tls.files[0]} ({tls.about}): it "
    if tls.about.expired:
        return begun + f"expired on {tls.about.last}; renew it"
    return begun + (
        "is not signed by a CA of the server's --tls-client-ca, or the server's clock is wrong; "
        "use one that is signed by such a CA, or add its CA on the server"
    )


def _unverifiable(
    peer: _Peer, tls: Credentials, name: str, error: ssl.SSLCertVerificationError
) -> str:
    shown, code = _shown(peer), error.verify_code
    begun = f"the certificate of {peer.address}" + (f" ({shown})" if shown else "")
    if code in _UNKNOWN_ISSUER:
        return (
            f"{begun} is not signed by a CA of {tls.ca_file}: give the CA that signs the servers, "
            "tls=Tls(ca=...) (trainer-client: --tls-ca), or find out who answers there"
        )
    if code in _OTHER_NAME:
        names = ", ".join(shown.names if shown else ()) or "no name"
        return (
            f"{begun} is for {names}, not for {name!r}: issue one that has this name, or say which "
            "name is right, tls=Tls(server_name=...) (trainer-client: --tls-server-name)"
        )
    if code == _EXPIRED:
        when = f" on {shown.last}" if shown and shown.expired else ", or its CA"
        return f"{begun} has expired{when}: renew it, and start the server again"
    if code == _EARLY:
        when = f" before {shown.first}" if shown and shown.early else " yet, or its CA"
        return f"{begun} is not valid{when}: set this machine's clock, or wait"
    return f"{begun} cannot be verified: {error.verify_message}"


def _shown(peer: _Peer) -> Certificate | None:
    """The certificate that a server shows, whatever it is worth; None if it cannot be had."""
    unverified, trusting_it = _unverified(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with peer.secured(unverified) as secure:
            certificate = secure.getpeercert(binary_form=True)
        trust_only(trusting_it, certificate or b"")
        with peer.secured(trusting_it) as secure:
            return Certificate.from_peer(secure.getpeercert() or {})
    except (OSError, KeyError):
        return None


def _speaks_plainly(peer: _Peer) -> bool:
    """Whether a server answers HTTP/2 without TLS."""
    with contextlib.suppress(OSError), peer.connected() as raw:
        raw.sendall(_PREFACE)
        answer = raw.recv(9)
        return len(answer) >= 4 and answer[3] == _SETTINGS
    return False


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
