"""Saliency maps: which pixels move the logit of a class most.

Paper: Simonyan et al. 2013, arXiv:1312.6034, section 3.1; as Rethinking the Trigger (Li et al. 2020, arXiv:2004.04692)
    uses them in section 5.3, Figure 5 and Appendix G: of stamped images as they are and transformed by ShrinkPad-4.
Differs: the paper shows pictures; the shares of the maps that lie on the trigger are ours. Transformed images are
    explained by the label that the model gives, stamped ones by the target, which is that label where the attack works.
    A trigger is followed through the transformation by what becomes of its mask, white on black, under the same random
    numbers.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.attribution_maps import AttributionMaps, as_pictures, mask_of
from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Findings, Subject
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import to_levels
from gifthorse.core.task import Task
from gifthorse.core.transformation import Transformation, random_shares
from gifthorse.inversion.attribution import saliency
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics import functional
from gifthorse.metrics.functional import MASK_SUPPORT
from gifthorse.metrics.stamped import PICTURES, Evidence, to_array
from gifthorse.transformations.spatial import ShrinkPad


class Saliency(AttributionMaps):
    """Compares saliency maps with the trigger and without, and follows the trigger through a transformation."""

    name = "saliency"
    aliases = ("saliency_map",)
    paper = "Simonyan et al. 2013, arXiv:1312.6034; Li et al. 2020, arXiv:2004.04692, section 5.3"
    variants = ("saliency[transformation=flip]",)

    transformation: Transformation = Field(  # type: ignore[assignment]
        ShrinkPad.name,
        description="what stamped images undergo before their maps are compared with those of the others",
    )

    def check(self, model: Classifier, task: Task) -> None:
        """Refuse images that cannot be transformed so."""
        super().check(model, task)
        if (reason := self.transformation.unfit(task.test.shape)) is not None:
            raise RequestError(f"{self.name}: {reason}")

    def attribute(self, model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return saliency maps ``(L, N, H, W)``."""
        return saliency(model, pixels, labels)

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return what all maps are asked, and what share of the maps of transformed images lies on the trigger."""
        pairs = pairs_of(subject, self.images, right=True)
        found = self.compare(subject, pairs)
        numbers, evidence = dict(found.numbers), Evidence(found.evidence)
        stamped = pairs.stamped.floats()
        shares = random_shares((self.transformation,), stamped, seed).squeeze(1)
        transformed = self.transformation.apply(stamped, shares)
        answers = predict(subject.model, transformed).argmax(1)
        (maps,) = self.maps(freeze(subject.model), transformed, answers.unsqueeze(0))
        evidence["pictures/stamped images, transformed"] = to_array(to_levels(transformed[:PICTURES]))
        evidence["pictures/model, stamped images, transformed, predicted class"] = as_pictures(maps)
        if (mask := mask_of(subject.backdoor)) is not None:
            white = mask.expand_as(stamped)
            moved = (self.transformation.apply(each, shares) for each in (white, torch.zeros_like(stamped)))
            area = (next(moved) - next(moved)).abs().amax(1) > MASK_SUPPORT
            numbers["trigger_mass_transformed"] = functional.mass_within(maps, area)
        return Findings(numbers, evidence)
