"""Hook of EWC: weights that mattered for past tasks move little. As `hooks: {ewc: {weight: 1000.0}}`.

Source: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv 1612.00796.
Deviation: one running importance for all past tasks (online EWC, Schwarz et al., ICML 2018, arXiv 1805.06370, with
γ = 1) instead of one a task; new classes' rows of the classifier are free.

Dimension letters: ``N`` clips at hand.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Batch, Hooks, Learning
from avcil.learn.model import Output
from avcil.params.learning import FROZEN, Method
from avcil.params.section import Section


class Options(Section):
    weight: float = Field(gt=0, description="λ")


class Ewc(Hooks):
    def __init__(self, weight: float):
        self.weight = weight

    def losses(self, learning: Learning, batch: Batch) -> dict[str, Tensor]:
        r"""The penalty :math:`\frac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2`, θ* the weights after the task
        before."""
        state = learning.state.get("ewc", {})
        if not state:
            return {}
        total = batch.output.logits.new_zeros(())
        for name, weights in learning.model.named_parameters():
            if f"fisher.{name}" in state:
                before, fisher = (state[f"{kind}.{name}"].to(weights.device) for kind in ("mean", "fisher"))
                total = total + (fisher * (weights[: len(before)] if before.dim() else weights).sub(before).square()).sum()
        return {"ewc": self.weight / 2 * total}

    def state(self, learning: Learning, learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
        """mean θ and fisher F = Σ_tasks mean_n (∂ log p(y_n) / ∂θ)², with the labels' own log-likelihood, by clip."""
        model, feed, earlier = learning.model.eval(), learning.feed, learning.state.get("ewc", {})
        names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
        fisher = [torch.zeros_like(w) for w in weights]
        for row in torch.arange(learning.new, device=learning.labels.device):
            logits = model(feed.clips(row[None]), centre=feed.centre).logits
            loss = F.cross_entropy(logits, learning.labels[row[None]])
            slopes = torch.autograd.grad(loss, weights, allow_unused=True)
            for total, slope in zip(fisher, slopes, strict=True):
                total += 0 if slope is None else slope.square() / learning.new
        kept = {}
        for name, weight, total in zip(names, weights, fisher, strict=True):
            if f"fisher.{name}" in earlier:
                before = earlier[f"fisher.{name}"].to(total.device)
                (total[: len(before)] if before.dim() else total).add_(before)
            kept |= {f"mean.{name}": weight.detach().cpu().clone(), f"fisher.{name}": total.cpu()}
        return kept


def build(chosen: Options, method: Method) -> Ewc:
    if method.fusion in FROZEN:
        raise ValueError(f"ewc: fusion `{method.fusion}` has no weights to hold")
    return Ewc(chosen.weight)
