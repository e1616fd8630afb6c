"""What the commands do; torch is imported where something is computed."""

import json
import logging
import os
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gifthorse.bench.answers import code_digest, keep, keep_record, kept_record, listing_place, recall
from gifthorse.bench.plugins import load_plugins, origin_of
from gifthorse.bench.store import Store
from gifthorse.core.configuration import Catalogue, Configuration
from gifthorse.core.contents import content_digests
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.family import FAMILIES
from gifthorse.core.metric import METRICS, UNDECLARED
from gifthorse.core.progress import listening
from gifthorse.core.record import FPRS, Interval, Population, Record, Separation, benign_needed
from gifthorse.report.naming import name_of

if TYPE_CHECKING:
    from gifthorse.bench.runner import Runner
    from gifthorse.cli.main import Machine

FAILED = 4
OWN = "gifthorse"
QUICKSTART_ATTACKS = ("none", "badnets")
QUICKSTART_DEFENSES = ("shrinkpad", "strip", "fine_pruning", "neural_cleanse")

notes = Console(stderr=True)
answers = Console(width=None if os.isatty(1) else 120)


def run_quickstart(store: Path, machine: "Machine", out: Path, show: bool) -> None:
    """Run the quickstart's cells, print a table, write the report, open it if asked."""
    from gifthorse.bench.cell import resolve

    cells = [resolve(dataset="digits", attack=a, defense=d) for a in QUICKSTART_ATTACKS for d in QUICKSTART_DEFENSES]
    runner = make_runner(store, machine)
    records = []
    with showing_progress():
        for number, cell in enumerate(cells, 1):
            click.echo(f"[{number}/{len(cells)}] {cell.attack.name} against {cell.defense}", err=True)
            records.append(runner.run(cell))
    table = Table("attack", "defense", "accuracy", "attack success", "the defense's finding", box=None)
    for record in records:
        table.add_row(*_quick_row(record))
    answers.print(table)
    write_report(store, out)
    if show:
        webbrowser.open(out.resolve().as_uri())


def run_cell(
    request: Mapping[str, Any],
    plugins: Sequence[Path],
    store: Path,
    machine: "Machine",
    *,
    as_json: bool,
    fresh: bool,
    download: bool,
) -> int:
    """Run one cell and print it; returns the exit code."""
    kept, code = Store(store), code_digest(plugins)
    # The same request means other images, and other plugins, elsewhere.
    asked = {**request, "device": machine.device, "data_root": str(machine.data_root)}
    asked["plugins"] = [str(path.resolve()) for path in plugins]
    record = None if fresh else kept_record(kept, asked, code)
    # What a package declares is known once it is loaded.
    if record is None or any(METRICS.find(name).unit == UNDECLARED for name in record.metrics):
        from gifthorse.bench.cell import resolve

        load_plugins(plugins)
        cell = resolve(**request)
        runner = make_runner(store, machine, download)
        with showing_progress():
            cell = runner.reading(cell)
            files = content_digests(cell.files())
            record = runner.run(cell, fresh=fresh)
        keep_record(kept, asked, code, record, files)
    if as_json:
        click.echo(record.to_json())
    else:
        print_record(record)
    if record.status == "failed":
        notes.print(f"gifthorse: the cell failed: {record.reason}", markup=False, highlight=False)
        return FAILED
    return 0


def judge_population(
    request: Mapping[str, Any],
    plugins: Sequence[Path],
    benign: int,
    trojaned: int,
    store: Path,
    machine: "Machine",
    *,
    same_target: bool,
    as_json: bool,
    fresh: bool,
    download: bool,
) -> int:
    """Judge a defense on a population and print it; returns the exit code."""
    from gifthorse.bench.cell import resolve
    from gifthorse.bench.population import run_population

    load_plugins(plugins)
    cell = resolve(**request)
    runner = make_runner(store, machine, download)
    with showing_progress():
        population = run_population(
            runner, cell, benign=benign, trojaned=trojaned, same_target=same_target, fresh=fresh
        )
    if as_json:
        click.echo(population.to_json())
    else:
        print_population(population)
    failed = sum(left.status == "failed" for left in population.left_out)
    if failed:
        cells = "1 cell" if failed == 1 else f"{failed} cells"
        notes.print(f"gifthorse: {cells} failed; the same command tries again", markup=False, highlight=False)
        return FAILED
    return 0


