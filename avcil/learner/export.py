"""The predicting part of a learner as one file that needs torch alone, not this project: tokens in, logits out.

more = {"classes.json": "", "temperature.json": ""}
program = torch.export.load("learner.pt2", extra_files=more)
logits = program.module()(visual, audio, similarity)
probabilities = (logits / json.loads(more["temperature.json"])).softmax(1)  # of json.loads(more["classes.json"])
"""

import io
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from avcil.base.files import write_bytes
from avcil.learn import evaluate
from avcil.learn.heads import Head
from avcil.learn.model import IncrementalClassifier
from avcil.learner.clips import LearnerError
from avcil.params.learning import Method
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import Tokens, TokenSource

# random features are drawn anew at each call; a carried ridge looks at tokens batch after batch, a conditional one at
# the clips that have what it asks for
DRAWN_OR_LOOPED = ("ranpac", "acil", "mmal", "carried_ridge", "conditional_ridge")
LOOKS_AT_VALUES = ("channelwise",)  # fusions of which torch would print a page before it gives up


def looked_at(tokens: Tokens, method: Method) -> TokenSource:
    """What the method looks at of these tokens: `avcil.learn.evaluate.tokens_of` without a data set."""
    # of a data set `tokens_of` reads the tokens alone
    return evaluate.tokens_of(Dataset([], tokens, torch.empty(0, dtype=torch.long), {}, [], "", None), method)


class Predictor(nn.Module):
    """visual [B,L,S,D], audio [B,A,D'] and similarity [B,L,S] to logits [B,C], by the method's own read-out."""

    def __init__(self, model: IncrementalClassifier, method: Method, head: Head | None):
        super().__init__()
        # a head is no module: what it has solved becomes constants of the program
        self.model, self.method, self.head = model, method, head

    def forward(self, visual: Tensor, audio: Tensor, similarity: Tensor) -> Tensor:
        # a store's tokens are float16
        tokens = looked_at(Tokens(visual.float(), audio.float(), similarity.float()), self.method)
        output = self.model(tokens)
        return output.logits if self.head is None else self.head.logits(output.features)


def check_name(path: Path) -> None:
    """Raises LearnerError for another ending than .pt2."""
    if path.suffix != ".pt2":
        raise LearnerError(f"{path}: torch.export's files end in .pt2; name it so")


def export(predictor: Predictor, tokens: Tokens, classes: list[str], path: Path, *, temperature: float) -> None:
    """Write ``predictor`` for any number of clips; ``classes`` are in the file as classes.json, in logits' order, and
    what `Learner.predict` divides logits by as temperature.json.

    Raises LearnerError for another ending than .pt2, fewer than two example clips, or a read-out that cannot be traced;
    OSError naming the file if it cannot be written, and one that was there is then as before.
    """
    check_name(path)
    # torch.export takes a dimension of one for a constant
    if len(tokens.audio) < 2:
        raise LearnerError("one clip to export with; give two or more, from which the number of clips is seen to vary")
    if predictor.method.readout in DRAWN_OR_LOOPED:
        raise LearnerError(f"read-out {predictor.method.readout} cannot be traced; ridge and trained classifiers can")
    if predictor.method.fusion in LOOKS_AT_VALUES:
        raise LearnerError(f"fusion {predictor.method.fusion} cannot be traced; predict by Learner instead")
    # one for all three: each has as many clips as the others
    batch = {0: Dim("batch", min=1)}
    with torch.no_grad():
        predictor(*tokens)  # the head is solved once, in front of the trace
        try:
            program = torch.export.export(predictor, tuple(tokens), dynamic_shapes=(batch, batch, batch))
        except Exception as error:  # of code that it cannot trace torch raises anything
            row = f"fusion {predictor.method.fusion}, read-out {predictor.method.readout}"
            reason = str(error).strip().split("\n")[0][:120]
            raise LearnerError(f"{row}: cannot be traced ({reason}); predict by Learner instead") from None
    more, content = {"classes.json": json.dumps(classes), "temperature.json": json.dumps(temperature)}, io.BytesIO()
    with warnings.catch_warnings():
        # of solved weights, which stand column by column: "may cause issues when your weights are not on CPU"; they are
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, content, extra_files=more)
    # not by torch itself, which a full disk ends in the middle of the old file, and with a traceback
    write_bytes(path, content.getvalue())
