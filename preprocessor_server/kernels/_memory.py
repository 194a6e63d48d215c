"""Memory by address, so that one call of a kernel takes any number of arrays.

A kernel that uses these is compiled anew when its own file changes, not when this one does.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_raw_memcpy: Any = cgutils.raw_memcpy
carray: Any = numba.carray  # type: ignore[attr-defined] # it is in numba's documentation


def _to_pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer, for carray."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del context, signature
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


def _copy_bytes(typing_context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copies size bytes between addresses; the two ranges do not overlap."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del signature
        to, from_ = (builder.inttoptr(value, cgutils.voidptr_t) for value in values[:2])
        _raw_memcpy(builder, to, from_, values[2], 1)
        return context.get_dummy_value()

    return types.void(target, source, size), generate


def _load_word(typing_context: Any, address: Any) -> Any:
    """The 8 bytes at an address, aligned or not, as a uint64."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del context, signature
        word = builder.load(builder.inttoptr(values[0], ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(address), generate


def _store_word(typing_context: Any, address: Any, word: Any) -> Any:
    """Writes a uint64 to the 8 bytes at an address, aligned or not."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del signature
        store = builder.store(values[1], builder.inttoptr(values[0], ir.IntType(64).as_pointer()))
        store.align = 1
        return context.get_dummy_value()

    return types.void(address, word), generate


def _prefetch(typing_context: Any, address: Any) -> Any:
    """Has the cache line of an address brought near, whatever lies there; nothing waits for it."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del signature
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
        # For reading, to be used more than once, data: llvm.org/docs/LangRef.html#llvm-prefetch.
        hint = [flag(0), flag(3), flag(1)]
        where = builder.inttoptr(values[0], cgutils.voidptr_t)
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(function, [where, *hint])
        return context.get_dummy_value()

    return types.void(address), generate


pointer: Any = intrinsic(_to_pointer)
copy_bytes: Any = intrinsic(_copy_bytes)
load_word: Any = intrinsic(_load_word)
store_word: Any = intrinsic(_store_word)
prefetch: Any = intrinsic(_prefetch)


def address_of(array: npt.NDArray[Any]) -> int:
    """Where the first element of a contiguous array lies."""
    # A fifth of the time that numpy's own answers take, dozens of times a batch.
    address: int = pa.py_buffer(array).address
    return address


def addresses_of(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Where the first element of each contiguous array lies, int64 [arrays]."""
    return np.array([address_of(array) for array in arrays], np.int64)
