"""The field from released files to results: what a protocol prescribes is what runs, and what ran is not run again.

Made-up features in the authors' layout: 6 classes, 8 slots x 4 patches x 16 channels, each class with a look and a
sound of its own.
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from avcil.base import device, processes
from avcil.base.files import write_json
from avcil.comparison import launch, sweep, worlds
from avcil.comparison import protocol as protocols
from avcil.comparison.worlds import Place
from avcil.learn import capacity
from avcil.learn.checkpoint import EMPTY
from avcil.learn.train import run_task
from avcil.params import parse
from avcil.params.comparison import Protocol
from avcil.tokens.manifest import read_manifest, write_manifest, write_orders
from avcil.tokens.store import MappedTokens, read_store
from avcil.tokens.tokens import Tokens
from avcil.workshop.official import import_features
from conftest import ROOT

pytestmark = pytest.mark.arithmetic

CLASSES = ["whistle", "Bark", "car, red", "accordion", "zither", "Mower"]
COUNTS = {"train": 8, "val": 3, "test": 4}
SLOTS, PATCHES, CHANNELS, BUDGET = 8, 4, 16, 8
# bytes that an exemplar takes in float16: visual and audio tokens, and, for lll_prior, similarity
CLIP = 2 * CHANNELS * (SLOTS * PATCHES + 1)
CLIP_BYTES = {"avcil_finetune": 0, "lll_prior": CLIP + 2 * SLOTS * PATCHES, "avcil": CLIP}
SHARED = "sharedvideo_000077"  # of the video of a test clip in the whole import


def _clips() -> dict[str, dict[int, list[str]]]:
    members = {s: {c: [f"{s:_<9}{c}{i}_000012" for i in range(n)] for c in range(6)} for s, n in COUNTS.items()}
    members["test"][0][0] = SHARED[:11] + "_000099"
    members["train"][0].append(SHARED)
    return members


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> dict[str, Path]:
    """The same released folder, imported whole and video-disjoint."""
    folder = tmp_path_factory.mktemp("released")
    rng = np.random.default_rng(0)
    looks, sounds = rng.standard_normal((2, 6, CHANNELS))
    members, audio, visual = _clips(), {}, {}
    for clip, c in ((clip, c) for split in members.values() for c, ids in split.items() for clip in ids):
        audio[clip] = (sounds[c] + rng.standard_normal(CHANNELS)).astype("f4")
        visual[clip] = (looks[c] + rng.standard_normal((SLOTS * PATCHES, CHANNELS))).astype("f4")
    content = {
        "category_encode_dict": {name: c for c, name in enumerate(CLASSES)},
        "all_classId_vid_dict": members,
        "all_id_category_dict": {s: {v: CLASSES[c] for c, ids in m.items() for v in ids} for s, m in members.items()},
        "audio_pretrained_feature_dict": audio,
        "visual_pretrained_feature_dict": visual,
    }
    for name, value in content.items():
        np.save(folder / f"{name}.npy", value)
    places = {"whole": folder / "imports/whole", "disjoint": folder / "imports/disjoint"}
    for name, place in places.items():
        import_features(folder, place, video_disjoint=name == "disjoint")
    return places


def _protocol(**changes) -> Protocol:
    common = {
        "classes_per_task": 2, "epochs": 3, "class_order": "official", "seeds": [0, 1],
        "exemplars": BUDGET, "budget": "total", "tokens": "official",
        "rows": ["avcil_finetune", "lll_prior", "avcil", "ridge"],
        "training": {
            "optimiser": "adam", "schedule": "constant", "learning_rate": 1e-2, "later_learning_rate": 1e-2,
            "batch": 16, "exemplar_batch": 4, "drop_last": True, "width": 16, "keep": "best_all",
        },
        "settings": {"standard": {}, "new_classes_only": {"keep": "best_new"}},
    }  # fmt: skip
    chosen = common | changes
    return Protocol(**chosen, epochs_of={"ridge": 1} if "ridge" in chosen["rows"] else {})


@pytest.fixture
def field(params):
    """params.yaml; the made-up grid is 2 x 2 already."""
    methods = params.methods | {"avcil": params.methods["avcil"].model_copy(update={"patches": None})}
    return params.model_copy(update={"methods": methods})


@pytest.fixture
def jobs(imported, field):
    def make(out: Path, place: str = "whole", asked="all", **changes) -> list[sweep.Job]:
        folder = imported[place]
        return protocols.jobs(Place(folder, folder / "features"), field, _protocol(**changes), asked, out)

    return make


@pytest.fixture
def in_process():
    """For jobs that run without workers, under the conditions of one."""
    torch.set_num_threads(1)
    sweep.datasets.cache_clear()
    yield
    sweep.datasets.cache_clear()


def test_jobs_are_what_the_protocol_prescribes(jobs, params, tmp_path):
    found = {(job.name, job.seed): job for job in jobs(tmp_path)}
    names = [(s, r) for s in ("standard", "new_classes_only") for r in _protocol().rows]
    assert list(found) == [(name, seed) for name in names for seed in (0, 1)]
    assert len({job.file for job in found.values()}) == len(found)
    assert {job.file for job in found.values()} == {
        tmp_path / "sweep" / setting / row / f"seed{seed}.json" for (setting, row), seed in found
    }
    for ((setting, row), seed), job in found.items():
        assert job.seed == seed and job.split == "test"
        assert job.training.keep == ("best_all" if setting == "standard" else "best_new")
        assert job.training.width == 16 and job.training.temperature == params.training.temperature
        assert [(task.id, task.from_, task.classes) for task in job.tasks] == [
            (0, "init", 2), (1, "task0", 2), (2, "task1", 2),
        ]  # fmt: skip
        assert {task.epochs for task in job.tasks} == {1 if row == "ridge" else 3}
        kept = (BUDGET, "total") if row in ("lll_prior", "avcil") else (5, "per_class")
        assert (job.method.exemplars, job.method.budget) == kept
        assert sweep.datasets(job.source)[seed].order == CLASSES


@pytest.mark.parametrize("chained", [True, False])
def test_checkpoints_are_kept_in_the_first_setting_alone_those_that_dvc_versions_apart(
    imported, field, tmp_path, chained
):
    """It versions the headline's of the embedded benchmark; of imported ones all stand beside results."""
    place = Place(imported["whole"], imported["whole"] / "features", chained=chained)
    protocol = _protocol(headline=["lll_prior", "ridge"])
    for job in protocols.jobs(place, field, protocol, "all", tmp_path):
        setting, row = job.name
        kept = tmp_path / (f"runs/others/{row}" if chained and row == "ridge" else f"sweep/standard/{row}")
        assert job.folder == (kept if setting == "standard" else None)
        if job.folder:
            job.folder.mkdir(parents=True, exist_ok=True)
            assert protocols.run_folder(tmp_path, row, 0, 1) == kept / "task0/seed1"


