"""From records to the data of tables; pure, and the only place where seeds are averaged."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

from gifthorse.core.family import ATTACK, DOWNSTREAM, FAMILIES, STAMP, Family, Table
from gifthorse.core.metric import CLASS, FLAG, METRICS, Metric, Unit
from gifthorse.core.record import Population, Record
from gifthorse.report.evidence import true_targets
from gifthorse.report.naming import attack_labels, class_label, key, labels, name_of
from gifthorse.report.proposals import proposed_attack, proposed_stamp
from gifthorse.report.settings import Settings

K = TypeVar("K")

_ANALYSIS = "analysis_"
"""What the names of the tables of analyses begin with."""

DID_NOT_TAKE, NOT_RUN = "did not take", "not run"
LISTED_TARGETS = 3
"""Most targets that a row lists; more are counted."""


@dataclass(frozen=True)
class Value:
    """A number ready to print, with where it came from: ``raw`` is the exact mean over ``records``.

    ``n`` is the number of images that each record's is of, or its range; nothing where they are not counted.
    """

    metric: str
    text: str
    spread: str
    raw: str
    records: tuple[str, ...]
    n: str = ""


@dataclass(frozen=True)
class Note:
    """Why there is no number: how the cell ended, its reason, seed and id, where there is a cell."""

    status: str
    reason: str = ""
    seed: int | None = None
    record: str = ""

    @property
    def text(self) -> str:
        """Return the reason, and the seed where it is about one."""
        return self.reason if self.seed is None else f"seed {self.seed}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """One configuration: its numbers (none where nothing finished), and a note per cell without numbers.

    ``records`` are all of its cells, those with numbers first, ``statuses`` how these ended. ``doubt`` says that the
    attack did not take, ``reasons`` why, seed by seed; ``targets`` names the classes that stamped images should get;
    ``proposal`` says that its attack, or how the trigger was shown, was never run by its paper.
    """

    label: str
    records: tuple[str, ...]
    statuses: tuple[str, ...]
    seeds: int
    values: tuple[Value | None, ...]
    notes: tuple[Note, ...]
    doubt: str
    reasons: tuple[str, ...]
    targets: str
    proposal: str

    @property
    def lines(self) -> int:
        """Return how many lines of the table the row takes."""
        return bool(self.values) + len(self.notes)


@dataclass(frozen=True)
class Block:
    """The rows of one attack, one per defense, downstream user or variation of the trigger."""

    attack: str
    doubt: str
    proposal: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ResultTable:
    """Every attack of a group against every defense of one family, downstream tuning, or variation of the trigger.

    ``without_baseline`` are the attacks that some defense of the family met, and the one it is read against did not.
    """

    about: Table
    columns: tuple[Metric, ...]
    blocks: tuple[Block, ...]
    without_baseline: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """The tables of everything that shares a data set and its images, model, training recipe, profile and version.

    ``apart`` are those of the ``records`` that are in no table: trojans that were trained for a population alone, each
    with a target of its own.
    """

    dataset: str
    class_names: tuple[str, ...]
    model: str
    training: str
    profile: str
    version: str
    attacks: tuple[Row, ...]
    attack_columns: tuple[Metric, ...]
    tables: tuple[ResultTable, ...]
    records: tuple[Record, ...]
    apart: tuple[Record, ...]
    populations: tuple[Population, ...]


def group(records: Sequence[Record], populations: Sequence[Population] = ()) -> list[Group]:
    """Return the tables, a group for each data set and its images, model, training recipe, profile and version.

    A population stands with its models, or alone where none of them is among the records.
    """
    by_id = {record.id: record for record in records}
    judged = [(each, _stand_in(each, by_id)) for each in populations]
    stand_ins = {id(stand_in): population for population, stand_in in judged}
    documents = [*records, *(stand_in for _, stand_in in judged)]
    settings, parts = Settings(documents), ("dataset", "model", "training", "profile", "version")
    groups = partition(documents, lambda document: tuple(settings.key(document, part) for part in parts))
    return [
        _group(
            {part: settings.label(members[0], part) for part in parts},
            [member for member in members if id(member) not in stand_ins],
            [stand_ins[id(member)] for member in members if id(member) in stand_ins],
        )
        for members in groups.values()
    ]


def _group(about: Mapping[str, str], records: Sequence[Record], populations: Sequence[Population]) -> Group:
    names, apart = attack_labels(records), _apart(records, populations)
    tabled = [record for record in records if record.id not in apart]
    return Group(
        **about,
        class_names=next((tuple(record.class_names) for record in records if record.class_names), ()),
        attacks=_attack_rows(tabled, names),
        attack_columns=columns_of(ATTACK, tabled),
        tables=tuple(_tables(tabled, names)),
        records=tuple(records),
        apart=tuple(record for record in records if record.id in apart),
        populations=tuple(populations),
    )


def _stand_in(population: Population, records: Mapping[str, Record]) -> Record:
    """Return a record with the settings of a population; its images are those of its models."""
    digests = (records[model].data_digest for model in models_of(population) if model in records)
    parts = ("dataset", "model", "training", "profile", "attack", "defense", "environment")
    shared = {part: getattr(population, part) for part in parts}
    return Record.model_construct(data_digest=next(digests, None), **shared)


def downstream_labels(records: Iterable[Record]) -> dict[str, str]:
    """Return a label by record id of what each downstream user did: head, tuning, and images where they are others.

    The images of a record are others' where they are not those that its network was trained on.
    """
    tuned = [record for record in records if record.downstream is not None]
    settings = Settings(tuned)
    return {record.id: settings.label(record, "downstream") for record in tuned}


def stamp_labels(records: Sequence[Record]) -> dict[str, str]:
    """Return a label by record id of how the trigger was shown, where that is not as it was planted."""
    stamps = labels(record.stamp for record in records if record.stamp is not None)
    return {record.id: stamps[key(record.stamp)] for record in records if record.stamp is not None}


def analysis_labels(records: Sequence[Record]) -> dict[str, str]:
    """Return a label by record id of what looked inside of the model, where something did."""
    analyses = labels(record.analysis for record in records if record.analysis is not None)
    return {record.id: analyses[key(record.analysis)] for record in records if record.analysis is not None}


def columns_of(table: Table, records: Sequence[Record]) -> tuple[Metric, ...]:
    """Return the metrics of a table; those of the attack, where something followed it, as what was before."""
    missing = {name for name in table.optional if all(name not in record.metrics for record in records)}
    # One declaration may stand for many names.
    found = (replace(METRICS.find(name), name=name) for name in table.columns if name not in missing)
    return tuple(
        replace(each, short=f"{each.heading} before") if each.scope == "attack" and table is not ATTACK else each
        for each in found
    )


def measure(record: Record, metric: str) -> float | None:
    """Return a scalar metric, or a time (``seconds.…``), as a float; ``None`` where it does not apply."""
    scope, _, stage = metric.partition(".")
    value = record.seconds.get(stage) if scope == "seconds" else record.metrics.get(metric)
    return float(value) if isinstance(value, (int, float)) else None


def aggregate(metric: Metric, records: Iterable[Record]) -> Value | None:
    """Return the mean over the records that have the metric, with the range where they are several.

    See :func:`averaged`.
    """
    found = [(record, value) for record in records if (value := measure(record, metric.name)) is not None]
    if not found:
        return None
    values, as_text = [value for _, value in found], metric.unit.text
    text, spread, raw = averaged(metric.unit, values), "", repr(fmean(values))
    if metric.unit == CLASS:
        classes = {int(value): class_label(int(value), record.class_names) for record, value in found}
        text, raw = ", ".join(classes[each] for each in sorted(classes)), " ".join(map(repr, values))
    elif len(values) > 1 and metric.unit != FLAG:
        low, high = as_text(min(values)), as_text(max(values))
        spread = f"{low} to {high}" if low.startswith("−") else f"{low}–{high}"
    origins = tuple(record.id for record, _ in found)
    return Value(
        metric.name,
        text,
        spread,
        raw,
        origins,
        samples(metric.name, *(record for record, _ in found)),
    )


def samples(metric: str, *records: Record) -> str:
    """Return of how many samples a metric is in each record, or the range of that; nothing where it is not counted."""
    counts = [count for record in records if isinstance(count := record.counts.get(metric), int)]
    ends = dict.fromkeys(map(str, (min(counts), max(counts)) if counts else ()))
    return "–".join(ends)


def averaged(unit: Unit, values: Sequence[float]) -> str:
    """Return what stands for several values: their mean, "2 of 3" of flags, and all classes, which have no mean."""
    if len(values) > 1 and unit == FLAG:
        return f"{sum(value != 0 for value in values)} of {len(values)}"
    if len(values) > 1 and unit == CLASS:
        return ", ".join(map(unit.text, sorted(set(values))))
    return unit.text(fmean(values))


def targets_of(records: Iterable[Record]) -> str:
    """Return the classes that stamped images of these records should get; nothing where none names any."""
    classes = {}
    for record in records:
        for target in true_targets(record):
            classes[target] = class_label(target, record.class_names)
    if len(classes) > LISTED_TARGETS:
        return f"{len(classes)} targets"
    listed = ", ".join(classes[each] for each in sorted(classes))
    return f"target{'s' if len(classes) > 1 else ''} {listed}" if classes else ""


def models_of(population: Population) -> list[str]:
    """Return the ids of a population's cells, those that were left out among them."""
    members = [member.id for member in (*population.benign, *population.trojaned)]
    return members + [left.id for left in population.left_out]


