"""Who is at the other end of a call."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

import grpc


def peer_is_trusted(context: grpc.ServicerContext) -> bool:
    """Whether a call comes from this machine, or from who has a certificate of --tls-client-ca.

    A proxy on this machine (kubectl port-forward, a sidecar) makes any caller one of this machine.
    """
    # A server asks for certificates only to verify them: one that is there was verified.
    if context.auth_context().get("x509_pem_cert"):
        return True
    # https://github.com/grpc/grpc/blob/master/doc/naming.md: unix:path, ipv4:a:port, ipv6:[a]:port
    scheme, _, rest = unquote(context.peer()).partition(":")
    if scheme == "unix":
        return True
    if scheme not in ("ipv4", "ipv6"):
        return False
    try:
        address = ipaddress.ip_address(rest.rpartition(":")[0].strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
