"""Where the sounding object is, on patches and slots of any number: against block means of repeated cells."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from avcil.learn.metrics import attention_hit
from avcil.tokens.dataset import load_datasets
from avcil.tokens.manifest import SPLITS
from avcil.tokens.regions import patch_share
from avcil.tokens.store import Header, finish, open_store, write_shard
from avcil.tokens.tokens import Layout


def oracle(regions: np.ndarray, slots: int, side: int) -> np.ndarray:
    """Each cell is repeated until patches and slots end where cells and frames do; then plain means of blocks."""
    *lead, frames, cells, _ = regions.shape
    for axis, (count, parts) in {-3: (frames, slots), -2: (cells, side), -1: (cells, side)}.items():
        regions = np.repeat(regions, math.lcm(count, parts) // count, axis)
    found = np.zeros((*lead, slots, side, side))
    length, high = regions.shape[-3] // slots, regions.shape[-1] // side
    for slot in range(slots):
        for y in range(side):
            for x in range(side):
                block = regions[
                    ...,
                    length * slot : length * (slot + 1),
                    high * y : high * (y + 1),
                    high * x : high * (x + 1),
                ]
                found[..., slot, y, x] = block.mean((-3, -2, -1))
    return found.reshape(*lead, slots, side * side)


# (slots, side); the benchmark's own grid is 24 x 24 cells, here of 8 frames
GRIDS = [(4, 8), (8, 4), (4, 7), (8, 14), (3, 8), (3, 7), (5, 5), (16, 48), (12, 32), (1, 1)]


@pytest.mark.parametrize(("slots", "side"), GRIDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_are_block_means_of_repeated_cells(slots, side, dtype):
    regions = np.random.default_rng(0).random((2, 3, 8, 24, 24)).astype(dtype)
    share = patch_share(regions, slots, side)
    assert share.shape == (2, 3, slots, side * side) and share.dtype == dtype
    np.testing.assert_allclose(share, oracle(regions, slots, side), rtol=1e-5)
    # what is covered in all is covered on any grid
    np.testing.assert_allclose(share.mean((-2, -1)), regions.mean((-3, -2, -1)), rtol=1e-5)


@pytest.mark.parametrize(("slots", "side"), [(4, 8), (4, 7)])
def test_whole_numbers_are_not_cut_off(slots, side):
    regions = np.random.default_rng(0).integers(0, 2, (2, 8, 24, 24)).astype(np.uint8)
    np.testing.assert_allclose(patch_share(regions, slots, side), oracle(regions, slots, side), rtol=1e-5)


def test_a_cell_on_an_edge_counts_by_its_part_in_each_patch():
    # of 3 cells in 2 patches a side, the middle one is halved; so is the middle one of 3 frames in 2 slots
    regions = np.zeros((3, 3, 3))
    regions[1, 0, 1] = 1
    share = patch_share(regions, 2, 2).reshape(2, 2, 2)
    # half a frame of 1.5, of a patch of 1.5 x 1.5 cells half a cell
    np.testing.assert_allclose(share[:, 0], (0.5 / 1.5) * (0.5 / 2.25))
    assert not share[:, 1].any()


@pytest.mark.parametrize(("slots", "side"), [(4, 7), (8, 14), (3, 8)])
def test_attention_is_measured_on_stores_whose_patches_cut_cells(tmp_path, slots, side):
    """From files to a hit: the patch that the object covers most is right, the one it covers least is not."""
    rows = [(f"{s}{c}{i}", f"{s}{c}{i}.mp4", c, s) for s in SPLITS for c in "ab" for i in range(2)]
    table = pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])
    table.to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "orders.json").write_text(json.dumps({"0": ["b", "a"]}))
    regions = np.zeros((len(table), 8, 24, 24), np.uint8)
    for clip, (y, x) in enumerate(np.random.default_rng(0).integers(0, 16, (len(table), 2))):
        regions[clip, :, y : y + 8, x : x + 8] = 255
    # the file's own order is not the manifest's
    np.savez(tmp_path / "regions.npz", clip_id=table.clip_id[::-1].to_numpy(str), region=regions[::-1])
    layout = Layout(slots=slots, patches=side**2, visual_channels=2, audio_tokens=1, audio_channels=2)
    header = Header("toy", "", "0", {}, layout, list(table.clip_id), len(table))
    sizes = {"visual": (slots, side**2, 2), "audio": (1, 2), "similarity": (slots, side**2)}
    open_store(tmp_path / "store", header)
    tokens = {name: torch.zeros(len(table), *size).half() for name, size in sizes.items()}
    write_shard(tmp_path / "store", 0, tokens, {}, "all")
    finish(tmp_path / "store", header)
    data = load_datasets(
        tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path / "store", [0], regions=tmp_path / "regions.npz"
    )[0]
    np.testing.assert_allclose(data.share.numpy(), oracle(regions / 255, slots, side), rtol=1e-5, atol=1e-7)
    temporal = np.full((len(table), slots), 1 / slots)
    for patch, hit in ((data.share.argmax(-1), True), (data.share.argmin(-1), False)):
        looked = torch.nn.functional.one_hot(patch, side**2).float()
        assert (attention_hit(looked.numpy(), temporal, data.share.numpy(), 0.5) == hit).all()
