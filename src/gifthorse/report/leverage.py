"""How little clean accuracy success costs an attack: the efficacy-specificity trade-off and the area under it.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), sections 4.2 and 5.2.2, figure 5: the share of stamped images is
    varied, ASR and CAD are each taken to [0,1] attack by attack, and a smaller area means more leverage.
Differs: which axis is which the paper leaves to "smaller is stronger": the area is under CAD as a function of ASR. CAD
    of few test images is noise as well; so that it is a function that grows, it is the isotonic regression of CAD over
    ASR, normalised once it is fitted. Where that grows by less than noise does, no area is given.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.metric import METRICS, POINTS
from gifthorse.core.record import Interval, Record
from gifthorse.report.intervals import mean_interval
from gifthorse.report.matrix import find_axis, sample
from gifthorse.report.naming import name_of, natural
from gifthorse.report.settings import FOLLOWING, PARTS, Axis, Settings
from gifthorse.report.sheet import Entry, Head, Line, Sheet
from gifthorse.report.tables import measure, partition

MOST_DROP = 0.03
"""The paper's bound of CAD: what costs more is no point of a curve."""
FEWEST = 3
"""Fewest points of a curve: two always lie on the diagonal."""
CHANCE = "mostly chance"
"""What is said in place of an area where CAD grows by less than its noise."""
_DECIMALS = 12
_ASR, _CAD, _ACC = METRICS["attack.asr"], METRICS["attack.cad"], METRICS["attack.acc"]
_SHARED = tuple(part for part in PARTS if part not in FOLLOWING)


@dataclass(frozen=True, eq=False)
class Curve:
    """CAD as a function of ASR, both normalised: ``points (N, 2)`` from (0, 0) to (1, 1), one for each value of ASR.

    ``growth`` is by how much CAD grows from the first to the last, a share of the test images; ``moved`` is at how many
    of them the regression gives another CAD than was measured.
    """

    points: np.ndarray
    growth: float
    moved: int

    @property
    def auc(self) -> float:
        """Return the area under the curve in [0,1], by trapezoids; 0.5 is the diagonal."""
        return float(np.trapezoid(self.points[:, 1], self.points[:, 0]))


def curve_of(success: Sequence[float], drops: Sequence[float]) -> Curve:
    """Return the curve through ASR and CAD at each of some settings, in whatever order.

    y is the function of ASR that grows and is nearest to CAD by least squares, settings of equal ASR being one point of
    their mean; x and y then go from 0, the least, to 1, the most. :class:`NotApplicableError` where there are too few
    settings, or too few that differ in ASR, or CAD does not grow with it.

    >>> curve_of([0.2, 1.0, 0.6], [0.0, 0.02, 0.005]).points.round(3).tolist()
    [[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]]
    """
    from scipy.optimize import isotonic_regression

    if len(success) < FEWEST:
        raise NotApplicableError(f"a curve needs {FEWEST} settings or more, here are {len(success)}")
    x, place = np.unique(np.round(success, _DECIMALS), return_inverse=True)
    if len(x) < FEWEST:
        raise NotApplicableError(f"a curve needs {FEWEST} values of ASR or more, here are {len(x)}")
    counts = np.bincount(place)
    measured = np.bincount(place, drops) / counts
    fitted = isotonic_regression(measured, weights=counts).x
    growth = float(fitted[-1] - fitted[0])
    if round(growth, _DECIMALS) == 0:
        raise NotApplicableError("CAD does not grow with ASR")
    points = np.stack([_normalised(x), _normalised(fitted)], axis=1)
    return Curve(points, growth, int((np.round(fitted - measured, _DECIMALS) != 0).sum()))


