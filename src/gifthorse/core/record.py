"""The record: one typed, versioned JSON document per cell of the grid. Imports no torch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = float | int | bool | list[float]

Family = Literal["reformation", "filtering", "sanitization", "inspection"]
"""The field's four families of defenses."""


class Seconds(BaseModel):
    """Wall time, measured by the runner. A stage answered from the store keeps the time it once took."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benign: float | None = None
    attack: float | None = None
    defense: float | None = None
    defense_per_input: float | None = None
    downstream: float | None = None
    """One transfer of the trojan; that of its benign twin takes as long."""


class Downstream(BaseModel):
    """What a downstream user does with the delivered network: every field of the head and of their data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: dict[str, Any]
    dataset: dict[str, Any]


class Environment(BaseModel):
    """Where and with what the cell was run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gifthorse: str
    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    device: str
    threads: int


class Record(BaseModel):
    """Everything about one cell: what was asked, how it ended, and what was measured.

    Rates are fractions in [0,1]; a metric that does not apply is absent, never 0. ``dataset``, ``model``,
    ``training``, ``attack`` and ``defense`` hold every field of the configuration, ``family`` the defense's.
    ``downstream`` is there where the delivered network was given a new head and tuned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal[1] = Field(1, alias="schema")
    id: str
    status: Literal["done", "skipped", "failed"]
    reason: str | None = None
    dataset: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    profile: str
    seed: int
    attack: dict[str, Any]
    defense: dict[str, Any] | None
    family: Family | None = None
    downstream: Downstream | None = None
    metrics: dict[str, Metric] = {}
    seconds: Seconds = Seconds()
    peak_memory_mb: int | None = None
    environment: Environment
    created: str

    @model_validator(mode="after")
    def _family_goes_with_defense(self) -> "Record":
        if (self.defense is None) != (self.family is None):
            raise ValueError("a record names a family exactly where it names a defense")
        return self

    def to_json(self) -> str:
        """Return the document as indented JSON."""
        return self.model_dump_json(by_alias=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read a document; ``pydantic.ValidationError`` where it is not one."""
        return cls.model_validate_json(text)
