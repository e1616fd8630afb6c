"""Configurations as text: the shortest label that tells them apart, and the command that runs them again."""

import json
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gifthorse.core.configuration import split_request
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record

Fields = Mapping[str, Any]


def key(configuration: Fields | None) -> str:
    """Return the same text for equal configurations, whatever the order of their fields."""
    return json.dumps(configuration, sort_keys=True)


def name_of(configuration: Fields) -> str:
    """Return the configuration's name, a network of a library's with its own.

    >>> name_of({"name": "strip", "fpr": 0.05}), name_of({"name": "torchvision", "arch": "resnet50"})
    ('strip', 'torchvision/resnet50')
    """
    name, arch = _own_name(configuration), configuration.get("arch")
    return f"{name}/{arch}" if arch is not None else name


def labels(configurations: Iterable[Fields], always: Collection[str] = ()) -> dict[str, str]:
    """Return a label by :func:`key`: the name, the fields named in ``always``, and those in which namesakes differ.

    >>> one, two = {"name": "strip", "fpr": 0.05, "clip": True}, {"name": "strip", "fpr": 0.01, "clip": True}
    >>> sorted(labels([one, two, {"name": "none"}]).values())
    ['none', 'strip[fpr=0.01]', 'strip[fpr=0.05]']
    """
    distinct = {key(configuration): configuration for configuration in configurations}
    found = {}
    for identity, configuration in distinct.items():
        namesakes = [other for other in distinct.values() if name_of(other) == name_of(configuration)]
        differing = {
            field: value
            for field, value in configuration.items()
            if field in always or any(field not in other or other[field] != value for other in namesakes)
        }
        found[identity] = bracket({"name": name_of(configuration), **differing})
    return found


def bracket(configuration: Fields) -> str:
    """Return the bracket string of a configuration, every field spelled out.

    >>> bracket({"name": "badnets", "poison_rate": 0.1, "mixing": "batch", "trigger_position": [1, 2]})
    'badnets[poison_rate=0.1,mixing=batch,trigger_position=[1,2]]'
    >>> bracket({"name": "pipeline", "defenses": [{"name": "strip", "fpr": 0.05}, {"name": "abs"}]})
    'pipeline[defenses=[strip[fpr=0.05],abs]]'
    """
    name = _own_name(configuration)
    fields = [f"{field}={_show(value)}" for field, value in configuration.items() if field != "name"]
    return f"{name}[{','.join(fields)}]" if fields else name


def command(record: Record) -> str:
    """Return the ``gifthorse run`` command line that runs this cell again, quoted for a shell."""
    options: dict[str, str] = {
        "--dataset": bracket(record.dataset),
        "--model": bracket(record.model),
        "--training": bracket(record.training),
        "--profile": record.profile,
        "--attack": bracket(record.attack),
    }
    if record.defense is not None:
        options["--defense"] = bracket(record.defense)
    if record.downstream is not None:
        options["--downstream"] = bracket(record.downstream.head)
        options["--downstream-dataset"] = bracket(record.downstream.dataset)
    options["--seed"] = str(record.seed)
    given = [*(("--plugin", path) for path in record.plugins), *options.items()]
    return " \\\n  ".join(["gifthorse run", *(f"{option} {shlex.quote(value)}" for option, value in given)])


def _own_name(configuration: Fields) -> str:
    return str(configuration.get("name", "unnamed"))


def _show(value: Any) -> str:
    """Leave a word unquoted where it reads back as the same word, and write configurations in brackets."""
    if isinstance(value, Mapping) and "name" in value:
        return bracket(value)
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return f"[{','.join(map(_show, value))}]"
    if isinstance(value, str) and value == value.strip():
        try:
            if split_request(f"x[x={value}]") == ("x", {"x": value}):
                return value
        except RequestError:
            pass
    return json.dumps(value, separators=(",", ":"))
