"""Trigger inversion and the detectors built on it, in worlds whose answer is known; published bugs stay out."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.views import Materials, ModelView
from gifthorse.defenses.inspection.abs import Abs
from gifthorse.defenses.inspection.deep_inspect import DeepInspect
from gifthorse.defenses.inspection.neural_cleanse import REFERENCES, CostSchedule, NeuralCleanse
from gifthorse.defenses.inspection.tabor import Tabor, elastic_net, roughness, trigger_quality
from gifthorse.inversion.engine import Best, Budget, Masked, Trial, best_restart, invert, watching
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inspector import hold_out, judge_by_size, with_success
from gifthorse.inversion.reference import against_references, reference_models
from gifthorse.inversion.stimulation import Stimulation, Unit
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.scratch import FromScratch
from worlds import linear_classifier, live_pixel_view, noise_images, scores_of

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
    """As in the authors' code, the step that sets the cost counts as the first of those that raise it."""
    settings = NeuralCleanse(patience=2, initial_cost=1.0, cost_multiplier=4.0)
    schedule = CostSchedule(settings, 2, torch.device("cpu"))
    accuracies = [[1.0, 0.0]] * 6 + [[0.0, 0.0]] * 2
    weights = observe(schedule, accuracies, [[5.0, 5.0]] * 8)
    assert [first for first, _ in weights] == [0, 1, 4, 4, 16, 16, 16, 2]
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


