"""The processors that the project was computed on: what they are, what they compute, what they reproduced.

A file each, ``metrics/processors/NAME.json``: name, maker, instruction sets that matter, cores, versions of what
computed; when and how it was `recorded`; digests of `operations` (avcil/workshop/probe.py) and, where someone ran it,
of a `whole` way from clips to checkpoints, in `portable` arithmetic and in the processor's own, `default`; and
`reproduced`, the tables that it made with the same bytes as another one (avcil/workshop/verify.py). null: not recorded.
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


def versions() -> dict[str, str | None]:
    """Of Python and of what computes here; None for a package that is not installed."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    packages = ("torch", "numpy", "pandas", "scikit-learn", "triton")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def known(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The processors kept in ``folder``, by file name. Raises ValueError naming a file that cannot be read."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text())
            record["name"], record["operations"]["portable"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: no record of a processor ({error!r}); git checkout it, or delete it") from None
        found.append(record)
    return found


def not_portable() -> list[str]:
    """Why arithmetic in this process is not portable: a reason each, none if it is."""
    if portable.in_force():
        return []
    if not portable.possible():
        return ["this processor has no AVX2"]
    if os.environ.get("AVCIL_PORTABLE") == "0":
        return ["AVCIL_PORTABLE=0"]
    reasons = [
        f"{name}={os.environ.get(name, '')} instead of {value}"
        for name, value in portable.VARIABLES.items()
        if os.environ.get(name) != value
    ]
    if torch.get_num_threads() != 1:
        reasons.append(f"{torch.get_num_threads()} threads")
    return reasons or [f"torch computes with {torch.backends.cpu.get_cpu_capability()}: it started before avcil"]


def file_of(processor: str, folder: Path = FOLDER) -> Path:
    """`AMD EPYC (family 23, model 1)` to `amd_epyc_family_23_model_1.json`."""
    return folder / (re.sub(r"[^a-z0-9]+", "_", processor.lower()).strip("_") + ".json")


def _about() -> dict[str, Any]:
    """The processor of this machine, as Linux tells it; None for what it does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except OSError:
        fields = {}
    flags = fields.get("flags", "").split()
    sets = {name: name in flags if flags else None for name in ("avx2", "avx512f", "amx_tile")}
    return {"maker": fields.get("vendor_id"), "instruction_sets": sets, "cores": os.cpu_count()}


def _default_digests() -> dict[str, str]:
    """Those of the processor's own arithmetic, one thread, from a process without the variables."""
    own = {name: value for name, value in os.environ.items() if name not in portable.VARIABLES}
    own |= {"AVCIL_PORTABLE": "0", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "avcil.workshop.probe", "--json"]
    return json.loads(subprocess.run(run, env=own, stdout=subprocess.PIPE, check=True).stdout)


def save(mine: dict[str, str], folder: Path = FOLDER) -> Path:
    """Keep this processor in ``folder``; what its file says of whole ways and of tables stays. Returns the file.

    Raises ValueError if arithmetic is not portable, since ``mine`` would be compared as if it were.
    """
    if reasons := not_portable():
        raise ValueError(f"nothing saved, arithmetic is not portable here: {', '.join(reasons)}")
    name = portable.processor()
    file = file_of(name, folder)
    before = json.loads(file.read_text()) if file.exists() else {}
    record = {"name": name, **_about(), "versions": versions()}
    record["recorded"] = f"{datetime.date.today().isoformat()}, python -m avcil.workshop.probe --save"
    record["operations"] = {"portable": mine, "default": _default_digests()}
    record |= {"whole": before.get("whole"), "reproduced": before.get("reproduced", {})}
    write_json(file, record)
    return file
