"""Which operations give the bytes here that they give on the processors known so far, and what a difference means.

    python -m avcil.workshop.probe          how many of 31 operations agree with each known processor
    python -m avcil.workshop.probe --save   the same, and keep this processor's in metrics/processors/NAME.json
    python -m avcil.workshop.probe --json   the digests of this process, whatever setting it is in

An operation's digest is of its output on numbers drawn from one seed, so that two processors agree when digests do.
Only those of portable arithmetic (avcil/base/portable.py) are to be the same everywhere.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw

from avcil.base import portable
from avcil.workshop import processors

# part of the project: the operations that it is computed with
SERVES: dict[str, tuple[str, ...]] = {
    "tokens of `mini`, and with them every result": (
        "matmul", "einsum, pooling", "exp", "log", "norm", "stft", "conv1d", "conv2d",
    ),
    "whatever is trained (checkpoints, accuracies, attention)": (
        "matmul", "bmm, one query", "einsum, pooling", "exp", "tanh", "sigmoid", "log", "sqrt", "softmax",
        "log_softmax", "sum, rows", "sum, all", "norm", "fifty steps of AdamW",
    ),
    "solved heads (ridge, acil, ranpac, mmal, fecam, lll_analytic)": (
        "rsqrt", "softmax", "sum, rows", "matmul, float64", "solve, float64", "eigh, float64",
    ),
    "the prior: what it separates, and all of it where it is trained again": (
        "sigmoid", "softmax", "layer_norm", "conv1d, gradient", "conv2d, gradient", "fifty steps of AdamW",
    ),
    "tokens of encoders with published weights": (
        "matmul, 768", "sin", "erf", "gelu", "layer_norm", "batch_norm", "conv3d",
    ),
    "nothing of the project": ("conv3d, gradient",),
}  # fmt: skip

Normal = Callable[..., Tensor]
Outputs = Iterator[tuple[str, tuple[Tensor, ...]]]

# The operations draw from one generator one after the other, so that their order, and the order of the factors in each,
# is part of the digests: neither may change, or no digest kept so far can be compared.


def _operations(normal: Normal) -> Outputs:
    yield "matmul", (normal(384, 128) @ normal(128, 96),)
    yield "matmul, 768", (normal(1000, 768) @ normal(768, 768),)
    yield "bmm, one query", (normal(64, 8, 1, 128) @ normal(64, 8, 64, 128).transpose(-1, -2),)
    weights = normal(16, 8, 64).softmax(-1)
    yield "einsum, pooling", (torch.einsum("bls,blsd->bd", weights, normal(16, 8, 64, 128)),)
    for name in ("exp", "tanh", "sin", "sigmoid", "erf"):
        yield name, (getattr(torch, name)(normal(1000)),)
    for name in ("log", "sqrt", "rsqrt"):
        yield name, (getattr(torch, name)(normal(1000).abs() + 0.1),)
    yield "softmax", (normal(64, 8, 64).softmax(-1),)
    yield "log_softmax", (normal(64, 20).log_softmax(-1),)
    yield "gelu", (F.gelu(normal(1000)),)
    # lengths that no register divides
    yield "sum, rows", (normal(1000, 513).sum(1),)
    yield "sum, all", (normal(100003).sum(),)
    yield "norm", (normal(64, 128).norm(dim=1),)
    yield "layer_norm", (F.layer_norm(normal(64, 128), (128,)),)
    yield "batch_norm", (F.batch_norm(normal(8, 16, 24, 24), None, None, training=True),)
    spectrum = torch.stft(normal(2, 16000), 512, window=torch.hann_window(512), return_complex=True)
    yield "stft", (torch.view_as_real(spectrum),)
    wide = normal(300, 300).double()
    yield "matmul, float64", (wide @ wide,)
    yield "solve, float64", (torch.linalg.solve(wide @ wide.T + torch.eye(300, dtype=torch.float64), wide),)
    yield "eigh, float64", (torch.linalg.eigvalsh(wide @ wide.T),)
    yield from _convolutions(normal)
    yield "fifty steps of AdamW", _trained(normal)


def _convolutions(normal: Normal) -> Outputs:
    shapes = {
        "conv1d": ((8, 16, 480), (32, 16, 5)),
        "conv2d": ((8, 16, 48, 48), (32, 16, 3, 3)),
        "conv3d": ((2, 3, 8, 48, 48), (16, 3, 3, 3, 3)),
    }
    drawn = {name: (normal(*inputs), normal(*kernel).requires_grad_()) for name, (inputs, kernel) in shapes.items()}
    for name, (inputs, kernel) in drawn.items():
        output = getattr(F, name)(inputs, kernel, padding=1)
        yield name, (output,)
        yield f"{name}, gradient", torch.autograd.grad(output.square().mean(), kernel)


def _trained(normal: Normal) -> tuple[Tensor, ...]:
    parameters = [(normal(*shape) * 0.1).requires_grad_() for shape in ((128, 128), (128,), (20, 128), (20,))]
    first, first_bias, second, second_bias = parameters
    labels = torch.arange(64) % 20
    means, squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    counts = [torch.tensor(0.0) for _ in parameters]
    for _ in range(50):
        hidden = F.linear(normal(64, 128), first, first_bias).relu()
        loss = F.cross_entropy(F.linear(hidden, second, second_bias), labels)
        gradients = list(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            # what `torch.optim.AdamW` calls; the class itself loads torch.compile, which takes longer than all the rest
            adamw(
                parameters, gradients, means, squares, [], counts, fused=True, amsgrad=False, maximize=False,
                lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8,
            )  # fmt: skip
    return tuple(parameters)


def digests() -> dict[str, str]:
    """The first 12 hexadecimal digits of SHA-256 of each operation's output, in the setting of this process."""
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    found = {}
    for name, outputs in _operations(normal):
        content = b"".join(output.detach().numpy().tobytes() for output in outputs)
        found[name] = hashlib.sha256(content).hexdigest()[:12]
    return found


def differing(mine: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Names of the operations that do not give the same bytes. An operation that only one of them has counts."""
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def affected(operations: Iterable[str]) -> dict[str, list[str]]:
    """Which parts of the project compute with these operations: part to operations, the widest part first."""
    chosen = list(operations)
    found = {part: [name for name in chosen if name in serves] for part, serves in SERVES.items()}
    return {part: names for part, names in found.items() if names}


def compare(mine: dict[str, str], records: list[dict[str, Any]]) -> list[str]:
    """A line a known processor, then one a part of the project that is computed otherwise than on any of them."""
    lines: list[str] = []
    other: dict[str, None] = {}
    for record in records:
        found = differing(mine, record["operations"]["portable"])
        # a newer torch may compute otherwise, and that is no matter of processors
        there = f"{record['name']}, torch {record['versions']['torch']}"
        lines.append(f"{len(mine) - len(found)} of {len(mine)} operations as on {there}")
        other |= dict.fromkeys(found)
    lines += [f"    {part}: {'; '.join(names)}" for part, names in affected(other).items()]
    return lines or [f"no processor is known: {processors.FOLDER} is missing; start in the project's folder"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m avcil.workshop.probe", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", action="store_true", help=f"keep this processor in {processors.FOLDER}")
    parser.add_argument("--json", action="store_true", help="print this process's digests and nothing else")
    asked = parser.parse_args(arguments)
    mine = digests()
    if asked.json:
        print(json.dumps(mine))
        return
    try:
        print(f"{portable.processor()}, torch {torch.__version__}, arithmetic {processors.arithmetic()}")
        print("\n".join(compare(mine, processors.known())))
        if asked.save:
            print(f"kept in {processors.save(mine)}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
