"""How names that come from a file are put into a message: harmless to a terminal, and not too many of them."""

from collections.abc import Iterable
from itertools import islice

_MOST = 10
_LONGEST = 160


def shown(text: str) -> str:
    """Return text on one line of printable ASCII, shortened: a file's names must not drive the terminal."""
    plain = text[: _LONGEST + 1].encode("unicode_escape").decode()
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def listing(names: Iterable[str]) -> str:
    """Return the first ten names, and how many more there are."""
    every = iter(names)
    first = ", ".join(map(shown, islice(every, _MOST)))
    rest = sum(1 for _ in every)
    return first + (f" and {rest} more" if rest else "")
