"""A study: data sets × models × recipes × attacks × defenses × seeds and populations, written in one TOML file.

Imports no torch: what there is to ask for is told by a listing (``gifthorse list --json``), so that a study whose cells
are in the store is answered at once.
"""

import difflib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from gifthorse.bench.profiles import PROFILES
from gifthorse.core.columns import CONFIGURATIONS
from gifthorse.core.configuration import fingerprint, split_request
from gifthorse.core.errors import RequestError

Listing = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What is listed, by kind (``attacks``) and name: its fields, and a defense's family."""

MOST = 1_000_000
"""Most cells of a study: a slip of the pen is refused before it fills the memory."""
_LARGEST = 2**63


def numbers(text: str) -> list[int | float]:
    """Return the numbers of a range, both ends included; ``ValueError`` where it is none.

    >>> numbers("0..4"), numbers("0..0.3..0.1")
    ([0, 1, 2, 3, 4], [0.0, 0.1, 0.2, 0.3])
    """
    parts = text.split("..")
    try:
        first, last, step = (Decimal(part.strip()) for part in (parts if len(parts) == 3 else (*parts, "1")))
    except (InvalidOperation, ValueError):
        raise ValueError(f"'{text}' is no range: write '0..4', or '0..0.8..0.2' with a step") from None
    if not all(part.is_finite() for part in (first, last, step)):
        raise ValueError(f"'{text}' is no range: it has no end")
    if step <= 0 or last < first:
        raise ValueError(f"the range '{text}' is empty")
    if max(part.copy_abs() for part in (first, last, step)) >= _LARGEST:  # abs() may overflow
        raise ValueError(f"the range '{text}' has numbers that are too large")
    if last - first >= MOST * step:
        raise ValueError(f"the range '{text}' has over {MOST} numbers")
    count = int((last - first) / step) + 1
    whole = all(part == part.to_integral_value() and "." not in str(part) for part in (first, last, step))
    return [int(first + i * step) if whole else float(first + i * step) for i in range(count)]


def _several(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _counted(value: Any) -> Any:
    parts = [numbers(part) if isinstance(part, str) else [part] for part in _several(value)]
    return list(itertools.chain.from_iterable(parts))


def _swept(value: Any) -> Any:
    try:
        return numbers(value) if isinstance(value, str) else value
    except ValueError:
        # One value for all would be no sweep; a list of words is one.
        raise ValueError("should be a list, or a range such as '0..4' or '0..0.8..0.2'") from None


Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_counted), Field(min_length=1)]
Values = Annotated[list[Any], BeforeValidator(_swept), Field(min_length=1)]
Profile = Annotated[str, Field(json_schema_extra={"enum": list(PROFILES)})]
Kind = Literal["dataset", "model", "training", "attack", "defense", "downstream", "stamp", "analysis"]

KINDS: dict[str, str] = {
    "dataset": "datasets",
    "model": "models",
    "training": "recipes",
    "attack": "attacks",
    "defense": "defenses",
    "downstream": "heads",
    "downstream_dataset": "datasets",
    "stamp": "stamps",
    "analysis": "analyses",
}
"""Under which kind of the listing a field's names are found."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Exclusion(_Part):
    """Cells that are left out, and why: those whose request begins with every word that is given."""

    reason: str = Field(min_length=1, description="why; shown in the plan")
    profile: str | None = None
    dataset: str | None = None
    model: str | None = None
    training: str | None = None
    attack: str | None = None
    defense: str | None = None
    downstream: str | None = None
    stamp: str | None = None
    analysis: str | None = None
    seed: int | None = None

    def covers(self, request: Mapping[str, Any]) -> bool:
        """Tell whether a request is left out: names alone cover every setting, with brackets exactly that one."""
        said = {key: value for key, value in self.model_dump(exclude={"reason"}).items() if value is not None}
        return bool(said) and all(
            value in (request.get(key), str(request.get(key) or "none").partition("[")[0])
            for key, value in said.items()
        )


class PopulationOf(_Part):
    """A defense that inspects models, judged on many; what is left open is the study's own."""

    attack: Names
    defense: Names
    dataset: Names | None = None
    model: Names | None = None
    training: Names | None = None
    benign: int = Field(10, ge=1, description="benign models")
    trojaned: int = Field(10, ge=1, description="trojaned models")
    same_target: bool = Field(False, description="leave the attack's target to all models")
    seed: int = Field(0, ge=0, description="seed of the first of either group")


