"""What a record says, as a request: the bracket string of a configuration, the command line of a cell."""

import json
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gifthorse.core.configuration import split_request
from gifthorse.core.errors import RequestError

Fields = Mapping[str, Any]


def bracket(configuration: Fields) -> str:
    """Return the bracket string of a configuration, every field spelled out.

    >>> bracket({"name": "badnets", "poison_rate": 0.1, "mixing": "batch", "trigger_position": [1, 2]})
    'badnets[poison_rate=0.1,mixing=batch,trigger_position=[1,2]]'
    >>> bracket({"name": "pipeline", "defenses": [{"name": "strip", "fpr": 0.05}, {"name": "abs"}]})
    'pipeline[defenses=[strip[fpr=0.05],abs]]'
    """
    name = str(configuration.get("name", "unnamed"))
    fields = [f"{field}={_show(value)}" for field, value in configuration.items() if field != "name"]
    return f"{name}[{','.join(fields)}]" if fields else name


def command(record: Fields, between: str = " ") -> str:
    """Return the command line (``gifthorse run``, or ``analyze``) that runs a cell again, quoted for a shell.

    ``record`` has the fields of a :class:`gifthorse.Record` that say what was asked, JSON-ready.
    """
    options: dict[str, str] = {
        "--dataset": bracket(record["dataset"]),
        "--model": bracket(record["model"]),
        "--training": bracket(record["training"]),
        "--profile": record["profile"],
        "--attack": bracket(record["attack"]),
    }
    if record["defense"] is not None:
        options["--defense"] = bracket(record["defense"])
    if record["downstream"] is not None:
        options["--downstream"] = bracket(record["downstream"]["head"])
        options["--downstream-dataset"] = bracket(record["downstream"]["dataset"])
    if record["stamp"] is not None:
        options["--stamp"] = bracket(record["stamp"])
    if record["analysis"] is not None:
        options["--with"] = bracket(record["analysis"])
    options["--seed"] = str(record["seed"])
    said = [*(("--plugin", path) for path in record["plugins"]), *options.items()]
    verb = "run" if record["analysis"] is None else "analyze"
    return between.join([f"gifthorse {verb}", *(f"{option} {shlex.quote(value)}" for option, value in said)])


def _show(value: Any) -> str:
    """Leave a word unquoted where it reads back as the same word, and write configurations in brackets."""
    if isinstance(value, Mapping) and "name" in value:
        return bracket(value)
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return f"[{','.join(map(_show, value))}]"
    if isinstance(value, str) and _reads_back(value):
        return value
    return json.dumps(value, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _reads_back(word: str) -> bool:
    """Tell whether a word without quotes is read as itself; the commands of a store have few words, each many times."""
    try:
        return word == word.strip() and split_request(f"x[x={word}]") == ("x", {"x": word})
    except RequestError:
        return False
