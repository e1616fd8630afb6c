"""What the report shows of each trojan and of each cell beside the tables: pictures, charts, times, command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gifthorse.core.command import command
from gifthorse.core.metric import CLASS, METRICS, Metric
from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.clusters import cluster_maps
from gifthorse.report.clusters import to_svg as cluster_svg
from gifthorse.report.evidence import Arrays, class_values, drawable, mask_norms, suspect_of, true_targets
from gifthorse.report.figures import (
    Histogram,
    bar_chart,
    difference_chart,
    finding_chart,
    histograms,
    recovered_triggers,
)
from gifthorse.report.findings import Finding, findings
from gifthorse.report.matrix import headline
from gifthorse.report.naming import attack_labels, class_label, key, labels, name_of
from gifthorse.report.pictures import Pictures
from gifthorse.report.proposals import proposed
from gifthorse.report.review import said_of_review
from gifthorse.report.tables import (
    analysis_labels,
    downstream_labels,
    measure,
    samples,
    stamp_labels,
    statuses_of,
    targets_of,
)


@dataclass(frozen=True)
class Extent:
    """How much is shown of a cell: most pictures in a row, recovered triggers, maps of features, points of a group."""

    pictures: int
    triggers: int
    maps: int
    points: int


FULL, BRIEF = Extent(pictures=8, triggers=20, maps=3, points=500), Extent(pictures=4, triggers=4, maps=1, points=100)

_PICTURES = {
    "clean": "Clean test images",
    "clean_heat": "Where the model's answers to these come from (Grad-CAM)",
    "stamped": "Stamped with the trigger",
    "stamped_heat": "Where the model's answers to these come from (Grad-CAM)",
    "varied": "With the trigger as it was shown here",
    "unstamped": "Transformed without a trigger",
    "samples": "Samples that the defense generated",
    "reformed": "Reformed by the defense, as the model sees them",
    "flagged": "Flagged by the defense, clean and stamped ones mixed",
}

_OF_TROJANS = ("clean", "clean_heat", "stamped", "stamped_heat")


@dataclass(frozen=True)
class Shown:
    """A picture, by its number in :class:`Pictures`, with its caption; ``marked`` sets it off from its neighbours."""

    picture: int
    caption: str
    marked: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart with its caption; ``narrow`` where it is as high as it is wide."""

    svg: Markup
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class Measurement:
    """A number of a cell, ready to print; ``n`` is of how many samples it is, where they are counted."""

    title: str
    text: str
    n: str


@dataclass(frozen=True)
class CellLine:
    """One cell in a line; ``finding`` is its main number."""

    attack: str
    title: str
    finding: str
    statuses: tuple[str, ...]
    record: Record


@dataclass(frozen=True)
class CellDetail:
    """One cell, opened up."""

    line: CellLine
    rows: tuple[Shown, ...]
    charts: tuple[Chart, ...]
    triggers: tuple[Shown, ...]
    triggers_caption: str
    measurements: tuple[Measurement, ...]
    times: tuple[tuple[str, str], ...]
    command: str
    review: str = ""
    proposal: str = ""


@dataclass(frozen=True)
class TrojanDetail:
    """One trojan (an attack and a seed): what it looks like and every cell that met it."""

    attack: str
    seed: int
    targets: str
    rows: tuple[Shown, ...]
    cells: tuple[CellDetail, ...]


class Lines:
    """The lines of the cells of one group, and what tells their attacks, defenses and downstream users apart."""

    def __init__(self, records: Sequence[Record]):
        self._attacks = attack_labels(records)
        self._defenses = labels(record.defense for record in records if record.defense is not None)
        self._tunings = downstream_labels(records)
        self._stamps = stamp_labels(records)
        self._analyses = analysis_labels(records)

    def line(self, record: Record) -> CellLine:
        """Return the line of one of the records."""
        title = self._defenses.get(key(record.defense), "attack alone")
        if record.id in self._tunings:
            title = f"downstream {self._tunings[record.id]}"
        if record.id in self._stamps:
            title += f", {self._stamps[record.id]}"
        if record.id in self._analyses:
            title = (
                f"{self._analyses[record.id]}, {title}" if record.defense or record.stamp else self._analyses[record.id]
            )
        return CellLine(self._attacks[key(record.attack)], title, _finding(record), statuses_of(record), record)


