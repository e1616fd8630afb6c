"""How names that come from a file are put into a message: harmless to a terminal, and not too many of them."""

from collections.abc import Iterable
from itertools import islice

_MOST = 10
_LONGEST = 160


def shown(text: str) -> str:
    """Return text on one line of printable ASCII, shortened: a file's names must not drive the terminal."""
    plain = text.encode("unicode_escape").decode()
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def listing(names: Iterable[str]) -> str:
    """Return the first ten names, and how many more there are."""
    every = list(names)
    rest = len(every) - _MOST
    return ", ".join(map(shown, islice(every, _MOST))) + (f" and {rest} more" if rest > 0 else "")
