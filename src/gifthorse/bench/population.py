"""A population: one defense judged on many benign and many trojaned models.

The benign models are the trojans' benign twins, trained as long: else a detector could tell the groups by that.
Every model is an ordinary cell, so that a population is continued where it was interrupted and shares its models with
whatever else is in the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, Self

import torch
from torch import Tensor

from gifthorse.attacks.no_attack import NoAttack
from gifthorse.bench.cell import Cell
from gifthorse.bench.execution import run_cells
from gifthorse.bench.machine import environment
from gifthorse.bench.runner import Runner
from gifthorse.core.attack import Twin
from gifthorse.core.configuration import fingerprint
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Group, LeftOut, Member, Population, Record
from gifthorse.core.task import Task
from gifthorse.datasets.splits import load_splits
from gifthorse.defenses import DEFENSES
from gifthorse.metrics.population import separate, share_interval

PUBLISHED, OWN = "defense.aiv", "defense.index"
"""The anomaly index of the scores, and the number that a method itself compares with its threshold."""
OF_TARGET = "defense.aiv_target"
"""TrojanZoo's rule (section 5.3.3): the true target's index for a trojaned model, the largest for a benign one."""


def run_population(
    runner: Runner, request: Cell, *, benign: int, trojaned: int, same_target: bool = False, fresh: bool = False
) -> Population:
    """Judge a model-inspection defense on models of consecutive seeds, from the request's on, and keep the result.

    :class:`RequestError` before any training where something cannot be carried out; a cell that fails later is left
    out.
    """
    models = Models.of(runner, request, benign, trojaned, same_target=same_target)
    records = run_cells(runner, models.cells, fresh=fresh)
    return conclude(runner, models, {record.id: record for record in records})


@dataclass(frozen=True)
class Models:
    """The models of a population, each a cell: the benign ones first.

    These are trained as the attack's benign ``twin`` is, so that attacks that train alike share them; it is ``None``
    where that is how the benign model is trained.
    """

    request: Cell
    defense: Defense[Any]
    varied_target: bool
    twin: Twin | None
    benign: tuple[Cell, ...]
    trojaned: tuple[Cell, ...]

    @classmethod
    def of(cls, runner: Runner, request: Cell, benign: int, trojaned: int, *, same_target: bool = False) -> Self:
        """Return so many models of consecutive seeds, from the request's on.

        Every trojaned model has another target, its seed modulo the number of classes, unless ``same_target`` is set,
        the request names a target, or the attack has none. :class:`RequestError` where the request is for no
        population.
        """
        defense = _inspection(request)
        request = runner.reading(request)
        varied = not same_target and request.attack.aimed_at(0) is not None
        splits = load_splits(request.dataset, runner.data_root, runner.download)
        task = Task(**vars(splits), architecture=request.model, recipe=request.training)

        def aimed(count: int) -> tuple[Cell, ...]:
            cells = (replace(request, seed=seed) for seed in range(request.seed, request.seed + count))
            return tuple(aimed_by_seed(runner, cell) if varied else cell for cell in cells)

        trojans = aimed(trojaned)
        # An attack that cannot be carried out may not know its twin.
        for cell in trojans:
            runner.check(cell)
        clean = (replace(cell, attack=NoAttack(trained=cell.attack.twin(task))) for cell in aimed(benign))
        return cls(request, defense, varied, request.attack.twin(task), tuple(clean), trojans)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All of them."""
        return self.benign + self.trojaned


def aimed_by_seed(runner: Runner, cell: Cell) -> Cell:
    """Return the cell with its seed, modulo the number of classes, as the target; as it is where a target is named."""
    classes = load_splits(cell.dataset, runner.data_root, runner.download).train.classes
    return replace(cell, attack=cell.attack.aimed_at(cell.seed % classes) or cell.attack)


