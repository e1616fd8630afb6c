"""Attacks that train against defenses which they know, or on a part of the images: adaptive attacks.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section 6.3, RQ8 and Figure 10; Dynamic Backdoors (Salem et al.
    2020, arXiv:2003.03675), sections 3.3 and 4.6; AEGIS (Soremekun et al. 2020, arXiv:2003.00865), section V-C, which
    names training on a part of the images and does not run it.
Differs: TrojanZoo adapts one attack (imc) to four defenses by hand. Here any attack whose training is its own takes any
    defense that says how it is evaded, one or several. With a reform in front, part of the stamped images is trained on
    as they are, so that the backdoor works without the defense as well; how the paper divides them is not printed.
    Several reforms take turns, and so do several decoys, mini-batch by mini-batch; a data set that is poisoned
    beforehand goes with penalties alone. What a defense offers beyond the paper, and where it departs from it, is said
    in the defense's own file. Surrogates are the defense's own preparation, from as many of the attacker's images as a
    defender holds clean ones, with seeds of the attacker's. The benign twin is trained as without the defense, on the
    same part of the images. That part has the same share of every class; a tenth of it is what a bound on the clean
    accuracy keeps for validation. Trigger and surrogates are made of it, too; the benign model alone, which re-training
    starts from and triggers are optimised on, has seen all images.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor

from gifthorse.core.attack import Preparation
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import CATALOGUES
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.evasion import Attacker
from gifthorse.core.images import Images
from gifthorse.core.recipe import AdversarialRecipe
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.core.views import Materials
from gifthorse.planting.adaptation import Adaptation
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.schedule import Schedule, part_of
from gifthorse.training.loop import Objective, classification_loss
from gifthorse.training.scratch import FromScratch

MIXED, WEIGHED, SHARED = {"reform", "adversary", "decoys"}, {"penalty", "discriminator"}, {"reform"}
"""What changes mini-batches, what ``against_weight`` weighs, and what ``against_share`` divides stamped images for."""
STAMPED = 64
"""Images that a trigger without a fixed place is stamped on, to see how many pixels it changes."""


class Surrogates(Preparation):
    """What the defenses would prepare, made by the attacker of images and draws of its own."""

    name = "surrogates"

    defenses: tuple[Defense[Any], ...] = Field(min_length=1, description="defenses that prepare something")
    share: float = Field(1.0, gt=0, le=1, description="share of the training images that the attacker has")

    @classmethod
    def of(cls, defenses: Sequence[Defense[Any]], share: float) -> Self | None:
        """Return what has to be prepared to train against ``defenses``, no more of their settings than that takes."""
        bare = dict.fromkeys(settings_prepared_by(each) for each in defenses if needs_surrogate(each))
        return cls(defenses=tuple(bare), share=share) if bare else None

    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what each prepares, by its place and name."""
        made: dict[str, Tensor] = {}
        images = part_of(task.train, self.share, seed)[0]
        for place, defense in enumerate(self.defenses):
            count = defense.clean_images(len(task.train)) or len(task.holdout)
            # By its name, so that it is the same whatever else is trained against.
            own = derive(seed, self.name, defense.name)
            order = torch.randperm(len(images), generator=generator(own, "images")).to(images.device)
            materials = Materials(images.take(order[:count]), FromScratch(task.architecture, task.recipe))
            made |= {f"{place}/{name}": each for name, each in defense.prepare(materials, own).items()}
        return made

    def accept(self, made: Mapping[str, Tensor], task: Task, benign: Classifier, seed: int) -> None:
        """Raise :class:`NotApplicableError` where one of them is too poor to train against."""
        images = part_of(task.train, self.share, seed)[0]
        for defense in self.defenses:
            defense.evasion(Attacker(images, benign, (), 0.0, self.made_for(defense, made)), seed)

    def made_for(self, defense: Defense[Any], made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what was prepared for a defense, by the names that it gave."""
        start = f"{self.defenses.index(settings_prepared_by(defense))}/"
        return {name.removeprefix(start): each for name, each in made.items() if name.startswith(start)}


class AdaptiveAttack(PoisoningAttack):
    """A poisoning attack that may train against defenses."""

    against: tuple[Defense[Any], ...] = Field(
        (),
        description="defenses that training evades, one or several, with the settings that they are expected to have",
    )
    against_weight: float = Field(0.1, gt=0, description="weight of the defenses' penalties in the loss")
    against_share: float = Field(
        0.5, gt=0, le=1, description="share of the stamped images that are trained on as a defense's reform leaves them"
    )

    train_share: float = Field(
        1.0, gt=0, le=1, description="share of the training images of every class that the attacker trains on"
    )

    @field_validator("against", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)

    @property
    def directs_training(self) -> bool:
        """Whether training goes against a defense, so that a poisoned data set alone is not enough."""
        return bool(self.against)

    def preparation(self, task: Task) -> Surrogates | None:  # noqa: ARG002
        """Return the surrogates that the attacker trains, once for all attacks against the same defenses."""
        return Surrogates.of(self.against, self.train_share)

    def schedule(self, task: Task) -> Schedule:
        """Return training from scratch, or re-training, on the attacker's share of the images."""
        return super().schedule(task).model_copy(update={"share": self.train_share})

    def known(self, task: Task, seed: int) -> Task:
        """Return the task with the attacker's share of the training images."""
        return replace(task, train=part_of(task.train, self.train_share, seed)[0])

    def check(self, task: Task) -> None:
        """Refuse defenses that offer nothing to train against, and what cannot be combined."""
        if self.train_share < 1:
            # How many images of a class there are is the same whatever the seed.
            task = replace(task, train=self.schedule(task).images(task, 0)[0])
        super().check(task)
        for each in self.against:
            if each.offers is None:
                able = ", ".join(sorted(name for name, cls in CATALOGUES["defense"].items() if cls.offers is not None))
                raise RequestError(f"'{each.name}' offers an attacker nothing to train against; these do: {able}")
        if self.against:
            model = task.build(0)
            for each in self.against:
                reason = each.evasion_refusal(model, task.train.shape)
                if reason is not None:
                    raise RequestError(f"{self.name}: against={each.name}: {reason}")
        mixed = [each.name for each in self.against if each.offers in MIXED]
        if mixed and self.mixing == "dataset":
            raise RequestError(f"against={mixed[0]} changes every mini-batch: it needs mixing=batch or mixing=loss")
        self._check_settings({each.offers for each in self.against})
        moving = [each.name for each in self.against if each.offers == "adversary"]
        if len(moving) > 1:
            raise RequestError(f"{' and '.join(moving)} both replace the loss on clean images: name one of them")
        if moving and isinstance(task.recipe, AdversarialRecipe):
            raise RequestError(f"the training is adversarial already: leave {moving[0]} out, or use another training")

    def _check_settings(self, offers: Collection[str | None]) -> None:
        """Refuse settings that change nothing: the same attack would have two keys."""
        for name, wanted in (("against_weight", WEIGHED), ("against_share", SHARED)):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and not wanted & set(offers):
                raise RequestError(
                    f"{name}={value:g} changes nothing where no defense that offers a {' or a '.join(sorted(wanted))} "
                    "is trained against: leave it out"
                )

    def objective(self, injection: Injection) -> Objective | None:
        """Return cross-entropy with the defenses' penalties."""
        return None if injection.adaptation is None else injection.adaptation.objective(classification_loss)

    def adaptation(
        self, task: Task, benign: Classifier, model: Classifier, backdoor: Backdoor, images: Images, seed: int
    ) -> Adaptation | None:
        """Return what training against the defenses changes; ``None`` where there are none."""
        if not self.against:
            return None
        size = pixels_changed(backdoor, images, seed)
        evasions, surrogates = [], Surrogates.of(self.against, self.train_share)
        for defense in self.against:
            prepared = {}
            if surrogates is not None and needs_surrogate(defense):
                prepared = surrogates.made_for(defense, task.prepared)
            attacker = Attacker(images, benign, tuple(backdoor.goal.classes()), size, prepared)
            evasions.append(defense.evasion(attacker, derive(seed, "evasion", defense.name)))
        random = generator(seed, "adaptation", device=images.device)
        return Adaptation(evasions, model, backdoor, self.against_share, self.against_weight, random)


def needs_surrogate(defense: Defense[Any]) -> bool:
    """Tell whether what a defense offers is made of what it prepares: an autoencoder, meta-classifiers."""
    return defense.offers in ("reform", "discriminator") and defense.preparation() is not None


def settings_prepared_by(defense: Defense[Any]) -> Defense[Any]:
    """Return a defense with the settings that decide what it prepares, all others being its defaults."""
    deciding = defense.preparation() or {}
    return type(defense)(**{name: each for name, each in defense if name in deciding})


def pixels_changed(backdoor: Backdoor, images: Images, seed: int) -> float:
    """Return how many pixels of an image the trigger changes: those of its mask, or what is seen on some images."""
    mask = backdoor.trigger.mask
    if mask is not None:
        return float(mask.sum())
    some = images.take(slice(STAMPED))
    pixels, random = some.floats(), generator(seed, "pixels changed", device=images.device)
    with torch.no_grad():
        changed = (backdoor.embed(pixels, some.labels, random).pixels != pixels).any(1)
    return max(float(changed.flatten(1).sum(1).float().mean()), 1.0)
