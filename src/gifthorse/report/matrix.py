"""A matrix of results: rows × columns × metrics of one's choice, in the mean over seeds and over nothing else.

What has no number says why: it was not run, was skipped, failed, or the metric does not apply.
"""

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, mode, stdev
from textwrap import shorten
from typing import Any, NamedTuple

from gifthorse.core.columns import has_column, unknown_column
from gifthorse.core.errors import RequestError, suggestion
from gifthorse.core.family import ATTACK, DOWNSTREAM, FAMILIES, STAMP, Table
from gifthorse.core.metric import CLASS, FLAG, METRICS, Metric
from gifthorse.core.record import Record
from gifthorse.report.intervals import mean_interval
from gifthorse.report.settings import FOLLOWING, PARTS, Axis, Settings, identity
from gifthorse.report.sheet import Entry, Head, Line, Sheet
from gifthorse.report.tables import averaged, doubt, measure, of_the_same_files, partition

METRIC = "metric"
"""What a table has for columns that has nothing but metrics there."""

_BEFORE = ("seconds.benign", "seconds.twin", "seconds.attack_prepared", "seconds.attack", "seconds.judgement")
_FIRST = ("none", *FOLLOWING.values())
"""The labels of what others are compared with."""
_REASON = 200
"""The most letters of a reason that a note repeats."""


def follows(metric: Metric) -> str | None:
    """Return the part that a metric is of, as ``defense`` or ``stamp``; ``None`` where it is of the trojan itself."""
    if metric.scope in ("benign", "attack") or metric.name in _BEFORE:
        return None
    if metric.scope in ("stamp", "analysis"):
        return metric.scope
    return "downstream" if metric.scope == "downstream" or metric.name == "seconds.downstream" else "defense"


def find_metric(word: str, records: Sequence[Record]) -> Metric:
    """Return the metric that a word means, among those declared and those that the records have.

    :class:`RequestError` where it means several, or none.
    """
    name = word.removeprefix("metrics.")
    found = METRICS.called(name)
    if len(found) > 1:
        raise RequestError(f"'{word}' may be {', '.join(each.name for each in found)}: say which")
    metric = found[0] if found else METRICS.find(name)
    if any(measure(record, metric.name) is not None for record in records):
        return metric
    occurring = {each for record in records for each in _measured(record)}
    if found:
        raise RequestError(
            f"none of the {len(records)} records has {metric.name}; they have: {', '.join(sorted(occurring))}"
        )
    near = suggestion(name, METRICS.keys() | occurring, "metrics", most=3)
    meant = near if "?" in near else suggestion("", occurring, "they have")
    raise RequestError(f"no record has a metric '{word}'{meant}")


def _measured(record: Record) -> Iterable[str]:
    names = [*record.metrics, *(f"seconds.{stage}" for stage in record.seconds)]
    return (name for name in names if measure(record, name) is not None)


@dataclass(frozen=True)
class Sample:
    """What there is of one metric in one place of a table: a value per seed, and what has to be said of them.

    ``status`` is ``done`` where a cell finished, else ``failed``, ``skipped`` or ``not run``.
    """

    metric: Metric
    values: Mapping[int, float]
    records: tuple[str, ...]
    status: str
    notes: tuple[str, ...]

    def gain(self, base: "Sample | None") -> float | None:
        """Return by what share of ``base``'s mean this one is larger; ``None`` where there is nothing to compare."""
        if base is None or not self.values or not base.values or self.metric.unit in (FLAG, CLASS):
            return None
        before = fmean(base.values.values())
        return fmean(self.values.values()) / before - 1 if before > 0 else None

    def text(self, usual: int, *, interval: bool) -> str:
        """Return mean and spread, with n where it is not the usual one; the status where there is no number."""
        values, unit = list(self.values.values()), self.metric.unit
        if not values:
            return self.status if self.status in ("failed", "skipped") else "–"
        said = averaged(unit, values)
        if len(values) > 1 and unit not in (FLAG, CLASS):
            ends = mean_interval(values) if interval else None
            said += f" [{', '.join(map(unit.text, ends))}]" if ends else f" ± {unit.text(stdev(values))}"
        return said if len(values) == usual else f"{said} (n = {len(values)})"

    def numbers(self) -> dict[str, Any]:
        """Return the exact numbers, JSON-ready; flags have a share and no spread, classes have neither."""
        values, unit = list(self.values.values()), self.metric.unit
        spread = len(values) > 1 and unit not in (FLAG, CLASS)
        low, high = (mean_interval(values) if spread else None) or (None, None)
        return {
            "metric": self.metric.name,
            "status": self.status,
            "n": len(values),
            "mean": fmean(values) if values and unit != CLASS else None,
            "std": stdev(values) if spread else None,
            "low": low,
            "high": high,
            "seeds": list(self.values),
            "values": values,
            "records": list(self.records),
            "notes": list(self.notes),
        }


