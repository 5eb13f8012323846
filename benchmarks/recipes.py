"""Training steps of AV-CIL and of LLL, with nothing but torch and avcil.kernels: models, losses, data, optimisers.

AV-CIL: the authors' step with the old model in the loop; ours knows the old model's logits and maps, as features are
frozen. LLL: guided attention where and when, cosine classifier, dual distillation; the peer is the same of
torch.nn.MultiheadAttention and plain losses, with the old model in the loop.

Dimension letters: ``B`` clips a batch, ``N`` clips in memory, ``L`` frames, ``S`` patches of a frame, ``D`` channels,
``H`` heads.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from authors_step import SETTINGS, Authors
from avcil.kernels import (
    OldAttention,
    channelwise_attention,
    channelwise_maps,
    dual_distillation,
    guided_attention,
    remember_attention,
)

TASKS, PER_TASK, TEMPERATURE = 4, 7, 2.0
PAST, CLASSES = (TASKS - 1) * PER_TASK, TASKS * PER_TASK
PART = 64  # clips at once where the old model is asked beforehand


Loss = Callable[[Tensor], Tensor]
"""Of a batch, by its rows."""


class Training(NamedTuple):
    """``step`` trains the model on the next batch and gives its loss."""

    model: nn.Module
    step: Callable[[], dict[str, Tensor]]


class Sizes(NamedTuple):
    """B clips a batch of N in memory; L frames of S patches with D channels; H heads."""

    B: int
    N: int
    L: int = 8
    S: int = 196
    D: int = 768
    H: int = 8


class Data(NamedTuple):
    """visual [N,L,S,D], audio [N,D], labels [N]: new clips, then as many exemplars. batches: rows, halves of each."""

    visual: Tensor
    audio: Tensor
    labels: Tensor
    batches: list[Tensor]

    def to(self, kind: torch.dtype) -> "Data":
        return self._replace(visual=self.visual.to(kind))


def draw(sizes: Sizes, device: torch.device) -> Data:
    half, at = sizes.N // 2, sizes.B // 2
    labels = torch.cat([torch.randint(PAST, CLASSES, (half,)), torch.randint(PAST, (half,))])
    batches = [torch.cat([torch.randperm(half)[:at], half + torch.randperm(half)[:at]]).to(device) for _ in range(8)]
    visual = torch.randn(sizes.N, sizes.L, sizes.S, sizes.D, device=device)
    return Data(visual, torch.randn(sizes.N, sizes.D, device=device), labels.to(device), batches)


class AvCil(nn.Module):
    """AV-CIL's model around an attention; layers have the names of the authors', so that weights fit both.

    Source: Pian et al., ICCV 2023, arXiv 2308.11073.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.audio_proj, self.visual_proj, self.attn_audio_proj, self.attn_visual_proj = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        self.classifier = nn.Linear(channels, classes)

    def guide(self, audio: Tensor) -> Tensor:
        return torch.tanh(self.attn_audio_proj(audio))

    def classify(self, audio: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and the two features."""
        audio, visual = F.relu(self.audio_proj(audio)), F.relu(self.visual_proj(attended))
        return self.classifier(audio + visual), audio, visual


def contrast(audio: Tensor, visual: Tensor, labels: Tensor) -> Tensor:
    """Instance- and class-contrastive loss with their weights, as the authors' code has them: the latter over B."""
    scores = F.normalize(audio, dim=1) @ F.normalize(visual, dim=1).T / SETTINGS.instance_contrastive_temperature
    own = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels).to(scores.dtype)
    classes = -(F.log_softmax(scores, 1) * same).mean(1).mean()
    return SETTINGS.lam_I * F.cross_entropy(scores, own) + SETTINGS.lam_C * classes


def av_cil_loss(
    said: tuple[Tensor, Tensor, Tensor], labels: Tensor, old_logits: Tensor, maps: Tensor, impl: str
) -> Tensor:
    """maps: the sum of both divergences over exemplars; impl: of ``dual_distillation``."""
    logits, audio, visual = said
    blocks = [PER_TASK] * (TASKS - 1)
    known = {"temperature": TEMPERATURE, "separated": True, "impl": impl}
    found = dual_distillation(logits, labels, old_logits, blocks, (), (), **known)
    exemplars = len(labels) // 2
    return found.cross_entropy + found.logit + contrast(audio, visual, labels) + SETTINGS.lam * maps / exemplars


