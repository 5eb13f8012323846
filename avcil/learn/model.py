"""The classifier that learns: guided attention, fusion, and a classifier that grows.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` token channels,
``E`` feature channels, ``C`` classes seen so far. ``channels`` are those of a visual and of an audio token.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.kernels import OldAttention, channelwise_attention, channelwise_maps, guided_attention
from avcil.params.learning import FROZEN, ClassifierKind, Fusion
from avcil.tokens.tokens import Tokens, frame_audio

PROXIES = 10


class Features(NamedTuple):
    """The three features that distillation holds on to, each [B,E]."""

    audio: Tensor
    visual: Tensor
    fused: Tensor


class Output(NamedTuple):
    """logits [B,C]; features; spatial attention [B,L,S] (sums to 1 over S) and temporal attention [B,L].

    Channel-wise attention has maps [B,L,S,D] and [B,L,D], built only where they are asked for: else they are empty.
    ``divergence`` [B] tells how far they went from the old model's. ``attended``: the visual feature before its
    projection.
    """

    logits: Tensor
    features: Features
    spatial: Tensor
    temporal: Tensor
    attended: Tensor
    divergence: Tensor

    def to(self, device: torch.device | str) -> "Output":
        features = Features(*(feature.to(device) for feature in self.features))
        return Output(self.logits.to(device), features, *(field.to(device) for field in self[2:]))


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

    def __init__(
        self, channels: tuple[int, int], width: int, heads: int, *, prior_guidance: float, learnt_guidance: float
    ):
        super().__init__()
        visual, audio = channels
        self.heads = heads
        self.query = nn.Linear(audio, width)
        self.key = nn.Linear(visual, width, bias=False)
        self.value = nn.Linear(visual, width)
        self.moment_query = nn.Linear(audio, width)
        self.moment_key = nn.Linear(width, width, bias=False)
        self.moment_value = nn.Linear(width, width)
        nn.init.zeros_(self.moment_query.weight)
        nn.init.zeros_(self.moment_query.bias)
        self.gain = nn.Parameter(torch.tensor(float(learnt_guidance)))
        self.tau = nn.Parameter(torch.tensor(float(prior_guidance)), requires_grad=prior_guidance != 0)

    def forward(self, tokens: Tokens, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
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
            centre=centre,
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


class ChannelwiseAttention(nn.Module):
    """Audio-guided attention with a map of its own for every channel.

    With the mean audio token u and patches v_ls, products taken channel by channel:

        a = tanh(W_a u + b_a),  k_ls = tanh(W_v v_ls + b_v)
        w_ls = softmax_s(a k_ls),   α_l = softmax_l(a Σ_s w_ls k_ls),   visual = Σ_l α_l Σ_s w_ls v_ls

    Source: Pian et al., ICCV 2023, arXiv 2308.11073, as their code has it.
    """

    def __init__(self, channels: tuple[int, int]):
        super().__init__()
        visual, audio = channels
        if visual != audio:
            raise ValueError(
                f"channel-wise attention needs visual and audio tokens of equal width, not {visual} and {audio}; "
                "use another fusion or another encoder"
            )
        self.audio = nn.Linear(audio, audio)
        self.visual = nn.Linear(visual, visual)

    def inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the kernel takes: audio [B,D], visual tokens, weight and bias."""
        return torch.tanh(self.audio(tokens.audio.mean(1))), tokens.visual, self.visual.weight, self.visual.bias

    def forward(
        self, tokens: Tokens, centre: Tensor | None, old: OldAttention | None, of: Tensor | None, maps: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the visual feature [B,D], spatial weights [B,L,S,D], temporal weights [B,L,D], and divergence [B]."""
        inputs, batch = self.inputs(tokens), len(tokens.audio)
        found = channelwise_attention(*inputs, centre=centre, old=old, of=of)
        spatial, temporal = inputs[0].new_empty(batch, 0, 0), inputs[0].new_empty(batch, 0)
        if maps:
            _, spatial, temporal = channelwise_maps(*inputs, centre)
        return found.output, spatial, temporal, found.spatial_divergence + found.temporal_divergence


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

    @property
    def classes(self) -> int:
        return len(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return F.linear(features, self.weight, self.bias)


class ProxyClassifier(nn.Module):
    """Local similarity classifier: each class has K proxies, those of past classes stay as they are.

    s_ck = −‖ẑ − ŵ_ck‖², logit_c = Σ_k softmax_k(s_ck) s_ck, hats meaning unit length. ``scale`` is the learnt factor of
    the NCA loss. Source: Douillard et al., PODNet, ECCV 2020, arXiv 2004.13513; used by AFC, Kang et al., CVPR 2022.
    """

    kept: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("kept", torch.empty(0, features))
        self.weight = nn.Parameter(torch.empty(0, features))
        self.scale = nn.Parameter(torch.tensor(1.0))

    @property
    def classes(self) -> int:
        return (len(self.kept) + len(self.weight)) // PROXIES

    def grow(self, classes: int) -> None:
        """Keep all proxies there are; append freshly drawn ones until there are ``classes``."""
        self.kept = torch.cat([self.kept, self.weight.detach()])
        features = self.kept.shape[1]
        self.weight = nn.Parameter(torch.randn(PROXIES * classes - len(self.kept), features) * features**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        proxies = F.normalize(torch.cat([self.kept, self.weight]), dim=-1)
        closeness = 2 * F.normalize(features, dim=-1) @ proxies.T - 2
        closeness = closeness.unflatten(1, (-1, PROXIES))
        return (closeness.softmax(-1) * closeness).sum(-1)


class IncrementalClassifier(nn.Module):
    """Tokens to logits; `fusion` says where the visual part comes from and what is learnt.

    The fused feature is ReLU(audio + visual). `guided`: guided attention; `mean`: mean of all patches; `visual` and
    `audio`: one stream alone (the other part is zero).
    `channelwise` is the model of AV-CIL: ReLU(audio) + ReLU(visual) over channel-wise attention.
    `frozen` and `frozen_guided` learn nothing: audio, visual and fused features are the mean audio token, the visual
    tokens' mean (under the prior's own attention softmax_s(τ m), if guided), and both side by side.
    """

    attention: GuidedAttention | ChannelwiseAttention

    def __init__(
        self,
        channels: tuple[int, int],
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
        self.prior_guidance = prior_guidance
        if fusion == "guided":
            self.attention = GuidedAttention(
                channels, width, heads, prior_guidance=prior_guidance, learnt_guidance=learnt_guidance
            )
            self.visual = nn.Linear(width, width)
        elif fusion == "channelwise":
            self.attention = ChannelwiseAttention(channels)
        if fusion in ("channelwise", "mean", "visual"):
            self.visual = nn.Linear(channels[0], width)
        if fusion in ("guided", "channelwise", "mean", "audio"):
            self.audio = nn.Linear(channels[1], width)
        features = sum(channels) if fusion in FROZEN else width
        self.classifier = ProxyClassifier(features) if classifier == "proxies" else Classifier(features, classifier)

    def forward(
        self,
        tokens: Tokens,
        *,
        centre: Tensor | None = None,
        old: OldAttention | None = None,
        of: Tensor | None = None,
        maps: bool = False,
    ) -> Output:
        """``centre`` [D]: what the true visual tokens are more than those given, for fusions with attention; ``old``:
        channel-wise attention of an old model on some clips, ``of`` [B]: each clip's row there, or -1;
        ``maps``: whether to build channel-wise maps."""
        batch, slots, patches = tokens.visual.shape[:3]
        spatial = tokens.audio.new_full((batch, slots, patches), 1 / patches)
        temporal = tokens.audio.new_full((batch, slots), 1 / slots)
        divergence = tokens.audio.new_zeros(batch)
        if self.fusion == "frozen_guided":
            spatial = (self.prior_guidance * tokens.similarity).softmax(-1)
            attended = torch.einsum("bls,blsd->bd", spatial, tokens.visual) / slots
        elif self.fusion == "channelwise":
            attended, spatial, temporal, divergence = self.attention(tokens, centre, old, of, maps)
        elif self.fusion == "guided":
            attended, spatial, temporal = self.attention(tokens, centre)
        else:
            attended = tokens.visual.mean((1, 2))
        audio = visual = tokens.audio.new_zeros(batch, self.width)
        if self.fusion in FROZEN:
            audio, visual = tokens.audio.mean(1), attended
            fused = torch.cat([audio, visual], 1)
        else:
            if self.fusion != "audio":
                visual = self.visual(attended)
            if self.fusion != "visual":
                audio = self.audio(tokens.audio.mean(1))
            if self.fusion == "channelwise":
                audio, visual = F.relu(audio), F.relu(visual)
                fused = audio + visual
            else:
                fused = F.relu(audio + visual)
        features = Features(audio, visual, fused)
        return Output(self.classifier(fused), features, spatial, temporal, attended, divergence)
