"""The records: typed, versioned JSON documents, one per cell of the grid and one per population. Imports no torch."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from textwrap import shorten
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gifthorse.core.family import ATTACK, DOWNSTREAM, FAMILIES, STAMP
from gifthorse.core.metric import METRICS
from gifthorse.core.seal import unsealed

Metric = float | int | bool | list[float]
Counts = dict[str, int | list[int]]

Status = Literal["done", "skipped", "failed"]


def name_of(configuration: Mapping[str, Any]) -> str:
    """Return a configuration's name, a network of a library's with its own.

    >>> name_of({"name": "strip", "fpr": 0.05}), name_of({"name": "torchvision", "arch": "resnet50"})
    ('strip', 'torchvision/resnet50')
    """
    name, arch = str(configuration.get("name", "unnamed")), configuration.get("arch")
    return f"{name}/{arch}" if arch is not None else name


def _without_null(seconds: Any) -> Any:
    """Leave out the stages that did not run: records were once written with all of them."""
    return {k: v for k, v in seconds.items() if v is not None} if isinstance(seconds, Mapping) else seconds


class Downstream(BaseModel):
    """What a downstream user does with the delivered network: every field of the head and of their data set.

    ``data_digest`` is of their images, as :class:`Record` has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: dict[str, Any]
    dataset: dict[str, Any]
    data_digest: str | None = None


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
    deterministic: bool | None = None
    """Whether a GPU's arithmetic was repeatable."""
    torchvision: str | None = None
    numpy: str | None = None
    scikit_learn: str | None = None
    cpu: str | None = None
    """The processor's model."""
    system: str | None = None
    """Operating system and its release."""


