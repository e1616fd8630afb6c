"""The two ways in which a request can end early, and what to suggest where a name is not known."""

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """The request was wrong; the message is one clear line for the person who made it."""


class StoreError(OSError):
    """The store could not be written; what was finished is kept, and the next run continues."""


def suggestion(word: str, known: Iterable[str], label: str, most: int = 1) -> str:
    """Return the end of a message about an unknown word: the nearest known ones, or all of them.

    >>> suggestion("stripe", ["abs", "strip"], "listed"), suggestion("x", ["abs", "strip"], "listed")
    ("; did you mean 'strip'?", '; listed: abs, strip')
    """
    names = sorted(known)
    near = [f"'{name}'" for name in difflib.get_close_matches(word, names, n=most, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else f"; {label}: {', '.join(names) or 'none'}"
