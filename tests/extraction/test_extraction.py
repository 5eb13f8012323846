"""Extraction that survives real corpora: awkward files, kills at any moment, workers, parts of longer files, Ray."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from media import tone, write, write_with_pause

from avcil.encoders.base import Reading
from avcil.encoders.mini import Mini
from avcil.extraction import extract, features
from avcil.extraction.clips import ClipError, read_clip
from avcil.params.extraction import FeatureConfig
from avcil.tokens import store
from avcil.tokens.manifest import Media
from avcil.tokens.store import StoreError, read_store
from avcil.tokens.tokens import Layout
from conftest import ROOT

READ = {"frames": 8, "fps": 4.0, "size": 32, "sample_rate": 16000}
CONFIG = FeatureConfig(clips_per_shard=3, batch=2, quarantine_share=0.5, silence=1e-4)


def _number(pixels: np.ndarray) -> int:
    """Which of `media.picture` this is, read off its right half."""
    return round(pixels[8:-8, 20:28].mean() / 8)


def _peak(waveform: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * rate / len(waveform))


# ---- awkward files


def test_variable_frame_rate_shows_what_was_on_screen(tmp_path):
    """Pictures at uneven times: the one begun last before each instant, the first one before it begins."""
    times = [0.0, 0.05, 0.9, 1.0, 1.01, 1.5, 1.95]
    path = write(tmp_path / "vfr.mp4", times, sound=tone(440, 2, 16000))
    clip = read_clip(path, **READ)
    instants = (np.arange(8) + 0.5) / 4
    assert [_number(p) for p in clip.frames] == [max(k for k, t in enumerate(times) if t <= at) for at in instants]


@pytest.mark.parametrize(("rate", "layout", "channels"), [(8000, "mono", 1), (48000, "stereo", 2), (44100, "5.1", 6)])
def test_any_rate_and_layout_becomes_mono_at_the_wanted_rate(tmp_path, rate, layout, channels):
    path = write(
        tmp_path / "a.mp4", [k / 8 for k in range(16)], sound=tone(1000, 2, rate, channels), rate=rate, layout=layout
    )
    clip = read_clip(path, **READ)
    assert clip.waveform.shape == (32000,) and _peak(clip.waveform, 16000) == pytest.approx(1000, abs=2)
    assert 0.4 < np.abs(clip.waveform).max() < 0.6


@pytest.mark.parametrize("resize", ["ffmpeg", "bilinear", "bicubic"])
def test_portrait_is_stretched_or_cut(tmp_path, resize):
    path = write(tmp_path / "tall.mp4", [k / 4 for k in range(8)], width=48, height=96, sound=tone(440, 2, 16000))
    for fit in ("stretch", "crop"):
        clip = read_clip(path, fit=fit, resize=resize, **READ)
        assert clip.frames.shape == (8, 32, 32, 3)
        assert [_number(p) for p in clip.frames] == list(range(8))
        left, right = clip.frames[7, :, 4:12].mean(), clip.frames[7, :, 20:28].mean()
        assert right - left == pytest.approx(4, abs=1.5), "the picture is not mirrored or turned"


@pytest.mark.parametrize("resize", ["ffmpeg", "bilinear"])
@pytest.mark.parametrize(
    ("matrix", "dark"), [((0, 1, -1, 0), "top"), ((-1, 0, 0, -1), "right"), ((0, -1, 1, 0), "bottom")]
)
def test_a_film_that_is_shown_turned_is_seen_upright(tmp_path, matrix, dark, resize):
    """Its track header says by which matrix: a quarter to the right, a half, a quarter to the left."""
    film = write(tmp_path / "held.mp4", [k / 4 for k in range(8)])
    content = bytearray(film.read_bytes())
    first = content.index(b"tkhd") + 44
    a, b, c, d = (struct.pack(">i", 65536 * value) for value in matrix)
    content[first : first + 8], content[first + 12 : first + 20] = a + b, c + d
    film.write_bytes(content)
    last = read_clip(film, resize=resize, streams=("visual",), **READ).frames[-1].astype(int)
    halves = {"top": last[:8], "bottom": last[-8:], "left": last[:, :8], "right": last[:, -8:]}
    assert min(halves, key=lambda side: halves[side].mean()) == dark


def test_crop_is_the_middle_of_a_wide_picture(tmp_path):
    import av

    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt, stream.options = 96, 32, "yuv444p", {"crf": "1"}
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(wide, format="rgb24")))
        container.mux(stream.encode())
    for resize in ("ffmpeg", "bilinear"):
        clip = read_clip(path, fit="crop", resize=resize, streams=("visual",), **READ)
        assert clip.waveform is None and clip.frames[0, :, 2:-2].min() > 180
        assert read_clip(path, resize=resize, streams=("visual",), **READ).frames[0].min() < 20


@pytest.mark.parametrize("start", [0.0, 3.0, 5.25])
def test_a_part_of_a_longer_file_is_that_part(tmp_path, start):
    """Pictures every 1/4 s, key frames 3 s apart; a chirp whose pitch tells the time."""
    at = np.arange(9 * 16000) / 16000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * at + 100 * at**2))  # 200 + 200 t Hz
    path = write(tmp_path / "long.mp4", [k / 4 for k in range(31)], sound=chirp[None])
    clip = read_clip(path, start=start, **READ)
    assert [_number(p) for p in clip.frames] == [int(4 * start) + k for k in range(8)]
    middle = clip.waveform[15200:16800]
    assert _peak(middle, 16000) == pytest.approx(200 + 200 * (start + 1), abs=15)
    with pytest.raises(ClipError, match=r"long\.mp4: video track of 0\.\d\d s where 2\.00 s are wanted"):
        read_clip(path, start=7.5, **READ)


def test_a_late_sound_is_late(tmp_path):
    """Half a second of silence, then a tone: nothing is shifted to the front, the missing end is silence."""
    sound = np.concatenate([np.zeros((1, 8000)), tone(440, 1, 16000)], 1)
    clip = read_clip(write(tmp_path / "late.mp4", [k / 4 for k in range(8)], sound=sound), **READ)
    loud = np.abs(clip.waveform) > 0.05
    assert not loud[:7500].any() and loud[8500:23000].mean() > 0.8 and not loud[25500:].any()


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_a_pause_is_silence_and_shifts_nothing(tmp_path, rate):
    sound = tone(440, 2, 48000)[0]
    path = write_with_pause(tmp_path / "pause.mkv", sound, 48000, (0.5, 1.0))
    heard = read_clip(path, streams=("audio",), frames=1, fps=0.5, size=32, sample_rate=rate).waveform
    there = tone(440, 2, rate)[0]
    there[rate // 2 : rate] = 0
    # at the edges of the pause the resampler rings
    assert np.abs(heard - there).mean() < 1e-3


def test_sound_alone_from_a_wav(tmp_path):
    path = write(tmp_path / "a.wav", sound=tone(500, 10, 44100), rate=44100)
    clip = read_clip(path, start=4.5, streams=("audio",), frames=1, fps=1.0, size=32, sample_rate=44100)
    assert clip.frames is None and clip.waveform.shape == (44100,)
    assert _peak(clip.waveform, 44100) == pytest.approx(500, abs=2)


@pytest.mark.parametrize("sample", [np.nan, np.inf, 3e38])
def test_sound_that_is_no_number_is_a_clip_s_fault_and_stops_no_extraction(encoder, corpus, tmp_path, sample):
    """A .wav of 32-bit floating-point numbers."""
    good, bad = tone(440, 2, 16000)[0].astype("<f4"), tmp_path / "bad.wav"
    good[9000] = sample
    head = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32) + b"data" + struct.pack("<I", good.nbytes)
    bad.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(head) + good.nbytes) + b"WAVE" + head + good.tobytes())
    media = {"good": corpus["good0"], "bad": Media(bad)}
    features.extract(encoder, "mini", media, CONFIG, tmp_path / "s", workers=0, streams=("audio",))
    reason = f"{bad}: sound of NaN, or far beyond full scale; restore it or drop its row"
    assert read_store(tmp_path / "s").quarantined == {"bad": reason}


# ---- the store


@pytest.fixture(scope="module")
def encoder(params):
    torch.manual_seed(0)
    reading = Reading(frames=8, fps=4.0, size=48, sample_rate=16000)
    return Mini(params.encoder).watching(reading).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, Media]:
    """Eleven clips: good ones, two parts of one longer file, and four that cannot be used."""
    folder = tmp_path_factory.mktemp("corpus")
    times = [k / 4 for k in range(8)]
    media = {}
    for number in range(5):
        path = write(folder / f"good{number}.mp4", times, sound=tone(200 + 100 * number, 2, 16000))
        media[f"good{number}"] = Media(path)
    long = write(folder / "long.mp4", [k / 4 for k in range(24)], sound=tone(800, 6, 16000))
    media |= {"first": Media(long), "second": Media(long, 2.0)}
    media["mute"] = Media(write(folder / "mute.mp4", times))
    media["silent"] = Media(write(folder / "silent.mp4", times, sound=np.zeros((1, 32000))))
    media["one frame"] = Media(write(folder / "one.mp4", [0.0], sound=tone(300, 2, 16000)))
    media["gone"] = Media(folder / "gone.mp4")
    return media


def _bytes(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(encoder, corpus, tmp_path_factory):
    """The store of an unbroken extraction in one process."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    features.extract(encoder, "mini", corpus, CONFIG, folder, workers=0)
    return folder


