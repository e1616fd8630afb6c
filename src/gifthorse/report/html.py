"""The HTML report: one file that needs nothing else, to read, send and print; or a folder of such files."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gifthorse.core.family import ATTACK, FAMILIES
from gifthorse.core.metric import METRICS, Metric
from gifthorse.core.record import FPRS, Population, Record, benign_needed
from gifthorse.core.scan import Scan
from gifthorse.report.cells import ReportCell, ReportScan
from gifthorse.report.details import BRIEF, FULL, CellLine, Lines, TrojanDetail, trojans
from gifthorse.report.figures import stamp_curves
from gifthorse.report.naming import class_label, labels
from gifthorse.report.overview import Overview, overview_of
from gifthorse.report.pictures import Pictures
from gifthorse.report.populations import PopulationDetail, populations_of
from gifthorse.report.scans import scan_detail
from gifthorse.report.tables import DID_NOT_TAKE, NOT_RUN, Group, group

OPEN_TROJANS, OPEN_CELLS, MANY_CELLS = 12, 8, 200
"""Pages of at most so many cells show their trojans, and their cells, unfolded; a file of more has fewer pictures."""

INDEX = "index.html"
GENERATOR = '<meta name="generator" content="gifthorse report">'
"""By this a page is known for one of a report."""

_STATUSES = ("done", DID_NOT_TAKE, "skipped", "failed", NOT_RUN)

TEMPLATES = Environment(
    loader=PackageLoader("gifthorse.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _source(name: str) -> str:
    return resources.files("gifthorse.report").joinpath("templates", name).read_text(encoding="utf-8")


_SCRIPT = Markup(_source("report.js"))  # noqa: S704
"""The one script; it is let in by its own hash, so that nothing else can run."""
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"
)


@dataclass(frozen=True)
class Section:
    """What a page shows of one group: a line for each of its cells, and the cells opened up that are on this page."""

    part: Group
    overview: Overview | None
    populations: Sequence[PopulationDetail]
    lines: Sequence[CellLine]
    curves: Sequence[tuple[Markup, Markup]] = ()
    details: Sequence[TrojanDetail] = ()

    @property
    def classes(self) -> list[str]:
        """Return every class by number and name; nothing where the names say no more."""
        names = self.part.class_names
        told = [class_label(index, names) for index in range(len(names))]
        return told if told != [str(index) for index in range(len(names))] else []


def render(
    cells: Sequence[ReportCell],
    populations: Sequence[Population] = (),
    title: str = "Backdoor report",
    scans: Sequence[ReportScan] = (),
) -> str:
    """Return the report as one HTML document: no network, readable without its script, numbers with their records."""
    report = _Report(cells, populations, title, scans)
    extent, pictures = BRIEF if len(report.cells) > MANY_CELLS else FULL, Pictures()
    sections = [
        replace(section, details=trojans(report.members(section), lines, pictures, extent))
        for section, lines in report.sections
    ]
    return report.index(sections, {identity: f"#{anchor}" for identity, anchor in report.anchors.items()}, pictures)


def render_split(
    cells: Sequence[ReportCell],
    populations: Sequence[Population] = (),
    title: str = "Backdoor report",
    scans: Sequence[ReportScan] = (),
) -> Iterator[tuple[str, str]]:
    """Yield the report as pages, a file name and a document each: an index, and a page per group and attack.

    The names are ``index.html``, which comes first, and ``attack-….html``; the pages belong in one folder.
    """
    report = _Report(cells, populations, title, scans)
    pages: dict[str, tuple[Section, Lines]] = {}
    links: dict[str, str] = {}
    for section, lines in report.sections:
        for attack in dict.fromkeys(line.attack for line in section.lines):
            own = [line for line in section.lines if line.attack == attack]
            name = f"attack-{len(pages) + 1:03}-{re.sub('[^a-z0-9]+', '-', attack.lower()).strip('-')[:60]}.html"
            pages[name] = replace(section, lines=own), lines
            links |= {line.record.id: f"{name}#{report.anchors[line.record.id]}" for line in own}
    yield INDEX, report.index([section for section, _ in report.sections], links, Pictures())
    for name, (section, lines) in pages.items():
        pictures = Pictures()
        shown = replace(section, details=trojans(report.members(section), lines, pictures))
        heading = f"{section.lines[0].attack} – {title}"
        yield name, report.page("attack.html.j2", heading, [shown], links, pictures, index=INDEX)


class _Report:
    """What all pages of a report are made from."""

    def __init__(
        self,
        cells: Sequence[ReportCell],
        populations: Sequence[Population],
        title: str,
        scans: Sequence[ReportScan] = (),
    ):
        self.cells = {cell.record.id: cell for cell in cells}
        self.anchors = {identity: f"cell-{number}" for number, identity in enumerate(self.cells, 1)}
        self._records = [cell.record for cell in self.cells.values()]
        self._populations, self._title, self._scans = populations, title, scans
        self._documents: list[Record | Population | Scan] = [
            *self._records,
            *populations,
            *(each.scan for each in scans),
        ]
        self.sections = [self._section(part) for part in group(self._records, populations)]

    def members(self, section: Section) -> list[ReportCell]:
        """Return the cells that the section has a line for."""
        return [self.cells[line.record.id] for line in section.lines]

    def index(self, sections: Sequence[Section], links: Mapping[str, str], pictures: Pictures) -> str:
        """Return the page with all tables."""
        measured: list[Record | Population] = [*self._records, *self._populations]
        tables = (table for section in sections for table in section.part.tables)
        rows = (row for table in tables for block in table.blocks for row in block.rows)
        return self.page(
            "index.html.j2",
            self._title,
            sections,
            links,
            pictures,
            statuses=(status for row in rows for status in row.statuses),
            lead=self._lead(),
            scans=[scan_detail(each.scan, each.evidence(), pictures) for each in self._scans],
            facts=_facts(measured),
            reduced=sorted({asked.profile for asked in measured} - {"paper"}),
            attack=ATTACK,
            families=list(FAMILIES.values()),
            fprs=FPRS,
            needed=benign_needed,
            glossary=_glossary(self._records),
        )

    def page(
        self,
        template: str,
        title: str,
        sections: Sequence[Section],
        links: Mapping[str, str],
        pictures: Pictures,
        statuses: Iterable[str] = (),
        **others: Any,
    ) -> str:
        """Return a page; ``links`` lead to cells by the ids of their records, ``statuses`` are of more than cells."""
        lines = [line for section in sections for line in section.lines]
        occurring = {*statuses, *(status for line in lines for status in line.statuses)}
        page = TEMPLATES.get_template(template).render(
            title=title,
            policy=_POLICY,
            generator=Markup(GENERATOR),  # noqa: S704
            script=_SCRIPT,
            sections=sections,
            lines=lines,
            filters={
                "attack": list(dict.fromkeys(line.attack for line in lines)),
                "defense": list(dict.fromkeys(line.title for line in lines)),
                "dataset": list(dict.fromkeys(section.part.dataset for section in sections)),
                "status": [status for status in _STATUSES if status in occurring],
            },
            versions=len({section.part.version for section, _ in self.sections}),
            links=links,
            anchors=self.anchors,
            pictures=pictures,
            open_trojans=len(lines) <= OPEN_TROJANS,
            open_cells=len(lines) <= OPEN_CELLS,
            **others,
        )
        return page.lstrip()

    def _lead(self) -> list[str]:
        """Return how much there is, and from when."""
        statuses = [record.status for record in self._records]
        ended = ", ".join(f"{statuses.count(each):,} {each}" for each in _STATUSES if each in statuses)
        days = sorted({document.created[:10] for document in self._documents})
        found = (
            f"{_counted(len(statuses), 'cell')}: {ended}" if statuses else "",
            _counted(len(self._populations), "population") if self._populations else "",
            _counted(len(self._scans), "scanned model") if self._scans else "",
            " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        )
        return [text for text in found if text]

    @staticmethod
    def _section(part: Group) -> tuple[Section, Lines]:
        lines = Lines(part.records)
        populations = populations_of(part.populations, {record.id: record for record in part.records})
        shown = [lines.line(record) for record in part.records]
        return Section(part, overview_of(part), populations, shown, stamp_curves(part.records)), lines


def _facts(documents: Sequence[Record | Population]) -> list[tuple[str, str]]:
    """Return what was run, and where."""
    environments = [document.environment for document in documents]
    commits = (
        f"{each.commit[:12] if each.commit else 'unknown'}{' (modified)' if each.dirty else ''}"
        for each in environments
    )
    return [
        ("Data sets", _listed(labels(document.dataset for document in documents).values())),
        ("Models", _listed(labels(document.model for document in documents).values())),
        ("Profiles", _listed(document.profile for document in documents)),
        ("Seeds", _listed(str(seed) for seed in sorted({document.seed for document in documents}))),
        ("Device", _listed(each.device for each in environments)),
        ("Processor", _listed(each.cpu for each in environments if each.cpu)),
        ("Version", _listed(f"gifthorse {each.gifthorse}, torch {each.torch}" for each in environments)),
        ("Commit", _listed(commits)),
    ]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or "none"


def _glossary(records: Iterable[Record]) -> list[Metric]:
    """Return every declared metric that occurs."""
    occurring = {METRICS.find(name).name for record in records for name in record.metrics}
    return [metric for metric in METRICS.values() if metric.name in occurring]
