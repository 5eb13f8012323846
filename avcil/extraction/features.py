"""Extraction: clips decoded by worker processes, encoded in batches, kept in a feature store.

A shard whose clip files have changed is encoded again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from avcil.base.alone import alone
from avcil.base.code import code_of
from avcil.base.files import digest
from avcil.base.progress import progress
from avcil.encoders.base import Encoder
from avcil.extraction.clips import STREAMS, Clip, Stream
from avcil.extraction.decoding import decode
from avcil.params.extraction import FeatureConfig
from avcil.tokens.manifest import Media
from avcil.tokens.store import Header, StoreError, finish, open_store, quarantined, stale_shards, write_shard
from avcil.tokens.tokens import Layout, Tokens

# to hash a large corpus whole takes longer than to decode it (LOG.md)
_EDGE = 1 << 16  # bytes


READING = ("encoders/base.py", "encoders/inputs.py", "extraction/*.py", "tokens/tokens.py")
"""The code that makes tokens of clips, beside an encoder's own: tokens of an older one are not taken for these."""


def checksum(encoder: Encoder) -> str:
    """Digest of an encoder's weights and buffers."""
    total = hashlib.sha256()
    # by name, so that the order in which a model lists its parts does not count
    for name, tensor in sorted(encoder.state_dict().items()):
        total.update(name.encode())
        # as bytes, for NumPy has no bfloat16; flat, for a single number cannot be viewed as several bytes
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()[:16]


def header_of(
    encoder: Encoder, name: str, clip_ids: list[str], config: FeatureConfig, *, streams: tuple[Stream, ...] = STREAMS
) -> Header:
    """The header of the store that ``extract`` writes with the same arguments."""
    layout = encoder.layout
    for stream in [stream for stream in STREAMS if stream not in streams]:
        layout = layout.without(stream)
    # these decide which tokens are zero: with others it is another store
    zero = {"streams": list(streams), "silence": config.silence, "incomplete": config.incomplete}
    reading = encoder.reading._asdict() | zero
    # of its file and its guide's alone among the encoders: a change of another family's is none of these tokens
    families = filter(None, (encoder, getattr(encoder, "guide", None)))
    own = dict.fromkeys(f"encoders/{type(family).__module__.rpartition('.')[2]}.py" for family in families)
    revision = f"{encoder.revision}+{digest(code_of((*own, *READING)))}"
    return Header(name, revision, checksum(encoder), reading, layout, list(clip_ids), config.clips_per_shard)


def fingerprint(files: list[Path]) -> str:
    """Digest of each file's size, first and last 64 KiB: all of a small file, of a large one what a new cut changes."""
    total = hashlib.sha256()
    for path in files:
        if not path.is_file():
            # decoding names it; where it turns up later, this differs, and its shard is made again
            total.update(b"missing")
            continue
        size = path.stat().st_size
        total.update(str(size).encode())
        with path.open("rb") as file:
            total.update(file.read(_EDGE))
            if size > _EDGE:
                # no byte twice where the file has less than two such parts
                file.seek(max(_EDGE, size - _EDGE))
                total.update(file.read())
    return total.hexdigest()[:16]