def sample(metric: Metric, records: Sequence[Record]) -> Sample:
    """Return a metric's values, one per seed: of several records of a seed, that of the newest that has one."""
    records, notes = of_the_same_files(records)
    taken: dict[int, Record] = {}
    missing: list[Record] = []
    for seed, found in sorted(partition(records, lambda record: record.seed).items()):
        having = [record for record in found if measure(record, metric.name) is not None]
        if len({measure(record, metric.name) for record in having}) > 1:
            notes.append(f"seed {seed} was measured {len(having)} times, with other results; the last one is shown")
        if having:
            taken[seed] = having[-1]
        # Other defenses that fail say nothing of the trojan that they had.
        if not having or (follows(metric) and found[-1] is not having[-1]):
            missing.append(found[-1])
    for status, reason in dict.fromkeys((record.status, record.reason) for record in missing):
        seeds = [record.seed for record in missing if (record.status, record.reason) == (status, reason)]
        notes.append(_absence(metric, status, reason, seeds if len(seeds) < len(missing) or taken else []))
    notes += _doubts(list(taken.values()))
    statuses = {record.status for record in records}
    return Sample(
        metric=metric,
        values={seed: measure(record, metric.name) or 0.0 for seed, record in taken.items()},
        records=tuple(record.id for record in (taken.values() if taken else missing)),
        status=next((each for each in ("done", "failed", "skipped") if each in statuses), "not run"),
        notes=tuple(notes) if records else ("not run",),
    )


def _absence(metric: Metric, status: str, reason: str | None, seeds: Sequence[int]) -> str:
    which = f" ({_seeds(seeds)})" if seeds else ""
    if status == "done":
        return f"{metric.name} does not apply{which}"
    return f"{status}{which}: {shorten(reason or 'no reason was recorded', _REASON, placeholder=' …')}"


def _doubts(records: Sequence[Record]) -> list[str]:
    """Return that an attack did not take, or in which seeds, and why."""
    said = doubt(records)
    if not said:
        return []
    doubted = partition((each for each in records if each.doubts), lambda record: "; ".join(record.doubts))
    reasons = [f"{_seeds([record.seed for record in found])}: {reason}" for reason, found in doubted.items()]
    return [f"the attack {said}{' – ' if reasons else ''}{'; '.join(reasons)}"]


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


@dataclass(frozen=True)
class Slot:
    """What rows or columns are told apart by: a part of the settings, or the field that is an axis."""

    part: str
    axis: Axis | None = None

    @property
    def heading(self) -> str:
        """Return what it is called."""
        return self.part if self.axis is None else self.axis.column

    def named(self, record: Record, settings: Settings, *, bare: bool = False) -> "Name":
        """Return what a record has in it; ``bare``: as if nothing followed the trojan."""
        if bare and self.part in FOLLOWING:
            return Name("", "–" if self.axis else FOLLOWING[self.part], (0, 0.0))
        if self.axis is None:
            label = settings.label(record, self.part)
            family = next((place for place, name in enumerate(FAMILIES) if name == record.family), len(FAMILIES))
            ordered = self.part == "defense" and label not in _FIRST
            return Name(settings.key(record, self.part), label, (int(label not in _FIRST), float(family * ordered)))
        value = self.axis.value(record)
        if value is None:
            return Name("", "–", (0, 0.0))
        number = float(value) if isinstance(value, (int, float)) else None
        label = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return Name(json.dumps(value), label, (2, 0.0) if number is None else (1, number))


class Name(NamedTuple):
    """What a record has in a slot: equal keys for what is equal, its label, and where it stands among others."""

    key: str
    label: str
    place: tuple[int, float]


