"""Clips without sound or without picture: refused, or kept and learnt from by rows that know what zeros stand for."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from media import tone, without, write

import avcil
from avcil.encoders.base import Reading
from avcil.encoders.prior import load_prior
from avcil.extraction.clips import ClipError, read_clip
from avcil.extraction.decoding import usable
from avcil.extraction.features import extract
from avcil.learn.checkpoint import EMPTY
from avcil.learn.methods import knows_absence
from avcil.learn.train import run_task, run_tasks
from avcil.learner.clips import LearnerError
from avcil.params.extraction import FeatureConfig
from avcil.params.learning import chain
from avcil.tokens.dataset import load_datasets
from avcil.tokens.manifest import Media, write_manifest, write_orders
from avcil.tokens.store import StoreError, quarantined, read_store
from avcil.tokens.tokens import Tokens
from conftest import ROOT

CLIPS = ROOT / "corpus/sounding_objects/clips"
READ = {"frames": 8, "fps": 4.0, "size": 32, "sample_rate": 16000}
KEPT = READ | {"streams": ["visual", "audio"], "silence": 1e-4, "incomplete": "keep"}
CONFIG = FeatureConfig(clips_per_shard=4, batch=3, quarantine_share=0.0, silence=1e-4, incomplete="keep")


def mute(to: Path, clip: str) -> Path:
    return without(CLIPS / clip, "audio", to / f"mute-{clip}")


def blind(to: Path, clip: str) -> Path:
    return without(CLIPS / clip, "video", to / f"blind-{clip}")


# ---- one clip


@pytest.mark.parametrize(
    ("file", "absent", "reason"),
    [("mute", "audio", "no audio track"), ("blind", "visual", "no video track"), ("silent", "audio", "silent"),
     ("short", "audio", r"audio track of 0\.\d\d s where 2\.00 s are wanted")],
)  # fmt: skip
def test_a_clip_that_lacks_a_stream_is_refused_or_read_without_it(tmp_path, file, absent, reason):
    times, sound = [k / 4 for k in range(8)], tone(440, 2, 16000)
    whole = write(tmp_path / "whole.mp4", times, sound=sound)
    path = tmp_path / f"{file}.mp4"
    if file in ("mute", "blind"):
        without(whole, "audio" if file == "mute" else "video", path)
    else:
        write(path, times, sound=0 * sound if file == "silent" else sound[:, :8000])
    told = usable(Media(path), KEPT | {"incomplete": "quarantine"})
    assert told.startswith(f"{path}: ") and told.endswith(("drop its row", "drop its row from the manifest"))
    assert re.search(reason, told)
    found, expected = usable(Media(path), KEPT), read_clip(whole, **READ)
    [there] = {"visual", "audio"} - {absent}
    assert found.streams == (there,)
    fields = {"visual": "frames", "audio": "waveform"}
    assert getattr(found, fields[absent]) is None
    # of the same packets the same bits
    if file != "silent":
        np.testing.assert_array_equal(getattr(found, fields[there]), getattr(expected, fields[there]))


def test_a_clip_that_lacks_all_of_them_cannot_be_used(tmp_path):
    path = write(tmp_path / "nothing.mp4", sound=0 * tone(440, 2, 16000))
    assert "silent" in usable(Media(path), KEPT)
    # nor where the stream that is left was not asked for
    path = write(tmp_path / "picture.mp4", [k / 4 for k in range(8)])
    assert "no audio track" in usable(Media(path), KEPT | {"streams": ["audio"]})
    path.write_bytes(path.read_bytes()[:200])
    assert "damaged" in usable(Media(path), KEPT)


# ---- a store


@pytest.fixture(scope="module")
def encoder(params):
    mini, _ = load_prior(ROOT / "prior/mini-0.safetensors", params.encoder)
    return mini.watching(Reading(**params.film.model_dump()))


@pytest.fixture
def clips(tmp_path) -> dict[str, Media]:
    """Two classes: four whole clips of each, and of the first one that is mute and one that is blind."""
    files = {f"{c}-{k}": CLIPS / f"train-00{c}-00{k}.mp4" for c in (0, 1) for k in range(4)}
    files |= {"mute": mute(tmp_path, "train-000-004.mp4"), "blind": blind(tmp_path, "train-000-005.mp4")}
    return {name: Media(files[name]) for name in sorted(files)}


@pytest.mark.parametrize("guided", [False, True])
def test_zeros_stand_for_what_is_absent_and_all_else_is_as_ever(encoder, clips, tmp_path, monkeypatch, guided):
    if guided:  # by the similarity of another encoder
        monkeypatch.setattr(type(encoder), "guide", encoder, raising=False)
    header = extract(encoder, "mini", clips, CONFIG, tmp_path / "kept")
    assert not quarantined(tmp_path / "kept", range(len(header.shards)))
    tokens, row = read_store(tmp_path / "kept").tokens, {name: number for number, name in enumerate(clips)}
    whole = {"mute": Media(CLIPS / "train-000-004.mp4"), "blind": Media(CLIPS / "train-000-005.mp4")}
    extract(encoder, "mini", clips | whole, CONFIG, tmp_path / "whole")
    every = read_store(tmp_path / "whole").tokens
    assert not tokens.audio[row["mute"]].any() and not tokens.visual[row["blind"]].any()
    assert not tokens.similarity[[row["mute"], row["blind"]]].any()
    # rounding depends on how many clips are encoded together
    close = {"rtol": 0, "atol": 2e-2}
    torch.testing.assert_close(tokens.visual[row["mute"]], every.visual[row["mute"]], **close)
    torch.testing.assert_close(tokens.audio[row["blind"]], every.audio[row["blind"]], **close)
    others = [number for name, number in row.items() if name not in whole]
    for stream, expected in zip(tokens, every, strict=True):
        torch.testing.assert_close(stream[others], expected[others], **close)


def test_without_the_word_they_are_quarantined(encoder, clips, tmp_path):
    config = CONFIG.model_copy(update={"incomplete": "quarantine"})
    with pytest.raises(StoreError, match=r"2 unusable clips, 0 allowed .*blind.*: no video track"):
        extract(encoder, "mini", clips, config, tmp_path / "store")


# ---- who learns from them


def test_rows_that_know_absence_say_so(params):
    known = {name for name, row in params.methods.items() if knows_absence(row)}
    assert known == {"lll_conditional"}
    others = ({"hooks": {"modality_dropout": {}}}, {"fusion": "null_tokens"})
    assert all(knows_absence(params.methods["naive_fusion"].model_copy(update=changes)) for changes in others)


def test_the_data_set_knows_who_lacks_what(encoder, clips, tmp_path):
    lines = [(name, f"{name}.mp4", "b" if name[0] == "1" else "a", "train") for name in clips]
    lines += [("t0", "t0.mp4", "a", "test"), ("t1", "t1.mp4", "b", "test")]
    table = pd.DataFrame(lines, columns=["clip_id", "path", "label", "split"])
    write_manifest(tmp_path / "manifest.csv", table)
    write_orders(tmp_path / "orders.json", {0: ["a", "b"]})
    tested = {"t0": Media(CLIPS / "test-000-000.mp4"), "t1": clips["mute"]}
    for kept, expected in (("keep", {"mute", "blind", "t1"}), ("quarantine", set())):
        config = CONFIG.model_copy(update={"incomplete": kept, "quarantine_share": 1.0})
        extract(encoder, "mini", clips | tested, config, tmp_path / kept)
        files = tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path / kept
        data = load_datasets(*files, [0])[0]
        found = set() if data.incomplete is None else {data.clip_ids[row] for row in data.incomplete.nonzero()[:, 0]}
        assert found == expected
        whole = {data.clip_ids[row] for row in data.whole(data.splits["train"])}
        assert whole == {name for name in clips if "-" in name}
        assert len(data.splits["train"]) == len(clips) - 2 * (kept == "quarantine")
        assert len(data.splits["test"]) == 1 + (kept == "keep")
    # where no clip has a picture none lacks it
    audible = {name: clip for name, clip in (clips | tested).items() if name not in ("mute", "t1")}
    write_manifest(tmp_path / "manifest.csv", table[table.clip_id.isin(audible)].assign(label="a"))
    write_orders(tmp_path / "orders.json", {0: ["a"]})
    extract(encoder, "mini", audible, CONFIG, tmp_path / "sound", streams=("audio",))
    files = tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path / "sound"
    assert load_datasets(*files, [0])[0].incomplete is None


@pytest.fixture
def lame(toy):
    """Toy clips of which some lack a stream, a test clip among them."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(len(toy.labels), generator=generator)
    drawn[toy.splits["test"][0]] = 0
    deaf, unseeing = drawn < 0.2, (drawn >= 0.2) & (drawn < 0.4)
    tokens = toy.tokens._replace(
        audio=toy.tokens.audio.masked_fill(deaf[:, None, None], 0),
        visual=toy.tokens.visual.masked_fill(unseeing[:, None, None, None], 0),
        similarity=toy.tokens.similarity.masked_fill((deaf | unseeing)[:, None, None], 0),
    )
    return toy._replace(tokens=tokens, incomplete=deaf | unseeing)


