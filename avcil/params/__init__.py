"""params.yaml, read once and checked whole: every number of every stage, typed and frozen.

What is long stands beside it: protocols/<benchmark>.yaml, and search.yaml.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from avcil.base.refusal import Refusal
from avcil.params.comparison import Protocol, Row, Search
from avcil.params.encoders import EncoderConfig
from avcil.params.extraction import Compute, FeatureConfig
from avcil.params.learning import Method, Task, Training, chain
from avcil.params.section import Section, Seeds, nearest, offence
from avcil.params.world import Corpus, Film, MiniConfig, PriorConfig, World

_Kind = TypeVar("_Kind", bound=Section)


class ParameterError(Refusal):
    """params.yaml holds something that cannot be used; the message names the key and the way out."""


class _Loader(yaml.CSafeLoader):
    """Reads `1e-05`, which DVC writes, as the number that it is in YAML 1.2; in 1.1, without a point, it is text."""

    # every stage and kernel reads all parameters, and libyaml, which wheels bring along, takes a seventh of the time


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


# what the chain of `lll_prior` would not take over, in a protocol whose tasks and seeds are those of params.yaml
_CHAINED = ("exemplars", "budget", "training", "changes", "epochs", "epochs_of", "tokens", "seeds")


def _check_folder(where: str, name: str) -> None:
    # in a folder of a folder what is stale is not found, and `..` leads out of what a command may write
    if "/" in name or name.startswith("."):
        raise ValueError(f"{where}: names a folder; use no `/`, and no `.` in front")


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
    rows: Literal["headline", "all"] | list[str] = Field(description="which are learnt, and in which settings")
    methods: dict[str, Row] = Field(description="`lll_prior` is learnt task by task, in stages of its own")
    protocols: dict[str, Protocol]
    search: Search

    @field_validator("rows", mode="before")
    @classmethod
    def _listed(cls, rows):
        if isinstance(rows, str) and rows not in ("headline", "all"):
            raise ValueError(f"`{rows}` is neither headline nor all; a row that is named stands in brackets, [{rows}]")
        return rows

    @model_validator(mode="before")
    @classmethod
    def _embedded(cls, raw):
        """What a protocol leaves out, as that of the embedded benchmark does, is as `seeds` and `tasks` say."""
        with suppress(KeyError, TypeError, AttributeError, IndexError):  # of what is not there the check below tells
            tasks = raw["tasks"]
            shared = {
                "seeds": raw["seeds"],
                "classes_per_task": [task["classes"] for task in tasks],
                "epochs": tasks[0]["epochs"],
            }
            for name, given in raw["protocols"].items():
                if "classes_per_task" not in given and (own := [key for key in _CHAINED if given.get(key)]):
                    way_out = "change it in params.yaml, or give the protocol classes_per_task"
                    raise ValueError(f"protocols.{name}.{own[0]}: `lll_prior` is learnt without; {way_out}")
            protocols = {name: shared | given for name, given in raw["protocols"].items()}
            raw = raw | {"protocols": protocols}
        return raw

    @model_validator(mode="after")
    def _consistent(self):
        expected = chain([1] * len(self.tasks), 1)
        if [task.id for task in self.tasks] != [task.id for task in expected]:
            raise ValueError("tasks: ids must count 0, 1, 2, ...")
        if [task.from_ for task in self.tasks] != (names := [task.from_ for task in expected]):
            raise ValueError(f"tasks: each task starts from the one before it: {names}")
        if len(epochs := sorted({task.epochs for task in self.tasks})) > 1:
            raise ValueError(f"tasks: epochs {epochs}, but all rows learn each task as long; give one number of epochs")
        if self.prior.world.seed == self.world.seed:
            raise ValueError(
                "prior.world.seed: must differ from world.seed, or the prior would see the benchmark's classes"
            )
        if "lll_prior" not in self.methods:
            raise ValueError("methods: `lll_prior` is missing, which stages of their own learn")
        first_of = {row.about.name: name for name, row in reversed(self.methods.items())}
        for name, row in self.methods.items():
            _check_folder(f"methods.{name}", name)
            if (other := first_of[row.about.name]) != name:
                raise ValueError(f"methods.{name}: is named as `{other}` is; give it an `about` of its own")
            _check(row.tokens, [*self.own_encoders, *self.encoders], f"methods.{name}: no encoder")
        for name, encoder in self.encoders.items():
            _check_folder(f"encoders.{name}", name)
            # own encoders are looked for first, so that such an entry would never be read
            if name in self.own_encoders:
                raise ValueError(f"encoders.{name}: has the name of an own encoder, in prior/; give it another")
            if name == "loudness":
                raise ValueError("encoders.loudness: `loudness` as a similarity is none of an encoder; rename it")
            if (guide := encoder.similarity) not in (None, "loudness"):
                _check(guide, self.encoders, f"encoders.{name}.similarity: no encoder")
                if self.encoders[guide].similarity is not None:
                    raise ValueError(f"encoders.{name}.similarity: `{guide}` takes that of another; name whose it is")
        for name in self.rows if isinstance(self.rows, list) else []:
            _check(name, self.methods, "rows: no method")
        for name, protocol in self.protocols.items():
            with_changes(Training, self.training, protocol.training, f"protocols.{name}.training")
            listed = [row for setting in protocol.settings.values() for row in setting.rows or []]
            for row in (*protocol.headline, *protocol.rows, *listed):
                _check(row, self.methods, f"protocols.{name}: no method")
            for row in protocol.rows if protocol.changes else ():
                keys = protocol.changes.get("*", {}) | protocol.changes.get(row, {})
                with_changes(Method, self.methods[row], keys, f"protocols.{name}.changes: {row}")
            for setting, changed in protocol.settings.items():
                with_changes(World, self.world, changed.world, f"protocols.{name}.settings.{setting}.world")
        return self

    @property
    def own_encoders(self) -> list[str]:
        """Names of the encoders whose weights stand in prior/."""
        further = [*(seed for seed in self.prior.seeds if seed), *self.prior.variants]
        return ["mini", *(f"mini-{name}" for name in further), "random"]

    def guide_of(self, encoder: str) -> EncoderConfig | None:
        """Of whom that entry of `encoders` takes the similarity of sound and patches, if of another."""
        guide = self.encoders[encoder].similarity
        return None if guide in (None, "loudness") else self.encoders[guide]

    def method(self, name: str) -> Row:
        """The row of that name; raises ParameterError naming the nearest one."""
        if name not in self.methods:
            raise ParameterError(f"no method `{name}` in params.yaml{nearest(name, self.methods)}")
        return self.methods[name]

    def protocol(self) -> Protocol:
        """The protocol of the benchmark; raises ParameterError naming the nearest one."""
        _check(self.benchmark, self.protocols, "no protocol")
        return self.protocols[self.benchmark]

    def turned(self, world: dict[str, object], clips_per_class: dict[str, int] | None) -> "Params":
        """These, with some keys of `world` changed, and with so many clips of each split, if not as they are."""
        clips = {"clips_per_class": clips_per_class or self.corpus.clips_per_class}
        changed = {"world": World(**self.world.model_dump() | world), "corpus": self.corpus.model_copy(update=clips)}
        return self.model_copy(update=changed)

    def check_classes(self, benchmark: str, classes: int, rows: Literal["headline", "all"] | list[str] = "all") -> None:
        """Raises ParameterError where the ``classes`` of a benchmark do not divide into the tasks of a setting in which
        ``rows`` are learnt. One without a protocol is not asked for any tasks."""
        if benchmark not in self.protocols:
            return
        protocol = self.protocols[benchmark]
        for name in protocol.chosen(rows):
            setting = protocol.settings[name]
            try:
                protocol.sizes(setting, self.turned(setting.world, None).world.classes if setting.worlds else classes)
            except ValueError as error:
                raise ParameterError(f"protocols.{benchmark}.settings.{name}: {error}") from None


def _check(name: str, known: Collection[str], complaint: str) -> None:
    if name not in known:
        raise ParameterError(f"{complaint} `{name}`{nearest(name, known)}")


def with_changes(kind: type[_Kind], section: Section, changes: dict[str, object], where: str) -> _Kind:
    """A section with some keys changed, checked as a whole; raises ValueError naming the key that cannot be."""
    try:
        return kind(**section.model_dump() | changes)
    except ValidationError as error:
        raise ValueError(f"{where}: {offence(error)}") from None


def parse(raw: dict, source: str = "params.yaml") -> Params:
    """Check a mapping; raises ParameterError with one line for the first offence."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        if error.errors()[0]["loc"][:1] == ("search",):
            source = "search.yaml"
        raise ParameterError(f"{source}: {offence(error)}{more}") from None


