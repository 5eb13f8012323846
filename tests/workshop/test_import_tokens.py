"""Tokens from anywhere: what comes in is what the file holds, rows learn from it, and what is wrong is one line."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from toys import Reduced

from avcil.base.files import write_json
from avcil.comparison import sweep
from avcil.params.learning import chain
from avcil.tokens import store
from avcil.tokens.dataset import load_datasets
from avcil.tokens.guidance import explained_change
from avcil.tokens.manifest import SPLITS, read_manifest
from avcil.tokens.store import StoreError, read_store
from avcil.workshop import import_tokens as importer
from avcil.workshop import imports
from avcil.workshop.import_tokens import import_tokens, open_tokens
from avcil.workshop.imports import TokensError

CLASSES, SLOTS, PATCHES, VISUAL, AUDIO = 4, 3, 4, 6, 5
COUNTS = {"train": 8, "val": 2, "test": 4}
CLIPS = CLASSES * sum(COUNTS.values())


@pytest.fixture
def content() -> dict[str, np.ndarray]:
    """A class-dependent patch changes with the loudness; every array under its documented name."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(CLASSES), sum(COUNTS.values()))
    split = np.tile(np.repeat(np.arange(3), list(COUNTS.values())), CLASSES)
    looks, sounds = rng.normal(size=(CLASSES, VISUAL)), rng.normal(size=(CLASSES, AUDIO))
    loudness = rng.random((CLIPS, SLOTS)).astype("f4")
    place = rng.integers(PATCHES, size=CLIPS)
    visual = rng.normal(size=(CLIPS, SLOTS, PATCHES, VISUAL))
    visual[np.arange(CLIPS), :, place] += 4 * loudness[..., None] * looks[label][:, None]
    region = np.zeros((CLIPS, SLOTS, PATCHES), "u1")
    region[np.arange(CLIPS), :, place] = 255
    return {
        "visual": visual.astype("f4"),
        "audio": (sounds[label] + 0.3 * rng.normal(size=(CLIPS, AUDIO))).astype("f4"),
        "loudness": loudness,
        "region": region,
        "label": label,
        "split": split,
        "clip_id": np.array([f"clip-{i:02d}" for i in range(CLIPS)]),
        "order": np.array([f"class {c}" for c in range(CLASSES)]),
    }


def save(folder: Path, content: dict, name: str = "tokens.npz", **changes) -> Path:
    """The content with those arrays in place of its own; None: without."""
    path = folder / name
    content = {key: value for key, value in (content | changes).items() if value is not None}
    if path.suffix == ".npz":
        np.savez_compressed(path, **content)
        return path
    texts = {key: json.dumps(value.tolist()) for key, value in content.items() if value.dtype.kind == "U"}
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in content.items() if key not in texts}
    safetensors.torch.save_file(tensors, path, metadata=texts)
    return path


@pytest.fixture
def small_shards(monkeypatch):
    """Five clips a shard."""
    monkeypatch.setattr(imports, "SHARD_BYTES", 5 * 2 * (SLOTS * PATCHES * (VISUAL + 1) + AUDIO))


def load(folder: Path, encoder="imported"):
    order = json.loads((folder / "order.json").read_text())
    write_json(folder / "orders.json", {"0": order})
    regions = folder / "regions.npz"
    places = folder / "manifest.csv", folder / "orders.json", folder / "features" / encoder
    return load_datasets(*places, [0], regions=regions if regions.exists() else None)[0]


# ---- what comes in


@pytest.mark.parametrize("name", ["tokens.npz", "tokens.safetensors"])
def test_the_store_holds_what_the_file_does(content, tmp_path, name, small_shards, capsys):
    assert import_tokens(save(tmp_path, content, name), tmp_path / "out") == {}
    assert f"features/imported: 0.00 MB a clip, 0.00 GB for {CLIPS} clips" in capsys.readouterr().out
    table = read_manifest(tmp_path / "out/manifest.csv")
    assert list(table.clip_id) == content["clip_id"].tolist()
    assert list(table.label) == content["order"][content["label"]].tolist()
    assert list(table.split) == [SPLITS[s] for s in content["split"]]
    held = read_store(tmp_path / "out/features/imported", encoder="imported", verify=True)
    assert held.header.clips_per_shard == 5 and held.header.reading["similarity"] == "loudness"
    np.testing.assert_array_equal(held.tokens.visual, content["visual"].astype("f2").astype("f4"))
    np.testing.assert_array_equal(held.tokens.audio[:, 0], content["audio"].astype("f2").astype("f4"))
    loudness = torch.from_numpy(content["loudness"])[..., None]
    expected = explained_change(torch.from_numpy(content["visual"]), loudness)
    torch.testing.assert_close(held.tokens.similarity, expected, atol=1e-3, rtol=1e-3)
    data = load(tmp_path / "out")
    torch.testing.assert_close(data.share, torch.from_numpy(content["region"] / 255).float())
    assert data.labels.tolist() == content["label"].tolist() and data.order == content["order"].tolist()


