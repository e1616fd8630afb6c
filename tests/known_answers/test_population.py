"""Population statistics against independent definitions: ties, empty groups, perfect separation, resampling by hand."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gifthorse.core.record import FPRS, Separation, benign_needed
from gifthorse.metrics import functional
from gifthorse.metrics.population import auroc_interval, separate, share_interval

values = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 7.0]), min_size=2, max_size=8)
some_values = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 7.0]), min_size=1, max_size=25)


def indices(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def tpr_by_trying_thresholds(benign: list[float], trojaned: list[float], fpr: float) -> float:
    """The lowest observed benign value that lets no more than ``fpr`` of the benign models through."""
    allowed = [t for t in benign if sum(b > t for b in benign) <= fpr * len(benign)]
    return sum(t > min(allowed) for t in trojaned) / len(trojaned)


@settings(deadline=None)
@given(some_values, some_values)
def test_the_estimates_are_those_of_the_definitions(benign: list[float], trojaned: list[float]) -> None:
    found = separate(indices(benign), indices(trojaned))
    pairs = [(t > b) + 0.5 * (t == b) for t in trojaned for b in benign]
    assert found.auroc == pytest.approx(sum(pairs) / len(pairs))
    for fpr in FPRS:
        if len(benign) * fpr < 1:
            assert f"{fpr:g}" not in found.tpr_at_fpr
        else:
            assert found.tpr_at_fpr[f"{fpr:g}"] == pytest.approx(tpr_by_trying_thresholds(benign, trojaned, fpr))


def test_a_tpr_is_given_where_the_benign_models_suffice_for_its_threshold() -> None:
    benign, trojaned = indices([float(value) for value in range(20)]), indices([17.5, 18.5, 19.0, 19.5])
    assert separate(benign, trojaned).tpr_at_fpr == {"0.05": 0.75, "0.1": 1.0}
    assert separate(benign[:19], trojaned).tpr_at_fpr == {"0.1": 1.0}
    assert separate(benign[:9], trojaned).tpr_at_fpr == {}
    assert [benign_needed(fpr) for fpr in FPRS] == [20, 10]


@settings(deadline=None)
@given(values, values)
def test_an_interval_brackets_its_estimate(benign: list[float], trojaned: list[float]) -> None:
    found = separate(indices(benign * 5), indices(trojaned))
    assert found.auroc is not None
    assert found.auroc_interval is not None
    low, high = found.auroc_interval
    assert 0 <= low <= found.auroc + 1e-9
    assert found.auroc - 1e-9 <= high <= 1
    for fpr, tpr in found.tpr_at_fpr.items():
        low, high = found.tpr_at_fpr_interval[fpr]
        assert 0 <= low <= tpr <= high <= 1


def test_of_many_models_the_interval_is_as_wide_as_theory_says() -> None:
    """Hanley and McNeil's standard error of an AUROC."""
    a, count = 0.8, 400
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + (count - 1) * (q1 + q2 - 2 * a * a)) / count**2)
    low, high = auroc_interval(a, count, count)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.02)


@pytest.mark.parametrize("count", [5, 10, 20])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("true", [0.5, 0.7, 0.85, 0.95, 0.99])
def test_the_interval_of_an_auroc_covers_the_truth(true: float, spread: float, count: int) -> None:
    """In at least 93 % of pairs of normal groups, where a bootstrap covers 81 % of 5 + 5."""
    random = torch.Generator().manual_seed(0)
    distance = NormalDist().inv_cdf(true) * math.sqrt(1 + spread**2)
    benign, trojaned = torch.randn(2, 6000, count, generator=random, dtype=torch.float64)
    wins = (distance + spread * trojaned)[:, :, None] > benign[:, None]
    found, times = wins.double().mean((1, 2)).unique(return_counts=True)
    covered = 0
    for auroc, often in zip(found.tolist(), times.tolist(), strict=True):
        low, high = auroc_interval(auroc, count, count)
        covered += often * (low <= true <= high)
    assert covered / 6000 >= 0.93


def test_perfect_separation_of_few_leaves_doubt() -> None:
    found = separate(indices([0.0, 1.0, 2.0, 2.5, 2.7]), indices([3.0, 4.0, 5.0, 6.0, 7.0]))
    assert found.auroc == 1
    assert found.auroc_interval == pytest.approx((0.643, 1), abs=1e-3)
    reverse = separate(indices([3.0, 4.0, 5.0, 6.0, 7.0]), indices([0.0, 1.0, 2.0, 2.5, 2.7]))
    assert reverse.auroc_interval == pytest.approx((0, 0.357), abs=1e-3)


def test_equal_values_everywhere_are_chance() -> None:
    found = separate(indices([2.0] * 5), indices([2.0] * 5))
    assert found.auroc == 0.5
    assert found.auroc_interval == pytest.approx((0.212, 0.788), abs=0.02)


@pytest.mark.parametrize(("benign", "trojaned"), [([], [1.0, 2.0]), ([1.0, 2.0], []), ([], [])])
def test_nothing_is_said_of_an_empty_group(benign: list[float], trojaned: list[float]) -> None:
    assert separate(indices(benign), indices(trojaned)) == Separation()
    assert math.isnan(functional.tpr_at_fpr(indices(benign), indices(trojaned), 0.05))


def test_one_model_tells_next_to_nothing() -> None:
    found = separate(indices([1.0]), indices([2.0]))
    assert found.auroc == 1
    assert found.auroc_interval is not None
    assert found.auroc_interval[0] < 0.25


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    """Five of five: from 0.025^(1/5)."""
    assert share_interval(torch.tensor([True] * 5)) == pytest.approx((0.025 ** (1 / 5), 1))
    assert share_interval(torch.tensor([False] * 5)) == pytest.approx((0, 1 - 0.025 ** (1 / 5)))
    assert share_interval(torch.tensor([True] * 9 + [False])) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert share_interval(torch.tensor([], dtype=torch.bool)) is None
