"""A task of several seeds, each in a process of its own."""

import json

import numpy as np
import pytest
import torch
from toys import TASKS, TRAINING, digest, row

from avcil.base.files import write_json
from avcil.learn import chain, train
from avcil.learn.checkpoint import EMPTY, save_checkpoint
from avcil.tokens.dataset import load_datasets
from avcil.workshop.import_tokens import import_tokens


@pytest.mark.slow
def test_seeds_learn_what_one_after_the_other_does(toy, tmp_path, capsys):
    split = np.zeros(len(toy.labels), int)
    for number, rows in enumerate(toy.splits.values()):
        split[rows] = number
    visual, audio, similarity = (stream.numpy() for stream in toy.tokens)
    np.savez(
        tmp_path / "toy.npz",
        **{"visual": visual, "audio": audio, "similarity": similarity, "label": toy.labels, "split": split},
        clip_id=toy.clip_ids,
        order=toy.order,
    )
    import_tokens(tmp_path / "toy.npz", tmp_path)
    order = json.loads((tmp_path / "order.json").read_text())
    write_json(tmp_path / "orders.json", {"3": order, "4": order[::-1]})
    for seed in (3, 4):
        save_checkpoint(tmp_path / f"init/seed{seed}", EMPTY)
    place = (tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path / "features/imported")
    link = chain.Link(*place, None, row(), TRAINING, TASKS, 0, tmp_path / "init", tmp_path / "task0", tmp_path / "live")
    threads = torch.get_num_threads()
    learnt = chain.learn(link, [4, 3])

    assert list(learnt) == [4, 3] and torch.get_num_threads() == threads
    assert sorted(path.name for path in (tmp_path / "live").iterdir()) == ["seed3", "seed4"]
    for seed, data in load_datasets(*place, [3, 4]).items():
        checkpoint, result, losses = train.run_task(data, row(), TRAINING, TASKS, 0, seed, EMPTY)
        train.save_task(tmp_path / f"alone/seed{seed}", checkpoint, result)
        assert learnt[seed] == (result, losses, len(checkpoint.memory))
        assert digest(tmp_path / f"task0/seed{seed}") == digest(tmp_path / f"alone/seed{seed}")
