"""Decoding by processes of their own, ahead of the encoder by a few clips each.

Memory stays constant, however many clips there are. A process that a clip kills is replaced, and the clip named: each
has one clip at a time, so it is known which. None outlives the process that started it.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import torch

from avcil.base.parent import end_with
from avcil.extraction.clips import AbsentTrack, Clip, ClipError, opened, read_clip
from avcil.tokens.manifest import Media

AHEAD = 4  # clips that wait for the encoder, for each process
LOOKED_AT = 100  # clips whose length is asked for before extraction
TRIES = 2  # a process may also die because another one took the machine's memory
_STARTING = threading.Lock()


def usable(media: Media, reading: dict) -> Clip | str:
    """The clip, or why it cannot be used. Where ``reading`` keeps incomplete clips, one that lacks a stream, or is
    silent, has None in its place; one that lacks all cannot be used."""
    path, start = media
    # `reading` is a header's: it also says what becomes of a clip, which is no way of reading
    how = {key: value for key, value in reading.items() if key not in ("silence", "incomplete")}
    try:
        clip = read_clip(path, start=start, **how)
        if clip.waveform is not None and np.abs(clip.waveform).max(initial=0) < reading["silence"]:
            what = f"silent (no sample reaches {reading['silence']}, features.silence)"
            raise AbsentTrack(f"{path}: {what}; drop its row", "audio")
    except AbsentTrack as error:
        others = [stream for stream in reading["streams"] if stream != error.stream]
        if not others or reading.get("incomplete") != "keep":
            return str(error)
        return usable(media, reading | {"streams": others})
    except ClipError as error:
        return str(error)
    return clip


def _serve(parent: int, requests: Connection, reading: dict) -> None:
    """What a process does: decode what it is sent, until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    end_with(parent)
    # torchvision may resize here: threads of several processes on few cores wait for one another (LOG.md)
    torch.set_num_threads(1)
    while True:
        media = requests.recv()
        try:
            answer = usable(media, reading)
        except Exception as error:  # raised again in the parent
            answer = error
        requests.send(answer)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits. What libraries do around a fork swallows it otherwise, and may keep a lock for ever (filelock)."""
    # elsewhere Python sets no handlers, and no Ctrl-C arrives there
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        # None: the handler was not set by Python, which cannot set it again
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if waiting:
        signal.raise_signal(signal.SIGINT)


class _Decoder:
    """A process that decodes one clip at a time, and the thread that waits for it."""

    def __init__(self, reading: dict):
        # one thread a process: it waits for one clip at a time while others go on
        self.reading, self.thread = reading, ThreadPoolExecutor(1)
        self.start()

    def start(self) -> None:
        # one at a time: a process that is forked in between would hold a copy of the pipe's far end and hide its death
        with _STARTING, _undisturbed():
            self.requests, far_end = multiprocessing.Pipe()
            arguments = (os.getpid(), far_end, self.reading)
            self.process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
            # a copy here would keep the pipe open, and the death of the process would be no end of file to `decode`
            far_end.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.requests.close()

    def end(self) -> None:
        self.thread.shutdown(cancel_futures=True)  # the clip at hand is waited for
        self.kill()

    def decode(self, media: Media) -> Clip | str:
        for _ in range(TRIES):
            try:
                self.requests.send(media)
                answer = self.requests.recv()
            except (EOFError, OSError):
                # time to end by itself: killed at once, it would be said to die of SIGKILL
                self.process.join(10)
                self.kill()
                code = self.process.exitcode
                # for the next try, or the next clip; on Linux it ends with the thread that starts it
                # (avcil/base/parent.py), here one that lasts until `end`
                self.start()
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return f"{media.path}: its decoder dies of it ({how}); restore it or drop its row"


def decode(media: list[Media], reading: dict, workers: int) -> Iterator[Clip | str]:
    """Clips in order, decoded by ``workers`` processes (0: in this one), or why they cannot be used."""
    if not workers:
        yield from (usable(clip, reading) for clip in media)
        return
    decoders = [_Decoder(reading) for _ in range(min(workers, len(media)))]
    ahead: deque[Future[Clip | str]] = deque()
    try:
        for number, clip in enumerate(media):
            decoder = decoders[number % len(decoders)]
            ahead.append(decoder.thread.submit(decoder.decode, clip))
            # the oldest is waited for, whichever is done: clips come in order, and few are held
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # also where whoever takes the clips stops early
        for decoder in decoders:
            decoder.end()


# ---- what will not be read


def _length(media: Media) -> float:
    """Seconds from where the clip begins to the end of its file; 0 of a file that does not tell."""
    try:
        with opened(media.path) as container:
            return (container.duration or 0) / av.time_base - media.start
    except (OSError, av.error.FFmpegError):  # extraction names what cannot be read
        return 0.0


def unread(clips: Iterable[Media], seconds: float) -> str:
    """How many of ``clips`` are longer than the ``seconds`` that are read of each, in one line; none if none is.

    A clip ends where the next one of its file begins, or with the file. Of many clips about `LOOKED_AT` are looked at,
    in a process of their own, for one may kill it: then nothing is known.
    """
    ordered = sorted(clips)
    # a file without a name follows the last clip, so that this one has a next one as well
    ends = (b.start - a.start if a.path == b.path else math.inf for a, b in pairwise([*ordered, Media(Path())]))
    looked_at = list(zip(ordered, ends, strict=True))[:: max(1, len(ordered) // LOOKED_AT)]
    try:
        with ProcessPoolExecutor(1, initializer=end_with, initargs=(os.getpid(),)) as pool:
            lengths = [*map(min, pool.map(_length, [clip for clip, _ in looked_at]), [end for _, end in looked_at])]
    except BrokenProcessPool:
        return ""
    longer = [number for number, length in enumerate(lengths) if length > 1.05 * seconds]  # containers round up
    if not longer:
        return ""
    example = f"`{looked_at[longer[0]][0].path.name}`: {lengths[longer[0]]:.1f} s"
    many = f"{len(longer)} of {len(lengths)}" + (" looked at" if len(lengths) < len(ordered) else "")
    return f"reads {seconds:g} s of a clip, and {many} are longer ({example})"
