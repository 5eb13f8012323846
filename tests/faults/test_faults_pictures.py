"""Pictures whose crop and sound whose rate take gigabytes or minutes, and playlists that pass for films."""

import time

import av
import numpy as np
import pytest
from media import tone, write

from avcil.extraction.clips import ClipError, read_clip

READ = {"frames": 8, "fps": 4.0, "size": 96, "sample_rate": 16000}


def _strip(path, width: int, height: int):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for _ in range(8):
            pixels = np.zeros((height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("resize", ["ffmpeg", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(4000, 2), (2, 4000)])
def test_a_strip_is_not_blown_up(tmp_path, width, height, resize):
    path = _strip(tmp_path / "strip.mp4", width, height)
    begun = time.process_time()
    with pytest.raises(ClipError, match=rf"strip\.mp4: pictures of {width} x {height} cannot be cropped; drop its row"):
        read_clip(path, fit="crop", resize=resize, streams=("visual",), **READ)
    assert time.process_time() - begun < 30
    assert read_clip(path, streams=("visual",), **READ).frames.shape == (8, 96, 96, 3), "stretching it is harmless"


def test_a_panorama_is_cropped(tmp_path):
    path = _strip(tmp_path / "wide.mp4", 640, 32)
    assert read_clip(path, fit="crop", streams=("visual",), **READ).frames.shape == (8, 96, 96, 3)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1, "sound of 1 samples a second; restore it or drop its row"),
        (101, None),
        (999_983, r"audio track of 0\.03 s where 2\.00 s are wanted"),
        (1_408_188_032, "sound of 1408188032 samples a second; restore it or drop its row"),
    ],
)
def test_sound_of_an_absurd_rate_is_refused_at_once(tmp_path, rate, message):
    path = write(tmp_path / "a.wav", None, sound=tone(440, 2, 16000))
    content = path.read_bytes()
    path.write_bytes(content[:24] + rate.to_bytes(4, "little") + content[28:])
    begun = time.process_time()
    if message is None:
        assert read_clip(path, streams=("audio",), **READ).waveform.shape == (32000,)
    else:
        with pytest.raises(ClipError, match=message):
            read_clip(path, streams=("audio",), **READ)
    assert time.process_time() - begun < 30


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat"])
def test_a_playlist_is_no_film(tmp_path, name):
    write(tmp_path / "other.mp4", [k / 4 for k in range(8)], sound=tone(440, 2, 16000))
    path = tmp_path / name
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(ClipError, match=r"a playlist \(concat\), which names other files; give the film itself"):
        read_clip(path, **READ)


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_a_stream_list_is_no_film(tmp_path, name):
    write(tmp_path / "other.mp4", [k / 4 for k in range(8)], sound=tone(440, 2, 16000))
    path = tmp_path / name
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(ClipError, match=r"a playlist \(hls\)|damaged"):
        read_clip(path, **READ)
