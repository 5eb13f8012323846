"""The processors that the project was computed on: what they are, and what they compute.

A file each, ``metrics/processors/NAME.json``: name, instruction sets that matter, versions of what computed; when and
how it was `recorded`; digests of `operations` (avcil/workshop/probe.py) and, where someone ran it, of a `whole` way
from clips to checkpoints, in `portable` arithmetic and in the processor's own, `default`. null: not recorded.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from avcil.base import portable
from avcil.base.files import write_json

FOLDER = Path("metrics/processors")


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
    other = [f"{name} is not {value}" for name, value in portable.VARIABLES.items() if os.environ.get(name) != value]
    return f"not portable: {', '.join(other) or 'torch started before avcil did, or with more threads'}"


def known(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The processors kept in ``folder``, by file name. Raises ValueError naming a file that cannot be read."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text())
            record["name"], record["versions"]["torch"], record["operations"]["portable"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: no record of a processor ({error!r}); git checkout it, or delete it") from None
        found.append(record)
    return found


def save(mine: dict[str, str], folder: Path = FOLDER) -> Path:
    """Keep this processor in ``folder``; what its file says of whole ways stays. Returns the file.

    Raises ValueError if arithmetic is not portable, since ``mine`` would be compared as if it were.
    """
    if not portable.in_force():
        raise ValueError(f"nothing kept, since arithmetic is {arithmetic()}")
    name, able = portable.processor(), torch.cpu.get_capabilities()
    file = folder / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".json")
    before = json.loads(file.read_text()) if file.exists() else {}
    # the processor's own arithmetic, on one thread, is that of a process without the variables
    own = {variable: value for variable, value in os.environ.items() if variable not in portable.VARIABLES}
    own |= {"AVCIL_PORTABLE": "0", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "avcil.workshop.probe", "--json"]
    default = json.loads(subprocess.run(run, env=own, stdout=subprocess.PIPE, check=True).stdout)
    record = {
        "name": name,
        "instruction_sets": {name: able.get(name) for name in ("avx2", "avx512_f", "amx_tile")},
        "versions": versions(),
        "recorded": f"{datetime.date.today().isoformat()}, python -m avcil.workshop.probe --save",
        "operations": {"portable": mine, "default": default},
        "whole": before.get("whole"),
    }
    write_json(file, record)
    return file
