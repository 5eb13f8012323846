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
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avcil.base import portable
from avcil.workshop import processors

TOKENS = "tokens of `mini`, and with them every result"
LEARNING = "whatever is trained (checkpoints, accuracies, attention)"
SOLVED = "solved heads (ridge, acil, ranpac, mmal, fecam, lll_analytic)"
PRIOR = "the prior, where it is trained again"
OTHERS = "tokens of encoders with published weights"
NOTHING = "nothing of the project"

# operation: the parts of the project that it computes
SERVES: dict[str, tuple[str, ...]] = {
    "matmul": (TOKENS, LEARNING),
    "matmul, 768": (OTHERS,),
    "bmm, one query": (LEARNING,),
    "einsum, pooling": (TOKENS, LEARNING),
    "exp": (TOKENS, LEARNING),
    "tanh": (LEARNING,),
    "sin": (OTHERS,),
    "sigmoid": (LEARNING, PRIOR),
    "erf": (OTHERS,),
    "log": (TOKENS, LEARNING),
    "sqrt": (LEARNING,),
    "rsqrt": (SOLVED,),
    "softmax": (LEARNING, SOLVED),
    "log_softmax": (LEARNING,),
    "gelu": (OTHERS,),
    "sum, rows": (LEARNING, SOLVED),
    "sum, all": (LEARNING,),
    "norm": (TOKENS, LEARNING),
    "layer_norm": (OTHERS,),
    "batch_norm": (OTHERS,),
    "stft": (TOKENS,),
    "matmul, float64": (SOLVED,),
    "solve, float64": (SOLVED,),
    "eigh, float64": (SOLVED,),
    "conv1d": (TOKENS,),
    "conv1d, gradient": (PRIOR,),
    "conv2d": (TOKENS,),
    "conv2d, gradient": (PRIOR,),
    "conv3d": (OTHERS,),
    "conv3d, gradient": (NOTHING,),
    "fifty steps of AdamW": (LEARNING, PRIOR),
}

Normal = Callable[..., Tensor]
Outputs = Iterator[tuple[str, tuple[Tensor, ...]]]

# The operations draw from one generator one after the other, so that their order, and the order of the factors in each,
# is part of the digests: neither may change, or no digest kept so far can be compared.


def _products(normal: Normal) -> Outputs:
    yield "matmul", (normal(384, 128) @ normal(128, 96),)
    yield "matmul, 768", (normal(1000, 768) @ normal(768, 768),)
    yield "bmm, one query", (normal(64, 8, 1, 128) @ normal(64, 8, 64, 128).transpose(-1, -2),)
    weights = normal(16, 8, 64).softmax(-1)
    yield "einsum, pooling", (torch.einsum("bls,blsd->bd", weights, normal(16, 8, 64, 128)),)


def _elementwise(normal: Normal) -> Outputs:
    for name in ("exp", "tanh", "sin", "sigmoid", "erf"):
        yield name, (getattr(torch, name)(normal(1000)),)
    for name in ("log", "sqrt", "rsqrt"):
        yield name, (getattr(torch, name)(normal(1000).abs() + 0.1),)


def _reductions(normal: Normal) -> Outputs:
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


def _solvers(normal: Normal) -> Outputs:
    wide = normal(300, 300).double()
    yield "matmul, float64", (wide @ wide,)
    yield "solve, float64", (torch.linalg.solve(wide @ wide.T + torch.eye(300, dtype=torch.float64), wide),)
    yield "eigh, float64", (torch.linalg.eigvalsh(wide @ wide.T),)


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


def _steps(normal: Normal) -> Outputs:
    parameters = [(normal(*shape) * 0.1).requires_grad_() for shape in ((128, 128), (128,), (20, 128), (20,))]
    first, first_bias, second, second_bias = parameters
    labels = torch.arange(64) % 20
    optimiser = torch.optim.AdamW(parameters, 1e-3, fused=True)
    for _ in range(50):
        hidden = F.linear(normal(64, 128), first, first_bias).relu()
        loss = F.cross_entropy(F.linear(hidden, second, second_bias), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    yield "fifty steps of AdamW", tuple(parameters)


def digests() -> dict[str, str]:
    """The first 12 hexadecimal digits of SHA-256 of each operation's output, in the setting of this process.

    Changes no random state but its own.
    """
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    parts = (_products, _elementwise, _reductions, _solvers, _convolutions, _steps)
    found = {}
    with torch.enable_grad():
        for name, outputs in chain.from_iterable(part(normal) for part in parts):
            content = b"".join(output.detach().contiguous().numpy().tobytes() for output in outputs)
            found[name] = hashlib.sha256(content).hexdigest()[:12]
    return found


def differing(mine: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Names of the operations that do not give the same bytes. An operation that only one of them has counts."""
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def affected(operations: Iterable[str]) -> dict[str, list[str]]:
    """Which parts of the project compute with these operations: part to operations, the widest part first."""
    parts = dict.fromkeys(part for serves in SERVES.values() for part in serves)
    chosen = list(operations)
    found = {part: [name for name in chosen if part in SERVES.get(name, ())] for part in parts}
    return {part: names for part, names in found.items() if names}


def compare(mine: dict[str, str], records: list[dict[str, Any]]) -> list[str]:
    """A line a known processor (one for all that agree), and one a part of the project that is affected."""
    names: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        there = record["versions"].get("torch") or "of an unknown version"
        same = there.split("+")[0] == torch.__version__.split("+")[0]
        # a newer torch may compute otherwise, and that is no matter of processors
        name = record["name"] + ("" if same else f" with torch {there}")
        names.setdefault(tuple(differing(mine, record["operations"]["portable"])), []).append(name)
    lines = []
    for other, agreeing in names.items():
        lines.append(f"{len(mine) - len(other)} of {len(mine)} operations as on {'; on '.join(agreeing)}")
        lines += [f"    {part}: {'; '.join(found)}" for part, found in affected(other).items()]
    return lines or [f"no processor is known: {processors.FOLDER} is missing; start in the project's folder"]


def in_a_line(mine: dict[str, str], records: list[dict[str, Any]]) -> str:
    """What `compare` says, short: whether all agree, or which parts of the project are affected."""
    other = list(dict.fromkeys(name for r in records for name in differing(mine, r["operations"]["portable"])))
    if not records:
        return f"no processor is known: {processors.FOLDER} is missing"
    if not other:
        return f"{len(mine)} of {len(mine)} operations as on {len(records)} known processors"
    said = f"{len(other)} of {len(mine)} operations differ from known processors"
    return f"{said}; affected: {'; '.join(affected(other))}"


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
        reasons = processors.not_portable()
        print(f"{portable.processor()}, torch {torch.__version__}")
        print(f"arithmetic: {'not portable, ' + ', '.join(reasons) if reasons else 'portable'}")
        print("\n".join(compare(mine, processors.known())))
        if asked.save:
            print(f"kept in {processors.save(mine)}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
