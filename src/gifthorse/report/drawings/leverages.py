"""What success costs every attack in clean accuracy, and the area under that."""

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean

from matplotlib.figure import Figure

from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, Part, counted, file_name
from gifthorse.report.leverage import CHANCE, Leverage, explained, leverages
from gifthorse.report.settings import Axis
from gifthorse.report.style import COLUMN, series_of, sheet, wrapped

FIELD = "poison_rate"


def all_leverages(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each group of records in which attacks took several poison rates."""
    for part in material.parts():
        found = [each for each in leverages(part.records, Axis(f"attack.{FIELD}")) if each.curve is not None]
        if found:
            yield Drawing(file_name("leverage", *part.place), partial(_draw, part, found))


def _draw(part: Part, found: Sequence[Leverage]) -> Figure:
    series = series_of([each.attack for each in found])
    groups = [plots.Group(_label(each), each.curve.points, series[each.attack]) for each in found if each.curve]
    seeds = counted([len(each.seeds) for each in found], "seed")
    rates = counted([len(each.values) for each in found], "poison rate")
    note = f"{part.about}; n = {seeds} at each of {rates}; {'; '.join(explained(found))}; dotted: no leverage"
    note += (
        "; in brackets: mean and 95 % interval of the seeds’ own AUC" if any(each.interval for each in found) else ""
    )
    figure = sheet(COLUMN, 3.5 + 0.15 * len(groups) + 0.1 * len(wrapped(note, COLUMN).splitlines()), note)
    axes = figure.add_subplot()
    plots.leverage(axes, groups)
    figure.legend(loc="outside upper center", handlelength=3)
    return figure


def _label(each: Leverage) -> str:
    if each.area is None:
        return f"{each.attack}: {CHANCE}"
    if each.interval is None:
        return f"{each.attack}: AUC {each.area:.2f}"
    low, high = max(each.interval[0], 0), min(each.interval[1], 1)
    return f"{each.attack}: AUC {each.area:.2f} ({fmean(each.by_seed):.2f} [{low:.2f}, {high:.2f}])"
