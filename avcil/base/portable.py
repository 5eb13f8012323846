"""The same bytes on any x86-64 processor with AVX2, whatever its maker and however many cores it has.

Numerical libraries choose their instructions by the processor they find: sums fall in another order, results differ in
the last bit, and training makes points of accuracy of that (LOG.md). They all can be told what to use instead. The
variables below are read once, before the first operation of each library, so ``import avcil`` sets them, and whatever
starts kernels or workers (papermill, pytest, `make lab`) imports avcil first and hands them down.

A variable that is set already stays as it is: `ATEN_CPU_CAPABILITY=default pytest` is how CI plays another processor.
`AVCIL_PORTABLE=0` leaves all of them alone, for work whose bytes need not be those of other machines.
Arithmetic is done by one thread a process, since a few operations cut sums by the number of threads; work is spread
over processes instead.

    python -m avcil.base.portable COMMAND ...    # run something under it
    python -m avcil.base.portable                # say what is in force
"""

import os
import platform
import sys
from pathlib import Path

VARIABLES = {
    # torch's own loops: not AVX-512, which sums sixteen numbers at a time where AVX2 sums eight
    "ATEN_CPU_CAPABILITY": "avx2",
    # convolutions
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # matrix products and solvers; `AVX2` is twice as fast, but not the same on processors of other makers
    "MKL_CBWR": "COMPATIBLE",
    # BLAS of numpy, scipy and scikit-learn
    "OPENBLAS_CORETYPE": "Haswell",
    # numpy's sines and exponentials; a processor without them takes the same way unasked
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    # one thread a process, for all of them
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def possible() -> bool:
    """Whether this processor can compute so: x86-64 with AVX2."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0] + " "
    except (OSError, IndexError):
        return True  # not Linux: a processor of the last ten years


def apply() -> None:
    """Set the variables, for this process and those that it starts. Effective before the first operation only."""
    if possible() and os.environ.get("AVCIL_PORTABLE") != "0":
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)


def in_force() -> bool:
    """Whether everything here is computed so. Variables alone do not tell: torch may have chosen before they were
    set."""
    import torch

    return (
        possible()
        and all(os.environ.get(name) == value for name, value in VARIABLES.items())
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and torch.get_num_threads() == 1
    )


def processor() -> str:
    """The processor's own name, and what tells apart those that a cloud gives one name."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        found = {name.strip(): value.strip() for name, value in fields.items()}
        return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    if sys.argv[1:]:
        os.execvp(sys.argv[1], sys.argv[1:])
    print(f"{processor()}: {'portable' if in_force() else 'its own'} arithmetic")
    for name in VARIABLES:
        print(f"{name}={os.environ.get(name, '')}")
