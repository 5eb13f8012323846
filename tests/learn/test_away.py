"""Learning and predicting on a device that is not the CPU: nothing crosses where it should not (tests/away.py)."""

import ast

import away
import nbformat
import pytest
import torch
from toys import TRAINING

from avcil.base import device as devices
from avcil.learn import capacity, train
from avcil.learn.evaluate import TaskResult, read_out
from avcil.learn.feed import Feed
from avcil.learner.learner import Learner
from avcil.params import load
from avcil.params.learning import Method, chain
from avcil.tokens.manifest import write_orders
from avcil.workshop.explore.rows import LiveRun
from conftest import ROOT, toy_dataset

pytestmark = pytest.mark.arithmetic

METHODS = load(ROOT / "params.yaml").methods
QUICK = ("lll_prior", "avcil", "lll_closed")
# of rows that differ by numbers alone, the first
KINDS = {
    (row.fusion, row.classifier, row.readout, *row.hooks, row.cross_entropy): name
    for name, row in reversed(METHODS.items())
}
# random features: as many as the toy data are told apart by, not the thousands that take most of the time
FEW = {readout: {"expansion": 100} for readout in ("ranpac", "acil", "mmal")}
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in reversed(KINDS.values())]


def _row(name: str) -> Method:
    row = METHODS[name]
    options = row.readout_options | FEW.get(row.readout, {})
    return row.model_copy(update={"patches": None, "readout_options": options})


# ---- the device of these tests


def test_it_refuses_what_a_gpu_refuses():
    with away.device() as copies:
        there, here = torch.arange(3.0).to(away.AWAY), torch.arange(3.0)
        assert there.device == away.AWAY and (2 * there + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5]
        for crossing in (
            lambda: there + here,
            lambda: there[torch.tensor([0])],
            lambda: torch.cat([there, here]),
            lambda: there.index_add_(0, torch.tensor([0]), there[:1]),
            lambda: there.double(),
        ):
            with pytest.raises(away.Crossing):
                crossing()
        assert copies == {"to the device": 1, "to the CPU": 1}
        there[:2] = 7.0
        assert there.sum().item() == 16 and copies["number to the CPU"] == 1
        assert torch.zeros(2, device=away.AWAY).add_(there[:2]).cpu().tolist() == [7, 7]
    with pytest.raises(NotImplementedError):
        torch.zeros(1).to("meta").cpu()


# ---- learning


@pytest.mark.parametrize("name", CASES)
def test_a_row_learns_there_what_it_learns_on_the_cpu(name):
    """And however many steps it takes, as often something is fetched: no step waits for a number, or for a tensor."""
    data, method = toy_dataset(), _row(name)
    fetched, runs = [], []
    for batch in (24, 12):
        training = TRAINING.model_copy(update={"batch": batch, "keep": "best_all"})
        with away.device() as copies:
            runs.append(train.run_tasks(data, method, training, chain([2, 2], 1), 0, None, device="meta"))
        fetched.append(copies["to the CPU"] + copies["number to the CPU"])
        assert copies["to the device"] > 0
    assert fetched[0] == fetched[1]
    _are_those_of_the_cpu(runs[1], train.run_tasks(data, method, training, chain([2, 2], 1), 0, None))


