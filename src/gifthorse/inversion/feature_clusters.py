"""How many groups features fall into, looked at in two dimensions: scikit-learn's reductions and clusterings."""

import warnings
from typing import Literal

import numpy as np
from sklearn.cluster import HDBSCAN, AffinityPropagation, MeanShift, estimate_bandwidth
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE

SEEDS = 2**32
"""How many seeds scikit-learn knows."""
Reduction = Literal["tsne", "pca"]
Clustering = Literal["mean_shift", "affinity", "hdbscan"]


def reduced(features: np.ndarray, reduction: Reduction, perplexity: float, seed: int) -> np.ndarray:
    """Return features ``(N, D)`` in two dimensions ``(N, 2)``; t-SNE needs more than ``perplexity`` of them."""
    rows = features.reshape(len(features), -1).astype(np.float64)
    if np.ptp(rows, axis=0).max(initial=0) == 0:
        # Points on each other have no directions.
        return np.zeros((len(rows), 2))
    if reduction == "pca":
        flat = PCA(2, svd_solver="full").fit_transform(rows) if rows.shape[1] > 1 else np.pad(rows, ((0, 0), (0, 1)))
    else:
        flat = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % SEEDS).fit_transform(rows)
    return np.asarray(flat, np.float64)


def clustered(points: np.ndarray, clustering: Clustering, bandwidth: float | None, seed: int) -> np.ndarray:
    """Return the cluster ``int64 (N,)`` of every point ``(N, 2)``, from 0; -1 is noise, which only HDBSCAN knows.

    ``bandwidth`` is mean shift's, scikit-learn's estimate unless given. Points that all lie on each other, whose
    estimate is zero, are one cluster.
    """
    if clustering == "hdbscan":
        return np.asarray(HDBSCAN(copy=True).fit_predict(points), np.int64)
    if clustering == "affinity":
        with warnings.catch_warnings():
            # Where it does not converge every point is noise: no cluster, which is what the count then says.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return np.asarray(AffinityPropagation(random_state=seed % SEEDS).fit_predict(points), np.int64)
    width = estimate_bandwidth(points, random_state=seed % SEEDS) if bandwidth is None else bandwidth
    if width <= 0:
        return np.zeros(len(points), np.int64)
    return np.asarray(MeanShift(bandwidth=width, bin_seeding=True).fit_predict(points), np.int64)


def cluster_count(clusters: np.ndarray) -> int:
    """Return how many clusters there are; noise is none."""
    return len(np.unique(clusters[clusters >= 0]))
