"""Feeding and the old-model cache: the same learning wherever clips are read from, and each question asked once."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import TASKS, TRAINING, row

from avcil import kernels
from avcil.base.files import write_tensors
from avcil.learn import train
from avcil.learn.checkpoint import EMPTY, load_checkpoint
from avcil.learn.evaluate import predict
from avcil.learn.feed import Feed
from avcil.learn.hooks import Batch
from avcil.learn.losses import objective
from avcil.learn.methods import av_cil
from avcil.params import load
from avcil.tokens import mapped
from avcil.tokens.store import Header, MappedTokens, StoreError, finish, open_store, read_store, write_shard
from avcil.tokens.tokens import Layout, Tokens
from conftest import ROOT

pytestmark = pytest.mark.arithmetic

METHODS = load(ROOT / "params.yaml").methods
FIELD = {name: method.model_copy(update={"patches": None}) for name, method in METHODS.items()}
ROWS = torch.tensor([5, 0, 17, 3])


@pytest.fixture
def stored(toy, tmp_path):
    """The toy's tokens in a store of 24 clips a shard; what float16 keeps of them is what there is."""
    tokens = toy.tokens
    layout = Layout(slots=2, patches=16, visual_channels=16, audio_tokens=5, audio_channels=16)
    header = Header("toy", "", "0", {}, layout, toy.clip_ids, 24)
    open_store(tmp_path / "store", header)
    for number, start in enumerate(range(0, 120, 24)):
        part = {name: stream[start : start + 24].half() for name, stream in tokens._asdict().items()}
        write_shard(tmp_path / "store", number, part, {}, f"part {number}")
    finish(tmp_path / "store", header)
    return tmp_path / "store"


# ---- where clips are read from


def test_a_store_larger_than_its_room_is_mapped_and_gives_the_same_tokens(stored):
    held, mapped = (read_store(stored, room=room).tokens for room in (None, 0))
    assert isinstance(mapped, MappedTokens) and not isinstance(held, MappedTokens)
    assert (mapped.shape, mapped.channels, mapped.sizes) == (held.shape, held.channels, held.sizes)
    for index in (torch.tensor([119, 0, 23, 24, 24]), slice(20, 30), torch.arange(0)):
        if len(range(120)[index] if isinstance(index, slice) else index):
            torch.testing.assert_close(mapped.clips(index), held.clips(index), rtol=0, atol=0)


def everything(tokens):
    return tokens.clips(slice(None))


@pytest.mark.parametrize("above", [1 << 31, 0], ids=["float32 in memory", "halves in memory"])
def test_views_of_a_mapped_store_are_those_of_one_in_memory_to_the_bit(stored, monkeypatch, above):
    """So no result depends on how much memory happened to be free."""
    monkeypatch.setattr("avcil.tokens.mapped.HALF_ABOVE", above)
    held, mapped = (read_store(stored, room=room).tokens for room in (None, 0))
    assert held.visual.dtype == (torch.float32 if above else torch.float16)
    for one, other in ((held.pooled(), mapped.pooled()), (held.coarse(2), mapped.coarse(2))):
        assert isinstance(other, MappedTokens) and (one.shape, one.sizes) == (other.shape, other.sizes)
        torch.testing.assert_close(everything(other), everything(one), rtol=0, atol=0)


def test_a_view_is_made_once_beside_the_store_and_not_in_memory(stored, monkeypatch):
    views, made, write = stored.parent / ".store.views", [], mapped.write_tensors
    (views / "of-an-older-store").mkdir(parents=True)
    monkeypatch.setattr(mapped, "write_tensors", lambda file, part: made.append(file) or write(file, part))
    before = {file: file.read_bytes() for file in stored.iterdir()}
    for _ in range(2):  # two processes, one after the other
        tokens = read_store(stored, room=0)
        assert tokens.tokens.pooled() is tokens.tokens.pooled()
    assert [file.name for file in made] == [f"0000{n}.safetensors" for n in range(5)]
    assert [folder.name for folder in views.iterdir()] == [tokens.digest]
    assert before == {file: file.read_bytes() for file in stored.iterdir()}, (
        "DVC and `finish` know the store's own files"
    )


