"""How many values, their mean and spread, and the least and greatest: in parts that are merged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocessor_server.kernels import sum_lists


@dataclass(frozen=True, slots=True)
class Moments:
    """Of count values: mean, the sum of squared distances from it, min and max; in float64.

    Without values mean and squares are 0, min is +inf and max is -inf.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Moments:
        """Of finite numbers [n], added from the first to the last."""
        if not len(values):
            return cls()
        wide = values.astype(np.float64, copy=False)
        mean = _sum(wide) / len(wide)
        # Were the mean exact, the distances would add up to 0 (Chan, Golub, LeVeque 1983, 1.7).
        distances = wide - mean
        squares = _sum(distances * distances) - _sum(distances) ** 2 / len(wide)
        return cls(len(wide), mean, max(squares, 0.0), float(wide.min()), float(wide.max()))

    def merge(self, other: Moments) -> Moments:
        """Of the values of both (Chan, Golub, LeVeque: Updating formulae, 1979, 2.1)."""
        if not other.count or not self.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + apart * apart * (self.count / count) * other.count,
            min(self.min, other.min),
            max(self.max, other.max),
        )

    @property
    def std(self) -> float:
        """The standard deviation of the population."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def _sum(values: npt.NDArray[np.float64]) -> float:
    return float(sum_lists(np.array([0, len(values)]), values)[0])