class Table(_Part):
    """A table that is printed once the cells are there; see ``gifthorse table``."""

    title: str = ""
    rows: str = Field("attack", description="what has a row: attack, defense, attack.poison_rate, …")
    columns: str = Field("defense", description="what has a column; 'metric' for nothing but metrics")
    metric: Names | None = Field(None, description="metrics; what each family is judged by unless given")
    where: list[str] = Field(default=[], description="filters, as dataset=digits")
    over: list[str] = Field(
        default=[], description="fields to average over as well as over seeds; attack.target where it varies by seed"
    )
    interval: bool = Field(False, description="95 % interval of the mean in place of the deviation")
    relative_to: str | None = Field(None, description="row or column that every mean is compared with, by its label")

    @field_validator("where")
    @classmethod
    def _can_be_asked(cls, where: list[str]) -> list[str]:
        """Refuse what would only fail once all cells are computed."""
        for text in where:
            column, equals, value = text.partition("=")
            if not (equals and column.strip()):
                raise ValueError(f"'{text}' is not of the form column=value")
            if column.strip() in CONFIGURATIONS:
                split_request(value.strip())
        return where


class Resources(_Part):
    """What one node needs where Ray computes it."""

    cpus: float = Field(1, gt=0, description="processors")
    gpus: float = Field(0, ge=0, description="GPUs, or a part of one")


class Study(_Part):
    """Everything that a grid file may say. Every name may be one or a list, and take fields in brackets."""

    title: str = Field("", description="what the study is about")
    plugins: Annotated[list[Annotated[str, Field(pattern=r"^[^\x00]+$")]], BeforeValidator(_several)] = Field(
        default=[], description="Python files with methods of your own, which are run; relative to the grid file"
    )
    profile: Annotated[list[Profile], BeforeValidator(_several), Field(min_length=1)] = ["laptop"]
    dataset: Names = ["digits"]
    model: Names | None = Field(None, description="architectures; the profile's choice for the data set unless given")
    training: Names = ["standard"]
    attack: Names | None = Field(None, description="attacks; 'none' is the benign model")
    defense: Names = Field(default=["none"], description="defenses; 'none' judges the attack alone")
    downstream: Names = Field(default=["none"], description="heads of a downstream user, in place of a defense")
    downstream_dataset: str | None = Field(None, description="images of the downstream user")
    stamp: Names = Field(
        default=["none"], description="how the trigger is shown, with every defense; 'none': as it was planted"
    )
    analysis: Names = Field(
        default=["none"], description="what looks inside of every model; 'none' judges the cell instead"
    )
    seed: Seeds = Field(default=[0], description="seeds: a number, a list, or a range such as '0..4'")
    vary_target: bool = Field(
        False, description="another target for every seed: the seed modulo the number of classes, unless one is named"
    )
    sweep: dict[Kind, dict[str, Values]] = Field(
        default={}, description="values of a field, tried on everything listed of that kind that has the field"
    )
    exclude: list[Exclusion] = []
    population: list[PopulationOf] = []
    table: list[Table] = []
    resources: dict[Literal["benign", "twin", "attack_prepared", "trojan", "prepared", "record"], Resources] = Field(
        default={}, description="what Ray gives a node of each stage: models to train, and cells (record)"
    )


@dataclass(frozen=True)
class PopulationRequest:
    """One population: the cell that it is asked with, and how many models."""

    request: Mapping[str, Any]
    benign: int
    trojaned: int
    same_target: bool


