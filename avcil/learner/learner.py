"""`Learner`: learns classes from clips in closed form, predicts, forgets, and is kept in a folder.

Dimension letters: ``N`` clips, ``L`` temporal slots, ``S`` patches of a slot, ``M`` regressors, ``C`` classes.
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.optimize import minimize_scalar
from torch import Tensor

from avcil.learn import evaluate
from avcil.learn.checkpoint import EMPTY, Checkpoint, load_checkpoint
from avcil.learn.heads import Head, RecursiveRidge
from avcil.learn.model import Features, IncrementalClassifier, Output
from avcil.learner import folders
from avcil.learner.clips import ClipEncoder, Clips, EncoderRecord, LearnerError, tokens_of
from avcil.learner.export import Predictor, export, looked_at
from avcil.learner.predictions import Cost, Prediction
from avcil.learner.unknown import unknown
from avcil.params import Params, load, project
from avcil.params.learning import FROZEN, Method, Training
from avcil.params.section import nearest
from avcil.tokens.tokens import Tokens

ADDITIVE = ("ridge", "acil")
"""Read-outs whose state is gram [M,M] and cross [M,C], sums over clips with a column a class."""


class Learner:
    """Learns classes from clips, without old clips, and says of new clips what they are.

        learner = avcil.Learner()
        learner.fit(files, labels, validation=(more_files, their_labels))
        learner.learn(five_files, "whistle")
        learner.predict(files)[0].label
        learner.save("my_learner")

    The method is a row of params.yaml with a frozen fusion and a ridge; by default `ridge_guided`: the mean audio token
    beside the visual tokens' mean under the prior's own attention, and W = (G + λI)⁻¹ Q (`avcil.learn.heads`). Learnt
    in parts and in whatever order, the sums and so the answers are those of all clips at once, up to rounding. A clip
    that is given twice counts twice. Deviation: with ``by_class``, the sums G_c and Q_c of a class of n_c clips are
    weighed by n̄ / n_c, n̄ the mean over classes, or a class of five clips would hardly be found beside classes of forty;
    where classes have equally many clips, that is the published ridge.

    Clips are files, parts of files (`avcil.learner.clips.windows`) or `avcil.tokens.tokens.Tokens`. A run of the
    pipeline, of whatever method, predicts by `from_run`.

    Args:
        encoder: `mini`, or one of `encoders` in params.yaml.
        method: a row of params.yaml.
        by_class: keep a Gram matrix a class (8 M² bytes each) instead of one: then `forget` is exact, and classes
            count alike, however many clips each has.
        root: the project's folder; the one that the working directory is in, if left out.

    Raises LearnerError or ParameterError, naming the way out, for a method that is not solved in closed form, or an
    unknown name.
    """

    def __init__(
        self,
        encoder: str = "mini",
        method: str = "ridge_guided",
        *,
        by_class: bool = True,
        params: Params | None = None,
        root: Path | None = None,
    ):
        root = Path(root) if root else project.root()
        params = params or load(root / "params.yaml")
        row = params.method(method).model_copy(update={"tokens": encoder})
        self._set(row, params.training, ClipEncoder.of_project(encoder, params, root), EMPTY, by_class)
        self._check_it_learns()

    def _set(
        self, method: Method, training: Training, encoder: ClipEncoder | None, checkpoint: Checkpoint, by_class: bool
    ) -> None:
        self.method, self.training, self.encoder = method, training, encoder
        self.checkpoint, self.by_class = checkpoint, by_class
        self.counts: dict[str, int] = {}
        self.accuracy: float | None = None
        self.temperature = 1.0
        self.threshold: float | None = None
        self._parts: dict[str, dict[str, Tensor]] = {}

    # ---- learning

    def fit(
        self, clips: Clips, labels: str | Sequence[str], validation: tuple[Clips, Sequence[str]] | None = None
    ) -> Cost:
        """Learn from these clips alone; what was known before is given up."""
        started = self._empty()
        cost = started.learn(clips, labels, validation)
        self.__dict__ = started.__dict__
        return cost

    def learn(
        self, clips: Clips, labels: str | Sequence[str], validation: tuple[Clips, Sequence[str]] | None = None
    ) -> Cost:
        """Add clips of new or known classes. ``labels``: one a clip, or one for all.

        With ``validation`` clips the learner is measured and calibrated (`calibrate`). Without, a threshold there was
        is dropped: it was of other classes. If anything raises, the learner is as before.
        """
        self._check_it_learns()
        start = perf_counter()
        tokens = tokens_of(clips, self.encoder)
        labels = self._checked(labels, tokens)
        held_out = self._held_out(validation, {*self.classes, *labels})
        encoded = perf_counter()
        features = self._look(tokens).features
        if self._state and len(self._state["gram"]) != self._regressors(features):
            raise LearnerError(f"tokens of {tokens.channels} channels, unlike those learnt before; use one encoder")
        known = self.classes
        self._absorb(features, labels)
        accuracies: list[float | None] = [None, None]
        self.threshold, self.accuracy = None, None
        if held_out is not None:
            right, old = self._calibrate(*held_out, 0.95), np.isin(held_out[1], known)
            accuracies = [float(right[part].mean()) if part.any() else None for part in (old, ~old)]
        new = [label for label in self.classes if label not in known]
        seconds = perf_counter() - start
        return Cost(len(labels), new, seconds, encoded - start, self.bytes, *accuracies)

    def _absorb(self, features: Features, labels: list[str]) -> None:
        classes = list(dict.fromkeys([*self.classes, *labels]))
        # of classes that a run has learnt it is not recorded from how many clips
        counted = [label for label in classes if label in self.counts or label not in self.classes]
        counts = {label: self.counts.get(label, 0) + labels.count(label) for label in counted}
        if self.by_class:
            parts = dict(self._parts)
            for label in dict.fromkeys(labels):
                head = self._ridge(parts.get(label, {}))
                rows = torch.tensor([one == label for one in labels])
                mine = Features(*(feature[rows] for feature in features))
                head.update(mine, torch.zeros(int(rows.sum()), dtype=torch.long), 1)
                parts[label] = head.state
            self._parts = parts
            state = _together(parts, counts)
        else:
            head = self._ridge(self._state)
            head.update(features, torch.tensor([classes.index(label) for label in labels]), len(classes))
            state = head.state
        self.checkpoint = self.checkpoint._replace(readout=state, classes=classes)
        self.counts = counts

    def forget(self, label: str) -> None:
        """As if no clip of that class had ever been given: its sums are taken out, exactly.

        Raises LearnerError for an unknown label, and where sums are not kept by class.
        """
        if label not in self.classes:
            raise LearnerError(f"no class `{label}`{nearest(label, self.classes)}")
        if not self._parts:
            raise LearnerError("sums of all classes are kept as one; fit with by_class=True to forget exactly")
        self._parts = {name: part for name, part in self._parts.items() if name != label}
        self.counts = {name: count for name, count in self.counts.items() if name != label}
        readout = _together(self._parts, self.counts)
        self.checkpoint = self.checkpoint._replace(readout=readout, classes=list(self.counts))
        self.threshold, self.accuracy = None, None

    # ---- predicting

    @property
    def classes(self) -> list[str]:
        return self.checkpoint.classes

    @property
    def bytes(self) -> int:
        """Of the model's tensors, the head's sums, and those of each class."""
        kept = [self.checkpoint.model, self._state, *self._parts.values()]
        return sum(value.numel() * value.element_size() for tensors in kept for value in tensors.values())

    def predict(self, clips: Clips) -> list[Prediction]:
        """By the method's own read-out: the solved head where there is one, else the trained classifier.

        Probabilities are softmax(logits / T); T is 1 until `calibrate` has chosen it, and those of a ridge, whose
        logits estimate one-hot labels, are then too even.
        """
        tokens = tokens_of(clips, self.encoder)
        output, logits, unknown = self._answers(tokens)
        chances = (logits / self.temperature).softmax(1)
        return [
            Prediction(
                label=self.classes[int(logits[row].argmax())],
                probabilities=dict(zip(self.classes, chances[row].tolist(), strict=True)),
                spatial=output.spatial[row],
                temporal=output.temporal[row],
                unknown=float(unknown[row]),
                is_unknown=None if self.threshold is None else bool(unknown[row] > self.threshold),
            )
            for row in range(len(logits))
        ]

    def calibrate(self, clips: Clips, labels: Sequence[str], *, accept: float = 0.95) -> float:
        """From clips of known classes that were not learnt from: temperature and threshold. Returns their accuracy.

        The temperature makes the labels likeliest (Guo et al., ICML 2017, arXiv 1706.04599); the threshold lets a share
        of ``accept`` pass as known.
        """
        held_out = self._held_out((clips, labels), set(self.classes))
        assert held_out is not None
        return float(self._calibrate(*held_out, accept).mean())

    def _calibrate(self, tokens: Tokens, labels: list[str], accept: float) -> np.ndarray:
        """Whether each clip is classified rightly."""
        _, logits, unknown = self._answers(tokens)
        target = torch.tensor([self.classes.index(label) for label in labels])
        found = minimize_scalar(
            lambda log: float(F.cross_entropy(logits.double() / np.exp(log), target)), bounds=(-7, 7), method="bounded"
        )
        self.temperature = float(np.exp(found.x))
        self.threshold = float(unknown.double().quantile(accept))
        right = (logits.argmax(1) == target).numpy()
        self.accuracy = float(right.mean())
        return right

    def _answers(self, tokens: Tokens) -> tuple[Output, Tensor, Tensor]:
        """Output; logits [N,C] of the method's own read-out; score of being unknown [N] (`avcil.learner.unknown`)."""
        if not self.classes:
            raise LearnerError("it knows no class yet; fit it first")
        output = self._look(tokens)
        head = self._head(self._state)
        if head is None:
            return output, output.logits, unknown(None, output.features, output.logits)
        rows = torch.arange(len(tokens.audio))
        features = evaluate.solved_features(self.method, looked_at(tokens, self.method), rows, output.features)
        try:
            logits = head.logits(features)
        except RuntimeError:
            raise LearnerError(f"tokens of {tokens.channels} channels do not fit what was learnt") from None
        return output, logits, unknown(head, features, logits)

    def model(self, channels: tuple[int, int]) -> IncrementalClassifier:
        """What makes features, for visual and audio tokens of so many channels. Raises LearnerError if it was not."""
        try:
            return evaluate.restore(self.checkpoint, self.method, self.training, channels)
        except RuntimeError:
            raise LearnerError(f"tokens of {channels} channels do not fit what was learnt; use one encoder") from None

    def _look(self, tokens: Tokens) -> Output:
        rows = torch.arange(len(tokens.audio))
        return evaluate.predict(self.model(tokens.channels), looked_at(tokens, self.method), rows, maps=True)

    # ---- keeping

    def export(self, path: str | Path, clips: Clips) -> None:
        """What makes logits [B,C] of tokens, for B clips, as a .pt2 file (`avcil.learner.export`). ``clips``: examples
        of what it will be given, two at least."""
        tokens = tokens_of(clips, self.encoder)
        if not self.classes:
            raise LearnerError("it knows no class yet; fit it before it is exported")
        predictor = Predictor(self.model(tokens.channels), self.method, self._head(self._state))
        export(predictor, tokens, self.classes, Path(path))

    @classmethod
    def from_run(cls, folder: str | Path) -> "Learner":
        """What a run of the pipeline has learnt: its folder of one task and seed, for example
        artifacts/runs/lll_prior/task4/seed0.

        Files are read with the encoder of the params.yaml above that folder. Raises CheckpointError or LearnerError.
        """
        folder = Path(folder)
        checkpoint = load_checkpoint(folder)
        try:
            method = Method.model_validate(checkpoint.origin["method"])
            training = Training.model_validate(checkpoint.origin["training"])
        except (KeyError, ValidationError) as error:
            reason = " ".join(str(error).split())[:150]
            raise LearnerError(f"{folder}: of another version ({reason}); run its stage again") from None
        root = next((p for p in folder.resolve().parents if (p / "params.yaml").is_file()), None)
        encoder = None
        if root is not None:
            encoder = ClipEncoder.of_project(method.tokens, load(root / "params.yaml"), root)
            # name, digest of the weights, digest of the store
            made_with = str(checkpoint.origin.get("encoder", "")).split(":")
            if len(made_with) == 3:
                encoder.record = encoder.record.model_copy(update={"digest": made_with[1]})
        learner = cls.__new__(cls)
        learner._set(method, training, encoder, checkpoint, by_class=False)
        return learner

    def save(self, folder: str | Path) -> None:
        """config.json, model.safetensors, the weights of an own encoder, and a model card README.md."""
        if not self.classes:
            raise LearnerError("it knows no class yet; fit it before it is saved")
        tensors = {f"model.{name}": value for name, value in self.checkpoint.model.items()}
        tensors |= {f"readout.{name}": value for name, value in self._state.items()}
        for label, part in self._parts.items():
            tensors |= {f"part{self.classes.index(label)}.{name}": value for name, value in part.items()}
        config = {
            "method": self.method.model_dump(),
            "training": self.training.model_dump(),
            "encoder": self.encoder and self.encoder.record.model_dump(),
            "classes": self.classes,
            "counts": self.counts,
            "memory": self.checkpoint.memory,
            "origin": self.checkpoint.origin,
            "by_class": self.by_class,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "accuracy": self.accuracy,
        }
        folders.write(Path(folder), config, tensors, self.encoder)

    @classmethod
    def load(cls, folder: str | Path) -> "Learner":
        """What ``save`` wrote. Raises LearnerError naming what is missing, damaged or of another version."""
        folder = Path(folder)
        config, tensors = folders.read(folder)
        try:
            method, training = Method.model_validate(config["method"]), Training.model_validate(config["training"])
            encoder = None
            if config["encoder"] is not None:
                encoder = ClipEncoder(EncoderRecord.model_validate(config["encoder"]), folder / folders.ENCODER)
            names = ("classes", "memory", "origin")
            model, readout = (folders.below(tensors, part) for part in ("model.", "readout."))
            learner = cls.__new__(cls)
            checkpoint = Checkpoint(model, readout, *(config[name] for name in names))
            learner._set(method, training, encoder, checkpoint, config["by_class"])
            for name in ("counts", "temperature", "threshold", "accuracy"):
                setattr(learner, name, config[name])
        except (KeyError, ValidationError) as error:
            reason = " ".join(str(error).split())[:150]
            raise LearnerError(f"{folder}/config.json: of another version ({reason}); save it anew") from None
        parts = {label: folders.below(tensors, f"part{number}.") for number, label in enumerate(learner.classes)}
        learner._parts = {label: part for label, part in parts.items() if part}
        return learner

    # ---- checks

    @property
    def _state(self) -> dict[str, Tensor]:
        return self.checkpoint.readout

    def _head(self, state: dict[str, Tensor]) -> Head | None:
        return evaluate.solved_head(self.method, self.training, state)

    def _ridge(self, state: dict[str, Tensor]) -> RecursiveRidge:
        head = self._head(state)
        assert isinstance(head, RecursiveRidge)  # what ADDITIVE names
        return head

    def _regressors(self, features: Features) -> int:
        return self._ridge({}).expand(Features(*(feature[:1] for feature in features))).shape[1]

    def _empty(self) -> "Learner":
        self._check_it_learns()
        learner = type(self).__new__(type(self))
        learner._set(self.method, self.training, self.encoder, EMPTY, self.by_class)
        return learner

    def _check_it_learns(self) -> None:
        if self.method.fusion not in FROZEN or self.method.readout not in ADDITIVE:
            row = f"fusion {self.method.fusion} and read-out {self.method.readout}"
            way_out = "use `ridge_guided`, or learn it by avcil.learn.train.run_tasks"
            raise LearnerError(f"a method of {row} is not solved in closed form from sums; {way_out}")

    def _checked(self, labels: str | Sequence[str], tokens: Tokens) -> list[str]:
        count = len(tokens.audio)
        labels = [labels] * count if isinstance(labels, str) else list(labels)
        if len(labels) != count:
            raise LearnerError(f"{count} clips but {len(labels)} labels; give one a clip")
        for number, label in enumerate(labels):
            if not isinstance(label, str) or not label.strip():
                raise LearnerError(f"clip {number}: label {label!r}; labels are words")
        return labels

    def _held_out(
        self, clips: tuple[Clips, Sequence[str]] | None, classes: set[str]
    ) -> tuple[Tokens, list[str]] | None:
        if clips is None:
            return None
        tokens = tokens_of(clips[0], self.encoder)
        labels = self._checked(clips[1], tokens)
        if unknown := [label for label in labels if label not in classes]:
            raise LearnerError(f"validation clip of `{unknown[0]}`, which is not learnt{nearest(unknown[0], classes)}")
        return tokens, labels


def _together(parts: dict[str, dict[str, Tensor]], counts: dict[str, int]) -> dict[str, Tensor]:
    """Sums of all classes from those of each, gram [M,M] and cross [M,1], as if all had equally many clips; classes in
    the order of ``counts``."""
    if not counts:
        return {}
    mean = sum(counts.values()) / len(counts)
    weighed = [(mean / count, parts[label]) for label, count in counts.items()]
    gram = torch.stack([weight * part["gram"] for weight, part in weighed]).sum(0)
    return {"gram": gram, "cross": torch.cat([weight * part["cross"] for weight, part in weighed], 1)}
