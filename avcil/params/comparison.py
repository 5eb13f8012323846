"""What a benchmark prescribes to every row, and how rows are searched for."""

from typing import Literal

from pydantic import Field, model_validator

from avcil.params.section import Section, Seeds


class Setting(Section):
    """What one block of runs changes in the protocol; what is left out stays."""

    rows: list[str] | None = Field(None, description="rows to run; all rows of the protocol if left out")
    classes_per_task: int | None = Field(None, gt=0)
    exemplars: int | None = Field(None, ge=0, description="for rows that keep any")
    keep: Literal["last", "best_all", "best_new"] | None = None
    seeds: Seeds | None = Field(None, min_length=1, description="a part of the protocol's")
    twins: bool = Field(True, description="false: classes that share a sound are one class, so that sound tells all")

    @property
    def memory_alone(self) -> bool:
        """Whether nothing but the memory differs from the protocol, so that accuracies can be told by memory."""
        return self.model_dump(exclude=_MEMORY) == Setting().model_dump(exclude=_MEMORY)


_MEMORY = {"rows", "seeds", "exemplars"}


class Protocol(Section):
    """What a benchmark prescribes to every row."""

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
    settings: dict[str, Setting]

    @model_validator(mode="after")
    def _consistent(self):
        sizes = self.classes_per_task
        if min(sizes if isinstance(sizes, list) else [sizes], default=0) < 1:
            raise ValueError("classes_per_task: at least one class a task")
        for key, named in (("epochs_of", self.epochs_of), ("changes", self.changes)):
            if unknown := sorted(named.keys() - {*self.rows, "*"}):
                raise ValueError(f"{key}: `{unknown[0]}` is not among the rows")
        for name, setting in self.settings.items():
            if foreign := sorted(set(setting.seeds or []) - set(self.seeds)):
                raise ValueError(f"settings.{name}: seed {foreign[0]} is not among the protocol's {self.seeds}")
            if not setting.twins and self.class_order == "official":
                raise ValueError(f"settings.{name}: merged classes have no official order; use class_order: drawn")
        return self


class Search(Section):
    """The validation-only search for hyper-parameters."""

    seeds: Seeds
    trials: dict[str, dict[str, object]]
