"""params.yaml, read once and checked whole: every number of every stage, typed and frozen."""

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from avcil.params.comparison import Protocol, Search
from avcil.params.encoders import EncoderConfig
from avcil.params.extraction import Compute, FeatureConfig
from avcil.params.learning import Method, Task, Training, chain
from avcil.params.section import Section, Seeds, nearest
from avcil.params.world import Corpus, Film, MiniConfig, PriorConfig, World


class ParameterError(ValueError):
    """params.yaml holds something that cannot be used; the message names the key and the way out."""


class _Loader(yaml.SafeLoader):
    """Reads `1e-05`, which DVC writes, as the number that it is in YAML 1.2; in 1.1, without a point, it is text.
    Refuses a key that occurs twice, of which YAML 1.2 has none and PyYAML takes the last."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` occurs twice", key.start_mark)
                known.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Params(Section):
    """The whole of params.yaml."""

    benchmark: str
    seeds: Seeds = Field(min_length=1, description="each draws a class order, weights and batches of its own")
    tasks: list[Task] = Field(min_length=1)
    film: Film
    world: World
    corpus: Corpus
    encoder: MiniConfig
    encoders: dict[str, EncoderConfig]
    prior: PriorConfig
    features: FeatureConfig
    compute: Compute
    training: Training
    compare: list[str] | Literal["all"] = Field(description="variants to learn beside lll, and to compare with it")
    lll: Method
    variants: dict[str, Method]
    field: dict[str, Method]
    protocols: dict[str, Protocol]
    search: Search

    @model_validator(mode="after")
    def _consistent(self):
        names = [task.from_ for task in chain([1] * len(self.tasks), 1)]
        if [task.id for task in self.tasks] != list(range(len(self.tasks))):
            raise ValueError("tasks: ids must count 0, 1, 2, ...")
        if [task.from_ for task in self.tasks] != names:
            raise ValueError(f"tasks: each task starts from the one before it: {names}")
        if self.prior.world.seed == self.world.seed:
            raise ValueError(
                "prior.world.seed: must differ from world.seed, or the prior would see the benchmark's classes"
            )
        if "lll" in self.variants or "lll" in self.field:
            raise ValueError("variants and field: `lll` has a section of its own")
        if twice := sorted(self.variants.keys() & self.field.keys()):
            raise ValueError(f"field: `{twice[0]}` is a variant too; give one of them another name")
        for name in [] if self.compare == "all" else self.compare:
            if name not in self.variants:
                raise ValueError(f"compare: no variant `{name}`{nearest(name, self.variants)}")
        known = [*self.own_encoders, *self.encoders]
        for name, row in self.rows.items():
            if row.tokens not in known:
                raise ValueError(f"{name}: no encoder `{row.tokens}`{nearest(row.tokens, known)}")
        for name, protocol in self.protocols.items():
            Training(**self.training.model_dump() | protocol.training)
            for row in [*protocol.rows, *(row for s in protocol.settings.values() for row in s.rows or [])]:
                if row not in self.rows:
                    raise ValueError(f"protocols.{name}: no row `{row}`{nearest(row, self.rows)}")
        return self

    @property
    def compared(self) -> list[str]:
        """The variants that are learnt, in the order of params.yaml."""
        return [name for name in self.variants if self.compare == "all" or name in self.compare]

    @property
    def own_encoders(self) -> list[str]:
        """Names of the encoders whose weights stand in prior/."""
        return ["mini", *(f"mini-{seed}" for seed in self.prior.seeds if seed), "random"]

    @property
    def rows(self) -> dict[str, Method]:
        """Every row by name: lll, its variants, and the field."""
        return {"lll": self.lll} | self.variants | self.field

    def method(self, variant: str) -> Method:
        """The row of that name; raises ParameterError naming the nearest one."""
        if variant not in self.rows:
            raise ParameterError(f"no variant `{variant}` in params.yaml{nearest(variant, self.rows)}")
        return self.rows[variant]

    def protocol(self) -> Protocol:
        """The protocol of the benchmark; raises ParameterError naming the nearest one."""
        if self.benchmark not in self.protocols:
            raise ParameterError(f"no protocol `{self.benchmark}`{nearest(self.benchmark, self.protocols)}")
        return self.protocols[self.benchmark]


def _allowed_keys(location: tuple) -> list[str]:
    """Names valid where an unknown key stood."""
    model = Params
    for part in location[:-1]:
        if isinstance(model, type) and issubclass(model, Section) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            arguments = getattr(annotation, "__args__", ())
            model = next((a for a in arguments if isinstance(a, type) and issubclass(a, Section)), annotation)
    if not (isinstance(model, type) and issubclass(model, Section)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def parse(raw: dict, source: str = "params.yaml") -> Params:
    """Check a mapping; raises ParameterError with one line for the first offence."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        location = first["loc"]
        where = ".".join(str(part) for part in location) or "top level"
        hint = nearest(str(location[-1]), _allowed_keys(location)) if first["type"] == "extra_forbidden" else ""
        message = first["msg"].removeprefix("Value error, ")
        more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise ParameterError(f"{source}: {where}: {message}{hint}{more}") from None


def mapping(text: str, source: str = "params.yaml") -> dict:
    """The text of params.yaml, read but not checked; raises ParameterError if it is not YAML."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date that there is not
        raise ParameterError(f"{source}: not YAML: {' '.join(str(error).split())}") from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; raises ParameterError."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: cannot be read ({error}); take it from git, or save it as UTF-8") from None
    return parse(mapping(text, str(path)), path.name)