def test_an_unfinished_view_is_made_anew_and_a_damaged_one_is_named(stored):
    tokens = read_store(stored, room=0)
    whole, folder = everything(tokens.tokens.pooled()), stored.parent / ".store.views" / tokens.digest / "pooled"
    (folder / "index.json").unlink()  # killed before the end
    (folder / "00003.safetensors").write_bytes(b"half")
    assert torch.equal(everything(read_store(stored, room=0).tokens.pooled()).audio, whole.audio)
    content = bytearray((folder / "00003.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "00003.safetensors").write_bytes(content)
    again = read_store(stored, room=0).tokens.pooled()
    with pytest.raises(StoreError, match=r"pooled/00003\.safetensors: checksum differs; delete its folder"):
        everything(again)


def test_a_store_that_lost_clips_is_refused_when_opened(stored):
    fewer = read_store(stored).tokens.clips(slice(0, 3))._asdict()
    write_tensors(stored / "00004.safetensors", {name: stream.half() for name, stream in fewer.items()})
    for room in (None, 0):
        with pytest.raises(StoreError, match=r"00004\.safetensors: float16 tokens of shapes .* belong here"):
            read_store(stored, room=room)


@pytest.mark.parametrize("method", [row(), row(fusion="mean"), row(patches=2)], ids=["all", "pooled", "coarse"])
def test_learning_from_a_mapped_store_is_learning_from_memory(toy, stored, tmp_path, method):
    found = []
    for room in (None, 0):
        data, folder = toy._replace(tokens=read_store(stored, room=room).tokens), tmp_path / f"room{room}"
        results = train.run_tasks(data, method, TRAINING, TASKS[:2], 0, folder)
        found.append((load_checkpoint(folder / "task1/seed0").model, results))
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)


def test_clips_in_memory_are_read_where_they_are(toy):
    feed = Feed(toy.tokens, ROWS)
    assert feed._held is None and not feed.streamed and feed.centre is None
    torch.testing.assert_close(feed.clips(torch.tensor([2, 0])), toy.tokens.clips(torch.tensor([17, 5])))


@pytest.mark.parametrize("room", [None, 0])
def test_half_precision_is_held_or_streamed(toy, room):
    feed = Feed(toy.tokens, ROWS, precision="float16", room=room)
    assert feed.streamed == (room == 0)
    (one, two), whole = feed.batches([torch.tensor([2, 0]), torch.tensor([1])]), toy.tokens
    assert one.visual.dtype == torch.float16 and one.audio.dtype == torch.float32
    assert torch.equal(one.visual, whole.visual[[17, 5]].half()) and torch.equal(two.audio, whole.audio[[0]])
    if room is None:
        assert feed.bytes == sum(stream.nbytes for stream in feed._held)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 17])
def test_what_is_held_is_read_in_parts(toy, monkeypatch, count):
    """Never all of it at once beside what is held; and in the order of the rows."""
    monkeypatch.setattr("avcil.learn.feed.PART", 8)
    original = Feed._read
    rows, read = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:count], []
    monkeypatch.setattr(Feed, "_read", lambda self, index: read.append(len(index)) or original(self, index))
    feed = Feed(toy.tokens, rows, precision="float16")
    assert max(read) <= 8 and sum(read) == count
    held = feed.clips(torch.arange(count))
    assert torch.equal(held.visual, toy.tokens.visual[rows].half()) and torch.equal(held.audio, toy.tokens.audio[rows])


def test_validation_clips_are_read_once_not_once_an_epoch(toy, stored, monkeypatch):
    """Where the epoch whose weights stay is chosen on them, of a store that is mapped."""
    tokens, read = read_store(stored, room=0).tokens, []
    original = MappedTokens.clips
    monkeypatch.setattr(MappedTokens, "clips", lambda self, index: read.append(index) or original(self, index))
    training = TRAINING.model_copy(update={"keep": "best_all"})
    counts = []
    for epochs in (1, 5):
        read.clear()
        tasks = [task.model_copy(update={"epochs": epochs}) for task in TASKS]
        train.run_task(toy._replace(tokens=tokens), row(), training, tasks, 0, 0, EMPTY)
        counts.append(len(read))
    assert counts[0] == counts[1]


