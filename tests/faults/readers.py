"""Every file that avcil reads: a sound one, small, and what reads it as commands do."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from media import tone, write

from avcil.base.files import write_sealed
from avcil.comparison.sweep import read_run
from avcil.encoders.prior import load_prior
from avcil.encoders.pth import read_pth
from avcil.extraction.decoding import decode
from avcil.learn.checkpoint import Checkpoint, load_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result, save_task
from avcil.learner.learner import Learner
from avcil.params import load
from avcil.tokens.manifest import SPLITS, Media, read_manifest, read_order, read_orders, write_manifest, write_orders
from avcil.tokens.regions import read_regions
from avcil.tokens.store import Header, finish, open_store, quarantined, read_store, stale_shards, write_shard
from avcil.tokens.tokens import Layout, Tokens
from avcil.workshop.builders.__main__ import BUILDERS
from avcil.workshop.import_tokens import import_tokens
from avcil.workshop.npydict import StoredArray, index_npy
from avcil.workshop.official import import_features
from avcil.workshop.own.clips import classes_by_task
from conftest import ROOT

CLASSES, SLOTS, PATCHES, CHANNELS = 2, 8, 4, 6
READING = {"frames": 8, "fps": 4.0, "size": 32, "sample_rate": 16000, "streams": ["visual", "audio"], "silence": 1e-4}


class Reader(NamedTuple):
    """name; share: of all inputs; make: the sound files in a folder, those to damage; read: what is read there, as a
    value that JSON can hold. checked: another value than the sound one is damage that nobody noticed."""

    name: str
    share: int
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    checked: bool = False


def plain(value: object) -> object:
    """Tensors and arrays by their digest, and tables, as what JSON can hold."""
    if isinstance(value, StoredArray):
        return plain(value.read()) if value.dtype is not None else "objects"
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value)).hexdigest()]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, pd.DataFrame):
        return value.to_dict("list")
    if isinstance(value, Tokens):
        return [plain(stream) for stream in value]
    return str(value)


def _rows() -> pd.DataFrame:
    rows = [(f"{s}{c}{i}", f"clips/{s}{c}{i}.mp4", f"class {c}", s) for s in SPLITS for c in range(2) for i in range(3)]
    return pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])


def _bare_manifest(folder: Path) -> list[Path]:
    _rows().assign(start=1.5).to_csv(folder / "manifest.csv", index=False)
    return [folder / "manifest.csv"]


def _splits(folder: Path) -> list[Path]:
    write_manifest(folder / "manifest.csv", _rows())
    write_orders(folder / "orders.json", {0: ["class 0", "class 1"], 1: ["class 1", "class 0"]})
    return [folder / "manifest.csv", folder / "orders.json"]


def _labels(folder: Path) -> list[Path]:
    _rows()[["path", "label", "split"]].assign(start="1.5", video="v").to_csv(folder / "labels.csv", index=False)
    return [folder / "labels.csv"]


def _order(folder: Path) -> list[Path]:
    (folder / "order.json").write_text(json.dumps(["class 0", "class 1"]))
    return [folder / "order.json"]


def _params(folder: Path) -> list[Path]:
    shutil.copytree(ROOT / "protocols", folder / "protocols")
    for name in ("params.yaml", "search.yaml"):
        shutil.copy(ROOT / name, folder)
    return [folder / name for name in ("params.yaml", "search.yaml", "protocols/vggsound100_disjoint.yaml")]


def _annotations(name: str, folder: Path) -> list[Path]:
    ave = "".join(f"Cat&abcdefghij{i}&good&0&10\n" for i in range(6))
    rows = "".join(f"abcdefghij{i},{i},cat,train\nbbcdefghij{i},{i},cat,test\n" for i in range(6))
    kinetics = "label,youtube_id,time_start,time_end,split\n"
    kinetics += "".join(f"tapping pen,abcdefghij{i},0,10,train\n" for i in range(6))
    fsd = "filename,start_time,labels\n" + "".join(f"soundscape_{i}.jams,{i},[{i}]\n" for i in range(6))
    texts = {
        "ave": {f"{n}.txt": ave for n in ("Annotations", "trainSet", "valSet", "testSet")},
        "vggsound": {"vggsound.csv": rows},
        "kinetics_sounds": {f"{split}.csv": kinetics.replace("train\n", f"{split}\n") for split in SPLITS},
        "fsd_mix_clips": {f"{p}.csv": fsd for p in ("base_train", "base_val", "base_test", "novel_val", "novel_test")},
    }
    for file, text in texts[name].items():
        (folder / file).write_text(text)
    return [folder / file for file in texts[name]]


def _read_annotations(name: str, folder: Path) -> object:
    where = folder / "vggsound.csv" if name == "vggsound" else folder
    return BUILDERS[name](folder / "labels.csv" if name == "folder" else where).clips


def _arrays() -> dict[str, np.ndarray]:
    rng, table = np.random.default_rng(0), _rows()
    count = len(table)
    return {
        "visual": rng.normal(size=(count, SLOTS, PATCHES, CHANNELS)).astype("f4"),
        "audio": rng.normal(size=(count, CHANNELS)).astype("f4"),
        "loudness": rng.random((count, SLOTS)).astype("f4"),
        "region": rng.random((count, SLOTS, PATCHES)).astype("f4"),
        "label": table.label.str[-1].astype(int).to_numpy(),
        "split": table.split.map(SPLITS.index).to_numpy(),
        "clip_id": table.clip_id.to_numpy(str),
        "order": np.array(["class 0", "class 1"]),
    }


def _npz(folder: Path) -> list[Path]:
    np.savez_compressed(folder / "tokens.npz", **_arrays())
    return [folder / "tokens.npz"]


def _safetensors(folder: Path) -> list[Path]:
    arrays = _arrays()
    texts = {name: json.dumps(arrays.pop(name).tolist()) for name in ("clip_id", "order")}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    (folder / "tokens.safetensors").write_bytes(safetensors.torch.save(tensors, texts))
    return [folder / "tokens.safetensors"]


def _import(name: str, folder: Path) -> object:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    unusable = import_tokens(folder / name, out)
    store = read_store(out / "features/imported")
    return [unusable, store.tokens, read_manifest(out / "manifest.csv"), read_order(out / "order.json")]


def _official(folder: Path) -> list[Path]:
    table, arrays = _rows().drop(columns="path"), _arrays()
    members = {
        s: {c: table.clip_id[(table.split == s) & (table.label == f"class {c}")].tolist() for c in range(2)}
        for s in SPLITS
    }
    contents = {
        "category_encode_dict": {"class 0": 0, "class 1": 1},
        "all_classId_vid_dict": members,
        "audio_pretrained_feature_dict": dict(zip(table.clip_id, arrays["audio"], strict=True)),
    }
    for name, content in contents.items():
        np.save(folder / f"{name}.npy", content)
    with h5py.File(folder / "visual_features.h5", "w") as file:
        for clip, value in zip(table.clip_id, arrays["visual"], strict=True):
            file[clip] = value.reshape(-1, CHANNELS)
    return [folder / "visual_features.h5", *(folder / f"{name}.npy" for name in contents)]


def _import_official(folder: Path) -> object:
    shutil.rmtree(folder.parent / "out", ignore_errors=True)
    report = import_features(folder, folder.parent / "out")
    return [report._asdict(), read_store(folder.parent / "out/features/official").tokens]


def _npy(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    value = {"a": rng.normal(size=(4, 3)), "b": {"c": [1, 2.5, "text", None]}, "d": rng.integers(9, size=5)}
    np.save(folder / "dict.npy", value)
    return [folder / "dict.npy"]


def _store(folder: Path) -> list[Path]:
    table, store = _rows(), folder / "store"
    layout = Layout(2, PATCHES, 3, CHANNELS, CHANNELS)
    header = Header("mini", "1", "abc", {"fps": 4.0}, layout, table.clip_id.tolist(), 10)
    open_store(store, header)
    rng = torch.Generator().manual_seed(0)
    for number, ids in enumerate(header.shards):
        tokens = {n: torch.randn(shape, generator=rng).half() for n, shape in layout.shapes(len(ids)).items()}
        write_shard(store, number, tokens, {}, "source")
    finish(store, header)
    return [store / name for name in ("header.json", "index.json", "00000.safetensors", "00001.safetensors")]


def _notes(folder: Path) -> list[Path]:
    _store(folder)
    return [folder / "store" / name for name in ("00000.json", "00001.json", "00000.safetensors")]


def _resumed(folder: Path) -> object:
    """Damaged shards are made again: then nothing of them is used."""
    stale = stale_shards(folder / "store", ["source", "source"])
    return [{}, quarantined(folder / "store", set(range(2)) - stale.keys())]


def _result() -> TaskResult:
    return TaskResult(1, [0.5, 0.25], [4, 4], None, None, {"clip1": 0, "clip2": 1}, 10, 20)


def _task(folder: Path) -> list[Path]:
    state = Checkpoint({"w": torch.arange(40.0)}, {"sums": torch.arange(5.0)}, ["a", "b"], ["clip1"], {"seed": 0})
    save_task(folder / "task0", state, _result())
    return [folder / "task0" / name for name in ("checkpoint.json", "tensors.safetensors", "result.json")]


def _run(folder: Path) -> list[Path]:
    content = {"origin": {"seed": 0}, "results": [_result()._asdict()], "seconds": 1.5}
    write_sealed(folder / "seed0.json", content)
    return [folder / "seed0.json"]


def _regions(folder: Path) -> list[Path]:
    grid = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 4), np.uint8)
    np.savez_compressed(folder / "regions.npz", clip_id=np.array(["a", "b", "c"]), region=grid)
    return [folder / "regions.npz"]


def _prior(folder: Path) -> list[Path]:
    names = ("random.safetensors", "random.safetensors.sha256")
    return [Path(shutil.copy(ROOT / "prior" / name, folder)) for name in names][:1]


def _foreign_prior(folder: Path) -> list[Path]:
    return [Path(shutil.copy(ROOT / "prior/random.safetensors", folder))]


def _learner(folder: Path) -> list[Path]:
    learner = Learner(params=load(ROOT / "params.yaml"), root=ROOT)
    rng = torch.Generator().manual_seed(0)
    shapes = Layout(2, PATCHES, 3, CHANNELS, CHANNELS).shapes(6)
    tokens = Tokens(*(torch.randn(shape, generator=rng) for shape in shapes.values()))
    learner.encoder = None
    learner.learn(tokens, ["a", "a", "a", "b", "b", "b"])
    learner.save(folder / "learner")
    return [folder / "learner" / name for name in ("config.json", "model.safetensors")]


def _read_learner(folder: Path) -> object:
    learner = Learner.load(folder / "learner")
    return [learner.classes, learner.counts, learner.checkpoint.readout, learner._parts]


def _pth(folder: Path) -> list[Path]:
    torch.save({"model": {"w": torch.arange(9.0)}, "epoch": 3}, folder / "weights.pth")
    return [folder / "weights.pth"]


def _classes(folder: Path) -> list[Path]:
    write_sealed(folder / "classes.json", classes_by_task(folder / "classes.json", list("abcd"), 2, 5)._asdict())
    shutil.copy(folder / "classes.json", folder / "kept.json")
    return [folder / "classes.json"]


def _film(suffix: str, folder: Path) -> list[Path]:
    times = None if suffix == "wav" else [k / 4 for k in range(8)]
    return [write(folder / f"clip.{suffix}", times, sound=tone(440, 2, 16000))]


def _decoded(suffix: str, folder: Path) -> object:
    reading = READING | ({"streams": ["audio"]} if suffix == "wav" else {})
    (answer,) = decode([Media(folder / f"clip.{suffix}")], reading, 1)
    if isinstance(answer, str):
        raise ValueError(answer)
    return [answer.frames, answer.waveform]


def _config():
    return load(ROOT / "params.yaml").encoder


READERS = [
    Reader("params.yaml, protocols", 2, _params, lambda f: load(f / "params.yaml").model_dump()),
    Reader("manifest.csv, one's own", 8, _bare_manifest, lambda f: read_manifest(f / "manifest.csv")),
    Reader("manifest.csv, orders.json", 8, _splits,
           lambda f: [read_manifest(f / "manifest.csv"), read_orders(f / "orders.json")], True),
    Reader("order.json", 4, _order, lambda f: read_order(f / "order.json")),
    Reader("labels.csv", 8, _labels, partial(_read_annotations, "folder")),
    *(Reader(f"annotations: {name}", 5, partial(_annotations, name), partial(_read_annotations, name))
      for name in ("ave", "vggsound", "kinetics_sounds", "fsd_mix_clips")),
    Reader("tokens.npz", 5, _npz, partial(_import, "tokens.npz")),
    Reader("tokens.safetensors", 5, _safetensors, partial(_import, "tokens.safetensors")),
    Reader("released .npy and .h5", 5, _official, _import_official),
    Reader(".npy dictionary", 10, _npy, lambda f: index_npy(f / "dict.npy")),
    Reader("store, read", 8, _store, lambda f: (lambda s: [s.header, s.quarantined, s.tokens])(read_store(f / "store")),
           True),
    Reader("store, gone on with", 5, _notes, _resumed, True),
    Reader("checkpoint and result", 8, _task, lambda f: [load_checkpoint(f / "task0"), load_result(f / "task0")], True),
    Reader("run of a sweep", 4, _run, lambda f: read_run(f / "seed0.json"), True),
    Reader("regions.npz", 5, _regions, lambda f: read_regions(f / "regions.npz", ["c", "a"])),
    Reader("prior", 1, _prior, lambda f: load_prior(f / "random.safetensors", _config())[0].state_dict(), True),
    Reader("prior without digest", 1, _foreign_prior,
           lambda f: load_prior(f / "random.safetensors", _config())[0].state_dict()),
    Reader("learner's folder", 3, _learner, _read_learner, True),
    Reader("weights.pth", 4, _pth, lambda f: read_pth(str(f / "weights.pth"), terms="")),
    Reader("classes.json", 4, _classes, lambda f: classes_by_task(f / "classes.json", list("abcd"), 2, 5), True),
    Reader("film .mp4", 2, partial(_film, "mp4"), partial(_decoded, "mp4")),
    Reader("film .mkv", 1, partial(_film, "mkv"), partial(_decoded, "mkv")),
    Reader("sound .wav", 1, partial(_film, "wav"), partial(_decoded, "wav")),
]  # fmt: skip
