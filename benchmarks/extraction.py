"""How fast clips are decoded and encoded, how much memory that takes, and whether kills leave a trace.

    python benchmarks/extraction.py [--clips 48] [--memory-clips 5000] [--kills 20]

Side by side in one run, on clips like those of AVE and VGGSound (10 s, 30 pictures a second, 340 x 256, stereo at
44.1 kHz), made here with PyAV from moving noise:

- decoding to what an encoder wants (16 pictures of 224 x 224 pixels, mono at 16 kHz): a plain loop that decodes every
  picture with PyAV and resizes and resamples with torchvision and torchaudio; `avcil.extraction.clips.read_clip` in a
  loop; and `avcil.extraction.decoding.decode` with a worker a processor.
- extraction with the `mini` encoder: the plain loop and the encoder, clip by clip; and
  `avcil.extraction.features.extract`.

Then the peak memory of an extraction of many clips, processes together, against one of a tenth of them; and an
extraction that is killed at random moments and started again, whose store must have the bytes of an unbroken one.

Writes benchmarks/results/extraction.json and .md.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from torchvision.transforms.v2 import functional

from avcil.base.files import write_bytes, write_json
from avcil.encoders.base import Reading
from avcil.encoders.prior import load_prior
from avcil.extraction import features
from avcil.extraction.clips import read_clip
from avcil.extraction.decoding import decode
from avcil.params import load
from avcil.params.extraction import FeatureConfig
from avcil.tokens.manifest import Media

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
READING = Reading(frames=16, fps=1.6, size=224, sample_rate=16000, fit="stretch", resize="bilinear")
SMALL = READING._replace(size=96, resize="ffmpeg")
CONFIG = FeatureConfig(clips_per_shard=16, batch=8, quarantine_share=0.0, silence=1e-4)


def write_film(path: Path, seed: int) -> None:
    """10 s of blocks that drift, and of noise that swells."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt, video.options = 340, 256, "yuv420p", {"preset": "veryfast"}
        sound = container.add_stream("aac", rate=44100)
        sound.layout = "stereo"
        for number in range(300):
            pixels = np.ascontiguousarray(blocks[number : number + 256, 2 * number : 2 * number + 340])
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        wave = generator.normal(size=(2, 441000)) * np.linspace(0.01, 0.3, 441000)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def plain(path: Path, reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
    """What one writes first: all pictures, all sound, then the ones that are wanted."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)
    wanted = np.linspace(0, len(pictures) - 1, reading.frames).round().astype(int)
    frames = torch.from_numpy(np.stack([pictures[i] for i in wanted])).permute(0, 3, 1, 2)
    frames = functional.resize(frames, [reading.size, reading.size], antialias=True)
    waveform = torchaudio.functional.resample(torch.from_numpy(sound).mean(0), rate, reading.sample_rate)
    samples = round(reading.seconds * reading.sample_rate)
    waveform = torch.nn.functional.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
    return frames.permute(0, 2, 3, 1).contiguous(), waveform


def encoder(reading: Reading):
    prior, _ = load_prior(ROOT / "prior/mini-0.safetensors", load(ROOT / "params.yaml").encoder)
    return prior.watching(reading)


def rates(ways: dict, clips: int, rounds: int = 3) -> dict:
    """Clips a second of each way, in turns; the median, and the spread over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    found = {}
    for name, taken in seconds.items():
        rate = sorted(clips / t for t in taken)
        found[name] = {
            "clips_per_second": round(statistics.median(rate), 2),
            "low": round(rate[0], 2),
            "high": round(rate[-1], 2),
        }
    slowest = found[next(iter(ways))]["clips_per_second"]
    return {name: row | {"ratio": round(row["clips_per_second"] / slowest, 2)} for name, row in found.items()}


def speed(folder: Path, count: int) -> dict:
    files = [folder / f"film{number:03d}.mp4" for number in range(count)]
    for number, file in enumerate(files):
        write_film(file, number)
    media = {file.stem: Media(file) for file in files}
    workers = os.cpu_count() or 1
    reading = READING._asdict() | {"streams": ["visual", "audio"], "silence": 0.0}
    mini = encoder(SMALL)

    def loop() -> None:
        with torch.no_grad():
            for file in files:
                frames, waveform = plain(file, SMALL)
                mini.encode(frames[None], waveform[None])

    def extraction() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        features.extract(mini, "mini", media, CONFIG, folder / "store", workers=workers)

    return {
        "decoding": rates(
            {
                "plain loop": lambda: [plain(file, READING) for file in files],
                "read_clip in a loop": lambda: [read_clip(file, **READING._asdict()) for file in files],
                f"decode, {workers} workers": lambda: list(decode(list(media.values()), reading, workers)),
            },
            count,
        ),
        "extraction, mini": rates({"plain loop": loop, f"extract, {workers} workers": extraction}, count),
    }


def _corpus(count: int) -> dict[str, Media]:
    """``count`` names for the embedded benchmark's clips."""
    files = sorted((ROOT / "corpus/sounding_objects/clips").glob("*.mp4"))
    return {f"clip{number:05d}": Media(files[number % len(files)]) for number in range(count)}


def _embedded(store: Path, count: int) -> None:
    """What the child processes below run."""
    torch.set_num_threads(2)
    film = Reading(**load(ROOT / "params.yaml").film.model_dump())
    config = CONFIG.model_copy(update={"clips_per_shard": 100, "batch": 50})
    print("ready", flush=True)
    features.extract(encoder(film), "mini", _corpus(count), config, store, workers=2)


def _start(store: Path, count: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", str(store), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)


def _resident(session: int) -> int:
    """Bytes that the processes of a session have in memory, shared pages counted once (proportional set size)."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                for line in (folder / "smaps_rollup").read_text().splitlines():
                    total += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
        except (OSError, ProcessLookupError):
            continue
    return total


def memory(folder: Path, count: int) -> dict:
    found = {}
    for clips in (count // 10, count):
        run, peak = _start(folder / f"memory{clips}", clips), 0
        while run.poll() is None:
            peak = max(peak, _resident(run.pid))
            time.sleep(0.2)
        assert run.returncode == 0
        found[f"{clips} clips"] = {"peak_mib": round(peak / 2**20)}
    return found


def kills(folder: Path, count: int, clips: int = 1200) -> dict:
    """SIGKILL after a random time, ``count`` times, workers and all; then once to the end."""
    run = _start(folder / "whole", clips)
    run.stdout.readline()
    started = time.perf_counter()
    run.wait()
    whole = time.perf_counter() - started
    chance = random.Random(0)
    moments = []
    for _ in range(count):
        run = _start(folder / "killed", clips)
        run.stdout.readline()
        moments.append(round(chance.uniform(0, 1.5 * whole / count), 2))
        try:
            run.wait(moments[-1])
            raise RuntimeError("it ended before it was killed: give it more clips")
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    run = _start(folder / "killed", clips)
    assert run.wait() == 0
    same = _bytes(folder / "killed") == _bytes(folder / "whole")
    return {"kills": count, "clips": clips, "identical_stores": same, "seconds_before_each": moments}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table(found: dict) -> str:
    lines = ["# Extraction", "", f"{found['machine']}. Written by `python benchmarks/extraction.py`.", ""]
    for name in ("decoding", "extraction, mini"):
        lines += [f"| {name} | clips a second | lowest, highest | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {way} | {row['clips_per_second']} | {row['low']}, {row['high']} | {row['ratio']} |"
            for way, row in found[name].items()
        ]
        lines.append("")
    peaks = ", ".join(f"{row['peak_mib']} MiB for {clips}" for clips, row in found["memory"].items())
    killed = found["kills"]
    same = "the same bytes as" if killed["identical_stores"] else "OTHER BYTES than"
    lines += [
        f"Peak memory of an extraction with two workers, all processes together: {peaks}.",
        f"Killed {killed['kills']} times at random moments and started again: {same} an unbroken extraction.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--memory-clips", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _embedded(Path(given.child[0]), int(given.child[1]))
        return
    torch.set_num_threads(os.cpu_count() or 1)
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, PyAV {av.__version__}"
    }
    with tempfile.TemporaryDirectory() as name:
        steps = {"memory": partial(memory, count=given.memory_clips), "kills": partial(kills, count=given.kills)}
        found |= speed(Path(name), given.clips)
        found |= {step: measure(Path(name)) for step, measure in steps.items()}
    write_json(RESULTS / "extraction.json", found)
    write_bytes(RESULTS / "extraction.md", table(found).encode())
    print(table(found))


if __name__ == "__main__":
    main()
