"""Paired timing on a shared machine: A B A B …, each in processor time, so that who else runs there does not count."""

import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
Row = tuple[str, str, str, str]


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of this process, on one thread, and of those that it waits for; and what comes of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = _used()
    result = work()
    taken = _used() - start
    torch.set_num_threads(threads)
    return taken, result


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of a piece of work; see :func:`timed`."""
    return timed(work)[0]


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True)
class Pairs:
    """Processor seconds of ours and of the plain way, round by round."""

    rounds: list[tuple[float, float]]

    @property
    def ours(self) -> float:
        return statistics.median(ours for ours, _ in self.rounds)

    @property
    def plain(self) -> float:
        return statistics.median(plain for _, plain in self.rounds)

    def faster(self, form: str = ".2f") -> str:
        """How many times faster ours is."""
        return spread((plain / ours for ours, plain in self.rounds), form)

    def slower(self, form: str = ".2f") -> str:
        """How many times slower ours is."""
        return spread((ours / plain for ours, plain in self.rounds), form)

    def added(self, form: str = "+.1%") -> str:
        """What ours takes more, as a share of the plain way."""
        return spread((ours / plain - 1 for ours, plain in self.rounds), form)


def spread(values: Iterable[float], form: str = ".2f") -> str:
    """Print the median and the range."""
    found = list(values)
    return f"{statistics.median(found):{form}} ({min(found):{form}} to {max(found):{form}})"


def paired(ours: Callable[[], object], plain: Callable[[], object], rounds: int = 5) -> Pairs:
    """Time both in turn, after one round that warms up."""
    ours()
    plain()
    return Pairs([(seconds(ours), seconds(plain)) for _ in range(rounds)])
