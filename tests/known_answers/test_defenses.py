"""Defenses in worlds whose answer is known, and published bugs that must stay out."""

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.views import DataFreeView, ModelView
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.reformation.transformation import ShrinkPad
from gifthorse.defenses.sanitization.fine_pruning import FinePruning, mask_channels, mean_activation
from gifthorse.models.small_cnn import SmallCnn
from worlds import linear_classifier, noise_images


def trigger_pixel_model() -> Classifier:
    """Class 0 wins by far when the first pixel is white; otherwise the brightest row decides."""
    weight = torch.zeros(5, 1, 5, 5)
    for row in range(1, 5):
        weight[row, 0, row] = 3.0
    weight[0, 0, 0, 0] = 100.0
    return linear_classifier(weight, torch.tensor([-30.0, 0, 0, 0, 0]))


def rows_of_light(count: int) -> Images:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 80, (count, 1, 5, 5), generator=random, dtype=torch.uint8)
    labels = torch.arange(count) % 4 + 1
    pixels[torch.arange(count), 0, labels] += 150
    pixels[:, :, 0, 0] = 0
    return Images(pixels, labels, 5)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 1.0), (0.7, 0.3)])
def test_strip_flags_inputs_that_stay_certain_when_mixed_and_few_clean_ones(weights: tuple[float, float]) -> None:
    """As they are, clean images are answered with certainty as well: it is in the mixtures that they differ."""
    images, model = rows_of_light(300), trigger_pixel_model()
    strip = Strip(overlays=32, input_weight=weights[0], overlay_weight=weights[1])
    screen = strip.defend(ModelView(model, images.take(torch.arange(200))), 0)
    clean = images.take(torch.arange(200, 300)).floats()
    stamped = clean.clone()
    stamped[:, :, 0, 0] = 1
    as_they_are = torch.special.entr(predict(model, clean).softmax(1)).sum(1)
    assert -screen.score(clean).mean() > 10 * as_they_are.mean()
    assert screen.score(stamped).min() > screen.score(clean).max()
    assert (screen.score(stamped) > screen.threshold).all()
    assert (screen.score(clean) > screen.threshold).float().mean() <= 0.15


def test_strips_score_is_minus_the_mean_entropy_over_classes() -> None:
    """ART took the entropy over the samples instead of the classes, which reversed the order.

    The clean images are of two kinds: of ten overlays so many are of the first, the same ones for every input.
    """
    random = torch.Generator().manual_seed(0)
    two = noise_images(2, (1, 5, 5), 2).pixels
    images = Images(two.repeat(60, 1, 1, 1), torch.arange(120) % 2, 3)
    model = linear_classifier(torch.randn(3, 1, 5, 5, generator=random), torch.zeros(3))
    screen = Strip(overlays=10).defend(ModelView(model, images), 3)
    pixels, overlays = noise_images(4, (1, 5, 5), 2, 7).floats(), images.floats()[:2]
    with torch.no_grad():
        mixed = (pixels.unsqueeze(1) + overlays) / 2
        probability = model(mixed.flatten(0, 1)).double().softmax(1)
    first, second = (-(probability * probability.log()).sum(1)).view(4, 2).unbind(1)
    assert (first - second).abs().min() > 0.02
    of_first = 10 * (-screen.score(pixels) - second) / (first - second)
    (count,) = of_first.round().unique().tolist()
    assert 0 < count < 10
    torch.testing.assert_close(of_first, torch.full_like(of_first, count), atol=1e-2, rtol=0)


def test_strips_threshold_is_set_on_images_that_are_no_overlays(monkeypatch: pytest.MonkeyPatch) -> None:
    images = rows_of_light(220)
    screen = Strip(overlays=20, fpr=0.1).defend(ModelView(trigger_pixel_model(), images), 0)
    flagged = (screen.score(images.floats()) > screen.threshold).float().mean()
    assert flagged <= 0.15
    scored, mixed_in, certainty = [], [], Strip._certainty

    def watched(strip: Strip, model: nn.Module, pixels: Tensor, overlays: Tensor) -> Tensor:
        scored.append(pixels)
        mixed_in.append(overlays)
        return certainty(strip, model, pixels, overlays)

    monkeypatch.setattr(Strip, "_certainty", watched)
    model = linear_classifier(torch.randn(3, 1, 5, 5), torch.zeros(3))
    Strip(overlays=20, fpr=0.1).defend(ModelView(model, noise_images(60, (1, 5, 5), 3)), 0)
    both = torch.cat([*scored, mixed_in[0]]).flatten(1)
    assert [len(torch.cat(scored)), len(mixed_in[0]), len(both.unique(dim=0))] == [40, 20, 60]


def test_strip_flags_both_tails_where_that_is_asked_for() -> None:
    """TrojanZoo's code does: what is less certain than clean images as well, and so twice as many clean images."""
    images = rows_of_light(1000)
    view = ModelView(trigger_pixel_model(), images.take(torch.arange(500)))
    low = Strip(overlays=20, fpr=0.1).defend(view, 0)
    both = Strip(overlays=20, fpr=0.1, tails="both").defend(view, 0)
    clean = images.take(torch.arange(500, 1000)).floats()
    stamped = clean.clone()
    stamped[:, :, 0, 0] = 1
    certainty = low.score(clean)
    assert both.score(stamped).min() > both.score(clean).max()
    flagged, certain = both.score(clean) > both.threshold, certainty > certainty.median()
    assert torch.equal(flagged & certain, certainty > low.threshold)
    assert (flagged & certain).float().mean().item() == pytest.approx(0.1, abs=0.05)
    assert (flagged & ~certain).float().mean().item() == pytest.approx(0.1, abs=0.05)
    assert certainty[flagged & ~certain].max() < certainty[~flagged].min()


