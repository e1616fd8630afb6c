"""From records to the data of tables; pure, and the only place where seeds are averaged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from gifthorse.core.metric import METRICS
from gifthorse.core.record import Family, Record
from gifthorse.report.naming import key, labels, name_of

Form = Literal["percent", "points", "fraction", "number", "flag", "class", "seconds", "milliseconds"]
Better = Literal["higher", "lower"]

_UNITS: dict[Form, str] = {"percent": "%", "points": "points", "seconds": "s", "milliseconds": "ms"}
_FACTORS: dict[Form, float] = {"percent": 100, "points": 100, "milliseconds": 1000}
_DECIMALS: dict[Form, int] = {"percent": 1, "points": 1, "fraction": 3, "number": 2, "class": 0}


@dataclass(frozen=True)
class Column:
    """A metric as a table shows it; ``better`` is from the side of the table's subject."""

    metric: str
    short: str
    form: Form
    better: Better | None = None

    @property
    def unit(self) -> str:
        """Return the unit printed below the column's name."""
        return _UNITS.get(self.form, "")

    @property
    def explanation(self) -> str:
        """Return the metric's title and help."""
        if self.metric in _TIMES:
            return _TIMES[self.metric]
        scope, _, name = self.metric.partition(".")
        meaning = f"{METRICS[name].title}: {METRICS[name].help}"
        return f"{meaning}, for the benign model" if scope == "benign" else meaning


_TIMES = {
    "seconds.downstream": "wall time of tuning one model",
    "seconds.defense": "wall time of the defense for one model",
    "seconds.defense_per_input": "wall time for one input, warm, in a batch",
}

ATTACK_COLUMNS = (
    Column("attack.acc", "Accuracy", "percent", "higher"),
    Column("attack.cad", "CAD", "points", "lower"),
    Column("attack.asr", "ASR", "percent", "higher"),
    Column("attack.tmc", "TMC", "percent", "higher"),
    Column("attack.ccc", "CCC", "percent", "higher"),
    Column("benign.asr", "Benign ASR", "percent"),
    Column("attack.valid", "Took", "flag"),
)
_REPAIR_COLUMNS = (
    Column("defense.acc", "Accuracy", "percent", "higher"),
    Column("defense.cad", "CAD", "points", "lower"),
    Column("defense.asr", "ASR", "percent", "lower"),
    Column("defense.ard", "ARD", "points", "higher"),
)
FAMILY_COLUMNS: dict[Family, tuple[Column, ...]] = {
    "reformation": (*_REPAIR_COLUMNS, Column("seconds.defense_per_input", "Per input", "milliseconds")),
    "filtering": (
        Column("defense.tpr", "TPR", "percent", "higher"),
        Column("defense.fpr", "FPR", "percent", "lower"),
        Column("defense.auroc", "AUROC", "fraction", "higher"),
        Column("defense.f1", "F1", "fraction", "higher"),
        Column("seconds.defense_per_input", "Per input", "milliseconds"),
    ),
    "sanitization": (*_REPAIR_COLUMNS, Column("seconds.defense", "Time", "seconds")),
    "inspection": (
        Column("defense.index", "Index", "number"),
        Column("defense.aiv_log", "Log index", "number"),
        Column("defense.aiv_ratio", "Ratio", "number"),
        Column("defense.flagged", "Flagged", "flag"),
        Column("defense.suspect_class", "Suspect", "class"),
        Column("defense.hit", "Hit", "flag"),
        Column("defense.mln", "MLN", "number"),
        Column("defense.mjs", "MJS", "fraction", "higher"),
        Column("defense.recovered_asr", "Trigger ASR", "percent", "higher"),
        Column("seconds.defense", "Time", "seconds"),
    ),
}
DOWNSTREAM_COLUMNS = (
    Column("downstream.acc", "Accuracy", "percent", "higher"),
    Column("downstream.cad", "CAD", "points", "lower"),
    Column("attack.asr", "ASR before", "percent", "higher"),
    Column("downstream.asr", "ASR", "percent", "higher"),
    Column("downstream.tmc", "TMC", "percent", "higher"),
    Column("downstream.benign_asr", "Benign ASR", "percent"),
    Column("seconds.downstream", "Time", "seconds"),
)


@dataclass(frozen=True)
class Value:
    """A number ready to print, with where it came from: ``raw`` is the exact mean over ``records``."""

    metric: str
    text: str
    spread: str
    raw: str
    records: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """Why there is no number: a status and a sentence."""

    status: str
    text: str = ""