def av_cil_in_the_loop(model: AvCil, old_model: AvCil, data: Data) -> Loss:
    """Stands for the authors' step: plain PyTorch, both models on the whole batch. A batch's rows to its loss."""

    def attend(model: AvCil, visual: Tensor, audio: Tensor) -> tuple:
        output, *maps = channelwise_maps(model.guide(audio), visual, *model.attn_visual_proj.parameters())
        return model.classify(audio, output), maps

    def loss(rows: Tensor) -> Tensor:
        visual, audio, half = data.visual.index_select(0, rows), data.audio[rows], len(rows) // 2
        said, maps = attend(model, visual, audio)
        with torch.no_grad():
            old_said, old_maps = attend(old_model, visual, audio)
        pairs = zip(maps, old_maps, strict=True)
        kept = sum(F.kl_div(x[half:].log(), y[half:], reduction="sum") for x, y in pairs)
        return av_cil_loss(said, data.labels[rows], old_said[0], kept, "reference")

    return loss


def av_cil_from_memory(model: AvCil, old_model: AvCil, data: Data, impl: str) -> Loss:
    """Ours: what the old model says of all clips, and its maps of the exemplars, are computed once."""
    half, projection = len(data.labels) // 2, list(old_model.attn_visual_proj.parameters())
    with torch.no_grad():
        parts = zip(old_model.guide(data.audio).split(PART), data.visual.split(PART), strict=True)
        attended = torch.cat([channelwise_attention(*part, *projection).output for part in parts])
        old_logits = old_model.classify(data.audio, attended)[0]
        parts = zip(old_model.guide(data.audio[half:]).split(PART), data.visual[half:].split(PART), strict=True)
        maps = [remember_attention(*part, *projection) for part in parts]
    old = OldAttention(*(torch.cat(pieces) for pieces in zip(*maps, strict=True)))
    remembered = torch.arange(len(data.labels), device=data.labels.device) - half

    def loss(rows: Tensor) -> Tensor:
        visual, audio = data.visual.index_select(0, rows), data.audio[rows]
        weights = model.attn_visual_proj.weight, model.attn_visual_proj.bias
        of = remembered[rows].clamp_min(-1)
        found = channelwise_attention(model.guide(audio), visual, *weights, old=old, of=of, impl=impl)
        kept = (found.spatial_divergence + found.temporal_divergence).sum()
        return av_cil_loss(model.classify(audio, found.output), data.labels[rows], old_logits[rows], kept, impl)

    return loss


def authors_step(authors: Authors, weights: list[dict], data: Data) -> Training:
    """Their model, old model, losses and optimiser."""
    device = data.audio.device
    model, old_model = (authors.network(classes, device) for classes in (CLASSES, PAST))
    model.load_state_dict(weights[0])
    old_model.load_state_dict(weights[1])
    known = {
        "model": model.train(),
        "old_model": old_model.eval(),
        "opt": torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4),
        "device": device,
        "args": SETTINGS,
        "T": TEMPERATURE,
        "step": TASKS - 1,
        "step_out_class_num": CLASSES,
        "last_step_out_class_num": PAST,
        "train_loss": 0.0,
        "num_steps": 0,
    }
    batches = itertools.cycle(data.batches)

    def step() -> dict[str, Tensor]:
        halves = next(batches).chunk(2)
        samples = [((data.visual.index_select(0, rows), data.audio[rows]), data.labels[rows]) for rows in halves]
        return {"loss": torch.tensor(authors.step(samples=samples, **known)[0])}

    return Training(model, step)


