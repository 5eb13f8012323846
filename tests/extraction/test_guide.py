"""The similarity of another encoder, or by loudness, on small random-weight instances of PE-AV's own classes."""

import numpy as np
import pytest
import torch
from media import tone, write

from avcil import Learner
from avcil.encoders.base import WeightsError
from avcil.encoders.loudness import Loudness, loudness
from avcil.extraction import extract, features
from avcil.extraction.clips import read_clip
from avcil.learner.clips import tokens_of
from avcil.params import ParameterError, parse
from avcil.tokens.guidance import explained_change
from avcil.tokens.manifest import Media
from avcil.tokens.store import read_store
from avcil.tokens.tokens import Layout, Tokens

pytestmark = [pytest.mark.arithmetic, pytest.mark.slow]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from tiny_pe_av import tiny  # transformers takes seconds to import

    folder, model = tmp_path_factory.mktemp("weights"), tiny()
    model.save_pretrained(folder / "one")
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    model.save_pretrained(folder / "other")
    return folder


@pytest.fixture
def given(raw_params, weights):
    """Parameters with encoders `one` and `other`; `both`: the tokens of `one` with the similarity of `other`; and
    `heard`: with that of loudness."""

    def make(**changes):
        entry = {
            "kind": "pe_av",
            "frames": 4,
            "seconds": 2.0,
            "patches": 2,
            "joint": False,
            "weights": f"{weights}/one",
        }
        entries = {
            "one": entry,
            "other": entry | {"weights": f"{weights}/other"},
            "both": entry | {"similarity": "other"},
            "heard": entry | {"similarity": "loudness"},
        }
        entries = {name: entries.get(name, entry) | changes.get(name, {}) for name in entries | changes}
        compute = raw_params["compute"] | {"workers": 1}
        return parse(raw_params | {"encoders": raw_params["encoders"] | entries, "compute": compute})

    return make


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    times = [k / 4 for k in range(8)]
    files = [write(folder / f"{n}.mp4", times, sound=tone(300 + 99 * n, 2, 16000)) for n in range(4)]
    return {file.stem: Media(file) for file in files}


def test_tokens_are_the_encoders_own_and_the_similarity_is_its_guides(given, clips, tmp_path):
    params = given()
    for name in ("one", "other", "both"):
        extract.extract(name, clips, params, tmp_path / name)
    one, other, both = (read_store(tmp_path / name) for name in ("one", "other", "both"))
    assert torch.equal(both.tokens.visual, one.tokens.visual) and torch.equal(both.tokens.audio, one.tokens.audio)
    assert torch.equal(both.tokens.similarity, other.tokens.similarity)
    assert not torch.equal(one.tokens.similarity, other.tokens.similarity)
    assert len({one.header.checksum, other.header.checksum, both.header.checksum}) == 3


def test_a_clip_that_the_guide_cannot_use_cannot_be_used(given, clips, tmp_path, monkeypatch):
    params, make_shard = given(), features.make_shard

    def guide_misses_the_second(encoder, ids, *rest):
        tensors, bad = make_shard(encoder, ids, *rest)
        return tensors, bad if hasattr(encoder, "guide") else bad | {ids[1]: "too short for the guide"}

    monkeypatch.setattr(features, "make_shard", guide_misses_the_second)
    with pytest.raises(ValueError, match="1 unusable clips, 0 allowed"):
        extract.extract("both", clips, params, tmp_path / "both")
    tolerant = params.model_copy(update={"features": params.features.model_copy(update={"quarantine_share": 0.5})})
    extract.extract("both", clips, tolerant, tmp_path / "both")
    made = read_store(tmp_path / "both")
    assert made.quarantined == {list(clips)[1]: "too short for the guide"}
    assert [bool(tokens.any()) for tokens in made.tokens.visual] == [True, False, True, True]


def test_a_learner_reads_files_so_and_keeps_whose_similarity_it_is(given, clips, tmp_path):
    params, files = given(), [clip.path for clip in clips.values()]
    learner = Learner(params=params, encoder="both")
    learner.fit(files, ["a", "b", "a", "b"])
    extract.extract("both", clips, params, tmp_path / "both")
    stored, read = read_store(tmp_path / "both").tokens, tokens_of(files, learner.encoder)
    assert torch.equal(read.similarity.float(), stored.similarity)
    learner.save(tmp_path / "kept")
    again = Learner.load(tmp_path / "kept")
    assert [one.label for one in again.predict(files)] == [one.label for one in learner.predict(files)]
    assert again.encoder.guide.weights == params.encoders["other"].weights