def _check_keys(node: yaml.Node | None, seen: set[int]) -> None:
    """Refuse a key that occurs twice, of which YAML 1.2 has none and PyYAML takes the last. ``seen``: nodes that an
    alias names again."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    known: set[str] = set()
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if key.value in known:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` occurs twice", key.start_mark)
            known.add(key.value)
        _check_keys(value, seen)


def mapping(text: str, source: str = "params.yaml") -> dict:
    """The text of params.yaml, read but not checked; raises ParameterError if it is no mapping in YAML."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_keys(node, set())
        raw = loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date that there is not
        raise ParameterError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ParameterError(f"{source}: no mapping of keys; mend it")
    return raw


def read(path: Path) -> dict:
    """A file in YAML, not checked; raises ParameterError naming it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: cannot be read ({error}); take it from git, or save it as UTF-8") from None
    return mapping(text, str(path))


def _protocol(folder: Path, name: str, *like_it: str) -> dict:
    """A protocol with what it takes from the one that it is `like`."""
    file = folder / f"{name}.yaml"
    raw = read(file)
    like = raw.pop("like", None)
    if not like:
        return raw
    if like in (name, *like_it):
        raise ParameterError(f"{file}: like `{like}`, which is like it; name another one, or delete the line")
    return _protocol(folder, like, name, *like_it) | raw


def whole(path: Path = Path("params.yaml"), search: Path | None = None) -> dict:
    """params.yaml, and beside it ``protocols/*.yaml`` and search.yaml, as one mapping that is not checked. ``search``:
    where that file is instead."""
    raw, folder = read(path), path.parent / "protocols"
    if "protocols" not in raw:
        raw["protocols"] = {file.stem: _protocol(folder, file.stem) for file in sorted(folder.glob("*.yaml"))}
    if "search" not in raw:
        raw["search"] = read(search or path.parent / "search.yaml")
    return raw


def load(path: Path = Path("params.yaml"), search: Path | None = None) -> Params:
    """`whole`, checked; raises ParameterError."""
    return parse(whole(path, search), path.name)
