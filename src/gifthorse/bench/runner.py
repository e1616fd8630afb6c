"""The runner: the sentence of the design as code, one small function per stored stage."""

import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gifthorse.bench.cell import DEFENDER, Cell, Downstream
from gifthorse.bench.machine import Stopwatch, environment, peak_memory_mb, reset_peak_memory, timed
from gifthorse.bench.packing import pack_trojan, restore, unpack_trojan, weights
from gifthorse.bench.poison_export import export_poisoned
from gifthorse.bench.source import source_of
from gifthorse.bench.store import Arrays, Store, digest
from gifthorse.bench.views import builder_of, granted, materials_of, view_of
from gifthorse.core.analysis import Analysis, Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.command import command
from gifthorse.core.configuration import fingerprint
from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError, RequestError, StoreError
from gifthorse.core.metric import METRICS
from gifthorse.core.record import Record
from gifthorse.core.seeds import derive
from gifthorse.core.stamping import ImageTransformation, Stamping
from gifthorse.core.task import Dataset, Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import ModelView
from gifthorse.datasets.splits import load_splits
from gifthorse.metrics import attacks, functional, heat, reactions, stamped
from gifthorse.metrics.attacks import doubts, judge_attack, judge_downstream
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.stamped import Evidence, Metrics, applicable, counts_of, named, with_counts
from gifthorse.metrics.varied import judge_stamp, varied
from gifthorse.training.heads import FittedHead
from gifthorse.training.scratch import train
from gifthorse.training.transfer import Transferred, transfer

Stage = Literal["benign", "twin", "attack_prepared", "trojan", "prepared", "record"]
"""What the store keeps once, whoever asks for it; a trojan with its judgement."""

EVERYTHING = frozenset({"benign", "twin", "attack_prepared", "trojan", "judgement", "prepared", "record"})
_ANEW: dict[Stage, frozenset[str]] = {
    "benign": frozenset({"benign"}),
    "twin": frozenset({"twin"}),
    "attack_prepared": frozenset({"attack_prepared"}),
    "trojan": frozenset({"trojan", "judgement"}),
    "prepared": frozenset({"prepared"}),
    "record": frozenset({"record"}),
}

log = logging.getLogger("gifthorse")


