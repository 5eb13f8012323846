"""Everything that waits for a GPU, in one command, and the evidence of what it gave.

    python benchmarks/gpu.py [--official PATH] [--only STEP ...] [--rehearse]

Needs a checkout, torch, triton and pytest. Each step is a process of its own, so that one that crashes takes no other
with it:

- `tests`: the Triton kernels against float64 autograd;
- `rows`: rows of every kind learn on the GPU what they learn on the CPU (needs the packages of a whole setup);
- `races`: some of these tests under NVIDIA's compute-sanitizer, where the machine has it;
- `kernels`: benchmarks/kernels.py, speed, memory and error beside the public ways to compute the same;
- `training`: benchmarks/training_step.py, whole steps of LLL and of AV-CIL.

Writes benchmarks/results/gpu_<device>.json (of each step its command, exit status, seconds and last lines; the commit,
and whether files differed from it) beside what the benchmarks write, and ends with status 1 if a step failed. Once
these are committed, `PROVEN` (avcil/kernels/ops.py) may name the device, and `impl="auto"` then picks Triton there.
``--rehearse`` runs the small form of every step on the CPU and keeps nothing.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from report import RESULTS, machine, read, write

ROOT = Path(__file__).resolve().parents[1]
# without conftest.py, whose packages a machine with a GPU need not have
PYTEST = ["-m", "pytest", "-q", "-c", os.devnull, "--rootdir=.", "--noconftest", "-p", "no:cacheprovider"]
PYTEST += ["tests/kernels/test_triton.py"]
ROWS = ["-m", "pytest", "-q", "-m", "", "tests/learn/test_away.py", "-k"]
AT_ONCE = ["-n", "8"] if importlib.util.find_spec("xdist") else []
FEW = ["-k", "two_runs_give_equal_bits"]  # forwards and backwards, small: a sanitizer slows kernels a hundredfold
SANITIZER = ["--tool", "racecheck", "--error-exitcode", "9"]
LAST_LINES = 40


def commands(official: Path | None, rehearse: bool, out: Path) -> dict[str, list[str]]:
    """The command of each step that this machine can run."""
    found = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    more = ["--out", str(out), *(["--quick", "--device", "cpu"] if rehearse else ["--device", "cuda"])]
    more += ["--official", str(official.resolve())] if official else []
    wanted = {
        "tests": [sys.executable, *PYTEST, *(FEW if rehearse else AT_ONCE)],
        "kernels": [sys.executable, "benchmarks/kernels.py", "--no-tune", "--rounds", "10", *more],
        "training": [sys.executable, "benchmarks/training_step.py", *more],
    }
    if importlib.util.find_spec("nbformat"):
        wanted["rows"] = [sys.executable, *ROWS, "refuses_what_a_gpu" if rehearse else "on_a_gpu"]
    if found and not rehearse:
        wanted["races"] = [found, *SANITIZER, sys.executable, *PYTEST, *FEW]
    return wanted


def run(command: list[str]) -> dict:
    """Run it in the root, showing what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    started, lines = time.perf_counter(), []
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, errors="replace", **streams) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines += [line.rstrip()] if line.strip() else []
    seconds = round(time.perf_counter() - started, 1)
    # where this folder is says nothing to others
    shown, last = ([part.replace(f"{ROOT}/", "") for part in of] for of in (command[1:], lines[-LAST_LINES:]))
    command = [Path(command[0]).name, *shown]
    return {"command": command, "status": process.returncode, "seconds": seconds, "last_lines": last}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def summary(found: dict) -> str:
    lines = [f"# {found['machine']['device']}: what `python benchmarks/gpu.py` gave", ""]
    lines += [f"Commit {found['commit'] or 'unknown'}{', with changes' * found['changed']}.", ""]
    lines += ["| step | exit status | seconds | last line |", "|---|---:|---:|---|"]
    for name, step in found["steps"].items():
        lines.append(f"| {name} | {step['status']} | {step['seconds']:,.0f} | {(step['last_lines'] or [''])[-1]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of weiguoPian/AV-CIL_ICCV2023, whose code is timed too")
    parser.add_argument("--only", nargs="+", choices=("tests", "rows", "races", "kernels", "training"))
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU, and keeping nothing")
    given = parser.parse_args()
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no GPU (torch.cuda.is_available() is false); --rehearse runs the steps on the CPU")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if given.rehearse else RESULTS
        wanted = commands(given.official, given.rehearse, out)
        about = machine(torch.device("cpu" if given.rehearse else "cuda"))
        path = out / f"gpu_{about['slug']}.json"
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        found = {"machine": about, "commit": git("rev-parse", "HEAD"), "changed": changed}
        found["steps"] = read(path).get("steps", {}) if given.only else {}
        for name in given.only or wanted:
            if name not in wanted:
                lacks = {"races": "compute-sanitizer", "rows": "whole setup (.ci/setup)"}[name]
                print(f"{name}: left out, there is no {lacks} on this machine")
                continue
            found["steps"][name] = run(wanted[name])
            write(path, found, summary(found))
        print("", summary(found), sep="\n")
    sys.exit(any(step["status"] for step in found["steps"].values()))


if __name__ == "__main__":
    main()
