"""The records of a store, read at once by DuckDB, filtered, and as one flat table; there is no server and no copy.

Nothing is validated field by field, so that ten thousand records are read in about a second. Imports no torch.
"""

import glob
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import duckdb

from gifthorse.bench.aliases import listed_name
from gifthorse.core.columns import CONFIGURATIONS, flat, has_column, unknown_column, value_in
from gifthorse.core.configuration import plain, split_request
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.record import Document, Downstream, Environment, Record, name_of
from gifthorse.core.seal import unsealed

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("gifthorse")

D = TypeVar("D", bound=Document)

SCHEMA = 1
"""The newest schema of records that is read."""

# Said rather than inferred: inference reads every file twice, and trips over old records, which lack the newest fields.
_TEXTS = ("id", "status", "reason", "data_digest", "profile", "family", "command", "created")
_NUMBERS = ("schema", "seed", "peak_memory_mb")
_LISTS = ("class_names", "doubts")
_OBJECTS = tuple(each for each in Record.model_fields if each not in (*_TEXTS, *_NUMBERS, *_LISTS, "schema_version"))
_FORM = {
    **dict.fromkeys((*_TEXTS, "digest"), "VARCHAR"),
    **dict.fromkeys(_NUMBERS, "HUGEINT"),
    **dict.fromkeys((*_LISTS, *_OBJECTS), "JSON"),
}
_NEEDED = ("seed", "profile", "created", "dataset", "model", "training", "attack", "environment")
_SOUND = " AND ".join(
    (
        "id = stem AND status IN ('done', 'skipped', 'failed') AND (defense IS NULL) = (family IS NULL)",
        "json_type(environment, '/gifthorse') = 'VARCHAR'",
        *(f"{name} IS NOT NULL" for name in _NEEDED),
        *(f"coalesce(json_type({name}), 'ARRAY') = 'ARRAY'" for name in _LISTS),
        *(f"coalesce(json_type({name}), 'OBJECT') = 'OBJECT'" for name in _OBJECTS),
    )
)
_NAMES = tuple(name for name in _FORM if name not in ("schema", "digest"))
_READ = """
CREATE TEMP TABLE files AS
SELECT parse_filename(filename, true) AS stem, try(decode(content)) AS text FROM read_blob(?)
"""
# A table of its own: within one statement every column would parse the text again.
_PARSE = """
CREATE TEMP TABLE documents AS
SELECT stem, text, unnest(json_transform(CASE WHEN json_valid(text) THEN text END, ?)) FROM files
"""
_SEALED = "CASE WHEN digest IS NOT NULL THEN text END"
_FETCH = f"SELECT stem, ({_SOUND}) IS true, {_SEALED}, {', '.join(_NAMES)} FROM documents ORDER BY created, stem"  # noqa: S608


@dataclass(frozen=True)
class StoredRecords:
    """The records of a store in the order in which they were made, and the files among them that are none."""

    records: list[Record]
    damaged: list[Path]


def read_records(root: Path) -> StoredRecords:
    """Read the records of a store, without validating them again; a damaged one is left out with a warning.

    :class:`StoreError` where they cannot be read, or a newer program wrote them.
    """
    folder = root / "records"
    if not any(folder.glob("*.json")):
        return StoredRecords([], [])
    # One thread: over many small files, two that wait for each other take longer. What is not there is not fetched.
    local: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "autoinstall_known_extensions": False}
    with duckdb.connect(config=local) as database:
        try:
            database.execute(_READ, [f"{glob.escape(str(folder))}/*.json"])
        except duckdb.IOException as error:
            raise StoreError(f"cannot read {folder}: {error}") from error
        database.execute(_PARSE, [json.dumps(_FORM)])
        ((newest,),) = database.execute("SELECT max(schema) FROM documents").fetchall()
        if newest is not None and newest > SCHEMA:
            raise StoreError(
                f"a newer gifthorse wrote {root}: its records have schema {newest}, this one reads {SCHEMA}"
            )
        rows = database.execute(_FETCH).fetchall()
    records, damaged, make = [], [], _maker()
    for stem, sound, text, *values in rows:
        try:
            if not sound or (text is not None and unsealed(text) == text.rstrip()):
                raise ValueError(f"{stem} is no record")
            records.append(make(values))
        except (ValueError, RecursionError):
            damaged.append(stem)
    if damaged:
        listed = ", ".join(damaged[:3]) + (", …" if len(damaged) > 3 else "")
        log.warning("%d damaged in %s, left out: %s", len(damaged), folder, listed)
    return StoredRecords(records, [folder / f"{stem}.json" for stem in damaged])


def _maker() -> Callable[[Sequence[Any]], Record]:
    """Return what makes a record of a row; equal configurations are read once, and are one object."""
    read = json.JSONDecoder(parse_constant=_refuse).decode
    readers: dict[str, Callable[[str], Any]] = dict.fromkeys((*_LISTS, *_OBJECTS), cache(read))
    readers |= dict.fromkeys(("metrics", "counts", "seconds", "artifacts"), read)
    readers["environment"] = cache(lambda text: Environment.model_construct(**read(text)))
    readers["downstream"] = cache(lambda text: Downstream.model_construct(**read(text)))

    def make(row: Sequence[Any]) -> Record:
        found = {name: value for name, value in zip(_NAMES, row, strict=True) if value is not None}
        read_in = {name: readers[name](value) if name in readers else value for name, value in found.items()}
        return Record.model_construct(**{"defense": None, **read_in})

    return make


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


