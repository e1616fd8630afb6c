"""``gifthorse grid``: a whole study, from a file or from the command line."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifthorse.bench.profiles import PROFILES
from gifthorse.cli.options import Machine, machine_options, plugin_option, store_option
from gifthorse.core.errors import RequestError

if TYPE_CHECKING:
    from gifthorse.bench.execution import Pool
    from gifthorse.bench.runner import Runner
    from gifthorse.bench.store import Store
    from gifthorse.bench.study import Asked, Listing, Study, StudyFile
    from gifthorse.cli.computing import How, Work

FAILED = 4

EPILOG = """\b
A grid file:
  attack = ["none", "badnets", "imc"]
  defense = ["strip", "fine_pruning", "neural_cleanse"]
  seed = "0..2"
  sweep.attack.poison_rate = [0.01, 0.1]

  [[population]]
  attack = "badnets"
  defense = ["neural_cleanse", "abs"]
"""

STEPS = {
    "benign": "benign model",
    "twin": "benign twin",
    "attack_prepared": "attack's preparation",
    "trojan": "trojan",
    "prepared": "preparation",
    "record": "cell",
}
AXES = ("dataset", "model", "training", "attack", "defense", "downstream", "stamp", "analysis")


@click.command(epilog=EPILOG)
@click.argument("study", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--dataset", multiple=True, metavar="NAME[...]", help="Images to work on (digits unless given).")
@click.option("--model", multiple=True, metavar="NAME[...]", help="Architecture; the profile's choice unless given.")
@click.option("--training", multiple=True, metavar="NAME[...]", help="Recipe, as 'standard[epochs=30]'.")
@click.option("--attack", multiple=True, metavar="NAME[...]", help="Attack; none: a benign model.")
@click.option("--defense", multiple=True, metavar="NAME[...]", help="Defense; none: only the attack is judged.")
@click.option("--downstream", multiple=True, metavar="NAME[...]", help="New head and its tuning, in a defense's place.")
@click.option("--downstream-dataset", metavar="NAME[...]", help="Images of the downstream user.")
@click.option("--stamp", multiple=True, metavar="NAME[...]", help="How the trigger is shown; none: as it was planted.")
@click.option(
    "--analysis", multiple=True, metavar="NAME[...]", help="What looks inside of the model, instead of a judge."
)
@click.option("--seed", multiple=True, metavar="N or N..M", help="Seed, or a range of seeds: 0..4 is five.")
@click.option("--profile", multiple=True, type=click.Choice(list(PROFILES)), help="As for run; laptop unless given.")
@click.option("--dry-run", is_flag=True, help="Show what would be computed and about how long that takes.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Let Ray compute: 'local' on this machine, 'auto' on the cluster that it is part of, or an address; the store "
    "must be on a folder that all machines share.",
)
@click.option("--fail-fast/--keep-going", default=False, help="Stop at the first cell that fails, or go on (default).")
@click.option("--fresh", is_flag=True, help="Compute again, even what the store holds.")
@click.option("--download", is_flag=True, help="Fetch the data sets into --data-root if they are not there.")
@click.option("--debug", is_flag=True, help="Raise what goes wrong, in this process, rather than record it.")
@click.option("--json", "as_json", is_flag=True, help="Print records and populations as one JSON object.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the grid file and stop.")
@plugin_option
@store_option
@machine_options
def grid(
    study: Path | None,
    plugins: tuple[Path, ...],
    store: Path,
    machine: Machine,
    dry_run: bool,
    jobs: int,
    ray: str | None,
    fail_fast: bool,
    fresh: bool,
    download: bool,
    debug: bool,
    as_json: bool,
    schema: bool,
    **axes: Any,
) -> None:
    """Run every attack against every defense with every seed, as the file STUDY says, and print its tables.

    Without a file the options say it; each may be given several times. What the store holds is not computed again:
    whatever stopped a grid, the same command continues it. --seed and --profile replace those of a file, and each
    --plugin is added to those that it names.
    """
    if schema:
        from gifthorse.bench.study import Study

        click.echo(json.dumps(Study.model_json_schema(), indent=1, ensure_ascii=False))
        return
    if ray and jobs > 1:
        raise RequestError("--ray and --jobs both say who computes: leave one out")
    if debug and (jobs > 1 or ray):
        raise RequestError("--debug raises in this process: leave --jobs and --ray out")
    from gifthorse.cli.computing import How

    how = How(jobs=jobs, fresh=fresh, download=download, fail_fast=fail_fast or debug, debug=debug)
    said = {key: list(value) if isinstance(value, tuple) else value for key, value in axes.items()}
    file = _study_file(study, said, plugins)
    sys.exit(run_grid(file, store, machine, how, ray=ray, dry_run=dry_run, as_json=as_json))


def _study_file(path: Path | None, axes: Mapping[str, Any], plugins: tuple[Path, ...]) -> "StudyFile":
    """Read the file, or make a study of the command line's axes; add the command line's plugins."""
    from pydantic import ValidationError

    from gifthorse.bench.study import Study, StudyFile

    said = {key: value for key, value in axes.items() if value}
    if path is None and not said:
        raise RequestError("a grid needs a file, or at least an --attack; 'gifthorse grid --help' shows both")
    file = StudyFile(Study())
    if path is not None:
        twice = [f"--{key.replace('_', '-')}" for key in said if key not in ("seed", "profile")]
        if twice:
            raise RequestError(f"{' and '.join(twice)}: {path.name} says that; only --seed and --profile replace it")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
        file = StudyFile.read(text, str(path))
    if "seed" in said:
        said["seed"] = [int(each) if each.strip().isdigit() else each for each in said["seed"]]
    try:
        study = Study.model_validate({**file.study.model_dump(), **said})
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise RequestError(f"--{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return replace(file, study=study, added=plugins)


def run_grid(
    file: "StudyFile", store: Path, machine: Machine, how: "How", *, ray: str | None, dry_run: bool, as_json: bool
) -> int:
    """Run a study, or show its plan; returns the exit code."""
    from gifthorse.bench.answers import code_digest
    from gifthorse.bench.study import expand
    from gifthorse.cli.computing import Work
    from gifthorse.cli.live import notes

    # What is listed may have to be looked up, which loads torch.
    code = code_digest(file.plugins)
    asked = expand(file, *_listing(file))

    def place(request: Mapping[str, Any], problem: str) -> str:
        named = {key: str(request[key]) for key in AXES if request.get(key)}
        # A problem begins with the name of what it is about.
        about = {key: text for key, text in named.items() if text.partition("[")[0] == problem.partition(":")[0]}
        (key, text), *_ = (about or named).items()
        return file.place(key, text) if file.name else ""

    work = Work.of(
        asked.cells,
        store,
        machine,
        how,
        populations=asked.populations,
        plugins=file.plugins,
        place=place,
        code=code,
    )
    if dry_run:
        _print_plan(file, asked, work)
        return 0
    if work.plan is not None:
        notes.print(_first_line(file, work), markup=False, highlight=False, soft_wrap=True)
    work.run(None if ray is None else lambda runner: _ray(runner, ray, file.study, machine))
    _keep_study(work, file)
    if as_json:
        records = [json.loads(work.records[number].to_json()) for number in sorted(work.records)]
        populations = [json.loads(work.concluded[number].to_json()) for number in sorted(work.concluded)]
        click.echo(json.dumps({"records": records, "populations": populations}, indent=1, ensure_ascii=False))
    else:
        _print_results(work, file.study)
    return _conclusion(work, store)


def _listing(file: "StudyFile") -> tuple["Listing", list[str]]:
    """Return what is listed with the study's plugins, and what is wrong with those that cannot be loaded."""
    from gifthorse.cli.commands import listing

    try:
        return listing(file.plugins), []
    except RequestError as error:
        problems = str(error).splitlines()

    def placed(problem: str) -> str:
        # Those that the command line added come last, and stand in no line.
        for text, path in zip(file.study.plugins, file.plugins, strict=False):
            if problem.startswith(f"the plugin {path} "):
                return f"{file.place('plugins', text)}: {problem}"
        return problem

    return listing(), [placed(each) for each in problems]