@pytest.mark.parametrize(("setting", "seed"), [("standard", 99), ("elsewhere", 0)])
def test_what_a_protocol_does_not_have_is_not_launched(params, setting, seed):
    with pytest.raises(ValueError, match=f"^no seed {seed} in a setting `{setting}` of the protocol of sound"):
        launch.learn(params, "ridge", setting, seed, "cpu")


def test_what_a_chain_of_stages_learns_is_no_job(imported, field, tmp_path):
    """`lll_prior`, in the first setting of the embedded benchmark."""
    place = Place(imported["whole"], imported["whole"] / "features", chained=True)
    found = {job.name for job in protocols.jobs(place, field, _protocol(), "all", tmp_path)}
    assert ("standard", "lll_prior") not in found and len(found) == 7 and ("new_classes_only", "lll_prior") in found


def test_no_exemplars_turn_the_memory_off(jobs, tmp_path, in_process):
    settings = {"none": {"exemplars": 0, "rows": ["lll_prior", "ridge", "avcil_joint"], "seeds": [1]}}
    found = {job.name[1]: job for job in jobs(tmp_path, settings=settings)}
    assert {row: job.method.memory for row, job in found.items()} == {
        "lll_prior": "none", "ridge": "none", "avcil_joint": "all",
    }  # fmt: skip
    assert {job.seed for job in found.values()} == {1}
    assert [result.memory_bytes for result in sweep.run_job(found["lll_prior"]).results] == [0, 0, 0]


def test_a_setting_may_have_tokens_of_its_own(jobs, tmp_path):
    found = jobs(tmp_path, rows=["ridge"], seeds=[0], settings={"standard": {}, "other": {"tokens": "mini-1"}})
    assert {job.name[0]: job.source.store.name for job in found} == {"standard": "official", "other": "mini-1"}


