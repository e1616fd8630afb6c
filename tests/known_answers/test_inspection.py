"""Trigger inversion and the detectors built on it, in worlds whose answer is known; published bugs stay out."""

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.neural_cleanse import CostSchedule, NeuralCleanse
from gifthorse.inversion.engine import Best, Budget, Masked, invert
from gifthorse.inversion.frozen import freeze
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from worlds import linear_classifier, live_pixel_view, noise_images

QUICK_CLEANSE = NeuralCleanse(steps=150, batches=1, batch_size=32)


def test_neural_cleanse_returns_the_one_live_pixel() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    verdict = QUICK_CLEANSE.defend(view, 0)
    assert verdict.suspect == 2
    assert verdict.triggers is not None
    mask = verdict.triggers.mask[2, 0]
    assert int(mask.argmax()) == 7 * 8 + 5
    assert mask.sum() < 2
    assert mask[7, 5] > 0.5 * mask.sum()
    assert verdict.readouts["ratio"] > 3


def test_neural_cleanse_suspects_no_class_where_all_are_alike() -> None:
    weight = torch.zeros(6, 1, 8, 8)
    for target in range(6):
        weight[target, 0, target] = 4.0
    images = noise_images(200, (1, 8, 8), 6)
    verdict = QUICK_CLEANSE.defend(ModelView(linear_classifier(weight, torch.zeros(6)), images), 0)
    assert verdict.readouts["ratio"] < 1.5


def test_neural_cleanse_says_that_two_classes_are_too_few() -> None:
    view = ModelView(linear_classifier(torch.zeros(2, 1, 4, 4), torch.zeros(2)), noise_images(20, (1, 4, 4), 2))
    assert "at least 3 classes" in str(NeuralCleanse().skip(view))


def observe(schedule: CostSchedule, accuracies: list[list[float]], norms: list[list[float]]) -> list[list[float]]:
    weights = []
    for accuracy, norm in zip(accuracies, norms, strict=True):
        active = torch.arange(len(accuracy))
        mask = torch.tensor(norm).view(-1, 1, 1, 1)
        schedule.observe(active, torch.tensor(accuracy), torch.tensor(norm), mask)
        weights.append(schedule.weight.tolist())
    return weights


def test_the_cost_starts_at_zero_and_rises_and_falls_for_each_class_alone() -> None:
    settings = NeuralCleanse(patience=2, initial_cost=1.0, cost_multiplier=4.0)
    schedule = CostSchedule(settings, 2, torch.device("cpu"))
    accuracies = [[1.0, 0.0]] * 6 + [[0.0, 0.0]] * 2
    weights = observe(schedule, accuracies, [[5.0, 5.0]] * 8)
    assert [first for first, _ in weights] == [0, 1, 1, 4, 4, 16, 16, 2]
    assert [second for _, second in weights] == [0] * 8


def test_the_cost_is_not_set_back_by_later_success() -> None:
    """ART lost the guard on a zero cost: its cost was reset again and again and never rose."""
    schedule = CostSchedule(NeuralCleanse(patience=5, cost_multiplier=1.5), 1, torch.device("cpu"))
    weights = observe(schedule, [[1.0]] * 60, [[5.0]] * 60)
    assert weights[-1][0] == pytest.approx(1e-3 * 1.5**11)


def test_the_smallest_successful_mask_is_kept_not_the_last() -> None:
    """TrojanZoo never updated its best norm, so the last epoch's mask won, successful or not."""
    schedule = CostSchedule(NeuralCleanse(), 3, torch.device("cpu"))
    observe(schedule, [[1.0, 1, 0], [1.0, 1, 0], [0.0, 1, 0]], [[9.0, 9, 1], [4.0, 12, 1], [1.0, 10, 1]])
    assert schedule.best.settle(torch.full((3, 1, 1, 1), 7.0)).flatten().tolist() == [4, 9, 7]


def test_a_class_stops_only_after_its_cost_went_both_ways_and_its_mask_stopped_shrinking() -> None:
    settings = NeuralCleanse(patience=1, early_stop_patience=3)
    schedule = CostSchedule(settings, 1, torch.device("cpu"))
    observe(schedule, [[1.0]] * 20, [[5.0]] * 20)
    assert not schedule.finished.item()
    observe(schedule, [[0.0]] * 5, [[9.0]] * 5)
    assert schedule.finished.item()


def test_side_by_side_gives_what_one_after_another_gives() -> None:
    """Classes share a batch but no variable: each result is what its own search would give."""

    view = live_pixel_view(target=1, row=6, column=2)

    def search(max_batch: int) -> Tensor:
        budget = Budget(steps=30, batches=2, batch_size=16, lr=0.1, max_batch=max_batch)
        source, kept = Masked.uniform(6, view.clean, 0), Best(6, 0.9, torch.device("cpu"))
        loss = lambda trial: trial.cross_entropy() + 0.01 * trial.size  # noqa: E731
        return invert(view.model, view.clean, torch.arange(6), source, loss, kept, budget, 0)

    torch.testing.assert_close(search(16 * 6), search(16), atol=2e-2, rtol=0)


@pytest.mark.parametrize("architecture", [SmallCnn(width=4), ResNet18(width=4, blocks=(1, 1, 1, 1))])
def test_freezing_changes_no_answer(architecture: SmallCnn | ResNet18) -> None:
    model = architecture.build((3, 16, 16), 5, 0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                layer.weight.uniform_(0.5, 2)
    pixels = noise_images(8, (3, 16, 16), 5).floats()
    model.eval()
    frozen = freeze(model)
    torch.testing.assert_close(frozen(pixels), model(pixels), atol=1e-4, rtol=1e-3)
    assert not [layer for layer in frozen.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not [parameter for parameter in frozen.parameters() if parameter.requires_grad]
    assert all(parameter.requires_grad for parameter in model.parameters())