class Coarse(nn.Module):
    """The layer after which logits lie on so coarse a grid that they are often equal, as those in bfloat16 are."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.round().detach() + (logits - logits.detach())


class Shares:
    """A schedule that only writes down what share of the images reached each of six classes."""

    def __init__(self) -> None:
        self.finished = torch.zeros(6, dtype=torch.bool)
        self.seen: list[Tensor] = []

    def observe(self, active: Tensor, accuracy: Tensor, size: Tensor, shown: Tensor) -> None:
        self.seen.append(accuracy)


def test_success_does_not_depend_on_a_classs_number() -> None:
    """A tie went to the lower class, so that class 0 succeeded where class 5 did not."""
    images, budget = noise_images(64, (1, 6, 6), 6), Budget(3, 2, 16, 0.1, max_batch=32)
    weight = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0)) / 4

    def seen(order: Tensor) -> Tensor:
        linear = linear_classifier(weight[order], torch.zeros(6))
        network = nn.Sequential(linear.network, Coarse())
        model = Classifier(network, mean=[0.0], std=[1.0], head="0.1", stages=()).eval()
        shares = Shares()
        source = Masked(torch.full((6, 2, 6, 6), -1.0))
        invert(model, images, torch.arange(6), source, Trial.cross_entropy, shares, budget, 0)
        return torch.stack(shares.seen)

    forward, backward = seen(torch.arange(6)), seen(torch.arange(6).flip(0))
    assert forward.max() > 0
    torch.testing.assert_close(forward, backward.flip(1))


@pytest.mark.parametrize("label", [0, 2])
def test_a_class_that_ties_with_another_is_not_reached(label: int) -> None:
    black = Images(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6) % 3, 3)
    nothing = torch.zeros(3, 1, 2, 2)
    found = with_success(linear_classifier(nothing, torch.zeros(3)), RecoveredTriggers(nothing, nothing), black)
    assert found.success is not None
    assert found.success[label] == 0


def test_side_by_side_gives_what_one_after_another_gives() -> None:
    """Classes share a batch but no variable: each result is what its own search would give."""

    view = live_pixel_view(target=1, row=6, column=2)

    def search(max_batch: int) -> Tensor:
        budget = Budget(steps=30, batches=2, batch_size=16, lr=0.1, max_batch=max_batch)
        source, kept = Masked.uniform(6, view.clean, 0), Best(6, 0.9, torch.device("cpu"))
        loss = lambda trial: trial.cross_entropy() + 0.01 * trial.size  # noqa: E731
        return invert(view.model, view.clean, torch.arange(6), source, loss, kept, budget, 0)

    torch.testing.assert_close(search(16 * 6), search(16), atol=2e-2, rtol=0)


def watched(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *seen: 2 * seen[2])
    return layer


@pytest.mark.parametrize("architecture", [SmallCnn(width=4), ResNet18(width=8, blocks=(1, 1, 1, 1))])
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


@pytest.mark.parametrize("alter", [spectral_norm, parametrizations.spectral_norm, watched])
def test_freezing_leaves_layers_alone_that_do_more_than_they_say(alter: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(alter(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        for part in model.parameters():
            if part.ndim == 1:
                part.uniform_(1, 3)
    pixels = noise_images(8, (3, 16, 16), 5).floats()
    frozen = freeze(model)
    torch.testing.assert_close(frozen(pixels), model(pixels), atol=1e-4, rtol=1e-3)
    assert isinstance(frozen[1], nn.BatchNorm2d)
    assert isinstance(frozen[3], nn.Identity)


def test_of_successful_triggers_the_smallest_is_kept_not_the_latest() -> None:
    """backdoor-toolbox overwrote its best trigger with the latest successful one."""
    best = Best(1, 0.9, torch.device("cpu"))
    for accuracy, size in ((0.95, 3.0), (0.95, 5.0), (0.5, 1.0)):
        best.observe(torch.arange(1), torch.tensor([accuracy]), torch.tensor([size]), torch.full((1, 2, 1, 1), size))
    assert best.settle(torch.zeros(1, 2, 1, 1)).unique().tolist() == [3]


def test_a_trigger_that_never_succeeded_is_the_last_one_tried() -> None:
    best = Best(2, 0.9, torch.device("cpu"))
    best.observe(torch.arange(2), torch.tensor([1.0, 0.1]), torch.ones(2), torch.full((2, 2, 1, 1), 4.0))
    assert best.settle(torch.full((2, 2, 1, 1), 7.0))[:, 0].flatten().tolist() == [4, 7]
    assert Best(1, 0.9, torch.device("cpu")).settle(torch.ones(1, 2, 1, 1)).sum() == 2


def test_of_restarts_each_class_takes_its_own_smallest() -> None:
    shown = torch.arange(6.0).view(6, 1, 1, 1)
    kept = best_restart(shown, torch.tensor([5.0, 2, torch.inf, 4, 9, torch.inf]), 2)
    assert kept[:2].flatten().tolist() == [3, 1]


def test_restarts_never_give_a_larger_trigger() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    quick = NeuralCleanse(steps=80, batches=1, batch_size=16)
    once = quick.recover(view.model, view.clean, 0)[1]
    thrice = quick.model_copy(update={"restarts": 3}).recover(view.model, view.clean, 0)[1]
    assert once.shape == thrice.shape == (6,)
    assert (thrice.mean() <= once.mean() + 0.05).all()


def test_halving_gives_up_the_larger_masks_and_those_that_never_worked() -> None:
    settings = NeuralCleanse(steps=6, halvings=2, success=0.9)
    schedule = CostSchedule(settings, 5, torch.device("cpu"))
    every, accuracy = torch.arange(5), torch.tensor([1.0, 1.0, 1.0, 0.2, 0.6])
    sizes, shown = torch.tensor([30.0, 3.0, 20.0, 1.0, 2.0]), torch.zeros(5, 2, 1, 1)
    given_up = []
    for _ in range(6):
        schedule.observe(every, accuracy, sizes, shown)
        given_up.append(schedule.finished.nonzero().flatten().tolist())
    assert given_up == [[], [3, 4], [3, 4], [0, 3, 4], [0, 3, 4], [0, 3, 4]]


def test_halving_finds_the_planted_class_in_fewer_passes() -> None:
    view, seen = live_pixel_view(target=1, row=6, column=2), []
    view.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    whole = NeuralCleanse(steps=60, batches=1, batch_size=16)
    _, norms = whole.model_copy(update={"halvings": 2}).recover(view.model, view.clean, 0)
    passes, count = sum(seen), len(seen)
    whole.recover(view.model, view.clean, 0)
    assert int(norms.argmin()) == 1
    assert passes < 0.7 * sum(seen[count:])


def test_one_forward_pass_holds_no_more_images_than_allowed() -> None:
    view, seen = live_pixel_view(target=1, row=6, column=2), []
    view.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    NeuralCleanse(steps=3, batches=1, batch_size=16, max_batch=32).recover(view.model, view.clean, 0)
    assert max(seen) == 32
    assert sum(seen) == 3 * 16 * 6


def test_finished_candidates_leave_the_batch() -> None:
    view, seen = live_pixel_view(target=1, row=6, column=2), []
    kept = Best(6, 0.9, torch.device("cpu"))
    kept.finished[2:] = True
    view.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    source, budget = Masked.uniform(6, view.clean, 0), Budget(2, 1, 10, 0.1, max_batch=100)
    invert(view.model, view.clean, torch.arange(6), source, Trial.cross_entropy, kept, budget, 0)
    assert seen == [20, 20]


def test_a_mask_is_one_for_all_colours_and_its_size_is_the_l1_norm() -> None:
    """ART's mask has a value per colour, and its default norm is L2."""
    source = Masked.uniform(3, noise_images(4, (3, 5, 7), 3), 0)
    shown = source(torch.arange(3))
    assert shown.shape == (3, 4, 5, 7)
    assert shown.min() >= 0
    assert shown.max() <= 1
    torch.testing.assert_close(source.size(shown), shown[:, 0].flatten(1).norm(p=1, dim=1))
    white = torch.ones(1, 4, 5, 7)
    white[:, 0, :2] = 0
    stamped = source.stamp(torch.zeros(2, 3, 5, 7), white)
    assert stamped.shape == (1, 2, 3, 5, 7)
    assert stamped[..., :2, :].sum() == 0
    assert stamped[..., 2:, :].min() == 1