def test_classes_that_do_not_divide_are_one_clear_line(jobs, tmp_path):
    for wrong in (4, [4, 3]):
        with pytest.raises(
            ValueError, match=rf"^6 classes do not divide into tasks of {re.escape(str(wrong))}; change"
        ):
            jobs(tmp_path, classes_per_task=wrong)
    with pytest.raises(ValueError, match="at least one class a task"):
        _protocol(classes_per_task=[6, 0])


def test_tasks_may_differ_in_size(jobs, tmp_path):
    """As a base session and few-shot ones after it."""
    assert {tuple(task.classes for task in job.tasks) for job in jobs(tmp_path, classes_per_task=[4, 1, 1])} == {
        (4, 1, 1)
    }


@pytest.fixture
def four(tmp_path) -> Place:
    """Four classes with a clip in each split."""
    return _place(tmp_path / "four")


def _place(folder: Path) -> Place:
    folder.mkdir(parents=True)
    table = [(f"{s}{c}", f"{s}{c}.mp4", f"class{c}", s) for s in ("train", "val", "test") for c in range(4)]
    pd.DataFrame(table, columns=["clip_id", "path", "label", "split"]).to_csv(folder / "manifest.csv", index=False)
    return Place(folder, folder / "features")


# ---- what a protocol says


def test_a_benchmark_that_is_chosen_leaves_the_embedded_one_s_protocol_as_it_is(raw_params):
    assert parse(raw_params | {"benchmark": "ave"}).protocols == parse(raw_params).protocols


def test_runs_that_the_protocol_has_no_more_are_deleted(tmp_path):
    protocol = _protocol(headline=["lll_prior"], settings={"standard": {}})
    files = {
        "runs/lll_prior/task0/seed0/result.json": True, "runs/others/lll_prior/task0/seed0/result.json": True,
        "runs/others/avcil/task0/seed0/result.json": False,
        "sweep/standard/manifest.csv": True, "sweep/standard/world1/manifest.csv": True,
        "sweep/standard/ridge/seed0.json": True, "sweep/standard/mine/seed0.json": True,
        "sweep/standard/gone/seed0.json": False, "sweep/old_setting/ridge/seed0.json": False,
    }  # fmt: skip
    for name in files:
        write_json(tmp_path / name, {})
    protocols.drop_others(tmp_path, protocol, ["lll_prior", "avcil", "ridge", "mine"])
    assert {name: (tmp_path / name).exists() for name in files} == files
    protocols.drop_others(tmp_path / "nothing yet", protocol, [])


# ---- a world a seed


def test_worlds_take_the_released_priors_in_turn(params):
    assert [worlds.prior_of(seed, params) for seed in range(7)] == [
        "mini", "mini-1", "mini-2", "mini", "mini-1", "mini-2", "mini",
    ]  # fmt: skip


def test_each_seed_of_a_setting_with_worlds_learns_in_its_own(field, four, tmp_path, monkeypatch):
    made = []

    def drawn(seed, folder, params, tokens):
        assert tokens == ("mini", "random")
        made.append((seed, folder, params))
        return _place(tmp_path / f"drawn{seed}")

    monkeypatch.setattr(worlds, "drawn", drawn)
    protocol = _protocol(
        class_order="drawn", rows=["ridge", "lll_prior"], tokens=None,
        settings={
            "standard": {}, "worlds": {"worlds": True, "seeds": [0, 7, 8]},
            # what it learns from is extracted in the worlds of others, too
            "worlds_untrained": {"worlds": True, "seeds": [0], "tokens": "random", "rows": []},
        },
    )  # fmt: skip
    out = tmp_path / "out"
    found = protocols.jobs(four, field, protocol, "all", out)
    assert made == [(7, out / "worlds", field), (8, out / "worlds", field)]
    of = {job.seed: job.source for job in found if job.name == ("worlds", "ridge")}
    assert of == {job.seed: job.source for job in found if job.name == ("worlds", "lll_prior")}
    stores = {0: four.folder, 7: tmp_path / "drawn7", 8: tmp_path / "drawn8"}
    assert {seed: source.store for seed, source in of.items()} == {
        seed: folder / "features/mini" for seed, folder in stores.items()
    }
    assert {seed: source.manifest.parent for seed, source in of.items()} == {
        seed: out / f"sweep/worlds/world{seed}" for seed in of
    }
    assert all(str(seed) in json.loads(source.orders.read_text()) for seed, source in of.items())
    # of the protocol's other settings, none is drawn
    made.clear()
    protocols.jobs(four, field, protocol, "headline", out)
    assert not made


