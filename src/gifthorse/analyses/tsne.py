"""t-SNE: penultimate features of clean test images by class, and of stamped ones, in two dimensions.

Paper: AEGIS (Soremekun et al. 2020, arXiv:2003.00865), sections III and IV, which looks at features so.
Differs: AEGIS reduces the images of one class, clean and translated, to count clusters; here classes are shown beside
    each other. The distance of the stamped images from the target's is a silhouette in feature space, by us.
"""

from typing import ClassVar

from pydantic import Field

from gifthorse.analyses.feature_points import FeaturePoints
from gifthorse.core.errors import NotApplicableError
from gifthorse.inversion.feature_clusters import Reduction


class Tsne(FeaturePoints):
    """Draws penultimate features by t-SNE: neighbours stay neighbours, distances mean little."""

    name = "tsne"
    aliases = ("t-sne",)
    paper = "AEGIS, sections III and IV"
    reduction: ClassVar[Reduction] = "tsne"

    perplexity: float = Field(30.0, gt=0, description="how many neighbours count: below the number of points")

    def perplexity_of(self, points: int) -> float:
        """Return the perplexity; :class:`NotApplicableError` where there are too few points for it."""
        if self.perplexity >= points:
            raise NotApplicableError(f"t-SNE with perplexity {self.perplexity:g} needs more points than that: {points}")
        return self.perplexity
