"""Distances of classes as distributions: by hand, by SciPy, by POT, and as a table."""

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from gifthorse.analyses.class_distances import ClassDistances
from gifthorse.contracts.worlds import noise_world
from gifthorse.core.analysis import Subject
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.metrics.distances import sliced_wasserstein, unit_directions, wasserstein_along


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directions(count: int, dimensions: int) -> Tensor:
    return unit_directions(count, dimensions, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sizes", [(9, 9), (7, 12), (1, 5), (12, 7)])
def test_along_a_line_it_is_scipys_whatever_the_numbers(sizes: tuple[int, int]) -> None:
    first, second = (randn(size, 3, seed=seed).sort(0).values for seed, size in enumerate(sizes))
    expected = [wasserstein_distance(first[:, line], second[:, line]) for line in range(3)]
    assert wasserstein_along(first, second).tolist() == pytest.approx(expected, rel=1e-5)


def test_along_a_line_by_hand() -> None:
    first, second = torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([[1.0], [4.0]])
    # Thirds against halves: a third moves 1, a sixth moves 1, a sixth moves 4, a third moves 1.
    first, second = first.sort(0).values, second.sort(0).values
    assert wasserstein_along(first, second).item() == pytest.approx(1 / 3 + 1 / 6 + 4 / 6 + 1 / 3)
    assert wasserstein_along(first, second, 2).item() == pytest.approx((1 / 3 + 1 / 6 + 16 / 6 + 1 / 3) ** 0.5)


@pytest.mark.parametrize("order", [1, 2])
def test_the_sliced_distance_is_that_of_pot(order: int) -> None:
    first, second, lines = randn(20, 6), randn(31, 6, seed=1) * 2 + 1, directions(50, 6)
    mean = float(ot.sliced_wasserstein_distance(first, second, p=order, projections=lines))
    largest = float(ot.max_sliced_wasserstein_distance(first, second, p=order, projections=lines))
    assert sliced_wasserstein(first, second, lines, order).item() == pytest.approx(mean, rel=1e-5)
    found = sliced_wasserstein(first, second, lines, order, largest=True)
    assert found.item() == pytest.approx(largest, rel=1e-5)


def test_a_shift_is_seen_as_long_as_it_is_in_its_own_direction() -> None:
    points, shift = randn(40, 5), torch.tensor([3.0, 0, 4, 0, 0])
    along = (shift / 5).unsqueeze(1)
    assert sliced_wasserstein(points, points + shift, along).item() == pytest.approx(5, rel=1e-5)
    assert sliced_wasserstein(points, points, directions(9, 5)).item() == 0


def test_directions_are_of_length_one_and_point_everywhere() -> None:
    lines = directions(4000, 3)
    torch.testing.assert_close(lines.norm(dim=0), torch.ones(4000))
    assert lines.mean(1).abs().max() < 0.05
    torch.testing.assert_close(lines @ lines.T / 4000, torch.eye(3) / 3, atol=0.02, rtol=0)


def lit(levels: list[int]) -> Subject:
    """A task whose classes are images of one brightness each, in 4 pixels, and no backdoor."""
    world = noise_world((1, 12, 12))
    pixels = torch.tensor(levels, dtype=torch.uint8).repeat_interleave(6).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels = torch.arange(len(levels)).repeat_interleave(6)
    task = replace(world.task, train=Images(pixels, labels, len(levels)), test=Images(pixels, labels, len(levels)))
    return Subject(world.benign, world.benign, None, replace(task, class_names=tuple(map(str, range(len(levels))))))


def test_every_pair_of_classes_has_its_distance_and_the_closest_is_named() -> None:
    """All brightnesses differ by a multiple of the same image, so that the distances are in proportion."""
    for over in ("largest", "mean"):
        found = ClassDistances(over=over).look(lit([0, 100, 120, 250]), 0)
        table = found.evidence["matrix/Distance of classes"]
        assert np.array_equal(table, table.T)
        unit = table[1, 2] / 20
        wanted = unit * np.abs(np.subtract.outer([0, 100, 120, 250], [0, 100, 120, 250]))
        assert table == pytest.approx(wanted, rel=1e-3)
        assert found.numbers["class_distance_pair"] == [1, 2]
        assert found.numbers["class_distance_closest"] == pytest.approx(table[1, 2])
        assert found.numbers["class_distance_mean"] == pytest.approx(wanted.sum() / 12, rel=1e-3)
        assert found.numbers.keys() == {"class_distance_closest", "class_distance_mean", "class_distance_pair"}


def test_distances_are_counted_in_sums_over_the_pixels() -> None:
    """Along the diagonal, a change of all four pixels by d is seen as 2 d; times the 4 pixels that is 8 d."""
    found = ClassDistances(directions=20000).look(lit([0, 51]), 0)
    assert found.numbers["class_distance_closest"] == pytest.approx(8 * 0.2, rel=0.02)
    halved = ClassDistances(directions=20000, over="mean", order=2).look(lit([0, 51]), 0)
    assert halved.numbers["class_distance_closest"] == pytest.approx(4 * 0.2, rel=0.02)  # cos² is 1/4 in the mean


def test_the_cost_of_the_trigger_is_the_sum_of_the_pixels_that_it_changes() -> None:
    world = noise_world((1, 12, 12))
    backdoor, test = world.trojan.backdoor, world.task.test
    assert backdoor is not None
    others = test.take(test.labels != 0)
    changes = (backdoor.trigger.stamp(others.floats()) - others.floats()).abs().sum((1, 2, 3))
    found = ClassDistances().look(Subject(world.trojan.model, world.trojan.twin, backdoor, world.task), 0)
    assert found.numbers["stamped_distance_transport"] == pytest.approx(float(changes.mean()), rel=1e-4)
    assert float(found.numbers["stamped_distance"]) > 0  # type: ignore[arg-type]


def test_a_class_without_test_images_is_said() -> None:
    subject = lit([0, 100, 200])
    subject = replace(subject, task=replace(subject.task, test=subject.task.test.take(slice(12))))
    with pytest.raises(NotApplicableError, match="class '2' has no test image to be compared"):
        ClassDistances().look(subject, 0)