Names = tuple[Name, ...]
"""A row, or a column: what it has in each slot."""

Layout = tuple[list[Slot], list[Slot]]
"""The slots of the rows and those of the columns."""


def slots(rows: Axis | None, columns: Axis | None, parts: Iterable[str]) -> Layout:
    """Return what rows and columns are told apart by, the axis last.

    The other fields of a part stand beside the one that is an axis; parts that are on no axis tell rows apart.
    """
    beside: tuple[list[Slot], list[Slot]] = [], []
    for part in parts:
        whole = [place for place, axis in enumerate((rows, columns)) if axis and axis.part == part and axis.whole]
        some = [place for place, axis in enumerate((rows, columns)) if axis and axis.part == part]
        if not whole:
            beside[some[0] if some else 0].append(Slot(part))
    ends = [[Slot(axis.part, None if axis.whole else axis)] if axis else [] for axis in (rows, columns)]
    return beside[0] + ends[0], beside[1] + ends[1]


@dataclass
class Place:
    """What belongs in one place of a table: its own records, and those of other places whose trojan it shares."""

    own: list[Record] = field(default_factory=list)
    sharing: list[Record] = field(default_factory=list)

    def sample(self, metric: Metric) -> Sample:
        """Return what there is of a metric; one of the trojan is in whatever record has it."""
        return sample(metric, self.own if follows(metric) else self.own + self.sharing)


def matrix(
    records: Sequence[Record],
    rows: str = "attack",
    columns: str = "defense",
    metrics: Sequence[str] = (),
    *,
    interval: bool = False,
    relative_to: str | None = None,
) -> Sheet:
    """Return the table of some records: a row and a column for every value of an axis, a number for each metric.

    An axis is a part of the settings (``attack``), a field of one (``attack.poison_rate``) or another column of the
    records (``seed``); columns may be :data:`METRIC` alone. Without metrics, every defense has the one that stands for
    its family. Records that differ in anything but the seed are never averaged: what differs and is on no axis tells
    rows apart. Where ``relative_to`` is the label of a row, or of a column, every number says by how much of that one's
    it is larger. :class:`RequestError` where a column or a metric is not known.
    """
    row_axis, column_axis = find_axis(rows, records), None if columns == METRIC else find_axis(columns, records)
    if row_axis == column_axis:
        raise RequestError(f"rows and columns are both {rows}")
    chosen = _chosen([find_metric(word, records) for word in metrics], row_axis, column_axis, records)
    axes = [axis for axis in (row_axis, column_axis) if axis is not None]
    following = {axis.part for axis in axes} | set(map(follows, chosen or [METRICS.find(ATTACK.headline)]))
    layout = slots(row_axis, column_axis, [part for part in PARTS if part not in FOLLOWING or part in following])

    places, remarks = _places(records, Settings(records, axes), layout, following)
    by_column: dict[Names, list[Place]] = {}
    for found in places.values():
        for column, place in found.items():
            by_column.setdefault(column, []).append(place)
    heads = [
        (each, metric) for each in sorted(by_column, key=order) for metric in chosen or [_standing(by_column[each])]
    ]
    table = {
        row: [places[row].get(column, Place()).sample(metric) for column, metric in heads]
        for row in sorted(places, key=order)
    }
    # A metric that applies nowhere in a column, or in a row, is nothing to look at.
    kept = [place for place in range(len(heads)) if _says_something(found[place] for found in table.values())]
    shown = {row: [found[place] for place in kept] for row, found in table.items()}
    shown = {row: found for row, found in shown.items() if _says_something(found)}
    if not shown:
        raise RequestError(f"none of the {len(records)} records has a number for this table")
    remarks += _nothing(heads, kept, [row for row in table if row not in shown])
    heads = [heads[place] for place in kept]
    bases = {} if relative_to is None else _bases(shown, heads, relative_to)
    if relative_to is not None:
        remarks += [f"in brackets: by how much of the mean of {relative_to} a mean is larger"]
    return _sheet(shown, heads, layout, remarks, bases, interval=interval)


Bases = Mapping[tuple[Names, int], Sample]
"""What is compared with, by row and place in it."""


