"""Entropy of blended images: how certain a model stays of clean and of stamped images once others shine through.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 4.6 and Figure 10; TrojanZoo (Pang et al. 2022,
    arXiv:2012.09302), section 5.3.2; the blends are STRIP's (Gao et al. 2019, arXiv:1902.06531, section III).
Differs: the overlays are drawn from the images held out for defenders, the same for all images. How far the two
    distributions overlap is read from the AUROC, by us: 1 where no threshold tells them apart, 0 where one does.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_floats
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.inversion.blending import batches_to_blend, entropy_of_blends
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, to_array


class Entropy(Analysis):
    """Compares the entropies of a model's answers to clean and to stamped images, each blended with clean ones."""

    name = "entropy"
    aliases = ("entropy_histogram",)
    paper = "Dynamic Backdoors, section 4.6; Gao et al. 2019, arXiv:1902.06531"
    variants = ("entropy[input_weight=1.0,overlay_weight=1.0,clip=false]",)

    images: int = Field(200, ge=1, description="pairs of clean and stamped test images")
    overlays: int = Field(64, ge=1, description="clean images that every image is blended with")
    input_weight: float = Field(0.5, gt=0, le=1, description="weight of the image in the blend")
    overlay_weight: float = Field(0.5, gt=0, le=1, description="weight of the clean image in the blend")
    clip: bool = Field(True, description="clip blends to [0,1] (matters when the weights sum to more than 1)")

    def skip(self, subject: Subject) -> str | None:
        """Ask for a backdoor, and for enough images to blend with."""
        there = len(subject.task.holdout)
        few = f"blends with {self.overlays} clean images; {there} are held out" if there < self.overlays else None
        return super().skip(subject) or few

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return mean entropies and their overlap, of the model and of its twin, and every image's entropy."""
        pairs, held_out = pairs_of(subject, self.images), subject.task.holdout
        drawn = torch.randperm(len(held_out), generator=generator(seed, "overlays"))[: self.overlays]
        overlays = held_out.take(drawn.to(held_out.device)).floats()
        numbers: dict[str, Number] = {}
        evidence = Evidence()
        for name, model in subject.models.items():
            frozen = freeze(model)
            clean, stamped = (self._entropies(frozen, images, overlays) for images in (pairs.clean, pairs.stamped))
            ending = "" if name == "model" else "_twin"
            numbers[f"entropy_clean{ending}"] = Counted(clean.mean(), len(clean))
            numbers[f"entropy_stamped{ending}"] = Counted(stamped.mean(), len(stamped))
            higher = functional.auroc(stamped, clean)
            numbers[f"entropy_overlap{ending}"] = Counted(1 - abs(2 * higher - 1), higher.n)
            for group, values in (("clean images", clean), ("stamped images", stamped)):
                evidence[f"distribution/Entropy of blends, {name}/{group}"] = to_array(values)
        return Findings(numbers, evidence)

    @torch.inference_mode()
    def _entropies(self, model: Classifier, images: Images, overlays: Tensor) -> Tensor:
        parts, weights = batches_to_blend(images.pixels, overlays), (self.input_weight, self.overlay_weight)
        return torch.cat(
            [
                entropy_of_blends(model, to_floats(part), overlays, weights, clip=self.clip)
                for part in track(parts, "entropy", len(parts))
            ]
        )