def statuses_of(record: Record) -> tuple[str, ...]:
    """Return how a cell ended, and that its attack did not take where it did not."""
    return (record.status, DID_NOT_TAKE) if measure(record, "attack.valid") == 0 else (record.status,)


def _apart(records: Sequence[Record], populations: Sequence[Population]) -> set[str]:
    """Return the ids of trojans of populations that vary the target, where nothing else met the same attack.

    Where nothing is left but benign models of populations, these as well: a table of them would say nothing.
    """
    members = {model for each in populations for model in models_of(each)}
    varied = {model for each in populations if each.varied_target for model in models_of(each)}
    apart, left = set(), []
    for found in _by_attack(records).values():
        if name_of(found[0].attack) != "none" and all(record.id in varied for record in found):
            apart |= {record.id for record in found}
        else:
            left += found
    if apart and all(record.id in members and name_of(record.attack) == "none" for record in left):
        return {record.id for record in records}
    return apart


def _attack_rows(members: Sequence[Record], names: Mapping[str, str]) -> tuple[Row, ...]:
    columns = columns_of(ATTACK, members)
    return tuple(_attack_row(names[identity], columns, found) for identity, found in _by_attack(members).items())


def _attack_row(label: str, columns: Sequence[Metric], records: Sequence[Record]) -> Row:
    """Take an attack's numbers from one cell per seed: every defense and downstream user meets the same trojan."""
    records, other = of_the_same_files(records)
    measured = [record for record in records if measure(record, "attack.acc") is not None]
    measured.sort(key=lambda record: record.downstream is not None)
    once = [found[0] for found in partition(measured, lambda record: record.seed).values()]
    seeds = {record.seed for record in once}
    notes = {
        (record.seed, record.status, record.reason): _note(record) for record in records if record.seed not in seeds
    }
    said = (*notes.values(), *(Note("left out", text) for text in other))
    return _row(label, columns, once, said, records, proposed_attack)


