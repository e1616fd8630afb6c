"""Neuron separation: how far images with the trigger use other neurons than clean ones.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section 4.2, equation 4; section 6.1, RQ3 and Table 16.
Differs: k is not given; here a share of the penultimate layer's units, half of them unless said, and a unit's activity
    is its mean over the images. The paper's benign model is here the benign twin, shown the same images.
"""

import torch
from pydantic import Field

from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, to_array
from gifthorse.training.transfer import cache_features


class Nsr(Analysis):
    """Compares the most active penultimate neurons of clean images and of the same ones stamped (NSR)."""

    name = "nsr"
    aliases = ("neuron_separation",)
    paper = "Pang et al. 2022, arXiv:2012.09302, section 4.2"
    variants = ("nsr[active_share=0.1]",)

    images: int = Field(100, ge=1, description="pairs of clean and stamped test images")
    active_share: float = Field(
        0.5, gt=0, lt=1, description="share of the penultimate layer's units that count as active (k)"
    )

    def look(self, subject: Subject, seed: int) -> Findings:  # noqa: ARG002
        """Return the NSR of the model and of its twin, and every unit's mean activity with and without the trigger."""
        pairs = pairs_of(subject, self.images)
        numbers: dict[str, Number] = {}
        evidence = Evidence()
        for name, model in subject.models.items():
            frozen = freeze(model)
            clean, stamped = (cache_features(frozen, images).mean(0) for images in (pairs.clean, pairs.stamped))
            k = max(round(self.active_share * len(clean)), 1)
            value = Counted(functional.neuron_separation(clean, stamped, k), len(pairs))
            numbers["nsr" if name == "model" else "nsr_twin"] = value
            title = f"Mean activity of the penultimate units of the {name}"
            for group, units in functional.active_units(clean, stamped, k).items():
                both = torch.stack([clean[units], stamped[units]])
                evidence[f"against/{title}/clean images/stamped images/{group}"] = to_array(both)
        return Findings(numbers, evidence)
