"""``gifthorse scan``: a model that somebody handed over, looked at as it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifthorse.cli.options import Machine, machine_options, plugin_option, store_option
from gifthorse.core.errors import NotApplicableError

if TYPE_CHECKING:
    from gifthorse.bench.store import Store
    from gifthorse.core.scan import Inspection, Scan

SUSPICIOUS = 3
MOST = 12
"""Classes that are printed of each inspector, the most suspicious ones."""


def _numbers(kind: Callable[[str], Any], separator: str) -> Callable[..., tuple[Any, ...] | None]:
    def read(_: object, parameter: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        if text is None:
            return None
        try:
            return tuple(kind(part) for part in text.lower().split(separator))
        except ValueError:
            raise click.BadParameter(f"'{text}' is no list of numbers", param=parameter) from None

    return read


def _size(context: object, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    numbers = _numbers(int, "x")(context, parameter, text)
    if numbers is None:
        return None
    if len(numbers) > 2 or min(numbers) < 1:
        raise click.BadParameter(f"'{text}' is no size; say 64, or 20x60 for height and width", param=parameter)
    return numbers[0], numbers[-1]


@click.command()
@click.argument("model_file", type=click.Path(path_type=Path, dir_okay=False), metavar="MODEL")
@click.option(
    "--model", "architecture", metavar="NAME[...]", help="Architecture that the weights are of; ONNX needs none."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of images, with a folder per class or flat.",
)
@click.option(
    "--dataset",
    metavar="NAME[...]",
    help="In place of --data: the images of a listed data set that models are not trained on here.",
)
@click.option(
    "--size", metavar="N|HxW", callback=_size, help="Size that the model takes; the images' own unless given."
)
@click.option(
    "--mean",
    metavar="NUMBERS",
    callback=_numbers(float, ","),
    help="Mean that the input is normalised by, as 0.485,0.456,0.406, for pixels in [0,1].",
)
@click.option("--std", metavar="NUMBERS", callback=_numbers(float, ","), help="Standard deviation, in the same way.")
@click.option(
    "--classes",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with a class name per line, in the order of the model's outputs.",
)
@click.option(
    "--entry", metavar="NAME", help="Entry of the file that holds the weights, as model_ema or checkpoint.state_dict."
)
@click.option(
    "--prefix", metavar="TEXT", help="What comes before the names of the weights that are meant, as backbone."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="How long the inspectors may take.",
)
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar="NAME[...]",
    help="Inspector to use; may be given several times. Without it those that tell our own populations best.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print the scan, and nothing else, on standard output.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the scan as an HTML page to here.")
@click.option("--fresh", is_flag=True, help="Look again, even if the store holds the answer.")
@plugin_option
@store_option
@machine_options
def scan(
    model_file: Path,
    defenses: tuple[str, ...],
    budget: float,
    seed: int,
    as_json: bool,
    out: Path | None,
    fresh: bool,
    plugins: tuple[Path, ...],
    store: Path,
    machine: Machine,
    **delivery: Any,
) -> None:
    """Look for a backdoor in a model that you were handed, exactly as it was delivered: nothing is trained on it.

    MODEL is a file of weights (safetensors, or what torch.save wrote of a state dict) or an ONNX model. All images
    given are used to look with; no label is needed. The answer is kept in the store, where 'gifthorse report' shows it.

    Exit codes: 0 not suspicious, 3 suspicious, 2 the request was wrong, 4 no inspector can look at this model.
    Nothing can show that a model is clean.
    """
    from gifthorse.cli.report import check_html

    if out is not None:
        check_html(out)
    from gifthorse.bench.delivered import Delivery
    from gifthorse.bench.plugins import load_plugins
    from gifthorse.bench.scan import ScanRequest
    from gifthorse.bench.scan import scan as look
    from gifthorse.cli.computing import make_runner
    from gifthorse.cli.live import notes, showing_progress
    from gifthorse.core.contents import looking_once

    load_plugins(plugins)
    runner = make_runner(store, machine)
    asked = ScanRequest(Delivery(model_file, **delivery), defenses, budget, seed)

    def tell(line: str) -> None:
        notes.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        with looking_once(), showing_progress():
            found = look(asked, runner.store, machine.data_root, runner.device, fresh=fresh, tell=tell)
    except NotApplicableError as error:
        tell(f"gifthorse: {error}")
        sys.exit(4)
    if out is not None:
        write_page(runner.store, found, out)
    if as_json:
        click.echo(found.to_json())
    else:
        print_scan(found)
    sys.exit(SUSPICIOUS if found.suspicious else 0)


def write_page(store: "Store", found: "Scan", out: Path) -> None:
    """Write one scan as an HTML page."""
    from gifthorse.bench.store import write_atomically
    from gifthorse.report.scans import scan_page

    write_atomically(out, scan_page(found, store.scan_evidence(found.id)).encode())
    click.echo(f"page: {out.resolve()}", err=True)


def print_scan(found: "Scan") -> None:
    """Print a scan for a person: what was read, the evidence of every inspector by class, the answer, its limits."""
    from gifthorse.cli.commands import answers

    def say(text: str, style: str | None = None) -> None:
        answers.print(text, markup=False, highlight=False, style=style, soft_wrap=True)

    size = "×".join(map(str, found.images.shape))
    say(f"{found.title}: {len(found.class_names)} classes, {found.images.count} images of {size}")
    if found.accuracy is not None:
        say(f"accuracy as delivered: {found.accuracy:.3f} of {found.images.count}")
    for remark in found.remarks:
        say(f"note: {remark}")
    for inspection in found.inspections:
        say("")
        if inspection.status == "skipped":
            say(f"{inspection.defense['name']}: skipped, {inspection.reason}")
            continue
        _print_inspection(found, inspection)
    say("")
    say(found.verdict(), style="bold red" if found.suspicious else "bold")
    for each in found.inspections:
        alarms = each.false_alarms()
        if alarms is not None:
            above, of = alarms
            say(f"{each.defense['name']}: {above} of {of} benign models of our populations are above its threshold")
    say("What this cannot see:")
    for limit in found.blind_spots:
        say(f"- {limit}")


def _print_inspection(found: "Scan", inspection: "Inspection") -> None:
    from rich.markup import escape
    from rich.table import Table

    from gifthorse.cli.commands import answers

    answers.print(f"{inspection.defense['name']} ({inspection.seconds:.0f} s)", markup=False, highlight=False)
    for remark in inspection.remarks:
        answers.print(f"note: {remark}", markup=False, highlight=False)
    ranked = sorted(inspection.classes, key=lambda each: each.index, reverse=True)
    if not ranked:
        return
    sized, tried = (any(getattr(each, name) is not None for each in ranked) for name in ("size", "success"))
    columns = [
        "class",
        inspection.index_name or "index",
        *(["mask, pixels"] if sized else []),
        *(["works on"] if tried else []),
        "",
    ]
    table = Table(*columns, box=None)
    for each in ranked[:MOST]:
        cells = [escape(found.named(each.label)), f"{each.index:.3g}"]
        cells += [f"{each.size:.1f}"] if sized and each.size is not None else []
        cells += [f"{100 * each.success:.0f} %"] if tried and each.success is not None else []
        table.add_row(*cells, "suspect" if each.label in inspection.suspects else "")
    answers.print(table)
    if len(ranked) > MOST:
        answers.print(f"… and {len(ranked) - MOST} classes more, less suspicious", highlight=False)
