"""Compute kernels: need torch, and triton where asked for; import nothing of avcil.

ops          the public functions, and which implementation runs
reference    plain PyTorch, differentiated by autograd
channelwise  closed form of channel-wise attention for the CPU
triton_*     for GPUs
"""

from avcil.kernels.ops import (
    Attended,
    channelwise_attention,
    dual_distillation,
    guided_attention,
    implementation,
    remember_attention,
)
from avcil.kernels.reference import (
    Channelwise,
    Distillation,
    OldAttention,
    channelwise_maps,
    feature_distillation,
    logit_distillation,
    separated_cross_entropy,
)

__all__ = [
    "Attended",
    "Channelwise",
    "Distillation",
    "OldAttention",
    "channelwise_attention",
    "channelwise_maps",
    "dual_distillation",
    "feature_distillation",
    "guided_attention",
    "implementation",
    "logit_distillation",
    "remember_attention",
    "separated_cross_entropy",
]
