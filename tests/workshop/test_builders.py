"""The builders: made-up annotations in every official format, each report item and each error line provoked once."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys import Reduced

from avcil.base.refusal import Refusal
from avcil.tokens.manifest import SPLITS, media, read_manifest
from avcil.workshop.builders import ave, draw, fsd, kinetics_sounds, report, vggsound
from avcil.workshop.builders.__main__ import BUILDERS, main
from avcil.workshop.builders.annotation import AnnotatedClip, Annotation, BuilderError
from avcil.workshop.builders.report import build, media_index

CATS, HEADER = ("Church bell", "Bus, red", "Cat"), "Category&VideoID&Quality&StartTime&EndTime"
COUNTS = {"train": 4, "val": 1, "test": 2}
SET = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


def _write(folder: Path, files: dict[str, list[str]]) -> Path:
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def _touch(folder: Path, names) -> Path:
    return _write(folder, {name: [] for name in names})


def _table(folder: Path) -> pd.DataFrame:
    """The manifest, checked; every path leads to a file."""
    table = read_manifest(folder / "manifest.csv")
    assert all(place.path.is_file() for place in media(table, folder).values())
    return table


def _report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def _refused(arguments) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as error:
        main([str(a) for a in arguments])
    assert isinstance(error.value.code, str) and "\n" not in error.value.code  # so that Python exits with 1
    return error.value.code


# ---- AVE, and what every report says


def test_a_list_is_not_written_over(tmp_path):
    table = "path,label,split\na.mp4,x,train\nb.mp4,x,test\n"
    (_touch(tmp_path, ["a.mp4", "b.mp4"]) / "manifest.csv").write_text(table)
    line = _refused(["folder", tmp_path / "manifest.csv", tmp_path])
    assert line.endswith("manifest.csv: would be written over; choose another destination, or give it another name")
    assert (tmp_path / "manifest.csv").read_text() == table and not (tmp_path / "order.json").exists()


def test_a_list_of_classes_is_tidied_as_labels_are():
    """A letter of two characters and a stray blank, in both as on the disk they are from."""
    label = "Vo\u0308gel "
    clips = [AnnotatedClip(f"{k}", label, split, f"{k}", ()) for k, split in enumerate(("train", "test"))]
    assert report.select(Annotation(Path("list.csv"), clips, classes=[label]))[1]["order"] == ["V\xf6gel"]


def _video(split: str, label: int, index: int) -> str:
    return f"{split:-<9}{label}{index}"


def _ave_rows() -> dict[str, list[str]]:
    return {
        s: [f"{cat}&{_video(s, c, i)}&good&0&10" for c, cat in enumerate(CATS) for i in range(n)]
        for s, n in COUNTS.items()
    }


def _write_ave(folder: Path, rows: dict[str, list[str]], header: bool = True) -> Path:
    top = [HEADER] * header
    sets = {SET[s]: top + lines for s, lines in rows.items()}
    return _write(folder, {"Annotations.txt": top + [r for s in SPLITS for r in rows[s]]} | sets)


@pytest.fixture
def ave_set(tmp_path) -> tuple[Path, Path]:
    """Annotations and media, the latter of all clips."""
    rows = _ave_rows()
    videos = [row.split("&")[1] for lines in rows.values() for row in lines]
    return _write_ave(tmp_path / "ann", rows), _touch(tmp_path / "media", [f"{v}.mp4" for v in videos])


def test_ave_becomes_a_manifest_with_a_link_to_the_media(ave_set, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["ave", str(ave_set[0]), str(ave_set[1])])
    here = tmp_path / "imports" / "ave"
    table = _table(here)
    assert (here / "clips").resolve() == ave_set[1].resolve() and set(table.start) == {0}
    assert Counter(table.split) == {s: 3 * n for s, n in COUNTS.items()} and set(table.label) == set(CATS)
    assert table.path[0] == "clips/" + table.clip_id[0] + ".mp4"
    assert list(zip(table.split.map(SPLITS.index), table.clip_id, strict=True)) == sorted(
        zip(table.split.map(SPLITS.index), table.clip_id, strict=True)
    )
    assert sorted(json.loads((here / "order.json").read_text())) == sorted(CATS)
    found = _report(here)
    assert found["clips"] == {"train": 12, "val": 3, "test": 6} and found["per_class"]["Cat"] == COUNTS
    assert not any(found[k] for k in ("missing", "repeated", "two_labels", "two_splits", "mended_labels", "dropped"))
    printed = capsys.readouterr().out
    assert "per_class: train: 4 (`" in printed and "test and train: 0 (0.0%), 0 of the same class" in printed


def test_the_header_of_ave_may_be_missing_and_the_same_input_gives_the_same_bytes(ave_set, tmp_path):
    bare = _write_ave(tmp_path / "bare", _ave_rows(), header=False)
    one = build("ave", ave.read(ave_set[0]), ave_set[1], tmp_path / "one")
    two = build("ave", ave.read(bare), ave_set[1], tmp_path / "two")
    assert one == two._replace(source=one.source)
    again = build("ave", ave.read(ave_set[0]), ave_set[1], tmp_path / "two")
    assert again == one and _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_a_report_names_all_that_is_wrong(ave_set, tmp_path):
    rows = _ave_rows()
    torn, both, twice, lost = (_video("train", 0, i) for i in range(4))
    rows["test"].append(f"Cat&{torn}&good&0&10")
    # the later row of Annotations.txt counts, whatever the order of the other files
    rows["train"] += [f"Cat&{both}&good&0&10", rows["train"][2]]
    stray = _video("test", 0, 0)
    rows["test"] = [r.replace(f"Church bell&{stray}", f" church  bell&{stray}") for r in rows["test"]]
    _write_ave(ave_set[0], rows)
    _write(ave_set[0], {SET["train"]: [HEADER, *rows["train"][::-1]]})
    (ave_set[1] / f"{lost}.mp4").unlink()
    found = build("ave", ave.read(ave_set[0]), ave_set[1], tmp_path / "out")
    assert found.two_splits == [torn] and found.repeated == [twice] and found.missing == [lost]
    assert found.two_labels == {torn: ["Church bell", "Cat"], both: ["Church bell", "Cat"]}
    assert found.mended_labels == {" church  bell": "Church bell"}
    table = _table(tmp_path / "out").set_index("clip_id")
    assert table.label[both] == "Cat" and table.label[stray] == "Church bell"
    assert not {torn, lost} & set(table.index) and found.clips == {"train": 10, "val": 3, "test": 6}
    assert f"missing: {lost}" in str(found) and f"{both}: ['Church bell', 'Cat']" in str(found)


def test_class_order_comes_from_a_file(ave_set, tmp_path):
    np.save(tmp_path / "category_encode_dict.npy", {"Cat": 1, "Bus, red": 0, "Church bell": 2})
    (tmp_path / "part.json").write_text('["Cat", "Bus, red"]')
    given = [str(p) for p in (*ave_set, tmp_path / "out")]
    order = tmp_path / "out" / "order.json"
    main(["ave", *given, "--classes", str(tmp_path / "category_encode_dict.npy")])
    assert json.loads(order.read_text()) == ["Bus, red", "Cat", "Church bell"]
    main(["ave", *given, "--classes", str(tmp_path / "part.json")])
    assert json.loads(order.read_text()) == ["Cat", "Bus, red"] and set(_table(tmp_path / "out").label) == set(CATS[1:])


# ---- AV-CIL's dictionaries


def _write_avcil(folder: Path, labels: dict[str, dict[str, str]], order: list[str]) -> Path:
    """labels: by split and clip."""
    folder.mkdir()
    members = {
        s: {c: [i for i in clips if clips[i] == order[c]] for c in range(len(order))} for s, clips in labels.items()
    }
    np.save(folder / "all_classId_vid_dict.npy", members)
    np.save(folder / "category_encode_dict.npy", {label: i for i, label in enumerate(order)})
    return folder


def test_avcils_split_of_vggsound_is_read_and_its_leakage_reported(tmp_path):
    order = ["subway, metr", "zebra braying"]
    labels = {s: {f"{_video(s, c, i)}_000012": order[c] for c in (0, 1) for i in range(n)} for s, n in COUNTS.items()}
    leaky = _video("test", 0, 0)
    labels["train"] |= {f"{leaky}_000099": order[0], f"{_video('test', 0, 1)}_000099": order[1]}
    labels["train"][f"{leaky}_000098"] = labels["val"][f"{leaky}_000050"] = order[0]
    source = _write_avcil(tmp_path / "VGGSound_100", labels, order)
    clips = _touch(
        tmp_path / "media", [f"{i % 3}/{clip}.mp4" for i, clip in enumerate(c for s in SPLITS for c in labels[s])]
    )
    found = build("vggsound", vggsound.read(source), clips, tmp_path / "out")
    assert found.order == ["subway, metro, underground", "zebra braying"]
    assert found.mended_labels == {"subway, metr": "subway, metro, underground"}
    assert found.leaks == {
        "test and train": {"clips": 2, "share": 0.5, "same_class": 1},
        "test and val": {"clips": 1, "share": 0.25, "same_class": 1},
        "val and train": {"clips": 1, "share": 0.3333, "same_class": 1},
    }
    assert "test and train: 2 (50.0%), 1 of the same class" in str(found)
    out = tmp_path / "disjoint"
    main(["vggsound", str(source), str(clips), str(out), "--video-disjoint"])
    assert _report(out)["dropped"] == {"train": 3, "val": 1} and _report(out)["leaks"]["test and train"]["clips"] == 0
    assert {s: set(t) for s, t in _table(out).groupby("split").clip_id} == {
        s: {clip for clip in labels[s] if s == "test" or not clip.startswith("test")} for s in SPLITS
    }
    with pytest.raises(BuilderError, match="has its own val clips; leave out --val-share"):
        vggsound.read(source, val_share=0.2)


def test_dictionaries_are_never_executed(ave_set, tmp_path):
    source, sentinel = tmp_path / "AVE", tmp_path / "sentinel"
    _write_avcil(source, {}, ["Cat"])
    np.save(source / "all_classId_vid_dict.npy", {"train": {0: [Reduced(os.system, f"touch {sentinel}")]}})
    np.save(tmp_path / "order.npy", {"Cat": Reduced(os.system, f"touch {sentinel}")})
    assert "names `posix.system`" in _refused(["ave", source, ave_set[1]])
    assert "names `posix.system`" in _refused(["ave", *ave_set, "--classes", tmp_path / "order.npy"])
    assert not sentinel.exists()


# ---- Kinetics-Sounds


K_HEADER = "label,youtube_id,time_start,time_end,split,is_cc"


def _kinetics(labels, splits=(("train", 5), ("val", 2), ("test", 2))) -> dict[str, list[str]]:
    return {
        f"{s}.csv": [K_HEADER]
        + [f'"{name}",{_video(s, c, i)},7,17,{s},0' for c, name in enumerate(labels) for i in range(n)]
        for s, n in splits
    }


def _kinetics_media(folder: Path, labels) -> Path:
    rows = [row.rsplit(",", 5)[:2] for lines in _kinetics(labels).values() for row in lines[1:]]
    return _touch(folder, [f"{label[1:-1]}/{video}_000007_000017.mp4" for label, video in rows])


def test_kinetics_sounds_under_the_names_of_either(tmp_path):
    labels = ["playing drums", "stomping grapes", "tying tie"]
    source = _write(tmp_path / "k400", _kinetics(labels))
    clips = _kinetics_media(tmp_path / "media", labels)
    (tmp_path / "two.json").write_text('["stomping", "drums"]')
    found = build(
        "kinetics_sounds", kinetics_sounds.read(source, classes=tmp_path / "two.json"), clips, tmp_path / "out"
    )
    assert found.order == ["stomping grapes", "playing drums"] and found.clips == {"train": 10, "val": 4, "test": 4}
    assert found.notes == {"class list": f"the 2 of {tmp_path / 'two.json'}"}
    row = _table(tmp_path / "out").set_index("clip_id").loc[f"{_video('test', 0, 0)}_000007_000017"]
    assert (row.label, row.path) == ("playing drums", f"clips/playing drums/{row.name}.mp4")
    (tmp_path / "two.json").write_text('["drums", "typing", "patting"]')
    line = _refused(["kinetics_sounds", source, clips, tmp_path / "no", "--classes", tmp_path / "two.json"])
    assert "no clip of `typing` (did you mean `tying tie`?), `patting` (did you mean `" in line
    assert not (tmp_path / "no").exists()
    (tmp_path / "two.json").write_text('["drums", "playing drums"]')
    line = _refused(["kinetics_sounds", source, clips, tmp_path / "no", "--classes", tmp_path / "two.json"])
    assert "`playing drums` is listed under two names; drop one from the classes" in line


def test_kinetics_without_test_labels_needs_another_split(tmp_path):
    labels = kinetics_sounds.CLASSES
    files = _kinetics(labels)
    files["test.csv"] = ["youtube_id,time_start,time_end,split"] + [
        r.split(",", 1)[1][:-2] for r in files["test.csv"][1:]
    ]
    source, clips = _write(tmp_path / "k400", files), _kinetics_media(tmp_path / "media", labels)
    line = _refused(["kinetics_sounds", source, clips, tmp_path / "out"])
    assert "no test clip has a label (60 rows have none); add a test.csv with labels, or --val-share 0.1" in line
    main(["kinetics_sounds", str(source), str(clips), str(tmp_path / "out"), "--val-share", "0.2"])
    table, found = _table(tmp_path / "out"), _report(tmp_path / "out")
    assert found["order"] == labels and found["clips"] == {"train": 120, "val": 30, "test": 60}
    assert set(table.clip_id[table.split == "test"].str[:3]) == {"val"}
    assert found["notes"]["class list"] == "the 30 of AV-CIL" and "Kinetics' val is test" in found["notes"]["split"]


def test_avcils_ids_of_kinetics_have_no_times(tmp_path):
    labels = {s: {_video(s, 0, i): "playing drums" for i in range(n)} for s, n in COUNTS.items()}
    source = _write_avcil(tmp_path / "ks", labels, ["playing drums"])
    clips = _kinetics_media(tmp_path / "media", ["playing drums"])
    found = build("kinetics_sounds", kinetics_sounds.read(source), clips, tmp_path / "out")
    assert found.clips == COUNTS and not found.missing
    assert _table(tmp_path / "out").path.str.fullmatch(r"clips/playing drums/.{11}_000007_000017\.mp4").all()


# ---- VGGSound and VGGSounder


V_LABELS = ["zebra braying", "subway, metro, underground", "fox barking"]


def _vggsound_rows() -> list[tuple]:
    """40 train clips of 20 videos and 3 test clips a class; two videos have clips of two classes."""
    rows = [(f"train-----{c}", 2 * v, label, v) for c, label in enumerate(V_LABELS) for v in range(20)]
    rows = [(f"{i[:9]}{i[-1]}{chr(97 + v)}", s + n, label, "train") for i, s, label, v in rows for n in (0, 1)]
    rows += [("train----0a", 77, V_LABELS[1], "train"), ("train----1b", 77, V_LABELS[2], "train")]
    return rows + [(f"test-----{c}{i}", 5, label, "test") for c, label in enumerate(V_LABELS) for i in range(3)]


@pytest.fixture
def vgg(tmp_path) -> tuple[Path, Path]:
    rows = _vggsound_rows()
    with (tmp_path / "vggsound.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "vggsound.csv", _touch(tmp_path / "media", [f"{i}_{s:06d}.mp4" for i, s, *_ in rows])


def test_val_clips_of_vggsound_are_whole_videos_drawn_by_class(vgg, tmp_path):
    out = tmp_path / "out"
    main(["vggsound", *map(str, vgg), str(out), "--val-share", "0.2"])
    table = _table(out)
    videos = {s: set(t.str[:11]) for s, t in table.groupby("split").clip_id}
    assert not videos["val"] & videos["train"] and _report(out)["clips"] == {"train": 98, "val": 24, "test": 9}
    assert Counter(table.label[table.split == "val"]) == dict.fromkeys(V_LABELS, 8)
    # what is missing changes no other clip's split, and another seed does
    lost = table.clip_id[table.split == "train"].iloc[0]
    (vgg[1] / f"{lost}.mp4").unlink()
    main(["vggsound", *map(str, vgg), str(tmp_path / "less"), "--val-share", "0.2"])
    pd.testing.assert_frame_equal(_table(tmp_path / "less"), table[table.clip_id != lost].reset_index(drop=True))
    main(["vggsound", *map(str, vgg), str(tmp_path / "less"), "--val-share", "0.2", "--split-seed", "1"])
    assert set(_table(tmp_path / "less").query("split == 'val'").clip_id) != set(table.query("split == 'val'").clip_id)


def test_vggsounder_gives_test_clips_several_labels(vgg, tmp_path):
    np.save(tmp_path / "category_encode_dict.npy", {"subway, metr": 0, "zebra braying": 1})
    lines = ["video_id,label,modality,background_music,static_image,voice_over"]
    lines += [
        "test-----00_000005,zebra braying,AV,False,False,True",
        "test-----00_000005,fox barking,A,False,False,True",
    ]
    lines += ['test-----00_000005,"subway, metro, underground",V,False,False,True']
    lines += [
        "test-----10_000005,zebra braying,A,False,False,False",
        "test-----20_000005,zebra braying,A,False,False,False",
    ]
    labels = _write(tmp_path, {"vggsounder.csv": lines}) / "vggsounder.csv"
    options = ["--classes", str(tmp_path / "category_encode_dict.npy"), "--vggsounder", str(labels)]
    main(["vggsound", *map(str, vgg), str(tmp_path / "out"), *options])
    assert vggsound.read_multilabel(tmp_path / "out") == {
        "test-----00_000005": ["subway, metro, underground", "zebra braying"],
        "test-----10_000005": ["zebra braying"],
    }
    found = _report(tmp_path / "out")
    assert found["order"] == ["subway, metro, underground", "zebra braying"]
    assert found["notes"]["VGGSounder"] == "3 labels of 2 of 6 test clips; VGGSound's own label is one in 1"
    _write(tmp_path, {"vggsounder.csv": [lines[0], lines[1].replace("test", "none")]})
    assert "none of the 9 test clips is in it" in _refused(["vggsound", *vgg, "--vggsounder", labels])
    main(["vggsound", *map(str, vgg), str(tmp_path / "plain")])
    with pytest.raises(BuilderError, match=r"multilabel\.json: no such file; build the benchmark with --vggsounder"):
        vggsound.read_multilabel(tmp_path / "plain")


# ---- FSD-MIX-CLIPS and FSC-89


def _fsc89(folder: Path, shots: int = 8) -> dict[str, list[tuple]]:
    """Rows (data_folder, file, start, label) by split; class 59 shares soundscapes between train and test."""
    rows = {"train": [], "val": [], "test": []}
    for label in range(fsd.CLASSES):
        novel = "novel_val" if label < 74 else "novel_test"
        for split, count in (("train", shots), ("val", 1), ("test", 2)):
            if label < fsd.BASE or split != "val":
                place = f"base/{split}" if label < fsd.BASE else novel
                first = 0 if split == "train" or label < fsd.BASE else shots * (label != 59)
                new = [(place, f"soundscape_{label}{first + i:02d}.wav", 0.51 + i, label) for i in range(count)]
                rows[split] += new if split == "train" else [(p, f, s + 5, c) for p, f, s, c in new]
    header = "data_folder,FSD_MIX_SED_filename,start_time,label"
    name = "Fsc89-setup1-fsci_{}.csv"
    _write(folder, {name.format(s): [header, *(",".join(map(str, r)) for r in lines)] for s, lines in rows.items()})
    return rows


def test_fsc89_few_shots_out_of_soundscapes(tmp_path):
    rows = _fsc89(tmp_path / "ann")
    sounds = _touch(tmp_path / "media", {f"{p.removeprefix('novel_')}/{f}" for r in rows.values() for p, f, *_ in r})
    (tmp_path / "vocab.json").write_text(json.dumps([f"class {i}" for i in range(89)]))
    out = tmp_path / "out"
    main(["fsc89", str(tmp_path / "ann"), str(sounds), str(out), "--names", str(tmp_path / "vocab.json")])
    table = _table(out)
    assert json.loads((out / "order.json").read_text()) == [f"class {i}" for i in range(89)]
    assert json.loads((out / "tasks.json").read_text()) == [59, 5, 5, 5, 5, 5, 5]
    counts = Counter(table.label[table.split == "train"])
    assert counts == {f"class {i}": 8 if i < 59 else 5 for i in range(89)}
    assert _report(out)["clips"] == {"train": 622, "val": 59, "test": 178}
    row = table[table.clip_id == f"novel_val/soundscape_5908_{int(5.51 * 44100)}"]
    assert row.empty and table.path.str.startswith("clips/val/").sum() == 15 * 7
    row = table[table.clip_id == f"base/train/soundscape_002_{int(2.51 * 44100)}"].iloc[0]
    assert (row.path, row.start, row.label) == ("clips/base/train/soundscape_002.wav", 2.51, "class 0")
    first = _bytes(out)
    main(["fsc89", str(tmp_path / "ann"), str(sounds), str(out), "--names", str(tmp_path / "vocab.json")])
    assert _bytes(out) == first
    main(
        ["fsc89", str(tmp_path / "ann"), str(sounds), str(out), "--split-seed", "3", "--shots", "8", "--video-disjoint"]
    )
    assert _report(out)["dropped"] == {"train": 2} and _report(out)["per_class"]["59"]["train"] == 6
    assert _report(out)["leaks"]["test and train"]["clips"] == 0


def test_clips_cut_out_of_soundscapes_come_first(tmp_path):
    rows = _fsc89(tmp_path / "ann")
    files = {f"{p}/{f[:-4]}_{int(s * 44100)}.wav" for r in rows.values() for p, f, s, _ in r}
    whole = {f"{p.removeprefix('novel_')}/{f}" for r in rows.values() for p, f, *_ in r}
    build("fsc89", fsd.read_fsc89(tmp_path / "ann"), _touch(tmp_path / "media", files | whole), tmp_path / "out")
    table = _table(tmp_path / "out")
    assert set(table.start) == {0} and (table.path == "clips/" + table.clip_id + ".wav").all()


def test_fsd_mix_clips_keeps_single_labels_and_draws_novel_classes_by_soundscape(tmp_path):
    header, files = "class_split,data_split,filename,start_time,labels", {}
    for part, classes in (("base_train", range(59)), ("base_val", range(59)), ("base_test", range(59))):
        files[part] = [f"base,x,soundscape_{c}.wav,1.5,[{c}]" for c in classes]
    for part, classes in (("novel_val", range(59, 74)), ("novel_test", range(74, 89))):
        files[part] = [f"novel,x,soundscape_{c}{i // 2}.wav,{i},[{c}]" for c in classes for i in range(20)]
    files["base_train"] += ['base,x,soundscape_0.wav,2.5,"[0, 4]"', files["base_train"][3]]
    _write(tmp_path / "ann", {f"{part}.csv": [header, *lines] for part, lines in files.items()})
    place = {p: p.replace("_", "/") if p.startswith("base") else p.removeprefix("novel_") for p in files}
    sounds = _touch(tmp_path / "media", {f"{place[p]}/{r.split(',')[2]}" for p, lines in files.items() for r in lines})
    found = build("fsd_mix_clips", fsd.read_fsd_mix_clips(tmp_path / "ann"), sounds, tmp_path / "out")
    assert found.notes["clips"] == "1 rows of several labels left out" and found.repeated == [
        "base/train/soundscape_3_66150"
    ]
    assert found.per_class["0"] == {"train": 1, "val": 1, "test": 1}
    assert found.per_class["88"] == {"train": 14, "val": 2, "test": 4} and found.leaks["test and train"]["clips"] == 0
    out = tmp_path / "few"
    main(["fsd_mix_clips", str(tmp_path / "ann"), str(sounds), str(out), "--shots", "5"])
    assert Counter(_table(out).query("split == 'train'").label)["60"] == 5


# ---- any folder


def test_a_folder_of_films_becomes_a_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{label}/{i}.mp4,{label}" for label in ("dog", "cat", "bell") for i in range(10)]
    _write(tmp_path / "my_videos", {"labels.csv": ["path,label", *rows]})
    _touch(tmp_path / "my_videos", [row.split(",")[0] for row in rows])
    main(["folder", "my_videos/labels.csv", "imports/mine"])
    table = _table(Path("imports/mine"))
    for label in ("dog", "cat", "bell"):
        assert Counter(table.split[table.label == label]) == {"train": 7, "val": 1, "test": 2}
    assert (
        table.path[0] == f"clips/{table.clip_id[0]}" and "notes: split: drawn by class: 70 %" in capsys.readouterr().out
    )
    main(["folder", "my_videos/labels.csv"])
    assert _bytes(Path("imports/my_videos")) == _bytes(Path("imports/mine"))


def test_a_folder_may_have_its_own_split_recordings_and_starts(tmp_path):
    labels = ["dog", "Dog ", "dog", "cat", "cat"]
    pairs = [f"{label},{split}" for label in labels for split in ("train", "test")]
    rows = [f"long.mp4,{pair},{start}.5" for start, pair in enumerate(pairs)]
    _write(tmp_path, {"labels.csv": ["path,label,split,start", *rows]})
    _touch(tmp_path, ["long.mp4"])
    found = build("folder", BUILDERS["folder"](tmp_path / "labels.csv"), tmp_path, tmp_path / "out")
    assert found.mended_labels == {"Dog ": "dog"} and found.clips == {"train": 5, "val": 0, "test": 5}
    assert sorted(_table(tmp_path / "out").start) == [i + 0.5 for i in range(10)]
    rows = [f"{label}{i}.mp4,{label},{i // 5}" for label in "ab" for i in range(50)]
    _write(tmp_path / "films", {"labels.csv": ["path,label,video", *rows]})
    _touch(tmp_path / "films", [row.split(",")[0] for row in rows])
    found = build("folder", BUILDERS["folder"](tmp_path / "films/labels.csv"), tmp_path / "films", tmp_path / "two")
    assert found.clips == {"train": 70, "val": 10, "test": 20} and found.leaks["test and train"]["clips"] == 0
    table = _table(tmp_path / "two")
    assert table.groupby(table.clip_id.str[1:-4].astype(int) // 5).split.nunique().eq(1).all()


def test_a_listed_path_is_found_in_linked_folders_and_in_either_spelling(tmp_path):
    """Files named as macOS does, é in two characters, and a list that has it in one."""
    rows = [f"clips/Dog bark/\u00e9{i}.mp4,dog" for i in range(4)] + [f"cat/e\u0301{i}.mp4,cat" for i in range(4)]
    _write(tmp_path / "films", {"labels.csv": ["path,label", *rows]})
    _touch(tmp_path / "elsewhere", [f"Dog bark/e\u0301{i}.mp4" for i in range(4)])
    _touch(tmp_path / "films", [f"cat/\u00e9{i}.mp4" for i in range(4)])
    (tmp_path / "films/clips").symlink_to("../elsewhere")
    found = build("folder", BUILDERS["folder"](tmp_path / "films/labels.csv"), tmp_path / "films", tmp_path / "out")
    assert found.missing == [] and len(_table(tmp_path / "out")) == 8


# ---- drawing and finding


def test_draws_keep_shares_videos_and_other_classes():
    clips = pd.DataFrame(
        [(f"{c}{v}{n}", c, "open", f"{c}{v}") for c in "abc" for v in range(10) for n in range(1 + v % 2)],
        columns=["clip_id", "label", "split", "video"],
    )
    drawn = draw.split(clips, {"open": draw.SHARES}, 0)
    assert clips.assign(split=drawn).groupby("video").split.nunique().eq(1).all()
    sizes = pd.crosstab(clips.label, drawn)
    assert ((sizes - 15 * pd.Series(draw.SHARES)).abs() < 2).all(axis=None)
    # not the same places in every class
    assert len({tuple(drawn[clips.label == label]) for label in "abc"}) > 1
    alone = clips[clips.label == "b"]
    assert (draw.split(alone, {"open": draw.SHARES}, 0) == drawn[alone.index]).all()
    assert (draw.split(clips, {"train": draw.SHARES}, 0) == "open").all()
    few = draw.few(clips.assign(split="train"), {"a": 3}, 0)
    assert Counter(few.label) == {"a": 3, "b": 15, "c": 15}


def test_media_are_found_by_several_names(tmp_path):
    _touch(
        tmp_path, ["a/x.wav", "b/x.MP4", "x.txt", "c/abcdefghijk_000001_000011.webm", "c/abcdefghijk_000001_000011.mp4"]
    )
    index = media_index(tmp_path)
    assert index["x"] == "b/x.MP4" and index["a/x"] == index["a/x.wav"] == "a/x.wav" and index["x.txt"] == "x.txt"
    assert index["abcdefghijk"] == index["abcdefghijk_000001_000011"] == "c/abcdefghijk_000001_000011.mp4"


# ---- errors: one line with the way out, and nothing written


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "{dir}: no such file"}, "Annotations.txt: cannot be read"),
        ({SET["val"]: [HEADER, "", "Cat&abc&good&0"]}, "valSet.txt, row 3: no EndTime; fill it in"),
        ({SET["val"]: ["Cat&&good&0&10"]}, "valSet.txt, row 1: no VideoID; fill it in or delete the row"),
        ({SET["val"]: ["Cat&abc&good&0&10"]}, "row 1: `abc` of `Cat` is not in Annotations.txt; take all four files"),
    ],
)
def test_bad_rows_of_ave(ave_set, tmp_path, files, message):
    if "a" in files:
        (ave_set[0] / "Annotations.txt").unlink()
    else:
        _write(ave_set[0], files)
    assert message in _refused(["ave", *ave_set, tmp_path / "out"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\n", "labels.csv, row 1: no column `path`; path, label are expected, with `,` between them"),
        ("path,label,label\na.mp4,x,y\n", "labels.csv, row 1: two columns `label`; delete or rename one"),
        ("path,label\na.mp4\n", "row 2: no label; fill it in or delete the row"),
        (
            "path,label\na,b.mp4,x\n",
            "labels.csv: cannot be read (Error tokenizing data. C error: Expected 2 fields in line 2",
        ),
        ("path,label\na.mp4, \n", "row 2: no label; fill it in"),
        ("path,label,split\na.mp4,x,dev\n", "row 2: `dev` is not one of train, val, test; mend or delete the row"),
        ("path,label,start\na.mp4,x,-1\n", "row 2: `-1` is no time in seconds"),
        ("path,label,start\na.mp4,x,2e9\n", "row 2: `2e9` is no time in seconds"),
        ("path,label\n../a.mp4,x\n", "row 2: `../a.mp4` is not in"),
        ("path,label\n/a.mp4,x\n", "row 2: `/a.mp4` is not in"),
        ("path,label\na.mp4,x\n\na.mp4,x\n", "row 4: `a.mp4` is also in row 2; delete one of the rows"),
        ("path,label,split\na.mp4,x,train\n", "no test clip of `x`; annotate some, or leave the classes out"),
        (
            "path,label,start\na.mp4,x,0\na.mp4,x,1\n",
            "no test clip of `x`; annotate some, of other recordings: those of one are drawn together, or leave",
        ),
        (
            "path,label,split\na.mp4,x,train\nb.mp4,x,test\n",
            "no test clip of `x`; 1 clips have no medium, such as `b.mp4`: get theirs",
        ),
        # as a name without folder and suffix it was found, whosever it is
        ("path,label\na,x\n", "holds none of the 1 clips, such as `a`"),
        ("path,label\nb.mp4,x\n", "holds none of the 1 clips, such as `b.mp4`; give the folder that does"),
        ("path,label\n", "labels.csv: no clips"),
        (
            'path,label\na.mp4,"x' + "y" * 140_000,
            "labels.csv: cannot be read (Error tokenizing data. C error: EOF inside",
        ),
        ("path,label\na.mp4,\xff\n", "invalid start byte); save it in UTF-8"),
    ],
)
def test_bad_rows_of_a_folder(tmp_path, text, message):
    _touch(tmp_path / "films", ["a.mp4"])
    (tmp_path / "films" / "labels.csv").write_text(text, encoding="latin-1")
    assert message in _refused(["folder", tmp_path / "films" / "labels.csv", tmp_path / "out"])
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_where_each_clip_is_in_two_splits(tmp_path):
    _write_ave(tmp_path / "ann", {split: ["Cat&abcdefghijk&good&0&10"] for split in SPLITS})
    assert "ann: each clip is listed in two splits; list it in one" in _refused(["ave", tmp_path / "ann", tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "[", r"c\.json: no class order \("),
        ("c.json", "{}", r"c\.json: no class order \("),
        ("c.json", '["Cat", "Cat"]', "a class occurs twice"),
        ("c.json", '["Kat"]', r"no clip of `Kat` \(did you mean `Cat`\?\); correct or drop these classes"),
        ("no.json", None, r"no\.json: no class order"),
        ("c.npy", {"Cat": 1}, r"not the ids 0, 1, 2, \.\.\. of class names; give category_encode_dict\.npy"),
    ],
)
def test_bad_class_lists(ave_set, tmp_path, name, content, message):
    if isinstance(content, dict):
        np.save(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(Refusal, match=message):
        build("ave", ave.read(ave_set[0], classes=tmp_path / name), ave_set[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bad_annotations(vgg, tmp_path):
    folder = tmp_path / "ann"
    _fsc89(folder)
    (folder / "Fsc89-mini-fsci_val.csv").touch()
    assert "2 files Fsc89-*-fsci_val.csv; give the folder of one setup" in _refused(["fsc89", folder, tmp_path])
    (folder / "Fsc89-mini-fsci_val.csv").unlink()
    _write(
        folder,
        {"Fsc89-setup1-fsci_val.csv": ["data_folder,FSD_MIX_SED_filename,start_time,label", "base/val,a.wav,1,89"]},
    )
    assert "fsci_val.csv, row 2: `89` is not one of 0, 1," in _refused(["fsc89", folder, tmp_path])
    (tmp_path / "vocab.json").write_text('["a"]')
    assert "1 names where 89 are expected" in _refused(["fsc89", folder, tmp_path, "--names", tmp_path / "vocab.json"])
    _write(folder, {"base_train.csv": ["filename,start_time,labels", "a.wav,1,dog"]})
    assert "base_train.csv, row 2: `dog` is no list of class ids" in _refused(["fsd_mix_clips", folder, tmp_path])
    vgg[0].write_text("abcdefghijk,5,fox barking,dev\n")
    assert "vggsound.csv, row 1: `dev` is not one of train, test" in _refused(["vggsound", *vgg])
    _write_avcil(tmp_path / "AVE", {"train": {}}, ["Cat"])
    line = _refused(["ave", tmp_path / "AVE", tmp_path])
    assert "all_classId_vid_dict.npy: not {split: {class id: [clip]}} ('val'); download it again" in line
    assert "nowhere: no such folder" in _refused(["ave", _write_ave(tmp_path / "a", _ave_rows()), tmp_path / "nowhere"])


def test_what_is_at_the_destination_is_not_harmed(ave_set, tmp_path):
    out = tmp_path / "out"
    given = [str(p) for p in (*ave_set, out)]
    main(["ave", *given])
    (out / "features").mkdir()
    main(["ave", *given])  # the same clips
    before = _bytes(out)
    (ave_set[1] / f"{_video('train', 0, 0)}.mp4").unlink()
    assert f"{out}: holds features of other clips; delete them or choose another destination" in _refused(
        ["ave", *given]
    )
    assert _bytes(out) == before
    (tmp_path / "full" / "clips").mkdir(parents=True)
    assert "clips: not a link to media" in _refused(["ave", *ave_set, tmp_path / "full"])


@pytest.mark.parametrize("name", BUILDERS)
def test_help_shows_the_layout(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert "ANNOTATIONS  " in text and (name == "folder" or "MEDIA   " in text)


def test_options_out_of_range_are_refused(capsys):
    for option, value in (("--val-share", "1.5"), ("--val-share", "x"), ("--split-seed", "x")):
        with pytest.raises(SystemExit, match="2"):
            main(["vggsound", "a", "b", option, value])
        assert f"argument {option}: invalid" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["fsc89", "a", "b", "--shots", "0"])


# ---- the real annotation files, where they are at hand


class _All(dict):
    """An index of media in which everything is found."""

    def __contains__(self, name) -> bool:
        return True

    def __missing__(self, name) -> str:
        return f"{name}.mp4"


@pytest.fixture
def real(monkeypatch):
    """Of a folder with AVE/, avcil/{AVE,kinetics-sounds,VGGSound_100}/, FSC-89/, FSD_MIX_CLIPS/, vggsound.csv and
    vggsounder.csv, the part that a test wants."""
    monkeypatch.setattr(report, "media_index", lambda folder: _All())

    def part(name: str) -> Path:
        place = Path(os.environ.get("AVCIL_ANNOTATIONS", "/nowhere")) / name
        if not place.exists():
            pytest.skip(f"no {name} in the folder AVCIL_ANNOTATIONS of official annotation files")
        return place

    return part


def test_real_ave_is_avcils_split_clip_for_clip(real, tmp_path):
    order = real("avcil/AVE/category_encode_dict.npy")
    found = build("ave", ave.read(real("AVE"), classes=order), tmp_path, tmp_path / "own")
    build("ave", ave.read(real("avcil/AVE")), tmp_path, tmp_path / "avcil")
    for name in ("manifest.csv", "order.json"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "avcil" / name).read_bytes()
    assert found.clips == {"train": 3294, "val": 391, "test": 394} and len(found.order) == 28
    assert len(found.two_splits) == 18 and len(found.two_labels) == 45 and not found.repeated


@pytest.mark.parametrize(
    ("name", "read", "clips"),
    [
        ("kinetics-sounds", kinetics_sounds.read, {"train": 19220, "val": 1947, "test": 1958}),
        ("VGGSound_100", vggsound.read, {"train": 51195, "val": 5000, "test": 5000}),
    ],
)
def test_real_splits_of_avcil(real, tmp_path, name, read, clips):
    found = build(name, read(real(f"avcil/{name}")), tmp_path, tmp_path / "out")
    assert found.clips == clips and not (found.two_labels or found.two_splits or found.repeated)
    if name == "VGGSound_100":
        assert found.leaks["test and train"] == {"clips": 1627, "share": 0.3254, "same_class": 1625}
        assert found.mended_labels == {"subway, metr": "subway, metro, underground"}
    else:
        assert found.order == kinetics_sounds.CLASSES


def test_real_fsc89(real, tmp_path):
    found = build("fsc89", fsd.read_fsc89(real("FSC-89")), tmp_path, tmp_path / "out")
    assert found.clips == {"train": 59 * 800 + 30 * 5, "val": 59 * 200, "test": 89 * 200}


def test_real_fsd_mix_clips(real, tmp_path):
    found = build("fsd_mix_clips", fsd.read_fsd_mix_clips(real("FSD_MIX_CLIPS")), tmp_path, tmp_path / "out")
    novel = Counter()
    for label in found.order[fsd.BASE :]:
        novel.update(found.per_class[label])
    assert novel.total() == 13358 + 12605
    assert {s: found.clips[s] - novel[s] for s in SPLITS} == {"train": 351781, "val": 51889, "test": 50550}


def test_real_vggsound(real, tmp_path):
    annotation = vggsound.read(real("vggsound.csv"), vggsounder=real("vggsounder.csv"))
    found = build("vggsound", annotation, tmp_path, tmp_path / "out")
    assert len(found.order) == 309 and found.clips["test"] == 15446
    assert found.leaks["test and train"]["clips"] == found.leaks["val and train"]["clips"] == 0
    assert set(vggsound.read_multilabel(tmp_path / "out")) <= {c.clip_id for c in annotation.clips if c.split == "test"}