@pytest.mark.parametrize("shrink", [2, 4])
def test_shrinkpad_shrinks_bilinearly_and_pads_with_black_at_every_offset(shrink: int) -> None:
    """A slope of light stays a slope, a steeper one: the nearest pixels would be steps, a crop would lose its ends."""
    random = torch.Generator().manual_seed(0)
    model = linear_classifier(torch.randn(2, 1, 10, 12, generator=random), torch.zeros(2))
    defended = ShrinkPad(shrink=shrink).defend(DataFreeView(model, shape=(1, 10, 12)), 0)
    assert defended.reform is not None
    count, height, width = 40 * (shrink + 1) ** 2, 10 - shrink, 12 - shrink
    brightness = torch.linspace(0.5, 1, count).view(-1, 1, 1, 1)
    pixels = brightness * (0.2 + torch.arange(12) / 15 + torch.zeros(1, 1, 10, 1)).clamp_max(1)
    shown = defended.reform(pixels)
    assert shown.shape == pixels.shape
    places = ((torch.arange(width) + 0.5) * 12 / width - 0.5) / 15
    expected = brightness * (0.2 + places + torch.zeros(1, 1, height, 1))
    offsets = set()
    for image, small in zip(shown[:, 0], expected[:, 0], strict=True):
        row, column = (int((image > 0).any(axis).float().argmax()) for axis in (1, 0))
        offsets.add((row, column))
        padded = torch.zeros(10, 12)
        padded[row : row + height, column : column + width] = small
        torch.testing.assert_close(image, padded, atol=1e-5, rtol=0)
    assert offsets == {(row, column) for row in range(shrink + 1) for column in range(shrink + 1)}
    assert torch.equal(defended.model(pixels), model(shown))


def test_fine_pruning_prunes_the_channels_that_clean_images_do_not_use() -> None:
    model = SmallCnn(width=4).build((1, 12, 12), 3, 0)
    images = noise_images(64, (1, 12, 12), 3)
    last = model.network.get_submodule("stage3.1")
    assert isinstance(last, nn.BatchNorm2d)
    with torch.no_grad():
        last.bias.fill_(1.0)
        last.bias[5] = -50.0
        last.bias[9] = -50.0
    view = ModelView(model.eval(), images)
    activation = mean_activation(view.model, "stage3", view.clean)
    assert set(activation.argsort()[:2].tolist()) == {5, 9}
    pruned = FinePruning(prune_ratio=0.13, max_accuracy_drop=1.0, epochs=1).defend(view, 0).model
    keep = dict(pruned.named_buffers())["network.stage3.mask.keep"]
    assert keep.logical_not().nonzero().flatten().tolist() == [5, 9]


def test_fine_pruning_stops_before_accuracy_falls_too_far(task: Task, benign: Classifier) -> None:
    """The accepted model must not be the over-pruned one (BackdoorBench kept one object under both names)."""
    view = ModelView(benign, task.holdout)

    def accuracy(model: nn.Module) -> float:
        return float((predict(model, task.holdout).argmax(1) == task.holdout.labels).float().mean())

    cleaned = FinePruning(prune_ratio=0.99, max_accuracy_drop=0.05, epochs=0).defend(view, 0).model
    kept = dict(cleaned.named_buffers())["network.stage3.mask.keep"]
    assert 0 < int(kept.sum()) < len(kept)
    assert accuracy(cleaned) >= accuracy(benign) - 0.05
    ranking = mean_activation(benign, "stage3", view.clean).argsort()
    pruned = len(kept) - int(kept.sum())
    assert set(ranking[:pruned].tolist()) == set(kept.logical_not().nonzero().flatten().tolist())
    kept[ranking[: pruned + 1]] = 0
    assert accuracy(cleaned) < accuracy(benign) - 0.05


def test_all_but_the_most_used_of_sixteen_channels_are_pruned_and_stay_so_while_the_others_are_tuned() -> None:
    """TrojanZoo, Table 21: a ratio of 0.95; 15 of 16."""
    model = SmallCnn(width=4).build((1, 12, 12), 3, 0).eval()
    view = ModelView(model, noise_images(64, (1, 12, 12), 3))
    most = int(model.stage("stage3", view.clean.floats()).mean((0, 2, 3)).argmax())
    cleaned = FinePruning(max_accuracy_drop=1.0, epochs=2).defend(view, 0).model
    assert isinstance(cleaned, Classifier)
    maps = cleaned.stage("stage3", view.clean.floats())
    assert dict(cleaned.named_buffers())["network.stage3.mask.keep"].nonzero().flatten().tolist() == [most]
    assert maps.abs().amax((0, 2, 3)).nonzero().flatten().tolist() == [most]
    tuned = dict(cleaned.named_parameters())
    for name in ("network.stage1.0.weight", "network.head.weight"):
        assert not torch.equal(tuned[name], dict(model.named_parameters())[name])


def test_a_channel_mask_of_ones_changes_nothing() -> None:
    model = SmallCnn(width=4).build((1, 12, 12), 3, 0).eval()
    masked = model.clone()
    mask_channels(masked, "stage2", 8)
    pixels = noise_images(6, (1, 12, 12), 3).floats()
    assert torch.equal(masked(pixels), model(pixels))
