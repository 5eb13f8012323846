"""The world of Sounding Objects: which classes exist, and how a scene of them is rendered.

Everything is a function of integers: ``(world seed, class)`` gives the class, ``(scene seed, split, class, index)`` the
clip. avcil/world/sounding_objects.py says what the benchmark is and writes it to disk.

Dimension letters: ``F`` video frames, ``H`` = ``W`` pixels of a side, ``N`` audio samples, ``G`` cells of a side of the
region grid.
"""

import colorsys
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from avcil.params.world import Film, World
from avcil.tokens.manifest import SPLITS

REGION_CELLS = 24
# streams of random numbers that must not overlap
_APPEARANCE, _TIMBRE, BENCHMARK, _PAIR, _DUET = 1, 2, 3, 9, 10
_HARMONICS = 12
# of an outline, half a degree each
_PROFILE_BINS = 720


class Scene(NamedTuple):
    """A rendered scene; the first ``waveforms.shape[0]`` objects sound.

    frames [F,H,W,3] uint8, waveforms [sounding, N] float32 in [-1, 1], regions [sounding,F,G,G] float32: the
    share of each cell that the sounding object visibly covers, classes: of all objects, the sounding first, nearness
    [F,G,G] float32: 0 of the background, 1 of the object in front, those between at equal steps; mean of a cell.
    """

    frames: np.ndarray
    waveforms: np.ndarray
    regions: np.ndarray
    classes: tuple[int, ...]
    nearness: np.ndarray


class Appearance(NamedTuple):
    outline: np.ndarray  # radius over the mean radius, by angle
    colours: np.ndarray  # [2,3] in [0, 1]
    texture: int
    frequency: float  # radians a pixel
    angle: float


class Timbre(NamedTuple):
    amplitudes: np.ndarray
    pitch: float  # Hz
    inharmonicity: float
    noise: float
    attack: float  # seconds
    decay: float  # seconds
    vibrato: tuple[float, float]  # depth, Hz
    tremolo: tuple[float, float]  # depth, Hz


@lru_cache(maxsize=4096)
def appearance(world_seed: int, label: int, size: int) -> Appearance:
    """What class ``label`` of world ``world_seed`` looks like, at ``size`` pixels a frame."""
    # the order of draws is part of the world: another one gives other classes
    rng = np.random.default_rng((world_seed, _APPEARANCE, label))
    amplitudes = np.zeros(8)
    # 2 to 6 lobes, and a weaker wave of 1 to 7
    amplitudes[rng.integers(2, 7)] = rng.uniform(0.15, 0.35)
    amplitudes[rng.integers(1, 8)] += rng.uniform(0, 0.15)
    phases = rng.uniform(0, 2 * np.pi, 8)
    angles = np.arange(_PROFILE_BINS) * (2 * np.pi / _PROFILE_BINS)
    order = np.arange(8)[:, None]
    outline = 1 + (amplitudes[:, None] * np.cos(order * angles + phases[:, None]))[1:].sum(0)
    hue = rng.uniform()
    # two hues at least a fifth of the circle apart
    colours = [
        colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(0.6, 1)),
        colorsys.hsv_to_rgb((hue + rng.uniform(0.2, 0.8)) % 1, rng.uniform(0.3, 1), rng.uniform(0.3, 1)),
    ]
    return Appearance(
        outline=outline.astype(np.float32),
        colours=np.array(colours, np.float32),
        texture=int(rng.integers(0, 3)),
        # in radians a pixel of pictures of 64, so that a texture looks alike at any size
        frequency=float(rng.uniform(0.4, 1.3)) * 64 / size,
        angle=float(rng.uniform(0, np.pi)),
    )


@lru_cache(maxsize=4096)
def timbre(world_seed: int, index: int) -> Timbre:
    """What timbre ``index`` of world ``world_seed`` sounds like."""
    rng = np.random.default_rng((world_seed, _TIMBRE, index))
    amplitudes = rng.gamma(0.6, 1, _HARMONICS) * np.exp(-np.arange(_HARMONICS) * rng.uniform(0, 0.4))
    return Timbre(
        amplitudes=amplitudes / amplitudes.sum(),
        # evenly over octaves
        pitch=float(np.exp(rng.uniform(np.log(110), np.log(900)))),
        # half of the timbres are harmonic
        inharmonicity=float(rng.choice([0, 0, 0.02, 0.08])),
        noise=float(rng.choice([0, 0.1, 0.5])),
        attack=float(rng.uniform(0.005, 0.1)),
        decay=float(rng.uniform(0.05, 0.5)),
        vibrato=(float(rng.uniform(0, 0.03)), float(rng.uniform(3, 9))),
        tremolo=(float(rng.choice([0, 0.6])), float(rng.uniform(5, 25))),
    )


