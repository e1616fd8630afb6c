"""Two defenses on the same models, or two attacks, recipes or networks with the same seeds: differences, and a test.

Which mean is better says little: both met the same models, or began from the same seed, so what counts is the
difference on each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gifthorse.core.errors import RequestError
from gifthorse.core.metric import FLAG, FRACTION, Metric
from gifthorse.core.record import Record
from gifthorse.report.intervals import mean_interval
from gifthorse.report.matrix import Names, find_axis, find_metric, follows, heading, headline, order, slots
from gifthorse.report.settings import FOLLOWING, PARTS, Settings
from gifthorse.report.sheet import Entry, Head, Line, Sheet
from gifthorse.report.tables import measure, partition

TEST = "Wilcoxon signed-rank test"
EXACT_WITH_TIES, EXACT = 13, 50
"""Up to so many differences the test is exact: where some are of one size, and where none are."""
DECIMALS = 12
"""Up to so many decimals two differences are told apart."""
ALPHA = 0.05

COMPARED = {"defense": "defenses", "attack": "attacks", "training": "training recipes", "model": "models"}
"""The parts of the settings of which two may be compared."""
_OF_TROJANS = ("attack.asr", "attack.cad")
"""What is shown of two that are no defenses, unless something else is asked for."""


def signed_rank(differences: Sequence[float]) -> tuple[float, str]:
    """Return the two-sided p value of Wilcoxon's signed-rank test, and what it is called; zeros drop out.

    >>> signed_rank([1.0, 2.0, 3.0, 4.0, 5.0, 0.0])
    (0.0625, 'Wilcoxon signed-rank test, exact')
    """
    # Differences of equal size stay ties, and none stays 0, whatever their floating-point numbers.
    found = [each for each in (round(each, DECIMALS) for each in differences) if each]
    if not found:
        return 1.0, f"{TEST}, exact"
    from scipy.stats import wilcoxon

    ties = len({abs(each) for each in found}) < len(found)
    exact = len(found) <= (EXACT_WITH_TIES if ties else EXACT)
    return float(wilcoxon(found).pvalue), f"{TEST}, {'exact' if exact else 'normal approximation'}"


@dataclass(frozen=True)
class Pairs:
    """What two defenses scored by one metric on the same models."""

    metric: Metric
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def differences(self) -> list[float]:
        """Return by how much the first is above the second, model by model."""
        return [first - second for first, second in zip(self.first, self.second, strict=True)]

    def entries(self) -> tuple[Entry, ...]:
        """Return both means, the mean difference with its interval, the number of pairs and p."""
        n, text = len(self.first), (FRACTION if self.metric.unit == FLAG else self.metric.unit).text
        if not n:
            return (*(Entry("–", ("no model met both",)) for _ in range(4)), Entry("0"), Entry("–"))
        ends, (p, _) = mean_interval(self.differences), signed_rank(self.differences)
        few = (f"with so few pairs (n = {n}) no p is under {2 / 2**n:.3g}",) if 2 / 2**n > ALPHA else ()
        return (
            *(Entry(text(fmean(each))) for each in (self.first, self.second, self.differences)),
            Entry(f"[{', '.join(map(text, ends))}]") if ends else Entry("–", ("one pair has no interval",)),
            Entry(str(n)),
            Entry(f"{p:.4f}" if p >= 1e-4 else "< 0.0001", few),
        )

    def numbers(self) -> dict[str, Any]:
        """Return the exact numbers, JSON-ready."""
        first, second, difference = (
            fmean(each) if self.first else None for each in (self.first, self.second, self.differences)
        )
        low, high = mean_interval(self.differences) or (None, None)
        p, test = signed_rank(self.differences) if self.first else (None, None)
        found = {"n": len(self.first), "first_mean": first, "second_mean": second, "difference": difference}
        return {"metric": self.metric.name, **found, "low": low, "high": high, "p": p, "test": test}


def compare(
    first: Sequence[Record],
    second: Sequence[Record],
    metrics: Sequence[str] = (),
    rows: str | None = None,
    part: str = "defense",
) -> Sheet:
    """Return how two of a part of the settings differ where all else and the seeds are the same: first minus second.

    ``part`` is one of :data:`COMPARED`. Two defenses meet the same models: those whose attack did not take do not
    count, and those of all attacks are one sample unless ``rows`` tells them apart. Whatever else differs, seeds aside,
    always does. :class:`RequestError` where either side has several of the part.
    """
    records = [*first, *second]
    if not any(word.removeprefix("metrics.").startswith("analysis.") for word in metrics):
        # What was looked into was not judged.
        judged_ones = [[record for record in each if record.analysis is None] for each in (first, second)]
        first, second = (kept or each for kept, each in zip(judged_ones, (first, second), strict=True))
        records = [*first, *second]
    axis = None if rows is None else find_axis(rows, records)
    if axis is not None and axis.part == part:
        raise RequestError(f"--rows {rows} tells apart what is compared")
    whole, settings = Settings(records), Settings(records, [] if axis is None else [axis])
    names = [_only(each, whole, part) for each in (first, second)]
    if names[0] == names[1]:
        raise RequestError(f"{names[0]} cannot be compared with itself")
    asked = metrics or (() if part == "defense" else _OF_TROJANS)
    chosen = [find_metric(word, records) for word in asked] or [_common(first[0], second[0])]
    alike = _alike(part, chosen)
    if part != "defense":
        first, second = (
            [record for record in each if any(measure(record, metric.name) is not None for metric in chosen)]
            for each in (first, second)
        )
    pooled = part == "defense" and (axis is None or axis.part != "attack")
    layout, _ = slots(axis, None, [each for each in alike if not (pooled and each == "attack")])

    met, alone = _met_by_both(first, second, whole, alike, trojan=part == "defense")
    # Of attacks themselves low success is a result; a defense gets no credit for it.
    judged = part == "defense" or follows(chosen[0]) is not None
    valid = [pair for pair in met if not judged or all(measure(each, "attack.valid") != 0 for each in pair)]
    if not valid:
        said = (
            "met no model in common whose attack took" if part == "defense" else "have no seed and settings in common"
        )
        raise RequestError(f"{names[0]} and {names[1]} {said}")
    lines: dict[Names, list[tuple[Record, Record]]] = {}
    for pair in valid:
        lines.setdefault(tuple(slot.named(pair[0], settings) for slot in layout), []).append(pair)
    found = [(row, _pairs(metric, lines[row])) for row in sorted(lines, key=order) for metric in chosen]
    told = [place for place, slot in enumerate(layout) if slot.axis or len({row[place] for row in lines}) > 1]
    constant = [f"{slot.heading} {found[0][0][place].label}" for place, slot in enumerate(layout) if place not in told]
    where = "on the same models" if part == "defense" else "with the same seeds"
    return Sheet(
        caption=f"{' and '.join(names)} {where}{' of all attacks' if pooled else ''}; {', '.join(constant)}",
        stubs=(*(layout[place].heading for place in told), "metric"),
        heads=tuple(Head("", each) for each in (*names, "difference", "95 % interval", "n pairs", "p")),
        lines=tuple(
            Line((*(row[place].label for place in told), heading(pairs.metric, chosen)), pairs.entries())
            for row, pairs in found
        ),
        remarks=tuple(_remarks([pairs for _, pairs in found], names, alone, len(met) - len(valid), part)),
        numbers=lambda: [
            {slot.heading: name.label for slot, name in zip(layout, row, strict=True)}
            | {"first": names[0], "second": names[1]}
            | pairs.numbers()
            for row, pairs in found
        ],
    )


def _alike(part: str, metrics: Sequence[Metric]) -> list[str]:
    """Return the parts in which two records have to be equal to be a pair."""
    if part == "defense":
        return [each for each in PARTS if each not in (part, "downstream")]
    followed = {follows(metric) for metric in metrics}
    if len(followed) > 1:
        raise RequestError(
            f"{', '.join(metric.name for metric in metrics)} are of different cells: ask for one at a time"
        )
    return [each for each in PARTS if each != part and (each not in FOLLOWING or None not in followed)]


def _only(records: Iterable[Record], settings: Settings, part: str) -> str:
    """Return the name of the one defense, or attack and so on, of some records."""
    found = sorted({settings.label(record, part) for record in records})
    if len(found) > 1:
        raise RequestError(f"{len(found)} {COMPARED[part]} are meant, say which: {', '.join(found)}")
    return found[0]


def _common(first: Record, second: Record) -> Metric:
    """Return the metric that stands for both defenses."""
    one, other = headline(first), headline(second)
    if one != other:
        raise RequestError(f"one is judged by {one.name}, the other by {other.name}: name a metric of both")
    return one


def _met_by_both(
    first: Iterable[Record], second: Iterable[Record], settings: Settings, alike: Sequence[str], *, trojan: bool
) -> tuple[list[tuple[Record, Record]], tuple[int, int]]:
    """Return the last records of either side that are a pair, and how many settings and seeds one side alone has.

    Of the same ``trojan`` they are where two defenses are compared.
    """
    met = [
        partition(each, lambda record: (record.seed, *(settings.key(record, part) for part in alike)))
        for each in (first, second)
    ]
    pairs = []
    for model, ones in met[0].items():
        both = (
            (one, other)
            for one in ones[::-1]
            for other in met[1].get(model, [])[::-1]
            if not trojan or _same_trojan(one, other)
        )
        pairs += [pair for pair in [next(both, None)] if pair]
    return pairs, (len(met[0]) - len(pairs), len(met[1]) - len(pairs))


def _same_trojan(one: Record, other: Record) -> bool:
    """Tell whether two records of equal settings are of one trojan; an edited attack plants another."""
    keys = [(record.artifacts or {}).get("trojan") for record in (one, other)]
    return None in keys or keys[0] == keys[1]


def _pairs(metric: Metric, records: Iterable[tuple[Record, Record]]) -> Pairs:
    measured = [(measure(one, metric.name), measure(other, metric.name)) for one, other in records]
    both = [(one, other) for one, other in measured if one is not None and other is not None]
    return Pairs(metric, tuple(one for one, _ in both), tuple(other for _, other in both))


def _remarks(found: Sequence[Pairs], names: Sequence[str], alone: Sequence[int], invalid: int, part: str) -> list[str]:
    tests = sorted({signed_rank(pairs.differences)[1] for pairs in found})
    only, each = ("models that only {} met", "model") if part == "defense" else ("seeds that only {} has", "seed")
    counts = {
        **{only.format(name): count for name, count in zip(names, alone, strict=True)},
        f"{each}s left out because the attack did not take": invalid,
    }
    return [
        f"difference: {names[0]} minus {names[1]}, {each} by {each}; the interval is that of its mean, by Student's t",
        f"p: {' or '.join(tests)}, two-sided, of the differences",
        *([f"p is not adjusted for the {len(found)} tests of this table"] if len(found) > 1 else []),
        *(f"{said}: {count}" for said, count in counts.items() if count),
    ]
