"""Odd names and bare surroundings: what works elsewhere works there, or is refused in one line."""

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from media import tone, write

from avcil.encoders.base import Reading
from avcil.encoders.mini import Mini
from avcil.extraction import features
from avcil.extraction.clips import ClipError, read_clip
from avcil.params.extraction import FeatureConfig
from avcil.tokens.manifest import ManifestError, media, read_manifest, write_manifest
from avcil.tokens.store import read_store
from conftest import ROOT

NAMES = ["with space", "-dash", "line\nbreak", "Bär ☂", "quo'te\"", "per%cent", "a;b&c$(d)", "concat:x|y", "file:x"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse some of these names")
def test_folders_and_clips_of_any_name_are_extracted_and_read(params, tmp_path):
    torch.manual_seed(0)
    encoder = Mini(params.encoder).watching(Reading(8, 4.0, 48, 16000)).eval().requires_grad_(False)
    config = FeatureConfig(clips_per_shard=4, batch=4, quarantine_share=0.0, silence=1e-4)
    source = write(tmp_path / "plain.mp4", [k / 4 for k in range(8)], sound=tone(440, 2, 16000))
    folder = tmp_path / "-odd folder\n☂"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.mp4").write_bytes(source.read_bytes())
    rows = [(f"{split} {n}", f"{name}.mp4", name, split) for split in ("train", "test") for n, name in enumerate(NAMES)]
    table = pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"])
    table["start"] = [0.0] * len(NAMES) + [0.01] * len(NAMES)
    write_manifest(folder / "manifest.csv", table)
    table = read_manifest(folder / "manifest.csv")
    assert table.path.tolist() == 2 * [f"{name}.mp4" for name in NAMES]
    features.extract(encoder, "mini", media(table, folder), config, folder / "store", workers=1)
    content = read_store(folder / "store")
    assert not content.quarantined and content.tokens.visual.flatten(1).any(1).all()


def test_a_path_out_of_the_folder_is_refused_and_a_link_out_of_it_is_followed(params, tmp_path):
    (tmp_path / "manifest.csv").write_text("clip_id,path,label,split\na,../a.mp4,cat,train\nb,b.mp4,cat,test\n")
    with pytest.raises(ManifestError, match=r"row 2: clip `a` has the path `\.\./a\.mp4`; give one below the folder"):
        read_manifest(tmp_path / "manifest.csv")
    (tmp_path / "below").mkdir()
    write(tmp_path / "a.mp4", [k / 4 for k in range(8)], sound=tone(440, 2, 16000))
    for name, target in {"a": "../a.mp4", "gone": "../nowhere.mp4", "loop": "loop.mp4"}.items():
        (tmp_path / f"below/{name}.mp4").symlink_to(target)
    reading = params.film.model_dump()
    assert read_clip(tmp_path / "below/a.mp4", **reading).frames is not None
    for name in ("gone", "loop"):
        with pytest.raises(ClipError, match=rf"below/{name}\.mp4: no such file; restore it or drop its row"):
            read_clip(tmp_path / f"below/{name}.mp4", **reading)


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", [{}, {"HOME": "/nowhere", "TMPDIR": "/nowhere"}, {"LC_ALL": "C", "LANG": "C"}])
def test_commands_need_no_home_no_scratch_and_no_locale(tmp_path, surroundings):
    bare = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)} | surroundings
    command = [sys.executable, "-m", "avcil", "predict", "kein Bär.mp4", "--learner", "nirgends ☂"]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.decode().strip().split("\n")[-1].startswith("nirgends ")
    assert b"no whole config.json" in done.stderr
