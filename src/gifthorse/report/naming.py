"""Configurations as text: the shortest label that tells them apart."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gifthorse.core.command import Fields, bracket
from gifthorse.core.record import Population, Record
from gifthorse.core.record import name_of as name_of


def key(configuration: Any) -> str:
    """Return the same text for equal configurations, whatever the order of their fields."""
    return json.dumps(configuration, sort_keys=True)


def labels(configurations: Iterable[Fields], always: Collection[str] = ()) -> dict[str, str]:
    """Return a label by :func:`key`: the name, fields in which namesakes differ, and those in ``always`` unless null.

    What is made of a list of others shows them.

    >>> one, two = {"name": "strip", "fpr": 0.05, "clip": True}, {"name": "strip", "fpr": 0.01, "clip": True}
    >>> sorted(labels([one, two, {"name": "none"}]).values())
    ['none', 'strip[fpr=0.01]', 'strip[fpr=0.05]']
    >>> around = [{"name": "enhanced", "base": {"name": name, "poison_rate": 0.1}} for name in ("badnets", "blended")]
    >>> sorted(labels(around).values())
    ['enhanced[base=badnets]', 'enhanced[base=blended]']
    >>> list(labels([{"name": "pipeline", "defenses": [{"name": "flip"}, one]}]).values())
    ['pipeline[defenses=[flip,strip]]']
    """
    return {identity: bracket(fields) for identity, fields in _shortest(configurations, always).items()}


def _shortest(configurations: Iterable[Fields], always: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return what :func:`labels` says, as fields; of configurations within them as little."""
    distinct = {key(configuration): configuration for configuration in configurations}
    namesakes = Counter(name_of(configuration) for configuration in distinct.values())
    sharing = Counter(
        (name_of(configuration), field, key(value))
        for configuration in distinct.values()
        for field, value in configuration.items()
    )
    within: dict[tuple[str, str], list[Fields]] = {}
    for configuration in distinct.values():
        for field, value in configuration.items():
            within.setdefault((name_of(configuration), field), []).extend(_named(value))
    inner = {place: _shortest(values) for place, values in within.items() if values}
    found = {}
    for identity, configuration in distinct.items():
        name = name_of(configuration)
        found[identity] = {"name": name} | {
            field: value if field in always else _told(value, inner.get((name, field), {}))
            for field, value in configuration.items()
            if (field in always and value is not None)
            or sharing[name, field, key(value)] < namesakes[name]
            or (isinstance(value, list) and _named(value))
        }
    return found


def _named(value: Any) -> list[Fields]:
    """Return the configurations that a field holds: itself, a list of some, or none."""
    parts = value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, Mapping) and "name" in part]


def _told(value: Any, shortest: Mapping[str, Fields]) -> Any:
    """Return the value with the configurations that it holds as short as ``shortest`` has them, by :func:`key`."""
    return [_told(part, shortest) for part in value] if isinstance(value, list) else shortest.get(key(value), value)


def class_label(index: int, names: Sequence[str]) -> str:
    """Return a class's number, and its name beside it where that says more.

    >>> class_label(3, ["airplane", "automobile", "bird", "cat"]), class_label(1, ["0", "1"]), class_label(7, [])
    ('3 (cat)', '1', '7')
    """
    name = names[index] if 0 <= index < len(names) else str(index)
    return str(index) if name == str(index) else f"{index} ({name})"


def attack_labels(records: Iterable[Record]) -> dict[str, str]:
    """Return the :func:`labels` of the attacks; of a benign model that was trained as a twin, always how."""
    return labels((record.attack for record in records), always=("trained",))


def attack_of(population: Population) -> Fields:
    """Return the attack of a population, without its target where every model has another."""
    fields = population.attack.items()
    return {name: value for name, value in fields if not (population.varied_target and name == "target")}


def natural(text: str) -> list[str | float]:
    """Return what texts are sorted by so that numbers within them go by size.

    >>> sorted(["class 10", "class 9", "badnets[poison_rate=1e-05]", "badnets[poison_rate=0.1]"], key=natural)
    ['badnets[poison_rate=1e-05]', 'badnets[poison_rate=0.1]', 'class 9', 'class 10']
    """
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]
