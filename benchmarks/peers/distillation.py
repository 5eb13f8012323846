"""Dual-level distillation, forward and backward: cross-entropy, logits by past task, three features.

Dimension letters: ``B`` clips, ``E`` feature channels, ``F`` features.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.kernels import Distillation, dual_distillation, feature_distillation, reference, separated_cross_entropy
from peers import Options, shape
from timing import Group, Variant, Work, differentiated

TEMPERATURE = 2.0
LIGER = importlib.util.find_spec("liger_kernel") is not None


class Distil(NamedTuple):
    """``past`` tasks and one new one, each of ``classes`` classes."""

    B: int
    past: int
    classes: int = 10
    E: int = 768
    F: int = 3


def _liger(logits, labels, old_logits, blocks, features, old_features, *, temperature, separated) -> Distillation:
    """Liger's kernel for each task's divergence; softmaxes and the other levels as in our reference."""
    from liger_kernel.transformers.kl_div import LigerKLDIVLoss

    divergence = LigerKLDIVLoss(reduction="batchmean")
    past = old_logits.shape[1]
    pairs = zip(logits[:, :past].split(blocks, 1), old_logits.split(blocks, 1), strict=True)
    terms = [divergence(F.log_softmax(n / temperature, 1), F.softmax(o / temperature, 1)) for n, o in pairs]
    cross_entropy = separated_cross_entropy(logits, labels, past) if separated else F.cross_entropy(logits, labels)
    return Distillation(
        cross_entropy, temperature**2 * torch.stack(terms).sum(), feature_distillation(features, old_features)
    )


def group(case: Distil, options: Options) -> Group:
    device, past = options.device, case.past * case.classes
    cuda = device.type == "cuda"
    draw = partial(torch.randn, device=device)
    leaves = {"logits": draw(case.B, past + case.classes)}
    leaves |= {f"feature {number}": draw(case.B, case.E) for number in range(case.F)}
    labels = torch.randint(past + case.classes, (case.B,), device=device)
    old_logits = leaves["logits"][:, :past] + draw(case.B, past)
    old_features = tuple(value + draw(case.B, case.E) for value in list(leaves.values())[1:])
    blocks = [case.classes] * case.past

    def objective(function: Callable, leaves: dict[str, Tensor], old_logits: Tensor, old_features: tuple):
        logits, *features = leaves.values()
        found = function(
            logits, labels, old_logits, blocks, tuple(features), old_features, temperature=TEMPERATURE, separated=True
        )
        return found.cross_entropy + found.logit + found.feature, found._asdict()

    exact = {name: value.double().requires_grad_() for name, value in leaves.items()}
    doubled = old_logits.double(), tuple(value.double() for value in old_features)
    forward = partial(objective, reference.dual_distillation, exact, *doubled)
    wanted = {name: value.detach() for name, value in differentiated(forward, exact)().items()}
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}

    ways = {("ours, auto", "ours"): dual_distillation}
    if cuda:
        ways["ours, triton", "ours"] = partial(dual_distillation, impl="triton")
    ways["reference, eager", "peer"] = partial(dual_distillation, impl="reference")
    ways |= {("Liger KL by task", "peer"): _liger} if LIGER and cuda else {}
    ways = {name: partial(objective, way, leaves, old_logits, old_features) for name, way in ways.items()}
    if options.compiled:
        # inputs are small here, so that CUDA graphs may copy them
        tuned = {"torch.compile max-autotune": {"mode": "max-autotune"}} if cuda and options.tuned else {}
        modes = {"torch.compile": {}} | tuned
        for name, how in modes.items():
            built = torch.compile(objective, dynamic=False, **how)
            ways[name, "peer"] = partial(built, reference.dual_distillation, leaves, old_logits, old_features)
    variants = [
        Variant(name, whose, "fp32", differentiated(forward, leaves), forward)
        for (name, whose), forward in ways.items()
    ]
    numbers = case.B * (2 * (past + case.classes) + past + 3 * case.F * case.E)
    return Group("dual distillation", shape(case), variants, wanted, {"fp32": [Work(0, 4 * numbers)]})
