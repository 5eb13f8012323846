"""Processes that end with the one that started them, however that one ends: SIGKILL leaves nobody to tell them."""

import ctypes
import os
import signal
import sys
import time
from threading import Thread

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int, child: int | None = None) -> None:
    """End this process within a second of the end of ``parent``, which started it, or ``child``. Both are ids.

    On Linux the system ends it, at once, where ``parent`` started it, and then with the thread that did: so whoever
    starts a process from a thread keeps that one as long.
    """
    if child is None and sys.platform == "linux":
        # a thread watches nothing while Python shuts down
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        try:
            # an orphan gets another parent
            while (os.getppid() if child is None else psutil.Process(child).ppid()) == parent:
                time.sleep(0.5)
        finally:
            os._exit(1)

    Thread(target=watch, daemon=True).start()
