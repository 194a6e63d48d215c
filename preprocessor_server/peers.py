"""Who is at the other end of a call, and what is taken from whom."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

import grpc

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DeploymentError


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


def check_uploads(dataset: dataset_pb2.DatasetSpec, context: grpc.ServicerContext) -> None:
    """Raises DeploymentError if a dataset carries code and the caller may not have it run."""
    for i, udf in enumerate(dataset.udfs):
        if udf.HasField("archive") and not peer_is_trusted(context):
            raise DeploymentError(
                "UDF_UPLOAD_FORBIDDEN",
                f"udfs[{i}]: this server takes code only from callers of its own machine or with "
                f"a certificate that it verifies, and {udf.function} comes from "
                f"{unquote(context.peer())} without one: start servers with --udf=upload and "
                "--tls-client-ca, and give the stream tls=Tls(cert=, key=)",
                field=f"dataset.udfs[{i}].archive",
            )
