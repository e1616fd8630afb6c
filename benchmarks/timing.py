"""Paired timing on a shared machine: A B A B …, medians of wall time and of the ratio."""

import statistics
import time
from collections.abc import Callable

Row = tuple[str, str, str, str]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], object], plain: Callable[[], object], rounds: int = 5) -> tuple[float, float, float]:
    """Median seconds of both, and the median over rounds of plain / ours (above 1: ours is faster)."""
    ours()
    plain()
    pairs = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
    return (
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(second / first for first, second in pairs),
    )
