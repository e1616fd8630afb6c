"""What a defense makes of every attack by trigger and architecture: a small map for each attack and architecture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from gifthorse.core.metric import FLAG, METRICS, Metric
from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, counted, file_name
from gifthorse.report.drawings.matrices import limits_of, square_of
from gifthorse.report.matrix import headline
from gifthorse.report.naming import key, labels, name_of, natural
from gifthorse.report.settings import Settings
from gifthorse.report.style import COLUMN, axis_label, sheet, wrapped
from gifthorse.report.tables import measure, partition

_FIRST = ("trigger_size", "transparency")
"""What goes across and up before any other field that differs as well; all others tell attacks apart."""
_OF_ALL = ("dataset", "profile", "version", "defense", "stamp")
_NO_SETTING = ("name", "target")
_SIDE = 0.42
"""Inches that a square takes."""


@dataclass(frozen=True, eq=False)
class Maps:
    """The panels of a figure: attacks downwards, architectures across, and in each the records by setting.

    ``about`` is what all have in common, part by part; ``across`` and ``up`` are fields of the attacks with the values
    that occur, ``up`` is empty where one alone differs.
    """

    about: Mapping[str, str]
    across: tuple[str, tuple[str, ...]]
    up: tuple[str, tuple[str, ...]]
    attacks: tuple[str, ...]
    models: tuple[str, ...]
    cells: Mapping[tuple[str, str, str, str], Sequence[Record]]


def robustness(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each defense and metric, where triggers differ in two ways, or in one and networks too."""
    for maps in _all_maps(material):
        records = [record for found in maps.cells.values() for record in found]
        judged = next((record for record in records if record.status == "done"), records[0])
        for metric in map(METRICS.find, material.metrics) if material.metrics else [headline(judged)]:
            if any(measure(record, metric.name) is not None for record in records):
                place = (maps.about[part] for part in ("dataset", "profile", "defense", "stamp") if part in maps.about)
                name = file_name("robustness", *place, metric.name.removeprefix("defense."))
                yield Drawing(name, partial(_draw, maps, metric))


def _all_maps(material: Material) -> Iterator[Maps]:
    defended = [each for each in material.records if each.defense is not None and each.analysis is None]
    settings = Settings(defended)
    for found in partition(defended, lambda record: tuple(settings.key(record, part) for part in _OF_ALL)).values():
        chosen = [record for record in found if record.id in material.chosen and name_of(record.attack) != "none"]
        fields = _fields(chosen)
        if len(fields) > 1 or (fields and len({key(record.model) for record in chosen}) > 1):
            parts = [part for part in _OF_ALL if part != "stamp" or chosen[0].stamp is not None]
            yield _maps(chosen, {part: settings.label(chosen[0], part) for part in parts}, (*fields, "")[:2])


def _maps(records: Sequence[Record], about: Mapping[str, str], axes: Sequence[str]) -> Maps:
    across, up = axes
    attacks = labels(_without(record.attack, axes) for record in records)
    models = labels(record.model for record in records)
    # A profile has a recipe for each network: it tells them apart only where one has several.
    recipes = {
        model: labels(record.training for record in members)
        for model, members in partition(records, lambda record: key(record.model)).items()
    }

    def place(record: Record) -> tuple[str, str, str, str]:
        model, own = models[key(record.model)], recipes[key(record.model)]
        network = f"{model}, {own[key(record.training)]}" if len(own) > 1 else model
        return attacks[key(_without(record.attack, axes))], network, _value(record, across), _value(record, up)

    cells = partition(records, place)
    found, networks, columns, rows = (tuple(sorted({*each}, key=natural)) for each in zip(*cells, strict=True))
    return Maps(about, (across, columns), (up, rows), found, networks, cells)


def _fields(records: Sequence[Record]) -> list[str]:
    """Return the fields in which records of one attack differ, those that go on axes first."""
    found: set[str] = set()
    for members in partition(records, lambda record: name_of(record.attack)).values():
        for field in members[0].attack:
            values = {json.dumps(record.attack.get(field)) for record in members}
            if len(values) > 1 and field not in _NO_SETTING:
                found.add(field)
    return sorted(found, key=lambda field: (_FIRST.index(field) if field in _FIRST else len(_FIRST), field))


def _without(attack: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in attack.items() if name not in fields}


def _value(record: Record, field: str) -> str:
    value = record.attack.get(field)
    return "" if not field or value is None else str(value)


def _draw(maps: Maps, metric: Metric) -> Figure:
    (across, columns), (up, rows) = maps.across, maps.up
    counts: list[int] = []
    signs: dict[str, str] = {}
    panels = {
        (attack, model): [
            [square_of(metric, maps.cells.get((attack, model, column, row), []), counts, signs) for column in columns]
            for row in rows
        ]
        for attack in maps.attacks
        for model in maps.models
    }
    for squares in panels.values():
        squares[:] = [[plots.Square(each.value, each.text.partition("\n")[0]) for each in line] for line in squares]
    limits = limits_of(metric, (square for squares in panels.values() for line in squares for square in line))
    note = f"{maps.about['defense']} on {maps.about['dataset']}, profile {maps.about['profile']}"
    note += f"; n = {counted(counts, 'seed')} of each square" + ("" if metric.unit == FLAG else ", mean")
    note += "".join(f"; {sign} {said}" for sign, said in signs.items())
    width = 1.5 + (_SIDE * len(columns) + 0.25) * len(maps.models)
    height = 1.0 + (0.75 * _SIDE * len(rows) + 0.3) * len(maps.attacks)
    figure = sheet(max(width, COLUMN), height, note)
    grid = figure.subplots(len(maps.attacks), len(maps.models), squeeze=False, sharex=True, sharey=True)
    for down, attack in enumerate(maps.attacks):
        for right, model in enumerate(maps.models):
            axes = grid[down, right]
            mesh = plots.shaded(axes, panels[attack, model], rows, columns, limits)
            if down == 0:
                axes.set_title(wrapped(model, 0.9), size=7)
            if right == 0:
                axes.set_ylabel("\n".join([wrapped(attack, 0.9), *([up] if up else [])]), size=7)
            if down == len(maps.attacks) - 1:
                axes.set_xlabel(across, size=7)
    bar = figure.colorbar(mesh, ax=grid, fraction=0.04, aspect=25, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label(f"{metric.title}\n[share of seeds]" if metric.unit == FLAG else axis_label(metric), size=7)
    return figure
