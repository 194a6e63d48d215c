"""Tensors that show a part of an arena."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

# uint8 [n]. An array where it is the memory of a CPU and nobody's to lock: torch lets go of the GIL
# for every view of a tensor, and numpy does not.
Arena: TypeAlias = torch.Tensor | npt.NDArray[np.uint8]

_DTYPES = {
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


def view(
    arena: Arena, offset_bytes: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """A tensor of a shape, column after column, at an offset that is a multiple of its elements."""
    if dtype is torch.bfloat16:
        # numpy has none.
        return view(arena, offset_bytes, shape, torch.float16).view(dtype)
    if isinstance(arena, np.ndarray):
        return torch.from_numpy(np.ndarray(shape, _DTYPES[dtype], arena, offset_bytes, order="F"))
    flat = arena[offset_bytes : offset_bytes + math.prod(shape) * dtype.itemsize].view(dtype)
    return flat.view(shape[::-1]).permute(*range(len(shape))[::-1])
