"""SAM-Audio on a small random-weight instance of the package's own classes, where that package is installed.

AVCIL_SAM_AUDIO may name folders (separated as in PATH) that hold sam_audio and perception_models' core.
"""

import json
import os
import shutil
import sys
import types
from unittest import mock

import pytest
import torch
from media import noise
from torch import nn
from toys import Reduced

from avcil.encoders import sam_audio
from avcil.encoders.base import WeightsError, of_folder
from avcil.encoders.sam_audio import SamAudio, SamAudioConfig

FRAMES, SECONDS, SIZE, CLOSE = 3, 0.5, 56, {"atol": 1e-3, "rtol": 1e-3}
SAMPLES, TOKENS, LATENT, WIDTH = 24_000, 13, 8, 32
TINY = {
    "in_channels": 6 * LATENT,
    "audio_codec": {
        "encoder_dim": 8, "encoder_rates": [2, 8, 10, 12], "latent_dim": 128, "decoder_dim": 32,
        "decoder_rates": [12, 10, 8, 2], "n_codebooks": 1, "codebook_size": 8, "codebook_dim": LATENT,
    },
    "vision_encoder": {"name": "tiny", "dim": 24, "image_size": SIZE},
    "transformer": {
        "dim": WIDTH, "n_heads": 2, "n_layers": 3, "context_dim": WIDTH, "out_channels": 2 * LATENT,
        "frequency_embedding_dim": 16, "max_positions": 64,
    },
    "text_ranker": {"kind": "clap"},
    "span_predictor": "pe-a-frame-large",
}  # fmt: skip


def config(weights="tiny", **changes) -> SamAudioConfig:
    fields = {"kind": "sam_audio", "weights": str(weights), "frames": FRAMES, "seconds": SECONDS}
    return SamAudioConfig(**(fields | {"audio": "hidden", "layer": 1} | changes))


@pytest.fixture(scope="module")
def package():
    """The package's main module, with a vision tower small enough for tests."""
    sys.path[:0] = os.environ.get("AVCIL_SAM_AUDIO", "").split(os.pathsep)
    try:
        source = sam_audio._package()[0]
    except ImportError as error:
        pytest.skip(str(error))
    from core.vision_encoder import config as sizes

    sizes.PE_VISION_CONFIG["tiny"] = sizes.PEConfig(14, 48, 2, 2, 4.0, 24, image_size=SIZE, use_cls_token=True)
    sizes.PE_TEXT_CONFIG["tiny"] = sizes.PETextConfig(8, 24, 2, 1, 24, vocab_size=8)
    return source


@pytest.fixture(scope="module")
def whole(package):
    """The package's SAMAudio, as its own constructor makes it, but for T5, which that would download."""
    torch.manual_seed(0)
    sizes = package.SAMAudioConfig(**TINY | {"text_ranker": None, "span_predictor": None})
    with mock.patch.object(package, "T5TextEncoder", lambda _: nn.Identity()):
        model = package.SAMAudio(sizes).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # the gates that let frames in are zero before training
        parameter.add_(0.0 if name.startswith("audio_codec") else 0.1 * torch.randn_like(parameter))
    for module in model.audio_codec.encoder.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return model


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam_audio")
    (path / "config.json").write_text(json.dumps(TINY))
    torch.save(whole.state_dict(), path / "checkpoint.pt")
    return path


@pytest.fixture
def clips():
    return noise(2, FRAMES, SIZE, SAMPLES)


@pytest.mark.parametrize("changes", [{"audio": "latents"}, {}, {"layer": 0, "patches": 2}])
def test_tokens_are_what_layout_says_and_the_same_however_batched(folder, clips, changes):
    encoder = SamAudio.load(config(folder, **changes))
    tokens, again = encoder.encode(*clips), encoder.encode(*clips)
    alone = encoder.encode(clips[0][1:], clips[1][1:])
    patches = changes.get("patches", 4) ** 2
    assert encoder.layout == (FRAMES, patches, TOKENS, 48, LATENT if changes.get("audio") else WIDTH)
    assert encoder.reading == (FRAMES, 6.0, SIZE, 48_000, "stretch", "bicubic")
    assert encoder.revision == of_folder(str(folder))
    assert tokens.visual.shape == (2, *encoder.layout[:2], 48)
    assert tokens.audio.shape == (2, TOKENS, encoder.layout.audio_channels)
    assert tokens.similarity.shape == (2, *encoder.layout[:2]) and not tokens.similarity.any()
    for field, same, single in zip(tokens, again, alone, strict=True):
        assert field.isfinite().all() and not field.requires_grad
        torch.testing.assert_close(same, field, atol=0, rtol=0)
        torch.testing.assert_close(single[0], field[1], **CLOSE)


