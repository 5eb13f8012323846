"""How the clips at hand reach the model: from memory, from the device, or streamed from the store.

Dimension letters: ``N`` clips at hand, ``B`` clips of a batch, ``D`` token channels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from avcil.base.device import free
from avcil.params.section import Precision
from avcil.tokens.tokens import Tokens, TokenSource

PART, PART_BYTES = 256, 1 << 28  # clips that are read at once; of large ones fewer, of so many bytes as float32
SHARE = 0.8  # of the free memory that tokens may take; the rest is for the model and its activations


class Feed:
    """The N clips at hand, as the model takes them.

    Visual tokens are held as ``precision``, the other streams as float32. float16 is how stores keep tokens; bfloat16
    is centred: minus ``centre``, the mean of some of the clips, which the kernels add again exactly.

    Clips that are in this machine's memory and wanted there as float32 are read where they are. Others are moved to the
    device once if they fit into ``room`` bytes; if not, they are streamed: a batch is read while the one before it is
    learnt, and copied to a GPU of CUDA from pinned memory.
    """

    def __init__(
        self,
        tokens: TokenSource,
        rows: Tensor,
        device: torch.device | str = "cpu",
        *,
        precision: Precision = "float32",
        room: int | None = None,
    ):
        """rows [N] of ``tokens``; ``room``: by default ``SHARE`` of what is free on the device."""
        self.source, self.rows, self.device = tokens, rows, torch.device(device)
        self.dtype = getattr(torch, precision)
        visual, audio, similarity = tokens.sizes
        # of a clip's patches as held, and of its old maps a channel, for which methods/av_cil.py asks
        self.map_bytes = visual * self.dtype.itemsize
        self.bytes = len(rows) * (self.map_bytes + 4 * (audio + similarity))
        self._mean = self.centre = None
        if precision == "bfloat16" and len(rows):
            # any centre is exact, for it is added again; the mean of some clips leaves small numbers to round
            # at equal distances, for clips that stand together are often of one class
            self._mean = tokens.clips(rows[:: max(1, len(rows) // 64)]).visual.mean((0, 1, 2))
            # one is taken off where clips are read, the other is added where the model is
            self.centre = self._mean.to(self.device)
        in_place = isinstance(tokens, Tokens) and self.device.type == "cpu" and precision == "float32"
        self.streamed = not in_place and self.bytes > (SHARE * free(self.device) if room is None else room)
        self._held = None
        if not in_place and not self.streamed:
            self._held = self._whole()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers that one clip has, as `TokenSource` says."""
        return self.source.sizes

    def clips(self, index: Tensor) -> Tokens:
        """The clips at ``index`` [B] of the N, on the device."""
        if self._held is None:
            return self._read(index).to(self.device)
        # `index_select` wants its index where the tokens are
        index = index.to(self.device)
        return Tokens(*(stream.index_select(0, index) for stream in self._held))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tokens]:
        """``clips`` of each; where they are streamed, the next ones are read meanwhile."""
        if not self.streamed:
            yield from map(self.clips, indices)
            return
        # one reader, so that batches come in order, and one batch ahead is all that memory has to hold
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self._staged, index) for index in indices[:1]]
            # None: behind the last batch nothing is left to read
            for index in [*indices[1:], None]:
                # raises here what the reader raised
                ready = coming.pop().result()
                if index is not None:
                    coming.append(reader.submit(self._staged, index))
                # only now, so that the next batch is being read while this one is learnt
                yield ready.to(self.device)

    def _whole(self) -> Tokens:
        """All clips, on the device: written there part by part, so that there is one copy of them at any time."""
        whole: list[Tensor] = []
        part = max(1, min(PART, PART_BYTES // (4 * sum(self.source.sizes))))
        # at least once: no clips have shapes as well
        for start in range(0, max(1, len(self)), part):
            clips = self._read(torch.arange(start, min(start + part, len(self))))
            if not whole:
                whole = [stream.new_empty(len(self), *stream.shape[1:], device=self.device) for stream in clips]
            for into, stream in zip(whole, clips, strict=True):
                into[start : start + len(stream)] = stream
        return Tokens(*whole)

    def _read(self, index: Tensor) -> Tokens:
        """The clips at ``index``, on the CPU."""
        # the source and its rows are on the CPU
        clips = self.source.clips(self.rows[index.cpu()])
        visual = clips.visual if self._mean is None else clips.visual - self._mean
        # taken off in float32, and rounded only then
        return clips._replace(visual=visual.to(self.dtype))

    def _staged(self, index: Tensor) -> Tokens:
        clips = self._read(index)
        if self.device.type != "cuda":
            return clips
        # the allocator gives a pinned block back only when its copy is done: two blocks alternate
        return Tokens(*(stream.pin_memory() for stream in clips))