def test_searches_see_clean_images_as_they_are() -> None:
    """BackdoorBench searched on randomly cropped and mirrored images."""
    view, seen = live_pixel_view(target=1, row=6, column=2), []
    invisible = Masked(torch.full((6, 2, 8, 8), -20.0))
    view.model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    invert(
        view.model,
        view.clean,
        torch.arange(6),
        invisible,
        Trial.cross_entropy,
        Best(6, 2, torch.device("cpu")),
        Budget(1, 1, 20, 0.1, max_batch=20),
        0,
    )
    known = {pixels.numpy().tobytes() for pixels in view.clean.pixels}
    assert {(image * 255).round().to(torch.uint8).numpy().tobytes() for image in seen[0]} <= known


def test_held_out_images_are_not_searched_with() -> None:
    images = noise_images(50, (1, 6, 6), 5)
    searched, held_out = hold_out(images, 3)
    assert (len(searched), len(held_out)) == (40, 10)
    rows = [{pixels.numpy().tobytes() for pixels in part.pixels} for part in (searched, held_out)]
    assert not rows[0] & rows[1]
    assert len(hold_out(images.take(slice(2)), 0)[1]) == 1


def test_each_trigger_is_measured_against_its_own_class_on_images_of_others() -> None:
    """TrojanZoo measured every class's trigger against class 0."""
    weight = torch.zeros(3, 1, 2, 2)
    weight[1, 0, 0, 0] = weight[2, 0, 1, 1] = 10.0
    model = linear_classifier(weight, torch.tensor([1.0, 0, 0]))
    mask, pattern = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    mask[1, 0, 0, 0] = mask[2, 0, 0, 0] = 1
    black = Images(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 2, 2]), 3)

    def measured(held_out: Images) -> list[list[float]]:
        found = with_success(model, RecoveredTriggers(mask, pattern), held_out)
        assert found.success is not None
        assert found.held_out is not None
        return [found.success.tolist(), found.held_out.tolist()]

    assert measured(black.take(slice(1, None))) == [[1, 1, 0], [4, 3, 3]]
    assert measured(black.take(black.labels == 1)) == [[1, 0, 0], [2, 0, 2]]


def judged(sizes: list[float], success: list[float]) -> ModelVerdict:
    mask = torch.zeros(len(sizes), 1, 1, 1)
    return judge_by_size(torch.tensor(sizes), RecoveredTriggers(mask, mask, success=torch.tensor(success)), 2.0)