def _ray(runner: "Runner", address: str, study: "Study", machine: Machine) -> "Pool":
    from gifthorse.bench.ray_pool import RayPool

    resources = {str(stage): each.model_dump() for stage, each in study.resources.items()}
    return RayPool(runner, address, resources, device=machine.device)


def _first_line(file: "StudyFile", work: "Work") -> str:
    assert work.plan is not None
    cells = len(work.requests) + sum(each.benign + each.trojaned for each in work.populations)
    stages: Counter[str] = Counter(
        node.stage for node in work.plan.nodes if (node.stage, node.cell.attack.name) != ("trojan", "none")
    )
    models = (("benign", "benign"), ("twin", "twin"), ("trojan", "trojaned"))
    counts = ", ".join(f"{stages[stage]} {text}" for stage, text in models if stages[stage])
    training = f"; models to train: {counts}" if counts else ""
    return f"{file.name or 'grid'}: {cells} cells, {stages['record']} to compute{training}"


def _conclusion(work: "Work", store: Path) -> int:
    from gifthorse.cli.live import notes

    statuses: Counter[str] = Counter(record.status for record in work.records.values())
    for population in work.concluded.values():
        statuses.update(left.status for left in population.left_out if left.status == "failed")
    missing = len(work.requests) - len(work.records) + len(work.populations) - len(work.concluded)
    if missing:
        statuses["not run"] = missing
    said = ", ".join(f"{count} {status}" for status, count in statuses.items())
    notes.print(f"{said or 'nothing to do'}; store: {store}", markup=False, highlight=False, soft_wrap=True)
    if statuses["failed"]:
        notes.print(
            "gifthorse: the same command tries again what failed", markup=False, highlight=False, soft_wrap=True
        )
    return FAILED if statuses["failed"] or missing else 0


