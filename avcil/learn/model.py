"""The classifier that learns: guided attention, fusion, and a classifier that grows.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``A`` audio tokens, ``D`` token channels,
``E`` feature channels, ``C`` classes seen so far. ``channels`` are those of a visual and of an audio token.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.kernels import guided_attention
from avcil.learn.methods import find
from avcil.params.learning import CLASSIFIERS, FROZEN, FUSIONS
from avcil.tokens.tokens import Tokens, frame_audio


class Features(NamedTuple):
    """The three features that distillation holds on to, each [B,E]."""

    audio: Tensor
    visual: Tensor
    fused: Tensor


class Output(NamedTuple):
    """logits [B,C]; features; spatial attention [B,L,S] (sums to 1 over S) and temporal attention [B,L].

    An attention with a map a channel (avcil/learn/methods) has [B,L,S,D] and [B,L,D], empty unless they are asked for,
    and ``divergence`` [B], how far they went from the old model's. ``attended``: the visual feature before projection.
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
    off (row `lll`).
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


class Classifier(nn.Module):
    """Logits over the classes seen so far: W z + b (linear), or s cos(w_c, z) with a learnt scale (cosine)."""

    def __init__(self, features: int, kind: str):
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

    def grow_as(self, state: dict[str, Tensor], classes: int) -> None:
        """Take the shapes of a checkpoint of so many classes."""
        self.grow(classes)

    @property
    def classes(self) -> int:
        return len(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return F.linear(features, self.weight, self.bias)


def fuse(audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Audio, visual and fused feature, ReLU(audio + visual), each [B,E]."""
    return audio, visual, F.relu(audio + visual)


def unit_spread(similarity: Tensor) -> Tensor:
    """m [B,L,S] less its mean over S, over the root mean square of that by clip: neither a factor nor a number added to
    a slot changes anything. Zeros where patches are not told apart."""
    spread = similarity - similarity.mean(-1, keepdim=True)
    size = spread.square().mean((1, 2), keepdim=True).sqrt()
    # what rounding leaves of equal numbers is no spread
    told = size > 1e-5 * similarity.abs().amax((1, 2), keepdim=True)
    return torch.where(told, spread / size, 0.0)


def frozen_features(tokens: Tokens, fusion: str, prior_guidance: float) -> tuple[Features, Tensor]:
    """Features of nothing learnt, and spatial weights [B,L,S]: the mean audio token, the mean of visual tokens (under
    the prior's own attention softmax_s(τ m) for `frozen_guided`, with m of `unit_spread` for `frozen_scaled`), and both
    side by side."""
    batch, slots, patches = tokens.visual.shape[:3]
    if fusion != "frozen":
        similarity = unit_spread(tokens.similarity) if fusion == "frozen_scaled" else tokens.similarity
        spatial = (prior_guidance * similarity).softmax(-1)
        visual = torch.einsum("bls,blsd->bd", spatial, tokens.visual) / slots
    else:
        spatial = tokens.audio.new_full((batch, slots, patches), 1 / patches)
        visual = tokens.visual.mean((1, 2))
    audio = tokens.audio.mean(1)
    return Features(audio, visual, torch.cat([audio, visual], 1)), spatial


class IncrementalClassifier(nn.Module):
    """Tokens to logits; `fusion` says where the visual part comes from and what is learnt.

    `guided`: guided attention; `mean`: mean of all patches; `visual` and `audio`: one stream alone (the other part is
    zero); `frozen`, `frozen_guided` and `frozen_scaled`: `frozen_features`. Another name is a file of
    avcil/learn/methods, whose attention gives visual feature, maps and divergence, and whose ``fuse`` stands for the
    one here.
    """

    attention: Any

    def __init__(
        self,
        channels: tuple[int, int],
        *,
        fusion: str,
        classifier: str,
        width: int,
        heads: int,
        prior_guidance: float,
        learnt_guidance: float,
    ):
        super().__init__()
        self.fusion = fusion
        self.width = width
        self.prior_guidance = prior_guidance
        visual = channels[0]
        if fusion == "guided":
            self.attention = GuidedAttention(
                channels, width, heads, prior_guidance=prior_guidance, learnt_guidance=learnt_guidance
            )
            visual = width
        elif fusion not in FUSIONS:
            self.attention = find(fusion).build(channels)
            visual = self.attention.channels
        if fusion not in ("audio", *FROZEN):
            self.visual = nn.Linear(visual, width)
        if fusion not in ("visual", *FROZEN):
            self.audio = nn.Linear(channels[1], width)
        features = sum(channels) if fusion in FROZEN else width
        self.classifier = (
            Classifier(features, classifier) if classifier in CLASSIFIERS else find(classifier).build(features)
        )

    def forward(self, tokens: Tokens, *, centre: Tensor | None = None, **options) -> Output:
        """``centre`` [D]: what the true visual tokens are more than those given, for fusions with attention; options:
        what the attention of a method's file is given beside."""
        batch, slots, patches = tokens.visual.shape[:3]
        spatial = tokens.audio.new_full((batch, slots, patches), 1 / patches)
        temporal = tokens.audio.new_full((batch, slots), 1 / slots)
        divergence = tokens.audio.new_zeros(batch)
        if self.fusion in FROZEN:
            features, spatial = frozen_features(tokens, self.fusion, self.prior_guidance)
            return Output(self.classifier(features.fused), features, spatial, temporal, features.visual, divergence)
        if self.fusion == "guided":
            attended, spatial, temporal = self.attention(tokens, centre)
        elif self.fusion not in FUSIONS:
            attended, spatial, temporal, divergence = self.attention(tokens, centre, **options)
        else:
            attended = tokens.visual.mean((1, 2))
        audio = visual = tokens.audio.new_zeros(batch, self.width)
        if self.fusion != "audio":
            visual = self.visual(attended)
        if self.fusion != "visual":
            audio = self.audio(tokens.audio.mean(1))
        features = Features(*(fuse if self.fusion in FUSIONS else self.attention.fuse)(audio, visual))
        return Output(self.classifier(features.fused), features, spatial, temporal, attended, divergence)
