"""From a benchmark's clips to the tokens of an encoder: what the features notebook calls, and a command of its own.

    python -m avcil.extraction.extract BENCHMARK ENCODER [--sound-only]

for a benchmark in imports/ (avcil/workshop/builders) and an encoder of params.yaml: `mini`, `mini-1`, `mini-2`,
`mini-frames`, `random`, or one of `encoders`. It writes imports/BENCHMARK/features/ENCODER; a protocol reads them with
``tokens: ENCODER``. Killed, it goes on after its last whole shard.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from avcil.encoders.base import Encoder, Reading
from avcil.encoders.load import load_published
from avcil.encoders.prior import load_prior, released
from avcil.extraction import features
from avcil.extraction.clips import STREAMS, Stream
from avcil.extraction.decoding import unread
from avcil.params import ParameterError, Params, load
from avcil.params.section import nearest
from avcil.tokens.manifest import Media, media, read_manifest
from avcil.tokens.store import Header, cost, quarantined

PRIORS = Path("prior")


def load_encoder(name: str, params: Params, priors: Path = PRIORS) -> Encoder:
    """The encoder of that name; `mini`, `mini-1` and so on are the released priors, all others are on `compute.device`.

    Raises ParameterError for an unknown name, WeightsError or ImportError as `load_published` does.
    """
    if name in params.own_encoders:
        # not moved to `compute.device`: own encoders are small, and stay on the CPU
        encoder, _ = load_prior(released(name, priors), params.encoder)
        return encoder.watching(Reading(**params.film.model_dump()))
    if name not in params.encoders:
        raise ParameterError(f"encoders: no `{name}`{nearest(name, [*params.own_encoders, *params.encoders])}")
    return load_published(params.encoders[name], params.compute.device, params.guide_of(name))


def extract(
    name: str, clips: dict[str, Media], params: Params, store: Path, *, replace: bool = False,
    streams: tuple[Stream, ...] = STREAMS, priors: Path = PRIORS,
) -> Header:  # fmt: skip
    """`avcil.extraction.features.extract`, or the same on Ray, as `compute` says; prints beforehand what the
    store takes, and what of the clips is not read. priors: folder of the own encoders' weights."""
    compute = params.compute
    encoder = load_encoder(name, params, priors)
    # said before anything is written, for it may be terabytes
    print(f"{name}: {cost(encoder.layout, len(clips))}", flush=True)
    if what := unread(clips.values(), encoder.reading.seconds):
        print(f"{name}: {what}; list what comes later as clips with a `start`", flush=True)
    make = features.make_here
    if compute.engine == "ray":
        from avcil.extraction import cluster

        # each actor loads the weights itself, so that they travel to none
        load = partial(load_encoder, name, params, priors.absolute())
        # a GPU an actor where `cuda` is named; `auto` asks Ray for none
        make = partial(cluster.make, load, compute.actors, float(compute.device.startswith("cuda")))
    return features.extract(
        encoder, name, clips, params.features, store, workers=compute.workers, streams=streams, replace=replace,
        make=make,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m avcil.extraction.extract", description="Extract a benchmark's tokens."
    )
    parser.add_argument("benchmark", help="a folder of imports/")
    parser.add_argument("encoder", help="mini, random, or a name under `encoders` in params.yaml")
    parser.add_argument("--sound-only", action="store_true", help="clips have no pictures")
    given = parser.parse_args(arguments)
    folder = Path("imports") / given.benchmark
    streams: tuple[Stream, ...] = ("audio",) if given.sound_only else STREAMS
    try:
        params = load(Path("params.yaml"))
        table = read_manifest(folder / "manifest.csv")
        # tasks that do not divide the classes are refused before the long work, not after it
        params.check_classes(given.benchmark, table.label.nunique())
        store = folder / "features" / given.encoder
        header = extract(given.encoder, media(table, folder), params, store, streams=streams)
    # refusals are one line; what else is raised is a mistake in the code, and keeps its traceback
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))
    # of all shards, also those that an earlier run had made
    unusable = quarantined(store, range(len(header.shards)))
    print(f"{store}: {len(table)} clips, {len(unusable)} unusable")
    for clip, reason in unusable.items():
        print(f"  {clip}: {reason}")


if __name__ == "__main__":
    main()
