"""Where a method may do what the core does not: before a task, in the loss, after a step, after a task, and in what the
checkpoint keeps.

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``C`` classes seen, ``P`` past classes.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avcil.learn.attention import Attention
from avcil.learn.feed import Feed
from avcil.learn.heads import CarriedRidge, Head
from avcil.learn.methods import find, named, options
from avcil.learn.model import IncrementalClassifier, Output
from avcil.params.learning import READOUTS, Method, Training


class Batch(NamedTuple):
    """rows [B] of the clips at hand, their labels [B], what the model gives for them, and its classifier's learnt scale
    as the loss is to use it (avcil/learn/parallel.py)."""

    rows: Tensor
    labels: Tensor
    output: Output
    scale: Tensor


class Hooks:
    """What a method's file adds to the core; each hook does nothing unless overridden."""

    reads_old: Collection[str] = ()
    """Fields of `Output` that ``losses`` reads of ``learning.old_output``."""

    def before_task(self, learning: "Learning") -> None:
        """Before the first step; the model has its new classes already."""

    def attention_options(self, rows: Tensor) -> dict[str, object]:
        """What the model's attention is given by keyword with the clips at ``rows`` [B] of those at hand."""
        return {}

    def losses(self, learning: "Learning", batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; one that the core has by that name is replaced."""
        return {}

    def after_step(self, model: IncrementalClassifier) -> None:
        """After each step of the optimiser."""

    def after_task(self, learning: "Learning") -> None:
        """After the last step, before features are read for exemplars and solved heads."""

    def state(self, learning: "Learning", learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
        """Tensors that the checkpoint keeps, ``learning.state`` of the next task; ``learnt``: the output for the clips
        at hand, ``exemplars``: rows of them that memory keeps."""
        return {}


@dataclass
class Learning:
    """One task while it is learnt.

    Args:
        blocks: classes of each task so far, the new one last; with `restart` all are of one.
        feed, labels: the N clips at hand and their labels [N], on the device, ``new`` of them new, then exemplars.
        generator: draws batches and random exemplars.
        old_model: the model of the task before, on the device; None in the first task, and where nothing is learnt.
        old_output: of its `Output` for the clips at hand the fields that are read (`reads_old`), on the device; None
            where none is.
        head: the solved read-out, as the task before left it; None where the trained classifier reads out.
        state: what hooks left, by their names.
    """

    method: Method
    training: Training
    blocks: list[int]
    model: IncrementalClassifier
    feed: Feed
    labels: Tensor
    new: int
    generator: torch.Generator = field(default_factory=torch.Generator)
    old_model: Any = None
    # of an `Output` it has only the fields that are read, so that it is none
    old_output: Any = None
    head: Head | None = None
    hooks: dict[str, Hooks] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def past(self) -> int:
        """P."""
        return sum(self.blocks[:-1])

    @property
    def seen(self) -> int:
        """C."""
        return sum(self.blocks)

    @property
    def growth(self) -> float:
        """g, the factor of all distillation weights: √(P / (C − P)), past over new classes, as in LUCIR (Hou et al.,
        CVPR 2019), √(task + 1), as in AFC, or 1."""
        # the ratio is 1 at as many past as new classes, where the weights in params.yaml hold
        by_name = {"ratio": self.past / self.blocks[-1], "task": len(self.blocks), "none": 1.0}
        return by_name[self.method.growth] ** 0.5

    @property
    def reads_old(self) -> set[str]:
        """Fields that a loss, or a head that is carried, reads of what the old model gives for the clips at hand."""
        fields = {field for hook in self.hooks.values() for field in hook.reads_old}
        # a weight of 0 reads nothing
        if self.method.logit_distillation:
            fields.add("logits")
        # a head that is carried fits its drift to features of before and after
        if self.method.feature_distillation or isinstance(self.head, CarriedRidge):
            fields.add("features")
        return fields

    def attention_options(self, rows: Tensor) -> dict[str, object]:
        """Those of all hooks."""
        return {key: value for hook in self.hooks.values() for key, value in hook.attention_options(rows).items()}


def hooks_of(method: Method) -> dict[str, Hooks]:
    """The hooks of a row by name; raises ValueError if their options or the row itself do not suit them."""
    return {name: find(name).build(options(name, given), method) for name, given in method.hooks.items()}


def _kind(name: str) -> str | None:
    """Which choice of a row a method's file is for, by what its `build` says that it returns; None if it does not."""
    build = find(name).build
    made = build if isinstance(build, type) else signature(build).return_annotation
    # an attention is a module too, and a classifier no more than that
    kinds = {"fusion": Attention, "readout": Head, "hooks": Hooks, "classifier": nn.Module}
    return next((kind for kind, base in kinds.items() if isinstance(made, type) and issubclass(made, base)), None)


def check(row: str, method: Method) -> None:
    """Raises ValueError, naming the row, if a method's file does not take what the row gives it."""
    try:
        # a file of another kind may have a `build` of as many arguments, which makes something else
        if other := [name for name, hook in hooks_of(method).items() if not isinstance(hook, Hooks)]:
            raise ValueError(f"hooks: `{other[0]}` is none, but a fusion, classifier or read-out")
        # hooks have had their options checked by now. Others are not built before the first task begins: a fusion wants
        # the widths of tokens, which are not known yet
        for kind, name in (("fusion", method.fusion), ("classifier", method.classifier), ("readout", method.readout)):
            if name not in named(method):
                continue
            # of a `build` that does not say what it returns the number of arguments tells at least this much
            arguments = len(signature(find(name).build).parameters)
            if (_kind(name) or kind) != kind or arguments != (2 if kind == "readout" else 1):
                raise ValueError(f"{kind}: `{name}` is none")
        if method.readout not in READOUTS:
            options(method.readout, method.readout_options)
            # a head may take apart what one fusion alone puts together
            if (needed := getattr(find(method.readout), "FUSION", method.fusion)) != method.fusion:
                raise ValueError(f"readout: `{method.readout}` needs fusion: {needed}")
    # all that a file may raise while somebody is still writing it, a missing `build` among it
    except (ValueError, AttributeError, TypeError, NameError, ImportError, SyntaxError) as problem:
        raise ValueError(f"{row}: {problem}") from None
