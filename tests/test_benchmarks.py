"""The benchmarks of kernels and training steps: that they run with torch alone, and what they make of numbers."""

import importlib
import json
import math
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from avcil.comparison.sweep import Done, Source, write_run
from avcil.learn.evaluate import TaskResult
from avcil.tokens.manifest import write_manifest, write_orders
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
gpu, report, scale, timing, transfer, search = map(
    importlib.import_module, ("gpu", "report", "scale", "timing", "transfer", "search")
)
CPU = torch.device("cpu")
RATES = {"copy_gbs": 10.0, "matmul_gflops": {"fp32": 100.0, "bf16": 400.0}}
# the script named first, without what a bare machine lacks
ALONE = """
import runpy, sys

sys.modules.update(dict.fromkeys(("pydantic", "pandas", "dvc", "matplotlib", "seaborn", "yaml", "sklearn")))
sys.argv = sys.argv[1:]
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def quick(script: str, folder) -> dict:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [f"benchmarks/{script}.py", "--quick", "--device", "cpu", "--out", str(folder)]
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (path,) = folder.glob("*.json")
    assert path.name.startswith(script) and path.with_suffix(".md").read_text().startswith("# ")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("script", "groups"), [("kernels", 3), ("training_step", 2)])
def test_benchmarks_run_with_torch_alone(script, groups, tmp_path, monkeypatch):
    found = quick(script, tmp_path)
    assert set(found) >= {"machine", "rates", "groups", "goals", "official", "load_average_after"}
    about = {"device", "slug", "isa", "amx", "avx512_bf16", "cores", "threads", "python", "torch", "triton"}
    assert set(found["machine"]) >= about | {"load_average"}
    assert len(found["groups"]) == groups
    for group in found["groups"].values():
        assert not [row for row in group["variants"] if "failed" in row]
        assert {row["whose"] for row in group["variants"]} >= {"ours", "peer"}
        for row in group["variants"]:
            assert row["ms_p20"] <= row["ms"] <= row["ms_p80"] and row["cpu_ms"] > 0 and row["peak_mib"] > 0
            # the same function, or the same training: the old model's maps are remembered in bfloat16
            exact = row["precision"] == "fp32" and "AV-CIL" not in group["operation"]
            assert row["error"] < (1e-5 if exact else 3e-2), row
        ratios = [value for row in group["ratios"].values() for other in row.values() for value in other.values()]
        assert ratios and all(math.isfinite(value) and value > 0 for value in ratios)
        assert all(ms > 0 for ms in group["roofline_ms"].values())
    if script == "kernels":
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        monkeypatch.delitem(sys.modules, "kernels", raising=False)  # the folder of tests of that name
        kernels = importlib.import_module("kernels")
        kernels.figure(found, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_roofline_is_of_the_algorithm_that_could_be_fastest():
    many_bytes, many_flops = timing.Work(1e9, 20e9), timing.Work(300e9, 1e9)
    # 2 s and 0.01 s; 0.1 s and 3 s
    assert timing.roofline([many_bytes, many_flops], RATES, "fp32") == (2.0, many_bytes)
    # products are four times as fast in bfloat16
    assert timing.roofline([many_bytes, many_flops], RATES, "bf16") == (0.75, many_flops)


def test_ratios_are_medians_over_rounds():
    rows = {"a": {"whose": "ours"}, "b": {"whose": "peer"}, "c": {"whose": "ours"}}
    # the machine was slow in the second round, for both; b alone was disturbed in the third
    times = {"a": [(1, 1), (10, 1), (1, 1)], "b": [(4, 2), (50, 3), (100, 4)], "c": [(2, 1)] * 3}
    assert timing._ratios(rows, times) == {
        "a": {"b": {"wall": 5.0, "cpu": 3.0}},
        "c": {"b": {"wall": 25.0, "cpu": 3.0}},
    }
    assert timing.spread([5, 1, 4, 2, 3, 6]) == (3.5, 2, 5)


def test_rounds_are_interleaved():
    order = []
    timing.interleaved({name: lambda name=name: order.append(name) for name in "abc"}, CPU, 2, calls=2)
    assert "".join(order) == "aabbccaabbcc"


def test_peak_memory_counts_what_is_freed_and_what_is_kept():
    kept = []

    def run() -> None:
        if not kept:
            kept.append(torch.ones(1 << 20))
        # 16 MiB at a time, twice
        for _ in range(2):
            torch.ones(1 << 22).sum()

    allocated, resident = timing.peak_memory(run, CPU)
    assert 20 <= allocated < 20.1
    # malloc may leave a hole and take new memory for the second
    assert resident is None or 15 < resident < 40


def test_a_variant_that_fails_is_reported_and_the_others_are_measured():
    def fail() -> dict:
        raise RuntimeError("out of luck\nand more")

    three = torch.tensor([3.0])
    variants = [
        timing.Variant("fine", "ours", "fp32", lambda: {"x": three * 1.5, "unknown": three}),
        timing.Variant("broken", "peer", "fp32", fail),
        timing.Variant("other", "peer", "fp32", lambda: {"x": three + 0}),
    ]
    works = {"fp32": [timing.Work(1e3, 1e3)]}
    found = timing.measure(timing.Group("op", "B1", variants, {"x": three}, works), CPU, RATES, 2)
    fine, broken, other = found["variants"]
    assert fine["errors"] == {"x": 0.5} and fine["error"] == 0.5 and other["error"] == 0
    assert broken["failed"] == "RuntimeError: out of luck" and "ms" not in broken
    assert set(found["ratios"]["fine, fp32"]) == {"other, fp32"}
    assert "did not run: RuntimeError: out of luck" in "\n".join(report.table(found))


def test_goals():
    goals = [
        report.Goal("fast", "cpu", 2, lambda found: found["ratio"]),
        report.Goal("small", "cpu", 0.5, lambda found: found["share"], at_most=True),
        report.Goal("unknown", "cpu", 1, lambda found: None),
        report.Goal("elsewhere", "cuda", 1, lambda found: 2),
    ]
    judged = report.judged(goals, {"ratio": 3.0, "share": 0.6}, "cpu")
    assert [(row["goal"], row["wanted"], row["reached"], row["met"]) for row in judged] == [
        ("fast", "at least 2", 3.0, True),
        ("small", "at most 0.5", 0.6, False),
        ("unknown", "at least 1", None, None),
    ]


def test_what_a_gpu_gave_is_written_and_a_failed_step_fails(tmp_path, monkeypatch, capsys):
    steps = {
        "tests": [sys.executable, "-c", f"print('{ROOT}/tests: 4 passed'); print()"],
        "races": [sys.executable, "-c", "1 / 0"],
    }
    monkeypatch.setattr(gpu, "commands", lambda *_: steps)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "machine", lambda _: {"device": "NVIDIA X", "slug": "nvidia_x"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for only, status in (([], 1), (["--only", "tests"], 1)):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *only])
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        found = json.loads((tmp_path / "gpu_nvidia_x.json").read_text())
        assert ended.value.code == status and set(found["steps"]) == {"tests", "races"}
        assert found["steps"]["tests"]["last_lines"] == ["tests: 4 passed"]
        assert (
            found["steps"]["races"]["status"] == 1 and "ZeroDivisionError" in found["steps"]["races"]["last_lines"][-1]
        )
    assert "| tests | 0 |" in (tmp_path / "gpu_nvidia_x.md").read_text()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2 and "torch sees no GPU" in capsys.readouterr().err


def test_the_collection_keeps_its_lines_of_rows_that_were_not_learnt_again(tmp_path):

    def result(right, predictions):
        return TaskResult(0, [right], [10], None, None, predictions, 0, 0)

    lines = [("k", "k.mp4", "a", "train"), ("l", "l.mp4", "b", "train")]
    lines += [("y", "y.mp4", "b", "test"), ("x", "x.mp4", "a", "test"), ("z", "z.mp4", "a", "test")]
    write_manifest(tmp_path / "manifest.csv", pd.DataFrame(lines, columns=["clip_id", "path", "label", "split"]))
    write_orders(tmp_path / "orders.json", {0: ["b", "a"]})
    sources = {"DEV-C": Source(tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path), "DEV-D": None}
    file = tmp_path / "runs/DEV-C/table/lll_closed/seed0.json"
    file.parent.mkdir(parents=True)
    write_run(file, Done([result(0.5, {}), result(0.9, {"z": 0, "y": 0, "x": 1})], 1.0), {})
    lines = [("DEV-C", "table", row, 0, 0.7, 0.8) for row in ("lll_closed", "ridge", "without_both_levels")]
    known = pd.DataFrame(lines, columns=["collection", "part", "row", "seed", "average_accuracy", "last_accuracy"])
    pipeline = pd.DataFrame(
        [
            ("standard", "ridge", 4, 0.6, 0.5, "01"),
            ("worlds", "ridge", 4, 0.6, 0.1, None),
            ("standard", "lwf", 4, 0.6, 0.1, "00"),
        ],
        columns=["setting", "method", "seed", "average_accuracy", "last_accuracy", "correct"],
    )
    table = transfer.table(tmp_path, known, pipeline, sources).set_index(["collection", "part", "row", "seed"])
    # x and y are right, in the order of their names
    assert table.correct.dropna().to_dict() == {
        ("DEV-C", "table", "lll_closed", 0): "110", ("Sounding Objects", "table", "ridge", 4): "01",
    }  # fmt: skip
    assert table.last_accuracy.to_dict() == {
        ("DEV-C", "table", "lll_closed", 0): 0.9,
        ("DEV-C", "table", "ridge", 0): 0.8,
        ("DEV-C", "table", "without_both_levels", 0): 0.8,
        # as a form of distillation: none
        ("DEV-C", "with exemplars", "none", 0): 0.8,
        ("Sounding Objects", "table", "ridge", 4): 0.5,
    }


def test_of_the_embedded_benchmark_the_collection_tells_what_the_pipeline_learnt():
    committed, pipeline = transfer.read(ROOT / transfer.TABLE), transfer.of_pipeline(ROOT / "metrics")
    pd.testing.assert_frame_equal(transfer.table(ROOT / "none", committed, pipeline, {}), committed)


def test_a_row_is_collected_once_all_its_trials_are_there(params, tmp_path, monkeypatch):
    names = [("ridge", "as it ships"), ("ridge", "penalty 3"), ("slda", "as it ships")]
    monkeypatch.setattr(search.search, "trials", lambda _: dict.fromkeys(names))
    world = params.search.worlds[0]
    embedded = pd.DataFrame(
        [(row, trial, at, 0.5 + 0.1 * (at != world)) for row, trial in names for at in params.search.worlds],
        columns=["row", "trial", "world", "last_accuracy"],
    )
    known = pd.DataFrame([("slda", "as it ships", "DEV-C", 0.25)], columns=search.COLUMNS)
    for collection in transfer.COLLECTIONS:
        for number, (row, trial) in enumerate(names):
            # slda lacks one, and a trial that search.yaml has no more lies about
            if collection == transfer.EMBEDDED or (row, collection) == ("slda", "DEV-D"):
                continue
            for name in (trial, "gone"):
                file = tmp_path / "trials" / collection / row / f"{name}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_run(file, Done([TaskResult(0, [0.6 + number / 10], [10], None, None, {}, 0, 0)], 1.0), {})
    table = search.table(params, tmp_path, known, embedded)
    assert table[table.row == "slda"].values.tolist() == known.values.tolist()
    ridge = table[table.row == "ridge"]
    assert list(ridge.trial) == ["as it ships"] * 5 + ["penalty 3"] * 5
    assert list(ridge.collection) == [*transfer.COLLECTIONS] * 2
    assert dict(zip(ridge.collection[:5], ridge.last_accuracy[:5], strict=True)) == {
        name: 0.5 if name == transfer.EMBEDDED else 0.6 for name in transfer.COLLECTIONS
    }
    # the page compares our own row with the trials of others
    ours = ridge[ridge.trial == "as it ships"].assign(row="lll_closed", last_accuracy=0.75)
    *_, line, blank, told = search.document(pd.concat([ours, ridge])).splitlines()
    assert blank == "" and told == (
        "On average LLL, closed form has 75.0 as it ships; the best trial of any other row reaches 66.0 (ridge, "
        "frozen; penalty 3), and that of a published row reaches 66.0 (ridge, frozen; penalty 3)."
    )
    # four of five are ahead by ten points
    assert line == "| ridge, frozen | 1 | 58.0 | penalty 3 | +8.0 (+10.0, +10.0, +0.0, +10.0, +10.0) |"


def test_of_the_prior_s_tokens_the_search_of_the_collection_tells_what_make_search_scored(params):
    scored = pd.read_csv(ROOT / "metrics/search.csv")
    scored = scored[scored.world == params.search.worlds[0]].set_index(["row", "trial"]).last_accuracy
    table = pd.read_csv(ROOT / search.TABLE)
    own = table[table.collection == transfer.EMBEDDED].set_index(["row", "trial"]).last_accuracy
    assert len(own) > 50 and own.to_dict() == scored[own.index].to_dict()


def test_pages_say_what_was_measured():
    """They are written as something is measured, and docs/ shows them as they stand."""
    results, goals = ROOT / "benchmarks/results", report.goals_by_device(ROOT / "benchmarks/results")
    runs, cases = transfer.read(results / "development.csv"), pd.read_csv(results / "scale.csv")
    said = {"scale": scale.document(cases), "development": transfer.document(runs)}
    said |= {"distillation": transfer.distillation(runs), "goals": goals.rstrip("\n")}
    said["search"] = search.document(pd.read_csv(results / "search.csv"))
    assert {name: (results / f"{name}.md").read_text() for name in said} == {k: f"{v}\n" for k, v in said.items()}


def test_a_row_that_lacks_a_collection_comes_last_without_a_rank():
    """As one of one's own does, for which `benchmarks/transfer.py --rows` was run on a part."""
    runs = transfer.read(ROOT / "benchmarks/results/development.csv")
    part = runs[(runs.row == "lll_closed") & (runs.part == "table") & (runs.collection == "DEV-C")]
    lines = transfer.document(pd.concat([runs, part.assign(row="lwf")])).splitlines()
    means, leads = [line for line in lines if line.startswith("| LwF")]
    assert lines[lines.index(means) + 1] == "" and means.endswith(" |  |  |  |  |  |")
    assert leads.count("|  ") == 4 and "nan" not in means + leads
