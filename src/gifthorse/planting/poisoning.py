"""What attacks that poison training share: its stages, their order, and the options of most of them.

Paper: TrojanZoo, section 3.2 (equation 2), section 6.2 RQ6 (mixing) and RQ5 (re-training), Table 20.
Differs: images of the target class are not stamped in training. The clean accuracy drop is taken against a twin that
    was trained as long. A bound on it chooses among epochs, on images of the attacker's own; the paper chooses the
    number of iterations. The rest as in planting/schedule.py.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field

from gifthorse.core.attack import Twin
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Catalogue
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.planting.adaptation import Adaptation
from gifthorse.planting.mixing import BatchMixing, LossMixing, PoisonedSet, choose_poisoned, copies, poison_dataset
from gifthorse.planting.schedule import Schedule
from gifthorse.planting.selection import EpochSelection
from gifthorse.planting.targets import TargetedAttack
from gifthorse.training.loop import Mix, Objective


@dataclass(frozen=True, eq=False)
class Injection:
    """A training under way: all that a stage may look at.

    ``images`` are the clean ones trained on, at ``positions (N,)`` of the task's training set, ``validation`` those set
    aside, if any. ``random`` is for the choice of images and their stamping, ``seed`` for whatever else a stage draws.
    ``adaptation`` is there where training goes against defenses.
    """

    task: Task
    benign: Classifier
    model: Classifier
    backdoor: Backdoor
    images: Images
    positions: torch.Tensor
    validation: Images | None
    random: torch.Generator
    seed: int
    adaptation: Adaptation | None = None


class StagedAttack(TargetedAttack):
    """Trains a classifier in stages; an attack overrides those in which it does something of its own."""

    @abstractmethod
    def schedule(self, task: Task) -> Schedule:
        """Return how long, from where and on which images the attack trains."""

    @abstractmethod
    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Trigger:
        """Return the trigger that training starts with; an attack may optimise it on the benign model."""

    @property
    def budget(self) -> float | None:
        """The largest drop of clean accuracy, where there is a bound."""
        return None

    def known(self, task: Task, seed: int) -> Task:  # noqa: ARG002
        """Return the task as the attacker has it who makes the trigger: with all training images, or a part."""
        return task

    def adaptation(
        self,
        task: Task,  # noqa: ARG002
        benign: Classifier,  # noqa: ARG002
        model: Classifier,  # noqa: ARG002
        backdoor: Backdoor,  # noqa: ARG002
        images: Images,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Adaptation | None:
        """Return what training on ``images`` against defenses changes; ``None`` where it goes against none."""
        return None

    def poison(self, injection: Injection) -> PoisonedSet | None:  # noqa: ARG002
        """Return the poisoned training set; ``None`` where images are stamped for every mini-batch."""
        return None

    def mix(self, injection: Injection) -> Mix | None:  # noqa: ARG002
        """Return what makes of every mini-batch the one that is trained on; ``None`` leaves it as it is."""
        return None

    def twin_mix(self, task: Task, seed: int) -> Mix | None:  # noqa: ARG002
        """Return what the benign twin's mini-batches undergo; it gets to see neither trigger nor attack.

        With ``None`` the twin is shared with all attacks of the same schedule; otherwise it is this attack's own.
        """
        return None

    def objective(self, injection: Injection) -> Objective | None:  # noqa: ARG002
        """Return the loss to train with; ``None`` is cross-entropy."""
        return None

    def before_epoch(self, injection: Injection) -> Callable[[int], None] | None:  # noqa: ARG002
        """Return what is to be done before every epoch; it may change the trigger."""
        return None

    def after_step(self, injection: Injection) -> Callable[[], None] | None:  # noqa: ARG002
        """Return what is to be done after every step of the model; the trigger's gradients are there to be used."""
        return None

    def deliver(self, injection: Injection, poisoned: PoisonedSet | None) -> DeliveredSet | None:
        """Return the training set that is handed over: the poisoned one, shuffled, if there is one."""
        if poisoned is None:
            return None
        images, sources, stamped = poisoned
        random = generator(injection.seed, "deliver")
        return DeliveredSet.shuffle(images, injection.positions[sources], stamped, injection.task.train, random)

    def twin(self, task: Task) -> Twin | None:
        """Return how the benign twin is trained: as the attack trains, without it."""
        if self.twin_mix(task, 0) is not None:
            return MixedTwin(attack=self)
        schedule = self.schedule(task)
        return None if schedule.is_benign else schedule

    def begin(self, task: Task, benign: Classifier, seed: int, model: Classifier) -> Injection:
        """Return the injection of a model with this seed, its trigger made, and before it what there is to prepare."""
        device, preparation = task.train.device, self.preparation(task)
        if preparation is not None and not task.prepared:
            task = replace(task, prepared=preparation.prepare(task, benign, seed))
        trigger = self.make_trigger(self.known(task, seed), benign, derive(seed, self.name, "trigger")).to(device)
        parts = self.schedule(task).images(task, seed)
        random = generator(seed, self.name, "poison", device=device)
        within = derive(seed, self.name, "injection")
        backdoor = Backdoor(trigger, self.goal(task))
        adaptation = self.adaptation(task, benign, model, backdoor, parts[0], within)
        return Injection(task, benign, model, backdoor, *parts, random, within, adaptation)

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        """Make the trigger, poison, train; the twin has the same training without it."""
        self.check(task)
        schedule, how = self.schedule(task), self.twin(task)
        if twin is None:
            twin = benign.clone() if how is None else how.train(task, benign, seed)
        injection = self.begin(task, benign, seed, schedule.start(task, benign, seed))
        model, backdoor, selection = injection.model, injection.backdoor, None
        if self.budget is not None and injection.validation is not None:
            selection = EpochSelection(model, twin, backdoor, injection.validation, self.budget)
        poisoned = self.poison(injection)
        schedule.fit(
            model,
            injection.images if poisoned is None else poisoned.images,
            task,
            seed,
            stamped=None if poisoned is None else poisoned.stamped,
            mix=self.mix(injection),
            objective=self.objective(injection),
            before_epoch=self.before_epoch(injection),
            after_step=self.after_step(injection),
            after_epoch=selection,
            label=self.name,
        )
        if selection is not None:
            selection.restore()
        return Trojan(model, twin, backdoor, self.deliver(injection, poisoned))


