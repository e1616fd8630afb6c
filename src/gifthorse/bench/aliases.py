"""The other names of what gifthorse lists, for whoever reads records: importing what has them would import torch."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from gifthorse.core.configuration import plain

_DECLARED = re.compile(r'(?m)^    name = "([^"]+)"$(?:\n(?!    name = |class ).*)*?\n    aliases = \(([^)]*)\)')
"""A class's name and its aliases, as every listed class of gifthorse writes them."""


def listed_name(name: str) -> str:
    """Return the name of what is listed under a name or an alias, in plain spelling; any other name is its own.

    >>> listed_name("bn"), listed_name("Neural-Cleanse"), listed_name("torchvision/resnet50")
    ('badnets', 'neural_cleanse', 'torchvision/resnet50')
    """
    return _by_alias().get(plain(name), plain(name))


@cache
def _by_alias() -> Mapping[str, str]:
    files = (path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("*.py"))
    return {
        plain(alias): name
        for text in files
        for name, aliases in _DECLARED.findall(text)
        for alias in re.findall('"([^"]+)"', aliases)
    }
