"""A method's row with what it is, what a benchmark prescribes to every row, and how rows are searched for."""

from typing import Literal

from pydantic import Field, model_validator

from avcil.params.learning import Method
from avcil.params.section import Section, Seeds
from avcil.params.world import ClipsPerClass


class About(Section):
    """What tables, figures and the report call a row, and where it comes from."""

    name: str = Field(min_length=1, description="what stands in brackets is left out where room is scarce")
    family: str = Field(min_length=1, description="rows that are drawn in one colour and listed together")
    paper: str = Field("", description="in Markdown")
    idea: str = Field("", description="what holds the new model to the old one")
    deviations: str = Field("", description="from the paper")
    part: bool = Field(False, description="a row less one part, or of another prior: left out where methods compete")

    @property
    def short_name(self) -> str:
        return self.name.split(" (")[0]


class Row(Method):
    """A method's choices, and what is said about it, which decides no result."""

    # in no dump, so that a row that is renamed keeps its runs
    about: About = Field(exclude=True)


class Setting(Section):
    """What one block of runs changes in the protocol; what is left out stays."""

    rows: list[str] | None = Field(None, description="rows to run; all rows of the protocol if left out")
    classes_per_task: int | None = Field(None, gt=0)
    exemplars: int | None = Field(None, ge=0, description="for rows that keep any")
    tokens: str | None = Field(None, description="of every row, as the protocol's")
    keep: Literal["last", "best_all", "best_new"] | None = None
    seeds: Seeds | None = Field(None, min_length=1, description="a part of the protocol's")
    worlds: bool = Field(False, description="true: each seed has a world of its own (avcil/comparison/worlds.py)")
    world: dict[str, object] = Field({}, description="keys of `world` that its worlds change")
    clips_per_class: ClipsPerClass | None = Field(None, description="of its worlds, as `corpus` has it")

    @property
    def memory_alone(self) -> bool:
        """Whether nothing but the memory differs from the protocol, so that accuracies can be told by memory."""
        # all keys but these are compared, so that one that is added later counts as well
        return self.model_dump(exclude=_MEMORY) == Setting().model_dump(exclude=_MEMORY)


# the memory itself, and what says which runs there are, not what a run is
_MEMORY = {"rows", "seeds", "exemplars"}


class Protocol(Section):
    """What a benchmark prescribes to every row: protocols/<benchmark>.yaml."""

    headline: list[str] = Field([], description="rows that `rows: headline` learns; all, if none")
    classes_per_task: int | list[int] = Field(description="new classes of every task, or of each")
    epochs: int = Field(gt=0)
    epochs_of: dict[str, int] = Field({}, description="of rows that are trained longer or shorter")
    tokens: str | None = Field(None, description="of every row, instead of what rows say: a store of the benchmark")
    class_order: Literal["drawn", "official"] = Field(description="official: order.json beside the manifest")
    seeds: Seeds = Field(min_length=1)
    exemplars: int | None = Field(None, ge=0, description="instead of what rows say")
    budget: Literal["per_class", "total"] | None = None
    training: dict[str, object] = Field({}, description="keys of `training` that the benchmark changes")
    changes: dict[str, dict[str, object]] = Field({}, description="keys of rows that it changes, by row; `*`: of all")
    rows: list[str] = Field(min_length=1)
    settings: dict[str, Setting] = Field(min_length=1)
    knobs: dict[str, dict[str, str]] = Field({}, description="settings in which one thing is turned, with its values")

    @model_validator(mode="after")
    def _consistent(self):
        sizes = self.classes_per_task
        # an empty list, which has no least one, is refused as well
        if min(sizes if isinstance(sizes, list) else [sizes], default=0) < 1:
            raise ValueError("classes_per_task: at least one class a task")
        for key, named in (("epochs_of", self.epochs_of), ("changes", self.changes)):
            # of all rows the epochs are `epochs`
            every = {"*"} if key == "changes" else set()
            if unknown := sorted(named.keys() - {*self.rows} - every):
                raise ValueError(f"{key}: `{unknown[0]}` is not among the rows")
        for name, setting in self.settings.items():
            # the protocol's own tasks would leave classes out: 20 of 40 were once learnt so (LOG.md)
            if "classes" in setting.world and setting.classes_per_task is None:
                raise ValueError(f"settings.{name}: other classes, in the same tasks; say its classes_per_task")
            foreign = sorted(set(setting.seeds or []) - set(self.seeds))
            # class orders are drawn or given for the protocol's seeds; a drawn world brings its own
            if foreign and not setting.worlds:
                raise ValueError(f"settings.{name}: seed {foreign[0]} is not among the protocol's {self.seeds}")
            if setting.worlds and self.class_order == "official":
                raise ValueError(f"settings.{name}: drawn worlds have no official order")
            if (setting.world or setting.clips_per_class) and not setting.worlds:
                raise ValueError(f"settings.{name}: only drawn worlds can be changed; say `worlds: true`")
            # beside those of each world's prior these alone are extracted (avcil/comparison/worlds.py)
            if setting.worlds and setting.tokens not in (None, "random", "mini-frames"):
                what = f"settings.{name}: drawn worlds have a prior each"
                raise ValueError(f"{what}; leave out `tokens`, or say `random` or `mini-frames`")
        for knob, steps in self.knobs.items():
            if unknown := [step for step in steps if step not in self.settings]:
                raise ValueError(f"knobs.{knob}: no setting `{unknown[0]}`")
        return self

    def chosen(self, rows: Literal["headline", "all"] | list[str]) -> dict[str, list[str]]:
        """The rows to learn of each setting: all, the headline in the first setting alone, or those that are listed; a
        listed one that the protocol does not have, one's own, in the first setting."""
        every = {name: setting.rows or self.rows for name, setting in self.settings.items()}
        if rows == "all":
            return every
        first = next(iter(every))
        if rows == "headline":
            return {first: self.headline or every[first]}
        listed = {name: [row for row in of if row in rows] for name, of in every.items()}
        # a row of one's own, which no setting lists
        listed[first] += [row for row in rows if not any(row in of for of in every.values())]
        # a setting in which nothing is learnt would have its worlds drawn all the same
        return {name: of for name, of in listed.items() if of}

    def sizes(self, setting: Setting, classes: int) -> list[int]:
        """New classes of each task, of so many ``classes``. Raises ValueError where these do not divide."""
        per_task = setting.classes_per_task or self.classes_per_task
        if isinstance(per_task, list):  # tasks that are listed may leave classes for later ones
            if sum(per_task) <= classes:
                return per_task
        elif classes % per_task == 0:
            return [per_task] * (classes // per_task)
        way_out = "change classes_per_task, or `tasks` of params.yaml where a protocol has none"
        raise ValueError(f"{classes} classes do not divide into tasks of {per_task}; {way_out}")


class Search(Section):
    """The search for hyper-parameters: search.yaml."""

    worlds: Seeds = Field(min_length=1, description="on whose validation clips trials are scored")
    trials: dict[str, list[dict[str, list[object]]]] = Field(description="by row: grids, of values by key")
