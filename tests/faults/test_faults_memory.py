"""Memory: a store is never copied whole for a row that looks at means."""

import torch

from avcil.tokens.store import Header, finish, open_store, read_store, write_shard
from avcil.tokens.tokens import Layout, Tokens


def _store(folder):
    header = Header("toy", "1", "abc", {}, Layout(2, 4, 3, 8, 8), [f"clip{n}" for n in range(7)], 2)
    open_store(folder, header)
    for number, ids in enumerate(header.shards):
        tensors = {name: torch.randn(shape).half() for name, shape in header.layout.shapes(len(ids)).items()}
        write_shard(folder, number, tensors, {}, "source")
    finish(folder, header)
    return folder


def test_means_are_taken_a_shard_at_a_time(tmp_path, monkeypatch):
    store, pooled, sizes = _store(tmp_path / "store"), Tokens.pooled, []
    whole = pooled(read_store(store).tokens)

    def counted(tokens):
        sizes.append(len(tokens.audio))
        return pooled(tokens)

    monkeypatch.setattr(Tokens, "pooled", counted)
    means = read_store(store, room=0).tokens.pooled().clips(torch.arange(7))
    assert sizes == [2, 2, 2, 1]
    for mean, expected in zip(means, whole, strict=True):
        torch.testing.assert_close(mean, expected, rtol=2e-3, atol=2e-3)  # half of half precision


def test_a_mapped_store_lives_on_where_its_files_are_taken_away(tmp_path):
    """As by a pipeline that runs beside the playground."""
    store = _store(tmp_path / "store")
    before = read_store(store).tokens.clips(torch.arange(7))
    mapped = read_store(store, room=0).tokens
    mapped.verify()
    for file in store.iterdir():
        file.unlink()
    assert all(map(torch.equal, mapped.clips(torch.arange(7)), before))
