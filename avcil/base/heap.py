"""Memory that is freed is kept for the next batch, which is as large as the one before.

glibc gives a batch's megabytes back to the system as soon as they are freed, and the system hands them out again empty,
a page of 4 kB at a time: a tenth of the time that learning takes (LOG.md).
"""

import ctypes
import os
from contextlib import suppress

# mallopt(3): blocks of less than the first come from the heap, which keeps as many bytes as the second
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
FROM_HEAP, KEPT = 32 << 20, 256 << 20


def keep() -> None:
    """Have this process keep up to 256 MiB that it has freed; nothing where the allocator is another one, or somebody
    has set it up."""
    if any(name.startswith("MALLOC_") or "glibc.malloc" in value for name, value in os.environ.items()):
        return
    with suppress(AttributeError, OSError):  # not glibc
        for what, size in ((_MMAP_THRESHOLD, FROM_HEAP), (_TRIM_THRESHOLD, KEPT)):
            ctypes.CDLL(None).mallopt(what, size)
