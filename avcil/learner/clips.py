"""From a user's clips to tokens: files are decoded and encoded as extraction does it, tokens pass as they are."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from pydantic import ConfigDict, Field, PrivateAttr

from avcil.base.refusal import Refusal
from avcil.encoders.base import Encoder, Reading
from avcil.encoders.load import load_published
from avcil.encoders.prior import load_prior, released
from avcil.extraction.clips import ClipError
from avcil.extraction.features import checksum, header_of, make_shards
from avcil.params import ParameterError, Params
from avcil.params.encoders import EncoderConfig
from avcil.params.extraction import FeatureConfig
from avcil.params.section import Section, nearest
from avcil.params.world import Film, MiniConfig
from avcil.tokens.manifest import Media
from avcil.tokens.tokens import Tokens

Clips = Tokens | Sequence[str | Path | Media]


class LearnerError(Refusal):
    """A learner, or clips for one, that cannot be used; the message names the offender and the way out."""


class ClipEncoder(Section):
    """An encoder that is loaded when the first file is to be read. Without its weights it is part of a learner's
    config.json: an own encoder has `mini`, `film` and a file of ``weights``, others `published`.

    ``digest``: of the weights, as in a feature store's header; None until they are first loaded. ``device``: where
    published weights are loaded to; own encoders, which are small, stay on the CPU.
    """

    model_config = ConfigDict(frozen=False)

    name: str
    features: FeatureConfig
    mini: MiniConfig | None = None
    film: Film | None = None
    published: EncoderConfig | None = None
    guide: EncoderConfig | None = None
    digest: str | None = None
    weights: Path | None = Field(None, exclude=True)
    device: str = Field("cpu", exclude=True)
    _encoder: Encoder | None = PrivateAttr(None)

    @classmethod
    def of_params(cls, name: str, params: Params, priors: Path) -> "ClipEncoder":
        """priors: folder of own encoders' weights. Raises ParameterError naming the nearest encoder for a name that
        params.yaml does not have."""
        features, device = params.features, params.compute.device
        if name in params.own_encoders:
            own, weights = params.encoder, released(name, priors)
            return cls(name=name, features=features, device=device, mini=own, film=params.film, weights=weights)
        if name not in params.encoders:
            raise ParameterError(f"encoders: no `{name}`{nearest(name, [*params.own_encoders, *params.encoders])}")
        published, guide = params.encoders[name], params.guide_of(name)
        return cls(name=name, features=features, device=device, published=published, guide=guide)

    @property
    def licence(self) -> str:
        if self.published is None:
            return f"`{self.name}` is of this project: MIT"
        return f"`{self.name}`: the terms of {self.published.weights}, on its page or where the file is from"

    @property
    def encoder(self) -> Encoder:
        """Raises LearnerError if its weights are not those that the learner has learnt with."""
        if self._encoder is None:
            if self.published is not None:
                encoder = load_published(self.published, self.device, self.guide)
            else:
                assert self.mini and self.film and self.weights
                mini, _ = load_prior(self.weights, self.mini)
                encoder = mini.watching(Reading(**self.film.model_dump()))
            digest = checksum(encoder)
            if self.digest not in (None, digest):
                message = f"encoder `{self.name}`: weights {digest}, but this learner's are {self.digest}"
                raise LearnerError(f"{message}; use the weights that it was made with, or fit a new learner")
            self.digest, self._encoder = digest, encoder
        return self._encoder

    def __call__(self, files: Sequence[str | Path | Media]) -> Tokens:
        """Tokens in float16, as a feature store keeps them. Raises ClipError for the first file that cannot be used."""
        media = [file if isinstance(file, Media) else Media(Path(file)) for file in files]
        if missing := [str(clip.path) for clip in media if not clip.path.is_file()]:
            raise ClipError(f"{missing[0]}: no such file; correct its path or leave it out")
        names = [f"{clip.path}, from {clip.start:g} s on" for clip in media]
        header = header_of(self.encoder, self.name, names, self.features)
        clips = dict(zip(names, media, strict=True))
        [(tensors, unusable)] = make_shards(self.encoder, [names], clips, header, self.features.batch, 0)
        if unusable:
            raise ClipError(next(iter(unusable.values())))
        return Tokens(**tensors)


def windows(file: str | Path, seconds: float, every: float) -> list[Media]:
    """A long file as clips of so many ``seconds``, one beginning ``every`` so many, the last one whole.

    Raises ValueError for steps of no length, and ClipError for a file that cannot be read or is shorter than one clip.
    """
    if every <= 0:
        raise ValueError(f"every {every} s: a window begins some time after the one before; give more than 0")
    file = Path(file)
    try:
        with av.open(str(file)) as container:
            length = (container.duration or 0) / av.time_base
    except (OSError, av.error.FFmpegError) as error:
        reason = error.__class__.__name__
        raise ClipError(f"{file}: cannot be read ({reason}); correct its path or restore it") from None
    if length < seconds:
        raise ClipError(f"{file}: {length:.2f} s, and a window takes {seconds:.2f} s; give a longer file")
    return [Media(file, float(start)) for start in np.arange(0, length - seconds + 1e-6, every)]


def tokens_of(clips: Clips, encoder: ClipEncoder | None) -> Tokens:
    """Raises LearnerError for no clips, tokens of different numbers of clips or not finite, or files without encoder;
    ClipError for a file that cannot be used."""
    if isinstance(clips, str | Path | Media):
        raise LearnerError(f"{clips}: one path; give a list of clips")
    if not isinstance(clips, Tokens):
        if not len(clips):
            raise LearnerError("no clips; give at least one")
        if encoder is None:
            raise LearnerError("files need the project's params.yaml above the run's folder; give tokens, or move it")
        return encoder(clips)
    shapes = [tuple(stream.shape) for stream in clips]
    if [len(shape) for shape in shapes] != [4, 3, 3] or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        given = ", ".join(map(str, shapes))
        raise LearnerError(f"tokens of shapes {given}; they are [B,L,S,D], [B,A,D'] and [B,L,S] of B clips, B > 0")
    for name, stream in clips._asdict().items():
        finite = stream.flatten(1).isfinite().all(1)
        if not finite.all():
            raise LearnerError(f"clip {int((~finite).nonzero()[0, 0])}: {name} tokens that are not finite; drop it")
    return clips.to("cpu")
