"""Which records and populations are meant: ``attack=badnets``, ``attack.poison_rate=0.05``, ``seed=3``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gifthorse.core.errors import RequestError
from gifthorse.core.record import Downstream, Population, Record
from gifthorse.report.naming import name_of

FIELDS = (
    *("dataset", "model", "training", "attack", "defense"),
    *("downstream", "family", "profile", "seed", "status"),
)
"""What conditions may be about; the fields of a configuration follow it after a dot."""

_OF_POPULATIONS = {"family": "inspection", "status": "done"}
"""What is true of every population, and not written in it."""


def select(documents: Sequence[Record | Population], conditions: Iterable[str]) -> list[Record | Population]:
    """Return the documents that meet all conditions; those about the same field are alternatives.

    :class:`RequestError` where one is not of the form ``field=value``, there is no such field, or none of the documents
    meets it.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        field, sign, value = condition.partition("=")
        if not sign or not value:
            raise RequestError(f"'{condition}' is not of the form field=value")
        if field.partition(".")[0] not in FIELDS:
            raise RequestError(f"'{condition}': there is no field '{field}'; there are: {', '.join(FIELDS)}")
        wanted.setdefault(field, []).append(value)
    found = list(documents)
    for field, values in wanted.items():
        met = [each for each in found if any(_is(_value(each, field), value) for value in values)]
        if found and not met:
            there = ", ".join(sorted({_said(_value(each, field)) for each in found}))
            raise RequestError(f"nothing has {field}={' or '.join(values)}; there is: {there}")
        found = met
    return found


def _value(document: Record | Population, field: str) -> Any:
    """Return what a document has under a field: a configuration, or a field within it, by dots."""
    first, *rest = field.split(".")
    found: Any = getattr(document, first, _OF_POPULATIONS.get(first))
    if isinstance(found, Downstream):
        found = found.head
    for name in rest:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _is(found: Any, wanted: str) -> bool:
    if isinstance(found, Mapping):
        return wanted in (found.get("name"), name_of(found))
    if found is None:
        return wanted == "none"
    return wanted == _said(found) or _same(found, _read(wanted))


def _same(found: Any, read: Any) -> bool:
    """Tell whether two JSON values are equal; true is not 1."""
    return bool(found == read) and isinstance(found, bool) == isinstance(read, bool)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return name_of(value)
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