def _tables(members: Sequence[Record], attack_names: Mapping[str, str]) -> Iterator[ResultTable]:
    """Yield the tables of the families, in the order of their declaration, downstream users, stamps and analyses."""
    defenses = labels(record.defense for record in members if record.defense is not None)
    rows = {record.id: defenses[key(record.defense)] for record in members if record.defense is not None}
    rows |= downstream_labels(members)
    for record, stamp in stamp_labels(members).items():
        rows[record] = f"{rows[record]}, {stamp}" if record in rows else stamp
    for record, analysis in analysis_labels(members).items():
        rows[record] = f"{analysis}, {rows[record]}" if record in rows else analysis
    attacks = _by_attack(members)
    parts = partition((record for record in members if record.id in rows), _table_of)
    for about in [*FAMILIES.values(), *_undeclared(parts), DOWNSTREAM, STAMP, *_analyses(parts)]:
        shown = {record.id: rows[record.id] for record in parts.get(about.name, [])}
        columns = columns_of(about, members)
        if shown:
            baseline = about.baseline if isinstance(about, Family) else ""
            listed = sorted(dict.fromkeys(shown.values()), key=lambda label: not _is(label, baseline))
            blocks = [
                Block(
                    attack=attack_names[attack],
                    doubt=_attack_row("", (), found).doubt,
                    proposal=_said_first(proposed_attack, found),
                    rows=tuple(
                        _result_row(label, columns, [record for record in found if shown.get(record.id) == label])
                        for label in listed
                    ),
                )
                for attack, found in attacks.items()
            ]
            without = (block.attack for block in blocks if baseline and _lacks(block, baseline))
            yield ResultTable(about, columns, tuple(blocks), tuple(without))


def _is(label: str, defense: str) -> bool:
    """Tell whether a row of a table is of a defense, whatever its settings and however the trigger was shown."""
    return label.partition("[")[0].partition(",")[0] == defense


def _lacks(block: Block, baseline: str) -> bool:
    """Tell whether a block has numbers, but none of the baseline."""
    measured = [row.label for row in block.rows if row.values]
    return bool(measured) and not any(_is(label, baseline) for label in measured)


