"""Extraction on a Ray cluster (`compute.engine: ray`), or on one that is started here.

The same shards as on one machine, byte for byte: a shard is a whole unit of work, made by the same function. The
store's folder, and the clips, must be reachable from every node under the same paths. Needs the extra `avcil[ray]`.
"""

from collections.abc import Callable, Iterator

from avcil.base.ray import connected
from avcil.base.refusal import Refusal
from avcil.encoders.base import Encoder
from avcil.extraction.features import Work, make_here
from avcil.tokens.manifest import Media
from avcil.tokens.store import StoreError


class _Maker:
    """An actor: holds an encoder, makes shards."""

    def __init__(self, load: Callable[[], Encoder], work: Work):
        self.encoder, self.work = load(), work

    def __call__(self, row: dict) -> dict:
        number = int(row["number"][0])
        # this shard alone: `make_here` decodes the clips of all that it is given
        work = self.work._replace(stale={number: self.work.stale[number]})
        try:
            return {"number": list(make_here(self.encoder, work)), "refusal": [""]}
        # as a word, for of what is raised here Ray makes an error of its own, of many lines
        except (Refusal, OSError) as error:
            return {"number": [number], "refusal": [str(error)]}


def make(load: Callable[[], Encoder], actors: int, gpus: float, encoder: Encoder, work: Work) -> Iterator[int]:
    """`avcil.extraction.features.make_here` by up to ``actors`` encoders at once, each with its own decoding processes
    and ``gpus``. load: makes the same encoder as ``encoder``, in every actor.

    Raises StoreError for what a shard is refused for there.
    """
    ray = connected()
    # an actor may have another working directory
    media = {clip: Media(path.absolute(), start) for clip, (path, start) in work.media.items()}
    work = work._replace(media=media, store=work.store.absolute())
    if not work.stale:
        return
    # a block a shard, made without a task of its own: the actors may have all processors
    rows = ray.data.from_items([{"number": number} for number in work.stale], override_num_blocks=len(work.stale))
    made = rows.map_batches(
        _Maker,
        fn_constructor_kwargs={"load": load, "work": work},
        # a shard a call, which is counted as soon as it is written
        batch_size=1,
        concurrency=(1, actors),
        # the decoders are processes of the actor's own, and take the processors
        num_cpus=max(1, work.workers),
        num_gpus=gpus,
    )
    for row in made.iter_rows():
        if row["refusal"]:
            raise StoreError(row["refusal"])
        yield row["number"]
