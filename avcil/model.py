"""The classifier that learns: guided attention, fusion, and a classifier that grows.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` token channels,
``E`` feature channels, ``C`` classes seen so far.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.kernels import guided_attention
from avcil.tokens import Tokens, frame_audio

Fusion = Literal["guided", "mean", "visual", "audio", "frozen"]
ClassifierKind = Literal["linear", "cosine"]


class Features(NamedTuple):
    """The three features that distillation holds on to, each [B,E]."""

    audio: Tensor
    visual: Tensor
    fused: Tensor


class Output(NamedTuple):
    """logits [B,C]; features; spatial attention [B,L,S] (sums to 1 over S) and temporal attention [B,L]."""

    logits: Tensor
    features: Features
    spatial: Tensor
    temporal: Tensor


class GuidedAttention(nn.Module):
    """Audio features ask where (patches of a slot) and when (slots) to look.

    With audio slots u_l, their mean ū, patches v_ls and the frozen encoder's similarity m_ls:

        q_l   = W_q (u_l + ū)
        w_ls  = softmax_s(g q_l · K v_ls / √d + τ m_ls)                 where, per head
        o_l   = V Σ_s w_ls v_ls
        α_l   = softmax_l(P ū · K' o_l / √d),   visual = V' Σ_l α_l o_l   when, per head

    g and τ are learnt scalars; g starts small, so that attention starts from what the frozen prior already hears, and
    P starts at zero, so that all moments count alike at first.

    Deviation from arXiv 2606.10887: the paper's text does not give the score; the term τ m is ours, and τ = 0 turns it
    off (variant `without_prior_guidance`).
    """

    def __init__(self, channels: int, width: int, heads: int, *, prior_guidance: float, learnt_guidance: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width, bias=False)
        self.value = nn.Linear(channels, width)
        self.moment_query = nn.Linear(channels, width)
        self.moment_key = nn.Linear(width, width, bias=False)
        self.moment_value = nn.Linear(width, width)
        nn.init.zeros_(self.moment_query.weight)
        nn.init.zeros_(self.moment_query.bias)
        self.gain = nn.Parameter(torch.tensor(float(learnt_guidance)))
        self.tau = nn.Parameter(torch.tensor(float(prior_guidance)), requires_grad=prior_guidance != 0)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the guided visual feature [B,E], spatial weights [B,L,S] and temporal weights [B,L]."""
        mean = tokens.audio.mean(1)
        slots = frame_audio(tokens.audio, tokens.visual.shape[1])
        where = guided_attention(
            self.gain * self.query(slots + mean[:, None])[:, :, None],
            tokens.visual,
            self.key.weight,
            self.value.weight,
            self.value.bias,
            heads=self.heads,
            bias=self.tau * tokens.similarity,
        )
        when = guided_attention(
            self.moment_query(mean)[:, None, None],
            where.output.transpose(1, 2),
            self.moment_key.weight,
            self.moment_value.weight,
            self.moment_value.bias,
            heads=self.heads,
        )
        return when.output[:, 0, 0], where.weights[:, :, 0], when.weights[:, 0, 0]


class Classifier(nn.Module):
    """Logits over the classes seen so far: W z + b (linear), or s cos(w_c, z) with a learnt scale (cosine)."""

    def __init__(self, features: int, kind: ClassifierKind):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(0, features))
        self.bias = nn.Parameter(torch.empty(0), requires_grad=kind == "linear")
        self.scale = nn.Parameter(torch.tensor(10.0), requires_grad=kind == "cosine")

    def grow(self, classes: int) -> None:
        """Append freshly drawn rows until there are ``classes``; old rows keep their values."""
        old, features = self.weight.shape
        fresh = torch.empty(classes - old, features).uniform_(-(features**-0.5), features**-0.5)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh]))
        zeros = torch.zeros(classes - old)
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), zeros]), requires_grad=self.kind == "linear")

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return F.linear(features, self.weight, self.bias)


class IncrementalClassifier(nn.Module):
    """Tokens to logits. The fused feature is ReLU(audio + visual); `fusion` says where the visual part comes from.

    `guided`: guided attention; `mean`: mean of all patches; `visual` and `audio`: one stream alone (the other part is
    zero); `frozen`: nothing is learnt, the features are the mean-pooled tokens themselves.
    """

    def __init__(
        self,
        channels: int,
        *,
        fusion: Fusion,
        classifier: ClassifierKind,
        width: int,
        heads: int,
        prior_guidance: float,
        learnt_guidance: float,
    ):
        super().__init__()
        self.fusion = fusion
        self.width = width
        if fusion == "guided":
            self.attention = GuidedAttention(
                channels, width, heads, prior_guidance=prior_guidance, learnt_guidance=learnt_guidance
            )
            self.visual = nn.Linear(width, width)
        elif fusion in ("mean", "visual"):
            self.visual = nn.Linear(channels, width)
        if fusion in ("guided", "mean", "audio"):
            self.audio = nn.Linear(channels, width)
        self.classifier = Classifier(2 * channels if fusion == "frozen" else width, classifier)

    def forward(self, tokens: Tokens) -> Output:
        batch, slots, patches = tokens.visual.shape[:3]
        spatial = tokens.visual.new_full((batch, slots, patches), 1 / patches)
        temporal = tokens.visual.new_full((batch, slots), 1 / slots)
        audio = visual = tokens.audio.new_zeros(batch, self.width)
        if self.fusion == "guided":
            seen, spatial, temporal = self.attention(tokens)
            visual = self.visual(seen)
        elif self.fusion in ("mean", "visual"):
            visual = self.visual(tokens.visual.mean((1, 2)))
        if self.fusion in ("guided", "mean", "audio"):
            audio = self.audio(tokens.audio.mean(1))
        fused = F.relu(audio + visual)
        if self.fusion == "frozen":
            audio, visual = tokens.audio.mean(1), tokens.visual.mean((1, 2))
            fused = torch.cat([audio, visual], 1)
        return Output(self.classifier(fused), Features(audio, visual, fused), spatial, temporal)