@dataclass(frozen=True)
class Row:
    """One configuration: its numbers (none where nothing finished), and a note per cell without numbers."""

    label: str
    records: tuple[str, ...]
    seeds: int
    values: tuple[Value | None, ...]
    notes: tuple[Note, ...]
    doubt: str

    @property
    def lines(self) -> int:
        """Return how many lines of the table the row takes."""
        return bool(self.values) + len(self.notes)


@dataclass(frozen=True)
class Block:
    """The rows of one attack, one per defense or per downstream user."""

    attack: str
    doubt: str
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """Return how many lines of the table the block takes."""
        return sum(row.lines for row in self.rows)


@dataclass(frozen=True)
class FamilyTable:
    """Every attack of a group against every defense of one family."""

    family: Family
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class DownstreamTable:
    """Every attack of a group under every head and tuning that downstream users gave it."""

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Group:
    """The tables of everything that shares a data set, model, training recipe, profile and version."""

    dataset: str
    model: str
    training: str
    profile: str
    version: str
    attacks: tuple[Row, ...]
    families: tuple[FamilyTable, ...]
    downstream: DownstreamTable | None
    records: tuple[Record, ...]


def group(records: Sequence[Record]) -> list[Group]:
    """Return the tables, a group for each data set, model, training recipe, profile and version."""
    datasets = labels(record.dataset for record in records)
    models = labels(record.model for record in records)
    trainings = labels(record.training for record in records)
    return [
        Group(
            dataset=datasets[key(members[0].dataset)],
            model=models[key(members[0].model)],
            training=trainings[key(members[0].training)],
            profile=members[0].profile,
            version=members[0].environment.gifthorse,
            attacks=_attack_rows(members),
            families=_family_tables(members),
            downstream=_downstream_table(members),
            records=tuple(members),
        )
        for members in _partition(records, _setting).values()
    ]


def downstream_labels(records: Iterable[Record]) -> dict[str, str]:
    """Return a label by record id of what each downstream user did: head, tuning, and images where they are others.

    The images of a record are others' where they are not those that its network was trained on.
    """
    tuned = [(record, record.downstream) for record in records if record.downstream is not None]
    datasets = labels(each.dataset for record, each in tuned if each.dataset != record.dataset)
    stages = {}
    for record, each in tuned:
        other = {"dataset": datasets[key(each.dataset)]} if each.dataset != record.dataset else {}
        stages[record.id] = {**each.head, **other}
    names = labels(stages.values(), always=("tuning", "dataset"))
    return {identity: names[key(stage)] for identity, stage in stages.items()}


def measure(record: Record, metric: str) -> float | None:
    """Return a scalar metric, or a time (``seconds.…``), as a float; ``None`` where it does not apply."""
    scope, _, name = metric.partition(".")
    value = getattr(record.seconds, name) if scope == "seconds" else record.metrics.get(metric)
    return float(value) if isinstance(value, (int, float)) else None


def aggregate(column: Column, records: Iterable[Record]) -> Value | None:
    """Return the mean over the records that have the metric, with the range where they are several.

    A share of flags reads "2 of 3"; distinct classes are listed, since their mean means nothing.
    """
    found = [(record.id, value) for record in records if (value := measure(record, column.metric)) is not None]
    if not found:
        return None
    values = [value for _, value in found]
    several = len(values) > 1
    text, spread, raw = format_value(fmean(values), column.form), "", repr(fmean(values))
    if column.form == "flag" and several:
        text = f"{sum(value != 0 for value in values)} of {len(values)}"
    elif column.form == "class" and several:
        text, raw = (
            ", ".join(dict.fromkeys(f"{value:g}" for value in sorted(values))),
            " ".join(repr(value) for value in values),
        )
    elif several:
        low, high = (format_value(end(values), column.form) for end in (min, max))
        spread = f"{low} to {high}" if low.startswith("−") else f"{low}–{high}"
    return Value(column.metric, text, spread, raw, tuple(identity for identity, _ in found))


def format_value(value: float, form: Form) -> str:
    """Return a number as tables print it, without its unit.

    >>> format_value(0.9876, "percent"), format_value(-0.0001, "points"), format_value(-0.02, "points")
    ('98.8', '0.0', '−2.0')
    """
    if form == "flag":
        return "yes" if value else "no"
    scaled = value * _FACTORS.get(form, 1)
    decimals = _DECIMALS.get(form, max(0, 3 - len(str(int(scaled)))))
    text = f"{scaled:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _setting(record: Record) -> str:
    parts = (record.dataset, record.model, record.training, {"": record.profile}, {"": record.environment.gifthorse})
    return "\n".join(key(part) for part in parts)