def _keep_study(work: "Work", file: "StudyFile") -> None:
    """Keep the study's text with its results, which they are, and the digests of its plugins by path."""
    from gifthorse.core.contents import content_digests

    document = {
        "text": file.text,
        "study": file.study.model_dump(mode="json"),
        "plugins": content_digests(path.resolve() for path in file.plugins),
        "records": sorted({record.id for record in work.records.values()}),
        "populations": sorted({population.id for population in work.concluded.values()}),
    }
    path = work.store.root / "studies" / f"{file.identity}.json"
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    if not path.exists() or path.read_bytes() != content:
        work.store.write(path, content)


def _print_results(work: "Work", study: "Study") -> None:
    """Print the study's tables, or the matrix of attacks and defenses where it names none, and its populations."""
    from gifthorse.bench.query import select
    from gifthorse.bench.study import Table
    from gifthorse.cli.commands import print_population
    from gifthorse.cli.filters import conditions
    from gifthorse.cli.table import load_packages
    from gifthorse.core.columns import without
    from gifthorse.report.matrix import matrix
    from gifthorse.report.sheet import WRITERS

    records = [work.records[number] for number in sorted(work.records)]
    further = [Table(columns=each) for each in ("stamp", "analysis") if any(getattr(one, each) for one in records)]
    for table in (study.table or [Table(), *further]) if records else ():
        load_packages(records)
        chosen = select(records, conditions(table.where))
        varied = ["attack.target"] if study.vary_target and any("target" in each.attack for each in chosen) else []
        found = without(chosen, [*dict.fromkeys([*table.over, *varied])])
        sheet = matrix(
            found, table.rows, table.columns, table.metric or (), interval=table.interval, relative_to=table.relative_to
        )
        if table.title:
            click.echo(f"{table.title}\n")
        click.echo(WRITERS["text"](sheet))
    for number in sorted(work.concluded):
        print_population(work.concluded[number])