def test_patches_latents_and_states_are_those_of_the_package(whole, folder, clips):
    encoder = SamAudio.load(config(folder))
    frames, waveform = clips
    tokens = encoder.encode(frames, waveform)
    # the package's own preparation: uint8 [frames,3,H,W] a clip
    films = list(frames.movedim(-1, 2))
    tower = whole.vision_encoder.model.visual
    seen = [tower.forward_features(whole.vision_encoder.transform(f), norm=True, strip_cls_token=True) for f in films]
    torch.testing.assert_close(tokens.visual, torch.stack(seen), **CLOSE)
    features = whole._get_audio_features(waveform[:, None])
    latents = features[..., :LATENT]
    plain = SamAudio.load(config(folder, audio="latents"))
    torch.testing.assert_close(plain.encode(frames, waveform).audio, latents, **CLOSE)

    from sam_audio.processor import Batch

    batch = Batch(
        audios=waveform[:, None],
        sizes=torch.tensor([TOKENS] * 2),
        wav_sizes=None,
        descriptions=["", ""],
        hop_length=1920,
        audio_sampling_rate=48_000,
        audio_pad_mask=torch.ones(2, TOKENS, dtype=torch.bool),
    )
    # 13 audio tokens of 40 ms, 3 frames of 167 ms: the frame that is on screen
    on_screen = [0] * 5 + [1] * 4 + [2] * 4
    states = []
    whole.transformer.layers[1].register_forward_hook(lambda *call: states.append(call[-1]))
    for video in ([film[on_screen] for film in films], None):
        whole(
            noisy_audio=torch.cat([latents, torch.zeros_like(latents)], 2),
            audio_features=features,
            text_features=None,
            time=torch.ones(2),
            masked_video_features=whole._get_video_features(video, features),
            anchor_ids=batch.anchor_ids,
            anchor_alignment=batch.anchor_alignment,
        )
    torch.testing.assert_close(tokens.audio, states[0], **CLOSE)
    torch.testing.assert_close(encoder.encode(None, waveform).audio, states[1], **CLOSE)
    assert (states[0] - states[1]).abs().max() > 0.01


def test_from_the_hub_the_revision_is_the_commit(folder, monkeypatch, tmp_path):
    snapshot = shutil.copytree(folder, tmp_path / "snapshots" / "c0ffee")
    monkeypatch.setattr(sam_audio, "hf_hub_download", lambda repository, name, revision: str(snapshot / name))
    assert SamAudio.load(config("facebook/sam-audio-base")).revision == "c0ffee"