class Document(BaseModel):
    """What the store keeps as JSON, sealed; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal[1] = Field(1, alias="schema")
    id: str

    def to_json(self) -> str:
        """Return the document as indented JSON."""
        return self.model_dump_json(by_alias=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a document; ``ValueError`` where it is not one, or was changed since it was :func:`sealed`."""
        return cls.model_validate_json(unsealed(text))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._said()}>"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """Return a small table, which notebooks show."""
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._numbers())
        return f"<table><caption>{escape(self._said())}</caption>{''.join(rows)}</table>"

    def _said(self) -> str:
        """Return in one line what the document is about."""
        raise NotImplementedError

    def _numbers(self) -> Iterable[tuple[str, str]]:
        """Yield what was measured, name and text."""
        raise NotImplementedError


class Record(Document):
    """Everything about one cell: what was asked, how it ended, and what was measured.

    Rates are fractions in [0,1]; a metric that does not apply is absent, never 0. ``dataset``, ``model``,
    ``training``, ``attack`` and ``defense`` hold every field of the configuration, ``family`` the defense's.
    ``downstream`` is there where the delivered network was given a new head and tuned, ``stamp`` where the
    trigger was shown otherwise than it was planted, ``analysis`` where the model was looked into; a defense is not
    judged then. ``seconds`` is wall time by
    stage, measured by the runner; a stage answered from the store keeps the time it once took. ``command`` is the
    command line that runs the cell again. ``artifacts`` has the keys of what the store keeps behind it, by kind; older
    records do not tell.
    ``data_digest`` is of the contents of the images that were read, ``file_digests`` has the SHA-256 of every other
    file, or folder of images, that the request names, by path, and ``plugins`` that of the users' own Python files that
    gave a method; ``class_names`` are in the order of the labels. What
    metrics, stages and families mean is declared in :mod:`gifthorse.core.metric` and :mod:`gifthorse.core.family`.
    """

    command: str | None = None
    status: Status
    reason: str | None = None
    dataset: dict[str, Any]
    data_digest: str | None = None
    class_names: list[str] = []
    file_digests: dict[str, str | None] = {}
    plugins: dict[str, str] = {}
    model: dict[str, Any]
    training: dict[str, Any]
    profile: str
    seed: int
    attack: dict[str, Any]
    defense: dict[str, Any] | None
    family: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    downstream: Downstream | None = None
    stamp: dict[str, Any] | None = None
    analysis: dict[str, Any] | None = None
    metrics: dict[str, Metric] = {}
    counts: Counts = {}
    """The number of images, or other samples, that a share, a mean or a difference of them is of, by metric."""
    doubts: list[str] = []
    """Why the attack does not count, a phrase for each reason; empty where it is valid."""
    seconds: Annotated[dict[str, float], BeforeValidator(_without_null)] = {}
    peak_memory_mb: int | None = None
    artifacts: dict[str, str] | None = None
    environment: Environment
    created: str

    @model_validator(mode="after")
    def _family_goes_with_defense(self) -> "Record":
        if (self.defense is None) != (self.family is None):
            raise ValueError("a record names a family exactly where it names a defense")
        return self

    def _said(self) -> str:
        followed = [name_of(self.defense)] if self.defense else []
        tables = [ATTACK, *(each for each in FAMILIES.values() if each.name == self.family)]
        if self.downstream is not None:
            followed, tables = [name_of(self.downstream.head)], [*tables, DOWNSTREAM]
        if self.stamp is not None:
            followed, tables = [name_of(self.stamp), *followed], [ATTACK, STAMP, *tables[1:]]
        if self.analysis is not None:
            followed.append(name_of(self.analysis))
        asked = f"{' → '.join([name_of(self.attack), *followed])} on {name_of(self.dataset)}/{name_of(self.model)}"
        numbers = [
            f"{each.headline} {_text(each.headline, self.metrics[each.headline])}"
            for each in tables
            if each.headline in self.metrics
        ]
        ended = self.status + (f" ({shorten(self.reason, 80, placeholder='…')})" if self.reason else "")
        return ", ".join([f"{asked}, seed {self.seed}: {ended}", *numbers])

    def _numbers(self) -> Iterable[tuple[str, str]]:
        for name, value in self.metrics.items():
            yield METRICS.find(name).title, _text(name, value)


class Review(Document):
    """What a person decided about the images that a screen flagged and a record kept: which to turn away, or to let in.

    ``id`` is the record's, ``rejected`` has the numbers of the images that were taken to carry a trigger, ``pictures``
    is the SHA-256 of what was looked at. The counts are of these images: how many carry a trigger, or not, and how many
    of either were rejected.
    """

    by: str | None = None
    rejected: list[int]
    pictures: str
    stamped: int
    stamped_rejected: int
    clean: int
    clean_rejected: int
    created: str

    def _said(self) -> str:
        return f"review of {self.id}: {len(self.rejected)} of {self.stamped + self.clean} flagged images rejected"

    def _numbers(self) -> Iterable[tuple[str, str]]:
        yield "stamped images rejected", f"{self.stamped_rejected} of {self.stamped}"
        yield "clean images rejected", f"{self.clean_rejected} of {self.clean}"


Group = Literal["benign", "trojaned"]

Interval = tuple[float, float]
"""Low and high end of a 95 % interval."""


FPRS = (0.05, 0.1)
"""The false positive rates at which a population's true positive rate is given."""


def benign_needed(fpr: float) -> int:
    """Return how many benign models a threshold at a false positive rate needs: with fewer, it lets none through."""
    return math.ceil(1 / fpr)


class Separation(BaseModel):
    """How well an index tells trojaned models from benign ones; what could not be computed is absent.

    The keys of ``tpr_at_fpr`` are false positive rates as text, ``"0.05"``; one is absent where there were too few
    benign models (:func:`benign_needed`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    auroc: float | None = None
    auroc_interval: Interval | None = None
    tpr_at_fpr: dict[str, float] = {}
    tpr_at_fpr_interval: dict[str, Interval] = {}


class Member(BaseModel):
    """A model that counts: the id of its record, and what the defense said of it.

    ``target`` is the attack's, where it names one; ``readouts`` are the further indices by metric; ``hit`` says that
    the target has the highest score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    seed: int
    target: int | None = None
    index: float
    readouts: dict[str, float] = {}
    flagged: bool | None = None
    hit: bool | None = None


