"""Execution of a plan: its nodes in order, on whatever computes them: here, or in processes of this machine.

A pool computes one node at a time on each of its slots and gives back what came of it. What failed fails the cells that
need it, and them alone.
"""

import heapq
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Literal, NoReturn, Protocol

import torch

from gifthorse.bench.cell import Cell
from gifthorse.bench.machine import pick_device
from gifthorse.bench.plan import Node, Plan, plan
from gifthorse.bench.plugins import Source, load_as_elsewhere, loaded
from gifthorse.bench.runner import Runner
from gifthorse.core.errors import NotApplicableError, RequestError, StoreError
from gifthorse.core.record import Record

log = logging.getLogger("gifthorse")

ATTEMPTS = 3
"""How often a node is begun whose process dies before it is given up."""


@dataclass(frozen=True)
class Failure:
    """Why a node came to nothing; ``fatal`` where nothing else would fare better."""

    reason: str
    log: str = ""
    fatal: bool = False
    skipped: bool = False
    """Whether nothing went wrong: what was asked for turned out not to apply."""


@dataclass(frozen=True)
class Event:
    """What has become of a node; ``record`` is there where it was a cell's, failed or not."""

    state: Literal["started", "ended"]
    node: Node
    record: Record | None = None


Watch = Callable[[Event], None]


class Pool(Protocol):
    """What computes nodes."""

    slots: int
    """How many nodes it computes at a time."""

    def start(self, node: Node) -> None:
        """Begin with a node; there is a free slot."""

    def finished(self) -> tuple[Node, Record | Failure | None]:
        """Wait for a node and return what came of it: a record where it is a cell's."""

    def close(self) -> None:
        """Give up what is not finished."""


def run_cells(
    runner: Runner,
    cells: Sequence[Cell],
    *,
    fresh: bool = False,
    pool: Pool | None = None,
    watch: Watch = lambda _: None,
    fail_fast: bool = False,
) -> list[Record]:
    """Return the records of cells, from the store or computed; see :func:`plan` and :func:`execute`."""
    runner.store.sweep()
    cells = list(map(runner.reading, cells))
    found = execute(plan(runner, cells, fresh=fresh), runner, pool=pool, watch=watch, fail_fast=fail_fast)
    return [found[cell.identity()] for cell in cells if cell.identity() in found]


def execute(
    work: Plan,
    runner: Runner,
    *,
    pool: Pool | None = None,
    watch: Watch = lambda _: None,
    fail_fast: bool = False,
) -> dict[str, Record]:
    """Return the records of a plan's cells by id; with ``fail_fast`` those until the first that failed.

    :class:`StoreError` where the store cannot be written.
    """
    pool = pool or Inline(runner)
    try:
        return _Execution(work, runner, pool, watch, fail_fast).run()
    finally:
        pool.close()


class _Execution:
    def __init__(self, work: Plan, runner: Runner, pool: Pool, watch: Watch, fail_fast: bool):
        self.runner, self.pool, self.watch, self.fail_fast = runner, pool, watch, fail_fast
        self.records = dict(work.known)
        self.nodes = list(work.nodes)
        self.place = {node.name: place for place, node in enumerate(self.nodes)}
        self.missing = {node.name: set(node.needs) for node in self.nodes}
        self.followers: dict[str, list[str]] = {}
        for node in self.nodes:
            for need in node.needs:
                self.followers.setdefault(need, []).append(node.name)
        # Those planned first go first, so that a trojan is finished with before the next one is trained.
        self.ready = [place for node, place in zip(self.nodes, self.place.values(), strict=True) if not node.needs]
        self.gone: set[str] = set()
        self.running = 0

    def run(self) -> dict[str, Record]:
        while self.ready or self.running:
            while self.ready and self.running < self.pool.slots:
                node = self.nodes[heapq.heappop(self.ready)]
                if node.name not in self.gone:
                    self.watch(Event("started", node))
                    self.pool.start(node)
                    self.running += 1
            if not self.running:
                break
            node, result = self.pool.finished()
            self.running -= 1
            if isinstance(result, Failure) and result.fatal:
                raise StoreError(result.reason)
            self._ended(node, result)
            if self.fail_fast and any(record.status == "failed" for record in self.records.values()):
                break
        return self.records

    def _ended(self, node: Node, result: Record | Failure | None) -> None:
        if isinstance(result, Failure):
            self._failed(node, result)
            return
        if result is not None:
            self.records[result.id] = result
        self.watch(Event("ended", node, result))
        for name in self.followers.get(node.name, ()):
            self.missing[name].discard(node.name)
            if not self.missing[name] and name not in self.gone:
                heapq.heappush(self.ready, self.place[name])

    def _failed(self, node: Node, failure: Failure) -> None:
        """Let the cells that need a node fail, or be skipped, with it."""
        self.gone.add(node.name)
        record = None
        if node.stage == "record":
            if failure.skipped:
                record = self.runner.skip(node.cell, failure.reason)
            else:
                record = self.runner.fail(node.cell, failure.reason, failure.log)
            self.records[record.id] = record
        self.watch(Event("ended", node, record))
        for name in self.followers.get(node.name, ()):
            if name not in self.gone:
                self._failed(self.nodes[self.place[name]], failure)