def _print_plan(file: "StudyFile", asked: "Asked", work: "Work") -> None:
    """Print the plan as a tree."""
    from rich.markup import escape
    from rich.tree import Tree

    from gifthorse.cli.commands import answers

    cells = len(asked.cells)
    title = escape(file.study.title or file.name or "grid")
    tree = Tree(f"{title}: {_several(cells, 'cell')}, {_several(len(asked.populations), 'population')}")
    known = work.plan.known if work.plan is not None else {}
    stored = {n for n in range(cells) if n in work.records or (n in work.cells and work.cells[n].identity() in known)}
    settings: dict[str, dict[str, list[int]]] = {}
    for number, cell in enumerate(asked.cells):
        where = " · ".join(str(cell[key]) for key in ("dataset", "model", "training", "profile") if cell[key])
        settings.setdefault(where, {}).setdefault(cell["attack"], []).append(number)
    for where, attacks in settings.items():
        branch = tree.add(escape(where))
        for attack, numbers in attacks.items():
            twig = branch.add(f"{escape(attack)}{_counted(numbers, stored)}")
            ends: dict[str, list[int]] = {}
            for number in numbers:
                cell = asked.cells[number]
                end = cell["defense"] or cell["downstream"] or "no defense"
                said = ", ".join(filter(None, (end, cell["stamp"], cell["analysis"])))
                ends.setdefault(said, []).append(number)
            for end, those in ends.items():
                seeds = ", ".join(str(asked.cells[number]["seed"]) for number in those)
                twig.add(f"{escape(end)}, seeds {seeds}{_counted(those, stored)}")
    for number, population in enumerate(asked.populations):
        said = f"population: {population.request['defense']} against {population.request['attack']} on "
        said += f"{population.request['dataset']}, {population.benign} benign and {population.trojaned} trojaned models"
        tree.add(escape(said) + (" (in the store)" if number in work.concluded else ""))
    reasons: dict[str, int] = Counter(reason for _, reason in asked.excluded)
    for reason, count in reasons.items():
        tree.add(f"left out, {_several(count, 'cell')}: {escape(reason)}")
    answers.print(tree, highlight=False)
    if work.plan is None:
        answers.print("everything is in the store", highlight=False)
        return
    answers.print(_first_line(file, work), markup=False, highlight=False, soft_wrap=True)
    answers.print(_estimate(work), markup=False, highlight=False, soft_wrap=True)


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _counted(numbers: list[int], stored: set[int]) -> str:
    have = sum(number in stored for number in numbers)
    return f" ({have} of {len(numbers)} in the store)" if have else ""


def _estimate(work: "Work") -> str:
    """Return how long the plan takes, by what the store's records of the same kind took."""
    from gifthorse.cli.live import spoken

    assert work.plan is not None
    took = _times(work.store)
    total, unknown = 0.0, Counter[str]()
    for node in work.plan.nodes:
        times = took.get(_kind(node.stage, node.cell.dataset.name, node.cell.model.name, *_method(node)), [])
        if times:
            total += sorted(times)[len(times) // 2]
        else:
            unknown[node.stage] += 1
    jobs = work.how.jobs
    said = f"about {spoken(total / jobs)} with {_several(jobs, 'job')}, by earlier records of the same kind"
    if not unknown:
        return said
    steps = ", ".join(_several(count, STEPS[stage]) for stage, count in unknown.items())
    if not total:
        return f"no earlier records tell how long these steps take: {steps}"
    return f"{said}; of these steps there are none yet: {steps}"


def _times(store: "Store") -> dict[str, list[float]]:
    """Return the seconds that stages took, by what they were of."""
    found: dict[str, list[float]] = {}
    for record in store.records():
        dataset, model = record.dataset["name"], record.model["name"]
        attack = str(record.attack)
        for stage in ("benign", "twin", "attack_prepared", "trojan"):
            seconds = record.seconds.get("attack" if stage == "trojan" else stage)
            if seconds is not None:
                method = record.profile if stage == "benign" else attack
                found.setdefault(_kind(stage, dataset, model, method), []).append(seconds)
        end = str(record.defense or (record.downstream and record.downstream.head))
        seconds = record.seconds.get("defense", record.seconds.get("downstream", record.seconds.get("judgement")))
        if seconds is not None:
            found.setdefault(_kind("record", dataset, model, end), []).append(seconds)
    return found


def _method(node: Any) -> tuple[str]:
    cell = node.cell
    if node.stage == "benign":
        return (cell.profile,)
    if node.stage in ("twin", "attack_prepared", "trojan"):
        return (str(cell.attack.to_dict()),)
    user = cell.downstream and cell.downstream.head
    return (str(cell.defense.to_dict() if cell.defense else user and user.to_dict()),)


def _kind(*parts: str) -> str:
    return "\0".join(parts)