def conclude(runner: Runner, models: Models, records: Mapping[str, Record]) -> Population:
    """Return what the models' records, by id, say of the defense, and keep it in the store."""
    request = models.request
    groups: tuple[tuple[Group, tuple[Cell, ...]], ...] = (("benign", models.benign), ("trojaned", models.trojaned))
    found = [(group, records[cell.identity()]) for group, cells in groups for cell in cells]
    index = OWN if any(OWN in record.metrics for _, record in found) else PUBLISHED
    members: dict[Group, list[Member]] = {"benign": [], "trojaned": []}
    left_out = []
    for group, record in found:
        reason = _reason_to_leave_out(record, group, index)
        if reason is None:
            members[group].append(_member(record, index))
        else:
            left_out.append(LeftOut(id=record.id, group=group, seed=record.seed, status=record.status, reason=reason))

    population = Population.model_validate(
        {
            "id": fingerprint({"cells": [cell.identity() for cell in models.cells]}),
            "dataset": request.dataset.to_dict(),
            "model": request.model.to_dict(),
            "training": request.training.to_dict(),
            "profile": request.profile,
            "attack": request.attack.to_dict(),
            "varied_target": models.varied_target,
            "plugins": request.plugins(),
            "twin": None if models.twin is None else models.twin.to_dict(),
            "defense": models.defense.to_dict(),
            "seed": request.seed,
            **_statistics(members["benign"], members["trojaned"]),
            "index": index if members["benign"] or members["trojaned"] else None,
            "left_out": left_out,
            "environment": environment(runner.device),
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
    )
    # The same answer stays the same document, with the date on which it was first given.
    known = runner.store.load_population(population.id)
    when = {"environment": population.environment, "created": population.created}
    if known is not None and known.model_copy(update=when) == population:
        return known
    runner.store.save_population(population)
    return population


def _inspection(request: Cell) -> Defense[Any]:
    """Return the request's defense; :class:`RequestError` where it has none, or no attack to be told by it."""
    if isinstance(request.attack, NoAttack):
        raise RequestError(f"a population needs an attack; '{request.attack.name}' plants nothing")
    defense = request.defense
    if defense is None or defense.judged_as() != "inspection":
        wrong = "there is none" if defense is None else f"{defense.name} is of the family {defense.judged_as()}"
        listed = ", ".join(name for name, cls in DEFENSES.items() if cls.family == "inspection")
        raise RequestError(f"a population needs a defense that inspects models; {wrong}; listed: {listed}")
    return defense


def _reason_to_leave_out(record: Record, group: Group, index: str) -> str | None:
    if record.status != "done":
        return record.reason or "no reason was recorded"
    if group == "trojaned" and not record.metrics.get("attack.valid"):
        return f"the attack did not take: {'; '.join(record.doubts) or 'no reason was recorded'}"
    return None if index in record.metrics else f"its record has no {index}"


def _member(record: Record, index: str) -> Member:
    readouts = {name: value for name, value in record.metrics.items() if name.startswith(PUBLISHED) and name != index}
    if PUBLISHED in record.metrics and "attack.targets" not in record.metrics:
        readouts[OF_TARGET] = record.metrics[PUBLISHED]
    return Member.model_validate(
        {
            "id": record.id,
            "seed": record.seed,
            "target": _target(record),
            "index": record.metrics[index],
            "readouts": readouts,
            "flagged": record.metrics.get("defense.flagged"),
            "hit": record.metrics.get("defense.hit"),
        }
    )


def _target(record: Record) -> int | None:
    """Return the class that stamped images should get, if it is one."""
    targets = record.metrics.get("attack.targets")
    return int(targets[0]) if isinstance(targets, list) and len(targets) == 1 else None


def _statistics(benign: Sequence[Member], trojaned: Sequence[Member]) -> dict[str, Any]:
    hits = [member.hit for member in trojaned if member.hit is not None]
    members = [*benign, *trojaned]
    # What some models lack would be judged on a chosen few.
    named = dict.fromkeys(name for member in members for name in member.readouts)
    further = [name for name in named if all(name in member.readouts for member in members)]
    # A method that itself compares the published index has it twice.
    repeated = {name for name in further if all(member.readouts[name] == member.index for member in members)}
    return {
        **dict(separate(_indices(benign), _indices(trojaned))),
        "n_benign": len(benign),
        "n_trojaned": len(trojaned),
        "flagged_benign": _share(benign),
        "flagged_trojaned": _share(trojaned),
        "suspect_hit_rate": fmean(hits) if hits else None,
        "suspect_hit_rate_interval": share_interval(torch.tensor(hits)),
        "readouts": {
            name: separate(_readouts(benign, name), _readouts(trojaned, name))
            for name in further
            if name not in repeated
        },
        "benign": benign,
        "trojaned": trojaned,
    }


def _indices(members: Sequence[Member]) -> Tensor:
    return torch.tensor([member.index for member in members], dtype=torch.float64)


def _readouts(members: Sequence[Member], name: str) -> Tensor:
    return torch.tensor([member.readouts[name] for member in members], dtype=torch.float64)


def _share(members: Sequence[Member]) -> float | None:
    """Return the share of the models that the method flagged at its own threshold."""
    flags = [member.flagged for member in members if member.flagged is not None]
    return fmean(flags) if flags else None
