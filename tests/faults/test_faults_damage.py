"""A bit that flips in what is read back is noticed, and named; what was written before there were digests is read."""

import json

import pytest
import torch

from avcil.base.files import read_sealed, write_json, write_sealed
from avcil.learn.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import load_result, save_task
from avcil.tokens.store import Header, StoreError, finish, load_header, open_store, read_store, write_shard
from avcil.tokens.tokens import Layout

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
