"""What each process of tests/test_parallel.py runs under torchrun: two tasks of some rows, losses printed by one."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

from avcil.learn import parallel, train
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import build
from avcil.learn.methods.afc import nca
from avcil.params import load
from avcil.params.learning import Task
from conftest import ROOT, toy_dataset

torch.set_num_threads(1)
dist.init_process_group("gloo")
params = load(ROOT / "params.yaml")
training = params.training.model_copy(update={"batch": 7, "width": 8, "heads": 2})
data, said = toy_dataset(), {}
for row in ("lll", "avcil", "afc_lsc"):
    method = params.rows[row].model_copy(update={"patches": None})
    tasks = [Task(**{"id": t, "from": ["init", "task0"][t], "classes": 2, "epochs": 2}) for t in range(2)]
    checkpoint = EMPTY
    for task in range(2):
        checkpoint, result, losses = train.run_task(data, method, training, tasks, task, 0, checkpoint)
        said[f"{row} {task}"] = {"losses": losses, "predictions": result.predictions}
torch.manual_seed(0)
model = build(params.rows["afc_lsc"], training, data.tokens.channels)
model.classifier.grow(2)
rows = data.rows("train", 0, 2)[8:15]
logits = parallel.gather(model(data.tokens.clips(parallel.share(rows))), len(rows)).logits
nca(logits, data.labels[rows], parallel.once(model.classifier.scale)).backward()
parallel.sum_gradients(list(model.parameters()))
said["gradients"] = {name: p.grad.flatten().tolist() for name, p in model.named_parameters() if p.grad is not None}
if parallel.first():
    Path(sys.argv[1]).write_text(json.dumps(said))
dist.destroy_process_group()
