"""``gifthorse report``: what lies in a store, as one HTML file or as a folder of pages."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gifthorse.cli.filters import check_store, empty_store
from gifthorse.cli.options import store_option
from gifthorse.core.errors import RequestError, StoreError

if TYPE_CHECKING:
    from gifthorse.core.record import Population
    from gifthorse.report.cells import ReportCell, ReportScan

FILE, FOLDER = Path("gifthorse-report.html"), Path("gifthorse-report")
LARGE = 10_000_000
"""Bytes from which on a file is slow to open and to send."""


@click.command()
@click.argument("runs", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    show_default=f"{FILE}, with --split {FOLDER}",
    help="The HTML file to write, or the folder.",
)
@click.option("--split", is_flag=True, help="Write a folder: an index, and a page with all pictures for each attack.")
@store_option
def report(runs: Path | None, out: Path | None, split: bool, store: Path) -> None:
    """Write what lies in RUNS (default: the store) as one HTML file: every cell, population and scanned model.

    The file needs nothing else to be read, filtered, sorted and printed. A large one shows fewer pictures of each cell;
    --split makes it a folder of pages with all of them.
    """
    if split:
        write_pages(runs or store, out or FOLDER)
    else:
        write_report(runs or store, out or FILE)


def check_html(out: Path) -> None:
    """Raise :class:`RequestError` where a file's name asks for something else than HTML."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise RequestError(
            f"--out {out}: a report is HTML and its name ends in .html; 'gifthorse table --format latex' writes tables "
            "(also as Markdown or CSV), 'gifthorse export' every record flat"
        )


def write_report(runs: Path, out: Path) -> None:
    """Write the report on everything in a store as one file."""
    check_html(out)
    from gifthorse.report.html import render

    found = _load(runs)
    size = _write(out, render(found.cells, found.populations, scans=found.scans))
    click.echo(f"report: {out.resolve()} ({found})", err=True)
    if size > LARGE:
        click.echo(f"report: it has {size / 1e6:.0f} MB; --split makes it a folder of smaller pages", err=True)


def write_pages(runs: Path, folder: Path) -> None:
    """Write the report on everything in a store as pages in a folder, which holds nothing else."""
    if folder.suffix.lower() in (".html", ".htm") or folder.is_file():
        raise RequestError(f"--out {folder}: --split writes a folder; name it without .html")
    from gifthorse.report.html import GENERATOR, INDEX, render_split

    earlier = set(folder.glob("*"))
    pages_only = all(path.name == INDEX or path.match("attack-*.html") for path in earlier)
    if earlier and not (pages_only and GENERATOR in _text(folder / INDEX)):
        raise RequestError(f"--out {folder}: holds other things than an earlier report; name a new or empty folder")

    found = _load(runs)
    try:
        written = render_split(found.cells, found.populations, scans=found.scans)
        pages = {folder / name: _write(folder / name, page) for name, page in written}
        for path in earlier - set(pages):
            path.unlink()
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    click.echo(f"report: {(folder / INDEX).resolve()} ({found}, {len(pages)} pages)", err=True)


@dataclass(frozen=True)
class _Found:
    """What a report is of."""

    cells: "list[ReportCell]"
    populations: "list[Population]"
    scans: "list[ReportScan]"

    def __str__(self) -> str:
        counts = (len(self.cells), "cell"), (len(self.populations), "population"), (len(self.scans), "scanned model")
        return ", ".join(f"{number:,} {what}{'' if number == 1 else 's'}" for number, what in counts if number)


def _load(runs: Path) -> _Found:
    from gifthorse.bench.store import Store
    from gifthorse.core.configuration import Catalogue
    from gifthorse.report.cells import ReportCell, ReportScan

    check_store(runs)
    # What packages declare of metrics and families is known once they are loaded.
    Catalogue.load_packages()
    store = Store(runs)
    cells = [
        ReportCell(record, partial(store.evidence, record.id), store.load_review(record.id))
        if record.status == "done"
        else ReportCell(record)
        for record in store.records()
    ]
    populations = list(store.populations())
    scans = [ReportScan(scan, partial(store.scan_evidence, scan.id)) for scan in store.scans()]
    if not (cells or populations or scans):
        raise empty_store(runs)
    return _Found(cells, populations, scans)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _write(path: Path, page: str) -> int:
    from gifthorse.bench.store import write_atomically

    content = page.encode()
    write_atomically(path, content)
    return len(content)
