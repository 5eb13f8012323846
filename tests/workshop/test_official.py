"""The import of released features: a store of exactly what they hold, or one line that says what is wrong."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import Reduced

from avcil.tokens import store
from avcil.tokens.manifest import read_manifest
from avcil.tokens.store import StoreError, read_store
from avcil.workshop import imports, official
from avcil.workshop.imports import TokensError
from avcil.workshop.npydict import NpyError, index_npy
from avcil.workshop.official import import_features, inspect

AUDIO = "audio_pretrained_feature/audio_pretrained_feature_dict.npy"
VISUAL = "visual_pretrained_feature/visual_pretrained_feature_dict.npy"
H5 = "visual_pretrained_feature/visual_features.h5"
SPLIT_FILES = ("category_encode_dict.npy", "all_classId_vid_dict.npy")
CLASSES = {"Cat": 0, "Bus, red": 1, "subway, metr": 2}
COUNTS = {"train": 4, "val": 1, "test": 2}
PATCHES, CHANNELS, CLIPS = 16, 6, 21


def _vid(split: str, label: int, index: int) -> str:
    return f"{split:_<9}{label}{index}_000012"


def _members() -> dict[str, dict[int, list[str]]]:
    return {s: {c: [_vid(s, c, i) for i in range(n)] for c in range(3)} for s, n in COUNTS.items()}


def _write_splits(folder: Path, members: dict, encode: dict = CLASSES) -> None:
    np.save(folder / SPLIT_FILES[0], encode)
    np.save(folder / SPLIT_FILES[1], members)


def _features(seed: int = 0) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    ids = [v for split in _members().values() for m in split.values() for v in m]
    audio = {v: rng.standard_normal(CHANNELS).astype("f4") for v in ids}
    return audio, {v: rng.standard_normal((8 * PATCHES, CHANNELS)).astype("f4") for v in ids}


def _write_features(folder: Path, audio: dict, visual: dict) -> None:
    np.save(folder / AUDIO, audio)
    np.save(folder / VISUAL, visual)


@pytest.fixture
def source(tmp_path) -> Path:
    for name in (AUDIO, VISUAL):
        (tmp_path / "TOY" / name).parent.mkdir(parents=True)
    _write_splits(tmp_path / "TOY", _members())
    _write_features(tmp_path / "TOY", *_features())
    return tmp_path / "TOY"


@pytest.fixture
def small_shards(monkeypatch):
    """Four clips a shard."""
    monkeypatch.setattr(imports, "SHARD_BYTES", 4 * 2 * (8 * PATCHES * (CHANNELS + 1) + CHANNELS))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- what a source holds


def test_report_names_what_is_wrong(source, tmp_path):
    members = _members()
    torn, twice, lost = _vid("test", 0, 0), _vid("train", 1, 0), _vid("val", 2, 0)
    members["train"][0].append(torn)
    members["train"][1].append(twice)
    # another second of a video, once in its own class and once in another
    new = [_vid("test", 0, 1)[:11] + "_000099", _vid("train", 0, 0)[:11] + "_000099"]
    for split, label, clip in (("train", 0, new[0]), ("val", 1, new[1])):
        members[split][label].append(clip)
    _write_splits(source, members)
    audio, visual = _features()
    del audio[twice], visual[lost]
    _write_features(source, audio, visual)
    report = inspect(source)
    assert report.two_splits == [torn] and report.repeated == [twice]
    assert report.missing == sorted([lost, twice, *new])
    assert report.leaks["test and train"] == {"clips": 1, "share": 0.2, "same_class": 1}
    assert report.leaks["val and train"] == {"clips": 1, "share": 0.25, "same_class": 0}
    import_features(source, tmp_path / "out")
    table = read_manifest(tmp_path / "out/manifest.csv")
    assert torn not in set(table.clip_id) and len(table) == CLIPS - 1 + 2


@pytest.mark.parametrize(
    ("encode", "members", "message"),
    [
        ({"Cat": 0, "Bus, red": 2}, None, r"category_encode_dict\.npy: not the ids 0, 1, 2"),
        ({"Cat\n": 0}, None, "not the ids 0, 1, 2"),
        (CLASSES, {"train": {}, "test": {}}, r"all_classId_vid_dict\.npy: not .* \('val'\); download"),
        (CLASSES, {"train": {7: ["x"]}, "val": {}, "test": {}}, "list index out of range"),
        (CLASSES, {"train": {-1: ["x"]}, "val": {}, "test": {}}, "greater than or equal to 0: -1"),
        (CLASSES, {"train": {0: ["x", "a\n"]}, "val": {}, "test": {}}, r"train\.0\.1: a clip .* printable: 'a\\n'\)"),
        (CLASSES, {"train": {0: [" "]}, "val": {}, "test": {}}, r"\(train\.0\.0: a clip id that is blank .*: ' '\)"),
        (CLASSES, {"train": {0: ["x", 3]}, "val": {}, "test": {}}, r"train\.0\.1: .*valid string: 3\)"),
        (CLASSES, {"train": {0: "x"}, "val": {}, "test": {}}, "should be a valid list: 'x'"),
    ],
)
def test_split_files_of_another_layout_are_one_clear_line(source, encode, members, message):
    _write_splits(source, members or _members(), encode)
    with pytest.raises(SystemExit, match=message) as refused:
        official.main([str(source)])
    assert "\n" not in str(refused.value)


def test_any_printable_id_is_taken(source, tmp_path):
    """By the command that a user types; the tokens of each clip are its own."""
    ids = ["../up", "a b", "ünï,cödé\"'", ".", "/root", "x" * 250]
    members = _members()
    members["train"][1] += ids
    _write_splits(source, members)
    audio, visual = _features()
    audio |= {clip: np.full(CHANNELS, n, "f4") for n, clip in enumerate(ids)}
    visual |= {clip: np.full((8 * PATCHES, CHANNELS), n, "f4") for n, clip in enumerate(ids)}
    _write_features(source, audio, visual)
    official.main([str(source), str(tmp_path / "out")])
    table = read_manifest(tmp_path / "out/manifest.csv").set_index("clip_id")
    assert set(ids) < set(table.index) and table.path.is_unique
    tokens = read_store(tmp_path / "out/features/official", verify=True).tokens
    assert [float(tokens.audio[table.index.get_loc(clip)].mean()) for clip in ids] == [*range(len(ids))]


def test_missing_files_are_named(source, tmp_path):
    for name in (AUDIO, VISUAL):
        (source / name).unlink()
    assert inspect(source).notes == {} and "notes: none" in str(inspect(source))
    with pytest.raises(TokensError, match=r"TOY: no audio features; put audio_pretrained_feature.*npy there"):
        import_features(source, tmp_path / "out")
    for file, error in zip(SPLIT_FILES, (NpyError, TokensError), strict=True):
        (source / file).unlink()
        with pytest.raises(error, match=rf"no (such file|{file})"):
            inspect(source)


def test_a_hostile_value_in_any_file_of_a_source_is_refused(source, tmp_path):
    sentinel = tmp_path / "sentinel"
    for name in (*SPLIT_FILES, AUDIO, VISUAL):
        whole = (source / name).read_bytes()
        np.save(source / name, {"a": Reduced(os.system, f"touch {sentinel}")})
        with pytest.raises(NpyError, match=rf"{Path(name).name}, offset \d+: names `posix\.system`"):
            inspect(source)
        (source / name).write_bytes(whole)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Reduced(os.system, f"touch {sentinel}")))
    assert sentinel.exists(), "the control"


# ---- import


def test_import_is_the_released_data_in_float16(source, tmp_path, small_shards, capsys):
    report = import_features(source, tmp_path / "out")
    assert f"features/official: 0.00 MB a clip, 0.00 GB for {CLIPS} clips" in capsys.readouterr().out
    assert report == inspect(source) and report.clips == {"train": 12, "val": 3, "test": 6}
    assert report.notes == {"audio features": AUDIO, "visual features": VISUAL}
    assert report.mended_labels == {"subway, metr": "subway, metro, underground"}
    assert not report.missing and not report.dropped and report.leaks["test and train"]["clips"] == 0
    head = "official, from TOY\norder: Cat; Bus, red; subway, metro, underground\nclips: train: 12; val: 3; test: 6\n"
    assert str(report).startswith(head)
    out = tmp_path / "out"
    table = read_manifest(out / "manifest.csv")
    expected = [(v, c, s) for s, m in _members().items() for c, ids in m.items() for v in ids]
    assert (
        json.loads((out / "order.json").read_text())
        == report.order
        == ["Cat", "Bus, red", "subway, metro, underground"]
    )
    assert list(zip(table.clip_id, table.label.map(report.order.index), table.split, strict=True)) == expected
    assert list(table.path) == [f"clips/{v}.mp4" for v, _, _ in expected]
    store = read_store(out / "features/official", encoder="official", verify=True)
    assert store.header.clip_ids == list(table.clip_id) and store.quarantined == {}
    assert store.header.clips_per_shard == 4 and len(list((out / "features/official").glob("*.safetensors"))) == 6
    audio, visual = _features()
    for row, clip in enumerate(table.clip_id):
        slots = visual[clip].reshape(8, PATCHES, CHANNELS).astype(np.float16)
        np.testing.assert_array_equal(store.tokens.visual[row].numpy(), slots.astype("f4"))
        np.testing.assert_array_equal(store.tokens.audio[row, 0].numpy(), audio[clip].astype(np.float16).astype("f4"))
    assert store.tokens.similarity.shape == (CLIPS, 8, PATCHES) and not store.tokens.similarity.any()
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report._asdict()))


def test_any_order_and_precision_of_the_source(source, tmp_path):
    audio, visual = _features()
    import_features(source, tmp_path / "plain")
    _write_features(
        source, {v: a.astype("f8") for v, a in audio.items()}, {v: np.asfortranarray(a) for v, a in visual.items()}
    )
    # directly in the folder
    for name in (AUDIO, VISUAL):
        (source / name).rename(source / Path(name).name)
    import_features(source, tmp_path / "other")
    stores = [read_store(tmp_path / name / "features/official").tokens for name in ("plain", "other")]
    assert all(torch.equal(a, b) for a, b in zip(*stores, strict=True))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_pooled_patches_are_those_of_torch(source, tmp_path, side):
    import_features(source, tmp_path / "out", patches=side)
    tokens = read_store(tmp_path / "out/features/official").tokens
    maps = torch.stack([torch.from_numpy(a) for a in _features()[1].values()]).reshape(-1, 8, 4, 4, CHANNELS)
    maps = maps.flatten(0, 1).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(maps, 3) if side == 3 else F.avg_pool2d(maps, 4 // side)
    expected = pooled.flatten(2).transpose(1, 2).reshape(-1, 8, side**2, CHANNELS)
    torch.testing.assert_close(tokens.visual, expected, atol=2e-3, rtol=1e-3)
    assert tokens.similarity.shape == (CLIPS, 8, side**2)


def test_hdf5_gives_the_same_store_and_never_leads_elsewhere(source, tmp_path):
    import_features(source, tmp_path / "npy")
    (source / VISUAL).unlink()
    visual = _features()[1]
    clip, values = next(iter(visual.items()))
    (tmp_path / "raw.bin").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = values
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", values.shape)
    stores = {"npy": read_store(tmp_path / "npy/features/official")}
    for lead in ("nowhere", "link", "virtual", "raw"):
        with h5py.File(source / H5, "w") as file:
            for other, array in visual.items():
                if other != clip or lead == "nowhere":
                    file[other] = array
                elif lead == "link":
                    file[clip] = h5py.ExternalLink(tmp_path / "other.h5", "x")
                elif lead == "virtual":
                    file.create_virtual_dataset(clip, layout)
                else:
                    file.create_dataset(clip, values.shape, "f4", external=[(tmp_path / "raw.bin", 0, values.nbytes)])
        report = import_features(source, tmp_path / lead)
        stores[lead] = read_store(tmp_path / lead / "features/official")
        assert report.notes["visual features"] == H5 and ("unusable" in report.notes) == (lead != "nowhere")
        assert list(stores[lead].quarantined) == [clip] * (lead != "nowhere"), lead
        assert all("another file" in reason for reason in stores[lead].quarantined.values())
    assert all(torch.equal(a, b) for a, b in zip(stores["npy"].tokens, stores["nowhere"].tokens, strict=True))
    assert len({store.header.checksum for store in stores.values()}) == len(stores)
    (source / H5).write_bytes(b"no HDF5")
    with pytest.raises(TokensError, match=r"visual_features\.h5: cannot be read"):
        inspect(source)


def test_a_killed_import_goes_on_and_ends_with_the_same_bytes(source, tmp_path, small_shards, monkeypatch):
    import_features(source, tmp_path / "whole")
    store, made, original = tmp_path / "killed/features/official", [], official._shard

    def dies_at_the_fourth(source, ids, tokens, layout):
        made.append(ids)
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(source, ids, tokens, layout)

    monkeypatch.setattr(official, "_shard", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        import_features(source, tmp_path / "killed")
    with pytest.raises(StoreError, match="unfinished"):
        read_store(store)
    import_features(source, tmp_path / "killed")
    assert len(made) == 4 + 3, "three shards were kept"
    # killed between the last shard and its note, and after its note but without the shard
    for lost in ("00005.json", "00005.safetensors"):
        assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")
        (store / "index.json").unlink()
        (store / lost).unlink()
        made.clear()
        import_features(source, tmp_path / "killed")
        assert len(made) == 1
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")


def test_another_import_or_too_little_space_is_refused(source, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": CLIPS * 2 * (8 * PATCHES * (CHANNELS + 1) + CHANNELS) - 1})
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"to write, 0\.00 GB free .*; average patches or make room"):
        import_features(source, tmp_path / "out")
    assert not any((tmp_path / "out").glob("*"))
    usage.free += 1
    import_features(source, tmp_path / "out")
    before = _bytes(tmp_path / "out")
    # what is there already needs no room
    usage.free = 0
    import_features(source, tmp_path / "out")
    with pytest.raises(
        StoreError, match=r"official: holds other features \(layout, clips_per_shard differ\); delete the folder"
    ):
        import_features(source, tmp_path / "out", patches=2)
    # features extracted anew: same names, same sizes
    _write_features(source, *_features(seed=1))
    with pytest.raises(StoreError, match=r"official: holds other features \(checksum differ\)"):
        import_features(source, tmp_path / "out")
    assert _bytes(tmp_path / "out") == before


def test_unusable_clips_are_quarantined_with_their_reasons(source, tmp_path, small_shards):
    audio, visual = _features()
    ids = list(audio)
    del audio[ids[0]]
    visual[ids[1]] = visual[ids[1]][:-8]
    visual[ids[5]][3, 2] = np.nan
    audio[ids[6]][0] = 1e5
    visual[ids[9]] = visual[ids[9]].tolist()
    _write_features(source, audio, visual)
    report = import_features(source, tmp_path / "out")
    store = read_store(tmp_path / "out/features/official", verify=True)
    assert store.quarantined == {
        ids[0]: "no audio features",
        ids[1]: "visual: StoredArray of shape (120, 6), not (128, 6)",
        ids[5]: "visual: NaN, or a value beyond float16 (65504)",
        ids[6]: "audio: NaN, or a value beyond float16 (65504)",
        ids[9]: "visual: list of shape None, not (128, 6)",
    }
    assert report.missing == [ids[0]] and report.notes["unusable"].startswith("5 clips, with reasons in features/")
    bad = torch.tensor([clip in store.quarantined for clip in ids])
    assert not store.tokens.visual[bad].any() and not store.tokens.audio[bad].any()
    assert store.tokens.visual[~bad].flatten(1).any(1).all()
    # so does an import that goes on
    (tmp_path / "out/features/official/index.json").unlink()
    assert import_features(source, tmp_path / "out") == report


def test_features_of_something_else_are_refused(source, tmp_path, small_shards):
    audio, visual = _features()
    cases = [
        ({"x": audio[next(iter(audio))]}, visual, None, "no train clip of `Bus, red`, `Cat`, "),
        (audio, {v: a for v, a in visual.items() if v[:10] != "test_____1"}, None, "no test clip of `Bus, red` with"),
        (audio, {v: a[:-1] for v, a in visual.items()}, None, r"shape \(127, 6\).*\(8 x patches, channels\)"),
        (audio, {v: a.reshape(8, 16, -1) for v, a in visual.items()}, None, r"visual arrays of shape \(8, 16, 6\)"),
        ({v: a[:-1] for v, a in audio.items()}, visual, None, r"audio arrays of shape \(5,\)"),
        (audio, {v: 3 for v in visual}, None, "visual arrays of shape None"),
        (audio, {v: a * np.nan for v, a in visual.items()}, None, "no usable clip from `.*NaN"),
        (audio, visual, 0, "16 patches a slot cannot be pooled to 0 x 0"),
        (audio, visual, 5, "16 patches a slot cannot be pooled to 5 x 5"),
        (audio, visual, -2, "16 patches a slot cannot be pooled to -2 x -2"),
    ]
    for number, (heard, seen, side, message) in enumerate(cases):
        _write_features(source, heard, seen)
        with pytest.raises(TokensError, match=message):
            import_features(source, tmp_path / f"out{number}", patches=side)


def test_video_disjoint_drops_what_shares_a_video_with_a_test_clip(source, tmp_path):
    members = _members()
    twins = {s: _vid("test", c, 0)[:11] + "_000077" for c, s in enumerate(("train", "val"))}
    audio, visual = _features()
    for label, (split, clip) in enumerate(twins.items()):
        members[split][label].append(clip)
        audio[clip], visual[clip] = audio[_vid("test", 0, 0)], visual[_vid("test", 0, 0)]
    _write_splits(source, members)
    _write_features(source, audio, visual)
    leaks = inspect(source).leaks
    assert leaks["test and train"]["clips"] == leaks["test and val"]["clips"] == 1
    report = import_features(source, tmp_path / "out", video_disjoint=True)
    assert report.dropped == {"train": 1, "val": 1} and not any(leak["clips"] for leak in report.leaks.values())
    assert report.clips == {"train": 12, "val": 3, "test": 6}
    table = read_manifest(tmp_path / "out/manifest.csv")
    assert not set(twins.values()) & set(table.clip_id) and len(table) == CLIPS
    assert import_features(source, tmp_path / "whole").clips == {"train": 13, "val": 4, "test": 6}


def test_command_line(source, tmp_path, capsys):
    official.main([str(source)])
    assert capsys.readouterr().out == f"{inspect(source)}\n"
    command = [
        sys.executable,
        "-m",
        "avcil.workshop.official",
        source,
        tmp_path / "out",
        "--patches",
        "2",
        "--video-disjoint",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert f"GB for {CLIPS} clips" in done.stdout and "dropped: none" in done.stdout
    assert read_store(tmp_path / "out/features/official").tokens.visual.shape == (CLIPS, 8, 4, CHANNELS)
    (source / SPLIT_FILES[0]).unlink()
    with pytest.raises(SystemExit, match=r"^[^\n]*category_encode_dict\.npy: no such file[^\n]*$"):
        official.main([str(source), str(tmp_path / "out2")])


# ---- the authors' own files

OFFICIAL = os.environ.get("AVCIL_OFFICIAL")
released = pytest.mark.skipif(OFFICIAL is None, reason="AVCIL_OFFICIAL names no copy of weiguoPian/AV-CIL_ICCV2023")


@released
@pytest.mark.parametrize(
    ("name", "classes", "clips", "leaks"),
    [
        ("AVE", 28, (3294, 391, 394), (0, 0, 0)),
        ("kinetics-sounds", 30, (19220, 1947, 1958), (0, 0, 0)),
        ("VGGSound_100", 100, (51195, 5000, 5000), (1627, 1625, 1671)),
    ],
)
def test_the_released_splits_have_the_known_counts(name, classes, clips, leaks):
    folder = Path(OFFICIAL) / "data" / name
    report = inspect(folder)
    assert len(report.order) == len(set(report.order)) == classes
    assert not (report.repeated or report.two_labels or report.two_splits)
    assert tuple(report.clips.values()) == clips and list(report.clips) == ["train", "val", "test"]
    tested = report.leaks["test and train"]
    assert (tested["clips"], tested["same_class"], report.leaks["val and train"]["clips"]) == leaks
    assert report.mended_labels == ({"subway, metr": "subway, metro, underground"} if name == "VGGSound_100" else {})
    heads = {"AVE": ["Acoustic guitar", "Cat"], "VGGSound_100": ["playing theremin", "donkey, ass braying"]}
    assert report.order[:2] == heads.get(name, report.order[:2])
    for file in SPLIT_FILES:
        assert index_npy(folder / file) == np.load(folder / file, allow_pickle=True).item()


@released
def test_video_disjoint_vggsound_keeps_every_test_clip(tmp_path):
    """With features of two numbers a token: the splits are what is tested."""
    source = tmp_path / "VGGSound_100"
    shutil.copytree(Path(OFFICIAL) / "data/VGGSound_100", source)
    ids = [clip for split in index_npy(source / SPLIT_FILES[1]).values() for ids in split.values() for clip in ids]
    _write_features(source, dict.fromkeys(ids, np.ones(2, "f4")), dict.fromkeys(ids, np.ones((8, 2), "f4")))
    report = import_features(source, tmp_path / "out", video_disjoint=True)
    assert report.clips["test"] == 5000
    assert report.leaks["test and train"]["clips"] == report.leaks["test and val"]["clips"] == 0
    assert report.clips["train"] == 51195 - report.dropped["train"] and report.dropped["train"] > 1000
    assert read_manifest(tmp_path / "out/manifest.csv").label.nunique() == 100
