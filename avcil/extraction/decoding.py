"""Decoding by processes of their own, ahead of the encoder by a few clips each.

Memory stays constant, however many clips there are. A process that a clip kills is replaced, and the clip named: each
has one clip at a time, so it is known which. None outlives the process that started it.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import torch

from avcil.base.parent import end_with
from avcil.extraction.clips import Clip, ClipError, read_clip
from avcil.tokens.manifest import Media

AHEAD = 4  # clips that wait for the encoder, for each process
TRIES = 2  # a process may also die because another one took the machine's memory
_STARTING = threading.Lock()


def usable(media: Media, reading: dict) -> Clip | str:
    """The clip, or why it cannot be used."""
    path, start = media
    try:
        clip = read_clip(path, start=start, **{k: v for k, v in reading.items() if k != "silence"})
    except ClipError as error:
        return str(error)
    if clip.waveform is not None and np.abs(clip.waveform).max(initial=0) < reading["silence"]:
        return f"{path}: silent (no sample reaches {reading['silence']}, features.silence); drop its row"
    return clip


def _serve(parent: int, requests: Connection, reading: dict) -> None:
    """What a process does: decode what it is sent, until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    end_with(parent)
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
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if waiting:
        signal.raise_signal(signal.SIGINT)


class _Decoder:
    """A process that decodes one clip at a time, and the thread that waits for it."""

    def __init__(self, reading: dict):
        self.reading, self.thread = reading, ThreadPoolExecutor(1)
        self.start()

    def start(self) -> None:
        # one at a time: a process that is forked in between would hold a copy of the pipe's far end and hide its death
        with _STARTING, _undisturbed():
            self.requests, far_end = multiprocessing.Pipe()
            arguments = (os.getpid(), far_end, self.reading)
            self.process = multiprocessing.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
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
                self.process.join(10)
                self.kill()
                code = self.process.exitcode
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
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for decoder in decoders:
            decoder.end()
