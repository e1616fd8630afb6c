"""The one way from requests to records: answered from what is kept, planned, computed, kept.

Torch is imported where something is left to compute.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gifthorse.bench.answers import code_digest, keep_answer, kept_answer
from gifthorse.bench.elsewhere import differences
from gifthorse.bench.plugins import load_plugins
from gifthorse.bench.store import Store
from gifthorse.bench.study import PopulationRequest
from gifthorse.cli.live import notes, showing_progress, watching
from gifthorse.cli.options import Machine
from gifthorse.core.configuration import Catalogue
from gifthorse.core.contents import content_digests, looking_once
from gifthorse.core.errors import RequestError
from gifthorse.core.metric import METRICS, UNDECLARED
from gifthorse.core.record import Population, Record

if TYPE_CHECKING:
    from gifthorse.bench.cell import Cell
    from gifthorse.bench.execution import Pool
    from gifthorse.bench.plan import Plan
    from gifthorse.bench.population import Models
    from gifthorse.bench.runner import Runner

Request = Mapping[str, Any]
SHOWN = 3
"""The most differences between machines that are told."""


@dataclass(frozen=True)
class How:
    """How to compute, beyond the machine."""

    jobs: int = 1
    fresh: bool = False
    download: bool = False
    fail_fast: bool = False
    debug: bool = False


@dataclass
class Work:
    """Requests and populations, and what is known and planned of them; see :meth:`of`."""

    requests: Sequence[Request]
    populations: Sequence[PopulationRequest]
    store: Store
    machine: Machine
    how: How
    code: str | None
    plugins: Sequence[Path] = ()
    records: dict[int, Record] = field(default_factory=dict)
    """Of the requests, by their places."""
    concluded: dict[int, Population] = field(default_factory=dict)
    runner: "Runner | None" = None
    plan: "Plan | None" = None
    cells: dict[int, "Cell"] = field(default_factory=dict)
    models: dict[int, "Models"] = field(default_factory=dict)
    files: dict[str, dict[str, str | None]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        requests: Sequence[Request],
        store: Path,
        machine: Machine,
        how: How,
        *,
        populations: Sequence[PopulationRequest] = (),
        plugins: Sequence[Path] = (),
        place: Callable[[Request, str], str] = lambda *_: "",
        code: str | None = None,
    ) -> "Work":
        """Find what is answered already and plan the rest.

        :class:`RequestError`, before anything is trained, with every reason why something cannot be carried out;
        ``place`` says where a request stands that has a problem, ``code`` is the code's digest where torch may
        have been loaded since it was taken.
        """
        work = cls(requests, populations, Store(store), machine, how, code or code_digest(plugins), plugins)
        with looking_once(), showing_progress():
            work._find_answers()
            if len(work.records) < len(requests) or len(work.concluded) < len(populations):
                work._plan(place)
            else:
                work.store.sweep()
        return work

    def run(self, pool: "Callable[[Runner], Pool] | None" = None) -> None:
        """Say what was computed elsewhere, compute what is left, show how it comes along, and keep the answers."""
        self._tell_elsewhere()
        if self.plan is None or self.runner is None:
            return
        from gifthorse.bench.execution import Processes, execute
        from gifthorse.bench.population import conclude

        chosen = None
        if pool is not None:
            chosen = pool(self.runner)
        elif self.how.jobs > 1:
            chosen = Processes(self.runner, self.how.jobs)
        slots = chosen.slots if chosen else 1
        with watching(self.plan, self.store, slots) as watch:
            found = execute(self.plan, self.runner, pool=chosen, watch=watch, fail_fast=self.how.fail_fast)
        for number, cell in self.cells.items():
            record = found.get(cell.identity())
            if record is not None:
                self.records[number] = record
                self._keep(self.requests[number], [cell], record)
        for number, models in self.models.items():
            if all(cell.identity() in found for cell in models.cells):
                self.concluded[number] = conclude(self.runner, models, found)
                self._keep(_asked(self.populations[number]), models.cells, self.concluded[number])

    def _find_answers(self) -> None:
        if self.how.fresh:
            return
        for number, request in enumerate(self.requests):
            record = kept_answer(self.store, self._question(request), self.code, self.store.load_record)
            # What a package declares is known once it is loaded.
            if record is not None and all(METRICS.find(name).unit != UNDECLARED for name in record.metrics):
                self.records[number] = record
        for number, asked in enumerate(self.populations):
            known = kept_answer(self.store, self._question(_asked(asked)), self.code, self.store.load_population)
            if known is not None:
                self.concluded[number] = known

    def _tell_elsewhere(self) -> None:
        """Say in a line what of the store's answers comes from another machine, or from another number of threads."""
        planned = {} if self.plan is None else self.plan.known
        kept: dict[str, Record | Population] = {each.id: each for each in self.records.values()}
        kept |= {**planned, **{each.id: each for each in self.concluded.values()}}
        threads = self.machine.threads
        # The processes of a pool share them.
        taken = set() if threads is None else {threads, max(1, threads // self.how.jobs)}
        device = self.machine.device if self.runner is None else str(self.runner.device)
        found = [differences(each.environment, device, taken) for each in kept.values()]
        found = [each for each in found if each]
        if found:
            several = f"{len(found)} of {len(kept)} kept results were" if len(kept) > 1 else "the kept result was"
            reasons = dict.fromkeys(reason for each in found for reason in each)
            more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
            said = f"gifthorse: {several} computed elsewhere ({'; '.join([*reasons][:SHOWN])}{more}): "
            said += "numbers may differ a little; --fresh computes anew here"
            notes.print(said, markup=False, highlight=False, soft_wrap=True)

    def _plan(self, place: Callable[[Request, str], str]) -> None:
        # What they add may change what is imported next.
        Catalogue.load_packages()
        load_plugins(self.plugins)
        from gifthorse.bench.cell import resolve
        from gifthorse.bench.plan import plan
        from gifthorse.bench.population import Models, aimed_by_seed

        self.runner = make_runner(self.store.root, self.machine, self.how)
        problems: dict[str, None] = {}
        for number, request in enumerate(self.requests):
            if number not in self.records:
                with _noting(problems, place, request):
                    varied = request.get("vary_target")
                    cell = resolve(**{key: value for key, value in request.items() if key != "vary_target"})
                    self.cells[number] = self.runner.reading(aimed_by_seed(self.runner, cell) if varied else cell)
        for number, asked in enumerate(self.populations):
            if number not in self.concluded:
                with _noting(problems, place, asked.request):
                    self.models[number] = Models.of(
                        self.runner,
                        resolve(**asked.request),
                        asked.benign,
                        asked.trojaned,
                        same_target=asked.same_target,
                    )
        if problems:
            raise RequestError("\n".join(problems))
        cells = [*self.cells.values(), *(cell for models in self.models.values() for cell in models.cells)]
        self.plan = plan(self.runner, cells, fresh=self.how.fresh)
        self.files = {cell.identity(): content_digests(cell.files()) for cell in cells}

    def _question(self, request: Request) -> dict[str, Any]:
        # The same request means other images, and other plugins, elsewhere.
        return {
            **request,
            "device": self.machine.device,
            "data_root": str(self.machine.data_root),
            "plugins": [str(path.resolve()) for path in self.plugins],
        }

    def _keep(self, request: Request, cells: Sequence["Cell"], document: Record | Population) -> None:
        files = {path: digest for cell in cells for path, digest in self.files[cell.identity()].items()}
        keep_answer(self.store, self._question(request), self.code, document, files)


def make_runner(store: Path, machine: Machine, how: How | None = None) -> "Runner":
    """Set the machine up, clear the store of what was left unfinished, and return a runner."""
    import torch

    from gifthorse.bench.machine import pick_device
    from gifthorse.bench.runner import Runner

    how = how or How()
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    try:
        chosen = pick_device(machine.device, deterministic=machine.deterministic)
    except RuntimeError as error:
        raise RequestError(f"--device {machine.device}: {str(error).splitlines()[0]}") from None
    runner = Runner(Store(store), machine.data_root, chosen, how.download, how.debug)
    runner.store.sweep()
    return runner


def _asked(asked: PopulationRequest) -> dict[str, Any]:
    return {**asked.request, "population": [asked.benign, asked.trojaned, asked.same_target]}


@contextmanager
def _noting(problems: dict[str, None], place: Callable[[Request, str], str], request: Request) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        where = place(request, str(error))
        problems[f"{where}: {error}" if where else str(error)] = None
