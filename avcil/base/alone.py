"""One process at a time in a folder: a second one is refused in one line, and a killed one leaves no lock behind."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_HELD: set[Path] = set()  # by this process
PATIENCE = 5.0  # seconds: a killed process's own children, which hold its folders too, end within one


@contextmanager
def alone(folders: Iterable[Path], patience: float | None = None) -> Iterator[None]:
    """Hold the folders, which are made if they are not there, and clear away what killed processes left half written.

    It is the operating system that lets go, however this process ends. Where it cannot hold a folder (Windows, some
    network file systems), nothing is held. What this process holds already it may hold again. Raises BlockingIOError
    naming a folder that another process holds for more than so many seconds of ``patience``.
    """
    with ExitStack() as held:
        for folder in sorted(set(folders)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                what = f"{error.strerror}; make room, or make the folder above it writable, or name another one"
                raise OSError(error.errno, what, str(folder)) from None
            place = folder.resolve()
            if place not in _HELD and _hold(folder, held, PATIENCE if patience is None else patience):
                _HELD.add(place)
                held.callback(_HELD.discard, place)
                _clear(folder)
        yield


def _hold(folder: Path, held: ExitStack, patience: float) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                what = "another process writes there; wait until it has ended, or end it"
                raise BlockingIOError(error.errno, what, str(folder)) from None
            time.sleep(0.1)
        except OSError:  # of a file system that holds nothing
            return False


def _clear(folder: Path) -> None:
    """Drop what killed processes left under the names that `unfinished` gives, and nothing else: the folder may be a
    person's own."""
    for path in [path for path in folder.rglob(".*") if re.fullmatch(r"\..+\.\d+\.unfinished", path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
