"""The flags of TLS, the same for every command that asks servers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from trainer_client.tls import Tls

_FILE = click.Path(dir_okay=False)
_OPTIONS = (
    click.option("--tls", is_flag=True, help="TLS to servers that the roots of this machine know."),
    click.option(
        "--tls-ca", type=_FILE, help="TLS to servers that the CAs in this file (PEM) sign."
    ),
    click.option("--tls-cert", type=_FILE, help="The certificate (PEM) to show to servers."),
    click.option("--tls-key", type=_FILE, help="The private key (PEM) of --tls-cert."),
    click.option(
        "--tls-server-name",
        metavar="NAME",
        help="The name that certificates of servers must be for. Default: that of the target.",
    ),
)
NAMES = ("tls", "tls_ca", "tls_cert", "tls_key", "tls_server_name")


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags, and gives the command what they say as tls: a Tls, or None without any."""

    @functools.wraps(command)
    def with_tls(*, tls: bool, **options: Any) -> Any:
        ca, cert, key, name = (options.pop(each) for each in NAMES[1:])
        wanted = tls or any((ca, cert, key, name))
        made = Tls(ca=ca, cert=cert, key=key, server_name=name or "") if wanted else None
        return command(tls=made, **options)

    wrapped: Callable[..., Any] = with_tls
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
