"""Hook: in each batch some clips have no sound and some no picture, so that a row learns to do with one. As `hooks:
{modality_dropout: {share: 0.5}}`.

Dimension letters: ``B`` clips of a batch.
"""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from avcil.learn import parallel
from avcil.learn.feed import Feed
from avcil.learn.hooks import Hooks, Learning
from avcil.params.learning import Method
from avcil.params.section import Section
from avcil.tokens.tokens import Tokens


class Options(Section):
    share: float = Field(0.5, gt=0, le=1, description="of a batch's clips: half of it lose the sound, half the picture")


def withhold(tokens: Tokens, sound: Tensor, picture: Tensor) -> Tokens:
    """The clips [B] without the sound of some and the picture of some, masks [B]: zeros stand for what is absent."""
    # in the order of Tokens; a similarity is of both, so nothing is left of it where one is gone
    gone = (picture, sound, picture | sound)
    parts = (
        stream.masked_fill(mask.view(-1, *[1] * (stream.dim() - 1)), 0.0)
        for stream, mask in zip(tokens, gone, strict=True)
    )
    return Tokens(*parts)


class Dropping(Feed):
    """A feed whose batches, those of training alone, withhold streams; of a clip that has one no more."""

    def __init__(self, feed: Feed, share: float, generator: torch.Generator):
        # the feed as it stands: made anew it would hold its tokens a second time
        vars(self).update(vars(feed))
        self.share, self.generator = share, generator

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tokens]:
        for clips in super().batches(indices):
            # drawn on the CPU: the same clips wherever the model is
            drawn = torch.rand(len(clips.audio), generator=self.generator).to(clips.audio.device)
            # zeros stand for what was absent before
            there = [stream.flatten(1).ne(0).any(1) for stream in (clips.audio, clips.visual)]
            lost = (drawn < self.share) & there[0] & there[1]
            # the same number says whether and which, so that no clip can lose both
            first = drawn < self.share / 2
            yield withhold(clips, lost & first, lost & ~first)


class ModalityDropout(Hooks):
    """Source: Neverova et al., ModDrop, TPAMI 2016, arXiv 1501.00102. Deviation: never both streams of a clip; features
    and logits are still held to what the model before gives for the whole clip."""

    def __init__(self, share: float):
        self.share = share

    def before_task(self, learning: Learning) -> None:
        # processes that draw as many numbers as they have clips would draw other batches; and of tokens less a centre a
        # zero is the mean picture, not none
        if parallel.processes() > 1 or learning.feed.centre is not None:
            raise ValueError("modality_dropout: learns in one process, and from float32 tokens; see compute.tokens")
        # the old model has answered already, about whole clips
        learning.feed = Dropping(learning.feed, self.share, learning.generator)


KNOWS_ABSENCE = True


def build(options: Options, method: Method) -> ModalityDropout:
    return ModalityDropout(options.share)
