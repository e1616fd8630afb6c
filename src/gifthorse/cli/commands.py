"""What the commands do; torch is imported where something is computed."""

import json
import os
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gifthorse.bench.answers import code_digest, keep, listing_place, recall
from gifthorse.bench.plugins import load_plugins, origin_of
from gifthorse.bench.study import PopulationRequest
from gifthorse.bench.study import request as asked
from gifthorse.cli import bibtex
from gifthorse.cli.computing import How, Work, make_runner
from gifthorse.cli.live import notes, showing_progress
from gifthorse.cli.options import Machine
from gifthorse.cli.report import write_report
from gifthorse.core.command import bracket
from gifthorse.core.configuration import Catalogue, split_commas
from gifthorse.core.contents import content_digests
from gifthorse.core.errors import RequestError
from gifthorse.core.family import FAMILIES
from gifthorse.core.metric import CLASS, METRICS
from gifthorse.core.record import FPRS, Interval, Population, Record, Separation, benign_needed
from gifthorse.report.naming import attack_labels, class_label, key, name_of

if TYPE_CHECKING:
    from gifthorse.cli.options import Machine

FAILED = 4
OWN = "gifthorse"
QUICKSTART_ATTACKS = ("none", "badnets")
QUICKSTART_DEFENSES = ("shrinkpad", "strip", "fine_pruning", "neural_cleanse")

answers = Console(width=None if os.isatty(1) else 120, emoji=False)


def run_quickstart(store: Path, machine: Machine, out: Path, show: bool) -> None:
    """Run the quickstart's cells, print a table, write the report, open it if asked."""
    requests = [
        asked(attack=attack, defense=defense) for attack in QUICKSTART_ATTACKS for defense in QUICKSTART_DEFENSES
    ]
    work = Work.of(requests, store, machine, How())
    work.run()
    table = Table("attack", "defense", "accuracy", "attack success", "the defense's finding", box=None)
    for number in sorted(work.records):
        table.add_row(*_quick_row(work.records[number]))
    answers.print(table)
    write_report(store, out)
    if show:
        webbrowser.open(out.resolve().as_uri())


def run_cell(
    request: Mapping[str, Any],
    store: Path,
    machine: Machine,
    how: How,
    *,
    plugins: Sequence[Path],
    as_json: bool,
) -> int:
    """Run one cell and print it; returns the exit code."""
    work = Work.of([asked(**request)], store, machine, how, plugins=plugins)
    work.run()
    record = work.records[0]
    if as_json:
        click.echo(record.to_json())
    else:
        print_record(record)
    if record.status == "failed":
        notes.print(f"gifthorse: the cell failed: {record.reason}", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    return 0


def analyse(
    request: Mapping[str, Any],
    analyses: Sequence[str],
    store: Path,
    machine: Machine,
    how: How,
    *,
    plugins: Sequence[Path],
    as_json: bool,
) -> int:
    """Let analyses look at one model and print what they found; returns the exit code."""
    names = list(dict.fromkeys(name.strip() for text in analyses for name in split_commas(text)))
    if not names or not all(names) or "none" in names:
        raise RequestError(f"--with names no analysis: '{','.join(analyses)}'; 'gifthorse list analyses' shows all")
    work = Work.of([asked(**request, analysis=name) for name in names], store, machine, how, plugins=plugins)
    work.run()
    records = [work.records[number] for number in sorted(work.records)]
    if as_json:
        click.echo(f"[{','.join(record.to_json() for record in records)}]")
    else:
        for record in records:
            print_record(record)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        notes.print(f"gifthorse: an analysis failed: {record.reason}", markup=False, highlight=False, soft_wrap=True)
    return FAILED if failed else 0


def judge_population(
    request: Mapping[str, Any],
    benign: int,
    trojaned: int,
    store: Path,
    machine: Machine,
    how: How,
    *,
    plugins: Sequence[Path],
    same_target: bool,
    as_json: bool,
) -> int:
    """Judge a defense on a population and print it; returns the exit code."""
    models = PopulationRequest(asked(**request), benign, trojaned, same_target)
    work = Work.of([], store, machine, how, populations=[models], plugins=plugins)
    work.run()
    population = work.concluded[0]
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
    out: Path,
    store: Path,
    machine: Machine,
    *,
    plugins: Sequence[Path],
    download: bool,
) -> None:
    """Write a poisoned training set as pictures."""
    from gifthorse.bench.cell import resolve

    load_plugins(plugins)
    cell = resolve(**request)
    with showing_progress():
        about = make_runner(store, machine, How(download=download)).export_poisoned(cell, out)
    click.echo(f"{out.resolve()}: {about['images']} training pictures, {about['poisoned']} of them poisoned", err=True)


