"""Functions called in this very process: for a debugger, never for a server."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from preprocessor_server.settings import Settings
from preprocessor_server.udf import archive
from preprocessor_server.udf.call import ReturnedError, call, fingerprint, load, source_files
from preprocessor_server.udf.declared import DeclaredUdf
from preprocessor_server.udf.process import UdfFailedError
from preprocessor_server.udf.workers import check_code


class InProcess:
    """Runs functions without limits of time and memory; what they raise comes through as it is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Raises DeploymentError for a function that the settings do not allow."""
        check_code(udf, self._settings)

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """Identifies the code of a function as it is now."""
        load(udf.code)
        if udf.code.archive:
            return archive.fingerprint(udf.code.archive)
        return fingerprint(source_files(udf.function))

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The outputs of a block. Raises UdfFailedError if it returns other than it declares."""
        del fingerprint
        try:
            return call(load(udf.code), batch, udf.typed_outputs, seed)
        except ReturnedError as error:
            raise UdfFailedError("returned", str(error)) from error

    def close(self) -> None:
        """There is nothing to end."""