def test_of_equal_sizes_the_one_that_is_a_little_smaller_does_not_stand_out() -> None:
    verdict = judged([3.0] * 9 + [2.9], [1.0] * 10)
    assert verdict.suspect is None
    assert verdict.index == verdict.readouts["log"] == 0


SIZES = [8.0, 9.0, 8.5, 7.5, 9.5, 8.0, 7.0, 8.2, 9.1]


def test_a_trigger_that_does_not_work_makes_no_class_suspect_however_small_it_is() -> None:
    """A mask that collapsed reaches nothing; its size gave an index of 11.5."""
    assert judged([*SIZES, 0.01], [1.0] * 10).suspect == 9
    failed = judged([*SIZES, 0.01], [1.0] * 9 + [0.02])
    assert failed.suspect is None
    assert max(failed.index, *failed.readouts.values()) < 2
    assert scores_of(failed)[9] == -9.5
    planted = judged([0.01, *SIZES[1:], 1.0], [0.0] + [1.0] * 9)
    assert planted.suspect == int(scores_of(planted).argmax()) == 9


def test_a_working_trigger_stands_out_among_large_ones_that_do_not_work() -> None:
    verdict = judged([*SIZES, 0.5], [0.0] * 9 + [1.0])
    assert verdict.suspect == 9
    assert judged([0.01, *SIZES[1:], 0.5], [0.0] * 9 + [1.0]).suspect == 9


def test_where_no_trigger_works_nothing_stands_out() -> None:
    verdict = judged([*SIZES, 0.01], [0.0] * 10)
    assert verdict.suspect is None
    assert verdict.index == 0
    assert verdict.readouts == {"log": 0, "ratio": 1}


@pytest.mark.parametrize("inspector", [NeuralCleanse(steps=3), Tabor(steps=3), DeepInspect(epochs=1, channels=4)])
def test_in_a_model_that_tells_no_classes_apart_nothing_stands_out(
    inspector: NeuralCleanse | Tabor | DeepInspect,
) -> None:
    view = ModelView(linear_classifier(torch.zeros(6, 1, 8, 8), torch.zeros(6)), noise_images(60, (1, 8, 8), 6))
    verdict = inspector.defend(view, 0)
    assert verdict.suspect is None
    assert verdict.index == 0
    assert all(value == (name == "ratio") for name, value in verdict.readouts.items())


@pytest.mark.parametrize(
    ("norms", "works", "suspect"),
    [
        ([1e-3, 8, 8, 8, 9, 9], 5, None),
        ([1e-3, 8, 0.5, 8, 9, 9], 5, 2),
        ([1e-3] * 6, 0, None),
        ([1e-3] * 5 + [1], 1, 5),
    ],
)
def test_nor_does_it_against_reference_models(
    norms: list[float], works: int, suspect: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ``works`` classes have triggers that show their row alone; the others' show nothing."""
    shown = torch.zeros(6, 2, 8, 8)
    for label in range(6 - works, 6):
        shown[label, 0], shown[label, 1, label] = 1, 1
    monkeypatch.setattr(NeuralCleanse, "recover", lambda *_: (shown, torch.tensor(norms)))
    prepared = {REFERENCES: torch.tensor([[8.0] * 6, [9.0] * 6])}
    verdict = NeuralCleanse(reference=2).defend(replace(live_pixel_view(2, 7, 5), prepared=prepared), 0)
    assert verdict.suspect == suspect
    assert (verdict.index > 3) == (suspect is not None)


def test_what_is_added_is_clamped_and_what_is_masked_is_blended() -> None:
    mask, pattern = torch.full((2, 1, 1, 1), 0.5), torch.ones(2, 1, 1, 1)
    pixels = torch.tensor([[[[0.4]]]])
    assert RecoveredTriggers(mask, pattern).stamp(pixels, 1).item() == pytest.approx(0.7)
    added = RecoveredTriggers(mask, pattern, torch.tensor([-0.9, 0.3]).view(2, 1, 1, 1))
    assert [added.stamp(pixels, label).item() for label in (0, 1)] == pytest.approx([0, 0.7])


def test_the_regularisers_count_in_levels_and_in_both_directions() -> None:
    """TrojanZoo took weights tuned for 0 to 255 on 0 to 1; another code's smoothness saw one direction alone."""
    values = torch.zeros(2, 1, 3, 3)
    values[0, 0, 1, 1] = 1.0
    assert elastic_net(values).tolist() == [255 + 255**2, 0]
    assert roughness(values).tolist() == [4 * 255**2, 0]
    stripes = torch.tensor([[0.0, 1, 0]]).expand(3, 3).view(1, 1, 3, 3)
    assert roughness(stripes).item() == roughness(stripes.mT).item() == 6 * 255**2


def test_a_regulariser_of_weight_zero_costs_no_forward_pass() -> None:
    view, seen = live_pixel_view(target=1, row=6, column=2), []
    view.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))

    def passes(settings: Tabor) -> int:
        seen.clear()
        invert(
            view.model,
            view.clean,
            torch.arange(6),
            Masked.uniform(6, view.clean, 0),
            settings.loss,
            Best(6, 2, torch.device("cpu")),
            Budget(2, 1, 8, 0.1, max_batch=48),
            0,
        )
        return sum(seen)

    assert passes(Tabor(overlaying=0.0)) == 2 * 48
    assert passes(Tabor()) == 2 * (48 + 6)
    assert passes(Tabor(blocking=1.0, overlaying=0.0)) == 2 * 2 * 48


