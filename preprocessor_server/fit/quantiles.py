"""Quantiles of any number of values, in bounded memory, with an error that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# A level is halved once it holds so many values: of 10^9 values about 0.1 % of rank error, and
# 2 MB.
LEVEL_VALUES = 1 << 14


class Quantiles:
    """A sketch of values of one dtype: level h holds values that stand for 2^h ones each.

    A level that is full is sorted, and every other value moves up (Manku, Rajagopalan, Lindsay:
    Approximate medians and other quantiles in one pass, 1998). That moves the rank of any value by
    at most what one value of the level stands for; the sum is the error, counted and not estimated.
    Nothing is drawn by chance: the same values in the same parts give the same quantiles. Values
    are finite; fewer than level_values (an even number) are all kept.
    """

    def __init__(self, dtype: np.dtype[Any], level_values: int = LEVEL_VALUES) -> None:
        self._level_values = level_values
        self.count = 0
        self._error = 0
        self.dtype = dtype
        self._levels: list[npt.NDArray[Any]] = []
        # Which of two neighbours moves up: in turn, so that errors cancel out.
        self._turns: list[int] = []

    @property
    def rank_error(self) -> float:
        """By how much the rank of a quantile may be off at most, as a share of the values."""
        return self._error / self.count if self.count else 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes values [n] in."""
        self.count += len(values)
        self._push(0, values)
        self._halve()

    def merge(self, other: Quantiles) -> None:
        """Takes the values of another sketch in."""
        self.count += other.count
        self._error += other._error
        for level, values in enumerate(other._levels):
            self._push(level, values)
        self._halve()

    def at(self, shares: Sequence[float]) -> npt.NDArray[Any]:
        """Of each share q in [0, 1] the value that q of all values are not above.

        It is one of the values. Raises ValueError if there are none.
        """
        values, ranks = self._ranked()
        wanted = np.ceil(np.asarray(shares, np.float64) * self.count)
        places = np.searchsorted(ranks, wanted, side="left")
        return values[np.minimum(places, len(values) - 1)]

    def below(self, bounds: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The share of values that are below each of ascending bounds; by rank_error off at most.

        Raises ValueError if there are no values.
        """
        values, ranks = self._ranked()
        places = np.searchsorted(values, bounds, side="left")
        shares: npt.NDArray[np.float64] = np.append(0, ranks)[places] / self.count
        return shares

    def _ranked(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """The values that are kept, in order, and how many of all are not above each."""
        if not self.count:
            raise ValueError("no values")
        values = np.concatenate(self._levels)
        weights = [np.full(len(level), 1 << h) for h, level in enumerate(self._levels)]
        order = np.argsort(values, kind="stable")
        return values[order], np.cumsum(np.concatenate(weights)[order])

    def _push(self, level: int, values: npt.NDArray[Any]) -> None:
        while len(self._levels) <= level:
            self._levels.append(np.empty(0, self.dtype))
            self._turns.append(0)
        self._levels[level] = np.concatenate([self._levels[level], values])

    def _halve(self) -> None:
        level = 0
        while level < len(self._levels):
            values = self._levels[level]
            if len(values) >= self._level_values:
                values = np.sort(values)
                even = len(values) & ~1
                self._levels[level] = values[even:]
                self._push(level + 1, values[self._turns[level] : even : 2])
                self._turns[level] ^= 1
                self._error += 1 << level
            level += 1