@dataclass(frozen=True)
class Asked:
    """What a study asks for: cells as ``gifthorse run`` takes them, populations, and what it leaves out with why."""

    cells: tuple[dict[str, Any], ...]
    populations: tuple[PopulationRequest, ...]
    excluded: tuple[tuple[dict[str, Any], str], ...]


@dataclass(frozen=True)
class StudyFile:
    """A study with its text, and where in the text something stands; ``added`` are plugins that it does not name."""

    study: Study
    text: str = ""
    name: str = ""
    added: tuple[Path, ...] = ()

    @classmethod
    def read(cls, text: str, name: str) -> Self:
        """Read a grid file; :class:`RequestError` with all problems of its form, each with its line."""
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # numbers of too many digits, too many brackets
            raise RequestError(f"{name} is not TOML: {error}") from None
        try:
            study = Study.model_validate(values)
        except ValidationError as error:
            found = cls(Study(), text, name)
            raise RequestError("\n".join(_problem(found, each) for each in error.errors())) from None
        return cls(study, text, name)

    @property
    def identity(self) -> str:
        """Return the content key of the study."""
        return fingerprint({"study": self.study.model_dump(mode="json")})

    @property
    def plugins(self) -> list[Path]:
        """Return the paths of all plugins, those that the file names first."""
        return [*(Path(self.name).parent / each for each in self.study.plugins), *self.added]

    def place(self, *keys: Any) -> str:
        """Return file and line of where the keys and values stand, one after the other; the file alone where not."""
        lines, at, found = self.text.splitlines(), 0, None
        for key in keys:
            pattern = re.compile(rf"(?<![\w.-]){re.escape(str(key))}(?![\w-])")
            hit = next((number for number, line in enumerate(lines[at:], at) if pattern.search(line)), None)
            if hit is not None:
                at = found = hit
        return self.name if found is None or not self.name else f"{self.name}, line {found + 1}"


def expand(file: StudyFile, listing: Listing, known: Iterable[str] = ()) -> Asked:
    """Return what a study asks for; :class:`RequestError` with everything that is wrong in it, each with its line.

    Names and fields are looked at; what values they may have is known to whoever builds the cells. ``known`` are
    problems that were found already.
    """
    study, problems = file.study, dict.fromkeys([*known, *_problems(file, listing)])
    if problems:
        raise RequestError("\n".join(problems))
    axes: dict[str, list[Any]] = {
        "profile": [*study.profile],
        "dataset": _with_sweep(study, listing, "dataset", study.dataset),
        "model": _with_sweep(study, listing, "model", study.model or (None,)),
        "training": _with_sweep(study, listing, "training", study.training),
        "attack": _with_sweep(study, listing, "attack", study.attack or ["none"]),
    }
    defenses = _with_sweep(study, listing, "defense", study.defense)
    heads = [head for head in _with_sweep(study, listing, "downstream", study.downstream) if head != "none"]
    stamps = _with_sweep(study, listing, "stamp", study.stamp)
    analyses = _with_sweep(study, listing, "analysis", study.analysis)
    ends: list[dict[str, Any]] = [
        {"defense": defense, **{key: None if each == "none" else each for key, each in further.items()}}
        for defense in defenses
        for further in ({"stamp": stamp, "analysis": each} for stamp in stamps for each in analyses)
    ]
    ends += [{"downstream": head, "downstream_dataset": study.downstream_dataset} for head in heads]
    asks_cells = study.attack is not None or not study.population
    count = len(ends) * len(study.seed)
    for values in axes.values():
        count *= len(values)
    if count > MOST:
        raise RequestError(f"{file.name or 'the grid'} asks for {count} cells; {MOST} are the most")
    cells, excluded = [], []
    for *setting, end, seed in itertools.product(*axes.values(), ends if asks_cells else [], study.seed):
        varied = {"vary_target": True} if study.vary_target else {}
        cell = request(**dict(zip(axes, setting, strict=True)), **end, **varied, seed=seed)
        reason = next((each.reason for each in study.exclude if each.covers(cell)), None)
        if reason is None:
            cells.append(cell)
        else:
            excluded.append((cell, reason))
    populations = tuple(_populations(study))
    if not cells and not populations:
        left = f"every one of its {len(excluded)} cells is excluded" if excluded else "it names no cell"
        raise RequestError(f"{file.name or 'the grid'} asks for nothing: {left}")
    return Asked(tuple(cells), populations, tuple(excluded))