def _attack_rows(members: Sequence[Record]) -> tuple[Row, ...]:
    names = labels(record.attack for record in members)
    return tuple(_attack_row(names[identity], found) for identity, found in _by_attack(members).items())


def _attack_row(label: str, records: Sequence[Record]) -> Row:
    """Take an attack's numbers from one cell per seed: every defense and downstream user meets the same trojan."""
    measured = [record for record in records if measure(record, "attack.acc") is not None]
    measured.sort(key=lambda record: record.downstream is not None)
    once = [found[0] for found in _partition(measured, lambda record: record.seed).values()]
    seeds = {record.seed for record in once}
    notes = {
        (record.seed, record.status, record.reason): _note(record) for record in records if record.seed not in seeds
    }
    return _row(label, ATTACK_COLUMNS, once, tuple(notes.values()))


def _family_tables(members: Sequence[Record]) -> tuple[FamilyTable, ...]:
    defended = [(record.defense, record.family) for record in members if record.defense is not None]
    families = {key(defense): family for defense, family in defended}
    names = labels(defense for defense, _ in defended)
    attacks = _by_attack(members)
    attack_names = labels(record.attack for record in members)
    tables = []
    for family, columns in FAMILY_COLUMNS.items():
        listed = [defense for defense, its_family in families.items() if its_family == family]
        blocks = [
            Block(
                attack=attack_names[attack],
                doubt=_attack_row("", found).doubt,
                rows=tuple(_defense_row(names[defense], columns, found, defense) for defense in listed),
            )
            for attack, found in attacks.items()
        ]
        if listed:
            tables.append(FamilyTable(family, columns, tuple(blocks)))
    return tuple(tables)


def _downstream_table(members: Sequence[Record]) -> DownstreamTable | None:
    names = downstream_labels(members)
    if not names:
        return None
    attack_names = labels(record.attack for record in members)
    blocks = []
    for attack, found in _by_attack(members).items():
        by_label = _partition((record for record in found if record.id in names), lambda record: names[record.id])
        rows = tuple(
            _result_row(label, DOWNSTREAM_COLUMNS, by_label.get(label, [])) for label in dict.fromkeys(names.values())
        )
        blocks.append(Block(attack=attack_names[attack], doubt=_attack_row("", found).doubt, rows=rows))
    return DownstreamTable(DOWNSTREAM_COLUMNS, tuple(blocks))


def _defense_row(label: str, columns: Sequence[Column], records: Sequence[Record], defense: str) -> Row:
    return _result_row(label, columns, [record for record in records if key(record.defense) == defense])


def _result_row(label: str, columns: Sequence[Column], members: Sequence[Record]) -> Row:
    done = [record for record in members if record.status == "done"]
    notes = tuple(_note(record) for record in members if record.status != "done")
    return _row(label, columns, done, notes or (() if members else (Note("not run"),)), members)


def _row(
    label: str,
    columns: Sequence[Column],
    measured: Sequence[Record],
    notes: tuple[Note, ...],
    members: Sequence[Record] = (),
) -> Row:
    return Row(
        label=label,
        records=tuple(record.id for record in members or measured),
        seeds=len(measured),
        values=tuple(aggregate(column, measured) for column in columns) if measured else (),
        notes=notes,
        doubt=_doubt(measured),
    )


def _doubt(records: Sequence[Record]) -> str:
    flags = [flag for record in records if (flag := measure(record, "attack.valid")) is not None]
    if all(flags):
        return ""
    return "did not take" if not any(flags) else f"took in {sum(map(bool, flags))} of {len(flags)} seeds"


def _note(record: Record) -> Note:
    return Note(record.status, f"seed {record.seed}: {record.reason or 'no reason was recorded'}")


def _by_attack(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by attack, the benign model first: it is what the others are read against."""
    found = _partition(records, lambda record: key(record.attack))
    return dict(sorted(found.items(), key=lambda item: name_of(item[1][0].attack) != "none"))


def _partition(records: Iterable[Record], by: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    parts: dict[Any, list[Record]] = {}
    for record in records:
        parts.setdefault(by(record), []).append(record)
    return parts
