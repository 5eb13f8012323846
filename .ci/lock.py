"""`make lock`: exact versions and hashes of every package, direct or not, in requirements.lock.

From pyproject.toml's ranges, with all extras and the package that builds avcil, for every system and each Python that
fits. What is locked stays while the ranges allow it; arguments go to `uv pip compile` (`make lock LOCK=--upgrade`).
No address of an index is written: one installs from whatever index one has, and the hashes hold.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Exact versions and hashes of every package that pyproject.toml asks for, directly or not: `make lock` writes this.
# ranges of pyproject.toml: {}
"""


def ranges(pyproject: dict) -> str:
    """A digest of all that the lock is made from: with another one, the lock is stale."""
    project = pyproject["project"]
    given = [pyproject["build-system"]["requires"], project["requires-python"], project["dependencies"]]
    given += sorted(project["optional-dependencies"].items())
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]


def main(options: list[str]) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = re.match(r">=([\d.]+)", pyproject["project"]["requires-python"])[1]
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-", "--extra=test", "--universal",
        f"--python-version={oldest}", "--generate-hashes", "--no-strip-extras", "--no-annotate", "--no-header",
        "--quiet", f"--output-file={LOCK}", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, input="\n".join(pyproject["build-system"]["requires"]), text=True)
    if done.returncode:
        sys.exit("avcil: nothing was locked, for the reason above")
    LOCK.write_text(HEADER.format(ranges(pyproject)) + LOCK.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
