"""Configurations as text: the shortest label that tells them apart."""

import json
from collections.abc import Collection, Iterable

from gifthorse.core.command import Fields, bracket
from gifthorse.core.record import Record


def key(configuration: Fields | None) -> str:
    """Return the same text for equal configurations, whatever the order of their fields."""
    return json.dumps(configuration, sort_keys=True)


def name_of(configuration: Fields) -> str:
    """Return the configuration's name, a network of a library's with its own.

    >>> name_of({"name": "strip", "fpr": 0.05}), name_of({"name": "torchvision", "arch": "resnet50"})
    ('strip', 'torchvision/resnet50')
    """
    name, arch = str(configuration.get("name", "unnamed")), configuration.get("arch")
    return f"{name}/{arch}" if arch is not None else name


def labels(configurations: Iterable[Fields], always: Collection[str] = ()) -> dict[str, str]:
    """Return a label by :func:`key`: the name, fields in which namesakes differ, and those in ``always`` unless null.

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
            if (field in always and value is not None)
            or any(field not in other or other[field] != value for other in namesakes)
        }
        found[identity] = bracket({"name": name_of(configuration), **differing})
    return found


def attack_labels(records: Iterable[Record]) -> dict[str, str]:
    """Return the :func:`labels` of the attacks; of a benign model that was trained as a twin, always how."""
    return labels((record.attack for record in records), always=("trained",))