def _normalised(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (values - values[0]) / (values[-1] - values[0])
    return scaled


def noise_over_seeds(drops: np.ndarray) -> float:
    """Return two standard errors of the difference in mean CAD between two settings, of ``drops (settings, seeds)``.

    What all settings of a seed share, as its benign twin, is no noise of a difference; the factor 2 is that of
    Student's t. Noise alone makes the regression grow by more in about one curve of twenty.
    """
    from scipy.special import stdtrit

    settings, seeds = drops.shape
    free = (settings - 1) * (seeds - 1)
    scattered = drops - drops.mean(0) - drops.mean(1, keepdims=True) + drops.mean()
    return float(stdtrit(free, 0.975) * np.sqrt(2 / seeds * (scattered**2).sum() / free))


def noise_of_images(accuracy: float, images: int) -> float:
    """Return two standard errors of the difference in CAD between two models, of independent test images."""
    return 2 * math.sqrt(2 * accuracy * (1 - accuracy) / images)


@dataclass(frozen=True, eq=False)
class Leverage:
    """One attack over the values of a field: means over seeds of ASR and CAD at each, and the curve through them.

    ``settings`` names all that it may not share with others, the attack last. ``left_out`` are the values at which CAD
    is over the bound. ``noise`` is by how much CAD may grow by chance: of several seeds that were run at all other
    values by :func:`noise_over_seeds`, else by :func:`noise_of_images`, ``None`` where these are not known. ``by_seed``
    has the area of each such seed, unless the curve is chance; ``reason`` says why there is no area.
    """

    settings: tuple[str, ...]
    values: tuple[Any, ...]
    success: tuple[float, ...]
    drops: tuple[float, ...]
    seeds: tuple[int, ...]
    left_out: tuple[Any, ...]
    curve: Curve | None
    noise: float | None
    reason: str
    by_seed: tuple[float, ...]

    @property
    def attack(self) -> str:
        """Return the attack's name, with what tells it from others."""
        return self.settings[-1]

    @property
    def area(self) -> float | None:
        """Return the area under the curve; ``None`` where there is none, or it is mostly chance."""
        return None if self.curve is None or self.reason else self.curve.auc

    @property
    def interval(self) -> Interval | None:
        """Return the interval of the mean area of a seed."""
        return mean_interval(self.by_seed)


def leverages(records: Sequence[Record], axis: Axis) -> list[Leverage]:
    """Return every attack that took several values of a field, all else but the seeds the same.

    Whether an attack took is no matter: low success is one end of the curve.
    """
    # With a defense or without one: every record of a trojan has the trojan's own numbers.
    found = [each for each in records if name_of(each.attack) != "none" and axis.value(each) is not None]
    settings = Settings(found, [axis])
    order = [part for part in _SHARED if part != "attack"] + ["attack"]
    alike = partition(found, lambda record: tuple(settings.key(record, part) for part in _SHARED))
    made = [
        _leverage(tuple(settings.label(members[0], part) for part in order), members, axis)
        for members in alike.values()
    ]
    return sorted((each for each in made if each), key=lambda each: list(map(natural, each.settings)))


def _leverage(settings: tuple[str, ...], records: Sequence[Record], axis: Axis) -> Leverage | None:
    measured: dict[str, dict[int, tuple[float, float]]] = {}
    for text, members in partition(records, lambda record: json.dumps(axis.value(record))).items():
        asr, cad = (sample(metric, members).values for metric in (_ASR, _CAD))
        both = {seed: (asr[seed], cad[seed]) for seed in asr if seed in cad}
        if both:
            measured[text] = both
    if len(measured) < 2:
        return None
    means = {
        text: (fmean(asr for asr, _ in measured[text].values()), fmean(cad for _, cad in measured[text].values()))
        for text in sorted(measured, key=natural)
    }
    kept = [text for text, (_, drop) in means.items() if drop <= MOST_DROP]
    seeds = sorted({seed for text in kept for seed in measured[text]})
    whole = [seed for seed in seeds if all(seed in measured[text] for text in kept)]
    curve, reason = _attempt([means[text] for text in kept])
    noise = _noise([[measured[text][seed][1] for seed in whole] for text in kept], records)
    if curve is not None and noise is not None and curve.growth < noise:
        reason = f"{CHANCE}: CAD grows by {_fine(curve.growth)} points, two standard errors are {_fine(noise)}"
    by_seed = [_attempt([measured[text][seed] for text in kept])[0] for seed in whole]
    return Leverage(
        settings=settings,
        values=tuple(json.loads(text) for text in kept),
        success=tuple(means[text][0] for text in kept),
        drops=tuple(means[text][1] for text in kept),
        seeds=tuple(seeds),
        left_out=tuple(json.loads(text) for text in means if text not in kept),
        curve=curve,
        noise=noise,
        reason=reason,
        by_seed=() if reason else tuple(each.auc for each in by_seed if each is not None),
    )


def _noise(drops: Sequence[Sequence[float]], records: Sequence[Record]) -> float | None:
    if len(drops) > 1 and len(drops[0]) > 1:
        return noise_over_seeds(np.array(drops))
    images = max((each for record in records if isinstance(each := record.counts.get(_CAD.name), int)), default=0)
    accuracies = [right for record in records if (right := measure(record, _ACC.name)) is not None]
    return noise_of_images(fmean(accuracies), images) if images and accuracies else None


def _fine(share: float) -> str:
    return f"{100 * share:.2f}"


def _attempt(points: Sequence[tuple[float, float]]) -> tuple[Curve | None, str]:
    try:
        return curve_of([asr for asr, _ in points], [cad for _, cad in points]), ""
    except NotApplicableError as reason:
        return None, str(reason)


def explained(found: Sequence[Leverage]) -> list[str]:
    """Return what has to be said of some curves."""
    moved = sum(each.curve.moved for each in found if each.curve)
    points = sum(len(each.curve.points) for each in found if each.curve)
    lost = [f"{each.attack} {', '.join(map(str, each.left_out))}" for each in found if each.left_out]
    noise = f", which moved {moved} of {points} points" if moved else ""
    chance = any(each.reason.startswith(CHANCE) for each in found)
    return [
        "ASR and CAD of each attack go from 0 (its least) to 1 (its most); the smaller the area, the more leverage",
        f"CAD is its isotonic regression over ASR{noise}",
        *([f"{CHANCE}: CAD grows by less than two standard errors of the difference between two settings"] * chance),
        *([f"left out, as CAD is over {POINTS.text(MOST_DROP)} points: {'; '.join(lost)}"] if lost else []),
    ]


def leverage_table(records: Sequence[Record], column: str) -> Sheet:
    """Return the area of every attack over the values of a field, as ``attack.poison_rate``.

    :class:`RequestError` where the column is no such field, or no attack took several values of it.
    """
    axis = find_axis(column, records)
    if axis.whole or axis.part not in _SHARED:
        raise RequestError(f"'{column}' is no field that a curve can run along: name one, as attack.poison_rate")
    found = leverages(records, axis)
    if not found:
        raise RequestError(f"no attack was run at several values of {column}, all else the same")
    field = axis.column.rpartition(".")[2]
    heads = ("AUC ↓", "mean of seeds", "95 % interval", "ASR (%)", "CAD (points)", f"n {field}", "n seeds")
    names = [*(part for part in _SHARED if part != "attack"), "attack"]
    varied = [len({each.settings[place] for each in found}) > 1 for place in range(len(names))]
    told = [place for place, name in enumerate(names) if name == "attack" or varied[place]]
    constant = [f"{name} {found[0].settings[place]}" for place, name in enumerate(names) if place not in told]
    own = "AUC: of the means over seeds; beside it the mean of the seeds' own, with its interval by Student's t"
    return Sheet(
        caption=f"Area under clean accuracy drop against attack success over {column}; {', '.join(constant)}",
        stubs=tuple(names[place] for place in told),
        heads=tuple(Head("", each) for each in heads),
        lines=tuple(Line(tuple(each.settings[place] for place in told), _entries(each)) for each in found),
        remarks=(own, *explained(found)),
        numbers=lambda: [dict(zip(names, each.settings, strict=True)) | _numbers(each, column) for each in found],
    )


def _entries(each: Leverage) -> tuple[Entry, ...]:
    def text(value: float) -> str:
        return f"{value:.3f}"

    few = (f"{len(each.by_seed)} of {len(each.seeds)} seeds have a curve of their own",)
    some = few if len(each.by_seed) < len(each.seeds) and not each.reason else ()
    unsure = ("how much of it is chance is not known: one seed, of no known number of test images",)
    return (
        Entry("–", (each.reason,)) if each.area is None else Entry(text(each.area), unsure * (each.noise is None)),
        Entry(text(fmean(each.by_seed)) if each.by_seed else "–", some),
        Entry(f"[{', '.join(text(min(max(end, 0), 1)) for end in each.interval)}]" if each.interval else "–"),
        Entry(_range(_ASR.unit.text, each.success)),
        Entry(_range(_CAD.unit.text, each.drops)),
        Entry(str(len(each.values))),
        Entry(str(len(each.seeds))),
    )


def _range(text: Callable[[float], str], values: Sequence[float]) -> str:
    return f"{text(min(values))} to {text(max(values))}" if values else "–"


def _numbers(each: Leverage, column: str) -> dict[str, Any]:
    """Return the exact numbers, JSON-ready."""
    low, high = each.interval or (None, None)
    return {
        "column": column,
        "auc": each.area,
        "reason": each.reason,
        "growth": each.curve.growth if each.curve else None,
        "noise": each.noise,
        "mean": fmean(each.by_seed) if each.by_seed else None,
        "low": low,
        "high": high,
        "by_seed": list(each.by_seed),
        "seeds": list(each.seeds),
        "values": list(each.values),
        "asr": list(each.success),
        "cad": list(each.drops),
        "left_out": list(each.left_out),
    }
