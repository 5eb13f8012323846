"""The one currency between encoders, feature store and model."""

from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """Shape of a clip's tokens: visual [L,S,visual_channels], audio [A,audio_channels], similarity [L,S]."""

    slots: int
    patches: int
    audio_tokens: int
    visual_channels: int
    audio_channels: int

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip in the feature store, which keeps two to a number."""
        # 1: the similarity of each patch with its sound
        visual = self.slots * self.patches * (self.visual_channels + 1)
        return 2 * (visual + self.audio_tokens * self.audio_channels)

    def shapes(self, clips: int) -> dict[str, tuple[int, ...]]:
        """Of the tokens of so many clips, by stream."""
        patches = (clips, self.slots, self.patches)
        audio = (clips, self.audio_tokens, self.audio_channels)
        return {"visual": (*patches, self.visual_channels), "audio": audio, "similarity": patches}

    def coarse(self, side: int) -> "Layout":
        """That of `TokenSource.coarse`."""
        return self._replace(patches=side**2)

    def pooled(self) -> "Layout":
        """That of `TokenSource.pooled`."""
        return self._replace(slots=1, patches=1, audio_tokens=1)

    def without(self, stream: Literal["visual", "audio"]) -> "Layout":
        """The layout where a stream is absent: one token, zero, stands for it."""
        return self._replace(slots=1, patches=1) if stream == "visual" else self._replace(audio_tokens=1)


class ClipSource(Protocol):
    """What gives a model its clips: a ``TokenSource``, or ``avcil.learn.feed.Feed``."""

    @property
    def centre(self) -> Tensor | None:
        """What the true visual tokens are more than those that ``clips`` gives, [D]; None: nothing."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers that one clip has: visual, audio, similarity."""

    def clips(self, index: Tensor) -> "Tokens":
        """The tokens of the clips at ``index``."""


class TokenSource(ClipSource, Protocol):
    """Tokens of N clips, in memory (``Tokens``) or mapped from a store (``avcil.tokens.store.MappedTokens``)."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, L, S, D of the visual tokens."""

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a visual token and of an audio token."""

    def clips(self, index: "Tensor | slice") -> "Tokens":
        """The tokens of the clips at ``index``, as float32."""

    def coarse(self, side: int) -> "TokenSource":
        """Each slot's square grid of patches averaged to ``side`` x ``side``. Raises ValueError if it is not square."""

    def pooled(self) -> "TokenSource":
        """The mean of each stream as its only token: all that fusions without attention look at."""


class Tokens(NamedTuple):
    """Dense tokens of ``B`` clips from a frozen encoder.

    visual [B,L,S,D]: S patches in each of L temporal slots; audio [B,A,D'], of as many channels or others; similarity
    [B,L,S]: how well each patch matches the sound of its slot in the encoder's own judgement (a logit).
    """

    visual: Tensor
    audio: Tensor
    similarity: Tensor

    @property
    def centre(self) -> None:
        """These are the true tokens."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        clips, slots, patches, channels = self.visual.shape
        return clips, slots, patches, channels

    @property
    def channels(self) -> tuple[int, int]:
        return self.visual.shape[-1], self.audio.shape[-1]

    @property
    def sizes(self) -> tuple[int, int, int]:
        visual, audio, similarity = (stream.shape[1:].numel() for stream in self)
        return visual, audio, similarity

    def to(self, device: torch.device | str) -> "Tokens":
        # a copy to the CPU that nobody waits for could be read before it is there
        away = torch.device(device).type != "cpu"
        return Tokens(*(stream.to(device, non_blocking=away) for stream in self))

    def clips(self, index: Tensor | slice) -> "Tokens":
        if isinstance(index, slice):
            # of float32 a view, without a copy
            return Tokens(*(stream[index].float() for stream in self))
        # `index_select` wants its index where the tokens are
        index = index.to(self.audio.device)
        # 5 times faster than stream[index]
        return Tokens(*(stream.index_select(0, index).float() for stream in self))

    def coarse(self, side: int) -> "Tokens":
        # the similarity is one more channel, so that both are averaged alike
        grid = torch.cat([self.visual, self.similarity[..., None]], -1)
        grid = coarse_grid(grid, side)
        # contiguous: as parts of the joint grid they would keep all of it in memory
        return Tokens(grid[..., :-1].contiguous(), self.audio, grid[..., -1].contiguous())

    def pooled(self) -> "Tokens":
        return Tokens(
            # dimensions stay, of size 1: whatever takes tokens takes these
            self.visual.mean((1, 2), keepdim=True),
            self.audio.mean(1, keepdim=True),
            self.similarity.mean((1, 2))[:, None, None],
        )


def coarse_grid(patches: Tensor, side: int) -> Tensor:
    """A square grid of patches [B,L,S,D] averaged to ``side`` x ``side``. Raises ValueError if it is not square."""
    batch, slots, count, channels = patches.shape
    grid = round(count**0.5)
    if grid * grid != count:
        raise ValueError(f"{count} patches a slot are not a square grid")
    # slots stand among the clips, and channels first, as pooling wants them
    maps = patches.flatten(0, 1).transpose(1, 2).unflatten(-1, (grid, grid))
    # adaptive: where ``side`` does not divide the grid, blocks overlap
    maps = F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
    return maps.reshape(batch, slots, side * side, channels)


def frame_audio(audio: Tensor, slots: int) -> Tensor:
    """Mean-pool audio tokens [B,A,D] to the L temporal ``slots`` of the visual tokens: [B,L,D]."""
    # with fewer tokens than slots, neighbouring slots share one
    return F.adaptive_avg_pool1d(audio.transpose(1, 2), slots).transpose(1, 2)
