"""Principal axes, k-means and silhouettes of many sets of points at once, on the device where the points are."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ITERATIONS = 100
CHECKED = 5
"""Iterations between two looks at whether anything still moves: a look makes the device wait."""
ROWS = 1024


def principal_axes(centred: Tensor, count: int) -> Tensor:
    """Return the first right singular vectors ``(min(count, N, D), D)`` of centred points ``(N, D)``, largest first.

    They are eigenvectors of the smaller of the two Gram matrices; the sign of an axis is arbitrary.
    """
    points = centred.double()
    axes: Tensor
    if points.shape[1] <= points.shape[0]:
        axes = torch.linalg.eigh(points.mT @ points).eigenvectors.mT.flip(0)[:count]
    else:
        left = torch.linalg.eigh(points @ points.mT).eigenvectors.mT.flip(0)[:count]
        axes = torch.nn.functional.normalize(left @ points, dim=1)
    return axes.to(centred.dtype)


def k_means(points: Tensor, clusters: int, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres ``(B, K, D)`` and the cluster ``int64 (B, N)`` of every point.

    ``points`` are one set ``(N, D)`` that is clustered from B starts, or B sets ``(B, N, D)``. Starts are k-means++ by
    the given ``draws (B, K)`` from [0,1), so a set is clustered the same whatever is beside it. Points that are equal
    are in one cluster, so that others may be empty.
    """
    count, numbers = points.shape[-2], torch.arange(clusters, device=points.device).unsqueeze(1)
    centres = _pick(points, (draws[:, :1] * count).long().clamp_max(count - 1))
    for number in range(1, clusters):
        distance = (points.unsqueeze(-2) - centres.unsqueeze(1)).square().sum(3).amin(2)
        reached = distance.cumsum(1)
        chosen = (reached <= draws[:, number, None] * reached[:, -1:]).sum(1, keepdim=True).clamp_max(count - 1)
        centres = torch.cat([centres, _pick(points, chosen)], 1)
    for iteration in range(ITERATIONS):
        member = (_nearest(points, centres).unsqueeze(1) == numbers).to(points.dtype)
        size = member.sum(2, keepdim=True)
        moved = torch.where(size > 0, member @ points / size.clamp_min(1), centres)
        if iteration % CHECKED == CHECKED - 1 and torch.equal(moved, centres):
            break
        centres = moved
    return centres, _nearest(points, centres)


def silhouette(points: Tensor, cluster: Tensor) -> Tensor:
    """Return the mean silhouette of ``points (N, D)`` in clusters 0 and 1 ``(N,)``, neither of them empty."""
    member = one_hot(cluster, 2).to(points.dtype)
    size = member.sum(0)
    total = torch.cat([torch.cdist(part, points) @ member for part in points.split(ROWS)])
    own, other = total.gather(1, cluster[:, None]), total.gather(1, 1 - cluster[:, None])
    within, between = own.squeeze(1) / (size[cluster] - 1).clamp_min(1), other.squeeze(1) / size[1 - cluster]
    widths = (between - within) / torch.maximum(between, within).clamp_min(torch.finfo(points.dtype).tiny)
    return torch.where(size[cluster] > 1, widths, 0).mean()


def _pick(points: Tensor, index: Tensor) -> Tensor:
    if points.ndim == 2:
        return points[index]
    return points.gather(1, index.unsqueeze(2).expand(-1, -1, points.shape[2]))


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    closeness = centres @ points.mT - centres.square().sum(2, keepdim=True) / 2
    best, nearest = closeness[:, 0], torch.zeros_like(closeness[:, 0], dtype=torch.long)
    for number in range(1, centres.shape[1]):  # there are few, and argmax along this dimension takes ten times as long
        nearest = nearest.masked_fill_(closeness[:, number] > best, number)
        best = torch.maximum(best, closeness[:, number])
    return nearest
