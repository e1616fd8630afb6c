"""What the report shows of populations: how well a detector tells trojaned models from benign ones, and every model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gifthorse.core.metric import FRACTION, INDEX, METRICS, PERCENT, Unit
from gifthorse.core.record import FPRS, Interval, LeftOut, Member, Population, Record, Separation, benign_needed
from gifthorse.report.details import Chart
from gifthorse.report.figures import roc_curve
from gifthorse.report.naming import attack_of, class_label, key, labels
from gifthorse.report.tables import models_of


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, ready to print; ``raw`` is the exact number, ``why`` says why there is none."""

    text: str = ""
    interval: str = ""
    raw: str = ""
    why: str = "does not apply"


@dataclass(frozen=True)
class Model:
    """One model that counts, ready to print."""

    id: str
    group: str
    seed: int
    target: str
    index: str
    raw: str
    flagged: str
    hit: str


@dataclass(frozen=True)
class PopulationDetail:
    """A population; ``separations`` has a row of estimates per index, first the one that it is judged by."""

    defense: str
    attack: str
    varied_target: bool
    benign: int
    trojaned: int
    flagged_benign: Estimate
    flagged_trojaned: Estimate
    hit: Estimate
    separations: tuple[tuple[str, tuple[Estimate, ...]], ...]
    curve: Chart | None
    models: tuple[Model, ...]
    left_out: tuple[tuple[str, tuple[LeftOut, ...]], ...]
    records: tuple[str, ...]


def populations_of(populations: Sequence[Population], records: Mapping[str, Record]) -> list[PopulationDetail]:
    """Return the details of populations of one group; ``records`` are what there is of their models, by id."""
    attacks = labels([*(attack_of(each) for each in populations), *(record.attack for record in records.values())])
    defenses = labels(each.defense for each in populations)
    return [_detail(each, attacks[key(attack_of(each))], defenses[key(each.defense)], records) for each in populations]


def _detail(population: Population, attack: str, defense: str, records: Mapping[str, Record]) -> PopulationDetail:
    left_out: dict[str, list[LeftOut]] = {}
    for left in population.left_out:
        left_out.setdefault(left.reason, []).append(left)
    return PopulationDetail(
        defense=defense,
        attack=attack,
        varied_target=population.varied_target,
        benign=population.n_benign,
        trojaned=population.n_trojaned,
        flagged_benign=_estimate(PERCENT, population.flagged_benign),
        flagged_trojaned=_estimate(PERCENT, population.flagged_trojaned),
        hit=_estimate(PERCENT, population.suspect_hit_rate, population.suspect_hit_rate_interval),
        separations=(
            (METRICS.find(population.index or "").title, _separation(population, population.n_benign)),
            *(
                (METRICS.find(name).title, _separation(found, population.n_benign))
                for name, found in population.readouts.items()
            ),
        ),
        curve=_curve(population),
        models=(
            *(_model("benign", each, records) for each in population.benign),
            *(_model("trojaned", each, records) for each in population.trojaned),
        ),
        left_out=tuple((reason, tuple(found)) for reason, found in left_out.items()),
        records=tuple(identity for identity in models_of(population) if identity in records),
    )


def _separation(found: Population | Separation, benign: int) -> tuple[Estimate, ...]:
    """Return AUROC and the true positive rate at each false positive rate."""
    tprs, intervals = found.tpr_at_fpr, found.tpr_at_fpr_interval
    return (
        _estimate(FRACTION, found.auroc, found.auroc_interval),
        *(_estimate(PERCENT, tprs.get(f"{fpr:g}"), intervals.get(f"{fpr:g}"), _few(fpr, benign)) for fpr in FPRS),
    )


def _few(fpr: float, benign: int) -> str:
    return f"n too small: {benign_needed(fpr)} benign models would do" if benign < benign_needed(fpr) else ""


def _estimate(unit: Unit, value: float | None, interval: Interval | None = None, why: str = "") -> Estimate:
    if value is None:
        return Estimate(why=why or Estimate.why)
    span = "" if interval is None else "–".join(unit.text(end) for end in interval)
    return Estimate(unit.text(value), span, repr(value))


def _curve(population: Population) -> Chart | None:
    if not (population.benign and population.trojaned):
        return None
    shares = population.flagged_benign, population.flagged_trojaned
    own = None if shares[0] is None or shares[1] is None else (shares[0], shares[1])
    index = METRICS.find(population.index or "").title
    auroc = "" if population.auroc is None else f", AUROC {population.auroc:.3f}"
    models = f"{population.n_trojaned} trojaned models against {population.n_benign} benign"
    what = f"ROC curve of {index}: {models}{auroc}"
    caption = f"ROC over models by {index}, {models}; dotted: guessing."
    if own is not None:
        caption += " Dot: the method’s own threshold."
    benign, trojaned = ([member.index for member in group] for group in (population.benign, population.trojaned))
    return Chart(roc_curve(benign, trojaned, what, own), caption)


def _model(group: str, member: Member, records: Mapping[str, Record]) -> Model:
    names = records[member.id].class_names if member.id in records else []
    return Model(
        id=member.id,
        group=group,
        seed=member.seed,
        target="" if member.target is None else class_label(member.target, names),
        index=INDEX.text(member.index),
        raw=repr(member.index),
        flagged=_flag(member.flagged),
        hit=_flag(member.hit),
    )


def _flag(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"
