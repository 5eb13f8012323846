"""`videomae_audiomae`: the frozen pair of Pian et al., Audio-Visual Class-Incremental Learning (ICCV 2023).

VideoMAE (Tong et al., NeurIPS 2022) makes 8 slots of 16 pictures; AudioMAE (Huang et al., NeurIPS 2022) makes a token
of every 0.16 s of sound. Both are self-supervised and share no space, so the similarity is zero everywhere.

Checked on small random-weight instances of the same classes; the published weights were not at hand.

Dimension letters: ``B`` clips, ``F`` pictures of a clip, ``L`` = F/2 temporal slots, ``S`` patches of a slot, ``A``
audio tokens, ``D`` channels, ``N`` audio samples.
"""

import math

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import VideoMAEImageProcessor, VideoMAEModel

from avcil.encoders.base import Pair, Reading, WeightsError, pretrained
from avcil.encoders.inputs import log_mel, pixels, processor, side
from avcil.encoders.pth import filled, read_pth
from avcil.params.encoders import VideoMAEAudioMAEConfig
from avcil.tokens.tokens import Layout

VIDEO_TERMS = "Licence: the model's page on the hub."
AUDIO_TERMS = "The ViT-B files are linked from https://github.com/facebookresearch/AudioMAE, under CC-BY-NC 4.0."

# AudioMAE's picture of a clip: 1024 frames of 10 ms by 128 mel bands, in patches of 16 x 16
FRAMES, BANDS, PATCH = 1024, 128, 16
# of AudioSet's log-mel energies, in its authors' recipe
AUDIO_MEAN, AUDIO_STD = -4.2677393, 4.5689974


def audio_mae(tensors: dict[str, Tensor], path: str, *, as_published: bool) -> VisionTransformer:
    """AudioMAE's encoder, of the size that the file has. Its fixed sin-cos positions are in the file.

    A fine-tuned file has the norm of the pooled tokens (``fc_norm``), a pre-trained one the norm of each token
    (``norm``). ``as_published``: the AV-CIL authors drop the latter, and leave the former as it is before training.

    Raises WeightsError if the file holds no such encoder.
    """
    if "patch_embed.proj.weight" not in tensors:
        raise WeightsError(f"{path}: no AudioMAE encoder in it (no `patch_embed.proj.weight`). {AUDIO_TERMS}")
    channels = len(tensors["patch_embed.proj.weight"])
    model = VisionTransformer(
        img_size=(FRAMES, BANDS), patch_size=PATCH, in_chans=1, num_classes=0, global_pool="avg", embed_dim=channels,
        # no config stands beside the file, so its own names tell how many blocks there are
        depth=sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in tensors),
        # ViT-S, -B and -L all have 64 channels a head
        num_heads=max(1, channels // 64),
    )  # fmt: skip
    # timm's encoder that averages has its one norm after the mean, under the name that fine-tuned files use
    if "fc_norm.weight" not in tensors:
        untrained = {f"norm.{name}": value for name, value in model.fc_norm.state_dict().items()}
        norm = untrained if as_published else tensors
        tensors = tensors | {f"fc_{name}": norm[name] for name in ("norm.weight", "norm.bias") if name in norm}
    return filled(model, tensors, path, terms=AUDIO_TERMS)


class VideoMAEAudioMAE(Pair):
    """VideoMAE's last hidden state, and AudioMAE's patches averaged over frequency, each after its final norm.

    ``as_published`` takes the sound as the AV-CIL authors' `utils/gen_audio_features.py` does: at 11,430 Hz instead of
    16 kHz, without normalisation, all patches averaged to one token before the norm.

    Deviation: their pictures include both ends of a clip, and ours are the middles of 16 equal parts; their sound is
    the left channel, decimated without a filter by moviepy, and ours is both channels, resampled by FFmpeg.
    """

    config: VideoMAEAudioMAEConfig

    def __init__(
        self,
        video: VideoMAEModel,
        video_processor: VideoMAEImageProcessor,
        audio: VisionTransformer,
        config: VideoMAEAudioMAEConfig,
        revision: str = "",
    ):
        """Raises ValueError if VideoMAE is not for ``config.frames`` pictures, or has fewer patches than asked for."""
        super().__init__()
        # its table of positions is for so many
        if config.frames != video.config.num_frames:
            raise ValueError(f"frames {config.frames}: {config.weights} takes {video.config.num_frames} pictures")
        self.video, self.audio, self.config, self.revision = video, audio, config, revision
        self.eval().requires_grad_(False)
        self.mean, self.std = video_processor.image_mean, video_processor.image_std
        self.slots = config.frames // video.config.tubelet_size
        fps, size, rate = (
            config.frames / config.seconds,
            video.config.image_size,
            11_430 if config.as_published else 16_000,
        )
        # cut and resized as VideoMAE's own processor does it
        self.reading = Reading(config.frames, fps, size, rate, fit="crop", resize="bilinear")
        # the last token may be partly padding, and none is wholly: 100 * 1.12 is a little more than 112 frames
        heard = math.ceil(round(100 * config.seconds, 6) / PATCH)
        self.layout = Layout(
            slots=self.slots,
            patches=side(config, size // video.config.patch_size) ** 2,
            audio_tokens=1 if config.as_published else min(FRAMES // PATCH, heard),
            visual_channels=video.config.hidden_size,
            audio_channels=audio.embed_dim,
        )

    @classmethod
    def load(cls, config: VideoMAEAudioMAEConfig) -> "VideoMAEAudioMAE":
        """Raises WeightsError if either model's weights are not there or are another model's."""
        video, revision = pretrained(VideoMAEModel, config, terms=VIDEO_TERMS)
        tensors = read_pth(config.audio_weights, terms=AUDIO_TERMS)
        audio = audio_mae(tensors, config.audio_weights, as_published=config.as_published)
        # a .pth file has no commit
        return cls(video, processor(VideoMAEImageProcessor, config), audio, config, f"{revision}+local")

    def visual_tokens(self, frames: Tensor) -> Tensor:
        """frames [B,F,H,W,3] uint8 -> [B,L,S,D]."""
        pictures_BFCHW = pixels(frames, self.mean, self.std, next(self.parameters()))
        return self.video(pictures_BFCHW).last_hidden_state.unflatten(1, (self.slots, -1))

    def audio_tokens(self, waveform: Tensor) -> Tensor:
        """waveform [B,N] -> [B,A,D]."""
        like = next(self.parameters())
        mel = log_mel(waveform.to(like.device), self.reading.sample_rate, FRAMES)
        # the whole forward pass, which averages before it norms, on energies as they come
        if self.config.as_published:
            return self.audio(mel[:, None].to(like.dtype))[:, None]
        mel = (mel - AUDIO_MEAN) / (2 * AUDIO_STD)
        # no norm yet: timm's is after the mean, and here each token has it
        patches = self.audio.forward_features(mel[:, None].to(like.dtype))[:, self.audio.num_prefix_tokens :]
        # the grid is [time, mel bands], bands running fastest
        along_time = self.audio.fc_norm(patches).unflatten(1, (FRAMES // PATCH, BANDS // PATCH)).mean(2)
        # after the clip there is padding alone
        return along_time[:, : self.layout.audio_tokens]
