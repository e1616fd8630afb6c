"""Pseudo-linearity: whether what moves features moves the output of a downstream head in proportion.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section A.2, equations 7 and 8: why attacks do not depend on the
    downstream model.
Differs: the paper argues and measures nothing. Here expectations are means over small groups of test images: of two
    classes, and of clean images and the same ones stamped. A linear map from shifts of features to shifts of a head's
    logits is fitted to half of the pairs; the number is the correlation of its predictions with the truth on the other
    half, which is 1 for a linear head.
"""

import math

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
    images: int = Field(500, ge=2, description="clean test images at most that groups are drawn from, and stamped ones")
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
        pairs = pairs_of(subject, self.images)
        learnt = some(task.train, self.train_images, derive(seed, "training images"))
        test = some(task.test, self.images, derive(seed, "test images"))
        known = cache_features(model, learnt)
        seen = [cache_features(model, each) for each in (test, pairs.clean, pairs.stamped)]
        count = self.shifts_per_unit * known.shape[1] // 2
        groups = Groups(test.labels, len(pairs), count, self.group, derive(seed, "groups"))
        moved = groups.shifts(*seen)
        told = torch.arange(len(moved), device=moved.device) % 2 == 0
        target = int(pairs.targets[0])
        found: list[float] = []
        evidence = Evidence()
        for head in track(self.heads, "pseudo-linearity", len(self.heads)):
            owned = head.count(len(learnt))
            module = fitted(head, known[:owned], learnt.take(slice(owned)), task.recipe, derive(seed, str(head))).eval()
            shifts = groups.shifts(*(answers(module, each) for each in seen))
            predicted = functional.linear_prediction(moved[told], shifts[told], moved[~told])
            found.append(float(functional.correlation(predicted.flatten(), shifts[~told].flatten())))
            both = torch.stack([predicted, shifts[~told]]).float()[:, :, target]
            title = f"against/Shift of the target's output, {head}/predicted by a linear map/true"
            for kind, part in zip(("two classes", "clean to stamped"), both.chunk(2, 1), strict=True):
                evidence[f"{title}/{kind}"] = to_array(part[:, :DRAWN_POINTS])
        if any(map(math.isnan, found)):
            raise NotApplicableError("a head gives the same output for all images, or all features are the same")
        return Findings({"pseudo_linearity": found, "pseudo_linearity_mean": sum(found) / len(found)}, evidence)


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