def test_names_integers_words_and_audio_tokens(content, tmp_path):
    steps = np.random.default_rng(1).integers(-128, 128, size=(CLIPS, SLOTS, PATCHES, VISUAL)).astype("i1")
    heard = np.random.default_rng(2).normal(size=(CLIPS, 7, AUDIO)).astype("f8")
    similarity = np.random.default_rng(3).normal(size=(CLIPS, SLOTS, PATCHES)).astype("f2")
    path = save(
        tmp_path, content, visual=None, audio=None, clip_id=None, pictures=steps, sound=heard, vid=content["clip_id"],
        similarity=similarity, label=content["order"][content["label"]], split=np.array(SPLITS)[content["split"]],
        region=content["region"] / 255.0, other=np.array([{"anything": 1}], dtype=object),
    )  # fmt: skip
    arguments = ["--name", "visual=pictures", "--name", "audio=sound", "--name", "clip_id=vid", "--scale", "0.0625"]
    importer.main([str(path), str(tmp_path / "out"), *arguments, "--encoder", "mine"])
    tokens = load(tmp_path / "out", "mine").tokens
    np.testing.assert_array_equal(tokens.visual, steps / np.float32(16))
    np.testing.assert_array_equal(tokens.audio, heard.astype("f2").astype("f4"))
    np.testing.assert_array_equal(tokens.similarity, similarity.astype("f4"))
    assert tokens.audio.shape == (CLIPS, 7, AUDIO)
    # the file's own scale; words or positions are the same
    plain = save(tmp_path, content, "plain.npz", visual=steps, scale=np.float32(1 / 16), loudness=None, region=None)
    import_tokens(plain, tmp_path / "plain")
    assert torch.equal(load(tmp_path / "plain").tokens.visual, tokens.visual)
    assert not load(tmp_path / "plain").tokens.similarity.any() and load(tmp_path / "plain").share is None
    assert (tmp_path / "plain/manifest.csv").read_bytes() == (tmp_path / "out/manifest.csv").read_bytes()


def test_bfloat16_comes_in(content, tmp_path):
    path = save(tmp_path, content, "tokens.safetensors")
    tensors = safetensors.torch.load_file(path)
    texts = {key: json.dumps(content[key].tolist()) for key in ("clip_id", "order")}
    visual = tensors["visual"].bfloat16()
    safetensors.torch.save_file(tensors | {"visual": visual}, path, metadata=texts)
    import_tokens(path, tmp_path / "out")
    assert torch.equal(load(tmp_path / "out").tokens.visual, visual.half().float())


def test_rows_learn_from_imported_tokens(content, tmp_path, params):
    path = save(tmp_path, content)
    import_tokens(path, tmp_path / "out")
    load(tmp_path / "out")
    source = sweep.Source(
        tmp_path / "out/manifest.csv", tmp_path / "out/orders.json", tmp_path / "out/features/imported",
        tmp_path / "out/regions.npz",
    )  # fmt: skip
    training = params.training.model_copy(update={"width": 16, "batch": 8, "ridge_penalty": 0.1})
    rows = {name: params.methods[name].model_copy(update={"tokens": "imported"}) for name in ("ridge", "lll_prior")}
    rows["guided"] = rows["ridge"].model_copy(update={"fusion": "frozen_guided", "prior_guidance": 20.0})
    jobs = [
        sweep.Job((name,), source, row, training, chain([2, 2], 30 if name == "lll_prior" else 1), 0)
        for name, row in rows.items()
    ]
    for (key, _), done in sweep.run(jobs, workers=1).items():
        last = done.results[-1]
        assert [len(result.accuracy) for result in done.results] == [1, 2], key
        assert last.clips == [8, 8] and np.mean(last.accuracy) > 0.5, key
        # attention was measured on the imported regions, which the loudness tells
        assert last.hit is None if key == ("ridge",) else np.mean(last.hit) > 0.6, key


# ---- killed, repeated, damaged


