"""What decoding pages may come to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from preprocessor_server.errors import DataError, DeploymentError


class PageError(Exception):
    """A page that is decoded here is damaged; the message says how."""


@contextmanager
def decoding(place: str) -> Iterator[None]:
    """Turns PageError and Arrow's errors into DataError.

    DeploymentError where this server lacks a codec.
    """
    try:
        yield
    except pa.ArrowNotImplementedError as error:
        raise DeploymentError(
            "CODEC_UNSUPPORTED",
            f"{place}: this server cannot decode it ({error}); rewrite the file with ZSTD",
        ) from error
    except (PageError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            "FILE_CORRUPT",
            f"{place}: a page cannot be decoded ({error}); write the file again, or leave it out",
        ) from error
