"""Feature similarity: how alike a model and its twin see the same images, and how alike it sees them with the trigger.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), sections 1 and 2, which list it among the tools of analysis
    without a definition; the measure is linear CKA (Kornblith et al. 2019, arXiv:1905.00414, section 3).
Differs: of a stage's maps the means over places are compared, which keeps the features fewer than the images; of so few
    images as there are units CKA is too high. A shift that is the same for all images, or a scale, it does not see:
    a trigger that moves all features alike leaves it near 1.
"""

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.layers import activity
from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.core.findings import profile_name
from gifthorse.metrics.functional import linear_cka
from gifthorse.metrics.stamped import Evidence

Seen = Mapping[str, Tensor]
"""Activities ``(N, C)`` of layers, by name."""


class FeatureSimilarity(Analysis):
    """Compares representations at every stage by linear CKA: model and twin, clean and stamped images."""

    name = "feature_similarity"
    aliases = ("cka",)
    paper = "Kornblith et al. 2019, arXiv:1905.00414; TrojanZoo, sections 1 and 2"

    images: int = Field(1000, ge=2, description="pairs of clean and stamped test images")

    def look(self, subject: Subject, seed: int) -> Findings:  # noqa: ARG002
        """Return the four similarities at the penultimate layer, and at every stage that both networks have."""
        pairs = pairs_of(subject, self.images)
        clean, stamped = (
            {name: activity(model, images) for name, model in subject.models.items()}
            for images in (pairs.clean, pairs.stamped)
        )
        model, twin = "model", "twin" if "twin" in clean else "model"
        compared = {
            "cka_clean_stamped": ("clean and stamped images, model", clean[model], stamped[model]),
            "cka_clean_stamped_twin": ("clean and stamped images, twin", clean[twin], stamped[twin]),
            "cka_twin": ("model and twin, clean images", clean[model], clean[twin]),
            "cka_twin_stamped": ("model and twin, stamped images", stamped[model], stamped[twin]),
        }
        numbers: dict[str, Number] = {}
        evidence = Evidence()
        for name, (series, first, second) in compared.items():
            *stages, penultimate = similarities(first, second)
            numbers[name] = penultimate
            if stages and all(map(math.isfinite, stages)):
                numbers[f"{name}_by_stage"] = stages
            if all(map(math.isfinite, (*stages, penultimate))):
                layers = [layer for layer in first if layer in second]
                evidence[profile_name("Similarity of features (CKA)", layers, series)] = np.array(
                    [*stages, penultimate]
                )
        return Findings({name: value for name, value in numbers.items() if value == value}, evidence)


def similarities(first: Seen, second: Seen) -> list[float]:
    """Return the CKA of every layer that both have, in the order of the first: the penultimate layer is the last."""
    return [linear_cka(first[name], second[name]) for name in first if name in second]
