"""How kernels are compiled: each for one signature, into numba's cache where there is one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import numba
from numba.core import caching, types

P = ParamSpec("P")
R = TypeVar("R")

# error_model="numpy" makes no branch of a division, which would stop vectorisation.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True}

_compiling = threading.Lock()

BYTES_IN = types.Array(types.uint8, 1, "C", readonly=True)
BYTES_OUT = types.Array(types.uint8, 1, "C")
NUMBERS_OUT = types.Array(types.int64, 1, "C")
TABLE_IN = types.Array(types.int64, 2, "C", readonly=True)
TABLE = types.Array(types.int64, 2, "C")
INT64 = types.int64
UINT64 = types.uint64


class Kernel(Generic[P, R]):
    """A function compiled by numba when it is first called, or before."""

    def __init__(self, function: Callable[P, R], signature: Any, nogil: bool) -> None:
        self._function = function
        self._signature = signature
        self._nogil = nogil
        self._compiled: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (self._compiled or self.compile())(*args, **kwargs)

    def compile(self) -> Callable[P, R]:
        """Compiles the kernel, or loads it from the cache. Idempotent and thread-safe."""
        with _compiling:
            if self._compiled is None:
                dispatcher = numba.njit(nogil=self._nogil, **_OPTIONS)(self._function)
                if _can_cache(self._function):
                    dispatcher.enable_caching()
                try:
                    dispatcher.compile(self._signature)
                except OSError as error:
                    # The disk of the cache is full, say: the kernel runs all the same. If it was
                    # compiled and could not be kept, the second call finds it.
                    warnings.warn(
                        f"compiled kernels cannot be kept ({error}), so every start compiles them: "
                        "point NUMBA_CACHE_DIR to a folder with room",
                        UserWarning,
                        stacklevel=2,
                    )
                    dispatcher._cache = caching.NullCache()
                    dispatcher.compile(self._signature)
                dispatcher.disable_compile()
                self._compiled = dispatcher
            return self._compiled


def kernel(signature: Any, *, nogil: bool = True) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Declares a kernel; it runs without the GIL, unless it is over before another thread ran.

    Who lets go of the GIL beside a thread that computes gets it back after the switch interval
    (5 ms), and both threads change places twice.
    """

    def declare(function: Callable[P, R]) -> Kernel[P, R]:
        return Kernel(function, signature, nogil)

    return declare


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Declares a function that kernels of the same file call; it is compiled into them.

    Of the same file only: numba's cache does not see changes in other files.
    """
    compiled: Callable[P, R] = numba.njit(**_OPTIONS)(function)
    return compiled


def _can_cache(function: Callable[..., Any]) -> bool:
    """Whether numba finds a folder to cache a function in; asked to cache without, it raises."""
    path = function.__code__.co_filename
    locators: list[Any] = caching.CacheImpl._locator_classes
    return any(locator.from_function(function, path) is not None for locator in locators)