def test_only_what_is_needed_is_kept(whole, folder):
    def count(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    codec = count(whole.audio_codec.encoder, whole.audio_codec.quantizer)
    latents = codec + count(whole.vision_encoder.model.visual)
    assert count(SamAudio.load(config(folder, audio="latents"))) == latents
    prompted = count(whole.proj, whole.align_masked_video, whole.embed_anchors, whole.transformer)
    dropped = count(whole.transformer.layers[2])
    assert count(SamAudio.load(config(folder))) == latents + prompted - dropped


def test_an_absent_stream_is_one_zero_token(folder, clips):
    encoder = SamAudio.load(config(folder))
    deaf, blind = encoder.encode(clips[0], None), encoder.encode(None, clips[1])
    assert deaf.audio.shape == (2, 1, WIDTH) and not deaf.audio.any()
    assert blind.visual.shape == (2, 1, 1, 48) and not blind.visual.any()
    assert deaf.similarity.shape == (2, FRAMES, 16) and blind.similarity.shape == (2, 1, 1)
    torch.testing.assert_close(deaf.visual, encoder.encode(*clips).visual, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_tokens(folder, clips, dtype):
    encoder = SamAudio.load(config(folder))
    exact = encoder.encode(*clips)
    for field, reference in zip(encoder.to(dtype).encode(*clips)[:2], exact[:2], strict=True):
        assert field.dtype == dtype
        assert (field.float() - reference).norm() < 0.15 * reference.norm()


def test_wrong_weights_are_refused_in_one_line(folder, tmp_path):
    def refusal(error=WeightsError, **changes) -> str:
        with pytest.raises(error) as caught:
            SamAudio.load(config(tmp_path, **changes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert "not the config.json of a SAM-Audio" in refusal()
    for section in ({"text_ranker": {}}, {"vision_encoder": {"name": "PE-Core-X"}}):
        (tmp_path / "config.json").write_text(json.dumps(TINY | section))
        assert "not the config.json of a SAM-Audio" in refusal()
    (tmp_path / "config.json").write_text("{")
    assert "damaged" in refusal()
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert "no checkpoint.pt" in refusal()
    tensors = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({k: v for k, v in tensors.items() if k != "proj.bias"}, tmp_path / "checkpoint.pt")
    assert "proj.bias" in refusal()
    touched = tmp_path / "touched"
    torch.save(Reduced(os.mkdir, str(touched)), tmp_path / "checkpoint.pt")
    assert "not safe" in refusal() and not touched.exists()
    assert refusal(ValueError, layer=3).startswith(f"layer: 3 where {tmp_path} has 0 to 2")
    assert "patches: 5 a side" in refusal(ValueError, patches=5)


def test_shapes_of_the_published_size_without_its_memory(package):
    with torch.device("meta"):
        encoder = SamAudio({}, config(frames=10, seconds=10.0, layer=15))
        tokens = encoder.encode(torch.empty(2, 10, 336, 336, 3, dtype=torch.uint8), torch.empty(2, 480_000))
    assert encoder.layout == (10, 24 * 24, 250, 1024, 2048)
    assert encoder.reading == (10, 1.0, 336, 48_000, "stretch", "bicubic")
    assert tokens.visual.shape == (2, 10, 576, 1024) and tokens.audio.shape == (2, 250, 2048)


@pytest.mark.parametrize("found", ["nothing", "PyPI's placeholder"])
def test_without_the_package_the_way_out_is_named(monkeypatch, found):
    for name in [name for name in sys.modules if name.split(".")[0] in ("sam_audio", "core")]:
        monkeypatch.delitem(sys.modules, name)
    tower = types.ModuleType("core.vision_encoder.pe")
    tower.VisionTransformer = None
    monkeypatch.setitem(sys.modules, "core.vision_encoder.pe", tower)
    placeholder = types.ModuleType("sam_audio")
    placeholder.__version__ = "0.0.1"
    monkeypatch.setitem(sys.modules, "sam_audio", None if found == "nothing" else placeholder)
    with pytest.raises(ImportError, match=r"pip install git\+https://github\.com/facebookresearch/sam-audio") as caught:
        SamAudio.load(config("facebook/sam-audio-large"))
    line = str(caught.value)
    assert "placeholder" in line and "huggingface.co/facebook/sam-audio-large" in line and "\n" not in line


def test_weights_that_are_not_there_are_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sam_audio, "_package", lambda: (None, None, None))
    for weights in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(WeightsError, match=r"no config\.json .*gated") as caught:
            SamAudio.load(config(weights))
        assert "hf auth login" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("kind"), RuntimeError("PE-Core-X not found\nin configs."), TypeError("x")])
def test_whatever_the_package_says_of_a_config_is_one_line(monkeypatch, tmp_path, error):
    """Here raised by a stand-in, so that this is tested without the package, too."""
    source = types.SimpleNamespace(SAMAudioConfig=mock.Mock(side_effect=error))
    monkeypatch.setattr(sam_audio, "_package", lambda: (source, None, None))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"not the config\.json of a SAM-Audio \(.*gated") as caught:
        SamAudio.load(config(tmp_path))
    assert "\n" not in str(caught.value)