def test_tabor_returns_the_one_live_pixel_and_its_quality_is_best() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    verdict = Tabor(steps=150, batches=1, batch_size=32, lr=0.1).defend(view, 0)
    assert int(scores_of(verdict).argmax()) == 2
    assert verdict.triggers is not None
    assert int(verdict.triggers.mask[2, 0].argmax()) == 7 * 8 + 5
    assert int(trigger_quality(view.model, verdict.triggers, view.clean).argmin()) == 2


@pytest.mark.parametrize("inspector", [QUICK_CLEANSE, Tabor(steps=3, batches=1)])
def test_the_smallest_trigger_that_worked_is_scored_not_where_the_search_ended(
    inspector: NeuralCleanse | Tabor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*arguments: Any) -> Tensor:
        schedule, found = arguments[5], torch.arange(1.0, 7).view(6, 1, 1, 1) / 64
        for accuracy, factor in ((1.0, 3.0), (1.0, 1.0), (1.0, 2.0), (0.5, 0.5)):
            shown = (found * factor).expand(6, 2, 8, 8)
            schedule.observe(torch.arange(6), torch.full((6,), accuracy), shown[:, 0].sum((1, 2)), shown)
        return torch.full((6, 2, 8, 8), 0.9)

    def working(_: object, triggers: RecoveredTriggers, *__: object) -> RecoveredTriggers:
        return replace(triggers, success=torch.ones(6))

    monkeypatch.setattr(f"{type(inspector).__module__}.invert", search)
    monkeypatch.setattr(f"{type(inspector).__module__}.with_success", working)
    verdict = inspector.defend(live_pixel_view(target=2, row=7, column=5), 0)
    assert verdict.triggers is not None
    sizes = [1, 2, 3, 4, 5, 6]
    assert verdict.triggers.mask.sum((1, 2, 3)).tolist() == pytest.approx(sizes)
    assert verdict.triggers.pattern.sum((1, 2, 3)).tolist() == pytest.approx(sizes)
    assert (-scores_of(verdict)).tolist() == pytest.approx(sizes)