def make(runner: Runner, node: Node) -> Record | Failure | None:
    """Compute a node; whatever goes wrong is its result."""
    try:
        record = runner.make(node.stage, node.cell, fresh=node.fresh)
    except StoreError as error:
        return Failure(str(error), fatal=True)
    except NotApplicableError as error:
        return Failure(str(error), skipped=True)
    except Exception as error:
        if runner.debug:
            raise
        log.debug("%s failed", node.name, exc_info=True)
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    if record is not None and record.id != node.key:
        return Failure("what it was planned for was changed meanwhile, images or files: run it again")
    return record


def loading(plugins: Iterable[Source]) -> Failure | None:
    """Load what the first process has :func:`loaded`, before any node is received; return why that is not possible."""
    try:
        load_as_elsewhere(plugins)
    except RequestError as error:
        return Failure(str(error))
    return None


class Inline:
    """Computes nodes in this process, one after the other."""

    slots = 1

    def __init__(self, runner: Runner):
        self.runner = runner
        self._node: Node | None = None

    def start(self, node: Node) -> None:
        """Remember the node: it is computed when it is waited for."""
        self._node = node

    def finished(self) -> tuple[Node, Record | Failure | None]:
        """Compute the node."""
        assert self._node is not None
        return self._node, make(self.runner, self._node)

    def close(self) -> None:
        """Nothing is left over."""


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    node: Node | None = None


class Processes:
    """Computes nodes in processes of this machine, each with its share of the threads.

    A process that dies is replaced, and its node begun again, :data:`ATTEMPTS` times at most.
    """

    def __init__(self, runner: Runner, jobs: int):
        self.runner, self.slots = runner, jobs
        self.threads = max(1, torch.get_num_threads() // jobs)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._deaths: dict[str, int] = {}

    def start(self, node: Node) -> None:
        """Hand the node to a process that has none."""
        worker = next((each for each in self._workers if each.node is None), None) or self._hire()
        worker.node = node
        # Where it died just now, waiting for it tells.
        with suppress(OSError):
            worker.connection.send(node)

    def finished(self) -> tuple[Node, Record | Failure | None]:
        """Wait for the first process to answer."""
        while True:
            answering = wait([each.connection for each in self._workers if each.node is not None])
            for worker in [each for each in self._workers if each.connection in answering]:
                node = worker.node
                assert node is not None
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):
                    failure = self._bury(worker, node)
                    if failure is None:
                        self.start(node)
                        continue
                    return node, failure
                worker.node = None
                return node, result

    def close(self) -> None:
        """End all processes, at once those that still compute."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _hire(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        deterministic = torch.backends.cudnn.deterministic
        process = self._context.Process(
            target=_work, args=(theirs, self.runner, loaded(), self.threads, deterministic), daemon=True
        )
        with _deaf():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker, node: Node) -> Failure | None:
        """Forget a process that died; ``None`` where its node may be begun again."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._deaths[node.name] = self._deaths.get(node.name, 0) + 1
        if self._deaths[node.name] < ATTEMPTS:
            return None
        code = worker.process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return Failure(f"the process that computed it ended {how}, {ATTEMPTS} times (too little memory?)")


@contextmanager
def _deaf() -> Iterator[None]:
    """Let processes that are started inside the block ignore what reaches all processes of a terminal.

    That is Ctrl-C, and that the terminal is gone. Whoever started them decides what becomes of them, and they would not
    wait to be told before they are set up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _work(connection: Connection, runner: Runner, plugins: Sequence[Source], threads: int, deterministic: bool) -> None:
    """Compute what the connection asks for, until it is closed or whoever asked is gone."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    pick_device(str(runner.device), deterministic=deterministic)
    failure = loading(plugins)
    with suppress(EOFError, OSError):
        while failure is None:
            connection.send(make(runner, connection.recv()))
        while True:
            # Its classes may be unknown here.
            connection.recv_bytes()
            connection.send(failure)


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
