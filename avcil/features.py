"""The feature store: tokens of every clip, computed once, in memory-mapped safetensors shards.

    store/header.json      encoder and its checksum, film, clip ids in order, clips a shard
    store/00000.safetensors, ...   visual [n,L,S,D], audio [n,A,D], similarity [n,L,S], all float16
    store/00000.json       digest of that shard's clip files, and the clips that could not be read, with reasons
    store/index.json       checksum of each shard, quarantined clips with reasons; written last

A shard is written whole or not at all, so a killed extraction goes on after its last shard; a shard whose clip files
have changed since is encoded again.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open

from avcil.clips import ClipError, read_clip
from avcil.config import Section
from avcil.encoders.base import Encoder
from avcil.files import digest, write_json, write_tensors
from avcil.progress import progress
from avcil.tokens import Tokens

HALF_ABOVE = 1 << 31  # bytes that tokens would take as float32; above, they stay in half precision


class FeatureConfig(Section):
    """Extraction."""

    clips_per_shard: int = Field(gt=0)
    quarantine_share: float = Field(ge=0, le=1, description="largest share of unusable clips that is tolerated")


class StoreError(ValueError):
    """A feature store that cannot be used; the message names the file and the way out."""


class Header(NamedTuple):
    """What a store is of. Two stores with equal headers hold the same features."""

    encoder: str
    checksum: str
    film: dict
    clip_ids: list[str]
    clips_per_shard: int


def checksum(encoder: torch.nn.Module) -> str:
    """Digest of an encoder's weights and buffers."""
    parts = [name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(encoder.state_dict().items())]
    return digest(b"".join(parts))


def _digest_files(paths: list[Path]) -> str:
    return digest(b"".join(digest(p.read_bytes()).encode() if p.is_file() else b"missing" for p in paths))


def _read(path: Path, film: dict):
    try:
        return read_clip(path, **film)
    except ClipError as error:
        return error


