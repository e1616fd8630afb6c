"""AEGIS: what a robust model learnt of a class shows in images translated to it, and a backdoor as one more cluster.

Paper: Soremekun, Udeshi, Chattopadhyay 2020, arXiv:2003.00865, section IV (Algorithm 1), section V-A and Table XV (500
    seed images, l2 budget 100, perplexity 30, mean shift with scikit-learn's estimate of the bandwidth, more than two
    clusters are suspicious); PCA, affinity propagation and HDBSCAN of its ablation, RQ7.
Differs: number and length of the steps are those of the authors' notebooks (75 of 1.5), one setting for all models of a
    data set where these have one for each. Images keep to [0,1], within which so large a budget binds nothing. The
    published bandwidths (35, 28, 21) are estimates on the authors' own features, so the estimate is taken anew.
    Training images are the defender's clean ones of the class, at most as many as there are seeds. Mean shift starts at
    binned points. A class that fewer than ``least_reached`` of the translated images reach has no cluster, and is never
    suspect. The check that a model is robust, which section V-C only speaks of, is its accuracy on PGD inputs. The
    read-out ``separation`` is ours, and decides nothing: how far translated images lie from real ones, in the class
    where that is furthest. Classes are not compared with each other: some lie far from theirs in every model.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier, inference_batch, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.images import Images, to_levels
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.pgd import Pgd
from gifthorse.core.progress import track
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.feature_clusters import Clustering, Reduction, cluster_count, clustered, reduced
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inspector import Inspector
from gifthorse.inversion.mimicry import mimicry
from gifthorse.inversion.translation import PENULTIMATE, features_of_images, separation, translate
from gifthorse.training.adversarial import perturb

SHOWN = 40
"""Translated images of each class that reports show."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run over all K classes; ``evidence`` is what reports draw."""

    clusters: Tensor
    reached: Tensor
    separations: Tensor
    evidence: dict[str, Tensor]