def test_a_killed_import_goes_on_and_another_one_is_refused(content, tmp_path, small_shards, monkeypatch):
    path = save(tmp_path, content)
    import_tokens(path, tmp_path / "whole")
    original, made = importer._shard, []

    def dies(source, first, last):
        made.append(first)
        if len(made) == 3:
            raise KeyboardInterrupt
        return original(source, first, last)

    monkeypatch.setattr(importer, "_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        import_tokens(path, tmp_path / "out")
    import_tokens(path, tmp_path / "out")
    assert made == [0, 5, 10, *range(10, CLIPS, 5)]

    def files(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert files(tmp_path / "out") == files(tmp_path / "whole")
    visual = content["visual"].copy()
    visual[-1] += 1
    with pytest.raises(StoreError, match=r"holds other features \(checksum differ\); delete the folder"):
        import_tokens(save(tmp_path, content, visual=visual), tmp_path / "out")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(StoreError, match=r"to write, .* GB free"):
        import_tokens(path, tmp_path / "elsewhere")
    assert not any((tmp_path / "elsewhere").glob("*"))


def test_another_encoder_s_tokens_are_of_the_same_clips_or_refused(content, tmp_path):
    out = tmp_path / "out"
    import_tokens(save(tmp_path, content), out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    import_tokens(save(tmp_path, content, "second.npz", audio=2 * content["audio"], region=None), out, encoder="second")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before, "regions stay"
    other = save(tmp_path, content, "third.npz", order=content["order"][::-1])
    with pytest.raises(
        TokensError, match=r"(manifest\.csv|order\.json): of other clips, labels or order, and `(imported|second)` has"
    ):
        import_tokens(other, out, encoder="third")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert not (out / "features/third").exists(), "it would be in the way of the next import"


def test_regions_of_an_earlier_import_do_not_stay(content, tmp_path):
    out = tmp_path / "out"
    import_tokens(save(tmp_path, content), out)
    assert (out / "regions.npz").exists()
    shutil.rmtree(out / "features")
    import_tokens(save(tmp_path, content, region=None), out)
    assert not (out / "regions.npz").exists()


def test_clips_that_cannot_be_used_are_quarantined(content, tmp_path):
    visual, audio = content["visual"].copy(), content["audio"].copy()
    visual[3, 1, 2, 0], audio[5, 0] = np.nan, 1e6
    unusable = import_tokens(save(tmp_path, content, visual=visual, audio=audio), tmp_path / "out")
    assert unusable == {
        "clip-03": "visual: NaN, or a value beyond float16 (65504)",
        "clip-05": "audio: NaN, or a value beyond float16 (65504)",
    }
    data = load(tmp_path / "out")
    assert not data.tokens.visual[3].any() and data.tokens.visual.isfinite().all()
    assert len(read_manifest(tmp_path / "out/manifest.csv")) == CLIPS and not {3, 5} & set(
        data.splits["train"].tolist()
    )
    with pytest.raises(TokensError, match="no usable clip from `clip-00` to `clip-55`: visual: NaN"):
        import_tokens(save(tmp_path, content, visual=visual * np.nan), tmp_path / "none")


def test_nothing_is_unpickled_and_damage_is_one_line(content, tmp_path):
    sentinel = tmp_path / "sentinel"
    path = save(tmp_path, content, audio=np.array([Reduced(os.system, f"touch {sentinel}")], dtype=object))
    with pytest.raises(TokensError, match=r"`audio`: Object arrays .*; write it again, as a plain array"):
        import_tokens(path, tmp_path / "out")
    assert not sentinel.exists()
    np.load(path, allow_pickle=True)["audio"]
    assert sentinel.exists(), "the control"
    for name in ("tokens.npz", "tokens.safetensors"):
        whole = save(tmp_path, content, name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(TokensError, match=rf"{name}: cannot be read .*; write it again"):
            open_tokens(tmp_path / name)
    # a byte of the values
    whole = bytearray(save(tmp_path, content).read_bytes())
    where = zipfile.ZipFile(tmp_path / "tokens.npz").getinfo("visual.npy")
    whole[where.header_offset + where.compress_size // 2] ^= 255
    (tmp_path / "tokens.npz").write_bytes(whole)
    with pytest.raises(TokensError, match=r"`visual`: .*; write it again"):
        import_tokens(tmp_path / "tokens.npz", tmp_path / "out")


# ---- what is wrong


def changed(array, row, value):
    array = array.astype(object) if isinstance(value, str) else array.copy()
    array[row] = value
    return array.astype(str) if isinstance(value, str) else array


WRONG = {
    "no visual": ({"visual": None}, {}, "no array `visual`, wanted as visual; say --name visual=THEIRS, of audio"),
    "no such name": ({}, {"similarity": "sim"}, "no array `sim`, wanted as similarity; say --name similarity=THEIRS"),
    "a name of nobody's": ({}, {"vision": "visual"}, "--name vision=...: no such array is read; those are visual"),
    "flat visual": ({"visual": lambda v: v[:, 0]}, {}, r"`visual` is of shape \[56, 4, 6\], not \[n,L,S,D\]"),
    "fewer clips": ({"audio": lambda a: a[1:]}, {}, r"`audio` is of shape \[55, 5\], not \[n,E\] \(n = 56, L = 3"),
    "other slots": ({"loudness": lambda a: a[:, 1:]}, {}, r"`loudness` is of shape \[56, 2\], not \[n,L\]"),
    "no channels": ({"audio": lambda a: a[:, :0]}, {}, r"`audio` is of shape \[56, 0\], not \[n,E\]"),
    "complex": ({"audio": lambda a: a.astype(complex)}, {}, "`audio` is of kind c, not of f or i or u"),
    "integers": ({"visual": lambda v: v.astype("i1")}, {}, "visual holds integers, scale is None; give --scale"),
    "fractional labels": ({"label": lambda a: a / 2}, {}, "`label` is of kind f, not of i or u or U"),
    "label": ({"label": lambda a: changed(a, 9, 4)}, {}, "clip 9: label 4; use positions or words"),
    "split": ({"split": lambda a: changed(a, 2, 3)}, {}, "clip 2: split 3; use 0, 1, 2 or train"),
    "id twice": ({"clip_id": lambda a: changed(a, 7, "clip-01")}, {}, "clip 7: clip_id 'clip-01'; an earlier"),
    "id": ({"clip_id": lambda a: changed(a, 7, "a\nb")}, {}, r"clip 7: clip_id 'a\\nb'; use printable characters"),
    "class twice": ({"order": lambda a: changed(a, 1, "class 0")}, {}, "empty, no plain text or there twice"),
    "blank class": ({"order": lambda a: changed(a, 1, " ")}, {}, "empty, no plain text or there twice"),
    "untested": ({"split": lambda s: np.where(np.arange(CLIPS) < 14, 0, s)}, {}, "no test clip of `class 0`; add some"),
    "region": ({"region": lambda r: r / 100.0}, {}, r"a region is not in \[0, 1\]"),
    "scale": ({"scale": lambda _: np.float32(-1), "visual": lambda v: v.astype("i1")}, {}, r"scale is -1\.0; give"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line_in_front_of_any_work(wrong, content, tmp_path):
    changes, names, message = WRONG[wrong]
    changes = {name: change and change(content.get(name)) for name, change in changes.items()}
    with pytest.raises(TokensError, match=message) as error:
        import_tokens(save(tmp_path, content, **changes), tmp_path / "out", names=names)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["?", "c8"])
def test_what_is_no_number_to_learn_from_is_named_in_either_format(kind, content, tmp_path):
    for name in ("tokens.npz", "tokens.safetensors"):
        path = save(tmp_path, content, name, audio=content["audio"].astype(kind))
        with pytest.raises(TokensError, match=f"`audio` is of kind {np.dtype(kind).kind}, not of f or i or u"):
            import_tokens(path, tmp_path / "out")


def test_the_command_reports_imports_and_refuses(content, tmp_path, capsys):
    importer.main([str(save(tmp_path, content, audio=content["audio"] * np.nan))])
    assert capsys.readouterr().out.endswith("classes will do; values are read when it is imported\n")
    path = save(tmp_path, content)
    command = [sys.executable, "-m", "avcil.workshop.import_tokens"]
    done = subprocess.run([*command, path, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "visual: [56, 3, 4, 6]\n" in done.stdout and "clips: 32 train, 8 val, 16 test; 4 classes" in done.stdout
    assert "unusable clips: 0" in done.stdout and (tmp_path / "out/features/imported/index.json").exists()
    with pytest.raises(SystemExit, match=r"^no integers|^[^\n]*no integers are there[^\n]*; leave out --scale$"):
        importer.main([str(path), "--scale", "2"])
    with pytest.raises(SystemExit, match=r"^[^\n]*missing\.npz: cannot be read [^\n]*No such file[^\n]*$"):
        importer.main([str(tmp_path / "missing.npz")])
    with pytest.raises(SystemExit, match=r"neither \.npz nor \.safetensors"):
        importer.main([str(tmp_path)])
    with pytest.raises(SystemExit):
        importer.main([str(path), "--name", "visual"])


# ---- the development sets

DEVELOPMENT = os.environ.get("AVCIL_DEVELOPMENT")


@pytest.mark.skipif(DEVELOPMENT is None, reason="AVCIL_DEVELOPMENT names no folder of development sets")
@pytest.mark.parametrize(
    ("name", "classes", "shape"), [("DEV-C", 20, (880, 8, 9, 768)), ("DEV-D", 16, (1120, 8, 16, 768))]
)
def test_development_sets_come_in(name, classes, shape, tmp_path):
    path = Path(DEVELOPMENT) / f"{name}.npz"
    assert import_tokens(path, tmp_path, names={"clip_id": "vid", "order": "classes"}) == {}
    data = load(tmp_path)
    assert data.tokens.shape == shape and len(data.order) == classes
    with np.load(path) as arrays:
        np.testing.assert_array_equal(data.tokens.visual[::100], arrays["visual"][::100] / np.float32(16))
