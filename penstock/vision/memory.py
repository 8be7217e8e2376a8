"""What keeps a CPU at work instead of fetching memory."""

from __future__ import annotations

import ctypes
import ctypes.util
from contextlib import suppress

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GIBIBYTE = 2**30


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next activation.

    It would otherwise give every large tensor back to the kernel and fault it in anew, page by page: on two
    cores that takes as long as the convolutions of a small network. Does nothing with another C library.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, GIBIBYTE)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * GIBIBYTE - 1)
