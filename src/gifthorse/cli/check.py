"""``gifthorse check``: which promises a method keeps."""

import sys
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from gifthorse.cli.options import plugin_option
from gifthorse.core.errors import RequestError, brief

if TYPE_CHECKING:
    from gifthorse.core.analysis import Analysis
    from gifthorse.core.attack import Attack
    from gifthorse.core.defense import Defense

STYLES = {"kept": "green", "broken": "bold red", "not asked": "yellow"}


@click.command()
@click.argument("method", metavar="METHOD")
@plugin_option
def check(method: str, plugins: tuple[Path, ...]) -> None:
    """Tell which promises an attack, a defense or an analysis keeps, in seconds.

    METHOD is the name of a listed one, or of one in a --plugin, or package.module.Class of one that can be imported;
    fields go in brackets. It is run on tiny worlds of noise, with every long field cut short. Exits with 4 where a
    promise is broken.
    """
    import torch
    from rich.markup import escape
    from rich.table import Table

    from gifthorse.bench.plugins import load_plugins
    from gifthorse.cli.commands import FAILED, answers
    from gifthorse.cli.live import showing_progress
    from gifthorse.contracts import promises_of
    from gifthorse.core.progress import track

    load_plugins(plugins)
    asked = method_called(method)
    torch.set_num_threads(1)  # the worlds are tiny
    answers.print(str(asked), markup=False, highlight=False)
    promises = promises_of(asked)
    with showing_progress():
        found = {each.sentence: each.look() for each in track(promises, "promises", len(promises))}
    unsettled = any(each.reason for each in found.values())
    table = Table("", "promise", *(["reason"] if unsettled else []), box=None)
    for sentence, (state, reason) in found.items():
        table.add_row(f"[{STYLES[state]}]{state}[/]", sentence, *([escape(reason)] if unsettled else []))
    answers.print(table)
    sys.exit(FAILED if any(each.state == "broken" for each in found.values()) else 0)


def method_called(text: str) -> "Attack | Defense[Any] | Analysis":
    """Return the attack, defense or analysis of a name or a package.module.Class, with fields in brackets if any.

    A listed one has its settings of the smoke profile. :class:`RequestError` where there is none.
    """
    from gifthorse.analyses import ANALYSES
    from gifthorse.attacks import ATTACKS
    from gifthorse.bench.cell import resolve
    from gifthorse.core.configuration import Catalogue, split_request
    from gifthorse.defenses import DEFENSES

    name, bracket, fields = text.partition("[")
    # As entry points say it, too.
    module, dot, cls = name.strip().replace(":", ".").rpartition(".")
    if dot:
        return _imported(module, cls).from_dict(split_request(f"x{bracket}{fields}")[1])
    problems = []
    catalogues: dict[str, Catalogue[Any]] = {"attack": ATTACKS, "defense": DEFENSES, "analysis": ANALYSES}
    for role, listed in catalogues.items():
        try:
            listed.find(name.strip())
        except RequestError as error:
            problems.append(str(error))
        else:
            found = getattr(resolve(**{"dataset": "digits", "profile": "smoke", role: text}), role)  # type: ignore[arg-type]
            return cast("Attack | Defense[Any] | Analysis", found)
    raise RequestError("; ".join(problems))


def _imported(module: str, name: str) -> "type[Attack | Defense[Any] | Analysis]":
    """Return a class of a module that can be imported."""
    from gifthorse.core.analysis import Analysis
    from gifthorse.core.attack import Attack
    from gifthorse.core.configuration import package_places
    from gifthorse.core.defense import Defense

    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:
        reason = brief(error, *package_places(module.partition(".")[0]))
        raise RequestError(f"{module} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Attack | Defense | Analysis)) or isabstract(found):
        raise RequestError(f"{module}.{name} is no attack, defense or analysis that can be run")
    return found
