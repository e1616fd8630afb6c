"""What the report shows of each trojan and of each cell beside the tables: pictures, charts, times, command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gifthorse.core.command import command
from gifthorse.core.metric import METRICS
from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.evidence import class_values, drawable, mask_norms, suspect_of, true_targets
from gifthorse.report.figures import Histogram, Picture, bar_chart, histograms, picture_row, recovered_triggers
from gifthorse.report.naming import attack_labels, key, labels
from gifthorse.report.tables import Value, downstream_labels, measure, samples

GALLERY = 20
"""Most recovered triggers shown of one model."""

_PICTURES = {
    "clean": "Clean test images",
    "stamped": "Stamped with the trigger",
    "reformed": "Reformed by the defense, as the model sees them",
}


@dataclass(frozen=True)
class Shown:
    """A picture with its caption; ``marked`` sets it off from its neighbours."""

    picture: Picture
    caption: str
    marked: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class CellDetail:
    """One cell, opened up."""

    title: str
    record: Record
    rows: tuple[Shown, ...]
    charts: tuple[Chart, ...]
    triggers: tuple[Shown, ...]
    triggers_caption: str
    measurements: tuple[tuple[str, Value], ...]
    times: tuple[tuple[str, str], ...]
    command: str


@dataclass(frozen=True)
class TrojanDetail:
    """One trojan (an attack and a seed): what it looks like and every cell that met it."""

    attack: str
    seed: int
    rows: tuple[Shown, ...]
    cells: tuple[CellDetail, ...]


def trojans(cells: Sequence[ReportCell]) -> list[TrojanDetail]:
    """Return the details of cells that share a data set, model, training recipe and profile."""
    attacks = attack_labels(cell.record for cell in cells)
    defenses = labels(cell.record.defense for cell in cells if cell.record.defense is not None)
    tunings = downstream_labels(cell.record for cell in cells)

    def title(record: Record) -> str:
        if record.id in tunings:
            return f"downstream {tunings[record.id]}"
        return defenses.get(key(record.defense), "attack alone")

    parts: dict[tuple[str, int], list[ReportCell]] = {}
    for cell in cells:
        parts.setdefault((key(cell.record.attack), cell.record.seed), []).append(cell)
    return [
        TrojanDetail(
            attack=attacks[attack],
            seed=seed,
            rows=_picture_rows(
                next((cell.evidence for cell in members if "clean" in cell.evidence), {}), "clean", "stamped"
            ),
            cells=tuple(_cell(cell, title(cell.record)) for cell in members),
        )
        for (attack, seed), members in sorted(
            parts.items(), key=lambda item: item[1][0].record.attack.get("name") != "none"
        )
    ]


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


def _cell(cell: ReportCell, title: str) -> CellDetail:
    record, evidence = cell.record, cell.evidence
    before = "stamped" if "stamped" in evidence else "clean"
    triggers, caption = _triggers(record, evidence)
    return CellDetail(
        title=title,
        record=record,
        rows=_picture_rows(evidence, before, "reformed") if "reformed" in evidence else (),
        charts=tuple(chart for chart in (_class_chart(record, evidence), _score_chart(evidence)) if chart),
        triggers=triggers,
        triggers_caption=caption,
        measurements=_measurements(record),
        times=_times(record),
        command=command(record.model_dump(), " \\\n  "),
    )


def _picture_rows(evidence: Mapping[str, np.ndarray], *names: str) -> tuple[Shown, ...]:
    found = [(name, pixels) for name in names if (pixels := evidence.get(name)) is not None and drawable(pixels)]
    return tuple(Shown(picture_row(pixels), _PICTURES[name]) for name, pixels in found)


def _class_chart(record: Record, evidence: Mapping[str, np.ndarray]) -> Chart | None:
    found = class_values(record, evidence)
    if found is None:
        return None
    what, values = found
    suspect, targets = suspect_of(record), true_targets(record)
    caption = f"{what[0].upper()}{what[1:]} per class; dashed: the median."
    caption += " No class is suspect." if suspect is None else f" Suspect: class {suspect}, highlighted."
    if len(targets) == 1:
        caption += f" ▲ true target: class {targets[0]}."
    elif targets:
        which = "all classes" if len(targets) == len(values) else f"classes {', '.join(map(str, targets))}"
        caption += f" ▲ true targets: {which}."
    return Chart(bar_chart(values, what, suspect, targets, record.class_names), caption)


def _score_chart(evidence: Mapping[str, np.ndarray]) -> Chart | None:
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


def _triggers(record: Record, evidence: Mapping[str, np.ndarray]) -> tuple[tuple[Shown, ...], str]:
    masks, patterns = evidence.get("masks"), evidence.get("patterns")
    if masks is None or patterns is None or len(masks) != len(patterns) or not drawable(patterns):
        return (), ""
    suspect, targets = suspect_of(record), true_targets(record)
    smallest = sorted(range(len(masks)), key=mask_norms(masks).__getitem__)[:GALLERY]
    chosen = sorted({*smallest, *(target for target in targets[:GALLERY] if target < len(masks))})
    pictures = recovered_triggers(masks, patterns)
    rates = record.metrics.get("defense.held_out_asr")
    rates = rates if isinstance(rates, list) and len(rates) == len(masks) else None

    def label(index: int) -> str:
        name = f"{index} ▲" if index in targets else str(index)
        return f"{name}: {rates[index]:.0%}" if rates is not None else name

    shown = [Shown(picture_row(pictures[[index]]), label(index), index == suspect) for index in chosen]
    true_mask = evidence.get("true_mask")
    if true_mask is not None and drawable(true_mask[None]):
        levels = np.rint(255 * np.clip(true_mask, 0, 1)).astype(np.uint8)
        shown.append(Shown(picture_row(levels[None]), "true mask"))
    caption = "Recovered mask × pattern of each class"
    caption += " and its ASR on the defender's held-out images" if rates is not None else ""
    return tuple(shown), caption if len(chosen) == len(masks) else f"{caption}; the {GALLERY} smallest of {len(masks)}"


def _measurements(record: Record) -> tuple[tuple[str, Value], ...]:
    """Return every scalar that the record holds, the attack's only where there is nothing that followed it."""
    alone = record.defense is None and record.downstream is None
    scopes = ("attack.", "benign.") if alone else ("defense.", "downstream.")
    found = []
    for name in record.metrics:
        value, metric = measure(record, name), METRICS.find(name)
        if value is not None and name.startswith(scopes):
            text = f"{metric.unit.text(value)} {metric.unit.symbol}".strip().replace(" %", "%")
            found.append((metric.title, Value(name, text, "", repr(value), (record.id,), samples(name, record))))
    return tuple(found)


def _times(record: Record) -> tuple[tuple[str, str], ...]:
    times = [(METRICS.find(f"seconds.{stage}").title, duration(value)) for stage, value in record.seconds.items()]
    if record.peak_memory_mb is not None:
        times.append(("peak memory", f"{record.peak_memory_mb} MB"))
    return tuple(times)