class LeftOut(BaseModel):
    """A model that does not count: its cell was skipped or failed, or its attack did not take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    group: Group
    seed: int
    status: Status
    reason: str


class Population(Document):
    """Benign and trojaned models of consecutive seeds, and how well one defense tells them apart.

    ``seed`` is the first of either group. With ``varied_target`` every trojaned model has another target, its seed
    modulo the number of classes, in place of the attack's. ``twin`` says how the benign models were trained: as the
    benign twins of the trojaned ones; it is null where that is by the recipe alone, as the attack trains too. ``index``
    names the metric that ``auroc`` and ``tpr_at_fpr`` are of; ``readouts`` has the same of every further index, each
    over the models that have it. ``flagged_benign`` and ``flagged_trojaned`` are shares at the method's own threshold,
    ``suspect_hit_rate`` is the share of trojaned models whose target has the highest score. Rates are fractions in
    [0,1]; what could not be computed is absent or null. ``plugins`` is as in :class:`Record`. ``family`` and
    ``status`` are the same for all of them.
    """

    family: ClassVar[str] = "inspection"
    status: ClassVar[Status] = "done"

    dataset: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    profile: str
    attack: dict[str, Any]
    varied_target: bool
    plugins: dict[str, str] = {}
    twin: dict[str, Any] | None = None
    defense: dict[str, Any]
    seed: int
    n_benign: int
    n_trojaned: int
    index: str | None = None
    auroc: float | None = None
    auroc_interval: Interval | None = None
    tpr_at_fpr: dict[str, float] = {}
    tpr_at_fpr_interval: dict[str, Interval] = {}
    flagged_benign: float | None = None
    flagged_trojaned: float | None = None
    suspect_hit_rate: float | None = None
    suspect_hit_rate_interval: Interval | None = None
    readouts: dict[str, Separation] = {}
    benign: list[Member] = []
    trojaned: list[Member] = []
    left_out: list[LeftOut] = []
    environment: Environment
    created: str

    @model_validator(mode="after")
    def _numbers_are_those_of_the_members(self) -> "Population":
        if (self.n_benign, self.n_trojaned) != (len(self.benign), len(self.trojaned)):
            raise ValueError("n_benign and n_trojaned count the members")
        return self

    def _said(self) -> str:
        models = f"{self.n_benign} benign and {self.n_trojaned} trojaned models"
        asked = f"{name_of(self.defense)} on {models}, {name_of(self.attack)} on {name_of(self.dataset)}"
        auroc = "" if self.auroc is None else f": AUROC {_estimate(self.auroc, self.auroc_interval)}"
        return f"{asked}/{name_of(self.model)}{auroc}"

    def _numbers(self) -> Iterable[tuple[str, str]]:
        if self.index is not None and self.auroc is not None:
            yield f"AUROC of {self.index}", _estimate(self.auroc, self.auroc_interval)
        for fpr, tpr in self.tpr_at_fpr.items():
            yield f"TPR at FPR {fpr}", _estimate(tpr, self.tpr_at_fpr_interval.get(fpr))
        for name, found in self.readouts.items():
            if found.auroc is not None:
                yield f"AUROC of {name}", _estimate(found.auroc, found.auroc_interval)
        shares = {
            "flagged benign models": self.flagged_benign,
            "flagged trojaned models": self.flagged_trojaned,
            "target has the highest score": self.suspect_hit_rate,
        }
        yield from ((name, f"{share:.3f}") for name, share in shares.items() if share is not None)
        if self.left_out:
            yield "models left out", str(len(self.left_out))


def _text(name: str, value: Metric) -> str:
    unit = METRICS.find(name).unit
    values = value if isinstance(value, list) else [value]
    return f"{' '.join(map(unit.text, values))} {unit.symbol}".strip()


def _estimate(value: float, interval: Interval | None) -> str:
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")
