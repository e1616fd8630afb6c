"""ROC curves: of defenses that score images, and of defenses that inspect models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.record import Population, Record
from gifthorse.report import plots
from gifthorse.report.drawings.material import Drawing, Material, Part, counted, estimate, file_name
from gifthorse.report.evidence import Arrays
from gifthorse.report.intervals import mean_interval
from gifthorse.report.naming import attack_of, key, labels
from gifthorse.report.style import COLUMN, sheet
from gifthorse.report.tables import measure


def rocs(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each attack that some defense scored images of."""
    for part in material.parts():
        by_attack: dict[str, list[Record]] = {}
        for record in part.records:
            if record.defense is not None and "defense.auroc" in record.metrics:
                by_attack.setdefault(part.attack(record), []).append(record)
        for attack, members in by_attack.items():
            yield Drawing(
                file_name("roc", *part.place, attack), partial(_draw, part, attack, members, material.evidence)
            )


def _draw(part: Part, attack: str, records: Sequence[Record], evidence: Callable[[str], Arrays]) -> Figure | None:
    by_defense: dict[str, list[tuple[Record, np.ndarray, np.ndarray]]] = {}
    for record in records:
        arrays = evidence(record.id)
        if "clean_scores" in arrays and "stamped_scores" in arrays:
            clean, stamped = (plots.finite_values(arrays[f"{side}_scores"]) for side in ("clean", "stamped"))
            if len(clean) and len(stamped):
                by_defense.setdefault(part.defense(record), []).append((record, clean, stamped))
    if not by_defense:
        return None
    curves = [_curve(defense, members) for defense, members in by_defense.items()]
    seeds = [len(members) for members in by_defense.values()]
    runs = [run for members in by_defense.values() for run in members]
    images = (
        counted([len(clean) for _, clean, _ in runs], "clean image"),
        counted([len(stamped) for _, _, stamped in runs], "stamped one"),
    )
    note = f"{attack}, {part.about}; n = {counted(seeds, 'seed')}, a curve each, of {' and '.join(images)}"
    note += "; AUROC: mean [95 % interval by Student’s t]" if max(seeds) > 1 else ""
    note += "; markers: the methods’ own thresholds" if any(curve.own for curve in curves) else ""
    note += "; hollow: the attack did not take in every seed" if not all(curve.sound for curve in curves) else ""
    return _sheet(curves, note)


def _curve(defense: str, members: Sequence[tuple[Record, np.ndarray, np.ndarray]]) -> plots.Curve:
    aurocs = [value for record, _, _ in members if (value := measure(record, "defense.auroc")) is not None]
    rates = [(measure(record, "defense.fpr"), measure(record, "defense.tpr")) for record, _, _ in members]
    return plots.Curve(
        f"{defense}: AUROC {estimate(fmean(aurocs), mean_interval(aurocs))}",
        tuple(plots.roc_points(clean, stamped) for _, clean, stamped in members),
        tuple((fpr, tpr) for fpr, tpr in rates if fpr is not None and tpr is not None),
        all(measure(record, "attack.valid") != 0 for record, _, _ in members),
    )


def populations(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each attack that populations were made of."""
    found = [each for each in material.populations if each.benign and each.trojaned]
    attacks = labels(attack_of(each) for each in found)
    names = {part: labels(getattr(each, part) for each in found) for part in ("dataset", "model", "training")}
    alike: dict[tuple[str, ...], list[Population]] = {}
    for each in found:
        setting = (*(names[part][key(getattr(each, part))] for part in names), each.profile)
        if each.id in material.chosen:
            alike.setdefault((*setting, each.environment.gifthorse, attacks[key(attack_of(each))]), []).append(each)
    for (dataset, model, training, profile, _, attack), members in alike.items():
        what = f"{attack}, {dataset} on {model}, training {training}, profile {profile}"
        defenses = labels(each.defense for each in found)
        draw = partial(_draw_populations, members, defenses, what)
        yield Drawing(file_name("populations", dataset, model, attack), draw)


def _draw_populations(members: Sequence[Population], defenses: Mapping[str, str], what: str) -> Figure:
    curves = []
    for each in members:
        benign, trojaned = (np.array([one.index for one in models]) for models in (each.benign, each.trojaned))
        auroc = "" if each.auroc is None else f": AUROC {estimate(each.auroc, each.auroc_interval)}"
        rates = each.flagged_benign, each.flagged_trojaned
        own = ((rates[0], rates[1]),) if rates[0] is not None and rates[1] is not None else ()
        curves.append(plots.Curve(defenses[key(each.defense)] + auroc, (plots.roc_points(benign, trojaned),), own))
    count = counted([each.n_benign for each in members], "benign model")
    count += f" and {counted([each.n_trojaned for each in members], 'trojaned one')}"
    return _sheet(curves, f"{what}; n = {count}; AUROC [95 % interval]; markers: the methods’ own thresholds")


def _sheet(curves: Sequence[plots.Curve], note: str) -> Figure:
    figure = sheet(COLUMN, 3.35 + 0.14 * len(curves), note)
    axes = figure.add_subplot()
    plots.roc(axes, curves)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=3)
    return figure