def request(**said: Any) -> dict[str, Any]:
    """Return a request as ``gifthorse run`` takes it, with every key, so that the same one is the same answer."""
    return {
        "dataset": "digits",
        "model": None,
        "attack": "none",
        "training": "standard",
        "downstream": None,
        "downstream_dataset": None,
        "stamp": None,
        "analysis": None,
        "profile": "laptop",
        "seed": 0,
        **said,
        "defense": None if said.get("defense") in (None, "none") else said["defense"],
    }


def _populations(study: Study) -> Iterator[PopulationRequest]:
    for each in study.population:
        axes: tuple[Sequence[Any], ...] = (
            study.profile,
            each.dataset or study.dataset,
            each.model or study.model or (None,),
            each.training or study.training,
            each.attack,
            each.defense,
        )
        for profile, dataset, model, training, attack, defense in itertools.product(*axes):
            asked = request(
                profile=profile,
                dataset=dataset,
                model=model,
                training=training,
                attack=attack,
                defense=defense,
                seed=each.seed,
            )
            yield PopulationRequest(asked, each.benign, each.trojaned, each.same_target)


def _with_sweep(study: Study, listing: Listing, kind: Kind, names: Sequence[str | None]) -> list[Any]:
    """Return the requests of a kind, each with every combination of the swept fields that it has."""
    swept = study.sweep.get(kind, {})
    found: dict[Any, None] = {}
    for name in names:
        known = set() if name in (None, "none") else _fields(_find(listing, KINDS[kind], name))
        fields = {field: values for field, values in swept.items() if field in known}
        for values in itertools.product(*fields.values()):
            found[_with_fields(name, dict(zip(fields, values, strict=True)))] = None
    return list(found)


def _with_fields(name: Any, fields: Mapping[str, Any]) -> Any:
    if not fields:
        return name
    added = ",".join(f"{field}={_shown(value)}" for field, value in fields.items())
    head, bracket, rest = name.strip().partition("[")
    return f"{head}[{rest.removesuffix(']')},{added}]" if bracket and rest != "]" else f"{head}[{added}]"


def _shown(value: Any) -> str:
    """Return a value as a bracket string has it: a configuration stays as it is."""
    if isinstance(value, str):
        try:
            split_request(f"x[x={value}]")
        except RequestError:
            return json.dumps(value)
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return json.dumps(value)


def _problems(file: StudyFile, listing: Listing) -> Iterator[str]:
    study = file.study
    named: list[tuple[str, Iterable[str]]] = [
        ("dataset", study.dataset),
        ("model", study.model or ()),
        ("training", study.training),
        ("attack", study.attack or ()),
        ("defense", study.defense),
        ("downstream", study.downstream),
        ("downstream_dataset", [study.downstream_dataset] if study.downstream_dataset else ()),
        ("stamp", study.stamp),
        ("analysis", study.analysis),
    ]
    for each in study.population:
        named += [(kind, getattr(each, kind) or ()) for kind in ("dataset", "model", "training", "attack", "defense")]
    for profile in study.profile:
        if profile not in PROFILES:
            yield f"{file.place('profile', profile)}: no profile is called '{profile}'{_near(profile, PROFILES)}"
    for kind, requests in named:
        for text in dict.fromkeys(requests):
            try:
                if text == "none" and kind in ("attack", "defense", "downstream", "stamp", "analysis"):
                    continue
                about = _find(listing, KINDS[kind], text)
                _, fields = split_request(text)
                unknown = [field for field in fields if field not in _fields(about)]
                if unknown:
                    known = _near(unknown[0], _fields(about), "fields")
                    raise RequestError(f"'{about['name']}' has no field '{unknown[0]}'{known}")
            except RequestError as error:
                yield f"{file.place(kind, text)}: {error}"
    yield from _sweep_problems(file, listing)
    for each in study.population:
        yield from _population_problems(file, each, listing)
    for excluded in study.exclude:
        if not excluded.model_dump(exclude={"reason"}, exclude_none=True):
            yield f"{file.place('exclude', excluded.reason)}: an exclusion says nothing but its reason"


