"""Activation clustering: the latents of a class fall into two clusters where some of its images are poisoned.

Paper: Chen et al. 2018, arXiv:1811.03728, section 4; for inputs TrojanZoo section 4.3.
Differs: latents are reduced by principal components, as in the authors' toolbox (ART); the paper has independent
    components (``reduction=ica``), which whiten away what separates the clusters. Of the paper's analyses the
    silhouette is the default, with the size beside it as the authors' toolbox and TrojanZoo's code have it;
    exclusionary reclassification, which trains a model per look, is left out. An image's score, which the paper has
    none of, is what its place between the two centres says of the suspicious one, times that one's suspicion. Of a
    class that lies elsewhere with both clusters, the more suspicious one is removed. What is removed is not relabelled.
    Where nothing is removed nothing is trained anew. As a filter of inputs it is fitted to the training set, and
    places each in the class that it is given. TrojanZoo clusters the inputs themselves, half of them stamped: there
    these are most of the target class, and the clean ones its small cluster.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from gifthorse.core.clustering import k_means, principal_axes, silhouette
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.outcomes import InputScreen, SuspectSamples
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import SuspectAndCleanView, SuspectDataView
from gifthorse.inversion.suspects import (
    LatentDefense,
    refusal,
    screen_latents,
    screening_refusal,
    suspect_latents,
    train_without,
)

ROWS = 1024
V = TypeVar("V", bound=SuspectDataView)
Analysis = Literal["smaller", "relative_size", "silhouette", "distance"]


class Clustering(LatentDefense[V]):
    """Splits the latents of every class of the training set in two."""

    paper = "Chen et al. 2018, arXiv:1811.03728"

    reduction: Literal["pca", "ica"] = Field("pca", description="principal or independent components of the latents")
    components: int = Field(10, ge=1, description="dimensions that the latents of a class are reduced to")
    restarts: int = Field(10, ge=1, description="starts of k-means; the tightest clusters count")
    analysis: Analysis = Field(
        "silhouette",
        description="which clusters are poisoned; smaller: the smaller one of every class; relative_size: that where "
        "it is small; silhouette: where the clusters are distinct as well; distance: those nearer to another class",
    )
    max_share: float = Field(0.35, gt=0, le=0.5, description="share of its class below which a cluster is small")
    min_silhouette: float = Field(0.1, ge=0, le=1, description="mean silhouette above which clusters are distinct")

    def cluster(self, latents: Tensor, labels: Tensor, classes: int, seed: int) -> "Halves":
        """Return the two clusters of every class, the smaller one first, and how suspicious each is."""
        distant = self.analysis == "distance"
        middles = torch.stack([_middle(latents[labels == label]) for label in range(classes if distant else 1)])
        found = []
        for label in range(classes):
            own = latents[labels == label]
            centre = own.mean(0)
            axes = self.reduce(own - centre, derive(seed, "activation clustering", "components", label))
            points = (own - centre) @ axes.mT
            draws = torch.rand(self.restarts, 2, generator=generator(seed, "activation clustering", "starts", label))
            centres, cluster = k_means(points, 2, draws.to(points.device))
            spread = (points - centres.gather(1, cluster.unsqueeze(2).expand(-1, -1, len(axes)))).square().sum((1, 2))
            best = spread.argmin()
            order = torch.bincount(cluster[best], minlength=2).argsort(stable=True)
            half = order.argsort()[cluster[best]]
            judged = by_distance(own, half, middles, label) if distant else self.judge(points, half)
            missing = max(self.components - len(axes), 0)
            found.append((centre, pad(axes, (0, 0, 0, missing)), pad(centres[best][order], (0, missing)), *judged))
        return Halves(*map(torch.stack, zip(*found, strict=True)))

    def reduce(self, centred: Tensor, seed: int) -> Tensor:
        """Return the axes ``(C, D)`` that the latents of a class are reduced to, those along which they vary at all."""
        axes = principal_axes(centred, self.components)
        spread = (centred @ axes.mT).square().sum(0)
        axes = axes[spread > 1e-6 * spread[0]] if spread[0] > 0 else axes[:1]
        if self.reduction == "pca" or len(axes) < 2:
            return axes
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
            ica = FastICA(whiten="unit-variance", random_state=seed % 2**32).fit((centred @ axes.mT).cpu().numpy())
        return torch.from_numpy(ica.components_).to(axes) @ axes

    def judge(self, points: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
        """Return how suspicious the two clusters of a class are ``(2,)`` and which are poisoned, ``bool (2,)``."""
        smaller = torch.tensor([True, False], device=points.device)
        share = (cluster == 0).float().mean()
        if share == 0:  # its images are all the same
            return torch.zeros_like(points[:2, 0]), ~smaller & smaller
        small = share < self.max_share
        if self.analysis == "silhouette":
            distinct = silhouette(points, cluster)
            return smaller * distinct.clamp_min(0), smaller & small & (distinct > self.min_silhouette)
        return smaller * (1 - 2 * share), smaller & (small | (self.analysis == "smaller"))


class ActivationClustering(Clustering[SuspectDataView]):
    """Removes the clusters that look poisoned from the training set, and trains anew."""

    name = "activation_clustering"
    aliases = ("ac",)
    variants = (
        "activation_clustering[reduction=ica]",
        "activation_clustering[analysis=smaller]",
        "activation_clustering[analysis=relative_size]",
        "activation_clustering[analysis=distance]",
    )
    family = "training_set_filtering"
    view = SuspectDataView

    def skip(self, view: SuspectDataView) -> str | None:
        """Ask for two images of every class."""
        return refusal(view.suspect)

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        """Cluster every class, score every image, remove the poisoned clusters, train on the rest."""
        latents, labels = suspect_latents(view), view.suspect.labels
        halves = self.cluster(latents, labels, view.suspect.classes, seed)
        scores, cluster = halves.place(latents, labels)
        return train_without(view, scores, halves.poisoned[labels, cluster], seed)


class ActivationClusteringScreen(Clustering[SuspectAndCleanView], CleanImagesDefense[SuspectAndCleanView]):
    """Flags inputs that lie where the suspicious cluster of the class that they are given does."""

    name = "activation_clustering_screen"
    family = "filtering"
    view = SuspectAndCleanView

    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate that the threshold is set for")

    def skip(self, view: SuspectAndCleanView) -> str | None:
        """Ask for two training images of every class, and for enough clean ones to set a threshold on."""
        return screening_refusal(view, self.fpr)

    def defend(self, view: SuspectAndCleanView, seed: int) -> InputScreen:
        """Cluster the training set, and set the threshold on the clean images."""
        halves = self.cluster(suspect_latents(view), view.suspect.labels, view.suspect.classes, seed)
        return screen_latents(view, lambda latents, labels: halves.place(latents, labels)[0], self.fpr)


def by_distance(latents: Tensor, cluster: Tensor, middles: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Return the same of the clusters of a class by whether they are nearer to the middle of another ``(K, D)``."""
    if not (cluster == 0).any():
        return torch.zeros_like(latents[:2, 0]), torch.zeros_like(cluster[:2], dtype=torch.bool)
    distance = torch.cdist(torch.stack([_middle(latents[cluster == each]) for each in range(2)]), middles)
    own = distance[:, label].clone()
    distance[:, label] = torch.inf
    other = distance.amin(1)
    suspicion = own / (own + other).clamp_min(1e-12)
    return suspicion, (own > other) & (suspicion == suspicion.max())


