"""Every attack against every defense as a heat map, one for each metric."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.metric import FLAG, METRICS, Metric
from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, Part, counted, file_name
from gifthorse.report.intervals import mean_interval
from gifthorse.report.naming import natural
from gifthorse.report.style import COLUMN, axis_label, sheet
from gifthorse.report.tables import measure

_SHOWN = ("defense.asr", "defense.acc", "defense.auroc", "defense.flagged", "defense.hit")
_NOT_APPLICABLE = ("–", "does not apply")
_FEWER = ("*", "fewer seeds, as some failed or were skipped")
_DOUBTFUL = ("†", "the attack did not take in every seed: no credit")
_LETTER = 0.055
"""Inches that a letter of a label takes."""


@dataclass(frozen=True)
class Matrix:
    """The cells of a heat map, the number of seeds of each that has a mean, and what the signs in them mean."""

    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    squares: tuple[tuple[plots.Square, ...], ...]
    counts: tuple[int, ...]
    signs: Mapping[str, str]


def matrices(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each group of records and each metric that a defense has there."""
    # Each of these has a target of its own: they are seeds of one row of a population, not rows of a matrix.
    varied = [population for population in material.populations if population.varied_target]
    apart = {model.id for population in varied for model in population.trojaned}
    apart |= {left.id for population in varied for left in population.left_out if left.group == "trojaned"}
    for part in material.parts():
        for metric in map(METRICS.find, material.metrics or _SHOWN):
            matrix = matrix_of(part, metric, apart)
            if matrix.counts:
                name = file_name("matrix", *part.place, metric.name.removeprefix("defense."))
                yield Drawing(name, partial(_draw, part, metric, matrix))


def matrix_of(part: Part, metric: Metric, apart: Collection[str] = ()) -> Matrix:
    """Return every attack against every defense of a family that has the metric.

    An attack that all records are ``apart`` of, by their ids, has no row.
    """
    cells: dict[tuple[str, str], list[Record]] = {}
    families = {record.family for record in part.records if measure(record, metric.name) is not None}
    for record in part.records:
        if record.defense is not None and record.analysis is None and record.family in families:
            cells.setdefault((part.attack(record), part.defense(record)), []).append(record)
    met = {attack for (attack, _), records in cells.items() if any(record.id not in apart for record in records)}
    attacks = tuple(sorted(met, key=lambda label: (label != "none", natural(label))))
    defenses = tuple(dict.fromkeys(defense for attack, defense in cells if attack in met))
    counts: list[int] = []
    signs: dict[str, str] = {}
    squares = tuple(
        tuple(square_of(metric, cells.get((attack, defense), []), counts, signs) for defense in defenses)
        for attack in attacks
    )
    return Matrix(attacks, defenses, squares, tuple(counts), signs)


def square_of(metric: Metric, records: Sequence[Record], counts: list[int], signs: dict[str, str]) -> plots.Square:
    """Return the mean over seeds, or why there is none; how many it is of, and what its signs mean, are added."""
    values = [value for record in records if (value := measure(record, metric.name)) is not None]
    missing = list(dict.fromkeys(record.status for record in records if record.status != "done"))
    if not values:
        if missing or not records:
            return plots.Square(None, "\n".join(missing) or "not run")
        signs.update([_NOT_APPLICABLE])
        return plots.Square(None, _NOT_APPLICABLE[0])
    counts.append(len(values))
    doubtful = any(measure(record, "attack.valid") == 0 for record in records)
    marks = [mark for mark, there in ((_FEWER, missing), (_DOUBTFUL, doubtful)) if there]
    signs.update(marks)
    mean, interval = fmean(values), mean_interval(values)
    flag = metric.unit == FLAG
    text = f"{sum(map(bool, values))} of {len(values)}" if flag else metric.unit.text(mean)
    text += "".join(sign for sign, _ in marks)
    if interval is not None and not flag:
        ends = max(interval[0], metric.unit.low), min(interval[1], metric.unit.high)
        text += f"\n[{', '.join(map(metric.unit.text, ends))}]"
    return plots.Square(mean if flag else mean * metric.unit.scale, text)


def limits_of(metric: Metric, squares: Iterable[plots.Square]) -> tuple[float, float]:
    """Return the ends of the scale of shades: those of the unit, or of the numbers where it has none."""
    limits = (metric.unit.low * metric.unit.scale, metric.unit.high * metric.unit.scale)
    if np.isfinite(limits).all():
        return limits
    numbers = [square.value for square in squares if square.value is not None]
    return min(numbers), max(numbers)


def _draw(part: Part, metric: Metric, matrix: Matrix) -> Figure:
    flag, rows, columns = metric.unit == FLAG, matrix.attacks, matrix.defenses
    limits = limits_of(metric, (square for line in matrix.squares for square in line))
    note = f"{part.about}; n = {counted(matrix.counts, 'seed')}"
    if max(matrix.counts) > 1 and not flag:
        note += ", mean [95 % interval by Student’s t, cut at the ends of the scale]"
    note += "".join(f"; {sign} {said}" for sign, said in matrix.signs.items())
    width = 1.7 + 0.75 * len(columns) + _LETTER * max(map(len, rows))
    figure = sheet(max(width, COLUMN), 1.2 + 0.34 * len(rows) + _LETTER * max(map(len, columns)) / 2, note)
    axes = figure.add_subplot()
    label = f"{metric.title} [share of seeds]" if flag else axis_label(metric)
    plots.heat_map(figure, axes, matrix.squares, rows, columns, label, limits)
    return figure