def make_shard(
    encoder: Encoder, ids: list[str], layout: Layout, decoded: Iterator[Clip | str], batch: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tokens of the clips ``ids``, taken from ``decoded``, and why some are zero.

    Raises StoreError for tokens that are not finite in float16.
    """
    # what cannot be used stays zero, so that each clip keeps its row
    shard = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in layout.shapes(len(ids)).items()}
    bad: dict[str, str] = {}
    for start in range(0, len(ids), batch):
        clips = {row: next(decoded) for row in range(start, min(start + batch, len(ids)))}
        # a text in a clip's place is the reason why it cannot be used
        bad |= {ids[row]: clip for row, clip in clips.items() if isinstance(clip, str)}
        usable = {row: clip for row, clip in clips.items() if isinstance(clip, Clip)}
        # clips that lack a stream are encoded apart from those that have it
        for streams in dict.fromkeys(clip.streams for clip in usable.values()):
            rows = [row for row, clip in usable.items() if clip.streams == streams]
            tokens = _encode(encoder, [usable[row] for row in rows])
            # of what is absent the zeros stay, and there is a similarity of both streams alone
            for name in (*streams, "similarity") if streams == STREAMS else streams:
                _put(shard, name, getattr(tokens, name), rows, ids)
    return shard, bad


def _put(shard: dict[str, torch.Tensor], name: str, values: torch.Tensor, rows: list[int], ids: list[str]) -> None:
    # rounded where it is, so that half the bytes travel
    values = values.half().cpu()
    # after rounding, which makes infinite what is more than float16 holds
    finite = values.flatten(1).isfinite().all(1)
    if not finite.all():
        clip = ids[rows[int((~finite).nonzero()[0, 0])]]
        raise StoreError(f"clip `{clip}`: the encoder gave NaN, or more than float16 holds, in {name}")
    # the assignment below would spread a single slot, patch or token over all of them
    if values.shape[1:] != shard[name].shape[1:]:
        expected = f"{tuple(values.shape[1:])}, not the {tuple(shard[name].shape[1:])} of its layout"
        raise StoreError(f"the encoder gave {name} tokens of shape {expected}")
    shard[name][rows] = values


def make_shards(
    encoder: Encoder, shards: list[list[str]], media: dict[str, Media], header: Header, batch: int, workers: int
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, str]]]:
    """`make_shard` of each of ``shards``, with clips decoded ahead. The similarity is that of the encoder's ``guide``,
    if it has one and there are sound and picture; what that one cannot use cannot be used."""
    clips = [media[clip] for ids in shards for clip in ids]
    # nothing is decoded yet: these are generators
    decoded, guide, theirs = decode(clips, header.reading, workers), getattr(encoder, "guide", None), iter(())
    # where a stream is absent there is no similarity to take
    if header.reading["streams"] != list(STREAMS):
        guide = None
    if guide is not None:
        # every clip once more, in the size and at the rate that the guide reads, which needs both streams of it
        theirs = decode(clips, header.reading | guide.reading._asdict() | {"incomplete": "quarantine"}, workers)
    for ids in shards:
        tensors, bad = make_shard(encoder, ids, header.layout, decoded, batch)
        if guide is not None:
            other, missed = make_shard(guide, ids, guide.layout, theirs, batch)
            whole = [bool(v.any() and a.any()) for v, a in zip(tensors["visual"], tensors["audio"], strict=True)]
            # nothing is missed in a clip that is known to be incomplete, and nothing guides it
            missed = {clip: missed[clip] for clip, there in zip(ids, whole, strict=True) if there and clip in missed}
            other["similarity"][~torch.tensor(whole)] = 0
            # where neither can use a clip, the encoder's own reason stays
            bad, tensors["similarity"] = missed | bad, other["similarity"]
            unusable = [clip in bad for clip in ids]
            # tokens of clips that the guide alone refuses: an unusable clip is zero in every stream
            for stream in tensors.values():
                stream[unusable] = 0
        yield tensors, bad


def _encode(encoder: Encoder, clips: list[Clip]) -> Tokens:
    def stack(parts: list[np.ndarray | None]) -> torch.Tensor | None:
        # all of these clips have a stream, or none has
        there = [part for part in parts if part is not None]
        return torch.from_numpy(np.stack(there)) if there else None

    return encoder.encode(stack([clip.frames for clip in clips]), stack([clip.waveform for clip in clips]))


class Work(NamedTuple):
    """What is missing in a store: ``stale`` shards by number, each with its source; and how it is to be made."""

    header: Header
    stale: dict[int, str]
    media: dict[str, Media]
    store: Path
    batch: int
    workers: int


def make_here(encoder: Encoder, work: Work) -> Iterator[int]:
    """Write the shards in this process, decoding ahead of the encoder; gives the number of each one that is there."""
    shards = [work.header.shards[number] for number in work.stale]
    made = make_shards(encoder, shards, work.media, work.header, work.batch, work.workers)
    for (number, source), (tensors, bad) in zip(work.stale.items(), made, strict=True):
        write_shard(work.store, number, tensors, bad, source)
        yield number


def fingerprints(header: Header, media: dict[str, Media]) -> list[str]:
    """Of each shard, what its clips are made from."""
    sources = []
    for ids in header.shards:
        # parts of one file differ by nothing but where they begin
        starts = json.dumps([media[clip].start for clip in ids])
        sources.append(digest((fingerprint([media[clip].path for clip in ids]) + starts).encode()))
    return sources


def extract(
    encoder: Encoder,
    name: str,
    media: dict[str, Media],
    config: FeatureConfig,
    store: Path,
    *,
    workers: int = 2,
    streams: tuple[Stream, ...] = STREAMS,
    replace: bool = False,
    make: Callable[[Encoder, Work], Iterator[int]] = make_here,
) -> Header:
    """Encode the clips of ``media`` into ``store``; what is there already is kept.

    An unusable clip is quarantined: its tokens are zero and `index.json` gives the reason. So is one that lacks a
    stream, unless ``config.incomplete`` is `keep`: then the tokens of that stream, and the similarity, are zero.

    Args:
        workers: processes that decode; the store's bytes do not depend on them.
        streams: what clips have; an absent stream becomes one zero token.
        replace: start a store of other features over.
        make: writes the missing shards, and gives the number of each; `avcil.extraction.cluster.make` does it on Ray.

    Raises:
        StoreError: if the store holds other features, the disk is too small, features are not finite, or more than
            ``config.quarantine_share`` of the clips are unusable.
        BlockingIOError: if another process extracts into ``store``.
    """
    with alone([store]):
        header = header_of(encoder, name, list(media), config, streams=streams)
        # other features, and a disk that is too small, are refused before any file is read
        open_store(store, header, replace=replace)
        shards, stale = header.shards, stale_shards(store, fingerprints(header, media))
        there = set(range(len(shards))) - stale.keys()
        # what an earlier attempt found unusable counts as well
        unusable, allowed = quarantined(store, there), int(config.quarantine_share * len(media))
        done = sum(len(shards[number]) for number in there)
        with progress(total=len(media), desc=name, unit="clip", initial=done) as bar:
            for number in make(encoder, Work(header, stale, media, store, config.batch, workers)):
                unusable |= quarantined(store, [number])
                # after each shard, not at the end: the rest of a long extraction would be for nothing
                if len(unusable) > allowed:
                    message = f"{len(unusable)} unusable clips, {allowed} allowed (features.quarantine_share)"
                    raise StoreError(f"{message}; the first: {next(iter(unusable.values()))}")
                bar.update(len(shards[number]))
        # the index comes last, and without one no store is read
        finish(store, header)
    return header
