"""Pseudo-linearity: whether what moves features moves the output of a downstream head in proportion.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section A.2, equations 7 and 8: why attacks do not depend on the
    downstream model.
Differs: the paper argues and measures nothing. Here expectations are means over small groups of test images: of two
    classes, and of clean images and the same ones stamped. A linear map from shifts of features to shifts of a head's
    logits is fitted to groups of one half of the images; the number is the correlation of its predictions with the
    truth on groups of the other half. It is 1 for a linear head, and for others the lower the fewer images there are
    for every unit: heads are compared, and networks of as many units. Where there are fewer than two for a unit that
    moves there is no number.
"""

import math
from dataclasses import replace

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.metrics import functional
from gifthorse.metrics.stamped import Evidence, to_array
from gifthorse.training.heads import Head
from gifthorse.training.transfer import cache_features, fitted

DRAWN_POINTS = 300
"""Shifts of each kind that are drawn."""

ENOUGH = 2
"""Images of the fitted half for every unit, at least."""


class PseudoLinearity(Analysis):
    """Fits downstream heads to the model's features, and asks how well a linear map predicts what shifts do to them."""

    name = "pseudo_linearity"
    paper = "Pang et al. 2022, arXiv:2012.09302, section A.2"
    variants = ("pseudo_linearity[heads=[fcn1,fcn2[hidden=32]]]",)

    heads: tuple[Head, ...] = Field(
        ("fcn1", "fcn2", "bayes", "svm", "random_forest"),  # type: ignore[arg-type]
        min_length=1,
        description="the downstream heads, tuned on the features as they are (partial tuning)",
    )
    train_images: int = Field(2000, ge=1, description="training images at most that each head is fitted to")
    images: int = Field(
        2000,
        ge=2,
        description="test images at most that groups are drawn from, clean and stamped; half are held out",
    )
    group: int = Field(5, ge=1, description="images of a group")
    shifts_per_unit: int = Field(
        8, ge=2, description="shifts for every unit of the penultimate layer, half of them held out"
    )

    @field_validator("heads")
    @classmethod
    def _leave_the_extractor(cls, heads: tuple[Head, ...]) -> tuple[Head, ...]:
        for head in heads:
            if head.tuning == "full":
                raise ValueError(f"features stay as they are, so {head.name} takes tuning=partial only")
        return heads

    def check(self, model: Classifier, task: Task) -> None:  # noqa: ARG002
        """Ask for heads that have an image to be fitted to."""
        for head in self.heads:
            head.count(min(len(task.train), self.train_images))

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return the correlation of each head, and shifts as predicted and as they are."""
        model, task = subject.model.clone(), subject.task
        learnt = some(task.train, self.train_images, derive(seed, "training images"))
        known = cache_features(model, learnt)
        count = max(self.shifts_per_unit * known.shape[1] // 4, 1)
        test = some(task.test, self.images, derive(seed, "test images"))
        middle = len(test) // 2
        fitted_to, held_out = (
            Half(subject, test.take(part), model, count, self.group, derive(seed, "groups", which))
            for which, part in enumerate((slice(middle), slice(middle, None)))
        )
        fitted_to.require_enough()
        found: list[float] = []
        evidence = Evidence()
        for head in track(self.heads, "pseudo-linearity", len(self.heads)):
            owned = head.count(len(learnt))
            module = fitted(head, known[:owned], learnt.take(slice(owned)), task.recipe, derive(seed, str(head))).eval()
            true = held_out.shifts_of(module)
            predicted = functional.linear_prediction(fitted_to.moved, fitted_to.shifts_of(module), held_out.moved)
            found.append(float(functional.correlation(predicted.flatten(), true.flatten())))
            both = torch.stack([predicted, true]).float()[:, :, held_out.target]
            title = f"against/Shift of the target's output, {head}/predicted by a linear map/true"
            for kind, part in zip(("two classes", "clean to stamped"), both.chunk(2, 1), strict=True):
                evidence[f"{title}/{kind}"] = to_array(part[:, :DRAWN_POINTS])
        if any(map(math.isnan, found)):
            raise NotApplicableError("a head gives the same output for all images, or all features are the same")
        return Findings({"pseudo_linearity": found, "pseudo_linearity_mean": sum(found) / len(found)}, evidence)


class Half:
    """Images of which no other half has any, as a model sees them without and with the trigger, and groups of them."""

    def __init__(self, subject: Subject, test: Images, model: Classifier, count: int, size: int, seed: int):
        """Draw ``count`` pairs of groups of either kind, of ``size`` images each, from ``test``."""
        pairs = pairs_of(replace(subject, task=replace(subject.task, test=test)), len(test))
        self.target = int(pairs.targets[0])
        self._seen = [cache_features(model, each) for each in (subject.clean(test), pairs.clean, pairs.stamped)]
        self._groups = Groups(test.labels, len(pairs), count, size, seed)
        self._images = len(test) + len(pairs)
        self.moved = self._groups.shifts(*self._seen)

    def require_enough(self) -> None:
        """Raise :class:`NotApplicableError` where a linear map could follow what is no more than chance."""
        units = int((self.moved != 0).any(0).sum())
        if self._images < ENOUGH * units:
            raise NotApplicableError(
                f"a linear map of {units} units needs at least {ENOUGH * units} images to be fitted to, clean and "
                f"stamped; half of the test images that it may use are {self._images}"
            )

    def shifts_of(self, head: nn.Module) -> Tensor:
        """Return what a head's logits change by from group to group: ``(2 P, K)``."""
        return self._groups.shifts(*(answers(head, each) for each in self._seen))


