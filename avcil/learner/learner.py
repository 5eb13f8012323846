"""`Learner`: learns classes from clips, in closed form or task by task, predicts, forgets, and is kept in a folder.

Dimension letters: ``N`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``M`` regressors, ``C`` classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize_scalar
from torch import Tensor

from avcil.base.device import named
from avcil.learn import evaluate
from avcil.learn.checkpoint import EMPTY, Checkpoint, load_checkpoint
from avcil.learn.heads import Head, RecursiveRidge
from avcil.learn.methods import knows_absence
from avcil.learn.model import IncrementalClassifier
from avcil.learner import folders, tasks
from avcil.learner.clips import ClipEncoder, Clips, LearnerError, at_hand, media_of, tokens_of
from avcil.learner.export import Predictor, export, looked_at
from avcil.learner.labels import tidy
from avcil.learner.predictions import Cost, Prediction, unknown
from avcil.learner.tasks import Kept
from avcil.params import Params, project
from avcil.params.learning import FROZEN, Method, Training
from avcil.params.section import nearest
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import Media
from avcil.tokens.tokens import Tokens

ADDITIVE = ("ridge", "acil")
"""Read-outs whose state is gram [M,M] and cross [M,C], sums over clips with a column a class."""

MEASURED = ("counts", "temperature", "threshold", "accuracy")
"""What else a saved learner has: clips by class, and what `calibrate` has chosen and measured."""


class Learner:
    """Learns classes from clips, without clips of earlier classes, and classifies new clips.

        learner = avcil.Learner()
        learner.fit(files, labels, validation=(more_files, their_labels))
        learner.learn(five_files, "whistle")
        learner.predict(files)[0].label
        learner.save("my_learner")

    The method is a row of params.yaml, by default `ridge_guided`: the mean audio token joined with the visual tokens'
    mean under the prior's own attention, and W = (G + λI)⁻¹ Q (`avcil.learn.heads`). In whatever parts and order clips
    are learnt, the sums, and so the answers, are those of all clips at once, up to rounding. A clip that is given twice
    counts twice. Deviation: with ``by_class``, the sums G_c and Q_c of a class of n_c clips are weighted by n̄ / n_c, n̄
    being the mean over classes; otherwise a class of five clips would hardly be predicted beside classes of forty.
    Where all classes have equally many clips, this is the published ridge. So learn all rows with a frozen fusion that
    read out by `ridge` or `acil`.

    Every other row, `lll_prior` and `lll_closed` among them, learns each call's new classes as a task, by the loop of
    the pipeline: what it trains is trained on their clips and the exemplars, held to the model before as the row says,
    and the tokens of the new exemplars are kept, in a saved folder, too. More clips of a class that is known are
    refused there, except by the closed forms of any scale (`avcil.learner.tasks.SUMMED`).

    Clips are files, parts of files (`avcil.learner.clips.windows`) or `avcil.tokens.tokens.Tokens`. One that cannot be
    used raises ClipError, which names it and where in the file it begins; to go on without such clips, give the tokens
    of `avcil.learner.clips.usable(files, learner.encoder)`. A run of the pipeline, of whatever method, predicts by
    `from_run`. Published encoders and models are on ``device`` (`to`), at first `compute.device` of params.yaml; sums,
    and what is solved from them, are on the CPU.

    Args:
        encoder: `mini`, or one of `encoders` in params.yaml; by default the one whose tokens the row takes.
        method: a row of params.yaml.
        by_class: keep a Gram matrix a class (8 M² bytes each) instead of one: then `forget` is exact, and classes
            count alike, however many clips each has. Of rows that learn task by task it says nothing.
        epochs: of a task, where something is trained; by default those of the first task of params.yaml.
        root: the project's folder; if left out, the one that the working directory is in, or else the clone of avcil.

    Raises ParameterError, naming the way out, for an unknown name, and LearnerError for epochs that are none.
    """

    def __init__(
        self,
        encoder: str | None = None,
        method: str = "ridge_guided",
        *,
        by_class: bool = True,
        epochs: int | None = None,
        params: Params | None = None,
        root: Path | None = None,
    ):
        # asked even where params are given: it also knows where the priors are
        own, priors = at_hand(_here() if root is None else Path(root))
        params = params or own
        row = params.method(method)
        if encoder is not None:
            row = row.model_copy(update={"tokens": encoder})
        # True is an int, and no number of epochs
        if epochs is not None and (type(epochs) is not int or epochs < 1):
            raise LearnerError(f"epochs {epochs!r}: give a whole number, 1 or more")
        reader = ClipEncoder.of_params(row.tokens, params, priors, incomplete=knows_absence(row))
        self._begin(row, params.training, reader, EMPTY, by_class, epochs or params.tasks[0].epochs)

    def _begin(
        self,
        method: Method,
        training: Training,
        encoder: ClipEncoder | None,
        checkpoint: Checkpoint,
        by_class: bool,
        epochs: int,
    ) -> None:
        self.method, self.training, self.encoder = method, training, encoder
        self.checkpoint, self.by_class, self.epochs = checkpoint, by_class, epochs
        self.kept: Kept | None = None
        self.device = encoder.device if encoder else "cpu"
        self.counts: dict[str, int] = {}
        self.accuracy: float | None = None
        self.temperature = 1.0
        self.threshold: float | None = None
        # the sums of each class as if there were no other: its cross has one column
        self._parts: dict[str, dict[str, Tensor]] = {}
        # the head that answered last, and the checkpoint that it is of
        self._answered: tuple[Checkpoint, Head | None] = EMPTY, None

    @classmethod
    def _of(cls, *parts) -> "Learner":
        """One that does not begin with a row of params.yaml; ``parts`` as in `_begin`."""
        # past __init__, which reads params.yaml: a saved learner needs none
        learner = cls.__new__(cls)
        learner._begin(*parts)
        return learner

    def to(self, device: str) -> "Learner":
        """Learn and predict on ``device`` from now on. Raises LearnerError if there is no such device."""
        _check_device(device)
        self.device = device
        if self.encoder and self.encoder.device != device:
            # loaded anew, there, when the next file is to be read
            self.encoder.device, self.encoder._encoder = device, None
        return self

    # ---- learning

    def fit(
        self, clips: Clips, labels: str | Sequence[str], validation: tuple[Clips, Sequence[str]] | None = None
    ) -> Cost:
        """Learn from these clips alone and forget all others. If anything raises, the learner is unchanged."""
        fresh = self._of(self.method, self.training, self.encoder, EMPTY, self.by_class, self.epochs)
        # `_begin` takes the encoder's, and a learner of tokens may have no encoder
        fresh.device = self.device
        cost = fresh.learn(clips, labels, validation)
        self.__dict__ = fresh.__dict__
        return cost

    def learn(
        self, clips: Clips, labels: str | Sequence[str], validation: tuple[Clips, Sequence[str]] | None = None
    ) -> Cost:
        """Add clips of new or known classes. ``labels``: one a clip, or one for all; stray blanks are dropped.

        With ``validation`` clips the learner is measured and calibrated (`calibrate`). Without, a temperature and a
        threshold there were are dropped: they were of other classes. If anything raises, the learner is as before.
        """
        start = perf_counter()
        if validation is not None and (not isinstance(validation, tuple | list) or len(validation) != 2):
            raise LearnerError("validation: give a pair, clips and their labels")
        clips, labels = self._listed(clips, labels)
        self._check_it_learns(labels)
        tokens = self._read(clips)
        # before anything is learnt: a validation clip that is refused then costs no learning
        held_out = validation and self._held_out(*validation, {*self.classes, *labels})
        encoded = perf_counter()
        # a shallow copy will do: what follows replaces counts, parts and checkpoint, and changes none in place
        known, before = self.classes, self.__dict__.copy()
        accuracies: list[float | None] = [None, None]
        try:
            if self._sums:
                self._absorb(tokens, labels)
            else:
                # whatever a program around this has switched off, and whatever it draws next
                with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
                    self._learn_task(tokens, labels, held_out)
            self._drop_calibration()
            if held_out:
                # as `calibrate` by itself
                right, old = self._calibrate(*held_out, 0.95), np.isin(held_out[1], known)
                accuracies = [float(right[part].mean()) if part.any() else None for part in (old, ~old)]
        # Ctrl-C among others
        except BaseException:
            self.__dict__ = before
            raise
        new = [label for label in self.classes if label not in known]
        return Cost(len(labels), new, perf_counter() - start, encoded - start, self.bytes, *accuracies)

    def _absorb(self, tokens: Tokens, labels: list[str]) -> None:
        state = self.checkpoint.readout
        model = self._restored(tokens).to(named(self.device))
        features = evaluate.predict(model, looked_at(tokens, self.method), torch.arange(len(labels))).features
        classes = self._count(labels)
        if self.by_class:
            # each by itself, as class 0 of one: so it can be weighed, and taken out again
            for label in dict.fromkeys(labels):
                head = self._ridge(self._parts.get(label, {}))
                mine = torch.tensor([one == label for one in labels])
                head.update(features.at(mine), torch.zeros(int(mine.sum())).long(), 1)
                self._parts = self._parts | {label: head.state}
            state = self._sums_of_parts()
        else:
            head = self._ridge(state)
            head.update(features, torch.tensor([classes.index(label) for label in labels]), len(classes))
            state = head.state
        # of a run's model nothing is learnt but a classifier of its classes, which is not read
        origin = self.checkpoint.origin | {"channels": [*tokens.channels]}
        self.checkpoint = self.checkpoint._replace(model={}, readout=state, classes=classes, origin=origin)

    def _learn_task(self, tokens: Tokens, labels: list[str], held_out: tuple[Tokens, list[str]] | None) -> None:
        self._restored(tokens)  # which refuses other channels by name
        checkpoint, kept, known = self.checkpoint, self.kept, self.classes
        new, more = ([row for row, label in enumerate(labels) if (label in known) == again] for again in (False, True))
        if new:
            given = tokens.clips(torch.tensor(new)), [labels[row] for row in new]
            checkpoint, kept = tasks.learn(
                checkpoint, kept, *given, self.method, self.training, held_out, epochs=self.epochs, device=self.device
            )
        if more:
            given = tokens.clips(torch.tensor(more)), [labels[row] for row in more]
            checkpoint = tasks.add(checkpoint, *given, self.method, self.training)
        self._count(labels)
        origin = checkpoint.origin | {"channels": [*tokens.channels]}
        self.checkpoint, self.kept = checkpoint._replace(origin=origin), kept

    def _count(self, labels: list[str]) -> list[str]:
        """Add clips to `counts`; gives all classes, new ones behind those known, whose columns stay where they are."""
        classes = list(dict.fromkeys([*self.classes, *labels]))
        # of classes that a run has learnt it is not recorded from how many clips
        counted = [label for label in classes if label in self.counts or label not in self.classes]
        self.counts = {label: self.counts.get(label, 0) + labels.count(label) for label in counted}
        return classes

    def _sums_of_parts(self) -> dict[str, Tensor]:
        """Sums of all classes from those of each, gram [M,M] and cross [M,1], as if all had equally many clips."""
        if not self.counts:
            return {}
        # weights that add up to the number of clips, so that the penalty counts as much as without them
        mean = sum(self.counts.values()) / len(self.counts)
        weighed = [(mean / count, self._parts[label]) for label, count in self.counts.items()]
        gram = torch.stack([weight * part["gram"] for weight, part in weighed]).sum(0)
        # columns in the order of counts, which `_absorb` and `forget` make that of classes
        return {"gram": gram, "cross": torch.cat([weight * part["cross"] for weight, part in weighed], 1)}

    def forget(self, label: str) -> None:
        """Remove a class exactly, as if no clip of it had ever been given: its sums are subtracted.

        Raises LearnerError for an unknown label, and where sums are not kept by class.
        """
        # `tidy` takes words alone
        if not isinstance(label, str):
            raise LearnerError(f"no class {label!r}; give one label")
        # as `learn` has written it; those of a run are as its manifest has them
        label = label if label in self.classes else tidy(label)
        if label not in self.classes:
            raise LearnerError(f"no class `{label}`{nearest(label, self.classes)}")
        if not self._sums:
            raise LearnerError("what was learnt task by task does not come apart again; fit anew without this class")
        if not self._parts:
            raise LearnerError("sums of all classes are kept as one; fit with by_class=True to forget exactly")
        self._parts = {name: part for name, part in self._parts.items() if name != label}
        self.counts = {name: count for name, count in self.counts.items() if name != label}
        # classes anew from counts, which come sorted from a saved file: columns and names stay together
        self.checkpoint = self.checkpoint._replace(readout=self._sums_of_parts(), classes=list(self.counts))
        self._drop_calibration()

    def _drop_calibration(self) -> None:
        self.temperature, self.threshold, self.accuracy = 1.0, None, None

    # ---- predicting

    @property
    def classes(self) -> list[str]:
        return self.checkpoint.classes

    @property
    def bytes(self) -> int:
        """Of the model's tensors, the head's sums, those of each class, and the exemplars' tokens."""
        kept = [self.checkpoint.model, self.checkpoint.readout, *self._parts.values()]
        kept += [self.kept.tokens._asdict()] if self.kept else []
        return sum(value.nbytes for tensors in kept for value in tensors.values())

    def predict(self, clips: Clips) -> list[Prediction]:
        """Classify clips with the method's own read-out: the solved head if there is one, else the trained classifier.

        Probabilities are softmax(logits / T); T is 1 until `calibrate` has chosen it, and those of a ridge, whose
        logits estimate one-hot labels, are then too even.
        """
        readout = self._read_out(tokens_of(clips, self.encoder))
        # a temperature changes no order, so the label is that of the logits as they are
        chances, scores = (readout.logits / self.temperature).softmax(1), unknown(readout)
        return [
            Prediction(
                label=self.classes[int(readout.logits[row].argmax())],
                probabilities=dict(zip(self.classes, chances[row].tolist(), strict=True)),
                spatial=readout.output.spatial[row],
                temporal=readout.output.temporal[row],
                unknown=float(scores[row]),
                is_unknown=None if self.threshold is None else bool(scores[row] > self.threshold),
            )
            for row in range(len(scores))
        ]

    def calibrate(self, clips: Clips, labels: Sequence[str], *, accept: float = 0.95) -> float:
        """Set temperature and threshold from clips of known classes that were not learnt from. Returns their accuracy.

        The temperature makes the labels likeliest (Guo et al., ICML 2017, arXiv 1706.04599), as if one clip more had
        been of any class at random, so that few clips, all of them right, give no certainty; the threshold lets a share
        of ``accept`` pass as known. Raises LearnerError for a share that is none, and as `predict` does.
        """
        # so written it refuses NaN too
        if not 0 < accept <= 1:
            raise LearnerError(f"accept {accept}: the share of known clips that pass; give more than 0, and at most 1")
        return float(self._calibrate(*self._held_out(clips, labels, set(self.classes)), accept).mean())

    def _calibrate(self, tokens: Tokens, labels: list[str], accept: float) -> np.ndarray:
        """Whether each clip is classified rightly."""
        readout = self._read_out(tokens)
        target = torch.tensor([self.classes.index(label) for label in labels])
        logits = readout.logits.double()

        def unlikely(log: float) -> float:
            # after Platt (1999), as if of n + 1 clips one were of any class: else T goes to 0 where all n are right
            return float(F.cross_entropy(logits / np.exp(log), target, label_smoothing=1 / (len(labels) + 1)))

        # over log T, so that T is positive: between about a thousandth and a thousand
        best = minimize_scalar(unlikely, bounds=(-7, 7), method="bounded")
        right = (logits.argmax(1) == target).numpy()
        self.threshold = float(unknown(readout).double().quantile(accept))
        self.temperature, self.accuracy = float(np.exp(best.x)), float(right.mean())
        return right

    def _read_out(self, tokens: Tokens) -> evaluate.Readout:
        if not self.classes:
            raise LearnerError("it knows no class yet; fit it first")
        self._restored(tokens)  # which refuses other channels by name; what torch raises later has other causes
        of, head = self._answered
        read = evaluate.read_out(
            self.checkpoint, self.method, self.training, looked_at(tokens, self.method),
            # solved for the first clip after something was learnt, which of a thousand channels takes seconds
            device=self.device, head=head if of is self.checkpoint else None,
        )  # fmt: skip
        self._answered = self.checkpoint, read.head
        return read

    # ---- keeping

    def export(self, path: str | Path, clips: Clips) -> None:
        """What makes logits [B,C] of tokens, for B clips, as a .pt2 file (`avcil.learner.export`). ``clips``: examples
        of what it will be given, two at least: it takes their type alone, which is float16 of files, and float32 of
        `Tokens.clips`."""
        tokens = tokens_of(clips, self.encoder)
        read = self._read_out(tokens)
        # a program is of one device, and heads are on the CPU
        program = Predictor(read.model.cpu(), self.method, read.head)
        export(program, tokens, self.classes, Path(path), temperature=self.temperature)

    @classmethod
    def from_run(cls, folder: str | Path, data: Dataset | None = None) -> "Learner":
        """The learner of a run of the pipeline, from the folder of one task and seed, for example
        artifacts/runs/lll_prior/task4/seed0.

        ``data``: what it has learnt from (`avcil.tokens.dataset.load_datasets`), for its exemplars, without which a row
        that rehearses predicts, but learns no further. It goes on with the seed and the epochs of the run. Files are
        read with the encoder of the params.yaml above that folder; outside of any project with avcil's own encoders
        alone. Raises CheckpointError or LearnerError.
        """
        folder = Path(folder).expanduser()
        checkpoint = load_checkpoint(folder)
        with _this_version(f"{folder}", "run its stage again"):
            method = Method.model_validate(checkpoint.origin["method"])
            training = Training.model_validate(checkpoint.origin["training"])
            epochs = tasks.tasks_of(checkpoint)[-1].epochs
        # resolved, for a relative path's parents end where one is
        root = next((p for p in folder.resolve().parents if (p / "params.yaml").is_file()), None)
        # name, digest of the weights, and of a run of the pipeline that of the store; a protocol's tokens need not be
        # those that the row names
        name, *digests = str(checkpoint.origin.get("encoder", "")).split(":")
        # `python -m avcil run` needs no project; without one this is avcil's own params.yaml, as it was there
        params, priors = at_hand(root or folder)
        # in a project that a run was moved out of a published encoder may have read otherwise, which no digest of
        # weights tells: such a run predicts from tokens alone, as does one of imported tokens
        known = (*params.own_encoders, *params.encoders) if root else params.own_encoders
        encoder = None
        if name in known:
            encoder = ClipEncoder.of_params(name, params, priors, incomplete=knows_absence(method))
            # of a data set that no store gave there is nothing to compare
            encoder.digest = digests[0] if digests else None
        # a run sums up all classes as one
        learner = cls._of(method, training, encoder, checkpoint, False, epochs)
        if data and checkpoint.memory:
            learner.kept = tasks.kept_of(checkpoint, method, data)
        return learner

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors, the weights of an own encoder, and a model card README.md."""
        if not self.classes:
            raise LearnerError("it knows no class yet; fit it before it is saved")
        named = {"model": self.checkpoint.model, "readout": self.checkpoint.readout}
        # by number, for a label may hold anything, dots among it, which end a prefix
        named |= {f"part{self.classes.index(label)}": part for label, part in self._parts.items()}
        named |= {"kept": self.kept.tokens._asdict()} if self.kept else {}
        tensors = {f"{prefix}.{name}": value for prefix, some in named.items() for name, value in some.items()}
        config = {
            "method": self.method.model_dump(),
            "training": self.training.model_dump(),
            "encoder": self.encoder and self.encoder.as_saved(),
            "classes": self.classes,
            "memory": self.checkpoint.memory,
            "origin": self.checkpoint.origin,
            "exemplars": self.kept.labels if self.kept else [],
            "by_class": self.by_class,
            "epochs": self.epochs,
            **{name: getattr(self, name) for name in MEASURED},
        }
        folders.write(Path(folder).expanduser(), config, tensors, self.encoder)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> "Learner":
        """Load what ``save`` wrote, to predict and learn on ``device``.

        Raises LearnerError naming what is missing, damaged or of another version, or a device that is none.
        """
        # before files that may be large are read
        _check_device(device)
        folder = Path(folder).expanduser()
        config, tensors = folders.read(folder)
        model, readout = (folders.below(tensors, prefix) for prefix in ("model.", "readout."))
        with _this_version(f"{folder}/config.json", "save it anew"):
            method, training = Method.model_validate(config["method"]), Training.model_validate(config["training"])
            encoder = config["encoder"] and ClipEncoder.model_validate(config["encoder"])
            if encoder:
                # both are this machine's and this folder's, so config.json has neither; absolute, for weights are read
                # with the first file, and who loads may have gone to another folder by then
                encoder.device = device
                encoder.weights = folder.absolute() / folders.ENCODER if encoder.mini else None
            # a forged file, whose digest fits, may have anything in place of names
            classes = TypeAdapter(list[str]).validate_python(config["classes"], strict=True)
            origin = TypeAdapter(dict).validate_python(config["origin"], strict=True)
            checkpoint = Checkpoint(model, readout, classes, config["memory"], origin)
            # earlier versions wrote none: a run goes on with its own, and nothing else they saved has a use for any
            run = [task.epochs for task in tasks.tasks_of(checkpoint)] or [1]
            epochs = TypeAdapter(int).validate_python(config.get("epochs", run[-1]), strict=True)
            learner = cls._of(method, training, encoder, checkpoint, config["by_class"], epochs)
            learner.__dict__ |= {"device": device} | {name: config[name] for name in MEASURED}
            if kept := folders.below(tensors, "kept."):
                labels = TypeAdapter(list[str]).validate_python(config["exemplars"], strict=True)
                learner.kept = Kept(Tokens(*(kept[name] for name in Tokens._fields)), labels)
        parts = {label: folders.below(tensors, f"part{number}.") for number, label in enumerate(learner.classes)}
        # of one whose classes are summed up as one there are no parts
        learner._parts = {label: part for label, part in parts.items() if part}
        return learner

    # ---- checks

    def _restored(self, tokens: Tokens) -> IncrementalClassifier:
        """The model, for these tokens. Raises LearnerError if they have other channels than those learnt from."""
        wrong = LearnerError(f"tokens of {tokens.channels} channels do not fit what was learnt; use one encoder")
        # once something was learnt here no weights are kept whose shapes would tell
        if self.checkpoint.origin.get("channels", [*tokens.channels]) != [*tokens.channels]:
            raise wrong
        try:
            return evaluate.restore(self.checkpoint, self.method, self.training, tokens.channels)
        except RuntimeError:  # weights of other shapes
            raise wrong from None

    def _ridge(self, state: dict[str, Tensor]) -> RecursiveRidge:
        head = evaluate.solved_head(self.method, self.training, state)
        assert isinstance(head, RecursiveRidge)  # what ADDITIVE names
        return head

    @property
    def _sums(self) -> bool:
        """Whether all that is learnt are sums of clips, which come class by class and in any parts."""
        return self.method.fusion in FROZEN and self.method.readout in ADDITIVE

    def _check_it_learns(self, labels: list[str]) -> None:
        if self._sums:
            return
        if self.checkpoint.memory and self.kept is None:
            raise LearnerError("its exemplars' tokens are in the run's store: give from_run the data it learnt from")
        known = [label for label in labels if label in self.classes]
        if known and not tasks.takes_more(self.method):
            row = f"fusion {self.method.fusion} and read-out {self.method.readout}"
            way_out = "give clips of new classes alone, or learn by `ridge_guided` or `lll_closed`"
            raise LearnerError(f"`{known[0]}` is known already, and {row} learn no class in two parts; {way_out}")

    def _listed(self, clips: Clips, labels: str | Sequence[str]) -> tuple[Tokens | list[Media], list[str]]:
        """Tokens, or files that are not read yet, for that takes long; and a label a clip."""
        if isinstance(clips, Tokens):
            tokens = tokens_of(clips, self.encoder)
            return tokens, _checked(labels, len(tokens.audio))
        files = media_of(clips)
        return files, _checked(labels, len(files))

    def _read(self, clips: Tokens | list[Media]) -> Tokens:
        return clips if isinstance(clips, Tokens) else tokens_of(clips, self.encoder)

    def _held_out(self, clips: Clips, labels: Sequence[str], classes: set[str]) -> tuple[Tokens, list[str]]:
        clips, labels = self._listed(clips, labels)
        if strange := [label for label in labels if label not in classes]:
            which = f"validation clip of `{strange[0]}`, which is not learnt{nearest(strange[0], classes)}"
            raise LearnerError(f"{which}; leave it out, or give clips of it to learn from")
        return self._read(clips), labels


def _checked(labels: str | Sequence[str], count: int) -> list[str]:
    """A label for each of ``count`` clips."""
    if not isinstance(labels, Iterable):
        raise LearnerError(f"labels {labels!r}; give one a clip, or one word for all")
    labels = [labels] * count if isinstance(labels, str) else list(labels)
    if len(labels) != count:
        raise LearnerError(f"{count} clips but {len(labels)} labels; give one a clip")
    for number, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise LearnerError(f"clip {number}: label {label!r}; labels are words")
    return [tidy(label) for label in labels]


def _check_device(name: str) -> None:
    """Raises LearnerError for one that torch does not know or see."""
    try:
        named(name)
    # torch raises the first for a word that is no device, `named` the second for one that is not here
    except (RuntimeError, ValueError):
        raise LearnerError(f"device {name}: torch sees none here; give cpu, cuda, mps or auto") from None


def _here() -> Path:
    """The folder of the project that one is in; outside of any, where one is."""
    try:
        return project.root()
    except FileNotFoundError:
        return Path()


@contextmanager
def _this_version(file: str, way_out: str) -> Iterator[None]:
    """Raises LearnerError for what is read in it and lacks a key, or has a value that is none any more."""
    try:
        yield
    except (KeyError, ValidationError, OSError) as error:  # OSError: of a method's name too long for a file's
        # pydantic's text has several lines
        reason = " ".join(str(error).split())[:150]
        raise LearnerError(f"{file}: of another version ({reason}); {way_out}") from None
