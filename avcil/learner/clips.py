"""From a user's clips to tokens: files are decoded and encoded as extraction does it, tokens pass as they are."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from pydantic import ConfigDict, Field, PrivateAttr
from torch import Tensor

import avcil
from avcil.base.refusal import Refusal
from avcil.encoders.base import Encoder, Reading
from avcil.encoders.load import load_published
from avcil.encoders.prior import load_prior, released
from avcil.extraction.clips import ClipError, opened
from avcil.extraction.features import checksum, header_of, make_shards
from avcil.params import ParameterError, Params, load
from avcil.params.encoders import EncoderConfig
from avcil.params.extraction import FeatureConfig, Incomplete
from avcil.params.section import Section, nearest
from avcil.params.world import Film, MiniConfig
from avcil.tokens.manifest import Media
from avcil.tokens.tokens import Tokens

Clips = Tokens | Iterable[str | Path | Media]
APART = 0.1  # seconds by which the tracks of a whole film end apart: sound comes in packets


class LearnerError(Refusal):
    """A learner, or clips for one, that cannot be used; the message names the offender and the way out."""


class ClipEncoder(Section):
    """An encoder that is loaded when the first file is to be read. Without its weights it is part of a learner's
    config.json: an own encoder has `mini`, `film` and a file of ``weights``, others `published`.

    ``digest``: of the weights, as in a feature store's header; None until they are first loaded. ``device``: where
    published weights are loaded to; own encoders, which are small, stay on the CPU.
    """

    # unlike other sections: a digest is known once weights are loaded, device and weights once a folder is
    model_config = ConfigDict(frozen=False)

    name: str
    features: FeatureConfig
    mini: MiniConfig | None = None
    film: Film | None = None
    published: EncoderConfig | None = None
    guide: EncoderConfig | None = None
    digest: str | None = None
    # not in config.json: a saved learner's weights lie beside it, and its device is whoever's loads it
    weights: Path | None = Field(None, exclude=True)
    device: str = Field("cpu", exclude=True)
    _encoder: Encoder | None = PrivateAttr(None)

    @classmethod
    def of_params(cls, name: str, params: Params, priors: Path, *, incomplete: bool = False) -> "ClipEncoder":
        """priors: folder of own encoders' weights. incomplete: whether clips without sound or picture can be used,
        whatever params.yaml says. Raises ParameterError naming the nearest encoder for a name that params.yaml does not
        have."""
        kept: Incomplete = "keep" if incomplete else "quarantine"
        features, device = params.features.model_copy(update={"incomplete": kept}), params.compute.device
        if name in params.own_encoders:
            # with what its weights were made for, so that a saved learner needs no params.yaml; absolute, for they are
            # read with the first file, and the working directory may be another one by then
            own, weights = params.encoder, released(name, priors).absolute()
            return cls(name=name, features=features, device=device, mini=own, film=params.film, weights=weights)
        if name not in params.encoders:
            raise ParameterError(f"encoders: no `{name}`{nearest(name, [*params.own_encoders, *params.encoders])}")
        published, guide = params.encoders[name], params.guide_of(name)
        return cls(name=name, features=features, device=device, published=published, guide=guide)

    def as_saved(self) -> dict:
        """For config.json, which is read from other folders too: weights that are here by their whole path."""
        saved = self.model_dump()
        for config in filter(None, (saved["published"], saved["guide"])):
            for field in {"weights", "audio_weights"} & config.keys():
                # what is not here is the name of a repository
                if (path := Path(config[field])).exists():
                    config[field] = str(path.absolute())
        return saved

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
            # sums over tokens of one encoder say nothing about tokens of another
            digest = checksum(encoder)
            if self.digest not in (None, digest):
                message = f"encoder `{self.name}`: weights {digest}, but this learner's are {self.digest}"
                raise LearnerError(f"{message}; use the weights that it was made with, or fit a new learner")
            self.digest, self._encoder = digest, encoder
        return self._encoder

    def read(self, media: list[Media]) -> tuple[Tokens, dict[int, str]]:
        """Tokens in float16, as a feature store keeps them, of the clips that can be used; of the others, by number
        from 0 on, why not."""
        # with the start, or all windows of a film would have one name, and tokens are made by name
        names = [f"{clip.path}" + f", from {clip.start:.10g} s on" * (clip.start > 0) for clip in media]
        header = header_of(self.encoder, self.name, names, self.features)
        clips = dict(zip(names, media, strict=True))
        # by extraction's own code, as one shard, decoded in this process: so tokens are those of a store
        [(tensors, bad)] = make_shards(self.encoder, [names], clips, header, self.features.batch, 0)
        unusable = {}
        for number, (name, clip) in enumerate(zip(names, media, strict=True)):
            if name in bad:
                # extraction says a manifest's way out, and not where in the file
                reason = re.sub(r"drop its row( from the manifest)?$", "leave it out", bad[name])
                reason = f"{name}: {reason.removeprefix(f'{clip.path}: ')}"
                # extraction takes a folder for a file that is missing
                # an error for its text alone, in which nothing of a name is obeyed by a terminal
                unusable[number] = str(ClipError(_absent(clip) or reason))
        # in a shard zeros stand for clips that cannot be used
        kept = [number for number in range(len(media)) if number not in unusable]
        return Tokens(**{stream: value[kept] for stream, value in tensors.items()}), unusable


def at_hand(here: Path) -> tuple[Params, Path]:
    """The parameters, and the folder of the own encoders' weights, that are ``here``; what is not there is the clone's
    that avcil is of. params.yaml may stand alone: nothing is searched. Raises ParameterError."""
    clone = Path(avcil.__file__).parents[1]
    priors = (here if (here / "prior/mini-0.safetensors").exists() else clone) / "prior"
    settings, search = here / "params.yaml", here / "search.yaml"
    # of the clone's own file an error needs no explanation of where it comes from
    if not settings.exists() or clone.samefile(here):
        return load(clone / "params.yaml"), priors
    try:
        # a params.yaml that was copied alone has no search.yaml, and `load` wants one
        return load(settings, search=search if search.exists() else clone / "search.yaml"), priors
    except ParameterError as error:
        raise ParameterError(f"{error}; it is read instead of avcil's: mend it, or start from another folder") from None


def _absent(clip: Media) -> str | None:
    """Why there is no file to read, if there is none."""
    if clip.path.is_dir():
        return f"{clip.path}: a folder; give the files in it"
    return None if clip.path.is_file() else f"{clip.path}: no such file; correct its path or leave it out"


def windows(file: str | Path, seconds: float, every: float) -> list[Media]:
    """A long file as clips of so many ``seconds``, one beginning ``every`` so many, the last one whole: none begins
    where a track of the file, as far as it tells, is over before its end.

    Raises ValueError for lengths that are none, and ClipError for a file that cannot be read or is shorter than one
    clip.
    """
    # so written, and not as its contrary, it refuses NaN too
    if not (0 < seconds < math.inf and 0 < every < math.inf):
        raise ValueError(f"windows of {seconds} s, one every {every} s: of both give more than 0, and an end")
    file = Path(file)
    try:
        with opened(file) as container:
            # tracks tell their times by a clock at which the file need not begin at 0
            origin = (container.start_time or 0) / av.time_base
            length = (container.duration or 0) / av.time_base
            # of either kind the first, which is the one that is decoded
            for track in [*container.streams.video[:1], *container.streams.audio[:1]]:
                if track.duration and track.time_base:
                    end = float(((track.start_time or 0) + track.duration) * track.time_base)
                    length = min(length, end - origin + APART)
    except (OSError, av.error.FFmpegError) as error:
        reason = error.__class__.__name__
        raise ClipError(f"{file}: cannot be read ({reason}); correct its path or restore it") from None
    # as of a film that was written while it was recorded
    if not length:
        raise ClipError(f"{file}: tells no length; write it anew, for example by `ffmpeg -i {file.name} -c copy NEW`")
    if length < seconds:
        raise ClipError(f"{file}: {length:.2f} s, and a window takes {seconds:.2f} s; give a longer file")
    # a last window that ends with the file is not to be lost to rounding
    return [Media(file, float(start)) for start in np.arange(0, length - seconds + 1e-6, every)]


def media_of(clips: Iterable[str | Path | Media]) -> list[Media]:
    """Raises LearnerError for what is no list of files, or an empty one."""
    # in front, for texts and Media can be iterated as well, into letters and fields
    if isinstance(clips, str | Path | Media):
        raise LearnerError(f"{clips}: one path; give a list of clips")
    if not isinstance(clips, Iterable):
        raise LearnerError(f"clips of type {type(clips).__name__}; give a list of files, or Tokens")
    # a generator would be used up by the checks
    clips = list(clips)
    if not clips:
        raise LearnerError("no clips; give at least one")
    for number, clip in enumerate(clips):
        if not isinstance(clip, str | Path | Media):
            raise LearnerError(f"clip {number}: a {type(clip).__name__} is no path; give a list of files, or Tokens")
    return [clip if isinstance(clip, Media) else Media(Path(clip)) for clip in clips]


def usable(clips: Iterable[str | Path | Media], encoder: ClipEncoder | None) -> tuple[Tokens, dict[int, str]]:
    """Tokens of the files that can be used; of the others, by number from 0 on, why not.

    Raises LearnerError for no clips, or without encoder.
    """
    media = media_of(clips)
    if encoder is None:
        raise LearnerError("files need the project's params.yaml above the run's folder; give tokens, or move it")
    return encoder.read(media)


def tokens_of(clips: Clips, encoder: ClipEncoder | None) -> Tokens:
    """Raises LearnerError for no clips, what is neither files nor tokens, tokens that contradict each other or are not
    finite, or files without encoder; ClipError for a file that cannot be used (`usable` goes on without it)."""
    if not isinstance(clips, Tokens):
        media = media_of(clips)
        if absent := [*filter(None, map(_absent, media))]:  # said before any is read
            raise ClipError(absent[0])
        tokens, unusable = usable(media, encoder)
        if unusable:
            raise ClipError(next(iter(unusable.values())))
        return tokens
    for name, stream in clips._asdict().items():
        # before shapes, which NumPy's arrays have, too
        if not isinstance(stream, Tensor):
            raise LearnerError(f"{name} tokens of type {type(stream).__name__}; give tensors (torch.from_numpy)")
    shapes = [tuple(stream.shape) for stream in clips]
    visual, audio, similarity = shapes
    # the number of dimensions first: what follows takes it for granted
    if [*map(len, shapes)] != [4, 3, 3] or visual[:3] != similarity or audio[0] != visual[0] or not visual[0]:
        given = ", ".join(map(str, shapes))
        raise LearnerError(f"tokens of shapes {given}; they are [B,L,S,D], [B,A,D'] and [B,L,S] of B clips, B > 0")
    for name, stream in clips._asdict().items():
        # clip by clip, to say which: one NaN in a sum would spoil all classes for good
        finite = stream.flatten(1).isfinite().all(1)
        if not finite.all():
            raise LearnerError(f"clip {int((~finite).nonzero()[0, 0])}: {name} tokens that are not finite; drop it")
    # nothing is to be learnt about what made them
    return Tokens(*(stream.detach() for stream in clips)).to("cpu")
