"""Read-out: a `ProductRidge` for each source of guidance, of which the sums themselves say which is believed. As
`readout: chosen_ridge`, over `fusion: frozen_sources`.

Dimension letters: ``N`` clips, ``K`` sources, ``E`` regressors, ``C`` classes seen so far.
"""

import torch
from pydantic import Field
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import RecursiveRidge
from avcil.learn.methods import product_ridge
from avcil.learn.methods.frozen_sources import SOURCES, Source
from avcil.learn.methods.product_ridge import ProductRidge
from avcil.learn.methods.ranpac import RandomHead


class Options(product_ridge.Options):
    sources: list[Source] = Field(list(SOURCES), min_length=1, description="among which it chooses")


class ChosenRidge(RandomHead, RecursiveRidge):
    """The head of the source whose streams, sound and picture of unit length without products, a `ScaledRidge` scores
    lowest by generalised cross-validation; of equals, the first source's.

    Guidance that shows what sounds makes pictures that tell classes apart, in clips that were left out as well, and
    that is what the score estimates from sums alone. So whether a similarity is worth anything is asked of the clips,
    anew after every task, and none of them is kept. It is as exact, and as independent of how clips are cut into
    tasks, as its parts are.
    State: theirs, with K in front; the position of the source believed, and the seed of all their products.
    Source: ours; the score as in `gcv` (Golub, Heath & Wahba, Technometrics 21, 1979).
    """

    def __init__(self, options: Options, state: dict[str, Tensor] | None = None):
        # each part chooses a penalty of its own; nobody reads this one
        super().__init__(0.0, state)
        self.options = options
        self.draw = options.draw

    @property
    def believed(self) -> Source:
        return self.solution[1]

    def _head(self, position: int) -> ProductRidge:
        # what has no position, as the seed of the products, is the same for all
        state = {name: value[position] if value.dim() else value for name, value in self.state.items()}
        return ProductRidge(self.options.products, self.options.variance, state, self.draw)

    def _picture(self, features: Features, source: Source) -> Features:
        """The features with the picture of one source."""
        # pictures lie in the order of SOURCES, all of them, whichever of them this row chooses among
        return features._replace(visual=features.visual.chunk(len(SOURCES), 1)[SOURCES.index(source)])

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        heads = [self._head(position) for position in range(len(self.options.sources))]
        for source, head in zip(self.options.sources, heads, strict=True):
            head.update(self._picture(features, source), labels, classes)
        # after every task anew: chosen once, after the first, it errs (LOG.md)
        # without products the ranking is the same, in a tenth of the time (LOG.md)
        scores = [head.without_products().solution.score for head in heads]
        parts = {name: [head.state[name] for head in heads] for name, value in heads[0].state.items() if value.dim()}
        self.state = self.state | {name: torch.stack(values) for name, values in parts.items()}
        # equals do occur: where no sound changes, synchrony is zero, and its picture that of none
        self.state["believed"] = torch.tensor(scores.index(min(scores)))
        # `Head.update`, which would do so, is never called here
        self._solution = None

    def _solve(self) -> tuple[ProductRidge, Source]:
        # of the others the sums are kept, and never solved with products
        position = int(self.state["believed"])
        return self._head(position), self.options.sources[position]

    def logits(self, features: Features) -> Tensor:
        head, source = self.solution
        return head.logits(self._picture(features, source))

    def leverage(self, features: Features) -> Tensor:
        head, source = self.solution
        return head.leverage(self._picture(features, source))


FUSION = "frozen_sources"  # whose pictures lie side by side
build = ChosenRidge
