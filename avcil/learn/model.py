"""The classifier that learns: attention, fusion, and a classifier that grows.

Dimension letters: ``B`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``D`` token channels, ``E`` feature
channels, ``C`` classes seen so far. ``channels`` are those of a visual and of an audio token.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcil.learn.attention import Attention, Features, FrozenAttention, GuidedAttention, MeanPooling
from avcil.learn.methods import find
from avcil.params.learning import CLASSIFIERS, FROZEN, FUSIONS
from avcil.tokens.tokens import Tokens


class Output(NamedTuple):
    """logits [B,C]; features; and what `AttendedVisual` has, its feature as ``attended``."""

    logits: Tensor
    features: Features
    spatial: Tensor
    temporal: Tensor
    attended: Tensor
    divergence: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Output":
        """The same of each tensor."""
        return Output(function(self.logits), Features(*map(function, self.features)), *map(function, self[2:]))

    def to(self, device: torch.device | str) -> "Output":
        return self.map(lambda tensor: tensor.to(device))


class Classifier(nn.Module):
    """Logits over the classes seen so far: W z + b (linear), or s cos(w_c, z) with a learnt scale (cosine)."""

    def __init__(self, features: int, kind: str):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(0, features))
        # bias and scale are there in either kind, only learnt where they are used
        self.bias = nn.Parameter(torch.empty(0), requires_grad=kind == "linear")
        # cosines alone, within [-1, 1], would leave every softmax nearly flat
        self.scale = nn.Parameter(torch.tensor(10.0), requires_grad=kind == "cosine")

    def grow(self, classes: int) -> None:
        """Append freshly drawn rows until there are ``classes``; old rows keep their values."""
        old, features = self.weight.shape
        # as nn.Linear draws them
        # on the CPU, before a model moves to its device, so that it starts alike on all
        fresh = torch.empty(classes - old, features).uniform_(-(features**-0.5), features**-0.5)
        # a Parameter cannot grow: this is a new one, and each task has a new optimiser
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh]))
        # no class begins ahead of another
        zeros = torch.zeros(classes - old)
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), zeros]), requires_grad=self.kind == "linear")

    def grow_as(self, state: dict[str, Tensor], classes: int) -> None:
        """Take the shapes of a checkpoint of so many classes."""
        # here the number says it all, while proxies (avcil/learn/methods) also ask the ``state``
        self.grow(classes)

    @property
    def classes(self) -> int:
        return len(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return F.linear(features, self.weight, self.bias)


class Absent(nn.Module):
    """Stands for the projection of a stream that a fusion leaves out: zeros [B,width]."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, feature: Tensor) -> Tensor:
        # feature distillation leaves zeros out. Not len(feature), as in attention.py
        return feature.new_zeros(feature.shape[0], self.width)


class IncrementalClassifier(nn.Module):
    """Tokens to logits: attention, a projection of either stream, their fusion, and a classifier that grows.

    `fusion` says where the visual part comes from and what is learnt. `guided`: guided attention; `mean`: mean of all
    patches; `visual` and `audio`: one stream alone (the other part is zero); `frozen`, `frozen_guided` and
    `frozen_scaled`: `FrozenAttention`. Another name is a file of avcil/learn/methods.
    """

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
        if fusion == "guided":
            self.attention: Attention = GuidedAttention(
                channels, width, heads, prior_guidance=prior_guidance, learnt_guidance=learnt_guidance
            )
        elif fusion in FROZEN:
            self.attention = FrozenAttention(channels[0], fusion, prior_guidance)
        elif fusion in FUSIONS:
            self.attention = MeanPooling(channels[0])
        else:
            self.attention = find(fusion).build(channels)

        def projection(inputs: int, *, absent: bool) -> nn.Module:
            if self.attention.frozen:
                return nn.Identity()
            return Absent(width) if absent else nn.Linear(inputs, width)

        self.visual = projection(self.attention.channels, absent=fusion == "audio")
        self.audio = projection(channels[1], absent=fusion == "visual")
        # a layer that nobody reads is none that is trained
        self.audio.requires_grad_(self.attention.reads_audio)
        # frozen streams lie side by side (`FrozenAttention.fuse`), each as wide as its tokens
        features = sum(channels) if self.attention.frozen else width
        self.classifier = (
            Classifier(features, classifier) if classifier in CLASSIFIERS else find(classifier).build(features)
        )

    def forward(self, tokens: Tokens, *, centre: Tensor | None = None, **options) -> Output:
        """centre [D] or None: what the true visual tokens are more than those given, for fusions with attention;
        options: what else the attention takes."""
        attended = self.attention(tokens, centre, **options)
        features = self.attention.fuse(self.visual(attended.feature), self.audio(tokens.audio.mean(1)))
        logits = self.classifier(features.fused)
        return Output(logits, features, attended.spatial, attended.temporal, attended.feature, attended.divergence)
