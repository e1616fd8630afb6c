"""The commands that look after a store: ``ls``, ``rm`` and ``gc``."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifthorse.cli.filters import Filters, chosen_records, filter_options
from gifthorse.cli.options import store_option
from gifthorse.core.errors import RequestError

if TYPE_CHECKING:
    from gifthorse.bench.disposal import Piece
    from gifthorse.bench.store import Store
    from gifthorse.core.record import Record
    from gifthorse.core.scan import Scan

SHOWN = 20
"""The most records that rm lists one by one."""


@click.command()
@filter_options
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@store_option
def ls(store: Path, filters: Filters, as_json: bool) -> None:
    """List the records of a store, with what they asked, how they ended and their size; and the scanned models.

    The size is that of the record and of the pictures and scores behind it; models are shared, and counted below.
    """
    from gifthorse.bench.disposal import artifacts, pieces_of
    from gifthorse.bench.store import Store

    kept = Store(store)
    scans = [] if as_json or any(filters.values()) else list(kept.scans())
    if scans and not any((store / "records").glob("*.json")):
        click.echo(_scan_listing(scans))
        return
    records = chosen_records(store, filters)
    sizes = [sum(piece.size for piece in pieces_of(kept, record)) for record in records]
    if as_json:
        listed = [_about(record, size) for record, size in zip(records, sizes, strict=True)]
        click.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    click.echo(_listing(records, sizes))
    click.echo(
        f"{len(records)} records, {_bytes(sum(sizes))}; artifacts of the whole store: {_by_kind(artifacts(kept))}"
    )
    if scans:
        click.echo(f"\n{_scan_listing(scans)}")


@click.command()
@filter_options
@click.option("--all", "everything", is_flag=True, help="Remove every record.")
@click.option(
    "--scan", "scans", multiple=True, metavar="ID", help="Remove a scan, in place of records; as ls shows it."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def rm(store: Path, filters: Filters, everything: bool, scans: tuple[str, ...], yes: bool) -> None:
    """Remove records, and the pictures and scores behind them, after showing which and asking.

    The models stay: another record may need them, and 'gifthorse gc' removes those that none does.
    """
    from gifthorse.bench.disposal import pieces_of, remove
    from gifthorse.bench.store import Store

    if scans and not everything and not any(filters.values()):
        _remove_scans(Store(store), scans, yes)
        return
    if everything == any(filters.values()) or scans:
        raise RequestError("say which records to remove: give a filter, as --status failed, or --all alone")
    records, kept = chosen_records(store, filters), Store(store)
    pieces = [pieces_of(kept, record) for record in records]
    sizes = [sum(piece.size for piece in each) for each in pieces]
    click.echo(_listing(records[:SHOWN], sizes[:SHOWN]))
    if len(records) > SHOWN:
        click.echo(f"… and {len(records) - SHOWN} more")
    going = {record.id for record in records}
    for population in kept.populations():
        members = [member.id for member in (*population.benign, *population.trojaned)]
        lost = sum(member in going for member in members)
        if lost:
            about = f"{population.defense['name']} on {population.attack['name']}"
            click.echo(f"population {population.id} ({about}) stays, and loses {lost} of its {len(members)} models")
    if not (yes or _agreed(f"Remove {len(records)} records ({_bytes(sum(sizes))})?")):
        click.echo("nothing was removed", err=True)
        return
    remove(piece for each in pieces for piece in each)
    click.echo(f"removed {len(records)} records, {_bytes(sum(sizes))}", err=True)


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option(
    "--older-than",
    type=click.FloatRange(0),
    default=1,
    show_default=True,
    metavar="HOURS",
    help="Keep what was written since: the record that needs it may be on its way.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also remove what only records may need that do not name their artifacts, as older ones do not; it is "
    "computed again where it is asked for.",
)
@store_option
def gc(store: Path, dry_run: bool, older_than: float, everything: bool) -> None:
    """Remove models and other artifacts that no record needs, and what interrupted writers left.

    What is removed can be computed again. Records and populations stay.
    """
    from gifthorse.bench.disposal import find_garbage, remove
    from gifthorse.bench.query import read_records
    from gifthorse.bench.store import Store

    if not store.is_dir():
        raise RequestError(f"there is no store at {store.resolve()}")
    garbage = find_garbage(Store(store), read_records(store), older_than * 3600)
    going = garbage.useless + (garbage.doubtful if everything else [])
    if not dry_run:
        remove(going)
    click.echo(f"{'would remove' if dry_run else 'removed'}: {_by_kind(going)}")
    if garbage.recent:
        click.echo(f"kept, since written in the last {older_than:g} hours: {_by_kind(garbage.recent)}")
    if garbage.doubtful and not everything:
        click.echo(
            f"kept, since {garbage.silent} records do not name their artifacts and may need them (--all removes them): "
            f"{_by_kind(garbage.doubtful)}"
        )


def _agreed(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise RequestError("nobody answered, so nothing was removed; --yes removes without asking") from None


def _about(record: "Record", size: int) -> dict[str, Any]:
    asked = {part: getattr(record, part) for part in ("dataset", "model", "training", "attack", "defense")}
    user = record.downstream and {"head": record.downstream.head, "dataset": record.downstream.dataset}
    return {
        "id": record.id,
        "status": record.status,
        "reason": record.reason,
        **asked,
        "downstream": user,
        "stamp": record.stamp,
        "analysis": record.analysis,
        "profile": record.profile,
        "seed": record.seed,
        "version": record.environment.gifthorse,
        "created": record.created,
        "bytes": size,
    }


def _listing(records: "Sequence[Record]", sizes: Sequence[int]) -> str:
    """Return a line per record, with what tells them apart."""
    from gifthorse.report.settings import Settings
    from gifthorse.report.sheet import Line, Sheet, to_text

    settings = Settings(records)
    asked = ("dataset", "model", "attack")

    def line(record: "Record", size: int) -> Line:
        followed = "downstream" if record.downstream is not None else "defense"
        names = (settings.label(record, part) for part in (*asked, followed, "stamp", "analysis"))
        when = record.created[:16].replace("T", " ")
        return Line((record.status, *names, str(record.seed), record.profile, when, _bytes(size), record.id), ())

    lines = tuple(line(record, size) for record, size in zip(records, sizes, strict=True))
    heads = ("status", *asked, "defense or head", "stamp", "analysis", "seed", "profile", "created", "size", "id")
    return to_text(Sheet(caption="", stubs=heads, heads=(), lines=lines)).strip("\n")


def _by_kind(pieces: "Iterable[Piece]") -> str:
    kinds: dict[str, list[int]] = {}
    for piece in pieces:
        kinds.setdefault(piece.kind, []).append(piece.size)
    if not kinds:
        return "nothing"
    total = f"{sum(map(len, kinds.values()))} files, {_bytes(sum(map(sum, kinds.values())))}"
    return f"{total} ({', '.join(f'{kind}: {len(sizes)}, {_bytes(sum(sizes))}' for kind, sizes in kinds.items())})"


def _bytes(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _scan_listing(scans: "Sequence[Scan]") -> str:
    lines = [
        f"{scan.id[:12]}  {scan.created[:16].replace('T', ' ')}  {scan.title}: "
        f"{'suspicious' if scan.suspicious else 'not suspicious'}"
        for scan in scans
    ]
    return "\n".join(["scanned models:", *lines])


def _remove_scans(store: "Store", starts: Sequence[str], yes: bool) -> None:
    from gifthorse.bench.disposal import pieces_of_scan, remove

    known = list(store.scans())
    chosen = []
    for start in starts:
        found = [scan for scan in known if scan.id.startswith(start)]
        if len(found) != 1:
            raise RequestError(
                f"{len(found)} scans begin with '{start}'; 'gifthorse ls --store {store.root}' shows all"
            )
        chosen += found
    click.echo(_scan_listing(chosen))
    if not (yes or _agreed(f"Remove {len(chosen)} scans?")):
        click.echo("nothing was removed", err=True)
        return
    remove(piece for scan in chosen for piece in pieces_of_scan(store, scan.id))
    click.echo(f"removed {len(chosen)} scans", err=True)
