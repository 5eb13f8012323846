"""Damaged inputs: what befalls a film, that a whole one is the clip itself, and what rows are told to have lost."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from avcil.beyond import answers, plots, robust
from avcil.beyond.robust import Shot, beside, films
from avcil.beyond.settings import CASES, DUET, WHOLE, Robust
from avcil.comparison import sweep, worlds
from avcil.comparison.intervals import over_seeds, points
from avcil.extraction.clips import read_clip
from avcil.learn.train import run_tasks
from avcil.params.learning import chain
from avcil.params.world import World
from avcil.tokens.manifest import read_manifest
from avcil.world.scenes import benchmark_scene, duet_scene, timbre
from avcil.world.sounding_objects import write_corpus
from conftest import ROOT

RATE = 16000
RNG = np.random.default_rng(0)


@pytest.fixture
def shot():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    return Shot(frames, *rng.normal(0, [[0.1], [0.3]], (2, 2 * RATE)).astype(np.float32), RATE)


def decibels(sound, other):
    return 20 * np.log10(np.sqrt(np.mean(sound**2) / np.mean(other**2)))


# ---- what befalls a clip


def test_what_is_laid_over_a_sound_is_so_much_below_it(shot):
    for level in (20, 6, 0):
        noise = robust.sound_noise(shot, level, RNG).waveform - shot.waveform
        strange = robust.other_sound(shot, level, RNG).waveform - shot.waveform
        assert decibels(shot.waveform, noise) == pytest.approx(level, abs=0.1)
        assert decibels(shot.waveform, strange) == pytest.approx(level, abs=0.1)
        assert np.corrcoef(strange, shot.other)[0, 1] > 0.999 and abs(np.corrcoef(noise, shot.other)[0, 1]) < 0.05
    loud = beside(np.full(8, 0.9, np.float32), np.full(8, 0.9, np.float32), 0)
    assert loud.dtype == np.float32 and loud.max() == 1


def test_gain_is_in_decibels_and_clips(shot):
    faint = robust.gain(shot, -20, RNG).waveform
    np.testing.assert_allclose(faint, shot.waveform / 10, rtol=1e-5)
    assert np.abs(robust.gain(shot, 40, RNG).waveform).max() == 1


def test_pixel_noise_has_its_deviation_and_stays_a_picture(shot):
    grey = shot._replace(frames=np.full_like(shot.frames, 128))
    noisy = robust.pixel_noise(grey, 0.1, RNG).frames
    assert noisy.dtype == np.uint8 and (noisy.astype(float) - 128).std() == pytest.approx(25.5, rel=0.03)
    assert robust.pixel_noise(shot, 1.0, RNG).frames.max() == 255


def test_a_dropped_frame_is_the_one_before(shot):
    frames = np.concatenate([shot.frames] * 20)
    for share in (0.25, 0.75):
        shown = robust.dropped_frames(shot._replace(frames=frames), share, np.random.default_rng(0)).frames
        kept = np.array([np.array_equal(one, two) for one, two in zip(shown, frames, strict=True)])
        assert kept[0] and 1 - kept.mean() == pytest.approx(share, abs=0.07)
        for at in np.flatnonzero(~kept):
            assert np.array_equal(shown[at], shown[at - 1])


def test_a_late_sound_starts_after_silence(shot):
    late = robust.delay(shot, 0.25, RNG).waveform
    assert not late[: RATE // 4].any() and np.array_equal(late[RATE // 4 :], shot.waveform[: -RATE // 4])


def test_every_damage_has_its_words_and_spares_what_it_is_not_about(shot):
    assert [*CASES] == [WHOLE, *robust.DAMAGES, DUET]
    for name, damage in robust.DAMAGES.items():
        after = damage(shot, 0.5, np.random.default_rng(0))
        seen, heard = (np.array_equal(after[at], shot[at]) for at in (0, 1))
        assert seen == (name not in ("pixel_noise", "dropped_frames"))
        assert heard == (name in ("pixel_noise", "dropped_frames", "compression"))


# ---- scenes and films


@pytest.fixture
def small(params):
    corpus = params.corpus.model_copy(update={"clips_per_class": {"train": 4, "val": 0, "test": 2}})
    world = params.world.model_copy(update={"classes": 8, "timbres": 4})
    alone = params.compute.model_copy(update={"workers": 1})  # processes of its own would take longer to start
    return params.model_copy(update={"corpus": corpus, "world": world, "compute": alone})


def test_in_a_duet_two_timbres_sound(params):
    world, film = params.world, params.film
    scenes = [duet_scene(world, film, 5, label, index) for label in range(20) for index in range(3)]
    twins = 0
    for number, scene in enumerate(scenes):
        first, second, *silent = scene.classes
        assert (
            first == number // 3 and (first - second) % world.timbres and len(set(scene.classes)) == len(scene.classes)
        )
        assert len(scene.waveforms) == 2 and 1 <= len(silent) <= 3
        assert not any((other - second) % world.timbres == 0 for other in silent)
        twins += any((other - first) % world.timbres == 0 for other in silent)
    assert 0.5 < twins / len(scenes) < 0.9
    # each by its own timbre: the loudest frequency is near a multiple of its pitch
    for scene in scenes[:20]:
        for label, sound in zip(scene.classes, scene.waveforms, strict=False):
            tone = timbre(world.seed, label % world.timbres)
            if not tone.noise and not tone.inharmonicity:
                peak = np.abs(np.fft.rfft(sound)).argmax() * film.sample_rate / len(sound)
                ratio = peak / tone.pitch
                assert abs(ratio / max(1, round(ratio)) - 1) < 0.25


def test_without_twins_nobody_looks_for_one(params):
    world = World(**params.world.model_dump() | {"classes": 6, "timbres": 6, "twin_in_view": 1.0})
    for scene in (duet_scene(world, params.film, 0, 2, 0), benchmark_scene(world, params.film, 0, "test", 2, 0)):
        assert len(set(scene.classes)) == len(scene.classes)


def test_a_whole_film_is_the_clip_of_the_benchmark(small, tmp_path):
    settings = Robust(worlds=[1, 2], rows=["ridge", "acil"], damages={"compression": [50], "delay": [0.5]})
    table = films(tmp_path / "films", small, settings)
    write_corpus(tmp_path / "corpus", small.world, small.film, small.corpus)
    tested = read_manifest(tmp_path / "corpus/manifest.csv").query("split == 'test'").clip_id
    assert len(table) == 4 * len(tested) == 4 * 16
    sizes = {}
    for clip in tested:
        clips = {case: tmp_path / f"films/{case}-{clip}.mp4" for case in ("whole-0", "compression-50", "delay-0.5")}
        assert clips["whole-0"].read_bytes() == (tmp_path / f"corpus/clips/{clip}.mp4").read_bytes()
        for case, file in clips.items():
            sizes[case] = sizes.get(case, 0) + file.stat().st_size
    assert sizes["compression-50"] < 0.8 * sizes["whole-0"]
    reading = {"frames": 16, "fps": 8, "size": 96, "sample_rate": RATE}
    whole, late = (
        read_clip(tmp_path / f"films/{case}-test-000-000.mp4", **reading) for case in ("whole-0", "delay-0.5")
    )
    assert np.array_equal(whole.frames, late.frames)
    half = RATE // 2
    assert np.abs(late.waveform[: half - 2000]).max() < 0.05  # but for what AAC smears
    same = np.corrcoef(whole.waveform[:-half], late.waveform[half:])[0, 1]
    assert same > 0.7 > 0.3 > abs(np.corrcoef(whole.waveform, late.waveform)[0, 1])
    duets = table[table.damage == DUET]
    assert duets.labels.map(len).eq(2).all() and table[table.damage != DUET].labels.map(len).eq(1).all()


# ---- from world to table


@pytest.mark.slow
def test_what_is_measured_of_whole_films_is_the_rows_own_result(small, tmp_path, monkeypatch):
    """The same bytes, the same tokens, the same predictions; and nothing is done twice."""
    monkeypatch.chdir(ROOT)
    training = small.training.model_copy(update={"batch": 16})
    small = small.model_copy(update={"tasks": chain([4, 4], 1), "training": training})
    # no row here is learnt on untrained tokens
    monkeypatch.setattr(worlds, "drawn", partial(worlds.drawn, tokens=("mini",)))
    # one world, not two, for it takes its time
    settings = Robust.model_construct(worlds=[1], rows=["scaled_ridge_guided", "ridge"], damages={"pixel_noise": [0.3]})
    table = robust.run(settings, small, tmp_path / "worlds", tmp_path)["beyond_robust"]
    assert table.row.tolist() == ["scaled_ridge_guided"] * 3 + ["ridge"] * 3
    assert table.damage.tolist() == ["whole", "pixel_noise", "two_sounds"] * 2
    whole = table[table.damage == "whole"].set_index(["row", "world"])
    for job in robust.jobs(settings, small, tmp_path / "worlds", tmp_path):
        result = run_tasks(sweep.datasets(job.source)[job.seed], job.method, job.training, job.tasks, job.seed, None)[
            -1
        ]
        right = np.average(result.accuracy, weights=result.clips)
        assert whole.last_accuracy[job.name[0], job.seed] == pytest.approx(right, abs=1e-6)
    assert table.mean_average_precision.between(0, 1).all() and not (tmp_path / "films").exists()

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(robust, "films", never)
    pd.testing.assert_frame_equal(robust.run(settings, small, tmp_path / "worlds", tmp_path)["beyond_robust"], table)
    other = settings.model_copy(update={"damages": {"pixel_noise": [0.2]}})
    with pytest.raises(AssertionError, match="made again"):
        robust.run(other, small, tmp_path / "worlds", tmp_path)


def test_a_world_of_a_seed_has_its_own_classes_and_scenes(params):
    other = worlds.seeded(3, params)
    assert (other.world.seed, other.corpus.seed) == (params.world.seed + 3, params.corpus.seed + 3)
    assert worlds.seeded(0, params) == params


# ---- the page


def test_the_page_tells_shares_of_what_was_there(tmp_path):
    rng, lines = np.random.default_rng(0), []
    falls = {"whole": 0, "gain": 0.02, "delay": 0.4, "two_sounds": 0.3}
    for row, whole, factor in (("lll_closed", 0.8, 1.0), ("replay", 0.6, 1.5), ("scaled_ridge", 0.5, 0.2)):
        for world in (1, 2, 3, 4):
            for damage, fall in falls.items():
                left = whole * (1 - factor * fall + (rng.normal(0, 0.02) if fall else 0))
                lines.append((row, world, damage, 0.5 if damage == "delay" else 0.0, left, left))
    columns = ["row", "world", "damage", "strength", "last_accuracy", "mean_average_precision"]
    table = pd.DataFrame(lines, columns=columns)
    table.to_csv(tmp_path / "beyond_robust.csv", index=False)
    text = answers.robust(tmp_path)
    at = {row: table[table.row == row].set_index(["damage", "world"]).last_accuracy for row in ("lll_closed", "replay")}
    fall = {row: 1 - of.loc["delay"] / of.loc["whole"] for row, of in at.items()}
    assert f"| {points(over_seeds(fall['replay']))} |" in next(
        line for line in text.splitlines() if "delayed by 0.5 s" in line
    )
    assert "LLL, closed form remains more accurate than ridge, any scale under 1 and less accurate under 0; " in text
    assert "Of 2 kinds of damage" in text and "it loses a smaller share under 0 and a larger one under 1." in text
    assert "| than replay | 2 | 0 | 0 | 1 | 0 | 1 |" in text
    axis = plots.robust(table).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["gain of +0 dB", "sound delayed by 0.5 s"]
    means = [line for line in axis.lines if line.get_marker() == "o"]
    assert means[1].get_xdata()[1] == pytest.approx(100 * fall["replay"].mean())
