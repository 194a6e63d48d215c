"""Memory of a server's process: what has been freed is kept for the next split.

A server allocates and frees arrays of the same sizes for every split. By default glibc gives blocks
of more than 128 KiB back to the kernel, which has to clear their pages for whoever gets them next.
Arrow's own allocator keeps what it has as it is.
"""

from __future__ import annotations

import ctypes

# glibc's malloc.h and mallopt(3). 32 MiB is the largest threshold that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 128 << 20


def keep_freed_memory() -> bool:
    """Has this process keep freed blocks of up to 32 MiB each; False where there is no glibc.

    For processes that do nothing but serve.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )
