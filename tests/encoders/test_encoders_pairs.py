"""VideoMAE + AudioMAE, CLIP + CLAP and ImageBind, on tiny random instances of the published classes."""

import argparse
import json
import math
import os
import shutil
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torchaudio.compliance import kaldi

from avcil.encoders import clip_clap, imagebind, videomae_audiomae
from avcil.encoders.base import WeightsError
from avcil.encoders.clip_clap import ClipClap, ClipClapConfig, clap_log_mel
from avcil.encoders.imagebind import ImageBind, ImageBindConfig, network
from avcil.encoders.inputs import log_mel, pixels
from avcil.encoders.videomae_audiomae import VideoMAEAudioMAE, VideoMAEAudioMAEConfig, audio_mae
from avcil.extraction.features import checksum
from avcil.tokens.tokens import Layout

pytestmark = [pytest.mark.arithmetic, pytest.mark.slow]

transformers.logging.set_verbosity_error()
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
TEXT = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
PATCHES = {"image_size": 32, "patch_size": 8}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
HTSAT = {"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "hidden_size": 64}
TINY_BIND = {
    "vision_embed_dim": 16, "vision_num_blocks": 1, "vision_num_heads": 2, "out_embed_dim": 8,
    "audio_embed_dim": 12, "audio_num_blocks": 1, "audio_num_heads": 2,
}  # fmt: skip


def random_audio_mae(norm: str) -> dict[str, torch.Tensor]:
    """Weights under the names of the AudioMAE repository; a pre-trained file also has a decoder."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, 64), "pos_embed": (1, 513, 64), "patch_embed.proj.weight": (64, 1, 16, 16)}
    shapes |= {"patch_embed.proj.bias": (64,), f"{norm}.weight": (64,), f"{norm}.bias": (64,)}
    for block in ("blocks.0", "blocks.1"):
        linear = {"attn.qkv": (192, 64), "attn.proj": (64, 64), "mlp.fc1": (256, 64), "mlp.fc2": (64, 256)}
        shapes |= {f"{block}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in linear.items()}
        shapes |= {f"{block}.norm{i}.{name}": (64,) for i in (1, 2) for name in ("weight", "bias")}
    if norm == "norm":
        shapes |= {"mask_token": (1, 1, 8), "decoder_embed.weight": (8, 64), "decoder_norm.weight": (8,)}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def plain_audio_mae(weights: dict[str, torch.Tensor], mel: torch.Tensor) -> torch.Tensor:
    """The forward pass of AudioMAE's encoder up to its last block, written out: mel [1024,128] -> patches [512,64]."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, (64,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    patches = mel.reshape(64, 16, 8, 16).permute(0, 2, 1, 3).reshape(512, 256)
    x = patches @ weights["patch_embed.proj.weight"].reshape(64, 256).T + weights["patch_embed.proj.bias"]
    x = torch.cat([weights["cls_token"][0], x]) + weights["pos_embed"][0]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        x = x + linear((q @ k.T / 8).softmax(-1) @ v, f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return x[1:]


class Folders(NamedTuple):
    """Published weights in little: whole models, as the repositories have them, and processors beside them."""

    videomae: str
    audiomae: str
    clip: str
    clap: str


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("weights")
    paths = Folders(*(str(root / name) for name in ("videomae", "pretrained.pth", "clip", "clap")))
    decoder = {f"decoder_{name}": 8 if "size" in name else 1 for name in TOWER}
    video = transformers.VideoMAEConfig(**PATCHES, **TOWER, **decoder, num_frames=4, use_mean_pooling=False)
    transformers.VideoMAEForPreTraining(video).save_pretrained(paths.videomae)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**crop, **IMAGENET).save_pretrained(paths.videomae)
    clip = transformers.CLIPConfig(text_config=TEXT, vision_config=PATCHES | TOWER, projection_dim=8)
    transformers.CLIPModel(clip).save_pretrained(paths.clip)
    transformers.CLIPImageProcessor(**crop).save_pretrained(paths.clip)
    clap = transformers.ClapConfig(text_config=TEXT, audio_config=HTSAT, projection_dim=8)
    transformers.ClapModel(clap).save_pretrained(paths.clap)
    transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(paths.clap)
    torch.save({"model": random_audio_mae("norm"), "args": argparse.Namespace(epochs=32)}, paths.audiomae)
    return paths


@pytest.fixture(scope="module")
def imagebind_package():
    if folder := os.environ.get("AVCIL_IMAGEBIND"):
        sys.path.insert(0, folder)
    try:
        network(**TINY_BIND)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def make(folders, request):
    """The encoder of a kind, loaded from its folder; keywords change its config."""

    def encoder(kind: str, **changes):
        base = {"frames": 4, "seconds": 2.0}
        torch.manual_seed(0)
        if kind == "imagebind":
            request.getfixturevalue("imagebind_package")
            config = ImageBindConfig(kind=kind, weights="tiny", **base | changes)
            return ImageBind(network(**TINY_BIND), config)
        if kind == "clip_clap":
            config = {"kind": kind, "weights": folders.clip, "audio_weights": folders.clap}
            return ClipClap.load(ClipClapConfig(**config | base | changes))
        config = {"kind": "videomae_audiomae", "weights": folders.videomae, "audio_weights": folders.audiomae}
        config["as_published"] = kind == "as_published"
        return VideoMAEAudioMAE.load(VideoMAEAudioMAEConfig(**config | base | changes))

    return encoder


def clips(encoder, count: int = 2):
    """Random pictures and noise as the encoder reads them."""
    generator = torch.Generator().manual_seed(1)
    reading = encoder.reading
    shape = (count, reading.frames, reading.size, reading.size, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    samples = round(reading.seconds * reading.sample_rate)
    return frames, 0.1 * torch.randn(count, samples, generator=generator)


KINDS = pytest.mark.parametrize("kind", ["videomae_audiomae", "as_published", "clip_clap", "imagebind"])
LAYOUTS = {
    "videomae_audiomae": Layout(2, 16, 13, 16, 64),
    "as_published": Layout(2, 16, 1, 16, 64),
    "clip_clap": Layout(4, 16, 7, 16, 64),
    "imagebind": Layout(4, 256, 19, 16, 12),
}


def shapes(tokens):
    return [tuple(field.shape) for field in tokens]


@KINDS
def test_tokens_are_as_layout_says_and_the_same_alone(make, kind):
    encoder = make(kind)
    frames, waveform = clips(encoder)
    slots, patches, sounds, seen, heard = encoder.layout
    assert encoder.layout == LAYOUTS[kind]
    tokens = encoder.encode(frames, waveform)
    assert shapes(tokens) == [(2, slots, patches, seen), (2, sounds, heard), (2, slots, patches)]
    assert all(map(torch.equal, tokens, encoder.encode(frames, waveform)))
    alone = encoder.encode(frames[1:], waveform[1:])
    for together, single in zip(tokens, alone, strict=True):
        torch.testing.assert_close(together[1:], single, atol=1e-4, rtol=1e-4)
    # the clips differ, so that equal tokens would mean that nothing is looked at
    assert (tokens.visual[0] - tokens.visual[1]).abs().max() > 0.01
    assert (tokens.audio[0] - tokens.audio[1]).abs().max() > 1e-4
    assert (kind == "imagebind") == bool(tokens.similarity.any())


@KINDS
def test_an_absent_stream_is_one_zero_token_and_the_other_is_as_before(make, kind):
    encoder = make(kind, patches=2)
    frames, waveform = clips(encoder)
    both, deaf, blind = (encoder.encode(*pair) for pair in ((frames, waveform), (frames, None), (None, waveform)))
    layout = encoder.layout
    assert shapes(deaf) == [tuple(both.visual.shape), (2, 1, layout.audio_channels), (2, layout.slots, 4)]
    assert shapes(blind) == [(2, 1, 1, layout.visual_channels), tuple(both.audio.shape), (2, 1, 1)]
    assert torch.equal(deaf.visual, both.visual) and torch.equal(blind.audio, both.audio)
    assert not any(zero.any() for zero in (deaf.audio, deaf.similarity, blind.visual, blind.similarity))


@KINDS
def test_patches_are_averaged_as_tokens_do(make, kind):
    encoder, fine = make(kind, patches=2), make(kind)
    assert encoder.layout.patches == 4
    for pooled, coarse in zip(encoder.encode(*clips(fine)), fine.encode(*clips(fine)).coarse(2), strict=True):
        torch.testing.assert_close(pooled, coarse)
    with pytest.raises(ValueError, match="patches: 17 a side where"):
        make(kind, patches=17)


@KINDS
def test_half_precision_stays_close(make, kind):
    encoder = make(kind)
    frames, waveform = clips(encoder)
    single, half = encoder.encode(frames, waveform), encoder.to(torch.bfloat16).encode(frames, waveform)
    for wide, narrow in zip(single, half, strict=True):
        assert narrow.dtype == torch.bfloat16
        assert (wide - narrow.float()).abs().max() < 0.05 * max(1, wide.abs().max())


@KINDS
def test_what_happens_somewhere_shows_there_most(make, kind):
    """A late picture's bright patch, and a late click, against silence and grey."""
    encoder = make(kind)
    frames, waveform = (torch.zeros_like(part[:1]) for part in clips(encoder))
    seen, heard = frames.clone(), waveform.clone()
    side, at = round(encoder.layout.patches**0.5), encoder.reading.sample_rate * 3 // 2
    patch = encoder.reading.size // side
    seen[0, -1, patch : 2 * patch, 2 * patch : 3 * patch] = 255
    heard[0, at : at + 800] = torch.randn(800, generator=torch.Generator().manual_seed(0))
    before, after = encoder.encode(frames, waveform), encoder.encode(seen, heard)
    change = (after.visual - before.visual).norm(dim=-1)[0]
    assert divmod(int(change.argmax()), side * side) == (encoder.layout.slots - 1, side + 2)
    # after 1.5 s, with a token every 0.16 s, every 0.3125 s, or every 0.1 s of 0.16 s each
    where = {"videomae_audiomae": [9], "as_published": [0], "clip_clap": [4], "imagebind": [14, 15]}
    assert int((after.audio - before.audio).norm(dim=-1)[0].argmax()) in where[kind]


# ---- what goes in: against the processors of transformers and the authors' own steps


@pytest.mark.parametrize(
    "processor", [transformers.VideoMAEImageProcessor(**IMAGENET), transformers.CLIPImageProcessor()]
)
def test_pixels_are_the_processors(processor):
    frames = torch.randint(256, (3, 224, 224, 3), dtype=torch.uint8)
    golden = processor(list(frames.numpy()), return_tensors="pt")["pixel_values"].reshape(1, 3, 3, 224, 224)
    ours = pixels(frames[None], processor.image_mean, processor.image_std, torch.zeros(()))
    torch.testing.assert_close(ours, golden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [10.0, 3.0])
def test_clap_log_mel_is_the_feature_extractors(seconds):
    """10 s as they are; 3 s three times over, and a second of silence."""
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    time = np.arange(round(48_000 * seconds)) / 48_000
    sound = 0.3 * np.sin(2 * np.pi * 440 * time * time) + 0.05 * np.random.default_rng(0).normal(size=len(time))
    golden = extractor(sound, sampling_rate=48_000, return_tensors="pt")["input_features"]
    ours = clap_log_mel(torch.from_numpy(sound)[None].float(), extractor)
    assert ours.shape == golden.shape == (1, 1, 1001, 64)
    # dB; the extractor computes in float64
    torch.testing.assert_close(ours, golden.float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("rate", "frames"), [(16_000, 998), (11_430, 1001)])
def test_log_mel_is_as_the_authors_take_it(rate, frames):
    waveform = 0.1 * torch.randn(2, 10 * rate, generator=torch.Generator().manual_seed(0)) + 0.3
    ours = log_mel(waveform, rate, 1024)
    clip = waveform[1:] - waveform[1:].mean()
    golden = kaldi.fbank(
        clip, htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning", num_mel_bins=128,
        dither=0.0, frame_shift=10,
    )  # fmt: skip
    assert golden.shape == (frames, 128)
    torch.testing.assert_close(ours[1], nn.ZeroPad2d((0, 0, 0, 1024 - frames))(golden))
    assert log_mel(waveform, rate, 204).shape == (2, 204, 128)


def test_visual_tokens_are_the_whole_models(make, folders):
    """From processor to last hidden state through the models as they were saved."""
    encoder = make("videomae_audiomae")
    frames = clips(encoder, 1)[0]
    processor = transformers.VideoMAEImageProcessor.from_pretrained(folders.videomae)
    whole = transformers.VideoMAEForPreTraining.from_pretrained(folders.videomae).eval().videomae
    hidden = whole(**processor(list(frames[0].numpy()), return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(encoder.encode(frames, None).visual[0].flatten(0, 1), hidden[0], atol=1e-5, rtol=1e-4)

    encoder = make("clip_clap")
    processor = transformers.CLIPImageProcessor.from_pretrained(folders.clip)
    whole = transformers.CLIPModel.from_pretrained(folders.clip).eval().vision_model
    made = whole(**processor(list(frames[0].numpy()), return_tensors="pt"))
    normed = whole.post_layernorm(made.last_hidden_state)
    torch.testing.assert_close(normed[:, 0], made.pooler_output)
    torch.testing.assert_close(encoder.encode(frames, None).visual[0], normed[:, 1:], atol=1e-5, rtol=1e-4)


# ---- AudioMAE


@pytest.mark.parametrize("norm", ["norm", "fc_norm"])
def test_audio_mae_computes_what_its_repository_does(norm):
    """Pre-trained file (``norm``) and fine-tuned file (``fc_norm``), in both ways of taking the tokens."""
    weights = random_audio_mae(norm)
    mel = torch.randn(1024, 128, generator=torch.Generator().manual_seed(2))
    patches = plain_audio_mae(weights, mel)

    def normed(x, ours: dict):
        return F.layer_norm(x, (64,), ours.get(f"{norm}.weight"), ours.get(f"{norm}.bias"), 1e-6)

    tokens = audio_mae(weights, "a.pth", as_published=False).eval()
    each = tokens.fc_norm(tokens.forward_features(mel[None, None])[0, 1:])
    torch.testing.assert_close(each, normed(patches, weights), atol=1e-5, rtol=1e-4)
    # the AV-CIL authors' own norm has no trained weights, unless the file is a fine-tuned one
    pooled = audio_mae(weights, "a.pth", as_published=True).eval()(mel[None, None])[0]
    expected = normed(patches.mean(0), weights if norm == "fc_norm" else {})
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-4)


def test_as_published_is_one_token_of_another_spectrogram(make, folders):
    ours, theirs = make("videomae_audiomae", seconds=10.0), make("as_published", seconds=10.0)
    assert (ours.reading.sample_rate, theirs.reading.sample_rate) == (16_000, 11_430)
    assert (ours.layout.audio_tokens, theirs.layout.audio_tokens) == (63, 1)
    assert make("videomae_audiomae", seconds=1.12).layout.audio_tokens == 7  # of 16 frames of 10 ms
    assert ours.reading._replace(sample_rate=0) == theirs.reading._replace(sample_rate=0)
    frames, waveform = clips(theirs, 1)
    weights = torch.load(folders.audiomae, weights_only=False)["model"]
    mel = log_mel(waveform, 11_430, 1024)[0]
    pooled = F.layer_norm(plain_audio_mae(weights, mel).mean(0), (64,), eps=1e-6)
    tokens = theirs.encode(frames, waveform)
    torch.testing.assert_close(tokens.audio[0, 0], pooled, atol=1e-3, rtol=1e-3)
    assert torch.equal(tokens.visual, ours.encode(frames, None).visual)
    # and ours: normalised, along time
    frames, waveform = clips(ours, 1)
    mel = (log_mel(waveform, 16_000, 1024)[0] + 4.2677393) / (2 * 4.5689974)
    patches = F.layer_norm(plain_audio_mae(weights, mel), (64,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    audio = ours.encode(None, waveform).audio[0]
    torch.testing.assert_close(audio, patches.reshape(64, 8, 64).mean(1)[:63], atol=1e-4, rtol=1e-4)


# ---- CLAP's fold


def test_clap_tokens_run_along_time(make):
    """The last stage's grid, unfolded by hand: row 2 r + f and column c hold time 8 r + c and frequency f."""
    encoder = make("clip_clap", seconds=10.0)
    seen = {}
    norm = encoder.audio.audio_encoder.norm
    norm.register_forward_hook(lambda module, given, made: seen.update(grid=made[0].reshape(8, 8, 64)))
    audio = encoder.encode(None, clips(encoder, 1)[1]).audio[0]
    assert len(audio) == 32
    for time in range(32):
        row, column = divmod(time, 8)
        torch.testing.assert_close(audio[time], seen["grid"][2 * row : 2 * row + 2, column].mean(0))


# ---- errors


def test_weights_that_are_not_there(make, folders, tmp_path):
    for kind, key in (("videomae_audiomae", "weights"), ("clip_clap", "weights"), ("clip_clap", "audio_weights")):
        with pytest.raises(WeightsError, match=r"nowhere: no such folder\. Licence"):
            make(kind, **{key: str(tmp_path / "nowhere")})
    with pytest.raises(WeightsError, match=r"no such file. The ViT-B files are linked from https://.*CC-BY-NC"):
        make("videomae_audiomae", audio_weights=str(tmp_path / "no.pth"))
    with pytest.raises(WeightsError, match="not a whole VideoMAEModel"):
        make("videomae_audiomae", weights=folders.clip)


def test_a_processor_that_is_not_there(make, folders, tmp_path):
    transformers.CLIPVisionModel.from_pretrained(folders.clip).save_pretrained(tmp_path)
    for damaged in (None, "{", "[]"):
        if damaged:
            (tmp_path / "preprocessor_config.json").write_text(damaged)
        with pytest.raises(WeightsError, match=r"no preprocessor_config.json of CLIPImageProcessor"):
            make("clip_clap", weights=str(tmp_path))


def test_another_config_beside_the_same_weights_is_another_revision(make, folders, tmp_path):
    """Mean and spread of pixels are in no weight: a store of the wrong ones would pass for one of the right ones."""
    shutil.copytree(folders.clip, tmp_path, dirs_exist_ok=True)
    before = make("clip_clap", weights=str(tmp_path))
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | IMAGENET))
    after = make("clip_clap", weights=str(tmp_path))
    assert before.mean != after.mean and before.reading == after.reading and checksum(before) == checksum(after)
    assert before.revision != after.revision and make("clip_clap").revision == before.revision


def test_a_fused_clap_is_refused(make, folders, tmp_path):
    clap = transformers.ClapConfig(text_config=TEXT, audio_config=HTSAT | {"enable_fusion": True}, projection_dim=8)
    transformers.ClapModel(clap).save_pretrained(tmp_path)
    transformers.ClapFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="a fused CLAP, which reads 4 spectrograms"):
        make("clip_clap", audio_weights=str(tmp_path))


class Intruder:
    ran = False

    def __reduce__(self):
        return setattr, (Intruder, "ran", True)


def test_pth_files_that_are_not_safe_or_not_audio_mae(make, tmp_path):
    good = random_audio_mae("norm")
    lacking = {name: value for name, value in good.items() if name != "blocks.1.mlp.fc2.bias"}
    misshapen = good | {"pos_embed": torch.zeros(1, 197, 64)}
    for content, message in (
        ({"model": good, "hook": Intruder()}, "holds more than tensors.*Unsupported"),
        ([1, 2], "no AudioMAE encoder in it"),
        ({"model": None, "state_dict": good}, "no AudioMAE encoder in it"),
        ({"model": torch.ones(3)}, "no AudioMAE encoder in it"),
        ({"model": good | {"patch_embed.proj.weight": 3}}, "no AudioMAE encoder in it"),
        ({"model": good | {"cls_token": [3]}}, "another model's weights.*cls_token"),
        ({"model": lacking}, "another model's weights.*blocks.1.mlp.fc2.bias"),
        ({"model": misshapen}, "another model's weights.*pos_embed"),
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=message) as caught:
            make("videomae_audiomae", audio_weights=str(tmp_path / "odd.pth"))
        assert "\n" not in str(caught.value)
    assert not Intruder.ran
    (tmp_path / "odd.pth").write_bytes(b"not a weight file")
    with pytest.raises(WeightsError, match="damaged"):
        make("videomae_audiomae", audio_weights=str(tmp_path / "odd.pth"))


def test_options_among_the_weights_are_passed_over(make, tmp_path):
    torch.save({7: "epochs", "arch": "mae_vit"} | random_audio_mae("norm"), tmp_path / "bare.pth")
    assert make("videomae_audiomae", audio_weights=str(tmp_path / "bare.pth")).layout.audio_channels == 64


def test_clips_that_do_not_fit_a_model(make):
    with pytest.raises(ValueError, match=r"frames 5: .* takes 4 pictures"):
        make("videomae_audiomae", frames=5)
    base = {"weights": "w", "audio_weights": "w", "frames": 4}
    with pytest.raises(ValueError, match=r"less than or equal to 10\.24"):
        VideoMAEAudioMAEConfig(kind="videomae_audiomae", as_published=True, seconds=11.0, **base)
    with pytest.raises(ValueError, match="less than or equal to 10"):
        ClipClapConfig(kind="clip_clap", seconds=11.0, **base)
    with pytest.raises(ValueError, match="multiple of 2"):
        ImageBindConfig(kind="imagebind", weights="w", frames=4, seconds=3.0)


def without_imagebind(monkeypatch, path: list[str]):
    for name in [name for name in sys.modules if name.split(".")[0] == "imagebind"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [*path, *(p for p in sys.path if not os.path.isdir(os.path.join(p, "imagebind")))])


@pytest.mark.parametrize("placeholder", [False, True])
def test_imagebind_that_is_not_installed_or_pypis_placeholder(monkeypatch, tmp_path, placeholder):
    if placeholder:
        (tmp_path / "imagebind").mkdir()
        (tmp_path / "imagebind" / "__init__.py").touch()
    without_imagebind(monkeypatch, [str(tmp_path)])
    config = ImageBindConfig(kind="imagebind", weights="w", frames=4, seconds=2.0)
    with pytest.raises(ImportError, match=r"empty placeholder.*github.com/facebookresearch/ImageBind.*CC-BY-NC-SA 4.0"):
        ImageBind.load(config)
    assert "imagebind" not in sys.modules


# ---- published sizes, without memory for them


@cache
def video_mae():
    """Once: its table of positions is made number by number."""
    return transformers.VideoMAEModel(transformers.VideoMAEConfig())


def published(kind: str, as_published: bool = False):
    if kind == "videomae":
        config = {"kind": "videomae_audiomae", "as_published": as_published, "audio_weights": "a"}
        config = VideoMAEAudioMAEConfig(weights="v", frames=16, seconds=10.0, **config)
        audio = videomae_audiomae.VisionTransformer(img_size=(1024, 128), in_chans=1, num_classes=0, global_pool="avg")
        return VideoMAEAudioMAE(video_mae(), transformers.VideoMAEImageProcessor(**IMAGENET), audio, config)
    config = ClipClapConfig(kind="clip_clap", weights="v", audio_weights="a", frames=10, seconds=10.0)
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=16))
    clap = clip_clap.ClapAudioModel(transformers.ClapAudioConfig())
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    return ClipClap(clip, transformers.CLIPImageProcessor(), clap, extractor, config)


@pytest.mark.parametrize(
    ("kind", "as_published", "layout"),
    [
        ("videomae", False, Layout(8, 196, 63, 768, 768)),
        ("videomae", True, Layout(8, 196, 1, 768, 768)),
        ("clip_clap", False, Layout(10, 196, 32, 768, 768)),
    ],
)
def test_published_sizes(kind, as_published, layout):
    with torch.device("meta"):
        encoder = published(kind, as_published)
    assert encoder.layout == layout
    assert (encoder.reading.size, encoder.reading.fit) == (224, "crop")
    tokens = encoder.encode(*clips(encoder, 1))
    assert shapes(tokens) == [
        (1, layout.slots, 196, 768), (1, layout.audio_tokens, 768), (1, layout.slots, 196)
    ]  # fmt: skip


# ---- ImageBind's own


def test_imagebind_published_widths(imagebind_package):
    model = network(**imagebind.HUGE | {"vision_num_blocks": 1, "audio_num_blocks": 1}).to("meta")
    encoder = ImageBind(model, ImageBindConfig(kind="imagebind", weights="w", frames=5, seconds=10.0))
    assert encoder.layout == Layout(5, 256, 95, 1280, 768)
    tokens = encoder.encode(*clips(encoder, 1))
    assert shapes(tokens) == [(1, 5, 256, 1280), (1, 95, 768), (1, 5, 256)]