def test_grids_that_differ_and_guides_that_are_not_there_are_one_line(given, clips, tmp_path):
    with pytest.raises(
        WeightsError, match=r"4 x 4 patches in 2 s \(stretch\).* other, .* 4 x 16 patches in 2 s"
    ) as said:
        extract.extract("both", clips, given(other={"patches": 4}), tmp_path / "s")
    assert "set frames, seconds and patches alike" in str(said.value) and not (tmp_path / "s").exists()
    with pytest.raises(
        ParameterError, match=r"encoders\.both\.similarity: no encoder `othre` \(did you mean `other`\?\)"
    ):
        given(both={"similarity": "othre"})
    with pytest.raises(ParameterError, match=r"encoders\.loudness: .* rename it"):
        given(loudness={"kind": "pe_av"})
    with pytest.raises(
        ParameterError, match=r"encoders\.other\.similarity: `both` takes that of another; name whose it is"
    ):
        given(other={"similarity": "both"})


class Lamps(torch.nn.Module):
    """A patch is as bright as its pixel: what an encoder of one channel and 2 x 2 patches would be."""

    revision, reading, layout = "1", None, Layout(8, 4, 1, 1, 1)

    def encode(self, frames, waveform):
        visual = frames[..., 0].flatten(2)[..., None].float()
        return Tokens(visual, waveform.mean(1)[:, None, None], torch.zeros(visual.shape[:3]))


def test_what_grows_bright_with_the_sound_is_found():
    """Of four lamps, one goes with the power of the sound, one against it, and two go as they like or not at all."""
    power = torch.tensor([0.0, 4, 1, 0, 9, 4, 0, 1])
    waveform = (power.sqrt()[:, None] * torch.tensor([1.0, -1.0])).flatten()[None]
    assert torch.equal(loudness(waveform, 8)[0, :, 0], power)
    lamps = torch.stack([20 * power, 200 - 9 * power, torch.tensor([9.0, 0, 0, 0, 0, 9, 0, 9]), 0 * power + 7], 1)
    frames = lamps.reshape(1, 8, 2, 2, 1).expand(-1, -1, -1, -1, 3).to(torch.uint8)
    found = Loudness(Lamps()).encode(frames, waveform).similarity
    assert found.shape == (1, 8, 4) and torch.equal(found[:, :1].expand(-1, 8, -1), found)
    assert found[0, 0, :2].tolist() == pytest.approx([1, 1]) and found[0, 0, 2] < 0.5 and found[0, 0, 3] == 0


def test_loudness_takes_the_place_of_a_similarity(given, tmp_path):
    """In a store and in a learner: the tokens are the encoder's own, and the header names what made both."""
    params, swells = given(), tone(440, 2, 16000) * np.linspace(0, 1, 32000)
    file = write(tmp_path / "clip.mp4", [k / 4 for k in range(8)], sound=swells.astype(np.float32))
    for name in ("one", "heard"):
        extract.extract(name, {"clip": Media(file)}, params, tmp_path / name)
    own, made = (read_store(tmp_path / name) for name in ("one", "heard"))
    assert torch.equal(made.tokens.visual, own.tokens.visual) and torch.equal(made.tokens.audio, own.tokens.audio)
    assert made.header.revision.startswith(own.header.revision.split("+")[0] + "+")
    learner = Learner(params=params, encoder="heard")
    learner.fit([file] * 2, ["a", "b"])
    reading = learner.encoder.encoder.reading
    sound = loudness(torch.from_numpy(read_clip(file, **reading._asdict()).waveform)[None], reading.frames)
    expected = explained_change(made.tokens.visual.float(), sound)
    assert expected.any() and torch.allclose(made.tokens.similarity.float(), expected, atol=0.02)
    assert torch.equal(tokens_of([file], learner.encoder).similarity.float(), made.tokens.similarity)
    learner.save(tmp_path / "kept")
    assert isinstance(Learner.load(tmp_path / "kept").encoder.encoder, Loudness)
