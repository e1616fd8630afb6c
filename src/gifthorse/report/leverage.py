"""How little clean accuracy success costs an attack: the efficacy-specificity trade-off and the area under it.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), sections 4.2 and 5.2.2, figure 5: the share of stamped images is
    varied, ASR and CAD are each taken to [0,1] attack by attack, and a smaller area means more leverage.
Differs: which axis is which the paper leaves to "smaller is stronger": the area is under CAD as a function of ASR. CAD
    of few test images is noise as well; so that it is a function that grows, it is the largest so far.
"""

import json
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
from gifthorse.report.tables import partition

MOST_DROP = 0.03
"""The paper's bound of CAD: what costs more is no point of a curve."""
FEWEST = 3
"""Fewest points of a curve: two always lie on the diagonal."""
FEW_IMAGES = 10
"""An area of fewer test images than so many is marked: which they are is chance."""
_ASR, _CAD = METRICS["attack.asr"], METRICS["attack.cad"]
_SHARED = tuple(part for part in PARTS if part not in FOLLOWING)


@dataclass(frozen=True, eq=False)
class Curve:
    """CAD as a function of ASR, both normalised: ``points (N, 2)`` from ASR 0 to ASR 1.

    ``raised`` is at how many of them CAD was less than at a lower ASR, and counts as that.
    """

    points: np.ndarray
    raised: int

    @property
    def auc(self) -> float:
        """Return the area under the curve in [0,1], by trapezoids; 0.5 is the diagonal."""
        return float(np.trapezoid(self.points[:, 1], self.points[:, 0]))


def curve_of(success: Sequence[float], drops: Sequence[float]) -> Curve:
    """Return the curve through ASR and CAD at each of some settings, in whatever order.

    With x = (ASR − min ASR) / (max ASR − min ASR), y likewise of CAD, and x sorted: y is its running maximum.
    :class:`NotApplicableError` where there are too few settings, or they do not differ in one of the two.

    >>> curve_of([0.2, 1.0, 0.6], [0.0, 0.02, 0.005]).points.round(3).tolist()
    [[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]]
    """
    if len(success) < FEWEST:
        raise NotApplicableError(f"a curve needs {FEWEST} settings or more, here are {len(success)}")
    if max(success) == min(success):
        raise NotApplicableError("ASR is the same at every setting")
    if max(drops) == min(drops):
        raise NotApplicableError("CAD is the same at every setting")
    x, y = (_normalised(np.asarray(values, float)) for values in (success, drops))
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    grown = np.maximum.accumulate(y)
    return Curve(np.stack([x, grown], axis=1), int((grown > y).sum()))


def _normalised(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (values - values.min()) / (values.max() - values.min())
    return scaled


@dataclass(frozen=True, eq=False)
class Leverage:
    """One attack over the values of a field: means over seeds of ASR and CAD at each, and the curve through them.

    ``settings`` names all that it may not share with others, the attack last; ``images`` is how many test images there
    are, 0 where that is not known. ``left_out`` are the values at which CAD
    is over the bound. ``by_seed`` has the area of each seed that was run at all other values; ``reason`` says why there
    is no curve.
    """

    settings: tuple[str, ...]
    values: tuple[Any, ...]
    images: int
    success: tuple[float, ...]
    drops: tuple[float, ...]
    seeds: tuple[int, ...]
    left_out: tuple[Any, ...]
    curve: Curve | None
    reason: str
    by_seed: tuple[float, ...]

    @property
    def attack(self) -> str:
        """Return the attack's name, with what tells it from others."""
        return self.settings[-1]

    @property
    def changed(self) -> float | None:
        """Return of how many test images in all CAD tells; fewer than some tell nothing."""
        return self.images * (max(self.drops) - min(self.drops)) if self.images and self.drops else None

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
    by_seed = [_attempt([measured[text][seed] for text in kept])[0] for seed in whole]
    return Leverage(
        settings=settings,
        values=tuple(json.loads(text) for text in kept),
        images=max((each for record in records if isinstance(each := record.counts.get(_CAD.name), int)), default=0),
        success=tuple(means[text][0] for text in kept),
        drops=tuple(means[text][1] for text in kept),
        seeds=tuple(seeds),
        left_out=tuple(json.loads(text) for text in means if text not in kept),
        curve=curve,
        reason=reason,
        by_seed=tuple(each.auc for each in by_seed if each is not None),
    )


def _attempt(points: Sequence[tuple[float, float]]) -> tuple[Curve | None, str]:
    try:
        return curve_of([asr for asr, _ in points], [cad for _, cad in points]), ""
    except NotApplicableError as reason:
        return None, str(reason)


def explained(found: Sequence[Leverage]) -> list[str]:
    """Return what has to be said of some curves."""
    raised = sum(each.curve.raised for each in found if each.curve)
    points = sum(len(each.curve.points) for each in found if each.curve)
    lost = [f"{each.attack} {', '.join(map(str, each.left_out))}" for each in found if each.left_out]
    noise = f"; at {raised} of {points} points it was less, by chance" if raised else ""
    return [
        "ASR and CAD of each attack go from 0 (its least) to 1 (its most); the smaller the area, the more leverage",
        f"CAD is the largest up to each ASR{noise}",
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
    weak = each.changed is not None and each.changed < FEW_IMAGES
    noise = (f"CAD changes by {each.changed:.0f} of {each.images} test images: mostly chance",) if weak else ()
    some = few if len(each.by_seed) < len(each.seeds) else ()
    return (
        Entry(text(each.curve.auc), noise) if each.curve else Entry("–", (each.reason,)),
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
        "auc": each.curve.auc if each.curve else None,
        "reason": each.reason,
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
