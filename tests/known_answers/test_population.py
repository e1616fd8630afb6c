"""Population statistics against independent definitions: ties, empty groups, perfect separation, resampling by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from torch import Tensor

from gifthorse.core.record import Separation
from gifthorse.metrics import functional
from gifthorse.metrics.population import FPRS, resampled_aurocs, resampled_tprs, separate, share_interval

values = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 7.0]), min_size=2, max_size=8)
some_values = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 7.0]), min_size=1, max_size=25)


def indices(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(count: int, seed: int, resamples: int = 6) -> Tensor:
    return torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))


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
        assert found.tpr_at_fpr[f"{fpr:g}"] == pytest.approx(tpr_by_trying_thresholds(benign, trojaned, fpr))


def test_ten_benign_models_allow_no_false_alarm_at_5_percent_and_one_at_10() -> None:
    benign = indices([float(value) for value in range(10)])
    trojaned = indices([8.5, 9.0, 9.5, 20.0])
    assert separate(benign, trojaned).tpr_at_fpr == {"0.05": 0.5, "0.1": 1.0}


@settings(deadline=None)
@given(values, values, st.integers(0, 99))
def test_every_resample_has_the_auroc_that_scikit_learn_gives_it(
    benign: list[float], trojaned: list[float], seed: int
) -> None:
    first, second = drawn(len(benign), seed), drawn(len(trojaned), seed + 1)
    found = resampled_aurocs(indices(benign), indices(trojaned), first, second)
    truth = [0] * len(benign) + [1] * len(trojaned)
    for auroc, one, two in zip(found.tolist(), first.tolist(), second.tolist(), strict=True):
        scores = [benign[i] for i in one] + [trojaned[i] for i in two]
        assert auroc == pytest.approx(oracle.roc_auc_score(truth, scores))


@settings(deadline=None)
@given(values, values, st.integers(0, 99), st.sampled_from([0.05, 0.1, 0.3]))
def test_every_resample_has_a_threshold_of_its_own(
    benign: list[float], trojaned: list[float], seed: int, fpr: float
) -> None:
    first, second = drawn(len(benign), seed), drawn(len(trojaned), seed + 1)
    found = resampled_tprs(indices(benign), indices(trojaned), first, second, fpr)
    for tpr, one, two in zip(found.tolist(), first.tolist(), second.tolist(), strict=True):
        resample = [benign[i] for i in one], [trojaned[i] for i in two]
        assert tpr == pytest.approx(tpr_by_trying_thresholds(*resample, fpr))


@settings(deadline=None)
@given(values, values)
def test_an_interval_brackets_its_estimate(benign: list[float], trojaned: list[float]) -> None:
    found = separate(indices(benign), indices(trojaned))
    assert found.auroc is not None
    assert found.auroc_interval is not None
    low, high = found.auroc_interval
    assert 0 <= low <= found.auroc + 1e-9
    assert found.auroc - 1e-9 <= high <= 1
    for fpr, tpr in found.tpr_at_fpr.items():
        low, high = found.tpr_at_fpr_interval[fpr]
        assert 0 <= low <= tpr <= high <= 1


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    """Hanley and McNeil's standard error of an AUROC, on two normal samples."""
    random = torch.Generator().manual_seed(0)
    count = 80
    benign, trojaned = torch.randn(2, count, generator=random, dtype=torch.float64)
    found = separate(benign, trojaned + 1)
    assert found.auroc is not None
    assert found.auroc_interval is not None
    a = found.auroc
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + (count - 1) * (q1 + q2 - 2 * a * a)) / count**2)
    low, high = found.auroc_interval
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_perfect_separation_leaves_the_bootstrap_no_doubt() -> None:
    found = separate(indices([0.0, 1.0, 2.0]), indices([3.0, 4.0]))
    assert (found.auroc, found.auroc_interval) == (1, (1, 1))
    assert found.tpr_at_fpr == {"0.05": 1, "0.1": 1}
    assert found.tpr_at_fpr_interval == {"0.05": (1, 1), "0.1": (1, 1)}


def test_equal_values_everywhere_are_chance() -> None:
    found = separate(indices([2.0] * 5), indices([2.0] * 5))
    assert (found.auroc, found.auroc_interval) == (0.5, (0.5, 0.5))
    assert found.tpr_at_fpr == {"0.05": 0, "0.1": 0}


@pytest.mark.parametrize(("benign", "trojaned"), [([], [1.0, 2.0]), ([1.0, 2.0], []), ([], [])])
def test_nothing_is_said_of_an_empty_group(benign: list[float], trojaned: list[float]) -> None:
    assert separate(indices(benign), indices(trojaned)) == Separation()
    assert math.isnan(functional.tpr_at_fpr(indices(benign), indices(trojaned), 0.05))


def test_one_model_has_no_interval() -> None:
    found = separate(indices([1.0]), indices([2.0, 0.0]))
    assert found.auroc == 0.5
    assert found.tpr_at_fpr == {"0.05": 0.5, "0.1": 0.5}
    assert found.auroc_interval is None
    assert found.tpr_at_fpr_interval == {}


def test_the_seed_decides_the_interval() -> None:
    benign, trojaned = indices([0.0, 1.0, 2.0, 5.0, 9.0, 9.5]), indices([1.5, 3.0, 4.0, 7.0, 9.2, 9.7])
    assert separate(benign, trojaned, 1) == separate(benign, trojaned, 1)
    found = {repr(separate(benign, trojaned, seed)) for seed in range(8)}
    assert len(found) > 1


def test_the_groups_are_resampled_apart() -> None:
    """Paired draws of a paired sample would always find the same difference: an interval of no width."""
    benign = indices([0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    interval = separate(benign, benign + 1).auroc_interval
    assert interval is not None
    assert interval[1] - interval[0] > 0.4


def test_the_interval_of_a_share_is_the_binomials() -> None:
    """Of ten flags, nine set: 2.5 % of the resamples have seven or fewer, and more than 2.5 % have all ten."""
    assert share_interval(torch.tensor([True] * 9 + [False])) == (0.7, 1.0)
    assert share_interval(torch.tensor([True] * 4)) == (1, 1)
    assert share_interval(torch.tensor([True])) is None
    assert share_interval(torch.tensor([])) is None