def test_bfloat16_is_centred_and_so_keeps_more_of_tokens_that_share_a_mean(toy):
    shifted = toy.tokens._replace(visual=toy.tokens.visual + 20)
    feed = Feed(shifted, torch.arange(120), precision="bfloat16")
    everything = torch.arange(120)
    again = feed.clips(everything).visual.float() + feed.centre
    error, plain = ((x - shifted.visual).abs().mean() for x in (again, shifted.visual.bfloat16().float()))
    assert error < plain / 5


def test_the_next_batch_is_read_while_one_is_learnt(toy, monkeypatch):
    feed = Feed(toy.tokens, torch.arange(120), precision="float16", room=0)
    read, original = [], feed._read
    waiting = threading.Event()

    def reading(index):
        read.append(int(index[0]))
        if len(read) == 2:
            waiting.set()
        return original(index)

    monkeypatch.setattr(feed, "_read", reading)
    for number, _ in enumerate(feed.batches([torch.tensor([n]) for n in range(4)])):
        if number == 0:
            assert waiting.wait(10), "the second batch is read although nobody has asked for it"
    assert read == [0, 1, 2, 3]


def test_a_reader_that_fails_says_so(toy, monkeypatch):
    feed = Feed(toy.tokens, ROWS, precision="float16", room=0)
    monkeypatch.setattr(feed, "_read", lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(feed.batches([torch.tensor([0])]))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", [row(), FIELD["avcil"]], ids=["lll_prior", "avcil"])
def test_learning_in_half_precision_is_nearly_learning_in_float32(toy, method, precision):
    def run(precision):
        checkpoint, results = EMPTY, []
        for task in range(2):
            checkpoint, _, losses = train.run_task(
                toy, method, TRAINING, TASKS, task, 0, checkpoint, precision=precision
            )
            results.append(losses[0])
        return results

    for exact, half in zip(run("float32"), run(precision), strict=True):
        assert half == pytest.approx(exact, rel=0.05, abs=0.02)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("fusion", ["mean", "audio", "frozen", "frozen_guided"])
def test_rows_without_learnt_attention_learn_from_float32_whatever_is_asked_for(toy, fusion, precision):
    """Their linear layers take no halves, and nothing adds a centre to their means again."""
    readout = "ridge" if fusion.startswith("frozen") else "classifier"
    shifted = toy._replace(tokens=toy.tokens._replace(visual=toy.tokens.visual + 20))
    method = row(fusion=fusion, readout=readout)
    found = [
        train.run_task(shifted, method, TRAINING, TASKS, 0, 0, EMPTY, precision=asked)[0]
        for asked in ("float32", precision)
    ]
    torch.testing.assert_close(found[1].model | found[1].readout, found[0].model | found[0].readout, rtol=0, atol=0)


# ---- another device


class Reached(Exception):
    """The run came to what is looked at."""


@pytest.mark.parametrize("method", [FIELD["ridge_guided"], FIELD["slda"], row()], ids=["guided", "frozen", "lll_prior"])
def test_the_model_is_where_its_clips_are(toy, monkeypatch, method):
    """The meta device stands for a GPU: it has shapes, and no numbers."""
    seen = []

    def looked_at(model, tokens, rows, *a, **k):
        seen.append((model.classifier.weight.device.type, tokens.clips(rows[:1]).visual.device.type))
        raise Reached

    monkeypatch.setattr(train, "predict", looked_at)
    monkeypatch.setattr(train, "optimise", lambda *a, **k: [])
    with pytest.raises(Reached):
        train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY, device="meta")
    assert seen == [("meta", "meta")]


class Copies(TorchDispatchMode):
    """Writes down where tensors are copied to and whether anybody waits; answers with zeros."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ != "_to_copy":
            return func(*args, **kwargs)
        self.found.append((kwargs["device"].type, bool(kwargs.get("non_blocking"))))
        return torch.zeros(args[0].shape, device=kwargs["device"])


def test_a_copy_to_the_cpu_is_there_before_it_is_read(toy):
    """A copy from a GPU that nobody waits for gives whatever stood in memory; a copy to it may be under way."""
    away = Tokens(*(stream.to("meta") for stream in toy.tokens))
    with Copies() as copies:
        away.to("cpu")
        toy.tokens.to("meta")
    assert copies.found == [("cpu", False)] * 3 + [("meta", True)] * 3


# ---- the old model


@pytest.fixture
def task_one(toy):
    """AV-CIL's second task, as its training starts."""
    start = train.run_task(toy, FIELD["avcil"], TRAINING, TASKS, 0, 0, EMPTY)[0]
    return begun(toy, FIELD["avcil"], TRAINING, start)


