"""A user's own videos, as docs/own_data.md says: from a list of labels to the table, on one process and on several."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from avcil.__main__ import main as command
from avcil.comparison import sweep, tables
from avcil.comparison.protocol import jobs, place_of
from avcil.extraction import extract
from avcil.learn.train import load_result, run_tasks
from avcil.params import ParameterError, load, whole
from avcil.tokens.store import read_store
from avcil.workshop.builders.__main__ import main as build
from avcil.workshop.own import protocol
from conftest import ROOT

CORPUS = ROOT / "corpus/sounding_objects"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """params.yaml with a short protocol of an imported benchmark; four classes of the corpus as somebody's videos."""
    folder = tmp_path_factory.mktemp("project")
    raw = whole(ROOT / "params.yaml")
    prescribed = {"classes_per_task": 2, "class_order": "drawn", "settings": {"standard": {}}}
    raw["protocols"]["mine"] = prescribed | {
        "tokens": "mini",
        "epochs": 2,
        "seeds": [0],
        "rows": ["lll_prior", "ridge"],
    }
    raw["benchmark"] = "mine"
    raw["compute"]["workers"] = 0
    entry = {"kind": "pe_av", "weights": "weights", "frames": 4, "seconds": 1.0, "patches": 2, "joint": False}
    raw["encoders"]["small_pe_av"] = entry
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    (folder / "prior").mkdir(parents=True)
    shutil.copy(ROOT / "prior/mini-0.safetensors", folder / "prior")
    table = pd.read_csv(CORPUS / "manifest.csv")
    table = table[table.label.isin(sorted(table.label.unique())[:4]) & (table.split == "train")]
    table = table[table.groupby("label").cumcount() < 15]
    (folder / "my_videos").mkdir()
    for name in table.path:
        shutil.copy(CORPUS / name, folder / "my_videos")
    table["path"] = table.path.str.removeprefix("clips/")
    table[["path", "label"]].to_csv(folder / "my_videos/labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def imported(project) -> Path:
    with contextlib.chdir(project):
        build(["folder", "my_videos/labels.csv", "imports/mine"])
    return project


@pytest.fixture(scope="module")
def extracted(imported) -> Path:
    with contextlib.chdir(imported):
        extract.main(["mine", "mini"])
    return imported


@pytest.mark.slow
def test_from_labels_to_the_table(extracted, monkeypatch):
    monkeypatch.chdir(extracted)
    monkeypatch.setattr(sweep, "_each", lambda work, jobs, workers: ((n, work(job)) for n, job in enumerate(jobs)))
    store = read_store(Path("imports/mine/features/mini"), encoder="mini", verify=True)
    assert len(store.header.clip_ids) == 60 and store.quarantined == {}
    # no clip has several labels
    Path("imports/mine/multilabel.json").write_text("{}")
    said = protocol.run("mine")
    lines = [line.split(" | ")[:2] for line in said.splitlines() if line.startswith("| standard")]
    assert sorted(row for _, row in lines) == ["lll_prior", "ridge"]
    count = pd.read_csv("imports/mine/manifest.csv").query("split == 'test'").label.value_counts()
    assert f"\n{count.sum()} test clips, {count.min()} of them `" in said
    found = pd.read_csv("imports/mine/results/metrics/seeds.csv")
    assert list(found.method) == ["lll_prior", "ridge"] and (found.last_accuracy > 0.25).all()
    # not learnt again, of one row alone; the other's line stays
    file = Path("imports/mine/results/sweep/standard/ridge/seed0.json")
    before = file.stat().st_mtime_ns
    assert "| lll_prior |" not in protocol.run("mine", ["ridge"]) and file.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(pd.read_csv("imports/mine/results/metrics/seeds.csv"), found)
    several = pd.read_csv("imports/mine/results/metrics/multilabel.csv")
    assert several.method.tolist() == found.method.tolist()
    assert several.multilabel_accuracy.tolist() == found.last_accuracy.tolist()
    # of another protocol it does not, beside what is learnt by this one
    params = load()
    changed = params.protocols["mine"].model_copy(update={"classes_per_task": 1})
    monkeypatch.setattr(protocol, "load", lambda: params.model_copy(update={"protocols": {"mine": changed}}))
    protocol.run("mine", ["ridge"])
    assert pd.read_csv("imports/mine/results/metrics/seeds.csv").method.tolist() == ["ridge"]
    assert pd.read_csv("imports/mine/results/metrics/runs.csv").task.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mien"], r"no protocols/mien\.yaml \(did you mean `mine`\?\); CONTRIBUTING\.md"),
        (["ave"], r"imports/ave: not there; import it first"),
        (["mine", ["rigde"]], r"no method `rigde` in params\.yaml \(did you mean `ridge`\?\)"),
    ],
)
def test_a_protocol_that_cannot_be_run_is_one_line(extracted, monkeypatch, arguments, message):
    monkeypatch.chdir(extracted)
    with pytest.raises(ParameterError, match=message):
        protocol.run(*arguments)