def test_worlds_that_a_setting_changes_are_apart_from_the_others(field, four, tmp_path, monkeypatch):
    """The first seed's is drawn too: it is not the shipped one."""
    made = []
    monkeypatch.setattr(worlds, "drawn", lambda *drawn: made.append(drawn) or _place(tmp_path / f"drawn{len(made)}"))
    changes = {"world": {"twin_in_view": 0.0}, "clips_per_class": {"train": 3, "val": 0, "test": 2}}
    protocol = _protocol(
        class_order="drawn", rows=["ridge"], tokens=None,
        settings={"worlds_alone": {"worlds": True, "seeds": [0, 7]} | changes},
    )  # fmt: skip
    protocols.jobs(four, field, protocol, "all", tmp_path / "out")
    assert [drawn[:2] for drawn in made] == [(seed, tmp_path / "out/worlds/worlds_alone") for seed in (0, 7)]
    for _, _, params, _ in made:
        assert params.world == field.world.model_copy(update=changes["world"])
        assert params.corpus.clips_per_class == changes["clips_per_class"] and params.film == field.film


def _killed(*_, **__):
    raise KeyboardInterrupt


def _again(*_, **__):
    raise AssertionError("it was there")


def test_a_world_is_made_once_and_another_seed_s_has_other_clips(params, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tiny = params.model_copy(
        update={
            "world": params.world.model_copy(update={"classes": 4, "timbres": 2, "silent_objects": (1, 1)}),
            "corpus": params.corpus.model_copy(update={"clips_per_class": {"train": 1, "val": 1, "test": 1}}),
            "compute": params.compute.model_copy(update={"workers": 0}),
        }
    )
    with monkeypatch.context() as patched:
        patched.setattr(worlds.shutil, "rmtree", _killed)  # while it deletes the clips
        with pytest.raises(KeyboardInterrupt):
            worlds.drawn(1, tmp_path, tiny)
    with monkeypatch.context() as patched:
        patched.setattr(worlds, "extract", _again)
        one = worlds.drawn(1, tmp_path, tiny)
    two = worlds.drawn(2, tmp_path, tiny, ("random",))
    stores = {place.folder.name[0]: read_store(place.stores / "random") for place in (one, two)}
    # the same names, heard and seen by the same encoder, and yet none is the same clip
    assert stores["1"].header.clip_ids == stores["2"].header.clip_ids and len(stores["1"].header.clip_ids) == 12
    audio = [store.tokens.clips(slice(0, 12)).audio for store in stores.values()]
    assert not any(torch.equal(a, b) for a, b in zip(*audio, strict=True))
    assert read_store(one.stores / "mini").header.encoder == "mini-1"
    assert not (one.folder / "clips").exists() and read_manifest(one.folder / "manifest.csv").label.nunique() == 4

    with monkeypatch.context() as patched:
        patched.setattr(worlds, "write_corpus", _again)
        patched.setattr(worlds, "extract", _again)
        assert worlds.drawn(1, tmp_path, tiny) == one
        # other scenes are another world, and the old one goes
        with pytest.raises(AssertionError, match="it was there"):
            worlds.drawn(1, tmp_path, tiny.model_copy(update={"corpus": params.corpus}))
    assert not one.folder.exists() and two.folder.exists()


# ---- what is learnt


def test_video_disjoint_runs_learn_from_no_test_video(jobs, tmp_path, in_process):
    [job] = jobs(tmp_path, place="disjoint", rows=["ridge"], seeds=[0], settings={"standard": {}})
    table = read_manifest(job.source.manifest)
    videos = table.clip_id.str[:11]
    assert SHARED not in set(table.clip_id) and SHARED[:11] in set(videos[table.split == "test"])
    assert not set(videos[table.split == "train"]) & set(videos[table.split == "test"])
    assert len(sweep.datasets(job.source)[0].splits["train"]) == 6 * COUNTS["train"]
    assert sweep.run_job(job).results[-1].clips == [8, 8, 8]


def test_the_best_epoch_by_new_classes_reads_no_validation_clip_of_old_ones(jobs, tmp_path, in_process):
    """Old classes' validation clips get labels of one another. The control: by all classes, other epochs are kept."""
    changed = set()
    for job in jobs(tmp_path, rows=["avcil_finetune", "lll_prior"], epochs=6):
        data = sweep.datasets(job.source)[job.seed]
        start, _, _ = run_task(data, job.method, job.training, job.tasks, 0, job.seed, EMPTY)
        labels = data.labels.clone()
        old = data.rows("val", 0, 2)
        labels[old] = 1 - labels[old]
        assert len(old) == 6
        after = [
            run_task(d, job.method, job.training, job.tasks, 1, job.seed, start)
            for d in (data, data._replace(labels=labels))
        ]
        same = all(torch.equal(a, b) for a, b in zip(*(c.model.values() for c, _, _ in after), strict=True))
        if job.training.keep == "best_new":
            assert same and after[0][1] == after[1][1], job.name
        elif not same:
            changed.add(job.name)
    assert changed


def _check(row: str, results: list, members: dict) -> None:
    """What every run must fulfil, whatever it learnt."""
    for t, result in enumerate(results):
        seen = 2 * (t + 1)
        truth = {clip: c for c in range(seen) for clip in members["test"][c]}
        assert result.task == t and result.clips == [8] * (t + 1)
        assert result.predictions.keys() == truth.keys(), "the classes are learnt in the authors' order"
        assert set(result.predictions.values()) <= set(range(seen))
        right = [[result.predictions[v] == c for v, c in truth.items() if c // 2 == u] for u in range(t + 1)]
        np.testing.assert_allclose(result.accuracy, [np.mean(r) for r in right], rtol=1e-6)
        if row == "ridge":
            assert result.predictions == truth, "a ridge on these features errs nowhere"
        else:
            assert result.memory_bytes == BUDGET // seen * seen * CLIP_BYTES[row]
        assert result.hit is None


@pytest.mark.slow
def test_a_sweep_is_the_same_whoever_runs_it_and_is_not_run_twice(jobs, params, tmp_path, monkeypatch, in_process):
    made = {workers: jobs(tmp_path / str(workers)) for workers in (1, 2)}
    done = {workers: sweep.run(todo, workers=workers) for workers, todo in made.items()}
    assert list(done[1]) == list(done[2]) == [(job.name, job.seed) for job in made[1]]
    for key, one in done[1].items():
        assert one.results == done[2][key].results, key
        _check(key[0][1], one.results, _clips())
    forgets = np.mean([done[1][("standard", "avcil_finetune"), seed].results[-1].accuracy[0] for seed in (0, 1)])
    assert forgets < 0.5, "fine-tuning forgets the first task"

    runs = []

    def poisoned(*arguments, **options):
        runs.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_tasks", poisoned)
    before = {job.file: job.file.stat().st_mtime_ns for job in made[1]}
    for job in made[1]:
        assert sweep.run_job(job) == done[1][job.name, job.seed]
    assert not runs and before == {file: file.stat().st_mtime_ns for file in before}
    job = made[1][-1]
    changes = {
        "training": job.training.model_copy(update={"temperature": 3.0}),
        "method": job.method.model_copy(update={"exemplars": 1}),
        "tasks": [task.model_copy(update={"epochs": 2}) for task in job.tasks],
        "split": "val",
    }
    for name, value in changes.items():
        with pytest.raises(KeyboardInterrupt):
            sweep.run_job(job._replace(**{name: value}))
        assert runs.pop(), name


def test_checkpoints_that_are_gone_are_learnt_again_and_no_others(jobs, tmp_path, in_process):
    job = jobs(tmp_path, rows=["ridge"])[0]._replace(folder=tmp_path / "kept")
    done = sweep.run_job(job)
    files = sorted((tmp_path / "kept").glob("task*/*/*"))
    whole = {file: file.read_bytes() for file in files}
    shutil.rmtree(tmp_path / "kept/task1")
    times = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    assert sweep.run_job(job).results == done.results
    assert {file: file.read_bytes() for file in files} == whole
    assert times == {file: file.stat().st_mtime_ns for file in times}


def test_a_sweep_reads_clips_anew(jobs, tmp_path, in_process):
    """In one process, from files of the same names."""
    job = jobs(tmp_path, rows=["ridge"])[0]
    first = sweep.run([job], workers=1)[job.name, job.seed]
    table = read_manifest(job.source.manifest)
    taught = table.split == "train"
    table.loc[taught, "label"] = table.label[taught].sample(frac=1, random_state=0).to_numpy()
    write_manifest(job.source.manifest, table)
    assert sweep.run([job], workers=1)[job.name, job.seed].results != first.results


def test_on_a_cluster_paths_lead_there_from_any_folder(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = jobs(Path("here"), rows=["ridge"])[0]._replace(folder=Path("kept"))
    asked = []
    monkeypatch.setattr(sweep.ray, "each", lambda work, items, gpus: asked.extend(items) or iter(()))
    with pytest.raises(KeyError):
        sweep.run([job], engine="ray")
    paths = [*asked[0].source, asked[0].file, asked[0].folder]
    assert all(path is None or path.is_absolute() for path in paths) and asked[0].folder == tmp_path / "kept"


def test_workers_share_a_store_that_does_not_fit_once_for_each(jobs, tmp_path, monkeypatch, in_process):
    """Mapped, it is in memory once, however many processes read it; and what they learn is the same."""
    job = jobs(tmp_path, rows=["ridge"])[0]

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, context, begin, arguments):
            super().__init__(1)

    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(device, "_share", 1.0)
    assert len(list(sweep._each(str, [job] * 8, 8))) == 8
    assert device._share == 1 / 8
    monkeypatch.setattr(device, "_share", 1.0)

    held = sweep.run_job(job).results
    assert isinstance(sweep.datasets(job.source)[job.seed].tokens, Tokens)
    monkeypatch.setattr(device, "_share", 0.0)
    sweep.datasets.cache_clear()
    assert sweep.run_job(job._replace(file=tmp_path / "mapped.json")).results == held
    assert isinstance(sweep.datasets(job.source)[job.seed].tokens, MappedTokens)


def test_on_a_gpu_as_many_runs_learn_at_a_time_as_fit(jobs, tmp_path, monkeypatch):
    """Counted from the store and the model, before anything runs."""
    todo = [job._replace(device="meta") for job in jobs(tmp_path, rows=["ridge", "lll_prior"])]
    most = max(capacity.taken(j.source.manifest, j.source.store, j.method, j.training, j.tasks) for j in todo)
    at_once = []
    monkeypatch.setattr(processes, "each", lambda *a, **options: at_once.append((a[2], options["device"].type)) or [])
    for free in (most - 1, 3 * most, 1000 * most):
        monkeypatch.setattr(capacity, "free", lambda _, free=free: free)
        sweep._each(sweep.run_job, todo, 8)
    assert at_once == [(1, "meta"), (3, "meta"), (8, "meta")]


def test_what_a_run_takes_is_at_least_its_clips_and_grows_with_them(jobs, tmp_path, in_process):
    def taken(job, **changes):
        method = job.method.model_copy(update=changes)
        return capacity.taken(job.source.manifest, job.source.store, method, job.training, job.tasks)

    job = next(job for job in jobs(tmp_path, rows=["lll_prior"]) if job.name[0] == "standard")
    data = sweep.datasets(job.source)[job.seed]
    visual, audio, similarity = data.tokens.sizes
    train = 4 * (visual + audio + similarity) * len(data.splits["train"])
    assert capacity.CONTEXT + train < taken(job, memory="all") == taken(job, restart=True)
    assert capacity.CONTEXT < taken(job, fusion="mean") < taken(job) <= taken(job, memory="all")


@pytest.mark.parametrize("what", ["order", "labels"])
def test_a_changed_class_order_or_manifest_runs_again(jobs, tmp_path, in_process, what):
    [job] = jobs(tmp_path, rows=["ridge"], seeds=[0], settings={"standard": {}})
    sweep.run_job(job)
    if what == "order":
        write_orders(job.source.orders, {"0": CLASSES[::-1]})
    else:
        table = read_manifest(job.source.manifest)
        table["label"] = table.label.replace({"whistle": "zither", "zither": "whistle"})
        write_manifest(job.source.manifest, table)
    sweep.datasets.cache_clear()
    data = sweep.datasets(job.source)[0]
    result = sweep.run_job(job).results[0]
    truth = {data.clip_ids[row]: int(data.labels[row]) for row in data.rows("test", 0, 2)}
    assert result.predictions == truth


def test_means_of_exemplars_cannot_be_had_without_exemplars(jobs, tmp_path):
    with pytest.raises(ValueError, match="cannot do without: leave it out"):
        jobs(tmp_path, rows=["icarl_nme"], seeds=[0], settings={"none": {"exemplars": 0}})
