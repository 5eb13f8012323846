"""What benchmarks/kernels.py puts side by side: our kernels, and other ways to compute the same.

Every variant of a group is given the same tensors and differentiated with respect to the same leaves; tokens are frozen
features and have no gradient. With tokens in half precision weights stay in float32, ours and the peers' (autocast).
References are computed in float64 from tokens in float32, so that an error includes that of rounding the tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from authors_step import Authors
from timing import DTYPES


class Options(NamedTuple):
    device: torch.device
    authors: Authors | None
    compiled: bool
    """Whether torch.compile takes part."""
    tuned: bool = True
    """Whether max-autotune takes part too: on a GPU it searches for a minute or more at each shape."""


def shape(case: NamedTuple) -> str:
    return " ".join(f"{name}{size}" if len(name) == 1 else f"{name} {size}" for name, size in case._asdict().items())


def compilations(options: Options) -> dict[str, dict]:
    """How torch.compile is asked, by what to call it."""
    if not options.compiled:
        return {}
    # CUDA graphs would copy the tokens at each call
    tuned = {"torch.compile max-autotune": {"mode": "max-autotune-no-cudagraphs"}}
    return {"torch.compile": {}} | (tuned if options.tuned and options.device.type == "cuda" else {})


def cast(run: Callable, precision: str, device: torch.device) -> Callable:
    """``run`` under autocast, if the precision is a half one."""
    if precision in ("fp32", "tf32"):
        return run

    def under():
        with torch.autocast(device.type, DTYPES[precision]):
            return run()

    return under