@dataclass(frozen=True)
class Condition:
    """What a column has to hold: one of some values as people write them, or a request where it is a configuration.

    ``attack`` may hold ``badnets`` or ``badnets[poison_rate=0.05]``, ``defense`` may hold ``none``; aliases of what
    gifthorse lists are understood, as in requests.
    """

    column: str
    wanted: tuple[str, ...]

    def __str__(self) -> str:
        return " or ".join(f"{self.column}={each}" for each in self.wanted)


def select(records: Sequence[D], conditions: Iterable[Condition]) -> list[D]:
    """Return the records, or populations among them, that meet all conditions.

    :class:`RequestError` where none does, or has such a column.
    """
    found = list(records)
    for condition in conditions:
        tests = [_test(condition.column, wanted) for wanted in condition.wanted]
        values = [_value(record, condition.column) for record in found]
        met = [record for record, value in zip(found, values, strict=True) if any(test(value) for test in tests)]
        if not met and found:
            if all(value is None for value in values) and not has_column(condition.column, found):
                raise unknown_column(condition.column, found)
            there = ", ".join(sorted({"none" if value is None else _said(value) for value in values}))
            raise RequestError(f"no record has {condition}; there is: {there}")
        found = met
    return found


def _value(record: Document, column: str) -> Any:
    """Return what a condition is asked of: a configuration whole, the head of a downstream user."""
    if column == "downstream":
        user = getattr(record, "downstream", None)
        return None if user is None else user.head
    return getattr(record, column, None) if column in CONFIGURATIONS else value_in(record, column)


def _said(value: Any) -> str:
    return name_of(value) if isinstance(value, Mapping) else str(value)


def _test(column: str, wanted: str) -> Callable[[Any], bool]:
    if column in CONFIGURATIONS:
        said, fields = split_request(wanted)
        name = listed_name(said)

        def asked(value: Any) -> bool:
            if value is None:
                return name == "none"
            return name in map(plain, (str(value.get("name")), name_of(value))) and all(
                key in value and _same(value[key], field) for key, field in fields.items()
            )

        return asked
    try:
        read = json.loads(wanted)
    except (ValueError, RecursionError):
        read = wanted
    return lambda value: _same(value, read) or str(value) == wanted


def _same(value: Any, wanted: Any) -> bool:
    """Tell whether two JSON values are equal; true is not 1."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def frame(records: Iterable[Record]) -> "pd.DataFrame":
    """Return a row per record, with the flat columns of :mod:`gifthorse.core.columns`, each of one type.

    A list of numbers or of words stays a list; where a column has values of several kinds, all are JSON.
    """
    import pandas as pd

    rows = [flat(record) for record in records]
    parts = {part: place for place, part in enumerate(Record.model_fields)}
    columns = sorted(
        dict.fromkeys(name for row in rows for name in row), key=lambda name: parts.get(name.partition(".")[0], -1)
    )
    return pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in columns})


def _series(values: Sequence[Any]) -> "pd.Series[Any]":
    import pandas as pd

    present = [value for value in values if value is not None]
    kinds, missing = _kinds(present), len(present) < len(values)
    if kinds <= {str}:
        return pd.Series(values, dtype="str")
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if missing else "bool")
    if kinds == {int} and all(abs(value) < 2**63 for value in present):
        return pd.Series(values, dtype="Int64" if missing else "int64")
    if kinds == {int, float} or kinds == {float}:
        return pd.Series(values, dtype="float64")
    if kinds == {list} and _kinds(each for value in present for each in value) in ({str}, {int}, {float}, {int, float}):
        return pd.Series(values, dtype="object")
    return pd.Series([None if value is None else json.dumps(value) for value in values], dtype="str")


def _kinds(values: Iterable[Any]) -> set[type]:
    return {type(value) for value in values}


def write_frame(found: "pd.DataFrame", path: Path) -> None:
    """Write a data frame as ``.csv``, lists as JSON, or as ``.parquet``; :class:`RequestError` for another suffix."""
    from gifthorse.bench.store import write_atomically

    if path.suffix not in (".csv", ".parquet"):
        raise RequestError(f"cannot tell from '{path.name}' what to write: name a file that ends in .csv or .parquet")
    if path.suffix == ".csv":
        lists = [name for name, column in found.items() if column.dtype == "object"]
        found = found.assign(**{name: found[name].map(json.dumps, na_action="ignore") for name in lists})
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        whole, relation = Path(folder, path.name), database.from_df(found)
        write = relation.write_csv if path.suffix == ".csv" else relation.write_parquet
        write(str(whole))
        write_atomically(path, whole.read_bytes())
