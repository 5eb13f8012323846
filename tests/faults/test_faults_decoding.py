"""Clips that kill what decodes them, and decoders whose parent is killed."""

import faulthandler
import os
import signal
import subprocess
import sys

import kills
import psutil
import pytest
import torch
from media import tone, write

from avcil.encoders.base import Reading
from avcil.encoders.mini import Mini
from avcil.extraction import decoding, features
from avcil.extraction.clips import ClipError, read_clip
from avcil.params.extraction import FeatureConfig
from avcil.tokens.manifest import Media
from avcil.tokens.store import read_store
from conftest import ROOT

READ = {"frames": 8, "fps": 4.0, "size": 32, "sample_rate": 16000}
READING = READ | {"streams": ["visual", "audio"], "silence": 1e-4}


def _clip(path, frequency: float = 440):
    return write(path, [k / 4 for k in range(8)], sound=tone(frequency, 2, 16000))


def _unknown(path, codec: bytes):
    """A film one of whose tracks has a codec that there is not."""
    head, _, tail = _clip(path).read_bytes().rpartition(codec)
    path.write_bytes(head + b"zzzz" + tail)
    return path


def test_a_track_of_an_unknown_codec_is_refused(tmp_path):
    """In a process of its own: PyAV's answer is a segmentation fault."""
    path = _unknown(tmp_path / "odd.mp4", b"avc1")
    (said,) = decoding.decode([Media(path)], READING, 1)
    assert said == f"{path}: video track of a codec unknown to FFmpeg; restore it or drop its row"
    with pytest.raises(ClipError, match=r"video track of a codec unknown to FFmpeg"):
        read_clip(path, **READ)


@pytest.fixture
def killer(monkeypatch):
    """A decoder that dies of some clips, each in its way."""

    def read(path, **reading):
        if "segv" in path.name:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in path.name:
            os._exit(3)
        if "bug" in path.name:
            raise RuntimeError("a mistake in the code")
        return read_clip(path, **reading)

    monkeypatch.setattr(decoding, "read_clip", read)


@pytest.fixture
def decoders():
    """The children of this process that were not there before; other tests' may be."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere decoders are not forked and do not see the killer")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_clip_that_kills_its_decoder_is_named_and_the_others_are_decoded(tmp_path, killer, decoders, workers):
    names = ["a", "segv0", "b", "exit", "segv1", "c", "d", "e", "f", "g", "h", "segv2"]
    media = [Media(_clip(tmp_path / f"{name}.mp4")) for name in names]
    answers = dict(zip(names, decoding.decode(media, READING, workers), strict=True))
    assert {name for name, answer in answers.items() if isinstance(answer, str)} == {"segv0", "exit", "segv1", "segv2"}
    assert answers["segv1"] == f"{media[4].path}: its decoder dies of it (SIGSEGV); restore it or drop its row"
    assert "(exit code 3)" in answers["exit"]
    assert answers["h"].frames.shape == (8, 32, 32, 3)
    assert not decoders(), "decoders are still there"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere decoders are not forked and do not see the killer")
def test_a_killer_is_quarantined_and_extraction_goes_on(params, tmp_path, killer):
    torch.manual_seed(0)
    encoder = Mini(params.encoder).watching(Reading(8, 4.0, 48, 16000)).eval().requires_grad_(False)
    config = FeatureConfig(clips_per_shard=3, batch=2, quarantine_share=0.5, silence=1e-4)
    media = {name: Media(_clip(tmp_path / f"{name}.mp4")) for name in ("a", "segv", "b", "c")}
    media["odd"] = Media(_unknown(tmp_path / "odd.mp4", b"mp4a"))
    features.extract(encoder, "mini", media, config, tmp_path / "store", workers=2)
    content = read_store(tmp_path / "store", verify=True)
    assert content.quarantined.keys() >= {"segv"} and not content.tokens.visual[1].any()
    assert all(content.tokens.visual[row].any() for row in (0, 2, 3))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process is not forked and does not see the killer")
def test_a_clip_that_kills_hides_the_others_lengths_and_no_more(tmp_path, monkeypatch):
    media = [Media(_clip(tmp_path / f"{name}.mp4")) for name in ("a", "b")]
    assert decoding.unread(media, 1.0).startswith("reads 1 s of a clip, and 2 of 2 are longer (`a.mp4`: 2.")
    assert decoding.unread(media, 2.0) == ""
    monkeypatch.setattr(decoding.av, "open", lambda path: os._exit(3))
    assert decoding.unread(media, 1.0) == ""


def test_a_mistake_in_the_code_is_no_clips_fault(tmp_path, killer, decoders):
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        list(decoding.decode([Media(_clip(tmp_path / "bug.mp4"))], READING, 1))
    assert not decoders()


def test_left_early_no_decoder_stays(tmp_path, decoders):
    clips = decoding.decode([Media(_clip(tmp_path / "a.mp4"))] * 30, READING, 2)
    next(clips)
    assert len(decoders()) == 2
    clips.close()
    assert not decoders()


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from avcil.extraction import decoding
from avcil.tokens.manifest import Media

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
fork = os.getpid()
os.register_at_fork(before=lambda: os.getpid() == fork and os.kill(fork, signal.SIGINT))
try:
    list(decoding.decode([Media(Path(sys.argv[1]))], {"silence": 0.0}, 1))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere decoders are not forked")
def test_ctrl_c_while_a_decoder_is_forked_is_not_swallowed(tmp_path):
    """By Python, which ignores what is raised around a fork."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "a.mp4")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "interrupted\n" and "Exception ignored" not in done.stderr


_PARENT = """
import sys, time
from pathlib import Path
from avcil.extraction import decoding
from avcil.tokens.manifest import Media

def slow(path, **reading):  # the middle of a long film
    print("decoding", flush=True)
    time.sleep(600)

decoding.read_clip = slow
reading = {"silence": 0.0}
next(decoding.decode([Media(Path("a"))] * 20, reading, 3))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere decoders are not forked and do not see the slow one")
def test_no_decoder_outlives_a_killed_parent():
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        for _ in range(3):
            parent.stdout.readline()
        decoders = psutil.Process(parent.pid).children(recursive=True)
        assert len(decoders) >= 3
        parent.kill()
        assert not kills.orphans(decoders)
