"""The commands of a learner, as they are typed: what they print, keep and refuse."""

import argparse
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from media import tone, write

import avcil
from avcil.__main__ import main
from avcil.extraction.clips import ClipError, read_clip
from avcil.learner.clips import LearnerError, tokens_of, windows
from avcil.params import ParameterError
from avcil.workshop.builders.annotation import BuilderError
from avcil.workshop.own import commands
from conftest import ROOT


@pytest.fixture
def learner(params):
    return avcil.Learner(params=params, root=ROOT)


def command(*words):
    parser = argparse.ArgumentParser()
    commands.add(parser.add_subparsers(required=True))
    given = parser.parse_args([str(word) for word in words])
    given.call(given)


def test_a_device_that_is_not_there_is_refused_for_a_new_learner_too(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    with pytest.raises(LearnerError, match="device nonsense: torch sees none here"):
        command("learn", clip, "--label", "bell", "--learner", tmp_path / "mine", "--device", "nonsense")
    assert not (tmp_path / "mine").exists()


def test_a_name_with_a_colon_is_no_protocol(learner, tmp_path, monkeypatch, capsys):
    """As recorders give them; where one is in their folder, FFmpeg would take what is in front of the colon for one."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "12:30.mp4", [k / 4 for k in range(12)], sound=tone(440, 3, 16000))
    learner.fit(["12:30.mp4"], "a")
    learner.save("mine")
    assert [moment.start for moment in windows("12:30.mp4", 2.0, every=0.5)] == [0, 0.5]
    command("predict", "12:30.mp4", "--learner", "mine", "--overlay", "12:32.mp4")
    said = capsys.readouterr()
    assert said.out.startswith("12:30.mp4: a (probability 1.00") and "(`12:30.mp4`: 3.0 s)" in said.err
    (tmp_path / "12:31.mp4").write_text("no video")
    with pytest.raises(ClipError, match=r"^12:31\.mp4: damaged \(InvalidDataError\); restore it or leave it out$"):
        learner.predict(["12:31.mp4"])


def test_commands_learn_and_predict(tmp_path, monkeypatch, capsys):
    clips = {c: [ROOT / f"corpus/sounding_objects/clips/test-00{c}-00{k}.mp4" for k in range(4)] for c in (0, 1)}
    monkeypatch.chdir(ROOT)
    for label, number in (("bell", 0), ("horn", 1)):
        command("learn", *clips[number][:3], "--label", label, "--learner", tmp_path / "mine")
    assert "3 clips of new class horn" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)  # a learner needs no project
    command("predict", *clips[0][:2], clips[1][0], "--learner", "mine")
    printed = capsys.readouterr()
    said = [line.split(": ")[1].split()[0] for line in printed.out.splitlines()]
    assert said == ["bell", "bell", "horn"] and printed.err == ""
    longer = write(tmp_path / "longer.mp4", [k / 4 for k in range(12)], sound=tone(440, 3, 16000))
    command("predict", clips[0][0], longer, "--learner", "mine")
    warned = "mini: reads 2 s of a clip, and 1 of 2 are longer (`longer.mp4`: 3.0 s); cut out what comes later"
    assert capsys.readouterr().err.startswith(warned)
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(ClipError, match=r"absent\.mp4: no such file; correct its path or leave it out"):
        command("predict", "broken.mp4", clips[1][3], "absent.mp4", "--learner", "mine")
    printed = capsys.readouterr()
    assert f"{clips[1][3]}: horn (" in printed.out and len(printed.out.splitlines()) == 1
    assert printed.err.startswith("broken.mp4: damaged") and len(printed.err.splitlines()) == 1
    command("predict", clips[0][3], "--learner", "mine", "--overlay", "seen/out.mp4")
    drawn = read_clip(tmp_path / "seen/out.mp4", frames=16, fps=8, size=96, sample_rate=16000)
    shown = read_clip(clips[0][3], frames=16, fps=8, size=96, sample_rate=16000)
    # what AAC at 32 kbit/s leaves when it is applied twice; another clip's sound, or this one late, is near 0
    assert np.corrcoef(drawn.waveform, shown.waveform)[0, 1] > 0.8
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OSError, match=r"make its folder writable, and run this again: 'folder\.mp4'"):
        command("predict", clips[0][3], "--learner", "mine", "--overlay", "folder.mp4")
    where = avcil.Learner.load("mine").predict([clips[0][3]])[0].spatial
    # heat is red: where it is looked at most, red exceeds blue by more than elsewhere
    warm = (drawn.frames[..., 0].astype(float) - drawn.frames[..., 2]).reshape(16, 8, 12, 8, 12).mean((2, 4))
    assert np.corrcoef(warm[::2].ravel(), where.numpy().ravel())[0, 1] > 0.5


def test_a_command_learns_by_another_row(tmp_path, monkeypatch, capsys):
    """Class by class, the second one with exemplars; and once more with a closed form, which takes more clips."""
    clips = {c: [ROOT / f"corpus/sounding_objects/clips/test-00{c}-00{k}.mp4" for k in range(3)] for c in (0, 1)}
    monkeypatch.chdir(tmp_path)
    for method in ("lll_prior", "lll_closed"):
        for label, number in (("bell", 0), ("horn", 1)):
            again = ["--method", method] if not number else []
            command("learn", *clips[number], "--label", label, "--learner", method, *again)
    assert capsys.readouterr().out.count("3 clips of new class horn") == 2
    assert avcil.Learner.load("lll_prior").kept.labels == ["bell"] * 3 + ["horn"] * 3
    with pytest.raises(LearnerError, match="lll_prior: keeps its method; leave --method out"):
        command("learn", *clips[0], "--label", "drum", "--learner", "lll_prior", "--method", "lll_closed")
    with pytest.raises(LearnerError, match="`bell` is known already"):
        command("learn", *clips[0], "--label", "bell", "--learner", "lll_prior")
    command("learn", *clips[0], "--label", "bell", "--learner", "lll_closed")
    assert "3 clips of known class bell" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="did you mean `lll_prior`"):
        command("learn", *clips[0], "--label", "bell", "--learner", "other", "--method", "lll_prio")
    assert not (tmp_path / "other").exists()


def test_a_learner_is_made_anywhere_and_labels_are_tidied(tmp_path, monkeypatch, capsys):
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClipError, match="no such file"):
        command("learn", "absent.mp4", "--label", "z", "--learner", "new/one")
    assert not (tmp_path / "new").exists()
    command("learn", clip, "--label", " Dog  bark", "--learner", "new/one")
    assert "1 clip of new class Dog bark" in (printed := capsys.readouterr()).out and not printed.err
    assert "1 class, " in printed.out and "of 1 class\n" in (tmp_path / "new/one/README.md").read_text()
    command("learn", clip, "--label", "Dog bark ", "--learner", "new/one")
    assert "known class Dog bark" in (printed := capsys.readouterr()).out and not printed.err
    command("learn", clip, "--label", "dog bark", "--learner", "new/one")
    assert "`dog bark` becomes a class of its own beside `Dog bark`" in capsys.readouterr().err
    one = avcil.Learner.load("new/one")
    assert one.classes == ["Dog bark", "dog bark"]
    one.calibrate([clip], ["dog bark"])
    one.save("new/one")
    command("learn", clip, "--label", "dog bark", "--learner", "new/one")
    assert "its calibration was of other clips and is dropped" in capsys.readouterr().err


def test_commands_forget_and_export(learner, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = [ROOT / f"corpus/sounding_objects/clips/test-00{c}-00{k}.mp4" for c in range(3) for k in range(2)]
    learner.fit(clips, ["Dog bark", "Dog bark", "bell", "bell", "horn", "horn"])
    learner.calibrate(clips[::2], ["Dog bark", "bell", "horn"])
    learner.save("mine")
    command("forget", " Dog  bark", "--learner", "mine")
    printed = capsys.readouterr()
    assert printed.out == "mine: 2 of 3 classes left\n" and "its calibration was of other clips" in printed.err
    left, never = avcil.Learner.load("mine"), avcil.Learner()
    never.fit(clips[2:], ["bell", "bell", "horn", "horn"])
    assert left.classes == ["bell", "horn"]
    said = [[p.probabilities["bell"] for p in one.predict(clips)] for one in (left, never)]
    np.testing.assert_allclose(*said, rtol=1e-5)
    command("export", "part.pt2", *clips[:2], "--learner", "mine")
    assert capsys.readouterr().out.startswith("part.pt2: logits of")
    logits = torch.export.load("part.pt2").module()(*tokens_of(clips, left.encoder))
    assert [left.classes[k] for k in logits.argmax(1)] == [p.label for p in left.predict(clips)]
    command("forget", "horn", "--learner", "mine")
    for words, message in (
        (("forget", "bell", "--learner", "mine"), "mine: `bell` is its only class; delete the folder instead"),
        (("forget", "hell", "--learner", "mine"), r"no class `hell` \(did you mean `bell`\?\)"),
        (("forget", "bell", "--learner", "other"), "other: no learner"),
        (("export", "part.onnx", *clips[:2], "--learner", "other"), "part.onnx: torch.export's files end in .pt2"),
    ):
        with pytest.raises(LearnerError, match=message):
            command(*words)
    assert avcil.Learner.load("mine").classes == ["bell"] and not (tmp_path / "other").exists()


def test_a_learner_that_another_command_makes_meanwhile_is_learnt_on(learner, tmp_path, monkeypatch):
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    learner.fit([clip], "a")
    waiting = commands.alone

    def made_meanwhile(places):
        learner.save(tmp_path / "mine")
        return waiting(places)

    monkeypatch.setattr(commands, "alone", made_meanwhile)
    command("learn", clip, "--label", "b", "--learner", tmp_path / "mine")
    assert avcil.Learner.load(tmp_path / "mine").classes == ["a", "b"]


def test_a_command_that_is_stopped_while_it_imports_says_so(monkeypatch):
    def find_spec(name, *_):
        if name.startswith("avcil.workshop.own"):
            raise KeyboardInterrupt

    for name in ("avcil.workshop.own", "avcil.workshop.own.commands"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])
    with pytest.raises(SystemExit, match=r"^stopped; the same command goes on"):
        main(["learn"])


def test_commands_refuse_in_one_line(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_text("no video")
    with pytest.raises(LearnerError, match="of one clip, not of 2"):
        command("predict", clip, clip, "--learner", tmp_path / "mine", "--overlay", tmp_path / "out.mp4")
    with pytest.raises(LearnerError, match=r"out\.mkv: an overlay is an \.mp4 file; name it so"):
        command("predict", clip, "--learner", tmp_path / "mine", "--overlay", tmp_path / "out.mkv")
    for name in ("learn", "predict"):
        with pytest.raises(LearnerError, match=r"clip\.mp4: (a file; a learner is a folder|no whole config\.json)"):
            command(name, clip, *["--label", "a"] * (name == "learn"), "--learner", clip)
    with pytest.raises(LearnerError, match="is the clip itself"):
        command("predict", clip, "--learner", tmp_path / "mine", "--overlay", clip)
    with pytest.raises(LearnerError, match="not empty and no learner"):
        command("learn", clip, "--label", "a", "--learner", tmp_path)
    with pytest.raises(LearnerError, match=r"no whole config\.json"):
        command("predict", clip, "--learner", tmp_path)


def test_a_list_of_labels_is_learnt_in_one_call_and_calibrates(tmp_path, monkeypatch, capsys):
    """As one task where the row trains; what is listed as test is left out."""
    for c in range(2):
        for split, count in (("train", 3), ("val", 2), ("test", 1)):
            for k in range(count):
                clip = f"{split}-00{c}-00{k}.mp4"
                shutil.copy(ROOT / "corpus/sounding_objects/clips" / clip, tmp_path / clip)
    clips = sorted(path.name for path in tmp_path.glob("*.mp4"))
    rows = [f"{clip},{['bell', ' horn '][int(clip[-9])]},{clip.split('-')[0]}" for clip in clips]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    monkeypatch.chdir(tmp_path.parent)
    given = f"{tmp_path.name}/labels.csv"
    command("learn", given, "--learner", "mine", "--method", "lll_prior")
    printed = capsys.readouterr()
    assert "mine: 6 clips of 2 classes, 2 new, in " in printed.out and "2 clips of split test not read" in printed.err
    assert "of the validation clips of classes that are new are right" in printed.out
    learner = avcil.Learner.load("mine")
    assert learner.classes == ["bell", "horn"] and learner.kept.labels == ["bell"] * 3 + ["horn"] * 3
    assert learner.threshold is not None and len(learner.checkpoint.origin["tasks"]) == 1
    # without splits all are learnt, and there is nothing to calibrate with
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(row.rpartition(",")[0] for row in rows))
    command("learn", given, "--learner", "other")
    printed = capsys.readouterr()
    assert "other: 12 clips of 2 classes, 2 new, in " in printed.out and printed.err == ""
    assert avcil.Learner.load("other").threshold is None
    command("learn", given, "--learner", "other")
    assert "other: 12 clips of 2 classes, 0 new, in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nabsent.mp4,a", r"labels\.csv: no file `absent\.mp4`; correct the path or delete the row"),
        ("path,label\nb.mp4,a\n./b.mp4,c", r"labels\.csv, row 3: `b\.mp4` is also in row 2; delete one of the rows"),
        ("path,label,split\nb.mp4,a,val", r"labels\.csv: no clip of split train; there is nothing to learn"),
        ("path,label,split\nb.mp4,a,trian", r"labels\.csv, row 2: `trian` is not one of train, val, test"),
        ("path\nb.mp4", r"labels\.csv, row 1: no column `label`"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(BuilderError, match=message):
        command("learn", tmp_path / "labels.csv", "--learner", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_clips_without_a_label_are_refused(tmp_path):
    for clips in (["a.mp4"], ["labels.csv", "more.csv"]):
        with pytest.raises(LearnerError, match=r"no --label: give the class of these clips, or one \.csv file"):
            command("learn", *clips, "--learner", tmp_path / "mine")
    with pytest.raises(LearnerError, match=r"labels\.CSV: a list has labels of its own; leave --label out"):
        command("learn", "labels.CSV", "--label", "a", "--learner", tmp_path / "mine")