def test_unusable_clips_are_listed_with_reasons(whole):
    found = read_store(whole, verify=True).quarantined
    reasons = {
        "mute": "no audio track",
        "silent": "silent",
        "one frame": "video track of 0.00 s",
        "gone": "no such file",
    }
    assert found.keys() == reasons.keys()
    assert all(reason in found[clip] for clip, reason in reasons.items())


def test_parts_of_one_file_are_different_clips(whole):
    kept = read_store(whole)
    first, second = (kept.header.clip_ids.index(name) for name in ("first", "second"))
    assert not torch.equal(kept.tokens.visual[first], kept.tokens.visual[second])


def test_any_number_of_workers_writes_the_same_bytes(encoder, corpus, whole, tmp_path):
    features.extract(encoder, "mini", corpus, CONFIG, tmp_path / "s", workers=2)
    assert _bytes(tmp_path / "s") == _bytes(whole)


def test_another_start_is_another_clip(encoder, corpus, whole, tmp_path):
    moved = corpus | {"second": Media(corpus["second"].path, 1.0)}
    header = features.header_of(encoder, "mini", list(moved), CONFIG)
    stale = store.stale_shards(whole, features.fingerprints(header, moved))
    assert list(stale) == [2], "the shard it stands in, and no other"


def test_a_revision_of_the_weights_is_told_apart(encoder, corpus, whole):
    header = features.header_of(encoder, "mini", list(corpus), CONFIG)
    for change in ({"revision": "other"}, {"checksum": "0"}, {"layout": encoder.layout._replace(patches=1)}):
        with pytest.raises(
            StoreError, match=rf"holds other features \({next(iter(change))} differ\); delete the folder"
        ):
            store.open_store(whole, header._replace(**change))