@dataclass(frozen=True)
class Runner:
    """Runs cells on one device against one store and one data folder."""

    store: Store
    data_root: Path
    device: torch.device
    download: bool = False
    debug: bool = False
    """Whether what goes wrong in a cell is raised rather than recorded."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """The keys of what the cell in hand has asked the store for, by kind."""

    def run(self, cell: Cell, *, fresh: bool = False) -> Record:
        """Return the cell's record, from the store where it is done; a failed or skipped one is looked at again.

        :class:`RequestError` before any training where the request cannot be carried out; whatever goes wrong later
        ends in a record with status ``failed`` and a reason.
        """
        return self._run(self._looking_again(cell), EVERYTHING if fresh else frozenset())

    def make(self, stage: Stage, cell: Cell, *, fresh: bool = False) -> Record | None:
        """Compute and keep one stage of a cell, and what is missing before it; return the record where it is that."""
        cell, anew = self._looking_again(cell), _ANEW[stage] if fresh else frozenset()
        if stage == "record":
            return self._run(cell, anew)
        task = self._task(cell)
        if stage == "prepared":
            if cell.defense is not None:
                self._prepared(cell, cell.defense, task, anew)
            return None
        benign, _ = self._benign(cell, task, anew)
        if stage == "attack_prepared":
            self._attack_prepared(cell, task, benign, anew)
        elif stage != "benign":
            prepared, _ = self._attack_prepared(cell, task, benign, anew) if stage == "trojan" else (task, {})
            twin, _ = self._twin(cell, task, benign, anew)
            if stage == "trojan":
                trojan, _, contents = self._trojan(cell, prepared, benign, twin, anew)
                self._judgement(cell, task, benign, trojan, contents, anew)
        return None

    def skip(self, cell: Cell, reason: str) -> Record:
        """Keep and return the record of a cell whose attack turned out not to apply."""
        cell = self.reading(cell)
        record = self._record(cell, self._task(cell), "skipped", reason)
        self.store.save_record(record)
        return record

    def fail(self, cell: Cell, reason: str, log: str = "") -> Record:
        """Keep and return the record of a cell that failed, with a log of what went wrong."""
        cell = self.reading(cell)
        record = self._record(cell, self._task(cell), "failed", reason)
        self.store.save_log(record.id, log or reason)
        self.store.save_record(record)
        return record

    def _run(self, cell: Cell, anew: Collection[str]) -> Record:
        if (known := self._known(cell, anew)) is not None:
            return known
        with self.store.claimed("record", cell.identity()):
            if (known := self._known(cell, anew)) is not None:
                return known
            task, tuned_on = self._tasks(cell)
            working = replace(self, artifacts={})
            try:
                record = working._measure(cell, task, tuned_on, anew)
            except (RequestError, StoreError):
                raise
            except NotApplicableError as error:
                return working.skip(cell, str(error))
            except Exception as error:
                if self.debug:
                    raise
                log.debug("cell failed", exc_info=True)
                return working.fail(cell, f"{type(error).__name__}: {error}", traceback.format_exc())
            self.store.save_record(record)
            return record

    def _known(self, cell: Cell, anew: Collection[str]) -> Record | None:
        found = None if "record" in anew else self.store.load_record(cell.identity())
        return found if found is not None and found.status == "done" else None

    def reading(self, cell: Cell) -> Cell:
        """Return the cell with the images that this runner reads, and may fetch first: its keys hold them.

        They hold what is there when they are first asked for: a cell that was read already is as it was then.
        """
        if cell.data_root == self.data_root:
            return cell
        if self.download:
            self._tasks(cell)
        return replace(cell, data_root=self.data_root)

    def _looking_again(self, cell: Cell) -> Cell:
        """Return the cell with keys of what is there now, however long ago it was planned."""
        return self.reading(replace(cell, data_root=None))

    def check(self, cell: Cell) -> Task:
        """Return the cell's task; :class:`RequestError` where the cell cannot be carried out. Nothing is trained."""
        task, _ = self._tasks(cell)
        cell.model.check(task.train.shape, task.classes)
        return task

    def export_poisoned(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Write the poisoned training set of a cell as pictures; see :mod:`gifthorse.bench.poison_export`."""
        reason = cell.attack.exportable()
        if reason is not None:
            raise RequestError(reason)
        cell = self.reading(cell)
        task = self._task(cell)
        cell.attack.check(task)
        benign, _ = self._benign(cell, task, frozenset())
        prepared, _ = self._attack_prepared(cell, task, benign, frozenset())
        return export_poisoned(cell, prepared, benign, folder)

    def _tasks(self, cell: Cell) -> tuple[Task, Task | None]:
        """Return the cell's task and its downstream user's, checked."""
        task = self._task(cell)
        cell.attack.check(task)
        if cell.defense is not None:
            builder_of(cell.defense.sees())
            granted(cell.defense, task)
        if cell.stamp is not None:
            cell.stamp.check(task.test.shape)
        if cell.analysis is not None:
            cell.analysis.check(task.build(0), task)
        return task, None if cell.downstream is None else self._downstream_task(cell, cell.downstream, task)

    def _task(self, cell: Cell, dataset: Dataset | None = None) -> Task:
        """Return the cell's task, with the images of another data set where one is given."""
        splits = load_splits(dataset or cell.dataset, self.data_root, self.download)
        return Task(**vars(splits), architecture=cell.model, recipe=cell.training).to(self.device)

    def _downstream_task(self, cell: Cell, downstream: Downstream, task: Task) -> Task:
        """Return the task with the downstream user's images; :class:`RequestError` where the trojan does not fit it."""
        tuned_on = task if downstream.dataset == cell.dataset else self._task(cell, downstream.dataset)
        where = f"downstream data set {downstream.dataset.name}"
        if tuned_on.train.shape != task.train.shape:
            has, needs = ("×".join(map(str, images.shape)) for images in (tuned_on.train, task.train))
            raise RequestError(f"{where}: its images are {has}; the model and the trigger are made for {needs}")
        goal = cell.attack.goal(task)
        for target in () if goal is None else goal.classes():
            if target >= tuned_on.classes:
                raise RequestError(
                    f"{where}: the attack's target={target} is not a class: "
                    f"there are {tuned_on.classes} (0 to {tuned_on.classes - 1})"
                )
        downstream.head.count(len(tuned_on.train))
        return tuned_on

    def _measure(self, cell: Cell, task: Task, tuned_on: Task | None, anew: Collection[str]) -> Record:
        reset_peak_memory(self.device)
        benign, benign_seconds = self._benign(cell, task, anew)
        with_prepared, before_seconds = self._attack_prepared(cell, task, benign, anew)
        twin, twin_seconds = self._twin(cell, task, benign, anew)
        trojan, attack_seconds, contents = self._trojan(cell, with_prepared, benign, twin, anew)
        metrics, evidence, judgement_seconds = self._judgement(cell, task, benign, trojan, contents, anew)
        seconds = {"benign": benign_seconds, "attack": attack_seconds, "judgement": judgement_seconds}
        seconds |= {**twin_seconds, **before_seconds}
        if cell.downstream is not None and tuned_on is not None:
            judged, seconds["downstream"] = self._transfer(cell.downstream, trojan, tuned_on, cell.seed)
            return self._finish(cell, task, {**metrics, **judged}, evidence, seconds)
        if cell.stamp is not None:
            reason = _not_stamped(cell, cell.stamp, trojan, task)
            if reason is not None:
                return self._record(cell, task, "skipped", reason, metrics, seconds)
            if cell.analysis is None:
                judged, found = judge_stamp(trojan, cell.stamp, task)
                metrics, evidence = {**metrics, **judged}, {**evidence, **found}
        defense = cell.defense
        if defense is None and cell.analysis is not None:
            return self._analyse(cell, cell.analysis, trojan, trojan.model, task, metrics, seconds)
        if defense is None:
            return self._finish(cell, task, metrics, evidence, seconds)

        view = view_of(defense, trojan, task)
        reason = view if isinstance(view, str) else defense.skip(view)
        if isinstance(view, str) or reason is not None:
            return self._record(cell, task, "skipped", reason, metrics, seconds)
        prepared, preparation_seconds = self._prepared(cell, defense, task, anew)
        if prepared:
            view, seconds["prepared"] = replace(view, prepared=prepared), preparation_seconds
        if isinstance(view, ModelView):
            metrics = {**metrics, "defense.clean_images": len(view.clean)}
        try:
            outcome, seconds["defense"] = timed(lambda: defense.defend(view, derive(cell.seed, "defense")), self.device)
        except NotApplicableError as error:
            return self._record(cell, task, "skipped", str(error), metrics, seconds)
        if cell.analysis is not None:
            left = getattr(outcome, "model", None)
            if not isinstance(left, Classifier):
                reason = f"{defense.name} leaves no network with layers to look into"
                return self._record(cell, task, "skipped", reason, metrics, seconds)
            return self._analyse(cell, cell.analysis, trojan, left, task, metrics, seconds)
        stopwatch = Stopwatch(self.device)
        judged, found = judge_defense(outcome, trojan, task, metrics, cell.seed, stopwatch.watch, cell.stamp)
        if stopwatch.seconds_per_input is not None:
            seconds["defense_per_input"] = stopwatch.seconds_per_input
        return self._finish(cell, task, {**metrics, **judged}, {**evidence, **found}, seconds)

    def _analyse(
        self,
        cell: Cell,
        analysis: Analysis,
        trojan: Trojan,
        model: Classifier,
        task: Task,
        metrics: Metrics,
        seconds: dict[str, float],
    ) -> Record:
        """Look at a model, as delivered or as a defense left it, beside the twin of the trojan; nothing is judged."""
        backdoor, twin = varied(trojan, cell.stamp).backdoor, trojan.twin
        subject = Subject(model, model if backdoor is None else twin, backdoor, task, cell.stamp)
        reason = analysis.skip(subject)
        if reason is not None:
            return self._record(cell, task, "skipped", reason, metrics, seconds)
        try:
            found, seconds["analysis"] = timed(
                lambda: analysis.look(subject, derive(cell.seed, "analysis")), self.device
            )
        except NotApplicableError as error:
            return self._record(cell, task, "skipped", str(error), metrics, seconds)
        numbers = applicable(named(found.numbers, "analysis"))
        return self._finish(cell, task, {**metrics, **numbers}, dict(found.evidence), seconds)

    def _transfer(self, downstream: Downstream, trojan: Trojan, task: Task, seed: int) -> tuple[Metrics, float]:
        """Tune the trojan and its benign twin alike on the downstream user's images, and judge both."""

        def tune(extractor: Classifier) -> Transferred:
            return transfer(extractor, downstream.head, task.train, task.recipe, derive(seed, "downstream"))

        model, seconds = timed(lambda: tune(trojan.model), self.device)
        twin = model if trojan.backdoor is None else tune(trojan.twin)
        confidences = not isinstance(model.head, FittedHead) or model.head.gives_probabilities
        return judge_downstream(model, twin, task.test, trojan.backdoor, confidences=confidences), seconds

    def _benign(self, cell: Cell, task: Task, anew: Collection[str]) -> tuple[Classifier, float]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            model, seconds = timed(lambda: train(task, derive(cell.seed, "classifier")), self.device)
            return _trained(weights(model), "benign model"), {"seconds": seconds}

        arrays, about = self._stored("benign", cell.benign_key(), compute, anew)
        return restore(task.build(0), arrays), about["seconds"]

    def _twin(
        self, cell: Cell, task: Task, benign: Classifier, anew: Collection[str]
    ) -> tuple[Classifier, dict[str, float]]:
        """Return the benign twin, which attacks that train alike share; the benign model itself where it is that."""
        twin = cell.attack.twin(task)
        if twin is None:
            return benign, {}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            model, seconds = timed(lambda: twin.train(task, benign, derive(cell.seed, "classifier")), self.device)
            return _trained(weights(model), "benign twin"), {"seconds": seconds}

        arrays, about = self._stored("twin", cell.twin_key(twin), compute, anew)
        return restore(task.build(0), arrays), {"twin": about["seconds"]}

    def _attack_prepared(
        self, cell: Cell, task: Task, benign: Classifier, anew: Collection[str]
    ) -> tuple[Task, dict[str, float]]:
        """Return the task with what the attack prepares on the benign model, which attacks that prepare alike share."""
        preparation = cell.attack.preparation(task)
        if preparation is None:
            return task, {}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            made, seconds = timed(
                lambda: preparation.prepare(task, benign, derive(cell.seed, "classifier")), self.device
            )
            return _arrays(made), {"seconds": seconds}

        key = cell.attack_prepared_key(preparation)
        arrays, about = self._stored("attack_prepared", key, compute, anew)
        made = self._tensors(arrays)
        preparation.accept(made, task, benign, derive(cell.seed, "classifier"))
        return replace(task, prepared=made), {"attack_prepared": about["seconds"]}

    def _trojan(
        self, cell: Cell, task: Task, benign: Classifier, twin: Classifier, anew: Collection[str]
    ) -> tuple[Trojan, float, str]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            trojan, seconds = timed(
                lambda: cell.attack.run(task, benign, derive(cell.seed, "classifier"), twin), self.device
            )
            arrays, about = pack_trojan(trojan)
            return _trained(arrays, "trojaned model"), {**about, "seconds": seconds}

        arrays, about = self._stored("trojan", cell.trojan_key(), compute, anew)
        return unpack_trojan(task, cell.attack, twin, arrays, about), about["seconds"], digest(arrays)

    def _judgement(
        self, cell: Cell, task: Task, benign: Classifier, trojan: Trojan, contents: str, anew: Collection[str]
    ) -> tuple[Metrics, Evidence, float]:
        """Judge a trojan once, whatever follows it; ``contents`` says that it is the very same one."""

        def compute() -> tuple[Arrays, dict[str, Any]]:
            (metrics, evidence), seconds = timed(lambda: judge_attack(trojan, task, benign), self.device)
            return evidence, {"metrics": metrics, "counts": counts_of(metrics), "seconds": seconds}

        judge = [source_of(module.__name__) for module in (attacks, heat, reactions, stamped, functional)]
        key = fingerprint({"trojan": cell.trojan_key(), "contents": contents, "judge": judge})
        evidence, about = self._stored("judgement", key, compute, anew)
        return with_counts(about["metrics"], about["counts"]), evidence, about["seconds"]

    def _prepared(
        self, cell: Cell, defense: Defense[Any], task: Task, anew: Collection[str]
    ) -> tuple[dict[str, Tensor], float]:
        """Return what the defender made before it was given a model: the same for every model, and of whatever seed."""
        key = cell.prepared_key()
        if key is None:
            return {}, 0.0

        def compute() -> tuple[Arrays, dict[str, Any]]:
            materials = materials_of(defense, task)
            made, seconds = timed(lambda: defense.prepare(materials, DEFENDER), self.device)
            return _arrays(made), {"seconds": seconds}

        arrays, about = self._stored("prepared", key, compute, anew)
        return self._tensors(arrays), about["seconds"]

    def _tensors(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array.copy()).to(self.device) for name, array in arrays.items()}

    def _stored(
        self, kind: str, key: str, compute: Callable[[], tuple[Arrays, dict[str, Any]]], anew: Collection[str]
    ) -> tuple[Arrays, dict[str, Any]]:
        """Return an artifact, computed and saved where it is missing.

        Callers rebuild their model from the arrays in either case, so that a resumed run computes with exactly what
        an uninterrupted one does.
        """
        found = None if kind in anew else self.store.load_artifact(kind, key)
        if found is None:
            with self.store.claimed(kind, key):
                # Whoever held the claim before may have computed it.
                found = None if kind in anew else self.store.load_artifact(kind, key)
                if found is None:
                    found = compute()
                    self.store.save_artifact(kind, key, *found)
        self.artifacts[kind] = key
        return found

    def _finish(
        self, cell: Cell, task: Task, metrics: Metrics, evidence: Evidence, seconds: Mapping[str, float]
    ) -> Record:
        self.store.save_artifact("evidence", cell.identity(), evidence, {})
        self.artifacts["evidence"] = cell.identity()
        return self._record(cell, task, "done", None, metrics, seconds)

    def _record(
        self,
        cell: Cell,
        task: Task,
        status: str,
        reason: str | None,
        metrics: Metrics | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> Record:
        user = cell.downstream
        asked: dict[str, Any] = {
            "dataset": cell.dataset.to_dict(),
            "model": cell.model.to_dict(),
            "training": cell.training.to_dict(),
            "profile": cell.profile,
            "seed": cell.seed,
            "attack": cell.attack.to_dict(),
            "defense": cell.defense.to_dict() if cell.defense else None,
            "downstream": user and {**user.to_dict(), "data_digest": cell.data_digest(user.dataset)},
            "stamp": cell.stamp.to_dict() if cell.stamp else None,
            "analysis": cell.analysis.to_dict() if cell.analysis else None,
            "plugins": cell.plugins(),
        }
        return Record.model_validate(
            {
                **asked,
                "id": cell.identity(),
                "command": command(asked),
                "status": status,
                "reason": reason,
                "data_digest": cell.data_digest(cell.dataset),
                "class_names": list(task.class_names),
                "file_digests": cell.named_files(),
                "family": cell.defense.judged_as() if cell.defense else None,
                "metrics": in_order(metrics or {}),
                "counts": counts_of(in_order(metrics or {})),
                "doubts": doubts(metrics or {}),
                "seconds": {name: round(value, 6) for name, value in (seconds or {}).items()},
                "peak_memory_mb": peak_memory_mb(self.device),
                "artifacts": dict(self.artifacts),
                "environment": environment(self.device),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        )


def _not_stamped(cell: Cell, stamp: Stamping, trojan: Trojan, task: Task) -> str | None:
    """Return why a stamping says nothing of a cell, in one sentence; ``None`` where it does."""
    if cell.defense is not None and cell.defense.judged_as() == "inspection":
        return f"{cell.defense.name} inspects the model and sees no stamped image: judge it without a stamp"
    if trojan.backdoor is None:
        whole = isinstance(stamp, ImageTransformation)
        return None if whole else f"{stamp}: there is no backdoor, and so no trigger to vary"
    return stamp.skip(trojan.backdoor.trigger, task.test.shape)


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _trained(arrays: Arrays, what: str) -> Arrays:
    """Return what training left; ``FloatingPointError`` where it diverged, so that it is not kept."""
    broken = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if broken:
        raise FloatingPointError(f"the training of the {what} diverged: {', '.join(broken[:3])} are not finite")
    return arrays


def in_order(metrics: Metrics) -> Metrics:
    """Return metrics in the order of their declaration, then the others: the store keeps no order of its own."""
    places = {name: place for place, name in enumerate(METRICS)}
    return dict(sorted(metrics.items(), key=lambda each: places.get(each[0], len(places))))
