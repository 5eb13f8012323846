"""What all imports of tokens share: whatever they are read from, they become a manifest, a class order and a store."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from torch import Tensor

from avcil.base.alone import alone
from avcil.base.files import digest, file_digest, json_bytes, write_with_seal
from avcil.base.progress import progress
from avcil.base.refusal import Refusal
from avcil.tokens.manifest import manifest_bytes
from avcil.tokens.store import Header, cost, finish, open_store, stale_shards, write_shard
from avcil.tokens.tokens import Layout

SHARD_BYTES = 1 << 26  # a shard stands in memory about three times while it is written
BEYOND = "NaN, or a value beyond float16 (65504)"


class TokensError(Refusal):
    """Tokens that cannot be imported; one line that names the file or array, what is wrong and the way out."""


def within_half(values: np.ndarray) -> np.ndarray:
    """Whether all numbers of each clip [n,...] are finite in float16: [n]."""
    # NaN compares false and infinity is beyond, so that neither passes
    return (np.abs(values) <= np.finfo(np.float16).max).reshape(len(values), -1).all(1)


def _begin(destination: Path, header: Header, contents: dict[str, bytes]) -> None:
    """Begin the store, and write manifest and order. Raises TokensError where others stand there, of which another
    encoder has tokens, and as `open_store` does; nothing is changed then."""
    others = [store.name for store in (destination / "features").glob("[!.]*") if store.name != header.encoder]
    for name, content in contents.items():
        file = destination / name
        if others and file.exists() and file.read_bytes() != content:
            way_out = "choose another destination, or delete its features"
            raise TokensError(f"{file}: of other clips, labels or order, and `{others[0]}` has their tokens; {way_out}")
    # before the manifest is written over, and after the check: a store that is begun counts as one that has tokens
    open_store(destination / "features" / header.encoder, header)
    for name, content in contents.items():
        write_with_seal(destination / name, content)


def write_import(
    destination: Path,
    table: pd.DataFrame,
    order: list[str],
    layout: Layout,
    shard: Callable[[int, int], tuple[dict[str, Tensor], dict[str, str]]],
    *,
    encoder: str,
    revision: str,
    reading: dict,
    files: list[Path],
) -> dict[str, str]:
    """Write manifest, class order, and those shards of features/<encoder> that are not there yet.

    Args:
        table: clip_id, label and split of all clips; paths are placeholders.
        shard: tokens of the clips in [first, last), and the reasons why some are zero.
        encoder, revision, reading: what the store says of itself.
        files: what the tokens are read from: with others, the store is refused.

    Prints what the store will take. Returns unusable clips with reasons: they stay in the manifest and are quarantined
    in the store. Raises TokensError for a shard without any usable clip, or where another encoder's tokens of other
    clips stand at ``destination``; StoreError for another import under that name, or too little space.
    """
    # a clip that is larger than a shard has one of its own
    store, size = destination / "features" / encoder, max(1, SHARD_BYTES // layout.clip_bytes)
    # of all bytes: what was mended in a file of the same size is to be read again
    source = digest(" ".join(map(file_digest, files)).encode())
    header = Header(encoder, revision, source, reading, layout, table.clip_id.tolist(), size)
    print(f"{store}: {cost(layout, len(table))}", flush=True)
    # all of the destination, since manifest and order are written beside the store
    with alone([destination]):
        paths = table.clip_id.map(lambda clip: f"clips/{quote(clip, safe='')}.mp4")  # whatever an id has in it
        manifest = manifest_bytes(table.assign(path=paths)[["clip_id", "path", "label", "split"]])
        _begin(destination, header, {"manifest.csv": manifest, "order.json": json_bytes(order)})
        shards = header.shards
        # one source for every shard, the files that all of them are read from
        stale = stale_shards(store, [header.checksum] * len(shards))
        for number, source in progress(stale.items(), desc=encoder, unit="shard"):
            ids = shards[number]
            tensors, unusable = shard(number * size, number * size + len(ids))
            # single bad clips are quarantined; where a whole shard is bad, something is wrong with the file
            if len(unusable) == len(ids):
                raise TokensError(
                    f"no usable clip from `{ids[0]}` to `{ids[-1]}`: {unusable[ids[0]]}; write them again"
                )
            write_shard(store, number, tensors, unusable, source)
        return finish(store, header)