def extract(
    encoder: Encoder,
    name: str,
    clips: dict[str, Path],
    film: dict,
    config: FeatureConfig,
    store: Path,
    *,
    replace: bool = False,
) -> Header:
    """Encode ``clips`` (clip_id to file) into ``store``; what is there already is kept.

    An unusable clip is quarantined: its tokens are zero and `index.json` gives the reason.

    Raises:
        StoreError: if the store holds other features (and ``replace`` does not say to start it over), features are not
            finite, or more than ``config.quarantine_share`` of the clips are unusable.
    """
    header = Header(name, checksum(encoder), film, list(clips), config.clips_per_shard)
    if not holds(store, header):
        if not replace:
            raise StoreError(f"{store}: holds features of another encoder, film or clip list; delete the folder")
        shutil.rmtree(store)
    allowed = config.quarantine_share * len(clips)

    def shard(chunk: list[str], quarantined: dict[str, str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        decoded = list(pool.map(_read, [clips[i] for i in chunk], [film] * len(chunk)))
        bad = {i: str(c) for i, c in zip(chunk, decoded, strict=True) if isinstance(c, ClipError)}
        if len(quarantined) + len(bad) > allowed:
            count = len(quarantined) + len(bad)
            message = f"{count} unusable clips, {int(allowed)} allowed (features.quarantine_share); the first: "
            raise StoreError(message + next(iter((quarantined | bad).values())))
        return _encode(encoder, chunk, decoded), bad

    with ThreadPoolExecutor(2) as pool:
        write_store(store, header, lambda chunk: _digest_files([clips[i] for i in chunk]), shard)
    return header


def holds(store: Path, header: Header) -> bool:
    """Whether ``store`` is empty or was begun with the same header."""
    head = store / "header.json"
    return not head.exists() or json.loads(head.read_text()) == json.loads(json.dumps(header._asdict()))


def write_store(
    store: Path,
    header: Header,
    source: Callable[[list[str]], str],
    shard: Callable[[list[str], dict[str, str]], tuple[dict[str, torch.Tensor], dict[str, str]]],
) -> dict[str, str]:
    """Write what is missing of a store; returns its quarantined clips with reasons.

    Args:
        source: of the clips of a shard, a digest of what they are made from; a shard of another one is made anew.
        shard: of the clips of a shard, and the clips quarantined so far, the tensors and the clips it quarantines.
    """
    write_json(store / "header.json", header._asdict())
    ids, size = header.clip_ids, header.clips_per_shard
    quarantined: dict[str, str] = {}
    sums: dict[str, str] = {}
    with progress(total=len(ids), desc=header.encoder, unit="clip") as bar:
        for number, start in enumerate(range(0, len(ids), size)):
            chunk = ids[start : start + size]
            tensors_file, note_file = store / f"{number:05d}.safetensors", store / f"{number:05d}.json"
            digested = source(chunk)
            note = json.loads(note_file.read_text()) if note_file.exists() and tensors_file.exists() else None
            if note is None or note["source"] != digested:
                tensors, bad = shard(chunk, quarantined)
                note = {"source": digested, "quarantined": bad}
                write_tensors(tensors_file, tensors)
                write_json(note_file, note)  # last: a shard counts once its note is there
            quarantined |= note["quarantined"]
            sums[tensors_file.name] = digest(tensors_file.read_bytes())
            bar.update(len(chunk))
    own = {"header.json", *sums, *(f"{Path(name).stem}.json" for name in sums)}
    for path in [*store.glob("*.safetensors"), *store.glob("*.json")]:
        if path.name not in own:
            path.unlink()  # of an older layout: DVC would take it for a result
    write_json(store / "index.json", {"shards": sums, "quarantined": quarantined})
    return quarantined


def _encode(encoder: Encoder, ids: list[str], decoded: list) -> dict[str, torch.Tensor]:
    usable = [clip for clip in decoded if not isinstance(clip, ClipError)]
    if not usable:
        raise StoreError(f"no usable clip in a whole shard, `{ids[0]}` to `{ids[-1]}`")
    frames = torch.from_numpy(np.stack([clip.frames for clip in usable]))
    waveform = torch.from_numpy(np.stack([clip.waveform for clip in usable]))
    tokens = encoder.encode(frames, waveform)
    rows = [i for i, clip in enumerate(decoded) if not isinstance(clip, ClipError)]
    shard = {}
    for name, values in tokens._asdict().items():
        finite = values.flatten(1).isfinite().all(1)
        if not finite.all():
            raise StoreError(f"clip `{ids[rows[int((~finite).nonzero()[0, 0])]]}`: the encoder gave NaN in {name}")
        full = torch.zeros(len(ids), *values.shape[1:], dtype=torch.float16)
        full[rows] = values.half()
        shard[name] = full
    return shard


class Store(NamedTuple):
    """An open store: header, quarantined clips, and all tokens."""

    header: Header
    quarantined: dict[str, str]
    tokens: Tokens


def read_store(store: Path, *, encoder: str | None = None, verify: bool = False) -> Store:
    """Read all tokens, as float32 or, beyond ``HALF_ABOVE`` bytes, as stored. Peak memory is one copy and one shard.

    Raises StoreError for an unfinished or damaged store, or one of another encoder than ``encoder``.
    """
    index = store / "index.json"
    if not index.exists():
        raise StoreError(f"{store}: unfinished; run the features stage again, it goes on where it stopped")
    header = Header(**json.loads((store / "header.json").read_text()))
    if encoder is not None and header.encoder != encoder:
        raise StoreError(f"{store}: features of encoder `{header.encoder}`, not `{encoder}`; run the features stage")
    content = json.loads(index.read_text())
    tokens, start = None, 0
    for name, expected in content["shards"].items():
        if verify and digest((store / name).read_bytes()) != expected:
            raise StoreError(f"{store / name}: checksum differs; delete the file and run the features stage")
        with safe_open(store / name, framework="pt") as shard:
            parts = Tokens(*(shard.get_tensor(field) for field in Tokens._fields))
        tokens = tokens or _room(parts, len(header.clip_ids))
        for whole, part in zip(tokens, parts, strict=True):
            whole[start : start + len(part)] = part
        start += len(parts.visual)
    if start != len(header.clip_ids):
        raise StoreError(f"{store}: {start} clips, not the {len(header.clip_ids)} of its header; delete the folder")
    return Store(header, content["quarantined"], tokens)


def _room(first: Tokens, count: int) -> Tokens:
    """Unset tokens for ``count`` clips like those of the first shard."""
    half = count * sum(4 * part[0].numel() for part in first) > HALF_ABOVE
    return Tokens(*(part.new_empty(count, *part.shape[1:], dtype=None if half else torch.float32) for part in first))