def _envelope(sound: Timbre, film: Film, rng: np.random.Generator) -> np.ndarray:
    """Two to four strikes at random moments: [N] in [0, 1]."""
    seconds = film.frames / film.fps
    onsets = rng.uniform(0.05, seconds - 0.2, rng.integers(2, 5))
    since = np.arange(film.samples, dtype=np.float32) / film.sample_rate - onsets[:, None].astype(np.float32)
    strike = np.where(since < sound.attack, since / sound.attack, np.exp(-(since - sound.attack) / sound.decay))
    # the strongest strike, not the sum, which could exceed 1
    return np.where(since < 0, 0, strike).max(0)


def _waveform(sound: Timbre, envelope: np.ndarray, film: Film, rng: np.random.Generator) -> np.ndarray:
    """The timbre under the envelope, at a pitch that differs a little from clip to clip: [N], peak 1."""
    t = np.arange(film.samples, dtype=np.float32) / film.sample_rate
    pitch = sound.pitch * np.exp(rng.normal(0, 0.06))
    depth, rate = sound.vibrato
    phase = 2 * np.pi * pitch * (t + depth * 3 / (np.pi * rate) * np.sin(2 * np.pi * rate * t))
    wave = np.zeros_like(t)
    for n, amplitude in enumerate(sound.amplitudes, start=1):
        multiple = n * np.sqrt(1 + sound.inharmonicity * n**2)
        start = rng.uniform(0, 2 * np.pi)
        # beyond half the sample rate it would come back as another tone
        if pitch * multiple < film.sample_rate / 2:
            wave += amplitude * np.sin(multiple * phase + start, dtype=np.float32)
    wave += sound.noise * rng.normal(0, 0.3, len(t))
    depth, rate = sound.tremolo
    wave *= envelope * (1 - depth * 0.5 * (1 + np.sin(2 * np.pi * rate * t)))
    return (wave / (np.abs(wave).max() + 1e-6)).astype(np.float32)


def _paint(frames: np.ndarray, look: Appearance, centre, radius, rotation) -> np.ndarray:
    """Paint one object over ``frames`` [F,H,W,3] in place; returns its opacity [F,H,W].

    Only the window round the object is computed: a scene takes about 15 ms instead of 60.
    """
    size = frames.shape[1]
    opacity = np.zeros(frames.shape[:3], np.float32)
    # 3 pixels more: there the soft edge has faded below 1 %
    reach = int(np.ceil(radius.max() * look.outline.max())) + 3
    for f, (corner, spin) in enumerate(zip(np.floor(centre).astype(int), rotation, strict=True)):
        x0, y0 = np.clip(corner - reach, 0, size)
        x1, y1 = np.clip(corner + reach + 1, 0, size)
        dx = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(centre[f, 0])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(centre[f, 1])
        distance = np.sqrt(dx * dx + dy * dy)
        bins = ((np.arctan2(dy, dx) + spin) * (_PROFILE_BINS / (2 * np.pi))).astype(int) % _PROFILE_BINS
        # clipped, so that exp of far pixels cannot overflow
        mask = 1 / (1 + np.exp(np.clip((distance - radius[f] * look.outline[bins]) * 2, -30, 30)))
        cos, sin = np.cos(look.angle + spin), np.sin(look.angle + spin)
        along, across = (dx * cos + dy * sin) * look.frequency, (dy * cos - dx * sin) * look.frequency
        wave = (np.sin(along), np.sin(along) * np.sin(across), np.cos(distance * look.frequency))[look.texture]
        colour = look.colours[(wave <= 0).astype(int)]
        window = frames[f, y0:y1, x0:x1]
        window += mask[..., None] * (colour - window)
        opacity[f, y0:y1, x0:x1] = mask
    return opacity


