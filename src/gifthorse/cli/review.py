"""``gifthorse review``: a person looks at what a screen flagged, and decides."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gifthorse.cli.filters import check_store
from gifthorse.cli.options import store_option
from gifthorse.cli.report import check_html
from gifthorse.core.errors import RequestError

if TYPE_CHECKING:
    from gifthorse.bench.store import Store
    from gifthorse.core.record import Record


@click.command()
@click.argument("record_id", metavar="ID")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the flagged images as HTML to here."
)
@click.option(
    "--reject", metavar="NUMBERS", help="Those that carry a trigger, as in 0,3,7-9, or none; keeps the decision."
)
@click.option("--by", metavar="NAME", help="Who decided.")
@store_option
def review(record_id: str, out: Path | None, reject: str | None, by: str | None, store: Path) -> None:
    """Let a person decide about images that a screen flagged.

    ID is the record's, as 'gifthorse ls' shows it, or its first letters. With --out the flagged images that were kept
    are written as a sheet, with what the model makes of each and why; with --reject the decision is kept beside the
    record, in place of an earlier one, and reports show it. Without either, the decision that is kept is shown.
    """
    from gifthorse.bench.store import Store, write_atomically
    from gifthorse.report.review import contact_sheet, review_of, reviewable, said_of_review

    check_store(store)
    kept = Store(store)
    record = _record(kept, record_id)
    evidence = kept.evidence(record.id)
    if not reviewable(evidence):
        raise RequestError(f"record {record.id} keeps no flagged images: only a filter of inputs flags any")
    if by is not None and reject is None:
        raise RequestError("--by says who decided: give the decision as well, --reject NUMBERS or --reject none")
    if out is not None:
        check_html(out)
        write_atomically(out, contact_sheet(record, evidence).encode())
        click.echo(f"review: {out.resolve()} ({len(evidence['flagged'])} images)", err=True)
    if reject is not None:
        rejected = _numbers(reject, len(evidence["flagged"]))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        kept.save_review(review_of(record, evidence, rejected, by, now))
    if reject is not None or out is None:
        said = said_of_review(kept.load_review(record.id), record, evidence)
        click.echo(said or "nobody has reviewed these images yet: --out FILE.html shows them")


def _record(store: "Store", start: str) -> "Record":
    """Return the one record whose id begins so."""
    names = sorted(path.stem for path in (store.root / "records").glob("*.json"))
    found = [name for name in names if name.startswith(start)]
    if len(found) != 1:
        many = f"{len(found)} records begin with" if found else "no record is called"
        raise RequestError(f"{many} '{start}'; 'gifthorse ls --store {store.root}' shows what there is")
    record = store.load_record(found[0])
    if record is None:
        raise RequestError(f"record {found[0]} cannot be read")
    return record


def _numbers(text: str, count: int) -> set[int]:
    """Return the numbers of a list such as ``0,3,7-9``; none of ``none``."""
    if text.strip() == "none":
        return set()
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise RequestError(f"--reject {text}: '{part.strip()}' is no number; say 0,3,7-9 or none")
        numbers |= set(range(int(first), int(last or first) + 1))
    if beyond := sorted(number for number in numbers if number >= count):
        raise RequestError(f"--reject {text}: there is no image {beyond[0]}; they go from 0 to {count - 1}")
    return numbers