def _bases(table: Mapping[Names, Sequence[Sample]], heads: Sequence[tuple[Names, Metric]], relative_to: str) -> Bases:
    """Return the sample of the row that is called so, the rest alike, or of the column, for every place but its own."""
    rows = {row[:-1]: row for row in table if row[-1].label == relative_to}
    if rows:
        pairs = [(row, place, rows.get(row[:-1]), place) for row in table for place in range(len(heads))]
    else:
        columns = {
            (column[:-1], metric.name): place
            for place, (column, metric) in enumerate(heads)
            if column and column[-1].label == relative_to
        }
        if not columns:
            labels = dict.fromkeys([*(row[-1].label for row in table), *(c[-1].label for c, _ in heads if c)])
            raise RequestError(f"no row and no column is called '{relative_to}'; there are: {', '.join(labels)}")
        pairs = [
            (row, place, row, columns.get((column[:-1], metric.name), place))
            for row in table
            for place, (column, metric) in enumerate(heads)
        ]
    return {
        (row, place): table[base][other]
        for row, place, base, other in pairs
        if base is not None and (base, other) != (row, place)
    }


def find_axis(column: str, records: Sequence[Record]) -> Axis:
    """Return the axis of a name; :class:`RequestError` where no record has such a column."""
    axis = Axis(column)
    if not axis.whole and not has_column(column, records):
        raise unknown_column(column, records)
    return axis


def _chosen(metrics: list[Metric], rows: Axis, columns: Axis | None, records: Iterable[Record]) -> list[Metric]:
    """Return the metrics of every column; none where what follows a trojan is in the columns, with one for each."""
    if metrics or (columns is not None and columns.part in FOLLOWING):
        return metrics
    if rows.part not in FOLLOWING:
        return [METRICS.find(ATTACK.headline)]
    found = {headline(record) for record in records if getattr(record, rows.part) is not None}
    if len(found) != 1:
        raise RequestError(
            f"these rows are judged by {' or '.join(sorted(each.name for each in found))}: name a metric"
        )
    return list(found)


def headline(record: Record) -> Metric:
    """Return the one metric that stands for what follows a trojan, or for the trojan where nothing does."""
    if record.analysis is not None:
        found = (name for name in _measured(record) if name.startswith("analysis."))
        return METRICS.find(next(found, ATTACK.headline))
    if record.family is not None and record.family not in FAMILIES:
        return METRICS.find(next((name for name in _measured(record) if name.startswith("defense.")), "defense.acc"))
    if record.family is not None:
        about: Table = FAMILIES[record.family]
    else:
        about = DOWNSTREAM if record.downstream else STAMP if record.stamp else ATTACK
    return METRICS.find(about.headline)


def _standing(places: Iterable[Place]) -> Metric:
    """Return the metric that stands for a column."""
    own = [record for place in places for record in place.own]
    finished = [record for record in own if record.status == "done"]
    return headline((finished or own)[0]) if own else METRICS.find(ATTACK.headline)


def _places(
    records: Iterable[Record], settings: Settings, layout: Layout, following: Container[str | None]
) -> tuple[dict[Names, dict[Names, Place]], list[str]]:
    """Return what belongs in each row and column, and what is to be said of records that belong nowhere."""
    places: dict[Names, dict[Names, Place]] = {}
    nowhere: Counter[str] = Counter()
    beside = [slot.axis for part in layout for slot in part if slot.axis and slot.part not in PARTS]
    known: dict[tuple[Any, ...], Place] = {}

    def place(record: Record, *, bare: bool) -> Place:
        same = identity(record), bare, *(repr(axis.value(record)) for axis in beside)
        if same not in known:
            row, column = (tuple(slot.named(record, settings, bare=bare) for slot in part) for part in layout)
            known[same] = places.setdefault(row, {}).setdefault(column, Place())
        return known[same]

    for record in records:
        followed = [part for part in FOLLOWING if getattr(record, part) is not None]
        if all(part in following for part in followed):
            place(record, bare=False).own.append(record)
        elif any(part in following for part in FOLLOWING):
            nowhere.update(part for part in followed if part not in following)
        if followed and None in following:
            place(record, bare=True).sharing.append(record)
    said = {"defense": "with a defense", "downstream": "of a downstream user", "stamp": "with a varied trigger"}
    said["analysis"] = "of an analysis"
    return places, [f"records {said[part]}, which are not in this table: {count}" for part, count in nowhere.items()]


