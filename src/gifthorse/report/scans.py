"""Scans of delivered models: what inspectors found by class, and the recovered triggers on the user's images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gifthorse.core.metric import METRICS
from gifthorse.core.scan import Inspection, Scan
from gifthorse.report.evidence import Arrays, drawable
from gifthorse.report.figures import bar_chart, recovered_triggers
from gifthorse.report.pictures import Pictures

RATIO = METRICS["defense.aiv_ratio"]


@dataclass(frozen=True)
class TriggerShown:
    """A class with its recovered trigger, and images of other classes that carry it, by their pictures' numbers."""

    label: str
    trigger: int
    stamped: int
    caption: str
    suspect: bool


@dataclass(frozen=True)
class InspectionDetail:
    """One inspector's answer, opened up."""

    inspection: Inspection
    answer: str
    chart: Markup | None
    triggers: tuple[TriggerShown, ...]


@dataclass(frozen=True)
class ScanDetail:
    """One scan, opened up; ``clean`` is the number of the picture of some of the user's images."""

    scan: Scan
    clean: int | None
    inspections: tuple[InspectionDetail, ...]
    facts: tuple[tuple[str, str], ...]


def scan_detail(scan: Scan, evidence: Arrays, pictures: Pictures) -> ScanDetail:
    """Return what a page shows of a scan."""
    clean = evidence.get("clean")
    return ScanDetail(
        scan,
        None if clean is None or not drawable(clean) else pictures.number(clean),
        tuple(_detail(scan, number, each, evidence, pictures) for number, each in enumerate(scan.inspections)),
        tuple(_facts(scan)),
    )


def scan_page(scan: Scan, evidence: Arrays) -> str:
    """Return one scan as an HTML document that needs nothing else."""
    from gifthorse.report.html import TEMPLATES

    pictures = Pictures()
    detail = scan_detail(scan, evidence, pictures)
    page = TEMPLATES.get_template("scan.html.j2").render(
        title=f"Scan of {scan.title}", detail=detail, pictures=pictures
    )
    return page.lstrip()


def _detail(scan: Scan, number: int, inspection: Inspection, evidence: Arrays, pictures: Pictures) -> InspectionDetail:
    own = {name.partition("/")[2]: array for name, array in evidence.items() if name.startswith(f"{number}/")}
    return InspectionDetail(
        inspection, _answer(inspection), _chart(scan, inspection), tuple(_triggers(scan, inspection, own, pictures))
    )


def _answer(inspection: Inspection) -> str:
    if inspection.index is None:
        return f"skipped: {inspection.reason}"
    text = f"{inspection.index_name} {inspection.index:.3g}"
    if inspection.threshold is not None:
        text += f", threshold {inspection.threshold:.3g}"
    alarms = inspection.false_alarms()
    if alarms is not None:
        text += f"; {alarms[0]} of {alarms[1]} benign models of our populations are above it"
    return text


def _chart(scan: Scan, inspection: Inspection) -> Markup | None:
    sizes = [each.size for each in inspection.classes if each.size is not None]
    values, what = sizes, "L1 norm of the recovered mask"
    if not sizes or inspection.index_name != RATIO.title:
        values, what = [each.index for each in inspection.classes], inspection.index_name or "index"
    if not values:
        return None
    suspect = inspection.suspects[0] if inspection.suspects else None
    return bar_chart(values, what, suspect, (), scan.class_names)


def _triggers(
    scan: Scan, inspection: Inspection, own: Mapping[str, np.ndarray], pictures: Pictures
) -> Sequence[TriggerShown]:
    if not {"labels", "masks", "patterns", "stamped"} <= own.keys() or not drawable(own["patterns"]):
        return []
    triggers = recovered_triggers(own["masks"] / 255, own["patterns"])
    found = {each.label: each for each in inspection.classes}
    shown = []
    for place, label in enumerate(own["labels"].tolist()):
        about = found[label]
        facts = [f"mask of {about.size:.1f} pixels" if about.size is not None else ""]
        facts += [f"brings {about.success:.0%} of other images here" if about.success is not None else ""]
        shown.append(
            TriggerShown(
                scan.named(label),
                pictures.number(triggers[[place]]),
                pictures.number(own["stamped"][place]),
                ", ".join(filter(None, facts)),
                label in inspection.suspects,
            )
        )
    return shown


def _facts(scan: Scan) -> Sequence[tuple[str, str]]:
    size = "×".join(map(str, scan.images.shape))
    labels = "with labels" if scan.images.labelled else "without labels"
    facts = [
        ("Model", scan.title),
        ("SHA-256", str(scan.model.get("digest"))[:16] + "…"),
        ("Images", f"{scan.images.count} of {size}, {labels}"),
    ]
    if scan.accuracy is not None:
        facts.append(("Accuracy as delivered", f"{scan.accuracy:.3f}"))
    if scan.images.mean and scan.images.std:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (scan.images.mean, scan.images.std))
        facts.append(("Normalised by", f"mean {mean}; deviation {std}"))
    facts += [("Took", f"{scan.seconds:.0f} s"), ("When", scan.created[:16].replace("T", " "))]
    return facts
