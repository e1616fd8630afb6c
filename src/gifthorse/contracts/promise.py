"""What a promise is: a sentence, and a way to find out whether a method keeps it."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import brief

S = TypeVar("S")

log = logging.getLogger("gifthorse")


class BrokenPromiseError(AssertionError):
    """A method does not keep a promise; the message says how."""


class NotAskedError(Exception):
    """A promise cannot be asked of a method; the message says why."""


class Finding(NamedTuple):
    """What came of a promise, with the reason where it was not kept."""

    state: Literal["kept", "broken", "not asked"]
    reason: str = ""


@dataclass(frozen=True)
class Promise:
    """One promise of one method; called, it raises :class:`BrokenPromiseError`, or what the method raises."""

    name: str
    sentence: str
    method: Configuration
    ask: Callable[[], None]

    def __call__(self) -> None:
        """Ask."""
        self.ask()

    def look(self) -> Finding:
        """Return whether it is kept, and why not in one sentence."""
        try:
            self.ask()
        except BrokenPromiseError as error:
            return Finding("broken", str(error))
        except NotAskedError as error:
            return Finding("not asked", str(error))
        except Exception as error:
            log.debug("%s: %s", self.method, self.name, exc_info=True)
            file = getattr(sys.modules.get(type(self.method).__module__), "__file__", None)
            return Finding("broken", brief(error, *([file] if file else [])))
        return Finding("kept")


def asked(method: Configuration, case: S, questions: Sequence[Callable[[S], None]]) -> list[Promise]:
    """Return the promises that are asked of a case of a method; each question's docstring is the sentence."""

    def of(question: Callable[[S], None]) -> Promise:
        return Promise(question.__name__, (question.__doc__ or "").strip(), method, lambda: question(case))

    return [of(question) for question in questions]


def require(kept: bool, otherwise: str) -> None:
    """Raise :class:`BrokenPromiseError` with a sentence unless something holds."""
    if not kept:
        raise BrokenPromiseError(otherwise)
