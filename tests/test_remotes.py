"""Results on a remote: who clones the repository and pulls has every checkpoint and figure, and runs nothing."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import avcil
from avcil.workshop import smoke
from conftest import ROOT


def call(folder: Path, *command: str) -> str:
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": place, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    files = [file for name in names for file in sorted((folder / name).rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """Where a server is that speaks S3's protocol, with the empty bucket `results`."""
    pytest.importorskip("dvc_s3", reason="pip install dvc-s3 'moto[server]'")
    pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            place = f"http://127.0.0.1:{port}"
            boto3.client("s3", endpoint_url=place, region_name="us-east-1").create_bucket(Bucket="results")
            yield place
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("on", ["a folder", "a bucket"])
def test_a_clone_that_pulls_runs_nothing(tmp_path, request, on):
    """As docs/experiments.md says, on a small project whose pipeline has run."""
    # what a sweep goes on from is in artifacts/sweep, and on no remote
    kept = [*(f"artifacts/{name}" for name in ("splits", "features", "runs", "live", "notebooks")), "metrics", "data"]
    mine, shelf, theirs = (tmp_path / name for name in ("mine", "shelf", "theirs"))
    shutil.copytree(smoke.build(ROOT), mine, symlinks=True)
    made = contents(mine, *kept)
    assert any(name.endswith("tensors.safetensors") for name in made)
    call(mine, "dvc", "remote", "add", "--default", "shelf", str(shelf) if on == "a folder" else "s3://results/avcil")
    if on == "a bucket":
        call(mine, "dvc", "remote", "modify", "shelf", "endpointurl", request.getfixturevalue("bucket"))
    call(mine, "git", "commit", "--quiet", "--all", "--message", "Where results are")
    assert re.search(r"\d+ files? pushed", call(mine, "dvc", "push"))
    assert "up to date" in call(mine, "dvc", "push")  # nothing is sent twice

    call(tmp_path, "git", "clone", "--quiet", str(mine), str(theirs))
    shutil.rmtree(mine)  # whatever is not on the remote is gone
    assert not list((theirs / "artifacts").rglob("*.safetensors"))
    call(theirs, "dvc", "pull")
    assert contents(theirs, *kept) == made
    assert "up to date" in call(theirs, "dvc", "status")
    said = call(theirs, "dvc", "repro")
    assert "Running stage" not in said and "didn't change, skipping" in said
    assert not call(theirs, "git", "status", "--porcelain")
    folder = max(theirs.glob("artifacts/runs/lll_prior/task*/seed0"))
    learner = avcil.Learner.from_run(folder)
    clip = next((theirs / "data").rglob("test-*.mp4"))
    assert learner.predict([clip])[0].label in learner.classes
