"""The HTML report: one file that needs nothing else, to read, send and print."""

from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from gifthorse.core.family import ATTACK, FAMILIES
from gifthorse.core.metric import METRICS, Metric
from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.details import trojans
from gifthorse.report.naming import labels
from gifthorse.report.tables import group

OPEN_TROJANS, OPEN_CELLS = 12, 8
"""Reports of at most so many cells show their trojans, and their cells, unfolded."""

_TEMPLATES = Environment(
    loader=PackageLoader("gifthorse.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(cells: Sequence[ReportCell], title: str = "Backdoor report") -> str:
    """Return the report as one HTML document: no script, no network, every number traceable to its records."""
    by_id = {cell.record.id: cell for cell in cells}
    records = [cell.record for cell in by_id.values()]
    groups = group(records)
    page = _TEMPLATES.get_template("report.html.j2").render(
        title=title,
        facts=_facts(records),
        reduced=sorted({record.profile for record in records} - {"paper"}),
        groups=[(part, trojans([by_id[record.id] for record in part.records])) for part in groups],
        versions=len({part.version for part in groups}),
        attack=ATTACK,
        families=list(FAMILIES.values()),
        glossary=_glossary(records),
        anchors={identity: f"cell-{number}" for number, identity in enumerate(by_id, 1)},
        open_trojans=len(cells) <= OPEN_TROJANS,
        open_cells=len(cells) <= OPEN_CELLS,
    )
    return page.lstrip()


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return what was run, where and when."""
    environments = [record.environment for record in records]
    commits = (
        f"{each.commit[:12] if each.commit else 'unknown'}{' (modified)' if each.dirty else ''}"
        for each in environments
    )
    counts = [(status, sum(record.status == status for record in records)) for status in ("done", "skipped", "failed")]
    days = sorted({record.created[:10] for record in records})
    return [
        ("Data sets", _listed(labels(record.dataset for record in records).values())),
        ("Models", _listed(labels(record.model for record in records).values())),
        ("Profiles", _listed(record.profile for record in records)),
        ("Seeds", _listed(str(seed) for seed in sorted({record.seed for record in records}))),
        ("Cells", _listed(f"{count} {status}" for status, count in counts if count)),
        ("Device", _listed(each.device for each in environments)),
        ("Processor", _listed(each.cpu for each in environments if each.cpu)),
        ("Version", _listed(f"gifthorse {each.gifthorse}, torch {each.torch}" for each in environments)),
        ("Commit", _listed(commits)),
        ("Date", " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))),
    ]


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or "none"


def _glossary(records: Iterable[Record]) -> list[Metric]:
    """Return every declared metric that occurs."""
    occurring = {METRICS.find(name).name for record in records for name in record.metrics}
    return [metric for metric in METRICS.values() if metric.name in occurring]
