"""Every metric against an independent definition, with ties, empty sets and one class."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices, median, says_something
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.metrics import functional as F  # noqa: N812


def anomaly_index(scores: Tensor) -> float:
    return ModelVerdict(scores, None).anomaly_index


few_levels = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30)


def logits_for(predictions: list[int], classes: int = 4) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float() * 3


def test_asr_leaves_out_images_of_the_target_class() -> None:
    labels, targets = torch.tensor([0, 0, 1, 2, 3]), torch.zeros(5, dtype=torch.long)
    assert F.attack_success_rate(logits_for([0, 0, 0, 1, 0]), labels, targets) == pytest.approx(2 / 3)


def test_asr_of_a_perfect_benign_model_is_zero_not_the_share_of_the_target_class() -> None:
    labels = torch.arange(4).repeat(25)
    assert F.attack_success_rate(logits_for(labels.tolist()), labels, torch.zeros_like(labels)) == 0.0


def test_asr_of_nothing_is_nan() -> None:
    labels = torch.zeros(3, dtype=torch.long)
    assert math.isnan(F.attack_success_rate(logits_for([0, 0, 0]), labels, labels))


def test_asr_takes_one_target_per_image() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    assert F.attack_success_rate(logits_for([1, 2, 3, 1]), labels, (labels + 1) % 4) == pytest.approx(3 / 4)


def test_tmc_is_over_successful_trials_only() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    labels, targets = torch.tensor([1, 1, 1]), torch.tensor([0, 0, 0])
    expected = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    assert F.trojan_confidence(logits, labels, targets) == pytest.approx(expected)


def test_ccc_is_the_mean_probability_of_the_true_class() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert F.confidence(logits, torch.tensor([0, 1])) == pytest.approx((0.5 + 0.25) / 2)


@given(few_levels, few_levels)
def test_auroc_counts_pairs_with_ties_half(negative: list[float], positive: list[float]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert F.auroc(torch.tensor(negative), torch.tensor(positive)) == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_of_an_empty_side_is_nan() -> None:
    assert math.isnan(F.auroc(torch.empty(0), torch.ones(3)))


def test_auroc_takes_scores_of_any_size() -> None:
    assert F.auroc(torch.tensor([-1000.0, -3.0]), torch.tensor([-2.0, 50.0])) == 1.0


@given(few_levels, few_levels, st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_tpr_at_fpr_never_lets_more_negatives_through(negative: list[float], positive: list[float], fpr: float) -> None:
    tpr = F.tpr_at_fpr(torch.tensor(negative), torch.tensor(positive), fpr)
    thresholds = [t for t in [*negative, *positive, -1.0] if sum(n > t for n in negative) <= fpr * len(negative)]
    best = max(sum(p > t for p in positive) / len(positive) for t in thresholds)
    assert tpr <= best + 1e-6  # equal scores on both sides may cost, never gain


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.booleans(), min_size=1, max_size=20))
def test_decisions_equal_scikit_learns(negative: list[bool], positive: list[bool]) -> None:
    ours = F.decisions(torch.tensor(negative), torch.tensor(positive))
    truth, flagged = [0] * len(negative) + [1] * len(positive), [*negative, *positive]
    assert ours["precision"] == pytest.approx(oracle.precision_score(truth, flagged, zero_division=0))
    assert ours["recall"] == ours["tpr"] == pytest.approx(oracle.recall_score(truth, flagged))
    assert ours["f1"] == pytest.approx(oracle.f1_score(truth, flagged, zero_division=0))
    assert ours["accuracy"] == pytest.approx(oracle.accuracy_score(truth, flagged))
    assert ours["fpr"] == pytest.approx(sum(negative) / len(negative))


def test_median_takes_the_midpoint() -> None:
    assert median(torch.tensor([3.0, 1.0, 10.0, 2.0])).item() == 2.5
    assert median(torch.tensor([3.0, 1.0, 2.0])).item() == 2


def test_anomaly_index_by_hand() -> None:
    scores = -torch.tensor([1.0, 10.0, 12.0, 14.0, 16.0])
    assert anomaly_index(scores) == pytest.approx(11 / (1.4826 * 2))


def test_anomaly_index_is_one_sided() -> None:
    """A class that is unusually hard to reach (MNIST's 1) is no sign of a backdoor."""
    assert anomaly_index(-torch.tensor([20.0, 21.0, 22.0, 23.0, 24.0, 160.0])) < 2


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_nothing_stands_out_where_more_than_half_of_the_classes_are_equal(noise: float) -> None:
    """A MAD of zero, or of rounding alone, made any other class an outlier of any size."""
    scores = -torch.tensor([3.0] * 9 + [2.9]) * (1 + noise * torch.arange(10) % 3)
    assert not says_something(scores)
    both = anomaly_indices(torch.stack([scores, torch.arange(10.0)]))
    assert both[0].abs().max() == 0
    assert both[1].max() == pytest.approx(4.5 / (1.4826 * 2.5))
    assert anomaly_indices(torch.zeros(5)).abs().max() == 0


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=12), st.floats(0.1, 10), st.floats(-50, 50))
def test_anomaly_index_ignores_scale_and_offset(values: list[float], scale: float, offset: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    deviations = (scores - median(scores)).abs()
    if median(deviations) > 1e-3 * scores.abs().max().clamp_min(1):
        expected = anomaly_indices(scores)
        torch.testing.assert_close(anomaly_indices(scale * scores + offset), expected, rtol=1e-6, atol=1e-6)


def test_mask_norm_counts_colours_once() -> None:
    assert F.mask_norm(torch.full((1, 4, 4), 0.5)) == pytest.approx(8)


def test_mask_jaccard() -> None:
    true = torch.zeros(1, 4, 4)
    true[:, :2, :2] = 1
    recovered = torch.full((1, 4, 4), 0.02)
    recovered[:, :2, :1] = 0.9
    recovered[:, 3, 3] = 0.5
    assert F.mask_jaccard(recovered, true) == pytest.approx(2 / 5)
    assert F.mask_jaccard(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)) == 0