class Guided(nn.Module):
    """Guided attention where (patches of a frame) and when (frames), and a cosine classifier.

    Source: arXiv 2606.10887, as avcil/learn/model.py has it, without the frozen prior.
    """

    def __init__(self, sizes: Sizes, classes: int):
        super().__init__()
        self.plain = False
        self.where, self.when = (nn.MultiheadAttention(sizes.D, sizes.H, batch_first=True) for _ in range(2))
        self.audio, self.visual = (nn.Linear(sizes.D, sizes.D) for _ in range(2))
        self.classes = nn.Parameter(torch.randn(classes, sizes.D))

    def plainly(self) -> "Guided":
        """From now on attention is torch.nn.MultiheadAttention's."""
        self.plain = True
        return self

    def attend(self, layer: nn.MultiheadAttention, query: Tensor, tokens: Tensor) -> Tensor:
        """query [B,L,1,D], tokens [B,L,S,D]; [B,L,D]."""
        if self.plain:
            flat = tokens.flatten(0, 1)
            output, _ = layer(query.flatten(0, 1), flat, flat, need_weights=True, average_attn_weights=True)
            return output.unflatten(0, query.shape[:2])[:, :, 0]
        ask, key, value = layer.in_proj_weight.chunk(3)
        ask_bias, _, value_bias = layer.in_proj_bias.chunk(3)
        query = F.linear(query, ask, ask_bias)
        found = guided_attention(query, tokens, key, value, value_bias, heads=layer.num_heads)
        return layer.out_proj(found.output)[:, :, 0]

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Logits and the three features."""
        query = audio[:, None, None].expand(-1, visual.shape[1], -1, -1)
        frames = self.attend(self.where, query, visual)
        seen = self.attend(self.when, audio[:, None, None], frames[:, None])[:, 0]
        heard, seen = self.audio(audio), self.visual(seen)
        fused = F.relu(heard + seen)
        logits = 10 * F.normalize(fused, dim=1) @ F.normalize(self.classes, dim=1).T
        return logits, (heard, seen, fused)


def lll_loss(said: tuple, labels: Tensor, old_said: tuple, impl: str) -> Tensor:
    """Weights of params.yaml's row ``lll_prior``; distillation grows with the root of past over new classes."""
    (logits, features), (old_logits, old_features) = said, old_said
    known = {"temperature": TEMPERATURE, "impl": impl}
    found = dual_distillation(logits, labels, old_logits, [PAST], features, old_features, **known)
    return found.cross_entropy + (PAST / PER_TASK) ** 0.5 * (found.logit + 3 * found.feature)


def lll_in_the_loop(model: Guided, old_model: Guided, data: Data) -> Loss:
    def loss(rows: Tensor) -> Tensor:
        visual, audio = data.visual.index_select(0, rows), data.audio[rows]
        with torch.no_grad():
            old_said = old_model(visual, audio)
        return lll_loss(model(visual, audio), data.labels[rows], old_said, "reference")

    return loss


def lll_from_memory(model: Guided, old_model: Guided, data: Data, impl: str) -> Loss:
    with torch.no_grad():
        parts = [old_model(*part) for part in zip(data.visual.split(PART), data.audio.split(PART), strict=True)]
    old_logits = torch.cat([logits for logits, _ in parts])
    old_features = [torch.cat(feature) for feature in zip(*(features for _, features in parts), strict=True)]

    def loss(rows: Tensor) -> Tensor:
        old_said = old_logits[rows], tuple(feature[rows] for feature in old_features)
        return lll_loss(model(data.visual.index_select(0, rows), data.audio[rows]), data.labels[rows], old_said, impl)

    return loss


def eager(model: nn.Module, loss: Loss, optimiser: torch.optim.Optimizer, data: Data) -> Training:
    """A step with the next batch."""
    following = itertools.cycle(data.batches)
    return Training(model, lambda: {"loss": update(loss, optimiser, next(following))})


def captured(model: nn.Module, loss: Loss, optimiser: torch.optim.Optimizer, data: Data) -> Training:
    """The same as one CUDA graph, recorded at the first call."""
    following, rows = itertools.cycle(data.batches), data.batches[0].clone()
    graph, result = torch.cuda.CUDAGraph(), {}

    def step() -> dict[str, Tensor]:
        if not result:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    update(loss, optimiser, rows)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                result["loss"] = update(loss, optimiser, rows)
        rows.copy_(next(following))
        graph.replay()
        return result

    return Training(model, step)


def update(loss: Loss, optimiser: torch.optim.Optimizer, rows: Tensor) -> Tensor:
    optimiser.zero_grad(set_to_none=True)
    value = loss(rows)
    value.backward()
    optimiser.step()
    return value.detach()