def test_tabors_loss_term_by_term() -> None:
    """λ2 and λ4 are of (1 − m) ⊙ p: what lies under the mask is the trigger, and costs nothing.

    λ5 asks for the true class where the trigger is blocked out, λ6 for the target of the trigger alone.
    """
    mask, pattern, pixels = torch.zeros(3, 1, 1, 2, 2).unbind(0)
    mask[..., 0, 0], mask[..., 1, 1] = 1.0, 0.25
    pattern[..., 0, 0], pattern[..., 1, 1] = 1.0, 0.8
    pixels[..., 0, 0], pixels[..., 1, 1] = 1.0, 0.4
    logits = torch.zeros(1, 1, 3)
    trial = Trial(
        torch.arange(1),
        torch.tensor([2]),
        torch.cat([mask, pattern], 1),
        mask.sum((1, 2, 3)),
        pixels,
        torch.tensor([0]),
        logits,
        {},
        # Class 0 is lit as the first pixel is, class 2 as the last.
        lambda stamped: stamped.flatten(2)[..., [0, 1, 3]],
    )
    free = Tabor(mask_size=0, pattern_size=0, mask_smoothness=0, pattern_smoothness=0, overlaying=0)
    plain, outside = free.loss(trial), 0.75 * 0.8
    assert plain.item() == pytest.approx(math.log(3))

    def cost(**weights: float) -> float:
        return (free.model_copy(update=weights).loss(trial) - plain).item()

    assert cost(pattern_size=1e-3) == pytest.approx(1e-3 * (255 * outside + (255 * outside) ** 2), rel=1e-4)
    assert cost(pattern_smoothness=1e-3) == pytest.approx(1e-3 * 2 * (255 * outside) ** 2, rel=1e-4)
    assert cost(mask_size=1e-3) == pytest.approx(1e-3 * (255 * 1.25 + 255**2 * (1 + 0.25**2)), rel=1e-4)
    assert cost(mask_smoothness=1e-3) == pytest.approx(1e-3 * 255**2 * 2 * (1 + 0.25**2), rel=1e-4)
    blocked, alone = 0.75 * 0.4, (1.0, 0.25 * 0.8)
    assert cost(blocking=0.5) == pytest.approx(0.5 * math.log(2 + math.exp(blocked)), rel=1e-4)
    total = math.exp(alone[0]) + 1 + math.exp(alone[1])
    assert cost(overlaying=0.5) == pytest.approx(0.5 * (math.log(total) - alone[1]), rel=1e-4)


def test_tabors_quality_is_the_same_in_passes_of_any_size_and_honours_the_largest() -> None:
    random = torch.Generator().manual_seed(0)
    model, images = SmallCnn(width=4).build((1, 16, 16), 3, 0).eval(), noise_images(30, (1, 16, 16), 3)
    sizes: list[int] = []

    def quality(max_batch: int | None) -> Tensor:
        mask, pattern = torch.rand(2, 3, 1, 16, 16, generator=random.manual_seed(0)) ** 4
        triggers = RecoveredTriggers(mask, pattern, success=torch.tensor([0.9, 0.2, 1.0]))
        return trigger_quality(model, triggers, images, max_batch)

    whole = quality(None)
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(quality(7), whole)
    assert max(sizes) == 7
    assert sum(sizes) == 3 * (20 + 1)


def test_a_reference_model_is_another_one_trained_on_the_clean_images(task: Task, benign: Classifier) -> None:
    first, second = reference_models(benign, task.holdout, 2, 0)
    assert not torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, benign.head.weight)
    own = (first(task.holdout.floats()).argmax(1) == task.holdout.labels).float().mean()
    other = (first(task.test.floats()).argmax(1) == task.test.labels).float().mean()
    assert own > 0.95
    assert other > 0.7


def test_against_reference_models_the_planted_class_stands_out_by_far() -> None:
    class OneLayer(Architecture):
        """The network of the view: one linear layer."""

        name = "one_layer"

        def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> Classifier:
            return linear_classifier(torch.zeros(classes, *shape), torch.zeros(classes))

    view = live_pixel_view(target=2, row=7, column=5)
    cleanse = QUICK_CLEANSE.model_copy(update={"reference": 2, "steps": 60})
    prepared = cleanse.prepare(Materials(view.clean, FromScratch(OneLayer(), StandardRecipe())), 0)
    verdict = cleanse.defend(replace(view, prepared=prepared), 0)
    assert verdict.suspect == int(scores_of(verdict).argmax()) == 2
    assert verdict.index == scores_of(verdict)[2] > 10


def test_the_spread_of_reference_models_is_the_unbiased_one_pooled_over_the_classes() -> None:
    """With two models the biased variance is half of it, and every class would stand out by √2 more."""
    logs = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    pooled = ((2 + 8) / 2) ** 0.5
    scores = against_references(torch.tensor([-3.0, 3.0]).exp(), logs.exp())
    assert scores.tolist() == pytest.approx([(1 + 3) / pooled, 0])


