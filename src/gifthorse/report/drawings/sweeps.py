"""Metrics along a field that takes several values while everything else is the same, over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from gifthorse.core.command import bracket
from gifthorse.core.metric import METRICS, Metric, Unit
from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, counted, file_name
from gifthorse.report.intervals import mean_interval
from gifthorse.report.naming import key, labels
from gifthorse.report.style import COLUMN, axis_label, sheet
from gifthorse.report.tables import measure

_ALONG: dict[str, tuple[tuple[str, ...], ...]] = {
    "attack": (("attack.asr", "benign.asr", "attack.acc"),),
    "defense": (("defense.asr", "defense.acc", "defense.tpr", "defense.fpr"), ("defense.index",)),
    "downstream": (("downstream.asr", "downstream.benign_asr", "downstream.acc"),),
    "stamp": (("stamp.asr", "stamp.benign_asr", "stamp.acc", "stamp.unstamped_asr"),),
}
"""The metrics that are drawn by scope: the first of these groups that a record has any of."""

_CONFIGURATIONS = ("dataset", "model", "training", "attack", "defense", "downstream", "stamp")

_NO_QUANTITY = {"target"}
"""A class's number is a name."""


@dataclass(frozen=True)
class Sweep:
    """Records of which one field of one part takes several values; seeds aside, they are the same otherwise.

    ``names`` has the shortest label of every part that tells it from those of other records, without that field.
    """

    scope: str
    part: str
    field: str
    names: Mapping[str, str]
    records: tuple[Record, ...]

    def value(self, record: Record) -> float | None:
        """Return what a record has in the field."""
        return _numbers(_parts(record, self.scope).get(self.part)).get(self.field)