def _centres(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Starting points that keep their distance where there is room."""
    centres: list[np.ndarray] = []
    while len(centres) < count:
        point = rng.uniform(0.19, 0.81, 2) * size
        apart = all(np.hypot(*(point - other)) > 0.27 * size for other in centres)
        # now and then too near all the same, or a crowded scene would never be done
        if apart or rng.random() < 0.02:
            centres.append(point)
    return np.array(centres)


def render(classes, world: World, film: Film, rng: np.random.Generator, *, sounding: int = 1) -> Scene:
    """Render a scene of the given object classes, of which the first ``sounding`` sound, each with its own timbre.

    All objects move to envelopes with the temporal shape of the first one's timbre, so that the way an object
    moves does not give its class away.
    """
    # lengths below are in pixels of pictures of 64
    size, scale = film.size, film.size / 64
    sound = timbre(world.seed, classes[0] % world.timbres)
    envelopes = np.stack([_envelope(sound, film, rng) for _ in classes])
    timbres = [timbre(world.seed, label % world.timbres) for label in classes[:sounding]]
    waveforms = np.stack([_waveform(one, envelopes[i], film, rng) for i, one in enumerate(timbres)])

    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / scale
    slopes = rng.uniform(0.05, 0.2, (2, 3))
    waves = np.sin(x[..., None] * slopes[0] + y[..., None] * slopes[1] + rng.uniform(0, 6, 3))
    background = (rng.uniform(0.1, 0.6, 3) + 0.15 * waves).astype(np.float32)
    frames = np.repeat(background[None], film.frames, 0)
    regions = np.zeros((sounding, film.frames, size, size), np.float32)
    nearness = np.zeros((film.frames, size, size), np.float32)

    # a frame shows the middle of its time, which is when `read_clip` looks at it
    t = (np.arange(film.frames) + 0.5) / film.fps
    moments = (t * film.sample_rate).astype(int)
    middle = film.frames / film.fps / 2
    centres = _centres(len(classes), size, rng)
    # painted from the back to the front, in an order that does not tell which sounds
    for place, i in enumerate(rng.permutation(len(classes)), start=1):
        swell = envelopes[i, moments]
        # one silent object in ten stands still
        if i >= sounding and rng.random() < 0.1:
            swell = np.zeros_like(swell)
        centre = centres[i] + rng.normal(0, 3 * scale, 2) * (t - middle)[:, None]
        # it jumps up with its envelope, by which it grows as well
        centre[:, 1] -= 3 * scale * swell
        radius = rng.uniform(7, 10) * scale * (1 + 0.25 * swell)
        rotation = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * t
        look = appearance(world.seed, int(classes[i]), size)
        opacity = _paint(frames, look, centre, radius, rotation)
        # it hides what was painted before
        regions *= 1 - opacity
        nearness += opacity * (place / len(classes) - nearness)
        if i < sounding:
            regions[i] += opacity
    frames += rng.normal(0, 0.02, (film.frames, size, size, 1))
    # no rest: `Film.size` is a multiple of 24
    cell = size // REGION_CELLS
    grid, near = (
        pixel.reshape(-1, film.frames, REGION_CELLS, cell, REGION_CELLS, cell).mean((3, 5), dtype=np.float32)
        for pixel in (regions, nearness)
    )
    pixels = (np.clip(frames, 0, 1) * 255).astype(np.uint8)
    # `reshape` gave nearness a first dimension of 1
    return Scene(pixels, waveforms, grid, tuple(int(c) for c in classes), near[0])


def benchmark_scene(world: World, film: Film, seed: int, split: str, label: int, index: int) -> Scene:
    """Clip ``index`` of class ``label``: it sounds, 1 to 3 others are silent, a twin of it most often among them."""
    rng = np.random.default_rng((seed, BENCHMARK, SPLITS.index(split), label, index))
    return render([label, *_silent([label], world, rng)], world, film, rng)


def _silent(sounding: list[int], world: World, rng: np.random.Generator) -> list[int]:
    """Objects that are silent beside those that sound: strangers, of timbres that are not heard, and most often a twin
    of the first."""
    fewest, most = world.silent_objects
    heard = {label % world.timbres for label in sounding}
    # none where each class has a timbre of its own
    twins = [c for c in range(sounding[0] % world.timbres, world.classes, world.timbres) if c not in sounding]
    strangers = [c for c in range(world.classes) if c % world.timbres not in heard]
    silent = list(rng.choice(strangers, rng.integers(fewest, most + 1), replace=False))
    if twins and rng.random() < world.twin_in_view:
        # in place of a stranger, so that the number of objects does not tell that a twin is there
        silent[-1] = rng.choice(twins)
    return silent


def duet_scene(world: World, film: Film, seed: int, label: int, index: int) -> Scene:
    """As clip ``index`` of class ``label``, but an object of another timbre sounds too, with an envelope of its own."""
    rng = np.random.default_rng((seed, _DUET, label, index))
    other = int(rng.choice([c for c in range(world.classes) if (c - label) % world.timbres]))
    return render([label, other, *_silent([label, other], world, rng)], world, film, rng, sounding=2)


def pair_scene(world: World, film: Film, seed: int, index: int) -> Scene:
    """Two twins that both sound, with envelopes of their own, and some silent objects of any class.

    Telling the two sounds apart needs the moments at which each object moves: the timbre does not help.
    """
    rng = np.random.default_rng((seed, _PAIR, index))
    fewest, most = world.silent_objects
    sound = rng.integers(world.timbres)
    twins = rng.choice(np.arange(sound, world.classes, world.timbres), 2, replace=False)
    strangers = rng.choice(world.classes, rng.integers(fewest, most + 1), replace=False)
    return render([*twins, *strangers], world, film, rng, sounding=2)