def test_one_reference_model_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        NeuralCleanse(reference=1)


class StrongUnit(nn.Module):
    """Two channels: an image's light, and a unit that wakes above 0.9, which no clean image reaches."""

    def __init__(self, classes: int, side: int, target: int):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
        self.flatten = nn.Flatten()
        self.head = nn.Linear(2 * side * side, classes)
        with torch.no_grad():
            convolution = self.stage[0]
            assert isinstance(convolution, nn.Conv2d)
            convolution.weight.copy_(torch.tensor([1.0, 10.0]).view(2, 1, 1, 1))
            assert convolution.bias is not None
            convolution.bias.copy_(torch.tensor([0.0, -9.0]))
            weight = torch.zeros(classes, 2, side, side)
            for label in range(classes):
                weight[label, 0, label] = 3.0
            weight[target, 1] = 20.0
            self.head.weight.copy_(weight.flatten(1))
            self.head.bias.zero_()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(self.stage(pixels)))
        return logits


def strong_unit_view(target: int) -> ModelView:
    network = StrongUnit(6, 8, target)
    model = Classifier(network, mean=[0.0], std=[1.0], head="head", stages=("stage",)).eval()
    return ModelView(model, live_pixel_view(target, 7, 5).clean)


QUICK_ABS = Abs(steps=60, batch_size=16, samples=2, size_weights=(0.01, 0.1, 0.1))


def test_abs_finds_the_planted_strong_unit_and_its_class() -> None:
    view = strong_unit_view(target=4)
    (unit,) = Stimulation(2, 2, 1.0, 5, 0.75).all_units(view.model, view.clean, 0)
    assert (unit.stage, unit.channel, unit.label) == ("stage", 1, 4)
    assert QUICK_ABS.choose([Unit("stage", 0, 4, unit.margin / 2), unit]) == [unit]
    verdict = QUICK_ABS.defend(view, 0)
    assert verdict.suspect == 4
    assert verdict.index == scores_of(verdict)[4] == 1
    assert verdict.triggers is not None
    assert (verdict.triggers.mask[4] > 0.5).sum() == 1
    assert scores_of(verdict)[[0, 1, 2, 3, 5]].max() < 0.8