def order(names: Names) -> list[tuple[tuple[int, float], str]]:
    """Return what rows and columns are sorted by."""
    return [(name.place, name.label) for name in names]


def _says_something(samples: Iterable[Sample]) -> bool:
    return any(each.values or each.status in ("failed", "skipped") for each in samples)


def _nothing(heads: Sequence[tuple[Names, Metric]], kept: Container[int], rows: Iterable[Names]) -> list[str]:
    """Return which columns and rows are left out; that no defense has no number of a defense goes without saying."""
    columns = [
        f"{metric.name} of {', '.join(name.label for name in column)}"
        for place, (column, metric) in enumerate(heads)
        if place not in kept and not (follows(metric) and any(name.label in FOLLOWING.values() for name in column))
    ]
    empty = [*columns, *(row[-1].label for row in rows if row[-1].label not in FOLLOWING.values())]
    return [f"without a number, and so not in this table: {'; '.join(dict.fromkeys(empty))}"] if empty else []


def _sheet(
    table: Mapping[Names, Sequence[Sample]],
    heads: Sequence[tuple[Names, Metric]],
    layout: Layout,
    remarks: Sequence[str],
    bases: Bases,
    *,
    interval: bool,
) -> Sheet:
    (rows, columns), counts = layout, [len(each.values) for found in table.values() for each in found if each.values]
    usual = mode(counts) if counts else 0
    told, over = _telling(rows, list(table)), _telling(columns, [column for column, _ in heads])
    constant = [
        f"{slot.heading} {name.label}"
        for slot, name in zip(rows + columns, next(iter(table)) + heads[0][0], strict=True)
        if slot not in told + over
    ]
    spread = "[95 % interval of the mean, by Student's t]" if interval else "± standard deviation"
    average = f"mean {spread} over seeds, n = {usual}{' unless another n is said' if len(set(counts)) > 1 else ''}"
    about = f"{rows[-1].heading} × {columns[-1].heading if columns else METRIC}"
    return Sheet(
        caption=f"{about}, {average if max(counts, default=1) > 1 else 'one seed each'}; {', '.join(constant)}",
        stubs=tuple(slot.heading for slot in told),
        heads=tuple(
            Head(_over(column, columns, over), heading(metric, [each for other, each in heads if other == column]))
            for column, metric in heads
        ),
        lines=tuple(
            Line(
                tuple(name.label for slot, name in zip(rows, row, strict=True) if slot in told),
                tuple(
                    Entry(each.text(usual, interval=interval) + _relative(each, bases.get((row, place))), each.notes)
                    for place, each in enumerate(found)
                ),
            )
            for row, found in table.items()
        ),
        remarks=tuple(remarks),
        numbers=lambda: [
            {slot.heading: name.label for slot, name in zip(rows + columns, row + column, strict=True)}
            | each.numbers()
            | ({"gain": each.gain(bases.get((row, place)))} if bases else {})
            for row, found in table.items()
            for place, ((column, _), each) in enumerate(zip(heads, found, strict=True))
        ],
    )


def _relative(each: Sample, base: Sample | None) -> str:
    gain = each.gain(base)
    return "" if gain is None else f" ({gain:+.0%})".replace("-", "−").replace("%", " %")


def _telling(slots: Sequence[Slot], names: Sequence[Names]) -> list[Slot]:
    """Return the slots that tell something apart; the axis, which is the last, always does."""
    return [slot for place, slot in enumerate(slots) if slot is slots[-1] or len({each[place] for each in names}) > 1]


def _over(names: Names, slots: Sequence[Slot], shown: Container[Slot]) -> str:
    """Return what stands over the columns of one configuration, or of one value of a field."""
    said = (
        name.label if slot.axis is None else f"{slot.heading.rpartition('.')[2]}={name.label}"
        for slot, name in zip(slots, names, strict=True)
        if slot in shown
    )
    return ", ".join(said)


def heading(metric: Metric, beside: Iterable[Metric]) -> str:
    """Return what heads a metric's column: its name where another beside it is headed alike."""
    alike = sum(each.heading == metric.heading for each in beside) > 1
    unit = f" ({metric.unit.symbol})" if metric.unit.symbol else ""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.better, "")
    return f"{metric.name if alike else metric.heading}{unit}{arrow}"
