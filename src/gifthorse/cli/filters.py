"""Options that choose records, for the commands that read or remove them."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifthorse.core.errors import RequestError

if TYPE_CHECKING:
    from gifthorse.bench.query import Condition
    from gifthorse.core.record import Record

_MAKES = "'gifthorse quickstart' or 'gifthorse run' makes"
NAMED = ("dataset", "attack", "defense", "status", "profile", "seed")
Filters = Mapping[str, tuple[str, ...]]


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose records; the command gets them as ``filters``, values by option."""

    @wraps(command)
    def with_filters(**options: Any) -> None:
        filters = {name: tuple(map(str, options.pop(name))) for name in (*NAMED, "where")}
        command(filters=filters, **options)

    wrapped: Callable[..., None] = with_filters
    types: dict[str, Any] = {
        "dataset": {"metavar": "NAME[...]", "help": "Only this data set; several mean any of them, here and below."},
        "attack": {"metavar": "NAME[...]", "help": "Only this attack, as 'badnets' or 'badnets[poison_rate=0.05]'."},
        "defense": {"metavar": "NAME[...]", "help": "Only this defense; none: the attack alone."},
        "status": {"type": click.Choice(["done", "skipped", "failed"]), "help": "Only cells that ended so."},
        "profile": {"metavar": "NAME", "help": "Only this profile."},
        "seed": {"type": click.IntRange(0), "help": "Only this seed."},
        "where": {
            "metavar": "COLUMN=VALUE",
            "help": "Only records with this in a column, as attack.trigger_size=3 or version=0.1.0.",
        },
    }
    for name, about in reversed(types.items()):
        wrapped = click.option(f"--{name}", multiple=True, **about)(wrapped)
    return wrapped


def conditions(texts: Iterable[str]) -> "list[Condition]":
    """Return what is asked of records, as ``attack=badnets``; what is said of one column are alternatives.

    :class:`RequestError` where one is not of the form column=value.
    """
    from gifthorse.bench.query import Condition

    wanted: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not (equals and column):
            raise RequestError(f"--where {text} is not of the form column=value")
        wanted.setdefault(column.strip(), []).append(value.strip())
    return [Condition(column, tuple(values)) for column, values in wanted.items()]


def check_store(store: Path) -> None:
    """Raise :class:`RequestError` where there is no store."""
    if not store.is_dir():
        raise RequestError(f"there is no store at {store.resolve()}; {_MAKES} one")


def empty_store(store: Path) -> RequestError:
    """Return the error of a store that holds no records."""
    return RequestError(f"{store.resolve()} holds no records; {_MAKES} some")


def chosen_records(store: Path, filters: Filters) -> "list[Record]":
    """Return the records of a store that the options choose; :class:`RequestError` where there are none."""
    from gifthorse.bench.query import read_records, select

    check_store(store)
    records = read_records(store).records
    if not records:
        raise empty_store(store)
    named = (f"{name}={value}" for name in NAMED for value in filters[name])
    return select(records, conditions([*named, *filters["where"]]))
