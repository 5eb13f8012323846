"""A world a seed: what else than its classes, scenes and prior a result may hang on, a mean over seeds should hold.

World 0 is the embedded benchmark. World ``s`` has appearances, sounds and scenes drawn from seed ``s``, and is heard
and seen by the released prior number ``s`` modulo how many there are; under `random` by its untrained twin, and under
`mini-frames` by the prior that was taught without the renderer's regions.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from avcil.base.code import code_of
from avcil.base.files import digest
from avcil.comparison.sweep import Source
from avcil.encoders.prior import released
from avcil.extraction.extract import PRIORS, extract
from avcil.extraction.features import READING
from avcil.params import Params
from avcil.tokens.manifest import class_order, media, read_manifest, write_orders
from avcil.world.sounding_objects import Change, write_corpus

# the code that makes a world: a change of any statement draws worlds anew, even one that changes no byte
MAKING = ("encoders/mini.py", "encoders/prior.py", "world/*.py", *READING)


class Place(NamedTuple):
    """Where a benchmark's manifest and regions are, and the stores of its tokens, one a name.

    chained: whether `lll_prior` is learnt in its first setting task by task, by stages of their own (notebook 04).
    """

    folder: Path
    stores: Path
    chained: bool = False


def prior_of(seed: int, params: Params) -> str:
    """Name of the released prior that world ``seed`` is heard and seen by."""
    prior = params.prior.seeds[seed % len(params.prior.seeds)]
    # that of seed 0 is called `mini`, without a number
    return f"mini-{prior}" if prior else "mini"


def seeded(seed: int, params: Params) -> Params:
    """With the classes and scenes of world ``seed``."""
    world = params.world.model_copy(update={"seed": params.world.seed + seed})
    corpus = params.corpus.model_copy(update={"seed": params.corpus.seed + seed})
    return params.model_copy(update={"world": world, "corpus": corpus})


def drawn(
    seed: int,
    worlds: Path,
    params: Params,
    tokens: tuple[str, ...] = ("mini", "random"),
    *,
    change: Change | None = None,
) -> Place:
    """World ``seed`` (1 or more) below ``worlds``: manifest, regions and the named tokens; `mini` is `prior_of` it.

    One that was made by the same code from the same parameters is taken as it is; a killed extraction goes on after its
    last shard. Clips are deleted when their tokens are there. ``change``: what is done to each clip; worlds that are
    changed in another way belong into another folder.
    """
    params = seeded(seed, params)
    # all that decides a clip or its tokens is in the name of the folder, so another choice is another folder
    sections = [params.world, params.corpus, params.film, params.encoder, params.features]
    choices = json.dumps([section.model_dump(mode="json") for section in sections], sort_keys=True).encode()
    weights = b"".join(
        released(prior_of(seed, params) if name == "mini" else name, PRIORS).read_bytes() for name in sorted(tokens)
    )
    folder = worlds / f"{seed}-{digest(code_of(MAKING) + choices + weights)[:12]}"
    # of older code or other parameters; nothing reads it any more
    for stale in worlds.glob(f"{seed}-*"):
        if stale != folder:
            shutil.rmtree(stale)
    if not (folder / "manifest.csv").exists():  # it is written last
        # 0, with which clips are decoded in this process, is no size of a pool of renderers
        workers = max(1, params.compute.workers)
        write_corpus(folder, params.world, params.film, params.corpus, workers=workers, change=change)
    clips = media(read_manifest(folder / "manifest.csv"), folder)
    for name in tokens:
        store = folder / "features" / name
        # clips that are still there were not read to the end
        if (folder / "clips").exists() or not (store / "index.json").exists():
            # rows ask for `mini`, so the store is called that whichever prior made it
            extract(prior_of(seed, params) if name == "mini" else name, clips, params, store)
    read = folder / "read"
    with suppress(FileNotFoundError):  # nothing is extracted from a part of them, if this is killed while they go
        (folder / "clips").rename(read)
    shutil.rmtree(read, ignore_errors=True)
    return Place(folder, folder / "features")


def source_of(place: Place, seed: int, folder: Path) -> Source:
    """The `mini` tokens of a place, its classes in the order of the seed, which is written into ``folder``."""
    # no regions: who scores attention adds them (`beyond.study.source_of`)
    manifest, orders = place.folder / "manifest.csv", folder / f"orders{seed}.json"
    write_orders(orders, {seed: class_order(read_manifest(manifest), seed)})
    return Source(manifest, orders, place.stores / "mini")
