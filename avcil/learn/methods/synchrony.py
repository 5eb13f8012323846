"""Hook: estimates from the first task's clips which change of a picture goes with which change of its sound, for
`fusion: frozen_sources`, and has that show the map of the source that `readout: chosen_ridge` believes. As `hooks:
{synchrony: {}}`.
"""

import torch
from pydantic import Field
from torch import Tensor

from avcil.learn.hooks import Hooks, Learning
from avcil.learn.methods.chosen_ridge import ChosenRidge
from avcil.learn.methods.frozen_sources import SOURCES, FrozenSources
from avcil.learn.model import Output
from avcil.params.learning import Method
from avcil.params.section import Section
from avcil.tokens.guidance import ChangeSums, change_sums, synchrony_form
from avcil.tokens.tokens import frame_audio

AT_ONCE = 50  # clips, as float64


class Options(Section):
    damping: float = Field(0.1, gt=0, description="of both covariances, by their mean variance")


class Synchrony(Hooks):
    """No label is read; and later tasks change nothing, for the head's sums are over features that have to stay."""

    def __init__(self, damping: float):
        self.damping = damping

    def before_task(self, learning: Learning) -> None:
        if learning.past:
            return
        feed, attention = learning.feed, learning.model.attention
        assert isinstance(attention, FrozenSources)
        # to the CPU: sums are float64, which not every device has
        parts = (feed.clips(index).to("cpu") for index in torch.arange(len(feed)).split(AT_ONCE))
        sums = [change_sums(part.visual.float(), frame_audio(part.audio, part.visual.shape[1])) for part in parts]
        whole = ChangeSums(*(torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)))
        attention.form.copy_(synchrony_form(whole, self.damping))

    def state(self, learning: Learning, learnt: Output, exemplars: Tensor) -> dict[str, Tensor]:
        attention, head = learning.model.attention, learning.head
        assert isinstance(attention, FrozenSources) and isinstance(head, ChosenRidge)
        # not in `after_task`: only now has the head learnt this task, and the model's buffers are kept after this
        attention.believed.fill_(SOURCES.index(head.believed))
        return {}


def build(options: Options, method: Method) -> Synchrony:
    if method.fusion != "frozen_sources" or method.readout != "chosen_ridge":
        raise ValueError("synchrony: needs fusion: frozen_sources and readout: chosen_ridge")
    return Synchrony(options.damping)
