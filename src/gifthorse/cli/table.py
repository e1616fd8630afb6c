"""The commands that make tables of records: ``table`` and ``export``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gifthorse.cli.filters import Filters, chosen_records, filter_options
from gifthorse.cli.options import store_option
from gifthorse.core.errors import RequestError

if TYPE_CHECKING:
    from gifthorse.core.record import Record

FORMATS = {"text": ".txt", "latex": ".tex", "csv": ".csv", "markdown": ".md", "json": ".json"}
"""The formats, and how the name of a file ends that asks for one."""


@click.command()
@click.option("--rows", metavar="COLUMN", help="What has a row: attack (the default), defense, attack.poison_rate, …")
@click.option(
    "--columns",
    metavar="COLUMN",
    help="What has a column: defense (the default), seed, dataset, …; or 'metric', for nothing but metrics.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="What is shown, as attack.asr, tpr or seconds.defense ('gifthorse list metrics'); several are beside each "
    "other. The metric that stands for each defense's family unless given.",
)
@click.option(
    "--over",
    multiple=True,
    metavar="FIELD",
    help="Average over this as well as over seeds, as attack.target where every seed has another.",
)
@click.option("--interval", is_flag=True, help="Give the mean's 95 % interval by Student's t in place of ± deviation.")
@click.option(
    "--relative-to",
    metavar="LABEL",
    help="Say beside every mean by how much of that of this row, or column, it is larger, as standard with --rows "
    "training.",
)
@click.option(
    "--compare",
    nargs=2,
    metavar="NAME[...] NAME[...]",
    help="Compare two defenses on the same models, or two attacks, recipes or models with the same seeds: differences, "
    "interval, Wilcoxon signed-rank test. As strip shrinkpad, or 'imc' 'imc[skip_decay=0.5]'.",
)
@click.option(
    "--leverage",
    metavar="FIELD",
    help="Show the area under clean accuracy drop against success over a field, as attack.poison_rate, attack by "
    "attack: the smaller, the less accuracy success costs.",
)
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), help="Text unless given, or told by how --out ends."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write, rather than to print.")
@filter_options
@store_option
def table(
    store: Path,
    filters: Filters,
    rows: str | None,
    columns: str | None,
    metrics: tuple[str, ...],
    over: tuple[str, ...],
    interval: bool,
    relative_to: str | None,
    compare: tuple[str, str] | None,
    leverage: str | None,
    form: str | None,
    out: Path | None,
) -> None:
    """Show results as a matrix: attack × defense, or rows, columns and metrics of your choice.

    Numbers are means over seeds and what --over names, and over nothing else: records that differ in another setting,
    in their images, in gifthorse's version or in the profile have rows of their own. What failed, was skipped, was not
    run or did not take is marked and explained below. CSV and JSON have a line for each number, exact, with n,
    deviation and interval.
    """
    from gifthorse.core.columns import without
    from gifthorse.report.sheet import WRITERS

    form = form or _told_by(out)
    records = without(chosen_records(store, filters), over)
    load_packages(records)
    if leverage:
        if rows or columns or metrics or interval or relative_to or compare:
            raise RequestError("--leverage has rows and columns of its own: filters alone go with it")
        from gifthorse.report.leverage import leverage_table

        sheet = leverage_table(records, leverage)
    elif compare:
        if columns or interval or relative_to:
            raise RequestError("--compare has columns of its own: leave --columns, --interval and --relative-to out")
        from gifthorse.report.comparison import compare as compare_two

        part, first, second = _two(records, compare)
        sheet = compare_two(first, second, metrics, rows, part)
    else:
        from gifthorse.report.matrix import matrix

        sheet = matrix(
            records, rows or "attack", columns or "defense", metrics, interval=interval, relative_to=relative_to
        )
    text = WRITERS[form](sheet)
    if out is None:
        click.echo(text, nl=False)
    else:
        from gifthorse.bench.store import write_atomically

        write_atomically(out, text.encode())
        click.echo(f"table: {out.resolve()} ({len(records)} records)", err=True)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write: .csv, or .parquet.",
)
@filter_options
@store_option
def export(store: Path, filters: Filters, out: Path) -> None:
    """Write every record as one line of a CSV or Parquet file, with a column for everything in it.

    Columns are called as in --where and --rows: attack.poison_rate, metrics.attack.asr, seconds.defense. From Python,
    Store(...).to_frame() gives the same.
    """
    from gifthorse.bench.query import frame, write_frame

    records = chosen_records(store, filters)
    write_frame(frame(records), out)
    click.echo(f"export: {out.resolve()} ({len(records)} records)", err=True)


def load_packages(records: "Sequence[Record]") -> None:
    """Let installed packages declare their metrics and families, where records have some that are not known."""
    from gifthorse.core.configuration import Catalogue
    from gifthorse.core.family import FAMILIES
    from gifthorse.core.metric import METRICS, UNDECLARED

    metrics = {name for record in records for name in record.metrics}
    families = {record.family for record in records} - {None, *FAMILIES}
    if families or any(METRICS.find(name).unit == UNDECLARED for name in metrics):
        Catalogue.load_packages()


def _two(records: "Sequence[Record]", names: tuple[str, str]) -> "tuple[str, list[Record], list[Record]]":
    """Return of what two requests are, as ``defense`` or ``attack``, and the records of either.

    Where one covers the other, as badnets does badnets[origin=scratch], it means the rest.
    """
    from gifthorse.bench.aliases import listed_name
    from gifthorse.bench.query import Condition, select
    from gifthorse.core.record import name_of
    from gifthorse.report.comparison import COMPARED

    def of(part: str, name: str) -> "list[Record]":
        try:
            return select(records, [Condition(part, (name,))])
        except RequestError:
            return []

    meant = (part for name in names for part in COMPARED if listed_name(name) != "none" and of(part, name))
    part = next(meant, None)
    if "none" in map(listed_name, names):
        raise RequestError(f"--compare takes two {COMPARED[part or 'defense']}; 'none' is none")
    if part is None:
        found = {name_of(each) for record in records for kind in COMPARED if (each := getattr(record, kind))}
        raise RequestError(
            f"no record has a defense, attack, recipe or model called '{names[0]}' or '{names[1]}'; "
            f"there is: {', '.join(sorted(found - {'none'}))}"
        )
    first, second = (select(records, [Condition(part, (name,))]) for name in names)
    one, other = ({record.id for record in each} for each in (first, second))
    if one < other:
        second = [record for record in second if record.id not in one]
    elif other < one:
        first = [record for record in first if record.id not in other]
    return part, first, second


def _told_by(out: Path | None) -> str:
    """Return the format that a file's name asks for."""
    if out is None:
        return "text"
    for form, suffix in FORMATS.items():
        if out.suffix == suffix:
            return form
    raise RequestError(
        f"cannot tell the format from '{out.name}': give --format, or a name in {', '.join(FORMATS.values())}"
    )