@pytest.mark.parametrize("name", ["ridge", "lll_closed", "lll_conditional", "replay"])
def test_a_row_learns_from_what_it_can(lame, params, name):
    """One that does not know absence is to the bit what it is without these clips; one that does learns from all."""
    row, tasks = params.methods[name], chain([2, 2, 2], 2)
    training = params.training.model_copy(update={"keep": "best_all"})
    # every third training clip chooses the epoch
    train = lame.splits["train"]
    lame = lame._replace(splits=lame.splits | {"val": train[::3], "train": train[torch.arange(len(train)) % 3 > 0]})
    left = {split: lame.whole(lame.splits[split]) for split in ("train", "val")}
    assert all(0 < len(rows) < len(lame.splits[split]) for split, rows in left.items())

    def learnt(data):
        checkpoint = EMPTY
        for task in range(3):
            checkpoint, result, _ = run_task(data, row, training, tasks, task, 0, checkpoint)
        return checkpoint, result.predictions

    (found, answers), (all_of_them, _) = learnt(lame), learnt(lame._replace(incomplete=None))
    fewer, _ = learnt(lame._replace(incomplete=None, splits=lame.splits | left))
    same, other = (all_of_them, fewer) if name == "lll_conditional" else (fewer, all_of_them)

    def tensors(checkpoint):
        return {**checkpoint.model, **checkpoint.readout}

    assert all(value.equal(tensors(same)[key]) for key, value in tensors(found).items())
    assert not all(value.equal(tensors(other)[key]) for key, value in tensors(found).items())
    # every test clip is answered, those that lack a stream among them
    assert set(answers) == {lame.clip_ids[row] for row in lame.splits["test"]}


