"""Work in several processes of this machine, each on one thread: the same bits however many there are."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from threading import RLock
from types import ModuleType
from typing import TypeVar

import torch

from avcil.base import garbage
from avcil.base.device import CPU, take
from avcil.base.parent import end_with

_IMPORTED_IN = os.getpid()
_starting = RLock()  # held while the program, or its environment, is another one for processes that are started
Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """Those that this process may use: of a cluster's machine, `taskset` and jobs are given a few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[Item], Result],
    items: list[Item],
    workers: int | None = None,
    *,
    device: torch.device = CPU,
) -> Iterator[tuple[int, Result]]:
    """(number, function(item)) as they are done, ``workers`` at a time (`processors` if left out); for a single
    worker, or item, they are done here, for a process of its own would spend seconds on importing torch.

    ``function``: of a module, or a partial of one. Each process takes its share of memory, and of that of the
    ``device`` (`avcil.base.device.take`). Raises what the function raised, and ChildProcessError where a process was
    ended from outside.
    """
    workers = min(workers or processors(), len(items))
    if workers < 2:
        for number, item in enumerate(items):
            with _one_thread():
                result = function(item)
            yield number, result
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    try:
        processes = ProcessPoolExecutor(workers, _context(), _begin, (os.getpid(), dict(os.environ)))
    except OSError as error:  # a lock that they share cannot be made
        what = f"{error.strerror}; processes that work side by side keep locks there: make it writable"
        raise OSError(error.errno, what, "/dev/shm") from None
    with processes as pool:
        with _starting, _unless_named(function, items):
            futures = {pool.submit(_work, function, item, 1 / workers, device): n for n, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            why = "a process that worked was ended from outside, for want of memory perhaps"
            way_out = "run this again, it goes on; a script of your own works below `if __name__ == '__main__':`"
            raise ChildProcessError(f"{why}; {way_out}") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _context() -> BaseContext:
    """How processes are started: as copies of one that imports torch once and does nothing else, so that all but the
    first take no time, however many there are; where there can be no such thing, each imports it."""
    # who was forked takes its parent's for its own, and fails
    forked = os.getpid() != _IMPORTED_IN
    if forked or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # none of avcil: this process may have another one than a new process would find
    context.set_forkserver_preload(["torch", "pandas"])
    try:
        with _starting, _found_alike():
            forkserver.ensure_running()
    except OSError:  # it cannot listen: the temporary folder's name is too long for that, or its disk takes no sockets
        return multiprocessing.get_context("spawn")
    return context


@contextmanager
def _found_alike() -> Iterator[None]:
    """A process that is started meanwhile finds modules where this one does, and not in the current folder first, which
    may hold a `pandas.py` of somebody's own."""
    here = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(str(folder) or os.curdir for folder in sys.path)}
    before = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _begin(parent: int, environment: dict[str, str]) -> None:
    """What a worker does first. ``parent`` is the process that it works for."""
    started_by = os.getppid()
    if started_by == parent:
        end_with(parent)
        return
    # a copy: the one that it was copied from lives as long as its copies, and knows the environment of its own start
    end_with(parent, started_by)
    os.environ.clear()
    os.environ.update(environment)
    # it ends without what Python does at its end, by which files are written that nobody closed
    Finalize(None, garbage.flush, exitpriority=0)


@contextmanager
def _unless_named(*work: object) -> Iterator[None]:
    """Processes that are started meanwhile do not run the program's own file again, unless ``work`` is of it: it may
    import torch, for seconds in which they watch nobody, and may lack `if __name__ == "__main__":`."""
    if b"__main__" in bytes(ForkingPickler.dumps(work)):
        yield
        return
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(function: Callable[[Item], Result], item: Item, share: float, device: torch.device) -> Result:
    """What a worker does. It watches its parent since before torch, which takes seconds, was imported for this."""
    torch.set_num_threads(1)
    take(share, device)
    return function(item)
