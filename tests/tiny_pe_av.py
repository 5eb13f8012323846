"""PE-AV in miniature: the published model's own classes with few random weights."""

import torch
from transformers import PeAudioVideoConfig, TimmWrapperConfig

from avcil.encoders.pe_av import PeAudioVideo

SIDE = 4  # patches of a frame


def tiny(side: int = SIDE, **tower) -> PeAudioVideo:
    """The classes of the published model, 0.3 M parameters in all; the audio hop is the published 1920."""
    body = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    size = {"img_size": 14 * side, "ref_feat_shape": (side, side), "embed_dim": 48, "depth": 2, "num_heads": 2}
    vision = TimmWrapperConfig(
        architecture="vit_pe_core_large_patch14_336", num_labels=24, global_pool="map", model_args=size | tower
    )
    # with 4 channels there would be a convolution that oneDNN of torch 2.11 gets wrong in bfloat16 (8 to 16, stride 8)
    dac = {"model_type": "dac", "encoder_hidden_size": 8, "downsampling_ratios": [2, 8, 10, 12], "codebook_dim": 8}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    text = {"hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = PeAudioVideoConfig(
        text_config={"model_type": "modernbert", "vocab_size": 16, **text, **special},
        audio_video_config={
            "audio_config": {"model_type": "pe_audio_encoder", "dac_config": dac, **body},
            "video_config": {"model_type": "pe_video_encoder", "vision_config": vision, **body},
            **body,
        },
    )
    torch.manual_seed(0)
    model = PeAudioVideo(config).eval()
    # weights as initialised are so small that every picture and sound looks alike
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.0 if "dac_encoder" in name else 0.1 * torch.randn_like(parameter))
        for module in model.audio_model.audio_encoder.embedder.dac_encoder.modules():
            if isinstance(module, torch.nn.Conv1d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        model.audio_video_logit_scale.fill_(0.5)
        model.audio_video_logit_bias.fill_(-1.0)
    return model
