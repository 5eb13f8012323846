"""Manifest, clips, the rendered world, the feature store: what is sound passes, what is damaged is named."""

from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch

from avcil.base.files import read_sealed, write_sealed
from avcil.encoders import prior
from avcil.encoders.base import Reading
from avcil.encoders.mini import Mini
from avcil.extraction import features
from avcil.extraction.clips import ClipError, read_clip, write_clip
from avcil.params.extraction import FeatureConfig
from avcil.tokens import manifest, store
from avcil.tokens.manifest import SPLITS, Media
from avcil.tokens.store import StoreError, read_store
from avcil.world import separation
from avcil.world.scenes import appearance, benchmark_scene, pair_scene, timbre
from avcil.world.sounding_objects import clip_id
from conftest import ROOT

pytestmark = pytest.mark.arithmetic

CORPUS = ROOT / "corpus/sounding_objects"


@pytest.fixture(scope="module")
def film(params):
    return params.film.model_dump()


# ---- manifest


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [(f"{s}{c}{i}", f"clips/{s}{c}{i}.mp4", c, s) for s in SPLITS for c in "ab" for i in range(2)]
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])


def _write(table, tmp_path) -> Path:
    table.to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


def test_the_shipped_manifest_is_whole_and_leaks_nothing(params):
    clips = manifest.read_manifest(CORPUS / "manifest.csv")
    assert clips.groupby(["split", "label"]).size().unstack(0).eq(params.corpus.clips_per_class).all().all()
    assert clips.label.nunique() == params.world.classes
    assert manifest.find_leaks(clips, CORPUS).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(clip_id=["x"] * len(t)), r"row 3: clip `x` occurs twice; drop one"),
        (lambda t: t.assign(split=["tset", *t.split[1:]]), r"row 2: clip `traina0` has split `tset`; use train"),
        (lambda t: t.assign(label=["", *t.label[1:]]), r"row 2: clip `traina0` has no label"),
        (lambda t: t.assign(path=["p.mp4", "p.mp4", *t.path[2:]]), r"row 3: .* path `p\.mp4` of an earlier row"),
        (lambda t: t[~((t.label == "b") & (t.split == "test"))], r"has label `b` without any test clip"),
        (lambda t: t.drop(columns="split"), r"no column `split`"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_row(table, tmp_path, change, message):
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.read_manifest(_write(change(table), tmp_path))


def test_a_missing_manifest_names_the_way_out(tmp_path):
    with pytest.raises(manifest.ManifestError, match="no such file; `make repro` writes"):
        manifest.read_manifest(tmp_path / "manifest.csv")


def test_a_clip_in_two_splits_is_a_leak(table, tmp_path):
    (tmp_path / "clips").mkdir()
    for row in table.itertuples():
        (tmp_path / row.path).write_text(row.clip_id)
    (tmp_path / "clips/testb1.mp4").write_text("traina0")
    leaks = manifest.find_leaks(table, tmp_path)
    assert leaks.to_numpy().tolist() == [["testb1", "test", "traina0", "train"]]
    # parts of one film are clips of their own
    apart = table.assign(path="clips/traina0.mp4", start=np.arange(len(table), dtype=float))
    assert manifest.find_leaks(apart, tmp_path).empty
    assert len(manifest.find_leaks(apart.assign(start=0.0), tmp_path)) == (table.split != "train").sum()
    (tmp_path / "clips/vala0.mp4").unlink()
    with pytest.raises(manifest.ManifestError, match="clip `vala0`: no file"):
        manifest.find_leaks(table, tmp_path)


def test_class_order_is_a_permutation_of_its_own_for_each_seed(table):
    wide = pd.DataFrame({"label": [f"c{i}" for i in range(20)]})
    orders = [manifest.class_order(wide, seed) for seed in range(3)]
    assert all(sorted(order) == sorted(wide.label) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert manifest.class_index(table, ["b", "a"]).tolist() == [1, 1, 0, 0] * 3
    with pytest.raises(manifest.ManifestError, match="row 4: clip `trainb0` has label `b`, not in the class order"):
        manifest.class_index(table, ["a"])


# ---- the rendered world


def test_scenes_are_encoded_to_the_same_bytes_again(params, tmp_path):
    """With all of x264's instructions most of them are not, even on one thread."""
    film, written = params.film, []
    scenes = [benchmark_scene(params.world, film, 0, "train", label, 0) for label in range(12)]
    for name in ("one", "again"):
        for number, scene in enumerate(scenes):
            sound = scene.waveforms[0].astype("f4")
            write_clip(tmp_path / f"{name}-{number}.mp4", scene.frames, sound, film.fps, film.sample_rate)
        written.append([(tmp_path / f"{name}-{number}.mp4").read_bytes() for number in range(len(scenes))])
    assert written[0] == written[1]


def test_a_rendered_clip_decodes_to_the_shipped_one_within_codec_noise(params, film):
    rng = np.random.default_rng(0)
    for split in SPLITS:
        label, index = int(rng.integers(params.world.classes)), int(rng.integers(params.corpus.clips_per_class[split]))
        scene = benchmark_scene(params.world, params.film, params.corpus.seed, split, label, index)
        shipped = read_clip(CORPUS / "clips" / f"{clip_id(split, label, index)}.mp4", **film)
        error = np.abs(shipped.frames.astype(float) - scene.frames).mean()
        assert error < 12, f"mean error {error:.1f} of 255"
        # another scene of the same class is much farther away
        other = benchmark_scene(params.world, params.film, params.corpus.seed + 1, split, label, index)
        assert np.abs(shipped.frames.astype(float) - other.frames).mean() > 2 * error
        correlation = np.corrcoef(shipped.waveform, scene.waveforms[0])[0, 1]
        assert correlation > 0.6, "the sound is not where it should be"


def test_the_twin_rule(params):
    world, film = params.world, params.film.model_copy(update={"size": 48})
    twins = 0
    for index in range(60):
        label = index % world.classes
        scene = benchmark_scene(world, film, 5, "train", label, index)
        assert scene.classes[0] == label and len(set(scene.classes)) == len(scene.classes)
        assert 2 <= len(scene.classes) <= 4
        twins += any(c % world.timbres == label % world.timbres for c in scene.classes[1:])
    assert twins / 60 == pytest.approx(world.twin_in_view, abs=0.17)


def test_the_sounding_object_moves_with_its_sound(params):
    """Its area follows the loudness of its own sound, and not that of the other sounding object."""
    own, foreign = [], []
    for index in range(12):
        scene = pair_scene(params.prior.world, params.film, 3, index)
        area = scene.regions.sum((2, 3))
        # loudness at the very moments that the frames show
        window = params.film.sample_rate // params.film.fps
        loud = (
            np.abs(scene.waveforms)
            .reshape(2, params.film.frames, window)[:, :, window // 2 - 200 : window // 2 + 200]
            .mean(2)
        )
        own.append(np.corrcoef(area[0], loud[0])[0, 1])
        foreign.append(np.corrcoef(area[0], loud[1])[0, 1])
    assert np.nanmean(own) > np.nanmean(foreign) + 0.3


def test_no_class_of_the_benchmark_occurs_in_the_world_of_the_prior(params):
    ours, other = params.world, params.prior.world
    assert ours.seed != other.seed
    looks = {appearance(other.seed, c, params.film.size).colours.tobytes() for c in range(other.classes)}
    sounds = {timbre(other.seed, g).amplitudes.tobytes() for g in range(other.timbres)}
    assert not looks & {appearance(ours.seed, c, params.film.size).colours.tobytes() for c in range(ours.classes)}
    assert not sounds & {timbre(ours.seed, g).amplitudes.tobytes() for g in range(ours.timbres)}


def test_the_prior_stage_reads_nothing_of_the_benchmark():
    import yaml

    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["prior"]
    assert not any(str(dep).startswith(("data", "corpus", "artifacts")) for dep in stage["deps"])
    assert "world" not in stage["params"]


def test_worlds_scale_to_hundreds_of_classes(params):
    world = params.world.model_copy(update={"classes": 300, "timbres": 150})
    scene = benchmark_scene(world, params.film.model_copy(update={"size": 48}), 0, "test", 299, 0)
    assert scene.classes[0] == 299
    assert len({appearance(0, c, 96).colours.tobytes() for c in range(300)}) == 300


# ---- clips


@pytest.fixture(scope="module")
def scene(params):
    return benchmark_scene(params.world, params.film, 9, "test", 3, 0)


def test_clip_has_the_promised_units_and_no_delay(scene, film, tmp_path):
    write_clip(tmp_path / "c.mp4", scene.frames, scene.waveforms[0], film["fps"], film["sample_rate"])
    clip = read_clip(tmp_path / "c.mp4", **film)
    assert clip.frames.shape == (16, 96, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (32000,) and clip.waveform.dtype == np.float32
    # the AAC encoder's 1024 samples of priming are gone
    lags = range(-1200, 1201, 16)
    middle = scene.waveforms[0][4000:28000]
    best = max(lags, key=lambda lag: np.dot(clip.waveform[4000 + lag : 28000 + lag], middle))
    assert best == 0


def test_other_rates_and_sizes_are_converted(scene, film, tmp_path):
    write_clip(tmp_path / "c.mp4", scene.frames, scene.waveforms[0], 8, 16000)
    clip = read_clip(tmp_path / "c.mp4", frames=8, fps=4, size=48, sample_rate=8000)
    assert clip.frames.shape == (8, 48, 48, 3) and clip.waveform.shape == (16000,)


def _mute(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _short(path, scene):
    write_clip(path, scene.frames[:3], scene.waveforms[0][:6000], 8, 16000)


def _truncated(path, scene):
    write_clip(path, scene.frames, scene.waveforms[0], 8, 16000)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p, s: _mute(p, s.frames), "no audio track; drop its row"),
        (lambda p, s: p.write_bytes(b""), "damaged"),
        (lambda p, s: p.write_bytes(b"not a video" * 50), "damaged"),
        (_truncated, "damaged"),
        (_short, r"video track of 0\.38 s where 2\.00 s are wanted"),
        (lambda p, s: None, "no such file"),
    ],
    ids=["no audio", "empty", "not a video", "truncated", "too short", "missing"],
)
def test_a_damaged_clip_is_refused_by_name(scene, film, tmp_path, damage, message):
    damage(tmp_path / "bad.mp4", scene)
    with pytest.raises(ClipError, match=rf"bad\.mp4: {message}"):
        read_clip(tmp_path / "bad.mp4", **film)


# ---- feature store


@pytest.fixture(scope="module")
def encoder(params):
    torch.manual_seed(0)
    return Mini(params.encoder).watching(Reading(**params.film.model_dump())).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clips():
    return {f"test-{c:03d}-000": Media(CORPUS / f"clips/test-{c:03d}-000.mp4") for c in range(7)}


CONFIG = FeatureConfig(clips_per_shard=3, batch=2, quarantine_share=0.2, silence=1e-4)


def _bytes(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_store_holds_what_the_encoder_says(encoder, clips, film, tmp_path):
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    kept = read_store(tmp_path / "s", encoder="mini", verify=True)
    assert kept.header.clip_ids == list(clips) and kept.quarantined == {}
    clip = read_clip(clips["test-004-000"].path, **film)
    tokens = encoder.encode(torch.from_numpy(clip.frames)[None], torch.from_numpy(clip.waveform)[None])
    for stored, direct in zip(kept.tokens, tokens, strict=True):
        torch.testing.assert_close(stored[4:5], direct, atol=2e-2, rtol=2e-2)


def test_what_does_not_belong_in_a_store_is_cleared_away_folders_too(encoder, clips, tmp_path):
    (tmp_path / "s/.ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "s/.ipynb_checkpoints/a.ipynb").touch()
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    assert not (tmp_path / "s/.ipynb_checkpoints").exists()
    assert len(read_store(tmp_path / "s", verify=True).header.clip_ids) == len(clips)


def test_shards_are_in_the_order_of_their_numbers_whatever_their_names(encoder, clips, tmp_path, monkeypatch):
    """As from 100,000 on, where names in order are not numbers in order."""
    monkeypatch.setattr(store, "_files", lambda place, number: (
        place / f"{9 - number}.safetensors", place / f"{9 - number}.json"
    ))  # fmt: skip
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    backwards = read_store(tmp_path / "s").tokens
    monkeypatch.undo()
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "t", workers=0)
    assert torch.equal(backwards.visual, read_store(tmp_path / "t").tokens.visual)


def test_tokens_of_other_code_are_made_anew_or_refused(encoder, clips, tmp_path, monkeypatch):
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    asked = []
    monkeypatch.setattr(features, "code_of", lambda parts: asked.append(parts) or b"edited")
    with pytest.raises(StoreError, match=r"holds other features \(revision differ\); delete the folder"):
        features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    # of this encoder's file, and of no other's
    assert asked[0][0] == "encoders/mini.py" and "encoders/pe_av.py" not in asked[0]
    # and of its guide's, of which the similarity is
    guide = type("PeAv", (), {"__module__": "avcil.encoders.pe_av"})()
    monkeypatch.setattr(encoder, "guide", guide, raising=False)
    features.header_of(encoder, "mini", list(clips), CONFIG)
    assert asked[-1][:2] == ("encoders/mini.py", "encoders/pe_av.py")


def test_a_large_store_stays_in_half_precision(encoder, clips, film, tmp_path, monkeypatch):
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    whole = read_store(tmp_path / "s").tokens
    size = sum(4 * field.numel() for field in whole)
    monkeypatch.setattr("avcil.tokens.mapped.HALF_ABOVE", size)
    assert {field.dtype for field in read_store(tmp_path / "s").tokens} == {torch.float32}
    monkeypatch.setattr("avcil.tokens.mapped.HALF_ABOVE", size - 1)
    half = read_store(tmp_path / "s").tokens
    assert {field.dtype for field in half} == {torch.float16}
    assert all(torch.equal(a, b.float()) for a, b in zip(whole, half, strict=True))
    index = read_sealed(tmp_path / "s/index.json")
    del index["shards"]["00002.safetensors"]
    write_sealed(tmp_path / "s/index.json", index)
    with pytest.raises(StoreError, match="lists other shards than those of the header"):
        read_store(tmp_path / "s")


def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(encoder, clips, film, tmp_path, monkeypatch):
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "whole", workers=0)
    calls = []
    original = features.make_shard

    def dies_at_the_second_shard(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(features, "make_shard", dies_at_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        features.extract(encoder, "mini", clips, CONFIG, tmp_path / "killed", workers=0)
    with pytest.raises(StoreError, match="unfinished"):
        read_store(tmp_path / "killed")
    (tmp_path / "killed/00099.json").write_text("of an older layout")
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "killed", workers=0)
    assert len(calls) == 4, "the first shard was kept"
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")


def test_a_clip_that_changed_is_encoded_again(encoder, clips, film, tmp_path, monkeypatch):
    """Same names, other content: only the shard it stands in is made anew."""
    own = {name: Media(tmp_path / clip.path.name) for name, clip in clips.items()}
    for name, clip in own.items():
        clip.path.write_bytes(clips[name].path.read_bytes())
    features.extract(encoder, "mini", own, CONFIG, tmp_path / "s", workers=0)
    before = read_store(tmp_path / "s").tokens.visual
    own["test-004-000"].path.write_bytes(clips["test-000-000"].path.read_bytes())
    calls = []
    original = features.make_shard
    monkeypatch.setattr(features, "make_shard", lambda *a: calls.append(a[1]) or original(*a))
    features.extract(encoder, "mini", own, CONFIG, tmp_path / "s", workers=0)
    after = read_store(tmp_path / "s", verify=True).tokens.visual
    assert calls == [["test-003-000", "test-004-000", "test-005-000"]]
    assert torch.equal(after[4], before[0]) and not torch.equal(after[4], before[4])
    assert torch.equal(after[[0, 1, 2, 3, 5, 6]], before[[0, 1, 2, 3, 5, 6]])


def test_one_bad_clip_is_quarantined_and_more_are_refused(encoder, clips, film, tmp_path):
    broken = Media(tmp_path / "broken.mp4")
    broken.path.write_bytes(b"")
    features.extract(encoder, "mini", clips | {"x": broken}, CONFIG, tmp_path / "s", workers=0)
    kept = read_store(tmp_path / "s")
    assert list(kept.quarantined) == ["x"] and "broken.mp4: damaged" in kept.quarantined["x"]
    assert kept.tokens.visual[7].abs().sum() == 0 and kept.tokens.visual[6].abs().sum() > 0
    with pytest.raises(StoreError, match=r"2 unusable clips, 1 allowed .*broken\.mp4: damaged"):
        features.extract(encoder, "mini", {"x": broken, **clips, "y": broken}, CONFIG, tmp_path / "t", workers=0)


def test_a_store_of_something_else_is_refused(encoder, clips, film, params, tmp_path):
    features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)
    with pytest.raises(StoreError, match="features of encoder `mini`, not `random`"):
        read_store(tmp_path / "s", encoder="random")
    torch.manual_seed(1)
    with pytest.raises(StoreError, match=r"holds other features \(checksum differ\); delete the folder"):
        features.extract(
            Mini(params.encoder).watching(encoder.reading), "mini", clips, CONFIG, tmp_path / "s", workers=0
        )
    features.extract(
        Mini(params.encoder).watching(encoder.reading), "mini", clips, CONFIG, tmp_path / "s", replace=True, workers=0
    )
    shard = tmp_path / "s/00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=r"00001\.safetensors: checksum differs"):
        read_store(tmp_path / "s", verify=True)


def test_features_that_are_not_finite_are_refused(params, clips, film, tmp_path):
    encoder = Mini(params.encoder).watching(Reading(**film))
    encoder.visual_std.fill_(0)
    with pytest.raises(
        StoreError, match="clip `test-000-000`: the encoder gave NaN, or more than float16 holds, in visual"
    ):
        features.extract(encoder, "mini", clips, CONFIG, tmp_path / "s", workers=0)


# ---- the prior


def test_prior_round_trip_and_another_layout(encoder, params, tmp_path):
    separator = prior.Separator(params.encoder.channels, params.encoder.mel_bands)
    prior.save_prior(tmp_path / "p.safetensors", encoder, separator)
    loaded, _ = prior.load_prior(tmp_path / "p.safetensors", params.encoder)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="not a prior of the `encoder` section"):
        prior.load_prior(tmp_path / "p.safetensors", params.encoder.model_copy(update={"channels": 64}))


def test_si_sdr_closed_form():
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    noise = torch.tensor([[0.0, 0.1, 0.0, 0.1]])  # orthogonal, 100 times weaker
    assert separation.si_sdr(3 * (target + noise), target).item() == pytest.approx(20, abs=1e-3)


def test_the_shipped_prior_separates_and_localises(params):
    """On scenes with a seed of their own, from the pre-training world."""
    encoder, separator = prior.load_prior(ROOT / "prior/mini-0.safetensors", params.encoder)
    scenes = separation.render_scenes(params.prior.world, params.film, 77, 32)
    separated = separation.separate(encoder, separator, scenes).waveforms
    gain = separation.si_sdr(separated["estimate"], separated["target"]) - separation.si_sdr(
        separated["mixture"], separated["target"]
    )
    assert gain.median() > 1.5
    from avcil.learn.metrics import attention_hit

    localised = separation.localise(encoder, scenes)
    assert attention_hit(*localised, params.training.covered).mean() > 0.6
