"""Where the sounding object is: cells of a frame, averaged to the patches of an encoder. Only measurements read it.

Dimension letters: ``F`` video frames, ``G`` cells of a side of the region grid, ``L`` slots, ``S`` patches of a slot.
"""

from pathlib import Path

import numpy as np

from avcil.base.refusal import Refusal


def _shares(cells: int, parts: int) -> np.ndarray:
    """[parts, cells]: how much of each part of a line each cell is; rows sum to 1."""
    edges = np.arange(parts + 1) * (cells / parts)
    starts = np.arange(cells)
    # in cells: from the later beginning to the earlier end, negative where they do not meet
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(overlap, 0, None) * (parts / cells)


def patch_share(regions: np.ndarray, slots: int, side: int) -> np.ndarray:
    """Mean of the region grid [..., F,G,G] over the frames of a slot and the area of a patch: [..., L, side * side].

    Where edges of patches or slots cut cells or frames, these count by the part that lies inside, so that any encoder's
    grid (7 x 7, 14 x 14) can be measured on the renderer's 24 x 24 cells. Integers come out as floating-point numbers.
    """
    # means of integers would be cut off, and float64 stays what it is
    regions = regions.astype(np.result_type(regions, np.float32), copy=False)
    *lead, frames, cells, _ = regions.shape
    # where nothing is cut, means of blocks are the same without a product
    if frames % slots == 0 and cells % side == 0:
        shape = (*lead, slots, frames // slots, side, cells // side, side, cells // side)
        return regions.reshape(shape).mean((-5, -3, -1)).reshape(*lead, slots, side * side)
    time, space = _shares(frames, slots), _shares(cells, side)
    share = np.einsum("lf,...fgh,yg,xh->...lyx", time, regions, space, space, optimize=True)
    # the shares are float64, whatever the regions are
    return share.reshape(*lead, slots, side * side).astype(regions.dtype)


def read_regions(path: Path, clip_ids: list[str]) -> np.ndarray:
    """The region grids [N,F,G,G] of those clips, uint8, of a file as avcil/world/sounding_objects.py writes it.

    The file's own checksums (CRC-32 of each array) are compared. Raises ValueError naming a file that is missing,
    damaged or something else, or a clip that it lacks.
    """
    try:
        # allow_pickle is off by default: nothing in the file is run
        with np.load(path) as arrays:
            names, grids = arrays["clip_id"], arrays["region"]
        row = {clip: i for i, clip in enumerate(names.tolist())}
        if grids.ndim != 4 or grids.dtype != np.uint8 or len(grids) != len(names):
            # for the `except` below, which names the file
            raise ValueError(f"`region` is {grids.dtype} of shape {grids.shape}")
        # in the order asked for, which need not be the file's
        return grids[[row[clip] for clip in clip_ids]]
    except KeyError as error:
        reason = f"lacks {error}"
    except Exception as error:  # NumPy's parser of a damaged header raises anything, its tokenizer's errors too
        reason = " ".join(str(error).split())
    raise Refusal(f"{path}: no regions of these clips ({reason}); restore it (dvc pull), or leave it out")
