"""Principal components: penultimate features of clean test images by class, and of stamped ones, in two dimensions.

Paper: AEGIS (Soremekun et al. 2020, arXiv:2003.00865), RQ7, which puts PCA in the place of t-SNE.
Differs: as for ``tsne``: classes are shown beside each other, and the silhouette is ours.
"""

from typing import ClassVar

from gifthorse.analyses.feature_points import FeaturePoints
from gifthorse.inversion.feature_clusters import Reduction


class Pca(FeaturePoints):
    """Draws penultimate features along the two directions in which they vary most."""

    name = "pca"
    paper = "AEGIS, RQ7"
    reduction: ClassVar[Reduction] = "pca"
