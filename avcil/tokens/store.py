"""The feature store: tokens of every clip, computed once, in memory-mapped safetensors shards.

    store/header.json      encoder, revision and checksum of its weights, how clips are read, layout of their tokens,
                           clip ids in order, clips a shard
    store/00000.safetensors, ...   visual [n,L,S,D], audio [n,A,D'], similarity [n,L,S], all float16
    store/00000.json       checksum of that shard, what it was made from, clips that could not be used and why
    store/index.json       checksum of each shard, quarantined clips with reasons; written last
    .store.views/          beside it, coarser or pooled tokens of a store that was mapped (avcil/tokens/mapped.py)

A shard is written whole or not at all: what was killed goes on after its last shard. Each JSON file holds its own
digest. A shard is compared with its checksum before any token of it is used, and made again if it differs when
extraction is run.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import PositiveInt, TypeAdapter, ValidationError

from avcil.base.device import CPU, free
from avcil.base.files import digest, file_digest, json_bytes, read_sealed, write_sealed, write_tensors
from avcil.tokens.mapped import MappedTokens as MappedTokens
from avcil.tokens.mapped import StoreError as StoreError
from avcil.tokens.mapped import stays_half
from avcil.tokens.tokens import Layout, Tokens, TokenSource


class Header(NamedTuple):
    """What a store is of. Two stores with equal headers hold the same features of the same clip ids."""

    encoder: str
    revision: str
    checksum: str
    reading: dict
    layout: Layout
    clip_ids: list[str]
    clips_per_shard: PositiveInt

    def as_json(self) -> dict:
        # through JSON and back, so that it can be compared with what a file gives
        return json.loads(json.dumps(self._asdict() | {"layout": self.layout._asdict()}))

    @property
    def shards(self) -> list[list[str]]:
        """The clips of each shard."""
        size = self.clips_per_shard
        return [self.clip_ids[start : start + size] for start in range(0, len(self.clip_ids), size)]


_HEADER = TypeAdapter(Header)


def _sealed(file: Path) -> dict:
    try:
        return read_sealed(file)
    except ValueError as error:
        raise StoreError(str(error)) from None


def load_header(store: Path) -> Header:
    """Raises StoreError for a damaged header, or one of an older version."""
    try:
        return _HEADER.validate_python(_sealed(store / "header.json"))
    except ValidationError:
        raise StoreError(f"{store}: of an older version; delete the folder and run the extraction") from None


def cost(layout: Layout, clips: int) -> str:
    """What a store will take, and what it would take with fewer patches; to be read before extraction starts."""
    lines = [f"{layout.clip_bytes / 1e6:.2f} MB a clip, {clips * layout.clip_bytes / 1e9:.2f} GB for {clips} clips"]
    # fewer patches are worth a word only above 100 GB
    if clips * layout.clip_bytes > 1e11:
        for side in (7, 4):
            fewer = layout._replace(patches=min(side**2, layout.patches))
            lines.append(f"with patches: {side}, {clips * fewer.clip_bytes / 1e9:.2f} GB")
    return "; ".join(lines)


def open_store(store: Path, header: Header, *, replace: bool = False) -> None:
    """Begin a store, or go on with one. Raises StoreError if other features are there or the disk is too small.

    replace: start over where other features are, or a header that is damaged.
    """
    file, wanted = store / "header.json", header.as_json()
    # what is not there yet contradicts nothing
    stored = wanted
    if file.exists():
        try:
            stored = _sealed(file)
        except StoreError:
            if not replace:
                raise
            # what a damaged header was of is not known: it goes like a store of other features
            stored = {}
    if stored != wanted:
        if not replace:
            changed = [key for key, value in wanted.items() if stored.get(key) != value]
            raise StoreError(f"{store}: holds other features ({', '.join(changed)} differ); delete the folder")
        for path in store.iterdir():  # not the folder, which this process may hold (avcil/base/alone.py)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # shards that are there need no more room
    written = sum(shard.stat().st_size for shard in store.glob("*.safetensors"))
    needed = max(0, len(header.clip_ids) * header.layout.clip_bytes - written)
    # of the nearest folder that is there, which the store itself need not be, and before hours of encoding
    free = shutil.disk_usage(next(p for p in store.absolute().parents if p.exists())).free
    if needed > free:
        sizes = f"{needed / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free"
        raise StoreError(
            f"{store}: {sizes} ({cost(header.layout, len(header.clip_ids))}); average patches or make room"
        )
    # over an equal one, too: older ones have no digest
    write_sealed(file, wanted)


def _files(store: Path, number: int) -> tuple[Path, Path]:
    return store / f"{number:05d}.safetensors", store / f"{number:05d}.json"


def _note(store: Path, number: int) -> dict | None:
    """What is known of a shard; None if it is missing, or its note is damaged: then it is made again."""
    tensors, note = _files(store, number)
    if not (note.exists() and tensors.exists()):
        return None
    try:
        content = read_sealed(note)
    except ValueError:
        return None
    # a digest only says that nothing changed since, not that this version wrote it
    whole = content.keys() == {"checksum", "source", "quarantined"} and isinstance(content["quarantined"], dict)
    return content if whole else None


def stale_shards(store: Path, sources: list[str]) -> dict[int, str]:
    """Numbers of the shards that are missing, damaged, or not made from what ``sources`` say, each with its source."""
    stale = {}
    for number, source in enumerate(sources):
        note = _note(store, number)
        # the shard's digest last, for that reads all of it
        if note is None or note["source"] != source or file_digest(_files(store, number)[0]) != note["checksum"]:
            stale[number] = source
    return stale


def write_shard(store: Path, number: int, tensors: dict[str, torch.Tensor], bad: dict[str, str], source: str) -> None:
    """The note comes last: a shard counts once it is there. Until all are, the store has no index."""
    file, note = _files(store, number)
    # the index first: while a shard is replaced nobody is to read the store
    for stale in (store / "index.json", note):
        stale.unlink(missing_ok=True)
    written = write_tensors(file, tensors)
    write_sealed(note, {"checksum": written, "source": source, "quarantined": bad})


def quarantined(store: Path, numbers: Iterable[int]) -> dict[str, str]:
    """Unusable clips of the shards of those numbers, with reasons."""
    notes = [_note(store, number) for number in numbers]
    # a shard that is not there yet has no note
    return {clip: reason for note in notes if note for clip, reason in note["quarantined"].items()}


def finish(store: Path, header: Header) -> dict[str, str]:
    """Write the index of a store whose shards are all there; returns its quarantined clips with reasons."""
    sums: dict[str, str] = {}
    bad: dict[str, str] = {}
    for number in range(len(header.shards)):
        file, note = _files(store, number)[0], _note(store, number)
        # an index of a part would be taken for the whole
        if note is None:
            raise StoreError(f"{file}: missing; run the extraction again, it goes on where it stopped")
        sums[file.name] = note["checksum"]
        bad |= note["quarantined"]
    own = {"header.json", "index.json", *sums, *(f"{Path(name).stem}.json" for name in sums)}
    for path in store.iterdir():
        if path.name not in own:
            # of an older layout, or half written: DVC would take it for a result
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_sealed(store / "index.json", {"shards": sums, "quarantined": bad})
    return bad


class Store(NamedTuple):
    """An open store: header, quarantined clips, digest of its index, and all tokens."""

    header: Header
    quarantined: dict[str, str]
    digest: str
    tokens: TokenSource


def read_store(store: Path, *, encoder: str | None = None, verify: bool = False, room: int | None = None) -> Store:
    """Open a store. Its tokens are read as float32; if that takes more than 2 GiB, as stored; if that
    takes more than ``room`` bytes (by default half of what this process may take), they are mapped. Which of these it
    is changes no number of theirs.

    Peak memory is one copy and one shard. verify: compare all shards with their checksums now, not only those that are
    read now. Raises StoreError for an unfinished or damaged store, or one of another encoder than ``encoder``.
    """
    index = store / "index.json"
    if not store.is_dir():
        raise StoreError(f"{store}: no such feature store; run the extraction, or mend the name of the tokens")
    if not index.exists():
        raise StoreError(f"{store}: unfinished; run the extraction again, it goes on where it stopped")
    header = load_header(store)
    if encoder is not None and header.encoder != encoder:
        raise StoreError(f"{store}: features of encoder `{header.encoder}`, not `{encoder}`; run the extraction")
    content, count = _sealed(index), len(header.clip_ids)
    names = [_files(store, number)[0].name for number in range(len(header.shards))]
    # as in `_note`: intact, it may still be of another form
    whole = content.keys() == {"shards", "quarantined"} and all(isinstance(part, dict) for part in content.values())
    # sorted, as JSON has them: behind 99999 names are in another order than numbers
    if not whole or [*content["shards"]] != sorted(names):
        raise StoreError(f"{index}: lists other shards than those of the header; delete it and run the extraction")
    # of all checksums, so that with other tokens checkpoints have another origin and views another folder
    sums, stamp = {store / name: content["shards"][name] for name in names}, digest(json_bytes(content))
    # beside it: `finish` and DVC know what belongs in the store itself
    views = store.with_name(f".{store.name}.views") / stamp
    mapped = MappedTokens(header.layout, count, header.clips_per_shard, sums, views)
    # as stored: float32 is twice that, but only up to 2 GiB (`HALF_ABOVE`)
    fits = count * header.layout.clip_bytes <= (free(CPU) // 2 if room is None else room)
    # read into memory, each shard is compared anyway
    if verify and not fits:
        mapped.verify()
    tokens = _together(mapped.shards(), count) if fits else mapped
    return Store(header, content["quarantined"], stamp, tokens)


def _together(shards: Iterable[Tokens], count: int) -> Tokens:
    """The tokens of ``count`` clips from those of each shard."""
    whole: list[torch.Tensor] = []
    start = 0
    for shard in shards:
        if not whole:
            # made whole and filled shard by shard, so that there is never a second copy. None: as stored
            dtype = None if stays_half(count, shard.sizes) else torch.float32
            whole = [s.new_empty(count, *s.shape[1:], dtype=dtype) for s in shard]
        for into, part in zip(whole, shard, strict=True):
            into[start : start + len(part)] = part
        start += len(shard.audio)
    return Tokens(*whole)
