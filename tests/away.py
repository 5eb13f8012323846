"""A device that is not there: the CPU, under another name, which refuses what a GPU refuses.

Tensors on it say that they are on `meta` and hold numbers of the CPU. What meets on two devices raises, as on a GPU,
where a number (a tensor without dimensions) may meet any tensor; so does float64, which `mps` does not have. Copies to
and from it are counted. It shows that nothing crosses where it should not; of how a GPU rounds, of how fast it is, and
of kernels that run on a GPU alone, it says nothing.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

AWAY = torch.device("meta")


class Crossing(AssertionError):
    """Tensors of two devices met."""


class There(torch.Tensor):
    """A tensor on the device: ``here`` has its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        there = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=AWAY
        )
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, Counter())


def _run(func, args, kwargs, copies: Counter):
    name, (flat, spec) = func.overloadpacket.__name__, tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    there = any(isinstance(value, There) for value in tensors)
    to = kwargs.get("device")
    if name == "_local_scalar_dense" and there:
        copies["number to the CPU"] += 1
    elif name in ("_to_copy", "copy_"):
        target = to if name == "_to_copy" and to is not None else args[0].device
        source = args[1] if name == "copy_" else args[0]
        if source.device != target:
            copies["to the CPU" if target.type == "cpu" else "to the device"] += 1
        there = torch.device(target) == AWAY
    elif there and (strange := [value for value in tensors if not isinstance(value, There) and value.dim()]):
        raise Crossing(f"{name}: a tensor {tuple(strange[0].shape)} of the CPU meets those of the device")
    elif not there and to is not None:
        there = torch.device(to) == AWAY
    inner = [value.here if isinstance(value, There) else value for value in flat]
    inner = [torch.device("cpu") if isinstance(value, torch.device) else value for value in inner]
    plain_args, plain_kwargs = tree_unflatten(inner, spec)
    result = func(*plain_args, **plain_kwargs)
    same = {id(value.here): value for value in tensors if isinstance(value, There)}

    def wrapped(value):
        if not isinstance(value, torch.Tensor) or not there:
            return value
        if value.dtype == torch.float64 and value.dim():
            raise Crossing(f"{name}: float64 on the device")
        return same[id(value)] if id(value) in same else There(value)

    return tree_map(wrapped, result)


class _Watch(TorchDispatchMode):
    def __init__(self, copies: Counter):
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, self.copies)


@contextmanager
def device() -> Iterator[Counter]:
    """While it is there, `meta` is the device; gives the copies that were made, by kind."""
    copies: Counter = Counter()
    with patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: [AWAY.type]), _Watch(copies):
        yield copies
