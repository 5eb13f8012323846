"""Processes that end with the one that started them, however that one ends: SIGKILL leaves nobody to tell them."""

import os
import time
from threading import Thread

import psutil


def end_with(parent: int, child: int | None = None) -> None:
    """End this process within a second of the end of ``parent``, which started it, or ``child``. Both are ids."""

    def watch() -> None:
        try:
            # an orphan gets another parent
            while (os.getppid() if child is None else psutil.Process(child).ppid()) == parent:
                time.sleep(0.5)
        finally:
            os._exit(1)

    Thread(target=watch, daemon=True).start()