def test_mask_jaccard_of_the_top_pixels_is_of_the_kind_that_table_12_has() -> None:
    """Of a 3×3 trigger eight pixels count: 8/9 if all of them hit, one less in common for every one that misses."""
    true = torch.zeros(1, 6, 6)
    true[:, :3, :3] = 1
    values = torch.linspace(0.9, 0.1, 8)
    inside, outside = true.flatten().nonzero().squeeze(1), (1 - true).flatten().nonzero().squeeze(1)
    found = []
    for missed in range(9):
        recovered = torch.linspace(0, 0.01, 36)
        recovered[torch.cat([inside[: 8 - missed], outside[:missed]])] = values
        found.append(F.mask_jaccard_top(recovered.view(1, 6, 6), true))
    assert found == pytest.approx([8 / 9, 7 / 10, 6 / 11, 5 / 12, 4 / 13, 3 / 14, 2 / 15, 1 / 16, 0])
    # How large the mask is does not matter, and what is all alike has no top.
    recovered = torch.linspace(1, 0, 36).view(1, 6, 6)
    assert F.mask_jaccard_top(recovered / 50, true) == F.mask_jaccard_top(recovered, true) == 5 / 12
    assert F.mask_jaccard_top(true, true) == 0
    assert F.mask_jaccard_top(recovered, torch.zeros(1, 6, 6)) == 0


def test_neuron_separation_is_one_minus_the_jaccard_index_of_the_most_active_units() -> None:
    clean = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    stamped = torch.tensor([0.0, 4.0, 3.0, 9.0, 1.0, 5.0])
    # Of three: {0, 1, 2} and {3, 5, 1}: one unit in common of five.
    assert F.neuron_separation(clean, stamped, 3) == pytest.approx(1 - 1 / 5)
    assert F.neuron_separation(clean, clean + 7, 3) == 0
    assert F.neuron_separation(clean, -clean, 3) == 1
    groups = F.active_units(clean, stamped, 3)
    assert {name: flags.nonzero().flatten().tolist() for name, flags in groups.items()} == {
        "active in both": [1],
        "active in clean images alone": [0, 2],
        "active in stamped images alone": [3, 5],
        "active in neither": [4],
    }


def test_of_units_that_are_equally_active_the_first_count() -> None:
    silent = torch.zeros(6)
    assert F.neuron_separation(silent, silent, 2) == 0
    assert F.neuron_separation(silent, torch.tensor([1.0, 1, 0, 0, 0, 0]), 2) == 0
    assert F.neuron_separation(silent, torch.tensor([0.0, 0, 0, 0, 1, 1]), 2) == 1