def test_imagebind_similarity_is_the_packages_embedding_of_each_token(make):
    """As if each token stood where the class token stands, through the package's heads and postprocessors."""
    encoder = make("imagebind")
    tokens = encoder.encode(*clips(encoder, 1))
    heads, last = encoder.model.modality_heads, encoder.model.modality_postprocessors
    for head in (heads["vision"], heads["audio"]):
        # tokens are normed already
        head[0] = nn.Identity()
    seen = last["vision"](heads["vision"](tokens.visual[0, 3, 100:101, None]))
    sounds = heads["audio"](tokens.audio[0, :, None])
    heard = last["audio"](sounds[math.floor(19 * 3 / 4) :].mean(0, keepdim=True))
    torch.testing.assert_close(tokens.similarity[0, 3, 100], (seen * heard).sum(), atol=1e-4, rtol=1e-4)
    assert tokens.similarity.abs().max() <= 20


def test_imagebind_hears_as_its_package_does(make):
    """Its spectrogram of 2 s: [1, mel, time], cut or padded to 204 frames, then less -4.268 and over 9.138."""
    encoder, heard = make("imagebind"), []
    stem = encoder.model.modality_preprocessors["audio"].rgbt_stem
    stem.register_forward_pre_hook(lambda _, given: heard.extend(given))
    waveform = clips(encoder, 1)[1]
    encoder.encode(None, waveform)
    golden = kaldi.fbank(
        waveform - waveform.mean(), htk_compat=True, sample_frequency=16_000, use_energy=False, window_type="hanning",
        num_mel_bins=128, dither=0.0, frame_length=25, frame_shift=10,
    )  # fmt: skip
    golden = (F.pad(golden.T, (0, 204 - len(golden)))[None, None] + 4.268) / 9.138
    torch.testing.assert_close(heard[0], golden)


def test_imagebind_pieces_follow_one_another(make):
    encoder = make("imagebind", seconds=6.0)
    waveform = clips(encoder, 1)[1]
    whole = encoder.encode(None, waveform).audio[0]
    assert whole.shape == (57, 12)
    for piece in range(3):
        part = make("imagebind").encode(None, waveform[:, 32_000 * piece : 32_000 * (piece + 1)]).audio[0]
        torch.testing.assert_close(whole[19 * piece : 19 * (piece + 1)], part, atol=1e-5, rtol=1e-4)


def test_imagebind_loads_its_file(imagebind_package, monkeypatch, tmp_path):
    monkeypatch.setattr(imagebind, "HUGE", TINY_BIND)
    config = ImageBindConfig(kind="imagebind", weights=str(tmp_path / "huge.pth"), frames=4, seconds=2.0)
    with pytest.raises(WeightsError, match=r"no such file. ImageBind's weights \(imagebind_huge.pth.*CC-BY-NC-SA"):
        ImageBind.load(config)
    model = network(**TINY_BIND)
    torch.save(model.state_dict() | {"modality_trunks.text.blocks.0.norm_1.weight": torch.ones(3)}, config.weights)
    loaded = ImageBind.load(config)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.model.state_dict().items())