def _are_those_of_the_cpu(there: list[TaskResult], here: list[TaskResult]) -> None:
    """But for rounding: the CPU has kernels of its own."""
    for one, other in zip(there, here, strict=True):
        assert sum(label != one.predictions[clip] for clip, label in other.predictions.items()) <= 1
        measured = [result._replace(predictions={}, accuracy=[], hit=None, auc=None) for result in (one, other)]
        assert measured[0] == measured[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", CASES)
def test_a_row_learns_on_a_gpu_what_it_learns_on_the_cpu(name):
    """`python benchmarks/gpu.py --only rows` runs it; no GPU was at hand when it was written."""
    data, method = toy_dataset(), _row(name)
    there, here = (
        train.run_tasks(data, method, TRAINING, chain([2, 2], 1), 0, None, device=d) for d in ("cuda", "cpu")
    )
    _are_those_of_the_cpu(there, here)


def test_clips_that_do_not_fit_are_streamed_to_it(toy):
    rows = torch.arange(0, 120, 5)
    with away.device() as copies:
        feed = Feed(toy.tokens, rows, "meta", room=0)
        read = [clips.visual.cpu() for clips in feed.batches([torch.tensor([2, 0]), torch.tensor([1])])]
        assert feed.streamed and copies["to the device"] == 6
    torch.testing.assert_close(torch.cat(read), toy.tokens.visual[rows[[2, 0, 1]]])


# ---- predicting


@pytest.mark.parametrize("name", ["lll_prior", "lll_analytic", "lll_closed"])
def test_a_checkpoint_answers_there_as_on_the_cpu(toy, name):
    method = _row(name)
    run = LiveRun(toy, method, TRAINING, chain([2], 1), 0, device="meta")
    with away.device():
        run.run()
        there = read_out(run.checkpoints[0], method, TRAINING, toy.tokens, device="meta").logits
    torch.testing.assert_close(there, read_out(run.checkpoints[0], method, TRAINING, toy.tokens).logits)


def test_a_learner_learns_and_predicts_there(toy, params, tmp_path):
    labels = [toy.order[label] for label in toy.labels]
    learner = Learner(params=params, root=ROOT)
    assert learner.device == params.compute.device == "cpu"
    learner.fit(toy.tokens, labels)
    learner.save(tmp_path / "here")
    away_one = Learner.load(tmp_path / "here", device="meta")
    with away.device() as copies:
        found, counts = away_one.predict(toy.tokens), [copies["to the device"]]
        away_one.fit(toy.tokens, labels)
        counts.append(copies["to the device"])
        again = away_one.predict(toy.tokens)
        assert away_one.device == "meta" and 0 < counts[0] < counts[1] < copies["to the device"]
    for one, other, third in zip(learner.predict(toy.tokens), found, again, strict=True):
        assert one.label == other.label == third.label and one.unknown == pytest.approx(third.unknown, rel=1e-4)
    assert away_one.checkpoint.readout["gram"].device.type == "cpu"


# ---- it reaches everything

NAMES = {"run_task", "run_tasks", "read_out", "Job", "Link", "LiveRun", "answer", "answer_of", "load_published"}
# single clips, whose bytes are a part of figures and of the report
ON_THE_CPU = {("avcil/workshop/report/clips.py", "answer"), ("avcil/results/attention.py", "read_out")}


def calls(source: str) -> set[tuple[str, bool]]:
    """Of calls by those names: the name, and whether a device is given."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if name in NAMES:
            by_name = bool({"device", None} & {keyword.arg for keyword in node.keywords})
            found.add((name, by_name or (name == "load_published" and len(node.args) >= 2)))
    return found


def test_whatever_learns_or_predicts_says_on_which_device():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "avcil").rglob("*.py")}
    sources["benchmarks/transfer.py"] = (ROOT / "benchmarks/transfer.py").read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        sources[path.name] = "\n".join(cell for cell in cells if not cell.startswith("%%"))
    made = {(file, name, given) for file, source in sources.items() for name, given in calls(source)}
    assert {name for _, name, _ in made} == NAMES
    assert {(file, name) for file, name, given in made if not given} == ON_THE_CPU


def test_runs_of_a_protocol_and_trials_of_a_search_are_on_compute_device(params, tmp_path, monkeypatch):
    from avcil.comparison import protocol, search, sweep

    elsewhere = params.model_copy(update={"compute": params.compute.model_copy(update={"device": "cuda:1"})})
    place, prescribed = protocol.place_of("sounding_objects"), elsewhere.protocol()
    alone = prescribed.model_copy(update={"settings": {"standard": prescribed.settings["standard"]}})
    order, seeds = [f"class{number}" for number in range(20)], [*prescribed.seeds, *params.search.worlds]
    write_orders(tmp_path / "orders.json", dict.fromkeys(seeds, order))
    there = sweep.Source(ROOT / "corpus/sounding_objects/manifest.csv", tmp_path / "orders.json", tmp_path)
    monkeypatch.setattr(protocol, "_source", lambda *_: there)
    monkeypatch.setattr(protocol.worlds, "drawn", lambda *_: place)
    asked = search.jobs(elsewhere, tmp_path)
    assert asked and {job.device for job in asked} == {"cuda:1"}
    made = protocol.jobs(place, elsewhere, alone, ["ridge"], tmp_path)
    assert made and {job.device for job in made} == {"cuda:1"}


# ---- several runs share it


def test_as_many_runs_at_a_time_as_fit(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(capacity, "free", lambda _: 80)
    assert [capacity.at_once([10, 20], 16, gpu), capacity.at_once([10, 20], 3, gpu)] == [4, 3]
    assert capacity.at_once([100], 16, gpu) == 1, "what does not fit is streamed"
    assert capacity.at_once(iter(()), 16, devices.CPU) == 16
