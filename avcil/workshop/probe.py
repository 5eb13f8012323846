"""Which operations give the bytes here that they give on the processors known so far.

    python -m avcil.workshop.probe          how many of 31 operations agree with each known processor, and which do not
    python -m avcil.workshop.probe --save   the same, and keep this processor's in metrics/processors/NAME.json
    python -m avcil.workshop.probe --json   the digests of this process, whatever setting it is in

An operation's digest is of its output on numbers drawn from one seed, so that two processors agree when digests do.
Only those of portable arithmetic (avcil/base/portable.py) are to be the same everywhere.

A processor's file has its name, instruction sets that matter, versions of what computed; when and how it was
`recorded`; digests of `operations` and, where someone ran it, of a `whole` way from clips to checkpoints, in `portable`
arithmetic and in the processor's own, `default`. null: not recorded.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw

from avcil.base import portable
from avcil.base.files import write_json

FOLDER = Path("metrics/processors")

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
    # these are defined for positive numbers alone
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
    # the identity keeps the matrix from being nearly singular
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
    # steps so far, as tensors, which the function counts up itself
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
    # drawn by NumPy, so that torch, which is probed, has no part in its own inputs
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    by_name = {}
    for name, outputs in _operations(normal):
        content = b"".join(output.detach().numpy().tobytes() for output in outputs)
        by_name[name] = hashlib.sha256(content).hexdigest()[:12]
    return by_name


def differing(mine: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Names of the operations that do not give the same bytes. An operation that only one of them has counts."""
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def compare(mine: dict[str, str], records: list[dict[str, Any]]) -> list[str]:
    """A line a known processor, then one with the operations that are computed otherwise there, if there are any."""
    lines = []
    for record in records:
        other = differing(mine, record["operations"]["portable"])
        # a newer torch may compute otherwise, and that is no matter of processors
        there = f"{record['name']}, torch {record['versions']['torch']}"
        lines.append(f"{len(mine) - len(other)} of {len(mine)} operations as on {there}")
        lines += [f"    not {'; '.join(other)}"] if other else []
    return lines or [f"no processor is known: {FOLDER} is missing; start in the project's folder"]


# ---- processors


def versions() -> dict[str, str]:
    """Of Python and of what computes here."""
    packages = ("torch", "numpy", "pandas", "scikit-learn")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def arithmetic() -> str:
    """`portable`, or why it is not."""
    if portable.in_force():
        return "portable"
    if not portable.possible():
        return "not portable: no AVX2"
    # what was set before avcil stays as it was, so the variables are the first suspects
    other = [f"{name} is not {value}" for name, value in portable.VARIABLES.items() if os.environ.get(name) != value]
    # if they are all right, they came too late
    return f"not portable: {', '.join(other) or 'torch started before avcil did, or with more threads'}"


def read_record(file: Path) -> dict[str, Any]:
    """A .json file that git has. Raises ValueError naming it if it cannot be read."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); git checkout it") from None


def known(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The processors kept in ``folder``, by file name."""
    return [read_record(file) for file in sorted(folder.glob("*.json"))]


def save(mine: dict[str, str], folder: Path = FOLDER) -> Path:
    """Keep this processor in ``folder``; what its file says of whole ways stays. Returns the file.

    Raises ValueError if arithmetic is not portable, since ``mine`` would be compared as if it were.
    """
    if not portable.in_force():
        raise ValueError(f"nothing kept, since arithmetic is {arithmetic()}")
    name, able = portable.processor(), torch.cpu.get_capabilities()
    file = folder / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".json")
    # the processor's own arithmetic, on one thread, is that of a process without the variables
    own = {variable: value for variable, value in os.environ.items() if variable not in portable.VARIABLES}
    own |= {"AVCIL_PORTABLE": "0", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "avcil.workshop.probe", "--json"]
    # in a process of its own, since libraries choose their instructions once
    default = json.loads(subprocess.run(run, env=own, stdout=subprocess.PIPE, check=True).stdout)
    record = {
        "name": name,
        "instruction_sets": {name: able.get(name) for name in ("avx2", "avx512_f", "amx_tile")},
        "versions": versions(),
        "recorded": f"{datetime.date.today().isoformat()}, python -m avcil.workshop.probe --save",
        "operations": {"portable": mine, "default": default},
        # whole ways were run by somebody, and cannot be made again from here
        "whole": read_record(file)["whole"] if file.exists() else None,
    }
    write_json(file, record)
    return file


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m avcil.workshop.probe", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", action="store_true", help=f"keep this processor in {FOLDER}")
    parser.add_argument("--json", action="store_true", help="print this process's digests and nothing else")
    asked = parser.parse_args(arguments)
    mine = digests()
    if asked.json:
        print(json.dumps(mine))
        return
    try:
        print(f"{portable.processor()}, torch {torch.__version__}, arithmetic {arithmetic()}")
        print("\n".join(compare(mine, known())))
        if asked.save:
            print(f"kept in {save(mine)}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