class Aegis(Inspector):
    """Translates images to every class and suspects one whose features fall into more than two clusters."""

    name = "aegis"
    paper = "Soremekun, Udeshi, Chattopadhyay 2020, arXiv:2003.00865"
    offers = "penalty"
    variants = ("aegis[reduction=pca,clustering=hdbscan,layer=stage2]", "aegis[training_images=false,repeats=2]")

    seeds: int = Field(500, ge=2, description="clean images, of whatever class, that are translated to each class")
    radius: float = Field(100.0, gt=0, description="l2 budget of the translation, in pixel units of [0,1]")
    step_size: float = Field(1.5, gt=0, description="l2 length of a step of the translation, in the same units")
    steps: int = Field(75, ge=1, description="steps of the translation")
    layer: str = Field(PENULTIMATE, description="what features are: penultimate, or the name of a stage")
    training_images: bool = Field(True, description="cluster clean images of the class beside the translated ones")
    reduction: Reduction = Field("tsne", description="how features are brought to two dimensions")
    perplexity: float = Field(30.0, ge=1, description="perplexity of t-SNE")
    clustering: Clustering = Field("mean_shift", description="what counts the clusters")
    bandwidth: float | None = Field(None, gt=0, description="mean shift's bandwidth; null: scikit-learn's estimate")
    most_clusters: int = Field(2, ge=1, description="clusters that a class may have; one with more is suspicious")
    repeats: int = Field(1, ge=1, description="runs from other seeds; suspicious is what is so in most of them")
    least_reached: float = Field(0.5, ge=0, le=1, description="share of translated images that must reach a class")
    least_robust: float = Field(
        0.5, ge=0, le=1, description="share of its accuracy that a robust model keeps on PGD inputs; 0: no check"
    )
    robust_radius: float = Field(0.5, gt=0, description="l2 radius of these PGD inputs, in pixel units of [0,1]")

    def skip(self, view: ModelView) -> str | None:
        """Refuse a layer that is not there, and too few images to cluster."""
        known = [PENULTIMATE, *view.model.stage_names]
        if self.layer not in known:
            return f"layer='{self.layer}' is not there; there are: {', '.join(known)}"
        counts = torch.bincount(view.clean.labels, minlength=view.model.classes).clamp_max(self.seeds)
        if self.training_images and int(counts.min()) == 0:
            return f"needs clean images of every class; there are none of class {int(counts.argmin())}"
        fewest = min(self.seeds, len(view.clean)) + self.training_images * int(counts.min())
        if self.reduction == "tsne" and fewest <= self.perplexity:
            return f"t-SNE at perplexity={self.perplexity:g} needs more images than the {fewest} there are of a class"
        return super().skip(view)

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Refuse features of a stage: mimicry is of the penultimate layer."""
        return None if self.layer == PENULTIMATE else f"layer={self.layer} is not what mimicry is of: {PENULTIMATE} is"

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Have stamped images mimic clean ones of their target in a benign model (section V-C, where it is not run)."""
        return Evasion(penalty=mimicry(attacker))

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Check that the model is robust, run as often as asked, and put the runs together."""
        model = freeze(view.model)
        if self.least_robust > 0:
            self.check_robust(model, view.clean, derive(seed, "robust"))
        runs = [self.run(model, view.clean, derive(seed, self.name, str(run))) for run in range(self.repeats)]
        clusters = torch.stack([run.clusters for run in runs])
        above = clusters > self.most_clusters
        suspects = (above.float().mean(0) > 0.5).nonzero().flatten().tolist()
        scores = clusters.float().mean(0)
        flagged = above.any(1)
        separations = torch.stack([run.separations for run in runs]).mean(0)
        return ModelVerdict(
            scores,
            max(suspects, key=lambda label: float(scores[label]), default=None),
            readouts={"separation": float(separations.max())},
            decisive=float(scores.max()),
            flagged=bool(flagged.float().mean() > 0.5),
            suspects=tuple(suspects),
            findings={
                "clusters": scores.tolist(),
                "reached": torch.stack([run.reached for run in runs]).mean(0).tolist(),
                "separations": separations.tolist(),
                "stability": float(max(flagged.float().mean(), (~flagged).float().mean())),
            },
            evidence=runs[0].evidence,
        )

    def check_robust(self, model: Classifier, clean: Images, seed: int) -> None:
        """Raise :class:`NotApplicableError` where the model is not as accurate on PGD inputs as a robust one."""
        images = drawn(clean, self.seeds, seed)
        search = Pgd(norm="l2", radius=self.robust_radius, step_size=self.robust_radius / 8, steps=20, start="image")
        batches = images.batches(inference_batch(clean.device))
        found = torch.cat([perturb(model, pixels, labels, search) for pixels, labels in batches])
        before, after = (
            float((predict(model, each).argmax(1) == images.labels).float().mean()) for each in (images, found)
        )
        if after < self.least_robust * before:
            raise NotApplicableError(
                f"the model is not robust: its accuracy falls from {before:.0%} to {after:.0%} on PGD inputs within l2 "
                f"{self.robust_radius:g}; {self.name} tells nothing of it"
            )

    def run(self, model: Classifier, clean: Images, seed: int) -> Run:
        """Translate, reduce, cluster, class by class (Algorithm 1)."""
        search = Pgd(
            norm="l2", radius=self.radius, step_size=self.step_size, steps=self.steps, start="image", targeted=True
        )
        moved = translate(model, drawn(clean, self.seeds, seed).floats(), search, self.layer, SHOWN)
        reached = moved.reached.float().mean(1)
        clusters, separations, points = [], [], []
        for label in track(range(model.classes), "clusters of features", model.classes):
            real = features_of_images(model, drawn(clean.take(clean.labels == label), self.seeds, seed), self.layer)
            shown = torch.cat([moved.features[label], real]) if self.training_images else moved.features[label]
            flat = reduced(shown.float().cpu().numpy(), self.reduction, self.perplexity, seed)
            groups = clustered(flat, self.clustering, self.bandwidth, seed)
            left_out = float(reached[label]) < self.least_reached
            clusters.append(0 if left_out else cluster_count(groups))
            separations.append(float(separation(moved.features[label], real)) if len(real) and not left_out else 0.0)
            points.append((flat, groups, np.arange(len(flat)) < len(moved.features[label]), np.full(len(flat), label)))
        names = ("points", "point_clusters", "point_translated", "point_classes")
        gathered = map(partial(np.concatenate, axis=0), zip(*points, strict=True))
        evidence = {name: torch.from_numpy(array) for name, array in zip(names, gathered, strict=True)}
        evidence["translated"] = to_levels(moved.pictures)
        return Run(torch.tensor(clusters), reached.cpu(), torch.tensor(separations), evidence)


def drawn(images: Images, count: int, seed: int) -> Images:
    """Return at most so many of the images, drawn without replacement."""
    order = torch.randperm(len(images), generator=generator(seed, "drawn"))[:count]
    return images.take(order.to(images.device))
