"""The feature store: tokens of every clip, computed once, in memory-mapped safetensors shards.

    store/header.json      encoder, revision and checksum of its weights, how clips are read, layout of their tokens,
                           clip ids in order, clips a shard
    store/00000.safetensors, ...   visual [n,L,S,D], audio [n,A,D'], similarity [n,L,S], all float16
    store/00000.json       checksum of that shard, what it was made from, clips that could not be used and why
    store/index.json       checksum of each shard, quarantined clips with reasons; written last

A shard is written whole or not at all: what was killed goes on after its last shard.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from avcil.encoders.base import Layout
from avcil.files import digest, write_json, write_tensors
from avcil.tokens import Tokens

HALF_ABOVE = 1 << 31  # bytes that tokens would take as float32; above, they stay in half precision


class StoreError(ValueError):
    """A feature store that cannot be used; the message names the file and the way out."""


class Header(NamedTuple):
    """What a store is of. Two stores with equal headers hold the same features of the same clip ids."""

    encoder: str
    revision: str
    checksum: str
    reading: dict
    layout: Layout
    clip_ids: list[str]
    clips_per_shard: int

    def as_json(self) -> dict:
        return json.loads(json.dumps(self._asdict() | {"layout": self.layout._asdict()}))

    @property
    def shards(self) -> list[list[str]]:
        """The clips of each shard."""
        size = self.clips_per_shard
        return [self.clip_ids[start : start + size] for start in range(0, len(self.clip_ids), size)]


def load_header(store: Path) -> Header:
    content = json.loads((store / "header.json").read_text())
    try:
        return Header(**content | {"layout": Layout(**content["layout"])})
    except (TypeError, KeyError):
        raise StoreError(f"{store}: of an older version; delete the folder and run the features stage") from None


def cost(layout: Layout, clips: int) -> str:
    """What a store will take, and what it would take with fewer patches; to be read before extraction starts."""
    lines = [f"{layout.clip_bytes / 1e6:.2f} MB a clip, {clips * layout.clip_bytes / 1e9:.2f} GB for {clips} clips"]
    if clips * layout.clip_bytes > 1e11:
        for side in (7, 4):
            fewer = layout._replace(patches=min(side**2, layout.patches))
            lines.append(f"with patches: {side}, {clips * fewer.clip_bytes / 1e9:.2f} GB")
    return "; ".join(lines)


def open_store(store: Path, header: Header, *, replace: bool = False) -> None:
    """Begin a store, or go on with one. Raises StoreError if other features are there or the disk is too small."""
    head, wanted = store / "header.json", header.as_json()
    begun = json.loads(head.read_text()) if head.exists() else wanted
    if begun != wanted:
        if not replace:
            changed = [key for key, value in wanted.items() if begun.get(key) != value]
            raise StoreError(f"{store}: holds other features ({', '.join(changed)} differ); delete the folder")
        shutil.rmtree(store)
    there = sum(shard.stat().st_size for shard in store.glob("*.safetensors"))
    needed = max(0, len(header.clip_ids) * header.layout.clip_bytes - there)
    free = shutil.disk_usage(next(p for p in store.absolute().parents if p.exists())).free
    if needed > free:
        sizes = f"{needed / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free"
        raise StoreError(
            f"{store}: {sizes} ({cost(header.layout, len(header.clip_ids))}); average patches or make room"
        )
    write_json(head, wanted)


def _files(store: Path, number: int) -> tuple[Path, Path]:
    return store / f"{number:05d}.safetensors", store / f"{number:05d}.json"


def _note(store: Path, number: int) -> dict | None:
    tensors, note = _files(store, number)
    return json.loads(note.read_text()) if note.exists() and tensors.exists() else None


def stale_shards(store: Path, sources: list[str]) -> dict[int, str]:
    """Numbers of the shards that are missing or were not made from what ``sources`` say, each with its source."""
    notes = (_note(store, number) for number in range(len(sources)))
    made_from = [note and note["source"] for note in notes]
    return {n: source for n, source in enumerate(sources) if source != made_from[n]}


def write_shard(store: Path, number: int, tensors: dict[str, torch.Tensor], bad: dict[str, str], source: str) -> None:
    """The note comes last: a shard counts once it is there. Until all are, the store has no index."""
    file, note = _files(store, number)
    for stale in (store / "index.json", note):
        stale.unlink(missing_ok=True)
    written = write_tensors(file, tensors)
    write_json(note, {"checksum": written, "source": source, "quarantined": bad})


def quarantined(store: Path, numbers: Iterable[int]) -> dict[str, str]:
    """Unusable clips of the shards of those numbers, with reasons."""
    notes = [_note(store, number) for number in numbers]
    return {clip: reason for note in notes if note for clip, reason in note["quarantined"].items()}


def finish(store: Path, header: Header) -> dict[str, str]:
    """Write the index of a store whose shards are all there; returns its quarantined clips with reasons."""
    sums, bad = {}, {}
    for number in range(len(header.shards)):
        file, note = _files(store, number)[0], _note(store, number)
        if note is None:
            raise StoreError(f"{file}: missing; run the extraction again, it goes on where it stopped")
        sums[file.name] = note["checksum"]
        bad |= note["quarantined"]
    own = {"header.json", "index.json", *sums, *(f"{Path(name).stem}.json" for name in sums)}
    for path in store.iterdir():
        if path.name not in own:
            path.unlink()  # of an older layout, or half written: DVC would take it for a result
    write_json(store / "index.json", {"shards": sums, "quarantined": bad})
    return bad


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
    header = load_header(store)
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