def list_kinds(kinds: tuple[str, ...], plugins: Sequence[Path]) -> None:
    """Print the kinds of things that can be listed, with their names."""
    found = listing(plugins)
    for kind in kinds:
        click.echo(f"{kind:10} {', '.join(found[kind])}")


def list_kind(kind: str, name: str | None, plugins: Sequence[Path], as_json: bool) -> None:
    """Print the listed things of a kind, or all about one of them."""
    described = listing(plugins)[kind] if name is None else _called(kind, name, plugins)
    if as_json:
        click.echo(json.dumps(list(described.values()), indent=1, ensure_ascii=False))
        return
    if name is None or len(described) > 1:
        foreign = any(map(_foreign, described.values()))
        evadable = any(about.get("offers") for about in described.values())
        added = [Column("trained against by")] if evadable else []
        added += [Column("from", overflow="fold")] if foreign else []
        table = Table("name", "also", Column("what it is", overflow="fold"), *added, box=None)
        for about in described.values():
            family = f" ({about['family']})" if "family" in about else ""
            row = [about["name"], ", ".join(about.get("aliases", [])), about["summary"] + family]
            row += [about.get("offers", "").partition(":")[0]] if evadable else []
            row.append(_foreign(about))
            table.add_row(*map(escape, row[: len(table.columns)]))
        answers.print(table)
        return
    (about,) = described.values()
    answers.print(f"{about['name']}: {about['summary']}", markup=False, highlight=False)
    if about.get("paper"):
        answers.print(f"Paper: {about['paper']}", highlight=False)
    if about.get("offers"):
        answers.print(f"Can be trained against (against={about['name']}): {about['offers']}", highlight=False)
    if _foreign(about):
        answers.print(f"From: {_foreign(about)}", markup=False, highlight=False)
    if about.get("fields"):
        table = Table("field", "default", "range", "type", "meaning", box=None)
        for field in about["fields"]:
            default = json.dumps(field["default"], ensure_ascii=False)
            cells = field["name"], default, field["range"], field["type"], field["help"]
            table.add_row(*map(escape, cells))
        answers.print(table)


def print_bibtex(kind: str | None, name: str | None, plugins: Sequence[Path]) -> None:
    """Print BibTeX of the papers behind one listed thing, or all of a kind, or all there are.

    :class:`RequestError` where there is none. A name that is spelled in full is looked up in no listing.
    """
    if kind is None or name is None:
        chosen = {each: bibtex.known(each) for each in ([kind] if kind else bibtex.kinds())}
        click.echo(bibtex.entries(key for papers in chosen.values() for keys in papers.values() for key in keys))
        if plugins:
            found = listing(plugins)
            foreign = sorted(name for each, papers in chosen.items() for name in found[each].keys() - papers.keys())
            notes.print(f"no BibTeX is known of {', '.join(foreign)}", markup=False, highlight=False)
        return
    papers = bibtex.known(kind)
    if name not in papers:
        ((name, about),) = _called(kind, name, plugins).items()
        if name not in papers:
            said = f"; it names '{about['paper']}'" if about.get("paper") else ""
            raise RequestError(f"no BibTeX is known of '{name}', which comes from {about['origin']}{said}")
    if not papers[name]:
        raise RequestError(f"no paper is behind '{name}': it is gifthorse's own")
    click.echo(bibtex.entries(papers[name]))


