"""The ways in which a request can end early, how the errors of others are told, and what to suggest for a name."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

_LONGEST = 200
"""Characters of an error that are told: some hold a whole document."""


class RequestError(ValueError):
    """The request was wrong; the message is one clear line for the person who made it."""


class StoreError(OSError):
    """The store could not be written; what was finished is kept, and the next run continues."""


class NotApplicableError(ValueError):
    """A defense at work found that it cannot be applied; the message is one sentence, as that of its ``skip``."""


def suggestion(word: str, known: Iterable[str], label: str, most: int = 1) -> str:
    """Return the end of a message about an unknown word: the nearest known ones, or all of them.

    >>> suggestion("stripe", ["abs", "strip"], "listed"), suggestion("x", ["abs", "strip"], "listed")
    ("; did you mean 'strip'?", '; listed: abs, strip')
    """
    names = sorted(known)
    near = [f"'{name}'" for name in difflib.get_close_matches(word, names, n=most, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else f"; {label}: {', '.join(names) or 'none'}"


def brief(error: BaseException, *inside: str | Path) -> str:
    """Return an error in one short line, with the innermost place where it passed through these files or folders.

    >>> try:
    ...     1 / 0
    ... except ZeroDivisionError as error:
    ...     brief(error)
    'ZeroDivisionError: division by zero'
    """
    first, _, rest = str(error).strip().partition("\n")
    first = f"{first[:_LONGEST]}…" if len(first) > _LONGEST or rest else first
    told = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if isinstance(error, SyntaxError):
        return told  # says itself where
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(place) for place in inside):
            return f"{told} ({Path(frame.filename).name}, line {frame.lineno})"
    return told