def _sweep_problems(file: StudyFile, listing: Listing) -> Iterator[str]:
    study = file.study
    for kind, fields in study.sweep.items():
        names = [name for name in getattr(study, kind) or () if name not in (None, "none")]
        for field in fields:
            where = file.place(f"sweep.{kind}", field)
            try:
                found = [(name, _find(listing, KINDS[kind], name)) for name in names]
            except RequestError:
                # Said already.
                continue
            having = [name for name, about in found if field in _fields(about)]
            for name in having:
                if field in split_request(name)[1]:
                    yield f"{where}: '{name}' sets '{field}', which is swept as well"
            if not having:
                known = {each for _, about in found for each in _fields(about)}
                whose = f"nothing listed under {kind} has" if found else f"nothing is listed under {kind} that has"
                yield f"{where}: {whose} a field '{field}'{_near(field, known, 'fields')}"


def _population_problems(file: StudyFile, each: PopulationOf, listing: Listing) -> Iterator[str]:
    inspectors = [name for name, about in listing["defenses"].items() if about.get("family") == "inspection"]
    for text in each.defense:
        with_family = _named(listing, "defenses", text)
        if text == "none" or (with_family and with_family.get("family") != "inspection"):
            family = "no defense" if with_family is None else f"of the family {with_family['family']}"
            yield (
                f"{file.place('population', 'defense', text)}: a population needs a defense that inspects models; "
                f"'{text}' is {family}; listed: {', '.join(inspectors)}"
            )
    if "none" in each.attack:
        yield f"{file.place('population', 'attack', 'none')}: a population needs an attack; 'none' plants nothing"


def _find(listing: Listing, kind: str, text: str) -> Mapping[str, Any]:
    """Return what is listed under the name of a request; :class:`RequestError` with the nearest name otherwise."""
    name, _ = split_request(text)
    about = _named(listing, kind, name)
    if about is None:
        one = "analysis" if kind == "analyses" else kind.removesuffix("s")
        raise RequestError(f"no {one} is called '{name}'{_near(name, listing[kind])}")
    return about


def _named(listing: Listing, kind: str, text: str) -> Mapping[str, Any] | None:
    name = _plain(text.partition("[")[0].partition("/")[0].strip())
    for about in listing[kind].values():
        if name in map(_plain, (about["name"], *about.get("aliases", ()))):
            return about
    return None


def _fields(about: Mapping[str, Any]) -> list[str]:
    return [field["name"] for field in about.get("fields", ())]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _near(name: str, known: Iterable[str], what: str = "listed") -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; {what}: {', '.join(names)}" if names else ""


def _problem(file: StudyFile, error: Any) -> str:
    """Return a problem of a file's form as one line."""
    keys = [key for key in error["loc"] if isinstance(key, str)]
    where = ".".join(keys)
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[_Part]] = {"exclude": Exclusion, "population": PopulationOf, "table": Table}
        near = _near(keys[-1], parts.get(keys[0] if len(keys) > 1 else "", Study).model_fields, "keys")
        said = f"there is no key '{where}'{near}"
    else:
        message = error["msg"].removeprefix("Value error, ")
        said = f"'{where}' {message[:1].lower()}{message[1:]}"
    return f"{file.place(*keys)}: {said}"