def _called(kind: str, name: str, plugins: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return what is listed of a kind by this name or alias; of metrics it may be several."""
    listed = listing(plugins)[kind]
    described = {known: about for known, about in listed.items() if name in (known, *_also(known, about))}
    if not described and kind not in ("metrics", "families"):
        load_plugins(plugins)
        found = _catalogues()[kind].find(name)
        described = {found.name: {**found.describe(), "origin": origin_of(found)}}
    if not described:
        raise RequestError(f"nothing under {kind} is called '{name}'; 'gifthorse list {kind}' shows all")
    return described


def print_record(record: Record) -> None:
    """Print a record's numbers for a person."""
    defense = record.defense["name"] if record.defense else "no defense"
    attack = attack_labels([record])[key(record.attack)]
    title = f"{attack} on {record.dataset['name']}/{name_of(record.model)}, {defense}, "
    if record.downstream is not None:
        head, images = record.downstream.head, record.downstream.dataset
        title += f"{head['name']} with {head['tuning']} tuning on {images['name']}, "
    if record.stamp is not None:
        title += f"trigger {bracket(record.stamp)}, "
    if record.analysis is not None:
        title += f"{record.analysis['name']}, "
    title += f"seed {record.seed}"
    ended = f"{title}: {record.status}" + (f" ({record.reason})" if record.reason else "")
    answers.print(ended, markup=False, highlight=False, soft_wrap=True)
    if record.doubts:
        answers.print(
            f"the attack did not take: {'; '.join(record.doubts)}", markup=False, highlight=False, soft_wrap=True
        )
    table = Table("metric", "value", "n", "meaning", box=None)
    for name, value in record.metrics.items():
        if record.analysis is not None and not name.startswith("analysis."):
            continue
        count = record.counts.get(name, "")
        of = " ".join(map(str, count)) if isinstance(count, list) else str(count)
        metric = METRICS.find(name)
        labels = value if isinstance(value, list) else [value]
        named = metric.unit == CLASS and all(label == int(label) for label in labels)
        told = ", ".join(class_label(int(label), record.class_names) for label in labels) if named else _format(value)
        table.add_row(name, escape(told), of, metric.title)
    if table.row_count:
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
    if population.twin is not None:
        said = f"benign models: the trojans' benign twins, trained as long ({bracket(population.twin)})"
        answers.print(said, markup=False, highlight=False)
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
        answers.print(f"left out ({which}{ended}): {reason}", markup=False, highlight=False, soft_wrap=True)


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


def listing(plugins: Sequence[Path] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what there is to say of everything listed, by kind and name; from the cache where the code is the same.

    :class:`RequestError` where plugins cannot be loaded, with a line for each.
    """
    place = listing_place(plugins)
    # Whoever has no home has no cache.
    code = code_digest(plugins) if place.is_absolute() else None
    found: dict[str, dict[str, dict[str, Any]]] | None = recall(place, code)
    if found is None:
        from gifthorse.bench.source import source_files

        load_plugins(plugins)
        catalogues = _catalogues()
        # The catalogues first: packages that add to them declare metrics and families as well.
        found = {kind: _described(each) for kind, each in catalogues.items()}
        files = source_files(*(cls for catalogue in catalogues.values() for cls in catalogue.values()))
        found["families"] = {
            each.name: {"name": each.name, "summary": f"{each.title}: {each.sentence} {each.judged}"}
            for each in FAMILIES.values()
        }
        found["metrics"] = {
            each.name: {
                "name": each.name,
                "summary": f"{each.title} – {each.meaning}",
                "subject": each.subject,
                "unit": each.unit.name,
                "higher_is_better": each.higher_is_better,
            }
            for each in METRICS.values()
        }
        keep(place, code, found, content_digests(files))
    return found


def _described(catalogue: Catalogue[Any]) -> dict[str, dict[str, Any]]:
    # Presets are gifthorse's own.
    return {
        name: {**about, "origin": origin_of(catalogue[name]) if name in catalogue else OWN}
        for name, about in catalogue.describe().items()
    }


def _catalogues() -> dict[str, Catalogue[Any]]:
    from gifthorse.analyses import ANALYSES
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import RECIPES
    from gifthorse.datasets import DATASETS
    from gifthorse.defenses import DEFENSES
    from gifthorse.models import ARCHITECTURES
    from gifthorse.stampings import STAMPS
    from gifthorse.training.heads import HEADS
    from gifthorse.transformations import TRANSFORMATIONS

    return {
        "attacks": ATTACKS,
        "defenses": DEFENSES,
        "models": ARCHITECTURES,
        "datasets": DATASETS,
        "recipes": RECIPES,
        "heads": HEADS,
        "stamps": STAMPS,
        "analyses": ANALYSES,
        "transformations": TRANSFORMATIONS,
    }
