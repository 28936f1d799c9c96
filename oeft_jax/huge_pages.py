"""Memory of the C library in pages of 2 MiB in place of 4 KiB (Linux with glibc).

XLA takes the working memory of a CPU program from malloc at every call and gives it back after.
By default glibc returns blocks of that size to the system, so each call pays a page fault for
every 4 KiB it touches: a fine-tuning step takes a quarter longer, of either preset.

What is kept is the main thread's heap, so programs must run in the main thread (`process.py`). One
heap for all threads would do without that, but compilers' threads would queue for it: compiling
took a quarter longer.
"""

import ctypes
import os
import sys

from oeft_jax.memory import host_free_bytes

MADV_HUGEPAGE = 14
PAGE = 2**21
LARGEST = 2**30  # larger blocks become the system's again when the reserve is full
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4


def use() -> bool:
    """Keeps freed memory in the process, and asks for huge pages; False where that cannot be.

    For commands, not for the library: it changes the allocator of the whole process. Call it in the
    main thread. Nothing is taken by it: the address range it reserves holds no memory until it is
    used. At most half of what is free is kept, since a block that is used again can lie beside the
    hole that it left.
    """
    if not sys.platform.startswith("linux") or "glibc" not in _c_library():
        return False
    c = ctypes.CDLL(None, use_errno=True)
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.argtypes = [ctypes.c_void_p]
    c.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = (host_free_bytes() or 0) // 2
    if size < PAGE:
        return False
    kept = c.mallopt(M_TRIM_THRESHOLD, -1)  # read as the largest number: never
    if not kept or not c.mallopt(M_MMAP_MAX, 0):  # the reserve must be part of the heap
        return False
    start = c.malloc(size)
    c.mallopt(M_MMAP_MAX, 65536)  # glibc's own value
    c.mallopt(M_MMAP_THRESHOLD, LARGEST)
    if not start:  # a limit on the address space
        return False
    first = -(-start // PAGE) * PAGE
    done = c.madvise(first, (start + size - first) // PAGE * PAGE, MADV_HUGEPAGE) == 0
    c.free(start)
    return done


def _c_library() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""
