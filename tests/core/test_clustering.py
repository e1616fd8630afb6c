"""Principal axes, k-means and silhouettes against other libraries."""

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from gifthorse.core.clustering import k_means, principal_axes, silhouette


def points(count: int, dimensions: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=random) * torch.linspace(3, 0.5, dimensions)


def blobs(seed: int, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Points around corners that are far apart, shuffled, and which corner each is of."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    corner = corner[torch.randperm(len(corner), generator=random)]
    centres = 10 * torch.randn(len(sizes), 4, generator=random)
    return centres[corner] + 0.2 * torch.randn(len(corner), 4, generator=random), corner


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_principal_axes_are_right_singular_vectors(shape: tuple[int, int]) -> None:
    centred = points(*shape)
    centred = centred - centred.mean(0)
    expected = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    found = principal_axes(centred, 3)
    torch.testing.assert_close((found * expected).sum(1).abs(), torch.ones(3), atol=1e-4, rtol=0)
    assert principal_axes(centred, 99).shape == (7, shape[1])


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_as_tight_as_scikit_learns(seed: int) -> None:
    found = points(200, 3, seed)
    draws = torch.rand(10, 3, generator=torch.Generator().manual_seed(seed))
    centres, cluster = k_means(found, 3, draws)
    spread = (found - centres.gather(1, cluster.unsqueeze(2).expand(-1, -1, 3))).square().sum((1, 2)).min()
    theirs = KMeans(3, n_init=10, random_state=seed).fit(found.numpy()).inertia_
    assert float(spread) == pytest.approx(theirs, rel=1e-3)


def test_far_blobs_are_found_from_any_start_but_those_in_one_blob() -> None:
    found, corner = blobs(1, (60, 30, 10))
    draws = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    _, cluster = k_means(found, 3, draws)
    pairs = corner[:, None] == corner
    right = [torch.equal(each[:, None] == each, pairs) for each in cluster]
    assert sum(right) >= 18


def test_a_set_is_clustered_alone_as_beside_others() -> None:
    sets = torch.stack([points(50, 3, seed) for seed in range(4)])
    draws = torch.tensor([[0.1, 0.6, 0.9]])
    together, _ = k_means(sets, 3, draws.expand(4, -1))
    for one, centres in zip(sets, together, strict=True):
        torch.testing.assert_close(k_means(one[None], 3, draws)[0][0], centres)
        torch.testing.assert_close(k_means(one, 3, draws)[0][0], centres)


def test_points_that_are_equal_are_one_cluster() -> None:
    centres, cluster = k_means(torch.ones(2, 5, 3), 2, torch.rand(2, 2))
    assert torch.equal(centres, torch.ones(2, 2, 3))
    assert len(cluster.unique()) == 1


def test_the_silhouette_is_scikit_learns() -> None:
    found = points(300, 4)
    for cluster in ((found[:, 0] > 1).long(), (torch.arange(300) == 7).long()):
        theirs = silhouette_score(found.numpy(), cluster.numpy())
        assert float(silhouette(found, cluster)) == pytest.approx(theirs, abs=1e-4)
