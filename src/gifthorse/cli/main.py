"""Entry point: commands, options and help. Imports no torch before a command needs it."""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gifthorse.bench.profiles import PROFILES
from gifthorse.cli.check import check
from gifthorse.cli.figures import figures
from gifthorse.cli.grid import grid
from gifthorse.cli.options import Machine, machine_options, plugin_option, store_option
from gifthorse.cli.report import check_html, report
from gifthorse.cli.review import review
from gifthorse.cli.scan import scan
from gifthorse.cli.table import export, table
from gifthorse.cli.upkeep import gc, ls, rm
from gifthorse.core.errors import RequestError, StoreError

KINDS = (
    "attacks",
    "defenses",
    "models",
    "datasets",
    "recipes",
    "heads",
    "stamps",
    "analyses",
    "transformations",
    "families",
    "metrics",
)

ENDINGS = (signal.SIGTERM, signal.SIGHUP)
"""What ends the program as Ctrl-C does."""

EPILOG = """\b
Examples:
  gifthorse quickstart
  gifthorse list defenses
  gifthorse run --dataset digits --attack badnets --defense strip
  gifthorse run --attack 'badnets[poison_rate=0.05,trigger_size=2]' --defense neural_cleanse --seed 3
  gifthorse grid --attack badnets --attack imc --defense strip --defense neural_cleanse --seed 0..2 --jobs 2
  gifthorse grid study.toml --dry-run
  gifthorse population --attack badnets --defense neural_cleanse --benign 10 --trojaned 10
  gifthorse poison --attack badnets --out poisoned-digits
  gifthorse table --rows attack --columns defense --out results.tex
  gifthorse ls --status failed
  gifthorse scan model.pt --model torchvision/resnet18 --data photographs
  gifthorse report --out report.html
  gifthorse analyze --attack badnets --with nsr,gradcam,tsne
  gifthorse figures --out figures --kind matrix --kind roc --where dataset=digits
  gifthorse run --plugin my_defense.py --attack badnets --defense my_defense
  gifthorse check my_defense --plugin my_defense.py

\b
Exit codes: 0 done, 2 the request was wrong, 3 a scanned model is suspicious, 4 a cell failed,
130 interrupted (run again to continue).
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(package_name="gifthorse")
def cli() -> None:
    """Plant, defend against and measure neural backdoors in image classifiers.

    A backdoored classifier works well on clean images but gives a class of the attacker's choice to any image that
    carries a trigger. gifthorse plants such backdoors, lets defenses loose on them that cannot see the truth, and
    judges both.

    Everything named takes fields in brackets, for example 'badnets[poison_rate=0.05,trigger_size=3]';
    'gifthorse list attacks badnets' shows them all.
    """


@cli.command()
@store_option
@machine_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="gifthorse-report.html",
    show_default=True,
    help="Where the report goes.",
)
@click.option("--open/--no-open", "show", default=None, help="Open the report in a browser (default: on a terminal).")
def quickstart(store: Path, machine: Machine, out: Path, show: bool | None) -> None:
    """Benign and backdoored digit classifiers, one defense of each family, and a report: about a minute.

    Trains on real handwritten digits that ship inside scikit-learn, so nothing is downloaded.
    """
    check_html(out)
    from gifthorse.cli.commands import run_quickstart

    run_quickstart(store, machine, out, sys.stdout.isatty() if show is None else show)


@cli.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@click.option("--bibtex", "as_bibtex", is_flag=True, help="Print the papers behind what is listed, as BibTeX.")
@plugin_option
def list_(kind: str | None, name: str | None, as_json: bool, as_bibtex: bool, plugins: tuple[Path, ...]) -> None:
    """Show what there is: attacks, defenses, models, datasets, training recipes, heads, stamps, analyses, their parts.

    With a NAME, for example 'gifthorse list attacks badnets', every field with its type, default, range and meaning.
    The listing is kept in $XDG_CACHE_HOME/gifthorse (~/.cache/gifthorse unless set) while the code stays the same.
    """
    from gifthorse.cli.commands import list_kind, list_kinds, print_bibtex

    if as_json and as_bibtex:
        raise click.UsageError("--json and --bibtex exclude each other")
    if as_bibtex:
        print_bibtex(kind, name, plugins)
    elif kind is None:
        list_kinds(KINDS, plugins)
    else:
        list_kind(kind, name, plugins, as_json)


@cli.command()
@click.option("--dataset", default="digits", show_default=True, metavar="NAME[...]", help="Images to work on.")
@click.option("--model", metavar="NAME[...]", help="Architecture; the profile's choice for the data set unless given.")
@click.option("--attack", default="none", show_default=True, metavar="NAME[...]", help="Attack; none: a benign model.")
@click.option("--defense", metavar="NAME[...]", help="Defense; without one, or with none, only the attack is judged.")
@click.option(
    "--training",
    default="standard",
    show_default=True,
    metavar="NAME[...]",
    help="Recipe, as 'standard[epochs=30]' or 'dhbe'.",
)
@click.option(
    "--downstream",
    metavar="NAME[...]",
    help="New head for the delivered network and its tuning, as 'fcn1[tuning=full]'; not with --defense.",
)
@click.option(
    "--downstream-dataset",
    metavar="NAME[...]",
    help="Images of the downstream user; those of --dataset unless given.",
)
@click.option(
    "--stamp",
    metavar="NAME[...]",
    help="How the trigger is shown at test time, as 'amplified[copies=9]' or 'shifted[down=-3]'; as it was planted "
    "unless given.",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="laptop",
    show_default=True,
    help="Budget for what is not said: " + "; ".join(f"{name}: {text}" for name, text in PROFILES.items()) + ".",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print the record, and nothing else, on standard output.")
@click.option("--fresh", is_flag=True, help="Compute again, even what the store holds.")
@click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there.")
@click.option("--debug", is_flag=True, help="Raise what goes wrong in the cell rather than record it.")
@plugin_option
@store_option
@machine_options
def run(
    plugins: tuple[Path, ...],
    store: Path,
    machine: Machine,
    as_json: bool,
    fresh: bool,
    download: bool,
    debug: bool,
    **request: Any,
) -> None:
    """Run one cell: train, attack, defend or transfer, judge.

    The result is a record in the store; the same command again is answered from there. An interrupted run
    continues where its last finished model lies.
    """
    from gifthorse.cli.commands import run_cell
    from gifthorse.cli.computing import How

    how = How(fresh=fresh, download=download, debug=debug)
    sys.exit(run_cell(request, store, machine, how, plugins=plugins, as_json=as_json))


@cli.command()
@click.option("--dataset", default="digits", show_default=True, metavar="NAME[...]", help="Images to work on.")
@click.option("--model", metavar="NAME[...]", help="Architecture; the profile's choice for the data set unless given.")
@click.option(
    "--attack", default="badnets", show_default=True, metavar="NAME[...]", help="Attack; none: a benign model."
)
@click.option(
    "--with",
    "analyses",
    multiple=True,
    required=True,
    metavar="NAME[...],…",
    help="What is to look inside of the model, as nsr,gradcam,cdrp; may be given several times. 'gifthorse list "
    "analyses' shows all.",
)
@click.option("--defense", metavar="NAME[...]", help="Look at what this defense leaves of the model.")
@click.option(
    "--training", default="standard", show_default=True, metavar="NAME[...]", help="Recipe, as 'standard[epochs=30]'."
)
@click.option("--stamp", metavar="NAME[...]", help="How the trigger is shown; as it was planted unless given.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="laptop", show_default=True, help="As for run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as an array, and nothing else.")
@click.option("--fresh", is_flag=True, help="Compute again, even what the store holds.")
@click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there.")
@plugin_option
@store_option
@machine_options
def analyze(
    analyses: tuple[str, ...],
    plugins: tuple[Path, ...],
    store: Path,
    machine: Machine,
    as_json: bool,
    fresh: bool,
    download: bool,
    **request: Any,
) -> None:
    """Look inside of a trojaned model and of its benign twin: attribution maps, neurons, routing paths, features.

    The model is that of 'gifthorse run' with the same options, trained if it is not in the store. Every analysis is a
    record of its own there; 'gifthorse report' shows its pictures beside the cell, 'gifthorse figures --kind analyses'
    draws them as files.
    """
    from gifthorse.cli.commands import analyse
    from gifthorse.cli.computing import How

    how = How(fresh=fresh, download=download)
    sys.exit(analyse(request, analyses, store, machine, how, plugins=plugins, as_json=as_json))


@cli.command()
@click.option("--dataset", default="digits", show_default=True, metavar="NAME[...]", help="Images to work on.")
@click.option("--model", metavar="NAME[...]", help="Architecture; the profile's choice for the data set unless given.")
@click.option("--attack", required=True, metavar="NAME[...]", help="Attack that makes the trojaned models.")
@click.option("--defense", required=True, metavar="NAME[...]", help="Defense that inspects models.")
@click.option("--benign", type=click.IntRange(1), default=10, show_default=True, help="Number of benign models.")
@click.option("--trojaned", type=click.IntRange(1), default=10, show_default=True, help="Number of trojaned models.")
@click.option(
    "--same-target",
    is_flag=True,
    help="Leave the attack's target to all models; otherwise, unless --attack names one, it is the seed modulo the "
    "number of classes.",
)
@click.option(
    "--training",
    default="standard",
    show_default=True,
    metavar="NAME[...]",
    help="Recipe, as 'standard[epochs=30]' or 'dhbe'.",
)
@click.option("--profile", type=click.Choice(list(PROFILES)), default="laptop", show_default=True, help="As for run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first of either group.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
@click.option("--json", "as_json", is_flag=True, help="Print the population, and nothing else, on standard output.")
@click.option("--fresh", is_flag=True, help="Compute again, even what the store holds.")
@click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there.")
@plugin_option
@store_option
@machine_options
def population(
    benign: int,
    trojaned: int,
    same_target: bool,
    jobs: int,
    plugins: tuple[Path, ...],
    store: Path,
    machine: Machine,
    as_json: bool,
    fresh: bool,
    download: bool,
    **request: Any,
) -> None:
    """Judge a defense that inspects models on many benign and trojaned ones.

    Trains them with consecutive seeds and tells how well the defense's index separates the two groups: AUROC, TPR at a
    stated FPR, and how often it names the target, with 95 % intervals. Where an attack re-trains, the benign models are
    its benign twins, trained as long on clean images. Models whose attack did not take are left out, with the reason.
    Every model is a cell of the store, so an interrupted population continues where it was.
    """
    from gifthorse.cli.commands import judge_population
    from gifthorse.cli.computing import How

    how = How(jobs=jobs, fresh=fresh, download=download)
    sys.exit(
        judge_population(
            request,
            benign,
            trojaned,
            store,
            machine,
            how,
            plugins=plugins,
            same_target=same_target,
            as_json=as_json,
        )
    )


@cli.command()
@click.option("--dataset", default="digits", show_default=True, metavar="NAME[...]", help="Images to poison.")
@click.option("--attack", required=True, metavar="NAME[...]", help="Attack; one that only poisons the training set.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Empty or new folder to write to."
)
@click.option("--model", metavar="NAME[...]", help="Architecture of the benign model that some triggers are made on.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="laptop", show_default=True, help="As for run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there.")
@plugin_option
@store_option
@machine_options
def poison(out: Path, plugins: tuple[Path, ...], store: Path, machine: Machine, download: bool, **request: Any) -> None:
    """Write a poisoned training set as a folder of PNGs, for any training code.

    train/ holds the poisoned training images under the labels the attacker wants, test/ the clean test images, stamped/
    the test images with the trigger under their true labels, and manifest.json what was done to which picture.
    """
    from gifthorse.cli.commands import export_poisoned_set

    export_poisoned_set(request, out, store, machine, plugins=plugins, download=download)


for each in (check, scan, grid, table, figures, report, review, export, ls, rm, gc):
    cli.add_command(each)


def main() -> None:
    """Run the command line; wrong requests end in a clear line each and exit code 2."""
    for each in ENDINGS:
        # Whoever started this may want it to ignore one, as nohup does.
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "gifthorse"
        _stop(f"{error.format_message()} (see '{command} --help')", 2)
    except click.ClickException as error:
        _stop(error.format_message(), 2)
    except (RequestError, StoreError) as error:
        _stop(str(error), 2)
    except (KeyboardInterrupt, click.Abort):
        # Whoever presses the keys twice wants out, not a traceback from the clean-up.
        for each in (signal.SIGINT, *ENDINGS):
            signal.signal(each, signal.SIG_IGN)
        _stop("interrupted; what was finished is kept: run the same command again to continue", 130)


def _stop(message: str, code: int) -> None:
    # The terminal may be gone.
    with suppress(OSError):
        for line in message.splitlines() or [""]:
            click.echo(f"gifthorse: {' '.join(line.split())}", err=True)
    sys.exit(code)
