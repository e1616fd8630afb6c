"""The flat columns of records: what tables, filters, exports and data frames call what a record holds.

``attack.name`` and ``attack.poison_rate`` are fields of the attack, ``attack.base.name`` is one of an attack within it,
``metrics.attack.asr`` is a number that was measured and ``seconds.attack`` a time. Imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from gifthorse.core.errors import RequestError, suggestion
from gifthorse.core.record import Document, Record

CONFIGURATIONS = ("dataset", "model", "training", "attack", "defense", "downstream", "stamp", "analysis")
"""The parts of a record that were asked for by name and fields."""

SPREAD = (*CONFIGURATIONS, "metrics", "counts", "seconds", "environment", "artifacts")
"""The parts of a record that have a column for everything in them."""

VERSION = "environment.gifthorse"
ALIASES = {"version": VERSION, **{part: f"{part}.name" for part in CONFIGURATIONS if part != "downstream"}}
ALIASES["downstream"] = "downstream.head.name"
"""Columns by shorter names; ``attack`` is the attack's name."""


def flat(record: Document) -> dict[str, Any]:
    """Return everything in a record by column, in order: text, numbers, flags, lists, and null where nothing is."""
    found: dict[str, Any] = {}
    for name, value in _parts(record).items():
        if name in SPREAD:
            _spread(name, value, found)
        else:
            found[name] = value
    return found


def value_in(record: Document, column: str) -> Any:
    """Return what a record has in a column; ``None`` where it has no such column."""
    part, *rest = split(column)
    value = getattr(record, part, None)
    for name in rest:
        value = _fields(value).get(name)
    return value


def without(records: Sequence[Record], columns: Sequence[str]) -> list[Record]:
    """Return copies of records that lack fields of what was asked for, as ``attack.target``: those are the same then.

    :class:`RequestError` where a column is no such field, or no record has it.
    """
    found = list(records)
    for column in columns:
        part, *names = split(column)
        if part not in CONFIGURATIONS or part == "downstream" or len(names) != 1 or names == ["name"]:
            raise RequestError(f"cannot average over '{column}': name a field, as attack.target")
        if not has_column(column, found):
            raise unknown_column(column, found)
        for place, record in enumerate(found):
            fields = dict(_fields(getattr(record, part)))
            if names[0] in fields:
                fields.pop(names[0])
                found[place] = record.model_copy(update={part: fields})
    return found


def has_column(column: str, records: Iterable[Document]) -> bool:
    """Tell whether any of the records has a column, be its value null or not; a whole part is one in any case."""
    if column in CONFIGURATIONS:
        return True
    wanted = ALIASES.get(column, column)
    return any(wanted in flat(record) for record in records)


def split(column: str) -> list[str]:
    """Return where a column's value lies in a record: the names to follow.

    >>> split("metrics.attack.asr"), split("attack.base.poison_rate"), split("version")
    (['metrics', 'attack.asr'], ['attack', 'base', 'poison_rate'], ['environment', 'gifthorse'])
    """
    part, dot, rest = ALIASES.get(column, column).partition(".")
    if not dot:
        return [part]
    return [part, rest] if part in ("metrics", "counts", "seconds", "artifacts") else [part, *rest.split(".")]


def unknown_column(column: str, records: Iterable[Document]) -> RequestError:
    """Return the error that says that none of the records has a column, and which it may have meant."""
    known = {name for record in records for name in flat(record)} | ALIASES.keys()
    part, within = column.partition(".")[0], [name for name in known if name.endswith(f".{column}")]
    beside = {name for name in known if name.startswith(f"{part}.")} or {name.partition(".")[0] for name in known}
    near = suggestion(column, within or known, "", most=3)
    meant = near if "?" in near else suggestion("", within or beside, "columns")
    return RequestError(f"no record has a column '{column}'{meant}")


def _parts(record: Document) -> dict[str, Any]:
    fields = type(record).model_fields
    return {("schema" if name == "schema_version" else name): getattr(record, name) for name in fields}


def _fields(value: Any) -> Mapping[str, Any]:
    """Return what something holds by name; nothing where it holds nothing so."""
    return vars(value) if isinstance(value, BaseModel) else value if isinstance(value, Mapping) else {}


def _spread(name: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, (Mapping, BaseModel)):
        for inner, content in _fields(value).items():
            _spread(f"{name}.{inner}", content, found)
    elif value is not None or "." in name:
        found[name] = value
