"""Less looking for garbage where there is none: a process that imports torch has a third of a million objects more, and
all of them stay. Looking through them took such a process a quarter of its time to begin and to end.

Python collects what holds one another in a circle after each 700 new objects (3.12: 2,000), and all that there is, once
more, when it ends. `spare` has it done less often, and not at the end, where the system takes everything back anyway.
"""

import atexit
import gc
import io
import os
import sys
from contextlib import suppress
from typing import Any

NEW_OBJECTS = 5_000  # no gain beyond (LOG.md)
_WRITERS = (io.BufferedWriter, io.BufferedRandom)


def spare() -> None:
    """Collect less often from now on; and not at the end, but in a script of a user's own, which ends as it would."""
    new, *older = gc.get_threshold()
    if 0 < new < NEW_OBJECTS:  # 0: somebody has switched it off
        gc.set_threshold(NEW_OBJECTS, *older)
    program = sys.modules["__main__"]
    script = hasattr(program, "__file__") and getattr(program, "__spec__", None) is None
    if not script:
        atexit.register(_leave_all)


def flush() -> None:
    """Write what files that are still open hold back."""
    for kinds in ((io.TextIOWrapper,), _WRITERS):  # text is written into what is below it
        for thing in gc.get_objects():
            if type(thing) in kinds:
                with suppress(ValueError, OSError):  # it is closed, or for reading
                    thing.flush()


def _leave_all() -> None:
    """Leave what there is out of the last collection, unless a file is open for writing: its last words wait in
    memory."""
    if not any(map(_holds_back, gc.get_objects())):
        gc.freeze()


def _holds_back(thing: Any) -> bool:
    # a file of zip, gzip or tar is open below what writes it; `isinstance` would ask each thing for its class, to which
    # some answer with a warning
    if type(thing) not in _WRITERS:
        return False
    try:
        # Python itself flushes the standard streams; by number, for a kernel puts others in their place
        return not thing.closed and getattr(thing.raw, "name", None) not in (0, 1, 2, os.devnull)
    except ValueError:  # its file was taken out of it
        return False