class MixedTwin(Twin):
    """Trained by the schedule of an attack whose :meth:`StagedAttack.twin_mix` its mini-batches undergo."""

    name = "mixed_twin"

    attack: StagedAttack

    def train(self, task: Task, benign: Classifier, seed: int) -> Classifier:
        """Return the twin: the same training without the attack."""
        mix = self.attack.twin_mix(task, derive(seed, self.name))
        return self.attack.schedule(task).train(task, benign, seed, mix)

    def trained_on(self, task: Task, seed: int) -> torch.Tensor:
        """Return the positions ``int64 (N,)`` in the task's training set of the clean images that the attack uses."""
        return self.attack.schedule(task).trained_on(task, seed)

    def check(self, task: Task) -> None:
        """Refuse what the attack refuses, and an attack that shares its twin: it would have two keys."""
        self.attack.check(task)
        if self.attack.twin(task) != self:
            raise RequestError(f"'{self}': the mini-batches of that attack's twin undergo nothing of its own")


TWINS: Catalogue[Twin] = Catalogue("twin", [Schedule, MixedTwin])
"""How a benign model may be said to be trained: ``none[trained=schedule[epochs=10,lr=0.01]]``."""


class PoisoningAttack(StagedAttack):
    """Mixes stamped, relabelled copies into training.

    A concrete attack says how its trigger is made, and what else it does in training; defaults are TrojanZoo's.
    """

    poison_rate: float = Field(0.01, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    mixing: Literal["batch", "dataset", "loss"] = Field(
        "batch",
        description="batch: fresh copies in every batch, stamped after augmentation; dataset: copies added once, "
        "stamped before augmentation; loss: every image has a copy, poison_rate is the weight λ of their loss",
    )
    origin: Literal["benign", "scratch"] = Field(
        "benign", description="benign: re-train the benign model; scratch: train anew by the task's recipe"
    )
    epochs: int = Field(50, ge=1, description="epochs of re-training (origin=benign)")
    lr: float = Field(0.01, gt=0, description="learning rate of re-training (origin=benign)")
    cad_budget: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="largest drop of clean accuracy: a tenth of the training images is kept for validation, and of the "
        "epochs within the budget the one with the highest attack success is delivered",
    )

    @property
    def budget(self) -> float | None:
        """The clean accuracy that the attack may cost."""
        return self.cad_budget

    @property
    def directs_training(self) -> bool:
        """Whether the attack does more in training than poison it, so that a poisoned data set alone is not enough."""
        return False

    @property
    def poisons_once(self) -> bool:
        """Whether a data set may be poisoned once (mixing=dataset): not where the trigger has to be trained along."""
        return True

    @property
    def trains_trigger(self) -> bool:
        """Whether the trigger has parameters that learn from the mini-batches."""
        return False

    @property
    def relabels(self) -> bool:
        """Whether stamped images get another label than their own."""
        return True

    def schedule(self, task: Task) -> Schedule:
        """Return training from scratch, or re-training."""
        aside, fixed = None if self.cad_budget is None else self.name, self.fixed_modules(task)
        if self.origin == "scratch":
            return Schedule(origin="scratch", set_aside=aside, fixed=fixed)
        return Schedule(epochs=self.epochs, lr=self.lr, set_aside=aside, fixed=fixed)

    def fixed_modules(self, task: Task) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names of the modules within the network that training leaves as they are."""
        return ()

    def choose(self, injection: Injection) -> torch.Tensor:
        """Return the positions ``int64 (P,)`` of the images to poison a data set with."""
        return choose_poisoned(injection.images.labels, injection.backdoor.goal, self.poison_rate, injection.random)

    def poison(self, injection: Injection) -> PoisonedSet | None:
        """Return the images followed by stamped copies of some (mixing=dataset)."""
        if self.mixing != "dataset":
            return None
        return poison_dataset(injection.images, injection.backdoor, self.choose(injection), injection.random)

    def mix(self, injection: Injection) -> Mix | None:
        """Return what adds stamped copies to every batch (mixing=batch, loss)."""
        if self.mixing == "dataset":
            return None
        kind = BatchMixing if self.mixing == "batch" else LossMixing
        strategy = kind(injection.backdoor, self.poison_rate, injection.random, differentiable=self.trains_trigger)
        return strategy if injection.adaptation is None else injection.adaptation.mix(strategy)

    def check(self, task: Task) -> None:
        """Refuse what cannot be stamped, and a rate that selects nothing."""
        super().check(task)
        if self.mixing == "dataset":
            self.check_choice(task)
        elif self.mixing == "batch" and copies(len(task.train), self.poison_rate) < 1:
            raise RequestError(f"poison_rate={self.poison_rate:g} selects none of {len(task.train)} training images")

    def check_choice(self, task: Task) -> None:
        """Refuse a rate that cannot be had from the training set."""
        choose_poisoned(task.train.labels.cpu(), self.goal(task), self.poison_rate, generator(0, "check"))

    def exportable(self) -> str | None:
        """Return a sentence where the attack needs more than a poisoned data set."""
        if self.directs_training:
            return (
                f"the attack '{self}' needs control of the training itself: a poisoned data set alone would not be it"
            )
        return None

    def poisoned_dataset(self, task: Task, benign: Classifier, seed: int) -> tuple[DeliveredSet, Backdoor]:
        """Return the set that :meth:`run` trains on, at the data-set level, with the same seed."""
        if self.exportable() is not None:
            return super().poisoned_dataset(task, benign, seed)
        attack = self.model_copy(update={"mixing": "dataset"})
        attack.check(task)
        injection = attack.begin(task, benign, seed, benign)
        delivered = attack.deliver(injection, attack.poison(injection))
        assert delivered is not None
        return delivered, injection.backdoor