@pytest.mark.parametrize("sizes", [3, [2, 3]])
def test_tasks_that_do_not_divide_the_classes_are_refused_before_extraction(imported, tmp_path, monkeypatch, sizes):
    raw = whole(imported / "params.yaml")
    raw["protocols"]["mine"]["classes_per_task"] = sizes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    extracted = shutil.ignore_patterns("features", "results")
    shutil.copytree(imported / "imports", tmp_path / "imports", symlinks=True, ignore=extracted)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^protocols\.mine\.settings\.standard: 4 classes do not divide into"):
        extract.main(["mine", "mini"])
    assert not list(tmp_path.rglob("features"))
    with pytest.raises(SystemExit, match=r"^[^\n]*4 classes do not divide into tasks of [^\n]*$"):
        command(["protocol", "mine"])


@pytest.mark.slow
def test_a_published_family_from_weights_to_accuracy(extracted, monkeypatch):
    """PE-AV's own classes with few random weights in a local folder; patches are 48 wide, sounds 40."""
    from tiny_pe_av import tiny  # transformers takes seconds to import

    monkeypatch.chdir(extracted)
    tiny().save_pretrained("weights")
    extract.main(["mine", "small_pe_av"])
    params = load(Path("params.yaml"))
    place, prescribed = place_of("mine"), params.protocol().model_copy(update={"tokens": "small_pe_av"})
    header = read_store(place.stores / "small_pe_av", encoder="small_pe_av", verify=True).header
    assert header.revision.startswith("local+") and tuple(header.layout) == (4, 4, 25, 48, 40)
    [job] = jobs(place, params, prescribed, ["lll_prior"], Path("pe"))
    results = run_tasks(sweep.datasets(job.source)[0], job.method, job.training, job.tasks, 0, None)
    assert len(results) == 2 and results[0].accuracy[0] >= 0.5
    (extracted / "weights/model.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"^weights: no weights of PeAudioVideo"):
        extract.main(["mine", "small_pe_av"])


@pytest.mark.slow
def test_several_processes_learn_a_row(extracted):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "avcil.comparison.launch", "lll_prior"],
        cwd=extracted,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["task 0", "task 1"]
    assert all(re.match(r"task \d: accuracy (0\.\d{4}|1\.0000) on \d+ clips", line) for line in lines[:2])
    # the tables read it as they read a sweep
    launched, params = extracted / "artifacts/launched/mine", load(extracted / "params.yaml")
    standard = params.protocols["mine"].settings["standard"].model_copy(update={"seeds": [0]})
    alone = params.protocols["mine"].model_copy(update={"settings": {"standard": standard}})
    found = tables.read(launched, alone, ["lll_prior"]).results["standard", "lll_prior", 0]
    assert [f"{tables.accuracy_after(result):.4f}" for result in found] == [line.split()[3] for line in lines[:2]]
    mean = np.mean([tables.accuracy_after(result) for result in found])
    assert lines[3].split()[:3] == ["standard", "lll_prior", str(round(mean, 4))]
    kept = load_result(launched / "sweep/standard/lll_prior/task1/seed0")
    assert kept == found[1]


@pytest.mark.slow
def test_ray_sweeps_to_the_same_results(extracted, monkeypatch):
    pytest.importorskip("ray", reason="the extra avcil[ray] is not installed")
    monkeypatch.chdir(extracted)
    params = load(Path("params.yaml"))
    place = place_of("mine")
    place = place._replace(folder=place.folder.absolute(), stores=place.stores.absolute())
    runs = {}
    for engine in ("local", "ray"):
        made = jobs(place, params, params.protocol(), "all", extracted / "engines" / engine)
        runs[engine] = {name: done.results for name, done in sweep.run(made, workers=1, engine=engine).items()}
    assert runs["ray"] == runs["local"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "pe_avv"], r"encoders: no `pe_avv` \(did you mean `pe_av`\?\)"),
        (["yours", "mini"], r"imports/yours/manifest\.csv: no such file"),
        (["mine", "sam_audio"], r"facebook/sam-audio-base: weights of sam_audio are not here"),
    ],
)
def test_what_cannot_be_extracted_is_one_line(imported, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(imported)
    with pytest.raises(SystemExit, match=message) as error:
        extract.main(arguments)
    assert "\n" not in str(error.value)
