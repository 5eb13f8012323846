"""The rendered world: format of a clip, its classes, the embedded benchmark, the `mini` encoder and its prior."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from avcil.params.section import Section, Seeds, offence

Matching = Literal["regions", "frames"]


class Film(Section):
    """Format of a clip. Pixels and samples are what an encoder is given, so both sides read it from here."""

    frames: int = Field(gt=0, description="video frames in a clip")
    fps: int = Field(gt=0, description="video frames a second")
    # whole cells of the 24 x 24 region grid, and whole patches of 12 pixels of `mini`
    size: int = Field(ge=32, multiple_of=24, description="width and height in pixels")
    sample_rate: int = Field(gt=0, description="audio samples a second")

    @property
    def samples(self) -> int:
        return self.frames * self.sample_rate // self.fps


class World(Section):
    """Which classes exist and how scenes are composed."""

    seed: int = Field(ge=0, description="seed of the classes")
    classes: int = Field(ge=4)
    timbres: int = Field(ge=1, description="class c sounds with timbre c % timbres")
    # not strict, here and below: YAML has lists, and no tuples
    silent_objects: tuple[int, int] = Field(strict=False, description="fewest and most silent objects of a scene")
    twin_in_view: float = Field(ge=0, le=1, description="share of clips in which a silent twin is in view")
    noise: tuple[float, float] = Field((0.003, 0.03), strict=False, description="least and most beside a clip's sound")

    @model_validator(mode="after")
    def _possible(self):
        """What a scene is drawn from has to be there: strangers are of other timbres than the one that sounds."""
        (fewest, most), (least, loudest) = self.silent_objects, self.noise
        others = self.classes - -(-self.classes // self.timbres)
        if not 1 <= fewest <= most:
            raise ValueError(f"silent_objects: [{fewest}, {most}]: give at least one, and no more than the most")
        if most > others:
            raise ValueError(f"silent_objects: {most} of other timbres, but of {self.classes} classes {others} are")
        if not 0 <= least <= loudest:
            raise ValueError(f"noise: [{least}, {loudest}]: give the least and the most, of 0 or more")
        return self


def _every_split(clips: dict[str, int]) -> dict[str, int]:
    if sorted(clips) != ["test", "train", "val"]:
        raise ValueError(f"of {', '.join(sorted(clips)) or 'no split'}; give the clips of train, val and test")
    return clips


ClipsPerClass = Annotated[dict[str, Annotated[int, Field(ge=0)]], AfterValidator(_every_split)]


class Corpus(Section):
    """How many clips of each class the benchmark has."""

    seed: int = Field(ge=0, description="seed of the scenes")
    clips_per_class: ClipsPerClass


class MiniConfig(Section):
    """Layout of the encoder."""

    # half as many are normed in 8 groups (avcil/encoders/mini.py)
    channels: int = Field(ge=16, multiple_of=16, description="D, channels of a token")
    # halved four times over
    mel_bands: int = Field(ge=16, multiple_of=16)
    sample_rate: int = Field(gt=0, description="Hz")


class PriorConfig(Section):
    """Pre-training (avcil/world/pretraining.py)."""

    seeds: Seeds = Field(min_length=1, description="of the released priors: scenes, first weights and batches")
    world: World = Field(description="the world of the pre-training scenes; its seed differs from the benchmark's")
    scenes: int = Field(gt=0, description="pre-training scenes rendered")
    # numbered after the `scenes`, so that none of them was learnt (notebook 02)
    held_out: int = Field(gt=0, description="scenes kept aside to measure separation and localisation")
    steps: int = Field(gt=0, description="optimiser steps")
    batch: int = Field(gt=1, description="scenes a step")
    learning_rate: float = Field(gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(ge=0)
    separation_weight: float = Field(ge=0)
    naming_weight: float = Field(ge=0)
    patch_weight: float = Field(ge=0, description="of matching")
    matching: Matching = Field("regions", description="frames: by clip and moment, without the sounding patches")
    variants: dict[str, dict[str, object]] = Field(
        {}, description="further priors, of seed 0, and the keys above that they change"
    )

    @model_validator(mode="after")
    def _consistent(self):
        # each is checked now, not when its training starts
        for name in self.variants:
            try:
                self.variant(name)
            except ValidationError as error:
                raise ValueError(f"variants.{name}: {offence(error)}") from None
        return self

    def variant(self, name: str) -> tuple["PriorConfig", int]:
        """Settings and seed of the prior of that name: a seed, or one of ``variants``. Raises ValueError otherwise."""
        if name in self.variants:
            # less `variants`, whose check would come back here without end
            return PriorConfig(**self.model_dump() | {"variants": {}} | self.variants[name]), 0
        if not name.isdecimal():
            raise ValueError(f"prior: no seed and no variant `{name}`; prior.variants has {list(self.variants)}")
        return self, int(name)
