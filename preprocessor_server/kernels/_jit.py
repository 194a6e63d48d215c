"""How kernels are compiled: lazily, for fixed signatures, into numba's cache where there is one.

Kernels are compiled by warm() or at their first call, never at import, so that programs that use
none do not wait. A kernel runs the signatures it was declared with and no others: what warm()
compiled is all there is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import numba
from numba.core import caching, types

P = ParamSpec("P")
R = TypeVar("R")

# fastmath is off everywhere: results are the same bits on every CPU. error_model="numpy" makes a
# division by zero give an infinity instead of a branch, which would stop vectorisation.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": False,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
}

_compiling = threading.Lock()

KERNELS: list[Kernel[..., Any]] = []


def array(dtype: types.Type) -> types.Array:
    """A contiguous input array: read-only ones (Arrow's) and writable ones are both accepted."""
    return types.Array(dtype, 1, "C", readonly=True)


def out(dtype: types.Type) -> types.Array:
    """A contiguous output array."""
    return types.Array(dtype, 1, "C")


def array2d(dtype: types.Type) -> types.Array:
    """A contiguous input matrix, read-only or writable."""
    return types.Array(dtype, 2, "C", readonly=True)


def out2d(dtype: types.Type) -> types.Array:
    """A contiguous output matrix."""
    return types.Array(dtype, 2, "C")


class Kernel(Generic[P, R]):
    """A function compiled by numba for a fixed list of signatures, without the GIL."""

    def __init__(self, function: Callable[P, R], signatures: tuple[Any, ...]) -> None:
        self.name = function.__name__.lstrip("_")
        self.function = function
        self._signatures = signatures
        self._compiled: Callable[P, R] | None = None
        # Why numba's cache does not have it, though there is one.
        self.not_kept = ""
        KERNELS.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        compiled = self._compiled or self.compile()
        return compiled(*args, **kwargs)

    def compile(self) -> Callable[P, R]:
        """Compiles every signature, or loads it from the cache. Idempotent and thread-safe."""
        with _compiling:
            if self._compiled is None:
                dispatcher = numba.njit(**_OPTIONS)(self.function)
                if _cache_locator(self.function) is not None:
                    dispatcher.enable_caching()
                for signature in self._signatures:
                    try:
                        dispatcher.compile(signature)
                    except OSError as error:
                        # The disk of the cache is full, say: the kernel runs all the same. If it
                        # was compiled and could not be kept, the second call finds it.
                        self.not_kept = str(error)
                        dispatcher._cache = caching.NullCache()
                        dispatcher.compile(signature)
                dispatcher.disable_compile()
                self._compiled = dispatcher
            return self._compiled


def kernel(*signatures: Any) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Declares a kernel with its signatures."""

    def declare(function: Callable[P, R]) -> Kernel[P, R]:
        return Kernel(function, signatures)

    return declare


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Declares a function that kernels of the same file call; it is compiled into them.

    Of the same file only: numba's cache does not see changes in other files.
    """
    compiled: Callable[P, R] = numba.njit(**_OPTIONS)(function)
    return compiled


def _cache_locator(function: Callable[..., Any]) -> Any | None:
    """The place where numba would cache a function, None if it can write nowhere.

    numba asks its locators in this order itself, and raises where this returns None.
    """
    path = function.__code__.co_filename
    locators: list[Any] = caching.CacheImpl._locator_classes
    for locator in locators:
        found = locator.from_function(function, path)
        if found is not None:
            return found
    return None


def cache_place() -> str:
    """Where compiled kernels are kept, or why they are not, for the log."""
    locator = _cache_locator(KERNELS[0].function)
    asked = os.environ.get("NUMBA_CACHE_DIR")
    if locator is None:
        return (
            "nowhere: every start compiles the kernels anew, since "
            + (f"NUMBA_CACHE_DIR={asked!r}" if asked else "no cache folder")
            + " can be written; point NUMBA_CACHE_DIR to a writable folder to keep them"
        )
    place = str(locator.get_cache_path())
    if asked and not os.path.abspath(place).startswith(os.path.abspath(asked)):
        return f"{place} (NUMBA_CACHE_DIR={asked!r} cannot be written)"
    return place
