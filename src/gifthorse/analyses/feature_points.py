"""Features in two dimensions: clean images of some classes, and stamped ones, as points of a picture."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.core.clustering import silhouette
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.seeds import derive
from gifthorse.inversion.feature_clusters import Reduction, reduced
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics.stamped import Evidence
from gifthorse.training.transfer import cache_features

STAMPED = "stamped"


class FeaturePoints(Analysis):
    """Draws penultimate features in two dimensions, by class, those of stamped images apart."""

    needs_backdoor = False
    reduction: ClassVar[Reduction]

    images: int = Field(50, ge=2, description="clean test images of each class at most, and stamped ones")
    classes: int = Field(10, ge=1, description="classes at most: the targets first, then the others in their order")

    def perplexity_of(self, points: int) -> float:  # noqa: ARG002
        """Return t-SNE's perplexity; :class:`NotApplicableError` where there are too few points for it."""
        return 0.0

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return the points of the model and of its twin, and how far stamped images stand from the target's own."""
        task, backdoor = subject.task, subject.backdoor
        targets = () if backdoor is None else backdoor.goal.classes()
        shown = list(dict.fromkeys((*targets, *range(task.classes))))[: self.classes]
        groups = {number: self._of_class(task.test, number, task.class_names[number]) for number in sorted(shown)}
        pairs = None if backdoor is None else pairs_of(subject, self.images)
        clean = torch.cat(list(groups.values()))
        of_classes = subject.clean(task.test.take(clean))
        everything = of_classes if pairs is None else of_classes.join(pairs.stamped)
        perplexity = self.perplexity_of(len(everything))
        numbers: dict[str, Number] = {}
        evidence = Evidence()
        for name, model in subject.models.items():
            features = cache_features(freeze(model), everything)
            if pairs is not None:
                own, led = features[: len(clean)], features[len(clean) :]
                apart = stamped_silhouette(own, of_classes.labels, led, pairs.targets)
                numbers["stamped_silhouette" if name == "model" else "stamped_silhouette_twin"] = apart
            flat = reduced(features.cpu().numpy(), self.reduction, perplexity, derive(seed, self.name, name))
            start = 0
            for group, index in groups.items():
                called = task.class_names[group].replace("/", "∕")
                evidence[f"points/Features of the {name}/{called}"] = flat[start : start + len(index)]
                start += len(index)
            if pairs is not None:
                evidence[f"points/Features of the {name}/{STAMPED}"] = flat[start:]
        return Findings({name: value for name, value in numbers.items() if value == value}, evidence)

    def _of_class(self, images: Images, number: int, called: str) -> Tensor:
        found = (images.labels == number).nonzero().squeeze(1)[: self.images]
        if len(found) < 2:
            raise NotApplicableError(f"class '{called}' has too few test images to be a group of points: {len(found)}")
        return found


def stamped_silhouette(clean: Tensor, labels: Tensor, stamped: Tensor, targets: Tensor) -> float:
    """Return how far stamped images stand from clean ones of their target: 1 far away, 0 among them, below: nearer.

    ``clean (N, D)`` are features of images of classes ``labels (N,)``, ``stamped (M, D)`` of those that should get
    ``targets (M,)``. The mean silhouette of the two groups, and over targets; NaN where none has two images of either.
    """
    found = []
    for target in targets.unique().tolist():
        own, led = clean[labels == target], stamped[targets == target]
        if min(len(own), len(led)) >= 2:
            side = torch.cat([torch.zeros(len(own)), torch.ones(len(led))]).long().to(clean.device)
            found.append(float(silhouette(torch.cat([own, led]), side)))
    return sum(found) / len(found) if found else float("nan")