def _table_of(record: Record) -> str:
    """Return the name of the table that has a record of what followed a trojan."""
    if record.analysis is not None:
        return _ANALYSIS + name_of(record.analysis)
    return record.family or (STAMP if record.downstream is None else DOWNSTREAM).name


def _analyses(parts: Mapping[str, Sequence[Record]]) -> Iterator[Table]:
    """Yield a table for each analysis, with every number that it gave."""
    for name, records in parts.items():
        if name.startswith(_ANALYSIS):
            given = {metric for record in records for metric in record.metrics if measure(record, metric) is not None}
            columns = tuple(metric for metric in (*METRICS, *sorted(given - METRICS.keys())) if metric in given)
            about = "What was seen inside of the models; nothing is judged by it."
            shown = tuple(each for each in columns if each.startswith("analysis."))
            yield Table(name, f"Analysis: {name.removeprefix(_ANALYSIS)}", about, shown, "Analysis")


def _undeclared(parts: Mapping[str, Sequence[Record]]) -> Iterator[Family]:
    """Yield families that this program does not know, with whatever numbers the defenses were judged by."""
    for name, records in parts.items():
        if name not in (*FAMILIES, DOWNSTREAM.name, STAMP.name) and not name.startswith(_ANALYSIS):
            metrics = (metric for record in records for metric in record.metrics if measure(record, metric) is not None)
            yield Family(name, name, "", tuple(dict.fromkeys(each for each in metrics if each.startswith("defense."))))


def _result_row(label: str, columns: Sequence[Metric], members: Sequence[Record]) -> Row:
    members, other = of_the_same_files(members)
    done = [record for record in members if record.status == "done"]
    notes = tuple(_note(record) for record in members if record.status != "done")
    notes += tuple(Note("left out", text) for text in other)
    return _row(label, columns, done, notes or (() if members else (Note(NOT_RUN),)), members, proposed_stamp)


def _row(
    label: str,
    columns: Sequence[Metric],
    measured: Sequence[Record],
    notes: tuple[Note, ...],
    members: Sequence[Record],
    proposed: Callable[[Record], str | None],
) -> Row:
    ended = (status for record in members for status in statuses_of(record))
    return Row(
        label=label,
        records=tuple(dict.fromkeys(record.id for record in (*measured, *members))),
        statuses=tuple(dict.fromkeys(ended)) or (NOT_RUN,),
        seeds=len(measured),
        values=tuple(aggregate(column, measured) for column in columns) if measured else (),
        notes=notes,
        doubt=doubt(measured),
        reasons=tuple(f"seed {record.seed}: {'; '.join(record.doubts)}" for record in measured if record.doubts),
        targets=targets_of(measured),
        proposal=_said_first(proposed, members),
    )


def _said_first(proposed: Callable[[Record], str | None], records: Iterable[Record]) -> str:
    return next(filter(None, map(proposed, records)), "")


def of_the_same_files(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Leave out what was computed of other contents of the same files than the newest; and say so.

    The files are those that the requests name, and the plugins. The records are in the order in which they were made.
    """
    records = sorted(records, key=lambda record: record.created)
    files = [{**record.file_digests, **record.plugins} for record in records]
    newest = {path: digest for each in files for path, digest in each.items()}
    same = [record for record, each in zip(records, files, strict=True) if each.items() <= newest.items()]
    changed = sorted({path for each in files for path, digest in each.items() if newest[path] != digest})
    said = f"{len(records) - len(same)} records of other contents of {', '.join(changed)} are left out"
    return same, [said] if changed else []


def doubt(records: Iterable[Record]) -> str:
    """Return that an attack did not take, or in how many seeds; nothing where it took, or nothing was planted."""
    flags = [flag for record in records if (flag := measure(record, "attack.valid")) is not None]
    if all(flags):
        return ""
    return DID_NOT_TAKE if not any(flags) else f"took in {sum(map(bool, flags))} of {len(flags)} seeds"


def _note(record: Record) -> Note:
    return Note(record.status, record.reason or "no reason was recorded", record.seed, record.id)


def _by_attack(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by attack, the benign model first: it is what the others are read against."""
    found = partition(records, lambda record: key(record.attack))
    return dict(sorted(found.items(), key=lambda item: name_of(item[1][0].attack) != "none"))


def partition(records: Iterable[Record], by: Callable[[Record], K]) -> dict[K, list[Record]]:
    """Return the records by what they have in common, in the order in which that first occurs."""
    parts: dict[K, list[Record]] = {}
    for record in records:
        parts.setdefault(by(record), []).append(record)
    return parts
