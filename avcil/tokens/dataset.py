"""From files to the one object that training reads: tokens, labels in class order, splits, and sounding regions."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from avcil.tokens.manifest import SPLITS, ManifestError, class_index, read_manifest, read_orders
from avcil.tokens.regions import patch_share, read_regions
from avcil.tokens.store import Store, StoreError, read_store
from avcil.tokens.tokens import TokenSource

AT_ONCE = 256  # clips whose tokens are looked at together


class Dataset(NamedTuple):
    """tokens of all N clips; labels [N], positions in ``order``; rows of each split; share [N,L,S] or None: the visible
    share of the sounding object in each patch, which only the evaluation of attention reads; incomplete [N] or None:
    clips that extraction has kept although they lack their sound or their picture, whose tokens are zero."""

    clip_ids: list[str]
    tokens: TokenSource
    labels: Tensor
    splits: dict[str, Tensor]
    order: list[str]
    encoder: str
    share: Tensor | None
    incomplete: Tensor | None = None

    def rows(self, split: str, first: int, last: int) -> Tensor:
        """Rows of a split whose class is in [first, last)."""
        rows = self.splits[split]
        return rows[(self.labels[rows] >= first) & (self.labels[rows] < last)]

    def whole(self, rows: Tensor) -> Tensor:
        """Those of ``rows`` that lack no stream."""
        return rows if self.incomplete is None else rows[~self.incomplete[rows]]


def load_datasets(
    manifest: Path,
    orders: Path,
    store: Path,
    seeds: list[int],
    *,
    regions: Path | None = None,
    room: int | None = None,
) -> dict[int, Dataset]:
    """For each seed the clips of ``manifest`` with the tokens of ``store``, labelled in that seed's class order.

    The tokens are read once and shared. ``regions`` (see avcil/world/sounding_objects.py) is read for the evaluation of
    attention only. Quarantined clips are left out. ``room``: bytes that tokens may take, as in `read_store`. Raises
    ManifestError or StoreError when the files do not belong together.
    """
    table = read_manifest(manifest)
    content = read_store(store, room=room)
    # in the same order, too: a row of the table is a row of the tokens
    if list(table.clip_id) != content.header.clip_ids:
        raise StoreError(f"{store}: made from another manifest than {manifest}; run the extraction")
    share = None
    if regions is not None:
        grid = read_regions(regions, list(table.clip_id))
        _, slots, patches, _ = content.tokens.shape
        # 255: all of the cell is covered
        share = torch.from_numpy(patch_share(grid.astype(np.float32) / 255, slots, round(patches**0.5)))
    # they keep their rows, so that rows of clips and of tokens are the same
    usable = ~table.clip_id.isin(content.quarantined).to_numpy()
    # quarantined clips are in no split, so that nothing is learnt from them or measured on them
    splits = {s: torch.from_numpy(np.flatnonzero((table.split == s).to_numpy() & usable)) for s in SPLITS}
    # what a checkpoint says that it was learnt from: other weights or other clips are another origin
    encoder = f"{content.header.encoder}:{content.header.checksum}:{content.digest}"
    incomplete = incomplete_of(content)
    by_seed, datasets = read_orders(orders), {}
    if lacking := [seed for seed in seeds if seed not in by_seed]:
        raise ManifestError(f"{orders}: no class order of seed {lacking[0]}; run the stage that makes it again")
    for seed in seeds:
        order = by_seed[seed]
        labels = torch.from_numpy(class_index(table, order))
        ids = list(table.clip_id)
        datasets[seed] = Dataset(ids, content.tokens, labels, splits, order, encoder, share, incomplete)
    return datasets


def incomplete_of(store: Store) -> Tensor | None:
    """Which clips of a store lack one of its two streams, [N]: all tokens of it are zero. None where none can."""
    reading, tokens = store.header.reading, store.tokens
    # of a store of one stream alone no clip lacks the other
    if reading.get("incomplete") != "keep" or len(reading["streams"]) < 2:
        return None
    # a part at a time, for they may be more than memory holds
    parts = (tokens.clips(some) for some in torch.arange(tokens.shape[0]).split(AT_ONCE))
    return torch.cat([~(part.visual.flatten(1).any(1) & part.audio.flatten(1).any(1)) for part in parts])
