"""Where models are: the one place that chooses a device, and that knows how much of its memory a process may take."""

from functools import cache

import psutil
import torch
import torch.nn.functional as F

from avcil.base.refusal import Refusal

CPU = torch.device("cpu")

_share = 1.0  # of memory, of the CPU's and of a GPU's, that this process may take (`take`)


def named(name: torch.device | str) -> torch.device:
    """The device of that name; of `auto` the first of `cuda`, `mps` and `cpu` that is here, `mps` if it is `sound`.

    Raises ValueError for one that torch does not see here.
    """
    if name == "auto":
        mps = torch.device("mps")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return mps if torch.backends.mps.is_available() and sound(mps) else CPU
    # `meta` has no memory: with it shapes are asked
    here = {"cpu": 1, "meta": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:  # a word that is no device, of which torch lists twenty
        device = None
    if device is None or (device.index or 0) >= here.get(device.type, 0):
        raise Refusal(f"device {name}: torch sees none here; set compute.device to auto or cpu")
    return device


@cache
def sound(device: torch.device) -> bool:
    """Whether a step of learning gives there what it gives on the CPU, but for float32's rounding."""
    found = []
    try:
        for place in (CPU, device):
            weight = torch.linspace(-1, 1, 12).view(3, 4).to(place).requires_grad_()
            clips, labels = torch.linspace(-2, 2, 20).view(5, 4).to(place), torch.arange(5, device=place) % 3
            (slope,) = torch.autograd.grad(F.cross_entropy((clips @ weight.T).softmax(1), labels), weight)
            weight.grad = slope
            torch.optim.AdamW([weight], lr=0.1, fused=True).step()
            found.append(torch.cat([weight.detach(), slope]).cpu())
    except RuntimeError:  # an operation that it does not have
        return False
    return torch.allclose(found[0], found[1], atol=1e-5)


def take(share: float, device: torch.device) -> None:
    """Of memory this process takes at most such a share from now on: several share a machine, and a GPU."""
    global _share
    _share = share
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device.index or 0)  # takes no device without a number


def free(device: torch.device) -> int:
    """Bytes that this process may still take there. The memory of `mps` is the machine's."""
    if device.type != "cuda":
        return int(_share * psutil.virtual_memory().available)
    unused, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    # what torch holds in reserve is this process's own
    return min(unused + torch.cuda.memory_reserved(device) - allocated, int(_share * total) - allocated)
