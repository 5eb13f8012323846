"""Extraction on a Ray cluster (`compute.engine: ray`), or on one that is started here.

The same shards as on one machine, byte for byte: a shard is a whole unit of work, made by the same function. The
store's folder, and the clips, must be reachable from every node under the same paths. Needs the extra `avcil[ray]`.
"""

from collections.abc import Callable
from pathlib import Path

from avcil.base.alone import alone
from avcil.base.progress import progress
from avcil.base.ray import connected
from avcil.encoders.base import Encoder
from avcil.extraction.decoding import decode
from avcil.extraction.features import begin, check_quarantine, make_shard
from avcil.params.extraction import FeatureConfig
from avcil.tokens.manifest import Media
from avcil.tokens.store import Header, finish, quarantined, write_shard


class _Maker:
    """An actor: holds an encoder, makes shards."""

    def __init__(self, make_encoder: Callable[[], Encoder], header: Header, media: dict[str, Media], batch: int,
                 workers: int, store: Path):  # fmt: skip
        self.encoder, self.header, self.media, self.shards = make_encoder(), header, media, header.shards
        self.batch, self.workers, self.store = batch, workers, store

    def __call__(self, row: dict) -> dict:
        number = int(row["number"][0])
        ids = self.shards[number]
        decoded = decode([self.media[i] for i in ids], self.header.reading, self.workers)
        tensors, bad = make_shard(self.encoder, ids, self.header.layout, decoded, self.batch)
        write_shard(self.store, number, tensors, bad, str(row["source"][0]))
        return {"number": [number]}


def extract(
    encoder: Encoder,
    make_encoder: Callable[[], Encoder],
    name: str,
    media: dict[str, Media],
    config: FeatureConfig,
    store: Path,
    *,
    actors: int,
    workers: int = 2,
    gpus: float = 0,
    streams: tuple[str, ...] = ("visual", "audio"),
    replace: bool = False,
) -> Header:
    """`avcil.extraction.features.extract` by up to ``actors`` encoders at once, each with ``workers`` decoding
    processes.

    Args:
        encoder: says what the store is of.
        make_encoder: makes the same encoder, in every actor.
        gpus: of each actor.
    """
    ray = connected()
    store = store.absolute()
    media = {clip: Media(path.absolute(), start) for clip, (path, start) in media.items()}
    with alone([store]):
        header, stale, unusable = begin(encoder, name, media, config, store, streams=streams, replace=replace)
        # a block a shard, made without a task of its own: the actors may have all processors
        rows = ray.data.from_items(
            [{"number": n, "source": source} for n, source in stale.items()], override_num_blocks=max(1, len(stale))
        )
        given = {"make_encoder": make_encoder, "header": header, "media": media, "batch": config.batch,
                 "workers": workers, "store": store}  # fmt: skip
        made = rows.map_batches(
            _Maker,
            fn_constructor_kwargs=given,
            batch_size=1,
            concurrency=(1, actors),
            num_cpus=max(1, workers),
            num_gpus=gpus,
        )
        if stale:
            with progress(total=len(stale), desc=name, unit="shard") as bar:
                for row in made.iter_rows():
                    unusable |= quarantined(store, [row["number"]])
                    check_quarantine(unusable, header, config)
                    bar.update()
        finish(store, header)
    return header
