"""Tokens of a store that is too large for memory: its files are mapped, and all processes share their pages.

What a row looks at instead of all tokens, coarser patches or one token a stream, is a *view*. It is made once, by
whoever asks first, a shard at a time, into a folder beside the store, and mapped like the store:

    .store.views/DIGEST/pooled, coarse4, ...   DIGEST is that of the store's index; views of an older store are dropped
        00000.safetensors, ...                 as the store's own, float16 or float32
        index.json                             checksum of each file; written last
"""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from avcil.base.alone import alone
from avcil.base.files import file_digest, read_sealed, write_sealed, write_tensors
from avcil.base.refusal import Refusal
from avcil.tokens.tokens import Layout, Tokens

HALF_ABOVE = 1 << 31  # bytes that tokens would take as float32; above, they stay in half precision


class StoreError(Refusal):
    """A feature store that cannot be used; the message names the file and the way out."""


def stays_half(clips: int, sizes: tuple[int, int, int]) -> bool:
    """Whether so many clips of so many numbers are kept in memory as stored; others are as float32."""
    return 4 * clips * sum(sizes) > HALF_ABOVE


class MappedTokens:
    """Tokens of ``count`` clips, ``per_shard`` in each file, which are read when they are asked for.

    sums: checksum of each file. A file is compared with it when it is first read: StoreError then names it. views: the
    folder of views; a view has none.
    """

    centre = None

    def __init__(
        self, layout: Layout, count: int, per_shard: int, sums: dict[Path, str], views: Path | None,
        *, dtype: str = "F16",
    ):  # fmt: skip
        self._count, self._per_shard, self._layout, self._views = count, per_shard, layout, views
        # a view is made by whoever needs it, a store by its stage
        self._way_out = "delete its folder, and it is made anew"
        if views:
            self._way_out = "delete the file and run the extraction"
        # the last file has what is left
        shards = zip(sums, range(0, count, per_shard), strict=True)
        # all are opened now: a store that lost clips is refused before learning begins, not in a later task
        self._shards = [self._opened(file, min(per_shard, count - start), dtype) for file, start in shards]
        self._unread, self._made = dict(enumerate(sums.items())), dict[str, MappedTokens]()

    def _opened(self, file: Path, clips: int, dtype: str):
        """A shard whose values are not yet read. Raises StoreError for one that is not of the layout."""
        shapes = self._layout.shapes(clips)
        try:
            shard = safe_open(file, framework="pt")
            # slices know shape and type, and no value is read
            slices = {name: shard.get_slice(name) for name in shapes}
            fits = all(
                tuple(values.get_shape()) == shapes[name] and values.get_dtype() == dtype
                for name, values in slices.items()
            )
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{file}: cannot be read ({' '.join(str(error).split())}); {self._way_out}") from None
        if not fits:
            kind = {"F16": "float16", "F32": "float32"}[dtype]
            raise StoreError(f"{file}: {kind} tokens of shapes {shapes} belong here, by the header; {self._way_out}")
        return shard

    def _shard(self, number: int):
        if number in self._unread:
            file, expected = self._unread[number]
            # once a process, and only of files that are asked for: it reads all of a file
            if file_digest(file) != expected:
                raise StoreError(f"{file}: checksum differs; {self._way_out}")
            del self._unread[number]
        return self._shards[number]

    def verify(self) -> None:
        """Compare every file that was not yet read with its checksum."""
        for number in list(self._unread):
            self._shard(number)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self._count, self._layout.slots, self._layout.patches, self._layout.visual_channels

    @property
    def channels(self) -> tuple[int, int]:
        return self._layout.visual_channels, self._layout.audio_channels

    @property
    def sizes(self) -> tuple[int, int, int]:
        patches = self._layout.slots * self._layout.patches
        return patches * self.channels[0], self._layout.audio_tokens * self.channels[1], patches

    def clips(self, index: torch.Tensor | slice) -> Tokens:
        rows = range(self._count)[index] if isinstance(index, slice) else index.tolist()
        whole = Tokens(*(torch.empty(shape) for shape in self._layout.shapes(len(rows)).values()))
        for place, row in enumerate(rows):
            # all files but the last have as many clips
            number, within = divmod(row, self._per_shard)
            shard = self._shard(number)
            for name, into in whole._asdict().items():
                # of the mapped file one clip is read, and becomes float32 as it is put in its place
                into[place] = shard.get_slice(name)[within]
        return whole

    def shards(self) -> Iterator[Tokens]:
        """All clips, a shard at a time, as stored."""
        for number in range(len(self._shards)):
            yield Tokens(*(self._shard(number).get_tensor(stream) for stream in Tokens._fields))

    def coarse(self, side: int) -> "MappedTokens":
        return self._view(f"coarse{side}", self._layout.coarse(side), lambda shard: shard.coarse(side))

    def pooled(self) -> "MappedTokens":
        return self._view("pooled", self._layout.pooled(), Tokens.pooled)

    def _view(self, name: str, layout: Layout, of: Callable[[Tokens], Tokens]) -> "MappedTokens":
        """Its numbers are those that the tokens would give in memory: of halves where they would stay so."""
        # `run_task` asks again of the view that `run_tasks` has made
        if layout == self._layout:
            return self
        if self._views is None:
            raise ValueError(f"{name} of a view: ask the store for it")
        if name not in self._made:
            half, folder = stays_half(self._count, self.sizes), self._views / name
            # the others wait, for hours if need be
            with alone([folder], patience=math.inf):
                sums = self._made_already(folder)
                # none, or one that was killed in the making, whose files are written over
                if sums is None:
                    sums = {}
                    for number, shard in enumerate(self.shards()):
                        file = f"{number:05d}.safetensors"
                        part = of(shard if half else Tokens(*(stream.float() for stream in shard)))
                        sums[file] = write_tensors(folder / file, part._asdict())
                    # last: a view without it does not count
                    write_sealed(folder / "index.json", {"shards": sums})
                    # of a store that stood here before: nothing has its digest any more
                    for other in self._views.parent.iterdir():
                        if other != self._views:
                            shutil.rmtree(other, ignore_errors=True)  # another process may drop it too
            # outside the lock, for a finished view does not change
            files = {folder / file: expected for file, expected in sums.items()}
            dtype = "F16" if half else "F32"
            self._made[name] = MappedTokens(layout, self._count, self._per_shard, files, None, dtype=dtype)
        return self._made[name]

    @staticmethod
    def _made_already(folder: Path) -> dict[str, str] | None:
        """Checksums of a view's files; None of one that is not finished, or whose index is damaged."""
        try:
            return read_sealed(folder / "index.json")["shards"]
        # a missing file is refused like a damaged one
        except (ValueError, KeyError):
            return None
