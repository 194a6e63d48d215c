"""Every knob of the server, once: its unit, its bounds, and where its default comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from preprocessor_server.errors import SettingsError

ENV_PREFIX = "HEADRACE_"
MIB = 1024 * 1024
GIB = 1024 * MIB


def _split_roots(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part for part in value.split(os.pathsep) if part)
    return value


def _split_names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class Settings(BaseModel):
    """The settings of one server process.

    Each field is a flag (--read-ahead-bytes) and an environment variable
    (HEADRACE_READ_AHEAD_BYTES); the flag wins. None of them changes a byte of a batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_root: Annotated[tuple[Path, ...], BeforeValidator(_split_roots)] = Field(
        min_length=1,
        description="Folder that files may be read from; repeat it (in the environment: separate "
        "with ':') for several. Relative paths of a dataset start at the first.",
    )
    listen: str = Field(
        default="127.0.0.1:50051",
        description="Address to listen on: host:port, port 0 picks one and logs it; or "
        "unix:/path. The default is not reachable from other machines.",
    )
    tls_cert: str = Field(
        default="",
        description="File (PEM) with the server's certificate, followed by what leads to its CA: "
        "all of --listen is TLS then. Empty for plain text.",
    )
    tls_key: str = Field(
        default="", description="File (PEM) with the private key of --tls-cert, not encrypted."
    )
    tls_client_ca: str = Field(
        default="",
        description="File (PEM) with CAs: only clients with a certificate of one of them are "
        "served (mTLS). Empty for anyone.",
    )
    health_listen: str = Field(
        default="",
        description="Address (host:port) that serves gRPC health alone, in plain text, for probes "
        "that speak no TLS, as those of Kubernetes. Empty for none.",
    )
    cpu_threads: int = Field(
        default_factory=lambda: min(len(os.sched_getaffinity(0)), 64),
        ge=1,
        le=64,
        description="Threads that read, transform and encode, shared by all streams. Default: the "
        "cores this process may use.",
    )
    read_ahead_bytes: int = Field(
        default=GIB,
        ge=16 * MIB,
        le=1024 * GIB,
        description="Memory for decoded rows of all streams together, in bytes. A split that "
        "needs more by itself is refused. Default: four splits of the default size.",
    )
    shared_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        le=1024 * GIB,
        description="Of --read-ahead-bytes, what may keep batches that were sent, and decoded row "
        "groups that shards share, for other streams of the same data; in bytes, 0 keeps "
        "nothing. Whoever needs memory to read goes first. Default: six seconds of 400,000 rows "
        "a second of 100 bytes each.",
    )
    max_streams: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Streams served at once; one more is told to try another server. Default: "
        "16 trainer ranks of 4 streams each.",
    )
    max_message_bytes: int = Field(
        default=256 * MIB,
        ge=MIB,
        le=2047 * MIB,
        description="Largest message sent or taken, in bytes. Default: room for 65,536 rows of "
        "4 kB; gRPC's own default of 4 MiB is less than one usual batch.",
    )
    zstd_level: Annotated[int, Field(ge=-7, le=19)] | Literal["auto"] = Field(
        default="auto",
        description="ZSTD level of payloads, from -7 to 19; lower is faster and larger. Default: "
        "1 for planes of bytes where that saves a sixth or more of what -1 leaves, else -1.",
    )
    drain_timeout_s: float = Field(
        default=25.0,
        ge=0.0,
        le=3600.0,
        description="Seconds that streams get to reach a batch boundary after SIGTERM. Default: "
        "below the 30 s that Kubernetes grants.",
    )
    snapshot_cache_bytes: int = Field(
        default=256 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Memory for snapshots of datasets, plans of epochs and vocabularies of files, "
        "in bytes, least recently used dropped first. Default: one dataset of a million row "
        "groups, or very many small ones.",
    )
    metrics_listen: str = Field(
        default="",
        description="Address (host:port) that serves Prometheus metrics; empty for none.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people (text) or one JSON object a line (json)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )
    udf_module: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = Field(
        default=(),
        description="Module whose functions datasets may run (UDFs), with those of the modules "
        "below it; repeat it (in the environment: separate with ',') for several. Default: none, "
        "and a dataset that names a function is refused.",
    )
    udf: Literal["modules", "upload"] = Field(
        default="modules",
        description="Code that datasets may run (UDFs): that of --udf-module only (modules), or "
        "also code that the dataset carries (upload), from callers of this machine or with a "
        "certificate of --tls-client-ca. Whoever may upload runs what he likes, as this process.",
    )
    udf_timeout_s: float = Field(
        default=20.0,
        gt=0.0,
        le=3600.0,
        description="Seconds that a UDF may take for one block of rows, and for the import of its "
        "module; then its process is ended. Default: below half of a trainer's timeout, so that "
        "it hears why.",
    )
    udf_memory_bytes: int = Field(
        default=2 * GIB,
        ge=256 * MIB,
        le=1024 * GIB,
        description="Memory that each process of a UDF may take, in bytes, beside "
        "--read-ahead-bytes; there are at most --cpu-threads of them for each function. Default: "
        "a block of 65,536 rows of 4 kB, eight times.",
    )
    lifeline: str = Field(
        default="",
        description="Path of a FIFO; the server drains and exits once no process holds it open "
        "for writing. Empty for none.",
    )

    @field_validator("data_root")
    @classmethod
    def _existing_folders(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{root} is not a folder")
        return tuple(root.resolve() for root in roots)

    @field_validator("udf_module")
    @classmethod
    def _modules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no module (as in package.module)")
        return names

    @field_validator("listen", "health_listen", "metrics_listen")
    @classmethod
    def _address(cls, address: str) -> str:
        if not address or address.startswith("unix:"):
            return address
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{address!r} is not host:port (as in 0.0.0.0:50051)")
        return address

    @classmethod
    def env_names(cls) -> frozenset[str]:
        """The environment variables that set a field."""
        return frozenset(ENV_PREFIX + name.upper() for name in cls.model_fields)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **flags: Any) -> Settings:
        """The settings that an environment and flags (which win) make.

        Raises SettingsError, naming the variable or flag, for an unknown HEADRACE_ variable and
        for a value out of its bounds.
        """
        given = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX)}
        unknown = sorted(set(given) - cls.env_names())
        if unknown:
            raise SettingsError(
                f"no such setting: {', '.join(unknown)}; settings are "
                f"{', '.join(sorted(cls.env_names()))}"
            )
        values: dict[str, Any] = {
            name.removeprefix(ENV_PREFIX).lower(): value for name, value in given.items()
        }
        values |= {name: value for name, value in flags.items() if value is not None}
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(
                "; ".join(_explain(item, flags) for item in error.errors())
            ) from None


def _explain(item: Any, flags: Mapping[str, Any]) -> str:
    name = str(item["loc"][0])
    flag, variable = "--" + name.replace("_", "-"), ENV_PREFIX + name.upper()
    if item["type"] == "missing":
        return f"{flag} (or {variable}) is required"
    origin = flag if flags.get(name) is not None else variable
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{origin}={item['input']!s}: {message}"