def test_what_a_store_takes_is_said_beforehand():
    full = Layout(16, 576, 250, 1024, 1024)
    assert full.clip_bytes == 2 * (16 * 576 * 1025 + 250 * 1024)
    said = store.cost(full, 200_000)
    assert said.startswith("19.40 MB a clip, 3880.96 GB for 200000 clips; with patches: 7, ")
    assert "patches" not in store.cost(full, 100)


def test_a_store_of_an_older_version_is_refused(tmp_path, whole):
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "header.json").write_text(json.dumps({"encoder": "mini", "film": {}}))
    with pytest.raises(StoreError, match="of an older version; delete the folder"):
        read_store(tmp_path)


def test_sound_alone_leaves_one_zero_token_for_sight(encoder, corpus, tmp_path):
    usable = {name: corpus[name] for name in ("good0", "good1", "one frame")}
    features.extract(encoder, "mini", usable, CONFIG, tmp_path / "s", workers=0, streams=("audio",))
    kept = read_store(tmp_path / "s")
    assert kept.quarantined == {} and kept.tokens.visual.shape == (3, 1, 1, 128)
    assert not kept.tokens.visual.any() and kept.tokens.audio.abs().sum() > 0


_EXTRACT = """
import sys, torch
from pathlib import Path
sys.path[:0] = ["tests", "tests/extraction"]
from test_extraction import CONFIG, features, Media, Mini, Reading
from avcil.params import load
torch.set_num_threads(1)
torch.manual_seed(0)
encoder = Mini(load(Path("params.yaml")).encoder).watching(Reading(8, 4.0, 48, 16000)).eval()
media = {p.stem: Media(p) for p in sorted(Path(sys.argv[1]).glob("*.mp4"))}
print("ready", flush=True)
features.extract(encoder, "mini", media, CONFIG, Path(sys.argv[2]), workers=1)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(encoder, tmp_path):
    """SIGKILL, workers and all, a little later each time, until a run gets through."""
    for number in range(24):
        write(tmp_path / f"clip{number:02d}.mp4", [k / 4 for k in range(8)], sound=tone(200 + 20 * number, 2, 16000))
    media = {p.stem: Media(p) for p in sorted(tmp_path.glob("*.mp4"))}
    features.extract(encoder, "mini", media, CONFIG, tmp_path / "whole", workers=0)
    kills = 0
    for attempt in range(20):
        command = [sys.executable, "-c", _EXTRACT, str(tmp_path), str(tmp_path / "killed")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as run:
            run.stdout.readline()
            try:
                code = run.wait(0.1 + 0.4 * attempt)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                kills += 1
                continue
        assert code == 0
        break
    assert kills >= 1
    time.sleep(0.1)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")


# ---- Ray


@pytest.mark.slow
def test_ray_writes_the_same_bytes_as_one_machine(params, corpus, tmp_path):
    pytest.importorskip("ray", reason="the extra avcil[ray] is not installed")
    from avcil.extraction import cluster

    load = partial(extract.load_encoder, "mini", params, ROOT / "prior")
    features.extract(load(), "mini", corpus, CONFIG, tmp_path / "here", workers=0)
    make = partial(cluster.make, load, 2, 0.0)
    features.extract(load(), "mini", corpus, CONFIG, tmp_path / "ray", workers=0, make=make)
    assert _bytes(tmp_path / "ray") == _bytes(tmp_path / "here")
    strict = CONFIG.model_copy(update={"quarantine_share": 0.0})
    with pytest.raises(StoreError, match=r"\d unusable clips, 0 allowed"):
        features.extract(load(), "mini", corpus, strict, tmp_path / "strict", workers=0, make=make)

    def spoilt():
        encoder = load()
        encoder.audio_std.fill_(float("nan"))
        return encoder

    make = partial(cluster.make, spoilt, 1, 0.0)
    with pytest.raises(StoreError, match=r"^clip `\w+`: the encoder gave NaN, or more than float16 holds, in audio$"):
        features.extract(spoilt(), "mini", corpus, CONFIG, tmp_path / "spoilt", workers=0, make=make)
