"""How clips become features, and where work is done."""

from typing import Literal

from pydantic import Field

from avcil.params.section import Precision, Section

Incomplete = Literal["quarantine", "keep"]


class FeatureConfig(Section):
    """Extraction."""

    clips_per_shard: int = Field(gt=0)
    batch: int = Field(gt=0, description="clips that the encoder is given at once")
    quarantine_share: float = Field(ge=0, le=1, description="largest share of unusable clips that is tolerated")
    silence: float = Field(ge=0, lt=1, description="a clip whose samples are all smaller is silent, and has no sound")
    incomplete: Incomplete = Field(
        "quarantine", description="clips without sound or picture; keep: zeros stand for what is absent"
    )


class Compute(Section):
    """Where work is done. Results depend on it by rounding at most, so no result is told by it."""

    engine: Literal["local", "ray"] = Field(description="ray: extraction and sweeps on a Ray cluster, or started here")
    # 0: the process that encodes also decodes
    workers: int = Field(ge=0, description="processes that decode clips, for each encoder")
    actors: int = Field(gt=0, description="encoders at once, on Ray")
    # only its form is checked here; whether it is there, where it is used (avcil/base/device.py)
    device: str = Field(
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="of encoders, and of all that learns or predicts; auto: cuda or mps where there is one, else cpu",
    )
    tokens: Precision = Field(description="what learning under torchrun holds visual tokens in")
