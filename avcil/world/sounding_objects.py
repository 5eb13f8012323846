"""Sounding Objects, the embedded benchmark: small audio-visual scenes as real .mp4 files.

A clip shows 2 to 4 objects that drift over a textured background. One of them sounds: it swells and jumps
with the envelope of its sound, while the silent ones swell and jump to envelopes of their own. The label is
the class of the sounding object.

* A class is an appearance (outline, colours, texture) and a timbre. Class ``c`` has timbre ``c % timbres``,
  so with 20 classes and 10 timbres two classes ("twins") share each sound: hearing alone names no class.
* Several objects are in view: seeing alone names no class either.
* In most clips the silent twin is in view too: even the set of objects and the timbre together leave two
  candidates. Only *when* it sounds and *what moves then* settles it.

``python -m avcil.world.sounding_objects corpus`` renders the benchmark that ships in ``corpus/`` (see
avcil/world/scenes.py).
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from avcil.base.parent import end_with
from avcil.base.progress import progress
from avcil.extraction.clips import write_clip
from avcil.params.world import Corpus, Film, World
from avcil.tokens.manifest import SPLITS
from avcil.world.scenes import BENCHMARK, Scene, benchmark_scene

Change = Callable[[np.ndarray, np.ndarray, tuple[str, int, int]], tuple[np.ndarray, np.ndarray]]
"""Frames [F,H,W,3] uint8 and waveform [N] of a clip, and its split, label and index, to others; a function of a module,
or a `partial` of one."""


def clip_id(split: str, label: int, index: int) -> str:
    # split, label and index are read off it again (avcil/beyond/streams.py)
    return f"{split}-{label:03d}-{index:03d}"


def benchmark_clip(world: World, film: Film, seed: int, row: tuple[str, int, int]) -> tuple[Scene, np.ndarray]:
    """Scene and waveform [N] of a clip, with the noise beside its sound; ``row``: split, label and index."""
    scene = benchmark_scene(world, film, seed, *row)
    # apart from the scene's own draws, so that `benchmark_scene` alone shows the same
    rng = np.random.default_rng((seed, BENCHMARK, SPLITS.index(row[0]), row[1], row[2], 1))
    noise = rng.normal(0, 1, film.samples)
    waveform = scene.waveforms[0] * rng.uniform(0.4, 0.9) + noise * rng.uniform(*world.noise)
    return scene, waveform.astype(np.float32)


def _write_benchmark_clip(
    folder: Path, world: World, film: Film, seed: int, change: Change | None, row: tuple[str, int, int]
) -> np.ndarray:
    scene, waveform = benchmark_clip(world, film, seed, row)
    # regions stay those of the scene, whatever ``change`` does to its frames
    shown = (scene.frames, waveform) if change is None else change(scene.frames, waveform, row)
    write_clip(folder / f"{clip_id(*row)}.mp4", *shown, film.fps, film.sample_rate)
    return np.round(scene.regions[0] * 255).astype(np.uint8)


def write_corpus(
    folder: Path, world: World, film: Film, corpus: Corpus, *, workers: int = 2, change: Change | None = None
) -> pd.DataFrame:
    """Render the benchmark into ``folder``: ``clips/*.mp4``, ``manifest.csv`` and ``regions.npz``. ``change``: what is
    done to each clip before it is written.

    ``regions.npz`` holds for each clip_id the visible share of the sounding object in each cell of a
    24 x 24 grid of each frame, as uint8 (255: covered). Nothing that learns ever reads it.
    """
    rows = [
        (split, label, index)
        for split in SPLITS
        for label in range(world.classes)
        for index in range(corpus.clips_per_class[split])
    ]
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    # its processes end with this one: left alone they would wait for work for ever
    with ProcessPoolExecutor(workers, initializer=end_with, initargs=(os.getpid(),)) as pool:
        write = partial(_write_benchmark_clip, folder / "clips", world, film, corpus.seed, change)
        jobs = [pool.submit(write, row) for row in rows]
        # in the order of the rows, not as clips are done: `ids` names them by place
        regions = np.stack([job.result() for job in progress(jobs, desc="clips")])
    ids = [clip_id(*row) for row in rows]
    np.savez_compressed(folder / "regions.npz", clip_id=np.array(ids), region=regions)
    manifest = pd.DataFrame(
        {
            "clip_id": ids,
            "path": [f"clips/{name}.mp4" for name in ids],
            "label": [f"object_{label:03d}" for _, label, _ in rows],
            "split": [split for split, _, _ in rows],
        }
    )
    # last, for whoever finds it takes the clips to be whole (avcil/comparison/worlds.py)
    manifest.to_csv(folder / "manifest.csv", index=False)
    return manifest


if __name__ == "__main__":
    import sys

    from avcil.params import load

    params = load(Path("params.yaml"))
    table = write_corpus(Path(sys.argv[1]) / "sounding_objects", params.world, params.film, params.corpus)
    print(f"{len(table)} clips in {sys.argv[1]}/sounding_objects")