def test_a_class_of_which_no_clip_is_whole_is_named(lame, params):
    data, tasks = lame._replace(incomplete=lame.incomplete | (lame.labels == 3)), chain([2, 2, 2], 2)
    for name in ("ridge", "lll_closed"):
        with pytest.raises(ValueError, match=f"task 1: no usable train clip of `{lame.order[3]}`"):
            run_tasks(data, params.methods[name], params.training, tasks, 0, None)


# ---- a learner


def test_a_learner_takes_what_its_row_learns_from(params, tmp_path):
    whole = {c: [CLIPS / f"train-00{c}-00{k}.mp4" for k in range(5)] for c in (0, 1)}
    lacking = [mute(tmp_path, "test-000-000.mp4"), blind(tmp_path, "test-001-000.mp4")]
    labels = ["a"] * 5 + ["b"] * 5
    with pytest.raises(ClipError, match=r"mute-test-000-000\.mp4: no audio track; leave it out"):
        avcil.Learner(params=params).learn(whole[0] + whole[1] + lacking[:1], [*labels, "a"])
    learner = avcil.Learner(method="lll_conditional", params=params)
    learner.learn(whole[0] + whole[1], labels)
    before = learner.predict(lacking)
    assert [said.label for said in before][1] == "b"  # by its sound alone
    # more clips of classes that it knows, which lack a stream
    learner.learn([mute(tmp_path, "train-000-006.mp4"), blind(tmp_path, "train-001-006.mp4")], ["a", "b"])
    assert [said.probabilities for said in learner.predict(lacking)] != [said.probabilities for said in before]
    # and a class that has no sound at all
    learner.learn([mute(tmp_path, f"train-002-00{k}.mp4") for k in range(5)], "c")
    found = learner.predict([*lacking, mute(tmp_path, "test-002-000.mp4")])
    assert found[-1].label == "c" and found[1].label == "b"
    with pytest.raises(LearnerError, match="no clip has a sound or a picture; give one that has"):
        avcil.Learner(method="lll_conditional", params=params).learn(
            Tokens(torch.zeros(2, 8, 64, 128), torch.zeros(2, 8, 128), torch.zeros(2, 8, 64)), ["a", "b"]
        )
    learner.save(tmp_path / "saved")
    again = avcil.Learner.load(tmp_path / "saved").predict(lacking)
    assert [said.probabilities for said in again] == [said.probabilities for said in found[:2]]