def begun(toy, method, training, start, exemplars=5):
    """Task 1, begun: its hooks have seen the clips at hand, of which the first 24 are new."""
    memory = [toy.clip_ids[row] for row in toy.rows("train", 0, 2)[:exemplars]]
    learning = train._begin(toy, method, training, TASKS, 1, 0, start._replace(memory=memory), "cpu", "float32")
    for hook in learning.hooks.values():
        hook.before_task(learning)
    return learning


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lll_prior", {"logits", "features"}), ("without_feature_level", {"logits"}), ("icarl_fc", {"logits"}),
        ("afc_lsc", {"features", "attended"}), ("lll_analytic_without_both_levels", {"features"}), ("replay", None),
    ],
)  # fmt: skip
def test_of_the_old_model_no_more_is_kept_than_is_read(toy, name, fields):
    start = train.run_task(toy, FIELD[name], TRAINING, TASKS, 0, 0, EMPTY)[0]
    old = begun(toy, FIELD[name], TRAINING, start).old_output
    assert old is None if fields is None else vars(old).keys() == fields


def test_however_many_epochs_the_old_model_is_asked_once(toy, monkeypatch):
    start = train.run_task(toy, FIELD["avcil"], TRAINING, TASKS, 0, 0, EMPTY)[0]
    asked, remember = [], kernels.remember_attention
    monkeypatch.setattr(train, "predict", lambda *a, **k: asked.append("output") or predict(*a, **k))
    monkeypatch.setattr(av_cil, "remember_attention", lambda *a, **k: asked.append("maps") or remember(*a, **k))
    for epochs in (1, 3):
        asked.clear()
        tasks = [TASKS[0], TASKS[1].model_copy(update={"epochs": epochs})]
        train.run_task(toy, FIELD["avcil"], TRAINING, tasks, 1, 0, start)
        # of the old model before the task, of the new one after it
        assert asked == ["output", "maps", "output"]


@pytest.mark.parametrize(("room", "count", "places"), [(1 << 31, 5, [1, -1, 4]), (0, 2, [0, -1, 1])])
def test_maps_are_of_the_exemplars_asked_for_whether_kept_or_computed_anew(task_one, monkeypatch, room, count, places):
    monkeypatch.setattr(av_cil, "MAP_BYTES", room)
    hook, rows = task_one.hooks["av_cil"], torch.tensor([25, 3, 28])
    hook.before_task(task_one)
    options = hook.attention_options(rows)
    maps, old_rows = options["old"], options["old_rows"]
    assert old_rows.tolist() == places and len(maps.spatial) == len(maps.temporal) == len(maps.negentropy) == count
    with torch.no_grad():
        output = task_one.old_model(task_one.feed.clips(rows[[0, 2]]), maps=True)
    torch.testing.assert_close(maps.spatial[old_rows[old_rows >= 0]], output.spatial)
    torch.testing.assert_close(maps.temporal[old_rows[old_rows >= 0]], output.temporal)


# ---- what a CUDA graph can hold


class NoSynchronisation(TorchDispatchMode):
    """Fails on whatever would move a number to the host, or make a shape of one."""

    BANNED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "item")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1] if i is not None
        )
        assert name not in self.BANNED and not by_mask, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", ["lll_prior", "lwf", "icarl_fc", "afc_lsc", "ssil", "avcil", "derpp", "wa", "avcil_finetune"]
)
def test_a_step_never_waits_for_the_device(toy, name):
    """Forward, objective and backward, past task 0, with the kernels that a GPU gets."""
    method = {**FIELD, "lll_prior": row()}[name]
    training = TRAINING.model_copy(update={"batch": 8})
    start = train.run_task(toy, method, training, TASKS, 0, 0, EMPTY)[0]
    learning = begun(toy, method, training, start, exemplars=len(start.memory))
    rows = torch.arange(12)
    with kernels.implementation(channelwise_attention="reference"), NoSynchronisation():
        output = learning.model(learning.feed.clips(rows), **learning.attention_options(rows))
        found = objective(learning, Batch(rows, learning.labels[rows], output, learning.model.classifier.scale))
        sum(found.values()).backward()
