"""Hook: new classes' weights are scaled to the norm of past ones' (WA). As `hooks: {weight_aligning: {}}`.

Source: Zhao et al., Maintaining discrimination and fairness in class incremental learning, CVPR 2020, arXiv 1911.07053.
Deviation: the paper corrects a preference for new classes, with γ < 1 throughout; where exemplars are drawn as often as
new clips γ can be above 1, and scaling up would make such a preference, so weights then stay as they are.
"""

import torch

from avcil.learn.hooks import Hooks, Learning
from avcil.learn.model import IncrementalClassifier
from avcil.params.learning import Method
from avcil.params.section import Section


class Options(Section):
    pass


class WeightAligning(Hooks):
    def after_step(self, model: IncrementalClassifier) -> None:
        """Norms say how large logits are only where nothing cancels: features are non-negative, so weights are kept."""
        with torch.no_grad():
            model.classifier.weight.clamp_(min=0)

    def after_task(self, learning: Learning) -> None:
        """w ← min(1, γ) w for new classes, γ = mean ‖w_past‖ / mean ‖w_new‖."""
        past = learning.past
        if past:
            with torch.no_grad():
                # weights alone, biases stay; by one factor, so that differences among new classes stay, too
                norms = learning.model.classifier.weight.norm(dim=1)
                learning.model.classifier.weight[past:] *= (norms[:past].mean() / norms[past:].mean()).clamp(max=1)


def build(options: Options, method: Method) -> WeightAligning:
    # cosines and proxies are normalised: no norm of theirs prefers a class
    if method.classifier != "linear":
        raise ValueError("weight_aligning: needs classifier: linear")
    return WeightAligning()