def trojans(cells: Sequence[ReportCell], lines: Lines, pictures: Pictures, extent: Extent = FULL) -> list[TrojanDetail]:
    """Return the details of cells of one group, benign models first."""
    parts: dict[tuple[str, int], list[ReportCell]] = {}
    for cell in cells:
        parts.setdefault((key(cell.record.attack), cell.record.seed), []).append(cell)
    found = []
    for (_, seed), members in parts.items():
        rows: tuple[Shown, ...] = ()
        details = []
        for cell in members:
            evidence = cell.evidence()
            rows = rows or _picture_rows(evidence, _OF_TROJANS, pictures, extent)
            line = lines.line(cell.record)
            said = said_of_review(cell.review, cell.record, evidence)
            details.append(_cell(line, evidence, pictures, extent, said))
        targets = targets_of(cell.record for cell in members)
        found.append(TrojanDetail(details[0].line.attack, seed, targets, rows, tuple(details)))
    return sorted(found, key=lambda trojan: name_of(trojan.cells[0].line.record.attack) != "none")


def duration(seconds: float) -> str:
    """Return a time in the unit that reads best.

    >>> duration(0.000033), duration(0.25), duration(3.27), duration(600)
    ('33 µs', '250 ms', '3.3 s', '10.0 min')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _cell(line: CellLine, evidence: Arrays, pictures: Pictures, extent: Extent, review: str) -> CellDetail:
    judged = tuple(name for name in ("unstamped", "varied") if name in evidence)
    before = judged or ("stamped" if "stamped" in evidence else "clean",)
    reformed = (*before, "reformed") if "reformed" in evidence else judged
    triggers, caption = _triggers(line.record, evidence, pictures, extent)
    found = findings(evidence) if line.record.analysis is not None else []
    return CellDetail(
        line=line,
        rows=(
            *_picture_rows(evidence, (*reformed, "samples", "flagged"), pictures, extent),
            *_translated_rows(line.record, evidence, pictures, extent),
            *_found_rows(found, pictures, extent),
        ),
        charts=(*_charts(line.record, evidence, extent), *_found_charts(line.record, found, extent)),
        triggers=triggers,
        triggers_caption=caption,
        measurements=_measurements(line.record),
        times=_times(line.record),
        command=command(line.record.model_dump(), " \\\n  "),
        review=review,
        proposal=proposed(line.record) or "",
    )


def _finding(record: Record) -> str:
    """Return what stands for the cell where there is room for one number."""
    metric = headline(record)
    value, flagged, suspect = measure(record, metric.name), measure(record, "defense.flagged"), suspect_of(record)
    if value is None:
        return ""
    found = [f"{metric.heading} {_text(metric, value, record)}"]
    if flagged is not None:
        found.append("flagged" if flagged else "not flagged")
    if suspect is not None:
        found.append(f"suspect {class_label(suspect, record.class_names)}")
    return ", ".join(found)


def _text(metric: Metric, value: float, record: Record) -> str:
    if metric.unit == CLASS:
        return class_label(int(value), record.class_names)
    return f"{metric.unit.text(value)} {metric.unit.symbol}".strip().replace(" %", "%")


def _picture_rows(evidence: Arrays, names: Sequence[str], pictures: Pictures, extent: Extent) -> tuple[Shown, ...]:
    found = [(name, pixels) for name in names if (pixels := evidence.get(name)) is not None and drawable(pixels)]
    return tuple(Shown(pictures.number(pixels[: extent.pictures]), _PICTURES[name]) for name, pixels in found)


def _translated_rows(record: Record, evidence: Arrays, pictures: Pictures, extent: Extent) -> tuple[Shown, ...]:
    """Show the same images on their way to every class, or to the first classes where little is shown."""
    found = evidence.get("translated")
    if found is None or found.ndim != 5 or not found.size:
        return ()
    suspect, names = suspect_of(record), record.class_names
    chosen = range(len(found)) if extent.pictures > 4 else [suspect if suspect in range(len(found)) else 0]
    rows = [(label, pictures.number(found[label][: extent.pictures])) for label in chosen if label is not None]
    return tuple(
        Shown(row, f"Translated to class {class_label(label, names)}", label == suspect) for label, row in rows
    )


def _found_rows(found: Sequence[Finding], pictures: Pictures, extent: Extent) -> Iterator[Shown]:
    """Yield the pictures that an analysis left."""
    for each in found:
        if each.kind == "pictures":
            (pixels,) = each.groups.values()
            yield Shown(pictures.number(pixels[: extent.pictures]), each.title)


def _found_charts(record: Record, found: Sequence[Finding], extent: Extent) -> Iterator[Chart]:
    """Yield charts of all else that an analysis left."""
    for each in found:
        if each.kind != "pictures":
            svg, caption = finding_chart(each, extent.points, record.class_names)
            yield Chart(svg, caption, narrow=each.kind in ("points", "against", "matrix"))


def _charts(record: Record, evidence: Arrays, extent: Extent) -> tuple[Chart, ...]:
    """Draw all that is drawn of a cell."""
    found = (
        _class_chart(record, evidence),
        _separation_chart(record),
        _score_chart(evidence),
        _difference_chart(evidence),
        *_cluster_maps(record, evidence, extent),
    )
    return tuple(chart for chart in found if chart is not None)


def _class_chart(record: Record, evidence: Arrays) -> Chart | None:
    found = class_values(record, evidence)
    if found is None:
        return None
    what, values = found
    suspect, targets, names = suspect_of(record), true_targets(record), record.class_names
    caption = f"{what[0].upper()}{what[1:]} per class; dashed: the median."
    said = "No class is suspect." if suspect is None else f"Suspect: class {class_label(suspect, names)}, highlighted."
    caption += f" {said}"
    if len(targets) == 1:
        caption += f" ▲ true target: class {class_label(targets[0], names)}."
    elif targets:
        listed = f"classes {', '.join(class_label(target, names) for target in targets)}"
        which = "all classes" if len(targets) == len(values) else listed
        caption += f" ▲ true targets: {which}."
    return Chart(bar_chart(values, what, suspect, targets, names), caption)


def _separation_chart(record: Record) -> Chart | None:
    values = record.metrics.get("defense.separations")
    if not isinstance(values, list) or not values:
        return None
    caption = "Separation of translated images from real ones per class, our own read-out, which decides nothing; "
    caption += "dashed: the median."
    return Chart(bar_chart(values, "separation", None, true_targets(record), record.class_names), caption)


def _cluster_maps(record: Record, evidence: Arrays, extent: Extent) -> list[Chart]:
    """Draw the classes with the most clusters, the suspect and the targets among them."""
    maps, suspect, targets = cluster_maps(evidence), suspect_of(record), true_targets(record)
    asked = [label for label in (suspect, *targets) if label in maps]
    most = sorted(maps, key=lambda label: -maps[label].count)
    found = []
    for label in list(dict.fromkeys([*asked, *most]))[: extent.maps]:
        each, name = maps[label], class_label(label, record.class_names)
        caption = f"Class {name}{' ▲' if label in targets else ''}: {each.count} clusters of "
        caption += (
            f"{int(each.translated.sum())} translated images (dots; some show themselves where they are pointed at)"
        )
        caption += f" and {int((~each.translated).sum())} clean ones (squares)."
        svg = cluster_svg(each, f"features of class {name} in {each.count} clusters", with_pictures=extent.pictures > 4)
        found.append(Chart(svg, caption))
    return found


def _score_chart(evidence: Arrays) -> Chart | None:
    if "clean_scores" not in evidence or "threshold" not in evidence:
        return None
    panels = [
        Histogram(style, style, evidence[f"{style}_scores"].ravel())
        for style in ("clean", "stamped")
        if f"{style}_scores" in evidence
    ]
    caption = "Scores of clean and stamped images, each panel on its own vertical scale; dashed: the threshold."
    threshold = float(evidence["threshold"].ravel()[0])
    if not any(np.isfinite(panel.values).any() for panel in panels):
        return None
    return Chart(histograms(panels, threshold, "score (flagged: above the threshold)"), caption)


def _difference_chart(evidence: Arrays) -> Chart | None:
    stages = {"before": "attack_latent_differences", "after": "defense_latent_differences"}
    found = {when: evidence[name][1] for when, name in stages.items() if name in evidence}
    if len(found) < len(stages) or not all(np.isfinite(values).all() and len(values) for values in found.values()):
        return None
    caption = "How far the trigger moves the penultimate layer, before and after the defense: L2 distance between an "
    caption += "image and the same one stamped; boxes are quartiles, whiskers 5 and 95 %."
    return Chart(difference_chart(found), caption)


def _triggers(record: Record, evidence: Arrays, pictures: Pictures, extent: Extent) -> tuple[tuple[Shown, ...], str]:
    masks, patterns = evidence.get("masks"), evidence.get("patterns")
    if masks is None or patterns is None or len(masks) != len(patterns) or not drawable(patterns):
        return (), ""
    suspect, targets = suspect_of(record), true_targets(record)
    smallest = sorted(range(len(masks)), key=mask_norms(masks).__getitem__)[: extent.triggers]
    asked = [suspect, *targets[: extent.triggers]]
    chosen = sorted({*smallest, *(index for index in asked if index is not None and index < len(masks))})
    recovered = recovered_triggers(masks, patterns)
    rates = record.metrics.get("defense.held_out_asr")
    rates = rates if isinstance(rates, list) and len(rates) == len(masks) else None

    def label(index: int) -> str:
        name = class_label(index, record.class_names) + (" ▲" if index in targets else "")
        return f"{name}: {rates[index]:.0%}" if rates is not None else name

    shown = [Shown(pictures.number(recovered[[index]]), label(index), index == suspect) for index in chosen]
    true_mask = evidence.get("true_mask")
    if true_mask is not None and drawable(true_mask[None]):
        levels = np.rint(255 * np.clip(true_mask, 0, 1)).astype(np.uint8)
        shown.append(Shown(pictures.number(levels[None]), "true mask"))
    caption = "Recovered mask × pattern of each class"
    caption += " and its ASR on the defender's held-out images" if rates is not None else ""
    if len(chosen) < len(masks):
        further = {*chosen} - {*smallest}
        caption += f"; the {len(smallest)} smallest of {len(masks)}"
        caption += " and the suspect’s" if suspect in further else ""
        caption += " and the target’s" if further & {*targets} else ""
    return tuple(shown), caption


def _measurements(record: Record) -> tuple[Measurement, ...]:
    """Return every scalar that the record holds, the attack's only where there is nothing that followed it."""
    followed = any((record.defense, record.downstream, record.stamp, record.analysis))
    scopes = ("defense.", "downstream.", "stamp.", "analysis.") if followed else ("attack.", "benign.")
    found = []
    for name in record.metrics:
        value, metric = measure(record, name), METRICS.find(name)
        if value is not None and name.startswith(scopes):
            found.append(Measurement(metric.title, _text(metric, value, record), samples(name, record)))
    return tuple(found)


def _times(record: Record) -> tuple[tuple[str, str], ...]:
    times = [(METRICS.find(f"seconds.{stage}").title, duration(value)) for stage, value in record.seconds.items()]
    if record.peak_memory_mb is not None:
        times.append(("peak memory", f"{record.peak_memory_mb} MB"))
    return tuple(times)
