"""PE-AV on small random-weight instances of its own classes, against transformers' and timm's own ways."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from media import noise
from tiny_pe_av import SIDE, tiny
from transformers import (
    BertConfig,
    BertModel,
    PeAudioFeatureExtractor,
    PeAudioFrameLevelModel,
    PeAudioVideoConfig,
    PeVideoVideoProcessor,
)

from avcil.encoders.base import WeightsError, of_folder
from avcil.encoders.pe_av import PeAudioVideo, PeAv, PeAvConfig

pytestmark = [pytest.mark.arithmetic, pytest.mark.slow]

FRAMES, SECONDS, CLOSE = 3, 0.5, {"atol": 1e-4, "rtol": 1e-4}
SIZE, SAMPLES = 14 * SIDE, 24_000


def config(weights="tiny", **changes) -> PeAvConfig:
    fields = {"kind": "pe_av", "weights": str(weights), "frames": FRAMES, "seconds": SECONDS, "joint": False}
    return PeAvConfig(**(fields | changes))


@pytest.fixture(scope="module")
def model() -> PeAudioVideo:
    return tiny()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("pe_av")
    model.save_pretrained(path)
    return path


@pytest.fixture
def clips():
    return noise(2, FRAMES, SIZE, SAMPLES)


def as_published(frames: torch.Tensor) -> torch.Tensor:
    """frames [B,L,H,W,3] uint8 -> pixel_values_videos [B,L,3,H,W] of transformers' own processor."""
    size = {"height": frames.shape[2], "width": frames.shape[3]}
    processor = PeVideoVideoProcessor(
        do_resize=True, size=size, do_rescale=True, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return processor(list(frames.movedim(-1, 2)), return_tensors="pt")["pixel_values_videos"]


def encoder(model, **changes) -> PeAv:
    return PeAv(copy.deepcopy(model), config(**changes), "test")


@pytest.mark.parametrize("changes", [{}, {"patches": 2}, {"joint": True}, {"joint": True, "patches": 1}])
def test_tokens_from_a_folder_are_what_layout_and_the_model_in_memory_say(model, folder, clips, changes):
    loaded = PeAv.load(config(folder, **changes))
    tokens = loaded.encode(*clips)
    slots, patches, audio_tokens, visual_channels, audio_channels = loaded.layout
    assert (slots, patches) == (FRAMES, changes.get("patches", SIDE) ** 2)
    assert tokens.visual.shape == (2, slots, patches, visual_channels)
    assert tokens.audio.shape == (2, audio_tokens, audio_channels)
    assert tokens.similarity.shape == (2, slots, patches)
    assert loaded.revision == of_folder(str(folder))
    again, expected = loaded.encode(*clips), encoder(model, **changes).encode(*clips)
    alone = loaded.encode(clips[0][1:], clips[1][1:])
    for field, same, reference, single in zip(tokens, again, expected, alone, strict=True):
        assert field.isfinite().all() and not field.requires_grad
        torch.testing.assert_close(same, field, atol=0, rtol=0)
        torch.testing.assert_close(reference, field, **CLOSE)
        torch.testing.assert_close(single[0], field[1], **CLOSE)


def test_visual_tokens_are_the_towers_own_and_its_frame_embeddings_stay(model, clips):
    ours = encoder(model)
    tokens = ours.encode(*clips)
    pixels = as_published(clips[0])
    tower = model.video_model.video_encoder.embedder.vision_model.timm_model
    with torch.no_grad():
        features = tower.forward_features(pixels.flatten(0, 1)).unflatten(0, (2, FRAMES))
        torch.testing.assert_close(tokens.visual, features[:, :, 1:], **CLOSE)
        # pooling taken out and put back is the published video encoder
        expected = model.video_model.video_encoder(pixels).last_hidden_state
        torch.testing.assert_close(ours.video(features).last_hidden_state, expected, **CLOSE)
    # a 4 x 4 grid averaged to 2 x 2, by hand
    blocks = tokens.visual.reshape(2, FRAMES, 2, 2, 2, 2, -1).mean((3, 5)).flatten(2, 3)
    torch.testing.assert_close(encoder(model, patches=2).encode(*clips).visual, blocks, **CLOSE)


def test_audio_tokens_are_those_of_the_frame_level_model(model, clips):
    frame_level = PeAudioFrameLevelModel(model.config.audio_config).eval()
    frame_level.load_state_dict(model.audio_model.state_dict())
    odd = clips[1][:, :-700]
    for waveform in (clips[1], odd):
        padded = PeAudioFeatureExtractor()(list(waveform.numpy()), sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():
            expected = frame_level.get_audio_embeds(padded["input_values"])
        torch.testing.assert_close(encoder(model).encode(None, waveform).audio, expected, **CLOSE)


def test_joint_tokens_are_the_audio_video_encoders(model, clips):
    ours = encoder(model, joint=True)
    pixels = as_published(clips[0])
    with torch.no_grad():
        output = model.audio_video_encoder(ours.samples(clips[1]), pixels)
        expected = model.audio_video_head(output.last_hidden_state)
    tokens, plain = ours.encode(*clips), encoder(model).encode(*clips)
    torch.testing.assert_close(tokens.audio, expected, **CLOSE)
    # the similarity is of the sound alone, and where there are no frames, the sound alone stands for both
    torch.testing.assert_close(tokens.similarity, plain.similarity, **CLOSE)
    torch.testing.assert_close(ours.encode(None, clips[1]).audio, plain.audio, **CLOSE)
    assert (tokens.audio - plain.audio).abs().max() > 0.01


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_a_picture_of_one_patch_has_the_models_own_frame_embedding_and_logit(scale):
    model = tiny(side=1, class_token=False)
    model.audio_video_logit_scale.data.fill_(scale)
    ours = encoder(model)
    frames = torch.randint(0, 256, (2, FRAMES, 14, 14, 3), dtype=torch.uint8)
    waveform = torch.rand(2, SAMPLES) - 0.5
    tokens = ours.encode(frames, waveform)
    with torch.no_grad():
        video = model.video_model.video_encoder(as_published(frames))
        video = model.video_model.video_head(video.last_hidden_state)
        torch.testing.assert_close(ours.embedded(tokens.visual)[:, :, 0], video, **CLOSE)
    # 13 audio tokens of 40 ms to 3 slots, whose ends share a token
    sound = torch.stack([tokens.audio[:, a:b].mean(1) for a, b in ((0, 5), (4, 9), (8, 13))], 1)
    logit = scale * (sound * video).sum(-1) - 1
    expected = logit if scale else F.cosine_similarity(sound, video, dim=-1)
    torch.testing.assert_close(tokens.similarity[..., 0], expected, **CLOSE)


def test_with_a_class_token_each_patch_is_pooled_alone(model, clips):
    ours = encoder(model)
    visual = ours.encode(*clips).visual
    tower = model.video_model.video_encoder.embedder.vision_model.timm_model
    with torch.no_grad():
        # where all tokens of a frame are the same, pooling one of them is pooling all
        same = visual[:, :, 5:6].expand(-1, -1, 17, -1).contiguous()
        torch.testing.assert_close(
            ours.embedded(visual)[:, :, 5], ours.video_head(ours.video(same).last_hidden_state), **CLOSE
        )
        # attention over one token gives its value: MaskCLIP's two linear maps, written out
        pool, patch = tower.attn_pool, visual[0, 0, 5]
        value = pool.proj(pool.kv(patch)[48:])
        expected = tower.head(value + pool.mlp(pool.norm(value)))
    torch.testing.assert_close(tower.forward_head(patch[None, None])[0], expected, **CLOSE)


def test_pixels_and_padding_are_those_of_the_published_processors(model, clips):
    ours = encoder(model)
    read = []
    ours.tower.patch_embed.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    ours.encode(*clips)
    torch.testing.assert_close(read[0].unflatten(0, (2, FRAMES)), as_published(clips[0]), atol=1e-6, rtol=0)
    assert PeVideoVideoProcessor.resample.name.lower() == ours.reading.resize
    extractor = PeAudioFeatureExtractor()
    assert (extractor.sampling_rate, extractor.hop_length) == (ours.reading.sample_rate, ours.hop)
    wave = clips[1][:1, :-700]
    np.testing.assert_array_equal(ours.samples(wave)[0, 0].numpy(), extractor._reflect_pad(wave[0].numpy()))


@pytest.mark.parametrize("joint", [False, True])
def test_an_absent_stream_is_one_zero_token(model, clips, joint):
    ours = encoder(model, joint=joint)
    full = encoder(model).encode(*clips)
    deaf, blind = ours.encode(clips[0], None), ours.encode(None, clips[1])
    assert deaf.audio.shape == (2, 1, 40) and not deaf.audio.any()
    assert blind.visual.shape == (2, 1, 1, 48) and not blind.visual.any()
    assert deaf.similarity.shape == (2, FRAMES, SIDE**2) and not deaf.similarity.any()
    assert blind.similarity.shape == (2, 1, 1) and not blind.similarity.any()
    torch.testing.assert_close(deaf.visual, full.visual, **CLOSE)
    torch.testing.assert_close(blind.audio, full.audio, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_tokens(model, clips, dtype):
    ours = encoder(model, joint=True)
    exact = ours.encode(*clips)
    half = ours.to(dtype).encode(*clips)
    for field, reference in zip(half, exact, strict=True):
        assert field.dtype == dtype
        assert (field.float() - reference).norm() < 0.05 * reference.norm()
    assert ours.audio.rotary_emb.inv_freq.dtype == ours.video.rotary_emb.inv_freq.dtype == torch.float32


def test_neither_text_tower_nor_copies_are_kept(model, folder):
    ours = PeAv.load(config(folder, joint=True))
    tied = [*model.audio_model.audio_encoder.parameters(), *model.video_model.video_encoder.parameters()]
    own = model.audio_video_encoder
    own = sum(p.numel() for n, p in own.named_parameters() if "audio_encoder" not in n and "video_encoder" not in n)
    heads = [model.audio_model.audio_head, model.video_model.video_head, model.audio_video_head]
    expected = sum(p.numel() for p in tied) + own + sum(p.numel() for h in heads for p in h.parameters()) + 2
    assert sum(p.numel() for p in ours.parameters()) == expected


def test_wrong_weights_are_refused_in_one_line(folder, tmp_path):
    with pytest.raises(WeightsError, match="nothing: no such folder") as missing:
        PeAv.load(config(tmp_path / "nothing"))
    assert "\n" not in str(missing.value) and "huggingface.co/facebook/pe-av-large" in str(missing.value)
    shutil.copy(folder / "config.json", tmp_path)
    bert = BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    bert.save_pretrained(tmp_path / "bert")
    shutil.copy(tmp_path / "bert" / "model.safetensors", tmp_path)
    with pytest.raises(WeightsError, match="not a whole PeAudioVideo: no `audio_model") as another:
        PeAv.load(config(tmp_path))
    assert "\n" not in str(another.value)


def _layers(config):
    config["audio_video_config"]["num_hidden_layers"] = "two"
    return config


def _tower(config):
    config["audio_video_config"]["video_config"]["vision_config"]["architecture"] = "another"
    return config


@pytest.mark.parametrize("damage", [lambda _: [], lambda _: {"text_config": {"model_type": "bert"}}, _layers, _tower])
def test_a_config_of_something_else_is_refused_in_one_line(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(
        WeightsError, match=r": no weights of PeAudioVideo .*; name the folder of such a model"
    ) as caught:
        PeAv.load(config(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: ") and "\n" not in str(caught.value)


def test_more_patches_than_there_are_is_refused(model):
    with pytest.raises(ValueError, match="patches: 5 a side where tiny has 4"):
        encoder(model, patches=5)


def test_shapes_of_the_published_size_without_its_memory():
    with torch.device("meta"):
        large = PeAudioVideo(PeAudioVideoConfig())
        ours = PeAv(large, config(frames=10, seconds=10.0))
        tokens = ours.encode(torch.empty(2, 10, 336, 336, 3, dtype=torch.uint8), torch.empty(2, 480_000))
    assert ours.layout == (10, 24 * 24, 250, 1024, 1024)
    assert ours.reading == (10, 1.0, 336, 48_000, "stretch", "bilinear")
    assert tokens.visual.shape == (2, 10, 576, 1024) and tokens.similarity.shape == (2, 10, 576)
    assert tokens.audio.shape == (2, 250, 1024)
    assert ours.layout.clip_bytes == 2 * (10 * 576 * 1025 + 250 * 1024)
