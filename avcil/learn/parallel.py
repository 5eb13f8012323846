"""One model learnt by several processes, one a GPU; `torchrun` starts them (avcil/comparison/launch.py).

Every process holds the same model and the same clips. It computes the outputs of its share of each batch and gathers
those of the others, so that the objective sees the whole batch, and gradients are summed: the same loss and the same
step as one process, up to rounding. (DistributedDataParallel averages the gradients of each share's own loss, which is
another loss wherever clips of a batch are compared with one another, as contrastive terms do.)

With one process, nothing here does anything.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avcil.learn.model import Output


def processes() -> int:
    # some builds of torch come without torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes files."""
    return processes() == 1 or dist.get_rank() == 0


def share(rows: Tensor) -> Tensor:
    """Those rows of a batch whose output this process computes."""
    return rows if processes() == 1 else rows.tensor_split(processes())[dist.get_rank()]


def gather(mine: Output, batch: int) -> Output:
    """The output of a whole batch of so many clips, from each process's share."""
    if processes() == 1:
        return mine
    # as `share` cuts it, which each process knows by itself: no sizes are exchanged
    counts = [len(rows) for rows in torch.arange(batch).tensor_split(processes())]
    return mine.map(lambda tensor: _Gather.apply(tensor, counts))


def once(parameter: Tensor) -> Tensor:
    """A parameter that the objective itself uses, as every process does: its gradient shall count once in the sum."""
    return parameter if processes() == 1 else _Once.apply(parameter)


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes, in one exchange."""
    if processes() == 1:
        return
    # what no loss reaches has none, and that is the same in every process
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward keeps the own ones, for all processes compute the same loss from them."""

    @staticmethod
    def forward(ctx, mine: Tensor, counts: list[int]) -> Tensor:
        start = sum(counts[: dist.get_rank()])
        ctx.own = slice(start, start + len(mine))
        # all_gather wants equal shapes: shorter shares are filled up, and cut to their length below
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        # by rank, which is the order of rows in the batch
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own], None


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter: Tensor) -> Tensor:
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # each process computes all of it, and then their gradients are summed
        return gradient / processes()