class Groups:
    """Pairs of small groups of images: of two classes, and of clean images with the same ones stamped."""

    def __init__(self, labels: Tensor, stamped: int, count: int, size: int, seed: int):
        """Draw ``count`` pairs of either kind, of ``size`` images each, with replacement.

        ``labels (N,)`` are of all images; :class:`NotApplicableError` where they are of one class.
        """
        random = generator(seed)
        counts = labels.bincount().cpu()
        there = counts.nonzero().squeeze(1)
        if len(there) < 2:
            raise NotApplicableError("shifts lead from one class to another, and all test images are of one")
        order, starts = labels.argsort(stable=True).cpu(), counts.cumsum(0) - counts
        first = torch.randint(len(there), (count,), generator=random)
        second = (first + torch.randint(1, len(there), (count,), generator=random)) % len(there)

        def members(number: Tensor) -> Tensor:
            drawn = torch.rand(count, size, generator=random) * counts[number].unsqueeze(1)
            return order[starts[number].unsqueeze(1) + drawn.long()]

        self._first, self._second = members(there[first]), members(there[second])
        self._pairs = torch.randint(stamped, (count, size), generator=random)

    def shifts(self, clean: Tensor, plain: Tensor, stamped: Tensor) -> Tensor:
        """Return what the mean changes by from one group to the other, those of two classes first: ``(2 P, D)``.

        ``clean (N, D)`` is of all images, ``plain (M, D)`` and ``stamped (M, D)`` of those stamped, without and with
        the trigger.
        """
        first, second, pairs = (each.to(clean.device) for each in (self._first, self._second, self._pairs))
        return torch.cat([mean_of(clean, second) - mean_of(clean, first), mean_of(stamped - plain, pairs)])


def mean_of(rows: Tensor, groups: Tensor) -> Tensor:
    """Return the mean ``(P, D)`` of the rows ``(N, D)`` of every group ``(P, G)``."""
    return torch.nn.functional.embedding_bag(groups, rows.float(), mode="mean")


@torch.no_grad()
def answers(head: nn.Module, features: Tensor) -> Tensor:
    """Return the logits ``(N, K)``."""
    given: Tensor = head(features)
    return given.float()


def some(images: Images, most: int, seed: int) -> Images:
    """Return so many images at most, drawn by the seed."""
    chosen = torch.randperm(len(images), generator=generator(seed))[:most]
    return images.take(chosen.to(images.device))
