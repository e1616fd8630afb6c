"""Progress without printing: long loops announce themselves, and whoever wants to show it listens."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int], None]
"""Called with what is running, how many rounds are done, and how many there are."""

_listener: ContextVar[Listener | None] = ContextVar("progress listener", default=None)


def track(rounds: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield from ``rounds`` and tell the listener, if there is one, after each."""
    listener = _listener.get()
    for done, item in enumerate(rounds):
        if listener is not None:
            listener(label, done, total)
        yield item
    if listener is not None:
        listener(label, total, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of everything inside the block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
