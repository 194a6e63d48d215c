"""Where a value is, for people: feature and row, through runs and lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from preprocessor_server.errors import DataError
from preprocessor_server.frame import Indices, Mask


@dataclass(frozen=True, slots=True)
class Place:
    """The values of a column on their way to a feature.

    inverse [rows] leads from rows to the column's runs, None if it is a column of rows; offsets
    leads from its lists to their elements, None if it has no lists.
    """

    feature: str
    inverse: npt.NDArray[np.int32] | None
    offsets: Indices | None = None

    def within(self, offsets: Indices) -> Place:
        """The place of the elements of lists."""
        return replace(self, offsets=offsets)

    def refuse(self, bad: Mask | None, reason: str, what: str, way_out: str) -> None:
        """Raises DataError if a row of the frame holds a bad value.

        A run that no row refers to (its rows were filtered out) may hold anything. The message
        counts the bad values of all rows and gives the first row's number. None: nothing is bad.
        """
        if bad is None or not bad.any():
            return
        counts = bad.astype(np.int64)
        if self.offsets is not None:
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
            counts = before[self.offsets[1:]] - before[self.offsets[:-1]]
        if self.inverse is not None:
            counts = counts[self.inverse]
        total = int(counts.sum())
        if total == 0:
            return
        row = int(np.argmax(counts > 0))
        raise DataError(
            reason,
            f"{self.feature}: {total:,} {what}, first at row {row} of the split; {way_out}",
        )