def test_the_loss_of_abs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighed size and cross-entropy, minus what the unit fires beyond a little of what the others of its stage do."""
    view, losses = strong_unit_view(target=4), []
    monkeypatch.setattr("gifthorse.defenses.inspection.abs.invert", lambda *arguments: losses.append(arguments[4]))
    settings = Abs(steps=2, max_size=2 / 64, others_weight=0.5, class_weight=3.0)
    settings.invert(view.model, view.clean, [Unit("stage", 1, 4, 1.0)] * 3, 0)
    sizes, logits = torch.tensor([2.0, 3.0, 13.0]), torch.zeros(3, 2, 6)
    maps = torch.tensor([0.25, 0.75]).view(1, 1, 2, 1, 1).expand(3, 2, 2, 8, 8)
    candidates, targets = torch.arange(3), torch.full((3,), 4)
    trial = Trial(candidates, targets, maps, sizes, maps[0, :, :1], targets[:2], logits, {"stage": maps}, lambda _: _)
    expected = torch.tensor([0.1, 10.0, 100.0]) * sizes + 3 * math.log(6) - (0.75 - 0.5 * 0.25)
    assert len(losses) == 2
    for loss in losses:
        torch.testing.assert_close(loss(trial), expected)


def test_abs_suspects_no_class_without_such_a_unit() -> None:
    view = strong_unit_view(target=4)
    head = view.model.head
    with torch.no_grad():
        head.weight[4, 64:] = 0
    verdict = QUICK_ABS.defend(view, 0)
    assert verdict.suspect is None
    assert verdict.index < 0.8


def test_a_unit_that_changes_no_logit_lifts_no_class() -> None:
    """Of classes that gain the same the first counted as the one that is lifted."""
    view = strong_unit_view(target=4)
    with torch.no_grad():
        view.model.head.weight[:, 64:] = 0
    found = Stimulation(1, 2, 1.0, 5, 0.75).units(view.model, "stage", view.clean)
    assert [unit.channel for unit in found if unit.margin == 0 or unit.channel == 1] == []


def test_the_strongest_units_are_kept_one_of_each_class_and_stage() -> None:
    """TrojanZoo sorted them the other way and kept the weakest."""
    units = [Unit("stage", number, number, float(number)) for number in range(1, 31)]
    kept = Abs(candidates=5).choose([*units, Unit("stage", 99, 30, 29.5), Unit("other", 98, 30, 1.5)])
    assert [unit.margin for unit in kept] == [30, 29, 28, 27, 26]


@torch.no_grad()
def test_stimulating_many_units_at_once_gives_what_one_after_another_gives(task: Task, benign: Classifier) -> None:
    images = task.holdout.take(slice(12))
    found = {unit.channel: unit for unit in Stimulation(1, 5, 1.0, 2, 0.5).units(benign, "stage2", images)}
    assert len(found) > 3
    maps = benign.stage("stage2", images.floats()).detach()
    for channel, unit in found.items():
        logits = []
        for value in (0, maps.max() / 2, maps.max()):
            changed = maps.clone()
            changed[:, channel] = value
            logits.append(benign.continue_from("stage2", changed, images.floats()[:1]))
        gain = torch.maximum(logits[1], logits[2]) - logits[0]
        gain[torch.arange(12), images.labels] = -torch.inf
        agreeing = [row for row, label in zip(gain, images.labels, strict=True) if label != unit.label]
        agreeing = [row for row in agreeing if int(row.argmax()) == unit.label]
        margins = [float(row.topk(2).values.diff().abs()) for row in agreeing]
        assert unit.margin == pytest.approx(min(margins), rel=0.1, abs=0.2)


@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_going_on_from_a_stage_gives_what_the_whole_network_gives(stage: str, task: Task, benign: Classifier) -> None:
    pixels = task.test.floats()[:6]
    answers = benign.continue_from(stage, benign.stage(stage, pixels), pixels[:1])
    torch.testing.assert_close(answers, benign(pixels))


def test_abs_says_which_classes_have_no_images() -> None:
    view = strong_unit_view(target=4)
    lacking = ModelView(view.model, view.clean.take((view.clean.labels != 2) & (view.clean.labels != 5)))
    assert str(Abs().skip(lacking)).endswith("none of class 2, 5")
    assert Abs().skip(view) is None
    assert "stages" in str(Abs().skip(live_pixel_view(1, 7, 5)))


@pytest.mark.parametrize("inspector", [NeuralCleanse(), Tabor(), Abs()])
def test_inspectors_say_what_they_cannot_judge(inspector: NeuralCleanse | Tabor | Abs) -> None:
    view = strong_unit_view(target=4)
    wrong = Images(torch.zeros(24, 3, 5, 5, dtype=torch.uint8), torch.arange(24) % 6, 6)
    assert "cannot take images of 3×5×5" in str(inspector.skip(ModelView(view.model, wrong)))
    broken = view.model.clone()
    assert broken.head.bias is not None
    with torch.no_grad():
        broken.head.weight[0] = torch.nan
    assert "not finite" in str(inspector.skip(ModelView(broken, view.clean)))
    fewer = Images(view.clean.pixels, view.clean.labels % 5, 5)
    assert "of 5 classes, the model knows 6" in str(inspector.skip(ModelView(view.model, fewer)))
    two = SmallCnn(width=2, embedding=4).build((1, 8, 8), 2, 0).eval()
    assert "at least 3 classes" in str(inspector.skip(ModelView(two, noise_images(20, (1, 8, 8), 2))))


def test_watched_maps_belong_to_their_candidates() -> None:
    model = SmallCnn(width=2, embedding=4).build((1, 8, 8), 4, 0).eval()
    pixels = noise_images(6, (1, 8, 8), 4).floats()
    with watching(freeze(model), ["stage2"]) as run:
        logits, maps = run(pixels.view(2, 3, 1, 8, 8))
    torch.testing.assert_close(maps["stage2"][1], model.stage("stage2", pixels[3:]), atol=0.05, rtol=0.05)
    torch.testing.assert_close(logits[1], model(pixels[3:]), atol=0.05, rtol=0.05)
