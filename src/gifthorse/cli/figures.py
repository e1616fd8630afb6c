"""``gifthorse figures``: charts and pictures of what the store holds, as files for a paper."""

from functools import lru_cache
from pathlib import Path

import click

from gifthorse.cli.filters import check_store, conditions, empty_store
from gifthorse.cli.options import store_option
from gifthorse.core.errors import RequestError

KINDS = (
    "sweep",
    "leverage",
    "matrix",
    "robustness",
    "tradeoff",
    "differences",
    "roc",
    "populations",
    "scores",
    "classes",
    "clusters",
    "translated",
    "triggers",
    "stamped",
    "samples",
    "recovered",
    "analyses",
)
FORMATS = ("pdf", "svg", "png")


@click.command()
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the files; made if new."
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="pdf", show_default=True, help="Kind of files.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Figures to draw; all unless given.")
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Draw only what has this, as dataset=digits, attack=badnets, attack.poison_rate=0.05 or seed=0; the same "
    "field again is an alternative.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Metrics of matrices and sweeps, as defense.asr."
)
@store_option
def figures(
    out: Path, form: str, kinds: tuple[str, ...], where: tuple[str, ...], metrics: tuple[str, ...], store: Path
) -> None:
    """Draw what the store holds as files, and print their names.

    \b
    sweep        ASR and accuracy along a field that takes several values
    leverage     the clean accuracy that success costs, over poison rates
    matrix       every attack × every defense
    robustness   what a defense does by trigger and architecture
    tradeoff     accuracy against ASR over learning rates, with a logistic fit
    differences  how far a trigger moves activations after every defense
    roc          ROC curves of defenses that score images
    populations  ROC curves of defenses that inspect models
    scores       histograms of the scores of clean and stamped images
    classes      what a detector compares between classes
    clusters     the clusters of features that a detector counts
    translated   images translated to every class
    triggers     the triggers of all attacks, alone and on an image
    stamped      clean and stamped images with true → predicted class
    samples      what a data-free defense generated
    recovered    recovered masks and patterns beside the planted ones
    analyses     what 'gifthorse analyze' saw inside of models

    Every file's name says what it shows, and every figure how many seeds, images or models it is about. The same store
    gives the same bytes.
    """  # noqa: D301
    write_figures(out, form, kinds or KINDS, where, metrics, store)


def write_figures(
    out: Path, form: str, kinds: tuple[str, ...], where: tuple[str, ...], metrics: tuple[str, ...], store: Path
) -> None:
    """Draw the figures; :class:`RequestError` where matplotlib is missing or there is nothing to draw."""
    from gifthorse.bench.query import select
    from gifthorse.bench.store import Store, write_atomically
    from gifthorse.core.configuration import Catalogue
    from gifthorse.core.metric import METRICS, UNDECLARED
    from gifthorse.core.record import Population, Record
    from gifthorse.report.figures import INSTALL, can_draw

    if not can_draw():
        raise RequestError(f"figures need matplotlib: {INSTALL}")
    check_store(store)
    Catalogue.load_packages()
    kept = Store(store)
    documents: list[Record | Population] = [*kept.records(), *kept.populations()]
    if not documents:
        raise empty_store(store)
    chosen = {each.id for each in select(documents, conditions(where))}
    records = [each for each in documents if isinstance(each, Record)]
    measured = {name for record in records for name in record.metrics}
    for name in metrics:
        if METRICS.find(name).unit == UNDECLARED and name not in measured:
            raise RequestError(f"there is no metric '{name}'; 'gifthorse list metrics' shows all")

    from gifthorse.report.drawings import KINDS as FOUND
    from gifthorse.report.drawings import Material, drawings
    from gifthorse.report.style import encode, styled

    populations = [each for each in documents if isinstance(each, Population)]
    # Few at a time, as a store may hold more than the memory does.
    evidence = lru_cache(maxsize=4)(kept.evidence)
    material = Material(records, populations, chosen, evidence, metrics)
    written = 0
    with styled():
        for drawing in drawings(material, kinds):
            figure = drawing.draw()
            if figure is not None:
                path = out / f"{drawing.name}.{form}"
                write_atomically(path, encode(figure, form))
                click.echo(path)
                written += 1
    if not written:
        needs = "; ".join(f"{kind} needs {FOUND[kind].needs}" for kind in kinds)
        raise RequestError(f"there is nothing to draw: {needs}")
    click.echo(f"figures: {written} in {out.resolve()}", err=True)