def sweeps(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each sweep among the finished records."""
    one_training = len({key(record.training) for record in material.records}) == 1
    for sweep in _all_sweeps(material):
        metrics = _metrics(sweep, material.metrics)
        if metrics:
            shown = (name for part, name in sweep.names.items() if part != "training" or not one_training)
            yield Drawing(file_name("sweep", *shown, f"by_{sweep.field}"), partial(_draw, sweep, metrics))


def stamp_sweeps(records: Sequence[Record]) -> list[tuple[Sweep, list[Metric]]]:
    """Return the sweeps of a field of the stamp, three values or more, without a defense, and what they measured."""
    varied = [record for record in records if record.status == "done" and record.stamp and record.defense is None]
    found = _sweeps_of("stamp", varied, [_parts(record, "stamp") for record in records])
    wide = [each for each in found if each.part == "stamp" and len({*map(each.value, each.records)}) >= 3]
    return [(each, metrics) for each in wide if (metrics := _metrics(each, ()))]


def track(sweep: Sweep, metric: Metric) -> tuple[plots.Track, list[int]]:
    """Return the means along the field with their intervals, and over how many seeds each is."""
    by_value: dict[float, list[Record]] = {}
    for record in sweep.records:
        at = sweep.value(record)
        if at is not None and measure(record, metric.name) is not None:
            by_value.setdefault(at, []).append(record)
    points, counts = [], []
    for at, members in sorted(by_value.items()):
        values = [found for each in members if (found := measure(each, metric.name)) is not None]
        mean, unit = fmean(values), metric.unit
        low, high = mean_interval(values) or (mean, mean)
        sound = sweep.scope == "attack" or all(measure(each, "attack.valid") != 0 for each in members)
        points.append(plots.Point(at, mean, max(low, unit.low), min(high, unit.high), sound))
        counts.append(len(values))
    return plots.Track(metric.heading, tuple(points)), counts


def _draw(sweep: Sweep, metrics: Sequence[Metric]) -> Figure:
    tracks = {metric: track(sweep, metric) for metric in metrics}
    counts = [count for _, found in tracks.values() for count in found]
    spread = "means with 95 % intervals by Student’s t" if max(counts) > 1 else "no interval from one seed"
    names, profile = sweep.names, sweep.records[0].profile
    met = [f"{names[part]} on" for part in ("defense", "downstream", "stamp") if part in names]
    note = (
        f"{' '.join([*met, names['attack']])}, {names['dataset']} on {names['model']}, training {names['training']}, "
    )
    note += f"profile {profile}; n = {counted(counts, 'seed')}, {spread}"
    if not all(point.sound for found, _ in tracks.values() for point in found.points):
        note += "; hollow: the attack did not take in every seed"
    units: dict[Unit, list[Metric]] = {}
    for metric in metrics:
        units.setdefault(metric.unit, []).append(metric)
    figure = sheet(COLUMN, 0.75 + 1.75 * len(units), note)
    panels = figure.subplots(len(units), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (unit, members) in zip(panels, units.items(), strict=True):
        plots.sweep(axes, [tracks[metric][0] for metric in members], unit)
        axes.set_ylabel(axis_label(members[0]) if len(members) == 1 else f"share of images [{unit.symbol}]")
        if len(members) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(members), 3), handlelength=3)
    owner = sweep.names[sweep.part].partition("[")[0]
    panels[-1].set_xlabel(f"{sweep.field} of {owner}")
    return figure


def _all_sweeps(material: Material) -> Iterator[Sweep]:
    """Yield the sweeps of what each scope measures.

    An attack's own numbers are the same whatever followed it: one record counts for each of its models.
    """
    done = [record for record in material.records if record.status == "done" and record.id in material.chosen]
    models: dict[tuple[str, int], Record] = {}
    for record in sorted(done, key=lambda each: each.downstream is not None):
        if measure(record, "attack.acc") is not None:
            models.setdefault((key(_parts(record, "attack")), record.seed), record)
    of_scopes = {
        "attack": list(models.values()),
        "defense": [record for record in done if record.defense is not None],
        "downstream": [record for record in done if record.downstream is not None],
        "stamp": [record for record in done if record.stamp is not None and record.defense is None],
    }
    for scope, records in of_scopes.items():
        yield from _sweeps_of(scope, records, [_parts(record, scope) for record in material.records])


def _sweeps_of(scope: str, records: Sequence[Record], everything: Sequence[Mapping[str, Any]]) -> Iterator[Sweep]:
    """Yield the sweeps of some records; ``everything`` is what else there is to be told apart from."""
    named = {part: labels(each[part] for each in everything if part in each) for part in _CONFIGURATIONS}
    contents = [(_parts(record, scope), record) for record in records]
    taken: dict[tuple[str, str], set[float]] = {}
    for parts, _ in contents:
        for part, configuration in parts.items():
            for field, value in _numbers(configuration).items():
                taken.setdefault((part, field), set()).add(value)
    for part, field in sorted(each for each, values in taken.items() if len(values) > 1):
        alike: dict[str, list[tuple[float, Record]]] = {}
        for parts, record in contents:
            at = _numbers(parts.get(part)).get(field)
            if at is not None:
                # Other fields of a data set are other images.
                rest = {name: value for name, value in parts.items() if part != "dataset" or name != "images"}
                alike.setdefault(key({**rest, part: _without(parts[part], field)}), []).append((at, record))
        unlike = labels(_without(each[part], field) for each in everything if field in _numbers(each.get(part)))
        for members in alike.values():
            if len({at for at, _ in members}) > 1:
                first = _parts(members[0][1], scope)
                names = {each: found[key(first[each])] for each, found in named.items() if each in first}
                names[part] = unlike[key(_without(first[part], field))]
                yield Sweep(scope, part, field, names, tuple(record for _, record in members))


def _parts(record: Record, scope: str) -> dict[str, Any]:
    """Return what decides the numbers of a scope, seeds aside."""
    parts: dict[str, Any] = {name: getattr(record, name) for name in ("dataset", "model", "training", "attack")}
    parts |= {"images": record.data_digest, "profile": record.profile, "version": record.environment.gifthorse}
    if scope == "defense":
        parts |= {} if record.defense is None else {"defense": record.defense}
    if scope in ("defense", "stamp") and record.stamp is not None:
        parts["stamp"] = record.stamp
    if scope == "downstream" and record.downstream is not None:
        parts["downstream"] = {**record.downstream.head, "images": bracket(record.downstream.dataset)}
    return parts


def _numbers(configuration: Any, before: str = "") -> dict[str, float]:
    """Return the numbers of a configuration by dotted name; flags are none."""
    found: dict[str, float] = {}
    for name, value in configuration.items() if isinstance(configuration, Mapping) else ():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{before}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and name not in _NO_QUANTITY:
            found[f"{before}{name}"] = float(value)
    return found


def _without(configuration: Mapping[str, Any], field: str) -> dict[str, Any]:
    first, _, rest = field.partition(".")
    others = {name: value for name, value in configuration.items() if name != first}
    return {**others, first: _without(configuration[first], rest)} if rest else others


def _metrics(sweep: Sweep, asked: Sequence[str]) -> list[Metric]:
    """Return the metrics of the sweep's scope that some record has, of those that were asked for."""
    scopes = ("attack", "benign") if sweep.scope == "attack" else (sweep.scope,)
    for names in (tuple(asked),) if asked else _ALONG[sweep.scope]:
        metrics = [metric for metric in map(METRICS.find, names) if metric.scope in scopes]
        found = [m for m in metrics if any(measure(record, m.name) is not None for record in sweep.records)]
        if found:
            return found
    return []
