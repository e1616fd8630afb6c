"""What a running plan looks like: bars on a terminal, a line for every cell elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gifthorse.core.progress import listening
from gifthorse.report.naming import key, labels

if TYPE_CHECKING:
    from gifthorse.bench.cell import Cell
    from gifthorse.bench.execution import Event, Watch
    from gifthorse.bench.plan import Node, Plan
    from gifthorse.bench.store import Store

WARM = 2.0
"""Seconds after which a loop's pace says how long it will take."""
TRACEBACK_LINES = 6
"""How much of the first failure's traceback is shown at once."""

Names = Mapping[str, Mapping[str, str]]
"""Labels by part of a cell, as ``attack``, and by key."""

notes = Console(stderr=True, emoji=False)


class _Lines(logging.Handler):
    """Prints a warning as one line, however long: a path in it can be copied, from a log file as well."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print above the bars."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        notes.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def showing_progress() -> Iterator[Progress]:
    """Show one bar per running loop on standard error, and the program's warnings as lines there."""
    log = logging.getLogger("gifthorse")
    handler = _Lines()
    log.addHandler(handler)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    try:
        with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
            tasks: dict[str, TaskID] = {}
            began: dict[str, float] = {}

            def listen(label: str, done: int, total: int) -> None:
                if label not in tasks:
                    tasks[label] = progress.add_task(label, total=total, left="")
                    began[label] = time.monotonic()
                elapsed = time.monotonic() - began[label]
                left = f"about {spoken(elapsed / done * (total - done))} left" if done and elapsed > WARM else ""
                progress.update(tasks[label], completed=done, total=total, left=left)
                if done == total:
                    progress.remove_task(tasks.pop(label))

            with listening(listen):
                yield progress
    finally:
        log.removeHandler(handler)


@contextmanager
def watching(work: "Plan", store: "Store", jobs: int) -> Iterator["Watch"]:
    """Show how a plan comes along; what comes of one cell is shown as well where there are several."""
    with showing_progress() as progress:
        yield _View(work, store, jobs, progress).watch


class _View:
    def __init__(self, work: "Plan", store: "Store", jobs: int, progress: Progress):
        self.store, self.jobs, self.progress = store, jobs, progress
        self.names = names_of(work.cells)
        self.cells, self.done, self.failed = len(work.cells), len(work.known), 0
        self.left = [node.stage for node in work.nodes]
        self.nodes = len(self.left)
        self.took: dict[str, list[float]] = {}
        self.began: dict[str, float] = {}
        self.running: dict[str, TaskID] = {}
        self.several = self.nodes > 0 and self.cells > 1
        self.whole = progress.add_task("", total=self.nodes, left="") if self.several else None

    def watch(self, event: "Event") -> None:
        """Show what has become of a node."""
        node = event.node
        if event.state == "started":
            self.began[node.name] = time.monotonic()
            if self.jobs > 1:
                self.running[node.name] = self.progress.add_task(
                    f"  {described(node, self.names)}", total=None, left=""
                )
        else:
            self._ended(event)
        if self.whole is not None:
            running = len(self.began)
            failed = f", {self.failed} failed" if self.failed else ""
            said = f"{self.done} of {self.cells} cells{failed}, {running} running"
            self.progress.update(
                self.whole, description=said, completed=self.nodes - len(self.left), left=self._time_left()
            )

    def _ended(self, event: "Event") -> None:
        node = event.node
        self.left.remove(node.stage)
        began = self.began.pop(node.name, None)
        if began is not None:
            self.took.setdefault(node.stage, []).append(time.monotonic() - began)
        if node.name in self.running:
            self.progress.remove_task(self.running.pop(node.name))
        if event.record is None:
            return
        self.done += event.record.status != "failed"
        if event.record.status == "failed":
            self._tell_failure(node, event.record.reason or "", event.record.id)
        elif self.several and not notes.is_terminal:
            seconds = f" ({self.took[node.stage][-1]:.1f} s)" if began is not None else ""
            skipped = f": skipped, {event.record.reason}" if event.record.status == "skipped" else ""
            self._say(f"[{self.done + self.failed}/{self.cells}] {described(node, self.names)}{skipped}{seconds}")

    def _tell_failure(self, node: "Node", reason: str, identity: str) -> None:
        self.failed += 1
        log = self.store.log_path(identity)
        self._say(f"failed: {described(node, self.names)}: {reason}")
        if self.failed == 1 and log.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
            for line in lines[-TRACEBACK_LINES:]:
                self._say(f"    {line}")
        if log.exists():
            self._say(f"    whole traceback: {log}")

    def _time_left(self) -> str:
        if not self.took:
            return ""
        known = {stage: fmean(times) for stage, times in self.took.items()}
        usual = fmean(time for times in self.took.values() for time in times)
        seconds = sum(known.get(stage, usual) for stage in self.left) / self.jobs
        return f"about {spoken(seconds)} left" if self.left else ""

    def _say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def names_of(cells: "Iterable[Cell]") -> Names:
    """Return the shortest labels that tell apart what cells are made of, as tables have them."""
    cells = list(cells)
    return {
        part: labels(each.to_dict() for cell in cells if (each := getattr(cell, part)) is not None)
        for part in ("dataset", "model", "training", "attack", "defense")
    }


def described(node: "Node", names: Names) -> str:
    """Return in a few words what a node is, by the names of all cells; network and recipe where there are several."""
    cell = node.cell

    def named(part: str) -> str:
        return names[part][key(getattr(cell, part).to_dict())]

    several = [named(part) for part in ("model", "training") if len(names[part]) > 1]
    images = ", ".join([named("dataset"), *several])
    attack, where = named("attack"), f"{images}, seed {cell.seed}"
    if node.stage == "record":
        user = cell.downstream and cell.downstream.head
        end = named("defense") if cell.defense else str(user) if user else "no defense"
        shown = "".join(f" · {each}" for each in (cell.stamp, cell.analysis) if each)
        return f"{attack} · {end}{shown} · {where}"
    if node.stage == "prepared":
        return f"what {named('defense') if cell.defense else 'a defense'} prepares · {images}"
    if node.stage == "attack_prepared":
        return f"what {attack} prepares · {where}"
    return f"{attack if node.stage == 'trojan' else node.stage} model · {where}"


def spoken(seconds: float) -> str:
    """Return a duration as people say it.

    >>> spoken(0.4), spoken(75), spoken(7260)
    ('1 s', '75 s', '2 h 1 min')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
