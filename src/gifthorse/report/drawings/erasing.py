"""What erasers cost and leave: accuracy against success, activations that a trigger still moves, generated samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, Part, cells, counted, file_name
from gifthorse.report.evidence import Arrays, drawable
from gifthorse.report.logistic import logistic_fit
from gifthorse.report.naming import key, labels
from gifthorse.report.style import COLUMN, PAGE, sheet
from gifthorse.report.tables import measure
from gifthorse.report.tiles import Tile, TileRow, tile_sheet

Evidence = Callable[[str], Arrays]

RATES = 3
"""Fewest learning rates that make a curve."""
SUCCESS = 0.1
"""The ASR at which the legend gives the accuracy: DHBE calls less suppressed (section 5.3)."""
_LAYERS = {"latent": "penultimate layer", "logit": "logits"}
_DISTANCES = ("L1", "L2")


def trade_offs(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each attack that some defense met at several learning rates."""
    for part in material.parts():
        for attack, members in _by_attack(part):
            yield from _trade_offs_of(part, attack, members)


def differences(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each attack after which activations were compared."""
    for part in material.parts():
        for attack, members in _by_attack(part):
            draw = partial(_draw_differences, part, attack, members, material.evidence)
            yield Drawing(file_name("differences", *part.place, attack), draw)


def samples(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense generated samples."""
    for record, name, what in cells(material, "samples", lambda found: "defense.agreement_on_samples" in found.metrics):
        yield Drawing(name, partial(_draw_samples, record, what, material.evidence))


def _by_attack(part: Part) -> Iterator[tuple[str, list[Record]]]:
    """Yield the finished records of a model after a defense, attack by attack; the trigger as it was planted."""
    found: dict[str, list[Record]] = {}
    for record in part.records:
        if record.status == "done" and record.stamp is None and {"defense.acc", "defense.asr"} <= record.metrics.keys():
            found.setdefault(part.attack(record), []).append(record)
    yield from found.items()


def _trade_offs_of(part: Part, attack: str, records: Sequence[Record]) -> Iterator[Drawing]:
    without = {record.id: _without_rate(record.defense or {}) for record in records}
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(without[record.id]), []).append(record)
    swept = [each for each in groups.values() if len({(record.defense or {}).get("lr") for record in each}) >= RATES]
    if swept:
        names = labels(without.values())
        draw = partial(_draw_trade_off, groups, names, f"{attack}, {part.about}")
        yield Drawing(file_name("tradeoff", *part.place, attack), draw)


def _without_rate(defense: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in defense.items() if name != "lr"}


def _draw_trade_off(groups: Mapping[str, Sequence[Record]], names: Mapping[str, str], what: str) -> Figure:
    curves = [_trade_off(names[group], members) for group, members in groups.items()]
    figure = sheet(COLUMN, 2.9 + 0.14 * len(curves), f"{what}; {_said(groups, curves)}")
    axes = figure.add_subplot()
    plots.trade_off(axes, curves)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=3)
    return figure


def _said(groups: Mapping[str, Sequence[Record]], curves: Sequence[plots.TradeOff]) -> str:
    rates = [len({(record.defense or {}).get("lr") for record in members}) for members in groups.values()]
    said = f"n = {counted([len(members) for members in groups.values()], 'model')}"
    said += f", {counted(rates, 'learning rate')} a defense; lines: logistic fits"
    return said if all(all(curve.sound) for curve in curves) else said + "; hollow: the attack did not take"


def _trade_off(label: str, records: Sequence[Record]) -> plots.TradeOff:
    accuracy, success = (
        tuple(float(measure(record, f"defense.{name}") or 0.0) for record in records) for name in ("acc", "asr")
    )
    sound = tuple(measure(record, "attack.valid") != 0 for record in records)
    fit = logistic_fit(accuracy, success)
    if fit is not None and min(accuracy) <= (paid := fit.accuracy_at(SUCCESS)) <= max(accuracy):
        label += f": ASR {SUCCESS:.0%} at accuracy {paid:.1%}"
    return plots.TradeOff(label, accuracy, success, sound, fit)


def _draw_differences(part: Part, attack: str, records: Sequence[Record], evidence: Evidence) -> Figure | None:
    # What an attack's own model does is in every record of the same model: one of each counts.
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    models = set()
    for record in records:
        arrays = evidence(record.id)
        for layer in _LAYERS:
            if record.seed not in models and f"attack_{layer}_differences" in arrays:
                found.setdefault((layer, "no defense"), []).append(arrays[f"attack_{layer}_differences"])
            if f"defense_{layer}_differences" in arrays:
                found.setdefault((layer, part.defense(record)), []).append(arrays[f"defense_{layer}_differences"])
        models.add(record.seed)
    layers = [layer for layer in _LAYERS if any(name == layer for name, _ in found)]
    if not layers:
        return None
    most = max(sum(name == layer for name, _ in found) for layer in layers)
    images = counted([sum(each.shape[1] for each in group) for group in found.values()], "image")
    note = f"{attack}, {part.about}; n = {images} of {counted([len(models)], 'model')}; distance between what a model "
    note += "makes of an image and of the same one stamped; boxes: quartiles, whiskers: 5 and 95 %"
    figure = sheet(PAGE, 1.0 + len(layers) * (0.5 + 0.16 * most), note)
    panels = figure.subplots(len(layers), len(_DISTANCES), squeeze=False)
    for row, layer in zip(panels, layers, strict=True):
        for axes, distance, index in zip(row, _DISTANCES, range(len(_DISTANCES)), strict=True):
            spreads = [
                plots.Spread(name, np.concatenate([each[index] for each in group]), _style(name))
                for (where, name), group in found.items()
                if where == layer
            ]
            plots.boxes(axes, spreads, f"{distance} distance, {_LAYERS[layer]}")
            axes.tick_params("y", labelleft=index == 0)
    return figure


def _style(name: str) -> str:
    return "stamped" if name == "no defense" else "plain"


def _draw_samples(record: Record, what: str, evidence: Evidence) -> Figure | None:
    pixels = evidence(record.id).get("samples")
    if pixels is None or not drawable(pixels):
        return None
    clean = evidence(record.id).get("clean")
    rows = [TileRow("generated", tuple(Tile(each) for each in pixels))]
    if clean is not None and drawable(clean):
        blank = max(len(pixels) - len(clean), 0) * (Tile(None),)
        rows.append(TileRow("test images", tuple(Tile(each) for each in clean[: len(pixels)]) + blank))
    return tile_sheet(rows, f"{what}; n = {len(pixels)} of the samples that the defense made itself")
