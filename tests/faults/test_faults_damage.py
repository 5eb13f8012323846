"""A bit that flips in what is read back is noticed, and named; what was written before there were digests is read."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import readers
import torch

from avcil.base import files
from avcil.base.files import check_seal, read_sealed, seal_of, write_json, write_sealed
from avcil.encoders.prior import load_prior
from avcil.learn.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result, save_task
from avcil.tokens.manifest import ManifestError, read_manifest, read_orders, write_manifest, write_orders
from avcil.tokens.regions import read_regions
from avcil.tokens.store import (
    Header,
    StoreError,
    finish,
    load_header,
    open_store,
    read_store,
    stale_shards,
    write_shard,
)
from avcil.tokens.tokens import Layout
from conftest import ROOT

CHECKPOINT = Checkpoint({"w": torch.randn(40)}, {"sums": torch.randn(5)}, ["a", "b"], ["clip1"], {"seed": 0})
RESULT = TaskResult(1, [0.5, 0.25], [4, 4], None, None, {"clip1": 0, "clip2": 1}, 10, 20)
HEADER = Header("mini", "1", "abc", {"fps": 4.0}, Layout(2, 4, 3, 8, 8), ["x", "y"], 2)


@pytest.fixture
def task(tmp_path):
    save_task(tmp_path / "task0", CHECKPOINT, RESULT)
    return tmp_path / "task0"


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    open_store(folder, HEADER)
    zeros = {"visual": torch.zeros(2, 2, 4, 8), "audio": torch.zeros(2, 3, 8), "similarity": torch.zeros(2, 2, 4)}
    write_shard(folder, 0, {name: value.half() for name, value in zeros.items()}, {}, "source")
    finish(folder, HEADER)
    return folder


def _flips(path):
    """The file with one bit flipped, at places all over it."""
    whole = path.read_bytes()
    for place in {*range(0, len(whole), max(1, len(whole) // 150)), len(whole) - 1}:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        path.write_bytes(changed)
        yield place
    path.write_bytes(whole)


def _same(one, other) -> bool:
    return json.dumps(one, default=lambda tensor: tensor.tolist()) == json.dumps(other, default=lambda t: t.tolist())


@pytest.mark.parametrize("name", ["tensors.safetensors", "checkpoint.json"])
def test_a_bit_in_a_checkpoint_is_noticed(task, name):
    assert _same(load_checkpoint(task), CHECKPOINT)
    refused = 0
    for place in _flips(task / name):
        try:
            assert _same(load_checkpoint(task), CHECKPOINT), f"another checkpoint by a bit of byte {place}"
        except CheckpointError as error:
            assert str(task) in str(error) and "delete" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 100
    assert _same(load_checkpoint(task), CHECKPOINT)


def test_a_bit_in_a_result_is_noticed(task):
    refused = 0
    for place in _flips(task / "result.json"):
        try:
            assert load_result(task) == RESULT, f"another result by a bit of byte {place}"
        except ValueError as error:
            assert str(task / "result.json") in str(error) and "delete its folder" in str(error)
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_a_bit_in_a_header_is_noticed(store):
    refused = 0
    for place in _flips(store / "header.json"):
        try:
            assert load_header(store) == HEADER, f"another header by a bit of byte {place}"
        except StoreError as error:
            assert str(store) in str(error) and "delete" in str(error) and "\n" not in str(error)
            with pytest.raises(StoreError):
                open_store(store, HEADER)
            refused += 1
    assert refused > 100
    assert read_store(store, verify=True).header == HEADER


@pytest.mark.parametrize("room", [None, 0], ids=["in memory", "mapped"])
@pytest.mark.parametrize("name", ["00000.safetensors", "index.json"])
def test_a_bit_in_a_store_is_noticed_before_its_tokens_are_used(store, name, room):
    def tokens():
        return read_store(store, room=room).tokens.clips(torch.arange(2))

    whole, refused = tokens(), 0
    for place in _flips(store / name):
        try:
            read = tokens()
            assert all(map(torch.equal, whole, read)), f"other tokens by a bit of byte {place}"
        except StoreError as error:
            assert str(store) in str(error) and "delete" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("shards", [7, [["a"]], ["a"], "a", None])
def test_an_index_of_another_form_is_refused(store, shards):
    write_sealed(store / "index.json", {"shards": shards, "quarantined": {}})
    with pytest.raises(StoreError, match=r"index\.json: lists other shards than those of the header; delete it"):
        read_store(store)


@pytest.mark.parametrize("name", ["00000.safetensors", "00000.json"])
def test_a_damaged_shard_is_made_again(store, name):
    assert stale_shards(store, ["source"]) == {}
    for place in _flips(store / name):
        assert stale_shards(store, ["source"]) == {0: "source"}, f"taken for whole with a bit of byte {place} changed"
    (store / name).write_bytes(b"")
    assert stale_shards(store, ["source"]) == {0: "source"}


def test_a_damaged_header_is_replaced_only_where_asked(store):
    (store / "header.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        open_store(store, HEADER)
    open_store(store, HEADER, replace=True)
    assert [path.name for path in store.iterdir()] == ["header.json"] and load_header(store) == HEADER


def test_a_bit_in_a_manifest_or_an_order_is_noticed(tmp_path):
    rows = [(f"{s}{c}", f"{s}{c}.mp4", c, s) for s in ("train", "test") for c in ("cat", "car", "bar")]
    table = pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])
    write_manifest(tmp_path / "manifest.csv", table)
    write_orders(tmp_path / "orders.json", {0: ["cat", "bar"], 1: ["bar", "cat"]})
    assert read_manifest(tmp_path / "manifest.csv").equals(table)
    assert read_orders(tmp_path / "orders.json") == {0: ["cat", "bar"], 1: ["bar", "cat"]}
    for name, read in (("manifest.csv", read_manifest), ("orders.json", read_orders)):
        for file in (tmp_path / name, seal_of(tmp_path / name)):
            for place in _flips(file):
                if file.suffix == ".sha256" and place >= 64:
                    continue  # the name, which only sha256sum reads
                with pytest.raises(ManifestError, match=rf"{name}: another digest than in {name}\.sha256; .* delete"):
                    read(tmp_path / name)


def test_a_digest_is_never_older_than_its_file(tmp_path, monkeypatch):
    path = tmp_path / "orders.json"
    write_orders(path, {0: ["a"]})
    assert subprocess.run(["sha256sum", "-c", "orders.json.sha256"], cwd=tmp_path, capture_output=True).returncode == 0
    monkeypatch.setattr(files, "write_bytes", lambda path, content: path.write_bytes(content) and 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed once the file is written
        write_orders(path, {0: ["b"]})
    assert read_orders(path) == {0: ["b"]}


@pytest.mark.parametrize("change", [{"classes": ["a", {}]}, {"classes": True}, {"fusion": 300 * "a"}], ids=str)
def test_a_forged_learner_is_refused_in_one_line(tmp_path, change):
    """Its digest fits, its values do not."""
    readers._learner(tmp_path)
    file = tmp_path / "learner/config.json"
    config = read_sealed(file)
    part = config["method"] if "fusion" in change else config
    part |= change
    write_sealed(file, config)
    with pytest.raises(ValueError, match=r"learner/config\.json: of another version .*; save it anew") as error:
        readers._read_learner(tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.slow
def test_bits_of_an_h5_end_in_one_line_or_not_at_all(tmp_path):
    """It has no digest of its own: some change a value. What HDF5 stumbles over is named."""
    (tmp_path / "in").mkdir()
    file, *_ = readers._official(tmp_path / "in")
    whole, refused = file.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 100):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        file.write_bytes(changed)
        try:
            readers._import_official(tmp_path / "in")
        except ValueError as error:
            assert str(error).startswith(f"{file}: ") and str(error).isprintable()
            refused += 1
    assert refused > 3


def test_regions_are_compared_with_the_checksums_of_their_file(tmp_path):
    path = tmp_path / "regions.npz"
    grid = np.random.default_rng(0).integers(0, 255, (3, 2, 4, 4), np.uint8)
    np.savez_compressed(path, clip_id=np.array(["a", "b", "c"]), region=grid)
    assert (read_regions(path, ["c", "a"]) == grid[[2, 0]]).all()
    with pytest.raises(ValueError, match=r"regions\.npz: no regions of these clips \(lacks 'd'\)"):
        read_regions(path, ["d"])
    refused = 0
    for place in _flips(path):
        try:
            assert (read_regions(path, ["c", "a"]) == grid[[2, 0]]).all(), f"other regions by a bit of byte {place}"
        except ValueError as error:
            assert str(error).startswith(f"{path}: no regions") and "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_a_prior_is_compared_with_its_digest(tmp_path, params):
    for name in ("random.safetensors", "random.safetensors.sha256"):
        shutil.copy(ROOT / "prior" / name, tmp_path / name)
    path = tmp_path / "random.safetensors"
    load_prior(path, params.encoder)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"random\.safetensors: another digest than in random\.safetensors\.sha256"):
        load_prior(path, params.encoder)


def test_every_released_prior_has_its_digest():
    for path in (ROOT / "prior").glob("*.safetensors"):
        assert seal_of(path).is_file()
        check_seal(path)


def test_what_has_no_digest_is_read(task, store):
    for path in (task / "checkpoint.json", task / "result.json", store / "header.json"):
        content = json.loads(path.read_text())
        write_json(path, {key: value for key, value in content.items() if key not in ("digest", "tensors")})
    assert _same(load_checkpoint(task), CHECKPOINT) and load_result(task) == RESULT and load_header(store) == HEADER
    open_store(store, HEADER)
    assert "digest" in json.loads((store / "header.json").read_text()) and read_store(store).header == HEADER


def test_nothing_but_the_digest_is_added(tmp_path):
    value = {"b": {2: 0.1, 10: -0.0}, "a": [1e-300, "é", None, True]}
    write_sealed(tmp_path / "sealed.json", value)
    write_json(
        tmp_path / "plain.json", value | {"digest": json.loads((tmp_path / "sealed.json").read_text())["digest"]}
    )
    sealed, plain = (json.loads((tmp_path / name).read_text()) for name in ("sealed.json", "plain.json"))
    assert sealed == plain and read_sealed(tmp_path / "sealed.json") == json.loads(json.dumps(value))