def export_poisoned_set(
    request: Mapping[str, Any],
    plugins: Sequence[Path],
    out: Path,
    store: Path,
    machine: "Machine",
    *,
    download: bool,
) -> None:
    """Write a poisoned training set as pictures."""
    from gifthorse.bench.cell import resolve

    load_plugins(plugins)
    cell = resolve(**request)
    with showing_progress():
        about = make_runner(store, machine, download).export_poisoned(cell, out)
    click.echo(f"{out.resolve()}: {about['images']} training pictures, {about['poisoned']} of them poisoned", err=True)


def list_kinds(kinds: tuple[str, ...], plugins: Sequence[Path]) -> None:
    """Print the kinds of things that can be listed, with their names."""
    listing = _listing(plugins)
    for kind in kinds:
        click.echo(f"{kind:10} {', '.join(listing[kind])}")


def list_kind(kind: str, name: str | None, plugins: Sequence[Path], as_json: bool) -> None:
    """Print the listed things of a kind, or all about one of them."""
    described = _listing(plugins)[kind]
    if name is not None:
        described = {known: about for known, about in described.items() if name in (known, *_also(known, about))}
        if not described and kind not in ("metrics", "families"):
            found = _catalogues()[kind].find(name)
            described = {found.name: _about(found)}
        if not described:
            raise RequestError(f"nothing under {kind} is called '{name}'; 'gifthorse list {kind}' shows all")
    if as_json:
        click.echo(json.dumps(list(described.values()), indent=1, ensure_ascii=False))
        return
    if name is None or len(described) > 1:
        origins = {name: _foreign(about) for name, about in described.items()}
        table = Table("name", "also", "what it is", box=None)
        if any(origins.values()):
            table.add_column("from", overflow="fold")
        for name, about in described.items():
            family = f" ({about['family']})" if "family" in about else ""
            row = about["name"], ", ".join(about.get("aliases", [])), about["summary"] + family, escape(origins[name])
            table.add_row(*row[: len(table.columns)])
        answers.print(table)
        return
    (about,) = described.values()
    answers.print(f"{about['name']}: {about['summary']}", highlight=False)
    if about.get("paper"):
        answers.print(f"Paper: {about['paper']}", highlight=False)
    if _foreign(about):
        answers.print(f"From: {_foreign(about)}", markup=False, highlight=False)
    if about.get("fields"):
        table = Table("field", "default", "range", "type", "meaning", box=None)
        for field in about["fields"]:
            default = json.dumps(field["default"], ensure_ascii=False)
            cells = field["name"], default, field["range"], field["type"], field["help"]
            table.add_row(*map(escape, cells))
        answers.print(table)


