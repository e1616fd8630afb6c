"""Activation tracing: which units fire for which image, and which fire for the trigger alone.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), sections 1 and 2, which list it among the tools of analysis
    without a definition; section 4.2, equation 4, for what is made of it.
Differs: everything beyond equation 4 is ours. A unit is active for an image if it is among its k most active; k is a
    quarter of the layer's units unless said (of half of them, few are ever the trigger's alone). The trigger's units
    are those active for more than half of the stamped images and less than a quarter of the clean ones, as few as units
    are by chance; shared are those active for more than half of both. The NSR is of each image by itself. Of nine
    BadNets on digits eight have units for the trigger, none of their twins has; at a tenth in place of a quarter it
    were five.
"""

import torch
from pydantic import Field

from gifthorse.analyses.layers import PENULTIMATE, activity
from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject, stage_called
from gifthorse.core.classifier import Classifier
from gifthorse.core.task import Task
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, to_array


class ActivationTracing(Analysis):
    """Records for every image which units are its most active, and counts those that the trigger has to itself."""

    name = "activation_tracing"
    paper = "Pang et al. 2022, arXiv:2012.09302, sections 1 and 2"
    variants = ("activation_tracing[active_share=0.5]",)

    images: int = Field(100, ge=1, description="pairs of clean and stamped test images")
    stage: str | None = Field(
        None, description="stage whose channels are traced, means over places; null: the penultimate layer"
    )
    active_share: float = Field(
        0.25, gt=0, lt=1, description="share of the layer's units that count as active for an image (k)"
    )
    often: float = Field(0.5, gt=0, le=1, description="active for more than this share of images is often")
    seldom: float = Field(0.25, ge=0, le=1, description="active for less than this share of images is seldom")

    def check(self, model: Classifier, task: Task) -> None:  # noqa: ARG002
        """Ask for a stage that there is."""
        if self.stage is not None:
            stage_called(model, self.stage, self.name)

    def look(self, subject: Subject, seed: int) -> Findings:  # noqa: ARG002
        """Return how many units are shared, how many the trigger's, and for how many images each is active."""
        pairs = pairs_of(subject, self.images)
        layer = self.stage or PENULTIMATE
        numbers: dict[str, Number] = {}
        evidence = Evidence()
        for name, model in subject.models.items():
            clean, stamped = (activity(model, images)[layer] for images in (pairs.clean, pairs.stamped))
            k = max(round(self.active_share * clean.shape[1]), 1)
            by_image = functional.separation_by_image(clean, stamped, k).mean()
            of_clean, of_stamped = (functional.most_active(each, k).float().mean(0) for each in (clean, stamped))
            shared = (of_clean > self.often) & (of_stamped > self.often)
            triggers = (of_clean < self.seldom) & (of_stamped > self.often)
            ending = "" if name == "model" else "_twin"
            numbers[f"nsr_by_image{ending}"] = Counted(by_image, len(pairs))
            numbers[f"shared_units{ending}"] = float(shared.sum())
            numbers[f"trigger_units{ending}"] = float(triggers.sum())
            title = f"How often units of the {layer} of the {name} are active"
            groups = {"shared": shared, "the trigger's": triggers, "others": ~(shared | triggers)}
            for group, units in groups.items():
                both = torch.stack([of_clean[units], of_stamped[units]])
                evidence[f"against/{title}/share of clean images/share of stamped images/{group}"] = to_array(both)
        return Findings(numbers, evidence)