def _middle(latents: Tensor) -> Tensor:
    middle: Tensor = latents.median(0).values
    return middle


@dataclass(frozen=True, eq=False)
class Halves:
    """Per class: centre ``(K, D)`` and axes ``(K, C, D)`` of its latents, the centres of its clusters ``(K, 2, C)``.

    ``suspicion (K, 2)`` and ``poisoned`` are what the analysis says of each cluster.
    """

    centre: Tensor
    axes: Tensor
    centres: Tensor
    suspicion: Tensor
    poisoned: Tensor

    def place(self, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return a score ``(N,)`` and the nearest cluster ``(N,)`` of latents in the classes they are said to be of.

        The score goes from minus to plus what the suspicious cluster has more of suspicion, along the way there.
        """
        parts = [self._place(*part) for part in zip(latents.split(ROWS), labels.split(ROWS), strict=True)]
        scores, cluster = zip(*parts, strict=True)
        return torch.cat(scores), torch.cat(cluster)

    def _place(self, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        points = (self.axes[labels] @ (latents - self.centre[labels]).unsqueeze(2)).squeeze(2)
        distance = (points.unsqueeze(1) - self.centres[labels]).norm(dim=2)
        apart = (self.centres[:, 0] - self.centres[:, 1]).norm(dim=1).clamp_min(1e-12)[labels]
        more = (self.suspicion[:, 0] - self.suspicion[:, 1])[labels]
        return more * (distance[:, 1] - distance[:, 0]) / apart, distance.argmin(1)