def write_report(runs: Path, out: Path) -> None:
    """Write the report on every cell of a store."""
    from gifthorse.report.cells import ReportCell
    from gifthorse.report.html import render

    if not runs.is_dir():
        raise RequestError(
            f"there is no store at {runs.resolve()}; 'gifthorse quickstart' or 'gifthorse run' makes one"
        )
    Catalogue.load_packages()
    store = Store(runs)
    cells = []
    for record in store.records():
        found = store.load_artifact("evidence", record.id) if record.status == "done" else None
        cells.append(ReportCell(record, found[0] if found else {}))
    if not cells:
        raise RequestError(f"{runs.resolve()} holds no records; 'gifthorse quickstart' or 'gifthorse run' makes some")
    try:
        out.write_text(render(cells), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error
    click.echo(f"report: {out.resolve()} ({len(cells)} cells)", err=True)


def make_runner(store: Path, machine: "Machine", download: bool = False) -> "Runner":
    """Set the machine up and return a runner."""
    import torch

    from gifthorse.bench.machine import pick_device
    from gifthorse.bench.runner import Runner

    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    try:
        chosen = pick_device(machine.device, deterministic=machine.deterministic)
    except RuntimeError as error:
        raise RequestError(f"--device {machine.device}: {str(error).splitlines()[0]}") from None
    return Runner(Store(store), machine.data_root, chosen, download)


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show one bar per running loop on standard error, and the program's warnings as lines there."""
    log = logging.getLogger("gifthorse")
    handler = RichHandler(console=notes, show_time=False, show_path=False, markup=False)
    log.addHandler(handler)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
            tasks: dict[str, TaskID] = {}

            def listen(label: str, done: int, total: int) -> None:
                if label not in tasks:
                    tasks[label] = progress.add_task(label, total=total)
                progress.update(tasks[label], completed=done, total=total)
                if done == total:
                    progress.remove_task(tasks.pop(label))

            with listening(listen):
                yield
    finally:
        log.removeHandler(handler)


def print_record(record: Record) -> None:
    """Print a record's numbers for a person."""
    defense = record.defense["name"] if record.defense else "no defense"
    title = f"{record.attack['name']} on {record.dataset['name']}/{name_of(record.model)}, {defense}, "
    if record.downstream is not None:
        head, images = record.downstream.head, record.downstream.dataset
        title += f"{head['name']} with {head['tuning']} tuning on {images['name']}, "
    title += f"seed {record.seed}"
    answers.print(f"{title}: {record.status}" + (f" ({record.reason})" if record.reason else ""), highlight=False)
    if record.doubts:
        answers.print(f"the attack did not take: {'; '.join(record.doubts)}", markup=False, highlight=False)
    table = Table("metric", "value", "meaning", box=None)
    for name, value in record.metrics.items():
        table.add_row(name, _format(value), METRICS.find(name).title)
    answers.print(table)


def print_population(population: Population) -> None:
    """Print what a population says for a person."""
    images, network = population.dataset["name"], name_of(population.model)
    answers.print(
        f"{population.defense['name']} on {population.n_benign} benign and {population.n_trojaned} trojaned models "
        f"({population.attack['name']} on {images}/{network}, seeds from {population.seed}); [95 % interval]",
        markup=False,
        highlight=False,
    )
    if population.auroc is not None:
        table = Table("index", "AUROC", *(f"TPR at FPR {fpr:g}" for fpr in FPRS), "meaning", box=None)
        table.add_row(*_index_row(population.index or "", population))
        for name, found in population.readouts.items():
            table.add_row(*_index_row(name, found))
        answers.print(table)
        for fpr in FPRS:
            if f"{fpr:g}" not in population.tpr_at_fpr:
                said = f"n too small for a TPR at FPR {fpr:g}: {benign_needed(fpr)} benign models would do"
                answers.print(said, highlight=False)
    for share, whom in ((population.flagged_benign, "benign"), (population.flagged_trojaned, "trojaned")):
        if share is not None:
            count = population.n_benign if whom == "benign" else population.n_trojaned
            answers.print(f"flagged {whom} models: {_format(share)} of {count}", highlight=False)
    if population.suspect_hit_rate is not None:
        rate = _estimate(population.suspect_hit_rate, population.suspect_hit_rate_interval)
        judged = sum(member.hit is not None for member in population.trojaned)
        said = f"target has the highest score: {rate} of {judged} trojaned models"
        answers.print(said, markup=False, highlight=False)
    left_out: dict[tuple[str, str, str], list[int]] = {}
    for left in population.left_out:
        left_out.setdefault((left.group, left.status, left.reason), []).append(left.seed)
    for (group, status, reason), seeds in left_out.items():
        which = f"{group}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
        ended = "" if status == "done" else f", {status}"
        answers.print(f"left out ({which}{ended}): {reason}", markup=False, highlight=False)


def _index_row(name: str, found: Population | Separation) -> list[str]:
    tprs = [
        _estimate(found.tpr_at_fpr[f"{fpr:g}"], found.tpr_at_fpr_interval.get(f"{fpr:g}"))
        if f"{fpr:g}" in found.tpr_at_fpr
        else "–"
        for fpr in FPRS
    ]
    auroc = "" if found.auroc is None else _estimate(found.auroc, found.auroc_interval)
    return [name, *(escape(text) for text in [auroc, *tprs]), METRICS.find(name).title]


def _estimate(value: float, interval: Interval | None) -> str:
    return _format(value) + ("" if interval is None else f" [{_format(interval[0])}, {_format(interval[1])}]")


def _quick_row(record: Record) -> tuple[str, str, str, str, str]:
    metrics = record.metrics
    accuracy = _format(metrics.get("defense.acc", metrics.get("attack.acc")))
    before = metrics.get("attack.asr")
    success = "" if before is None else _format(before)
    if "defense.asr" in metrics:
        success = f"{success} → {_format(metrics['defense.asr'])}"
    finding = ""
    if "defense.tpr" in metrics:
        finding = (
            f"flags {_format(metrics['defense.tpr'])} of stamped, {_format(metrics['defense.fpr'])} of clean images"
        )
    elif "defense.fpr" in metrics:
        finding = f"flags {_format(metrics['defense.fpr'])} of clean images"
    elif "defense.aiv" in metrics:
        finding = f"anomaly index {_format(metrics['defense.aiv'])}"
        suspect = metrics.get("defense.suspect_class")
        finding += ": no suspect class" if suspect is None else f": class {suspect} is suspect"
    assert record.defense is not None
    return record.attack["name"], record.defense["name"], accuracy, success, finding or (record.reason or "")


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " ".join(f"{item:.4g}" for item in value)
    return str(value)


def _also(name: str, about: Mapping[str, Any]) -> list[str]:
    """Return the aliases; a metric goes by its own name too: asr is the attack's, after a defense, downstream."""
    return list(about.get("aliases", [name.rpartition(".")[2]]))


def _foreign(about: Mapping[str, Any]) -> str:
    """Return where something comes from that is not gifthorse's own."""
    origin = str(about.get("origin", OWN))
    return "" if origin == OWN else origin


def _about(cls: type[Configuration]) -> dict[str, Any]:
    return {**cls.describe(), "origin": origin_of(cls)}


def _listing(plugins: Sequence[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what there is to say of everything listed, by kind and name; from the cache where the code is the same."""
    place = listing_place()
    # Whoever has no home has no cache, and there is one: it is for what is always there.
    code = code_digest() if place.is_absolute() and not plugins else None
    listing: dict[str, dict[str, dict[str, Any]]] | None = recall(place, code)
    if listing is None:
        from gifthorse.bench.source import source_files

        load_plugins(plugins)
        catalogues = _catalogues()
        # The catalogues first: packages that add to them declare metrics and families as well.
        listing = {kind: {name: _about(cls) for name, cls in each.items()} for kind, each in catalogues.items()}
        files = source_files(*(cls for catalogue in catalogues.values() for cls in catalogue.values()))
        listing["families"] = {
            each.name: {"name": each.name, "summary": f"{each.title}: {each.sentence} {each.judged}"}
            for each in FAMILIES.values()
        }
        listing["metrics"] = {
            each.name: {
                "name": each.name,
                "summary": f"{each.title} – {each.meaning}",
                "subject": each.subject,
                "unit": each.unit.name,
                "higher_is_better": each.higher_is_better,
            }
            for each in METRICS.values()
        }
        keep(place, code, listing, content_digests(files))
    return listing


def _catalogues() -> dict[str, Catalogue[Any]]:
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import RECIPES
    from gifthorse.datasets import DATASETS
    from gifthorse.defenses import DEFENSES
    from gifthorse.models import ARCHITECTURES
    from gifthorse.training.heads import HEADS

    return {
        "attacks": ATTACKS,
        "defenses": DEFENSES,
        "models": ARCHITECTURES,
        "datasets": DATASETS,
        "recipes": RECIPES,
        "heads": HEADS,
    }
