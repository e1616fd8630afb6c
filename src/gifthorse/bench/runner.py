"""The runner: the sentence of the design as code, one small function per stored stage."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gifthorse.bench.cell import Cell, Downstream
from gifthorse.bench.machine import Stopwatch, environment, peak_memory_mb, reset_peak_memory, timed
from gifthorse.bench.packing import pack_trojan, restore, unpack_trojan, weights
from gifthorse.bench.poison_export import export_poisoned
from gifthorse.bench.source import source_of, sources_of
from gifthorse.bench.store import Arrays, Store, digest
from gifthorse.bench.views import builder_of, materials_for
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import fingerprint
from gifthorse.core.contents import content_digest
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.metric import METRICS
from gifthorse.core.record import Record
from gifthorse.core.seeds import derive
from gifthorse.core.task import Dataset, Task
from gifthorse.core.trojan import Trojan
from gifthorse.datasets.splits import load_splits
from gifthorse.metrics import attacks, functional, stamped
from gifthorse.metrics.attacks import doubts, judge_attack, judge_downstream
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.stamped import Evidence, Metrics
from gifthorse.training.heads import FittedHead
from gifthorse.training.scratch import train
from gifthorse.training.transfer import Transferred, transfer

DEFENDER = 0
"""The seed of what a defender prepares: that is done once, and then models of all seeds are looked at."""

log = logging.getLogger("gifthorse")


@dataclass(frozen=True)
class Runner:
    """Runs cells on one device against one store and one data folder."""

    store: Store
    data_root: Path
    device: torch.device
    download: bool = False

    def run(self, cell: Cell, *, fresh: bool = False) -> Record:
        """Return the cell's record, from the store where it is done; a failed or skipped one is looked at again.

        :class:`RequestError` before any training where the request cannot be carried out; whatever goes wrong later
        ends in a record with status ``failed`` and a reason.
        """
        cell = self.reading(cell)
        known = None if fresh else self.store.load_record(cell.identity())
        if known is not None and known.status == "done":
            return known
        task, tuned_on = self._tasks(cell)
        try:
            record = self._measure(cell, task, tuned_on, fresh)
        except (RequestError, StoreError):
            raise
        except Exception as error:
            log.debug("cell failed", exc_info=True)
            record = self._record(cell, task, "failed", f"{type(error).__name__}: {error}")
        self.store.save_record(record)
        return record

    def reading(self, cell: Cell) -> Cell:
        """Return the cell with the images that this runner reads, and may fetch first: its keys hold them."""
        if self.download:
            self._tasks(cell)
        return replace(cell, data_root=self.data_root)

    def check(self, cell: Cell) -> None:
        """Raise :class:`RequestError` where the cell cannot be carried out; nothing is trained."""
        self._tasks(cell)

    def export_poisoned(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Write the poisoned training set of a cell as pictures; see :mod:`gifthorse.bench.poison_export`."""
        reason = cell.attack.exportable()
        if reason is not None:
            raise RequestError(reason)
        cell = self.reading(cell)
        task = self._task(cell)
        cell.attack.check(task)
        benign, _ = self._benign(cell, task, fresh=False)
        return export_poisoned(cell, task, benign, folder)

    def _tasks(self, cell: Cell) -> tuple[Task, Task | None]:
        """Return the cell's task and its downstream user's, checked."""
        task = self._task(cell)
        cell.attack.check(task)
        if cell.defense is not None:
            builder_of(cell.defense.view)
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

    def _measure(self, cell: Cell, task: Task, tuned_on: Task | None, fresh: bool) -> Record:
        reset_peak_memory(self.device)
        benign, benign_seconds = self._benign(cell, task, fresh)
        twin, twin_seconds = self._twin(cell, task, benign, fresh)
        trojan, attack_seconds, contents = self._trojan(cell, task, benign, twin, fresh)
        metrics, evidence, judgement_seconds = self._judgement(cell, task, benign, trojan, contents, fresh)
        seconds = {"benign": benign_seconds, "attack": attack_seconds, "judgement": judgement_seconds, **twin_seconds}
        if cell.downstream is not None and tuned_on is not None:
            judged, seconds["downstream"] = self._transfer(cell.downstream, trojan, tuned_on, cell.seed)
            return self._finish(cell, task, {**metrics, **judged}, evidence, seconds)
        defense = cell.defense
        if defense is None:
            return self._finish(cell, task, metrics, evidence, seconds)

        view = builder_of(defense.view)(trojan, task)
        reason = view if isinstance(view, str) else defense.skip(view)
        if isinstance(view, str) or reason is not None:
            return self._record(cell, task, "skipped", reason, metrics, seconds)
        prepared, preparation_seconds = self._prepared(cell, defense, task, fresh)
        if prepared:
            view, seconds["prepared"] = replace(view, prepared=prepared), preparation_seconds
        outcome, seconds["defense"] = timed(lambda: defense.defend(view, derive(cell.seed, "defense")), self.device)
        stopwatch = Stopwatch(self.device)
        judged, found = judge_defense(outcome, trojan, task, metrics, cell.seed, stopwatch.watch)
        if stopwatch.seconds_per_input is not None:
            seconds["defense_per_input"] = stopwatch.seconds_per_input
        return self._finish(cell, task, {**metrics, **judged}, {**evidence, **found}, seconds)

    def _transfer(self, downstream: Downstream, trojan: Trojan, task: Task, seed: int) -> tuple[Metrics, float]:
        """Tune the trojan and its benign twin alike on the downstream user's images, and judge both."""

        def tune(extractor: Classifier) -> Transferred:
            return transfer(extractor, downstream.head, task.train, task.recipe, derive(seed, "downstream"))

        model, seconds = timed(lambda: tune(trojan.model), self.device)
        twin = model if trojan.backdoor is None else tune(trojan.twin)
        confidences = not isinstance(model.head, FittedHead) or model.head.gives_probabilities
        return judge_downstream(model, twin, task.test, trojan.backdoor, confidences=confidences), seconds

    def _benign(self, cell: Cell, task: Task, fresh: bool) -> tuple[Classifier, float]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            model, seconds = timed(lambda: train(task, derive(cell.seed, "classifier")), self.device)
            return _trained(weights(model), "benign model"), {"seconds": seconds}

        arrays, about = self._stored("benign", cell.benign_key(), compute, fresh)
        return restore(task.build(0), arrays), about["seconds"]

    def _twin(self, cell: Cell, task: Task, benign: Classifier, fresh: bool) -> tuple[Classifier, dict[str, float]]:
        """Return the benign twin, which attacks that train alike share; the benign model itself where it is that."""
        twin = cell.attack.twin(task)
        if twin is None:
            return benign, {}

        def compute() -> tuple[Arrays, dict[str, Any]]:
            model, seconds = timed(lambda: twin.train(task, benign, derive(cell.seed, "classifier")), self.device)
            return _trained(weights(model), "benign twin"), {"seconds": seconds}

        arrays, about = self._stored("twin", cell.twin_key(twin), compute, fresh)
        return restore(task.build(0), arrays), {"twin": about["seconds"]}

    def _trojan(
        self, cell: Cell, task: Task, benign: Classifier, twin: Classifier, fresh: bool
    ) -> tuple[Trojan, float, str]:
        def compute() -> tuple[Arrays, dict[str, Any]]:
            trojan, seconds = timed(
                lambda: cell.attack.run(task, benign, derive(cell.seed, "classifier"), twin), self.device
            )
            arrays, about = pack_trojan(trojan)
            return _trained(arrays, "trojaned model"), {**about, "seconds": seconds}

        arrays, about = self._stored("trojan", cell.trojan_key(), compute, fresh)
        return unpack_trojan(task, cell.attack, twin, arrays, about), about["seconds"], digest(arrays)

    def _judgement(
        self, cell: Cell, task: Task, benign: Classifier, trojan: Trojan, contents: str, fresh: bool
    ) -> tuple[Metrics, Evidence, float]:
        """Judge a trojan once, whatever follows it; ``contents`` says that it is the very same one."""

        def compute() -> tuple[Arrays, dict[str, Any]]:
            (metrics, evidence), seconds = timed(lambda: judge_attack(trojan, task, benign), self.device)
            return evidence, {"metrics": metrics, "seconds": seconds}

        judge = [source_of(module.__name__) for module in (attacks, stamped, functional)]
        key = fingerprint({"trojan": cell.trojan_key(), "contents": contents, "judge": judge})
        evidence, about = self._stored("judgement", key, compute, fresh)
        return about["metrics"], evidence, about["seconds"]

    def _prepared(self, cell: Cell, defense: Defense[Any], task: Task, fresh: bool) -> tuple[dict[str, Tensor], float]:
        """Return what the defender made before it was given a model: the same for every model, and of whatever seed."""
        settings = defense.preparation()
        if settings is None:
            return {}, 0.0

        def compute() -> tuple[Arrays, dict[str, Any]]:
            materials = materials_for(defense.view, task)
            made, seconds = timed(lambda: defense.prepare(materials, DEFENDER), self.device)
            return {name: tensor.detach().cpu().numpy() for name, tensor in made.items()}, {"seconds": seconds}

        key = fingerprint(
            {
                "materials": replace(cell, seed=DEFENDER).benign_key(),
                "view": defense.view.__name__,
                "defense": [defense.name, *sources_of(*defense.walk())],
                "settings": settings,
                "files": [content_digest(path) for each in defense.walk() for path in each.files()],
            }
        )
        arrays, about = self._stored("prepared", key, compute, fresh)
        tensors = {name: torch.from_numpy(array.copy()).to(self.device) for name, array in arrays.items()}
        return tensors, about["seconds"]

    def _stored(
        self, kind: str, key: str, compute: Callable[[], tuple[Arrays, dict[str, Any]]], fresh: bool
    ) -> tuple[Arrays, dict[str, Any]]:
        """Return an artifact, computed and saved where it is missing.

        Callers rebuild their model from the arrays in either case, so that a resumed run computes with exactly what
        an uninterrupted one does.
        """
        found = None if fresh else self.store.load_artifact(kind, key)
        if found is None:
            found = compute()
            self.store.save_artifact(kind, key, *found)
        return found

    def _finish(
        self, cell: Cell, task: Task, metrics: Metrics, evidence: Evidence, seconds: Mapping[str, float]
    ) -> Record:
        self.store.save_artifact("evidence", cell.identity(), evidence, {})
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
        return Record.model_validate(
            {
                "id": cell.identity(),
                "status": status,
                "reason": reason,
                "dataset": cell.dataset.to_dict(),
                "data_digest": cell.data_digest(cell.dataset),
                "class_names": list(task.class_names),
                "file_digests": cell.named_files(),
                "plugins": cell.plugins(),
                "model": cell.model.to_dict(),
                "training": cell.training.to_dict(),
                "profile": cell.profile,
                "seed": cell.seed,
                "attack": cell.attack.to_dict(),
                "defense": cell.defense.to_dict() if cell.defense else None,
                "family": cell.defense.family if cell.defense else None,
                "downstream": user and {**user.to_dict(), "data_digest": cell.data_digest(user.dataset)},
                "metrics": in_order(metrics or {}),
                "doubts": doubts(metrics or {}),
                "seconds": {name: round(value, 6) for name, value in (seconds or {}).items()},
                "peak_memory_mb": peak_memory_mb(self.device),
                "environment": environment(self.device),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        )


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
