"""The kinds of arrays that an analysis leaves to be drawn. Imports no torch."""

from collections.abc import Iterable

DRAWN = {"pictures": 2, "points": 3, "against": 5, "profile": 3, "distribution": 3, "matrix": 2}
"""The kinds of evidence, and of how many parts the name of each consists: see ``Findings`` in ``core/analysis.py``."""

LAYERS = "profile"
"""The kind whose names may have one part more, before the last: the names of the layers, between commas."""


def profile_name(title: str, layers: Iterable[str], series: str) -> str:
    """Return the name of a value at each of some layers, as it is drawn.

    >>> profile_name("Similarity", ["stage1", "penultimate layer"], "twin")
    'profile/Similarity/stage1,penultimate layer/twin'
    """
    named = ",".join(name.replace("/", ".").replace(",", ".") for name in layers)
    return f"{LAYERS}/{title}/{named}/{series}"


def is_drawn(name: str) -> bool:
    """Tell whether evidence of that name is drawn.

    >>> is_drawn("pictures/clean images"), is_drawn("profile/Similarity/twin"), is_drawn("film/clean images")
    (True, True, False)
    """
    kind, *parts = name.split("/")
    more = len(parts) + 1 - DRAWN.get(kind, 0)
    return kind in DRAWN and more in (0, int(kind == LAYERS)) and bool(parts[0])
