"""Damaged and hostile files for every reader: what comes of each, in processes that may die, hang or eat memory."""

import json
import os
import re
import resource
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import table
from damage import damaged
from readers import READERS, Reader, plain

from avcil.base.parent import end_with

SECONDS = 30  # of the processor, for one input
MEMORY = 2 << 30  # bytes beyond those of the start


def _value(reader: Reader, folder: Path) -> str:
    return json.dumps(reader.read(folder), default=plain)


def _outcome(reader: Reader, folder: Path, file: Path, sound: str, forged: bool) -> tuple[str, str]:
    """What came of one input, and the words of it."""
    try:
        value = _value(reader, folder)
    except (ValueError, OSError) as error:
        line = str(error)
        # a line that names the file, or the folder that it is in, and shows nothing that a terminal obeys
        named = file.name in line or str(file.parent) in line or file.parent.name in line
        plain_line = line.isprintable() and named
        return ("refused" if plain_line else "crashed"), f"{type(error).__name__}: {line[:300]!r}"
    except BaseException as error:
        return "crashed", f"{type(error).__name__}: {str(error)[:300]!r}"
    if value == sound:
        return "same", ""
    return ("silent" if reader.checked and not forged else "other"), ""


def _serve(reader: Reader, number: int, inputs: range, seed: int, pipe: int, scratch: str) -> None:
    """In a process of its own: a line an input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what imports print
    grown = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (grown, grown))
    # the sound files come back before each input: some readers write beside them
    sound_folder, folder = Path(scratch, "sound"), Path(scratch, "tried")
    sound_folder.mkdir()
    files = [file.relative_to(sound_folder) for file in reader.make(sound_folder)]
    shutil.copytree(sound_folder, folder)
    sound = _value(reader, folder)
    assert _value(reader, folder) == sound, f"{reader.name}: not the same twice"
    os.write(pipe, b'[-1, "ready", ""]\n')
    for i in inputs:
        rng = np.random.default_rng((seed, number, i))
        shutil.rmtree(folder)
        shutil.copytree(sound_folder, folder)
        file = folder / files[rng.integers(len(files))]
        content, forged = damaged(file.read_bytes(), file.name, rng)
        file.write_bytes(content)
        outcome, words = _outcome(reader, folder, file, sound, forged)
        os.write(pipe, (json.dumps([i, outcome, f"{file.name}: {words}" if words else ""]) + "\n").encode())


def _ends(child: int, pipe: int) -> Iterator[list]:
    """The lines of a child; at the end why it ended."""
    buffer, used = b"", 0.0
    while True:
        if select.select([pipe], [], [], 1.0)[0]:
            part = os.read(pipe, 1 << 16)
            if not part:
                yield ["end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
                return
            *lines, buffer = (buffer + part).split(b"\n")
            yield from map(json.loads, lines)
            used = _processor(child)
        elif _processor(child) - used > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            yield ["end", "hung"]
            return


def _processor(child: int) -> float:
    """Seconds of the processor that a process and its children have used."""
    process = psutil.Process(child)
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children()])


def tried(number: int, inputs: range, seed: int) -> tuple[Counter, list[list]]:
    """How often each outcome; and [input, outcome, words] of what should not be."""
    reader, counts, wrong = READERS[number], Counter(), []
    first = inputs.start
    while first < inputs.stop:
        campaign, (ours, theirs) = os.getpid(), os.pipe()
        scratch = tempfile.TemporaryDirectory(dir="/dev/shm")  # the child may not live to clear it away
        child = os.fork()
        if not child:
            status = 1
            try:
                end_with(campaign)
                os.close(ours)
                _serve(reader, number, range(first, inputs.stop), seed, theirs, scratch.name)
                status = 0
            finally:
                os._exit(status)
        os.close(theirs)
        ready = False
        for line in _ends(child, ours):
            if line[1] == "ready":
                ready = True
                continue
            if not ready:
                raise RuntimeError(f"{reader.name}: its sound files are not read ({line})")
            if line[0] == "end" and first < inputs.stop:
                line = [first, "hung" if line[1] == "hung" else "crashed", f"process ended: {line[1]}"]
            elif line[0] == "end":
                break
            counts[line[1]] += 1
            first = line[0] + 1
            if line[1] in ("crashed", "hung", "silent"):
                wrong.append(line)
        os.close(ours)
        scratch.cleanup()
    return counts, wrong


def kind(words: str) -> str:
    """Words without what differs from input to input: defects of one kind look alike."""
    return re.sub(r"0x[0-9a-f]+|\d+|/dev/shm/\S+", "#", words)[:160]


def campaign(total: int, seed: int, only: list[str] | None, *, chunk: int = 250) -> None:
    """So many inputs, shared among the readers; what was tried before is not tried again."""
    known = {(line["seed"], line["reader"], line["first"], line["last"]) for line in table.kept("inputs")}
    shares = sum(reader.share for reader in READERS)
    for number, reader in enumerate(READERS):
        count, began = -(-total * reader.share // shares), time.monotonic()
        for first in range(0, count, chunk) if only is None or reader.name in only else ():
            last = min(first + chunk, count)
            if (seed, reader.name, first, last) in known:
                continue
            counts, wrong = tried(number, range(first, last), seed)
            line = {"seed": seed, "reader": reader.name, "first": first, "last": last, "counts": counts, "wrong": wrong}
            with (table.KEPT / "inputs.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            for (outcome, words), times in Counter((outcome, kind(words)) for _, outcome, words in wrong).items():
                print(f"  {reader.name}, from {first}: {times} x {outcome}: {words}", flush=True)
            print(f"{reader.name}, to {last}: {dict(counts)} in {time.monotonic() - began:.0f} s", flush=True)
