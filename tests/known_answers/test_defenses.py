"""Defenses in worlds whose answer is known, and published bugs that must stay out."""

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.views import DataFreeView, ModelView
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.reformation.shrinkpad import ShrinkPad
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


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 0.3)])
def test_strip_gives_a_stamped_input_lower_entropy_hence_a_higher_score(weights: tuple[float, float]) -> None:
    images = rows_of_light(300)
    strip = Strip(overlays=32, input_weight=weights[0], overlay_weight=weights[1])
    screen = strip.defend(ModelView(trigger_pixel_model(), images.take(torch.arange(200))), 0)
    clean = images.take(torch.arange(200, 300)).floats()
    stamped = clean.clone()
    stamped[:, :, 0, 0] = 1
    assert screen.score(stamped).min() > screen.score(clean).max()
    assert (screen.score(stamped) > screen.threshold).all()


def test_strips_score_is_minus_the_mean_entropy_over_classes() -> None:
    """ART took the entropy over the samples instead of the classes, which reversed the order."""
    images, model = rows_of_light(100), trigger_pixel_model()
    screen = Strip(overlays=10, clip=False).defend(ModelView(model, images), 3)
    overlays = [images.floats()[i] for i in range(100)]
    pixels = images.floats()[:2]

    @torch.no_grad()
    def entropy(mixed: Tensor) -> Tensor:
        entropies: Tensor = torch.special.entr(model(mixed).softmax(1)).sum(1)
        return entropies

    lowest = min(float(entropy(0.5 * pixels[:1] + 0.5 * overlay)) for overlay in overlays)
    highest = max(float(entropy(0.5 * pixels[:1] + 0.5 * overlay)) for overlay in overlays)
    assert -highest <= float(screen.score(pixels)[0]) <= -lowest


def test_strips_threshold_is_set_on_images_that_are_no_overlays() -> None:
    images = rows_of_light(220)
    screen = Strip(overlays=20, fpr=0.1).defend(ModelView(trigger_pixel_model(), images), 0)
    flagged = (screen.score(images.floats()) > screen.threshold).float().mean()
    assert flagged <= 0.15


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


def test_shrinkpad_keeps_the_image_whole_on_black_at_every_offset() -> None:
    model = linear_classifier(torch.zeros(2, 1, 10, 10), torch.zeros(2))
    reform = ShrinkPad(shrink=2).defend(DataFreeView(model, shape=(1, 10, 10)), 0).reform
    assert reform is not None
    white = noise_images(500, (1, 10, 10), 2).floats() * 0.2 + 0.8
    shrunk = reform(white)
    assert shrunk.shape == white.shape
    lit = (shrunk > 0.5).squeeze(1)
    assert (lit.flatten(1).sum(1) == 64).all()
    offsets = {(int(image.any(1).float().argmax()), int(image.any(0).float().argmax())) for image in lit}
    assert offsets == {(row, column) for row in range(3) for column in range(3)}


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
    activation = mean_activation(view.model, "stage3", view)
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
    ranking = mean_activation(benign, "stage3", view).argsort()
    pruned = len(kept) - int(kept.sum())
    assert set(ranking[:pruned].tolist()) == set(kept.logical_not().nonzero().flatten().tolist())
    kept[ranking[: pruned + 1]] = 0
    assert accuracy(cleaned) < accuracy(benign) - 0.05


def test_pruned_channels_stay_pruned_while_fine_tuning() -> None:
    model = SmallCnn(width=4).build((1, 12, 12), 3, 0).eval()
    view = ModelView(model, noise_images(64, (1, 12, 12), 3))
    cleaned = FinePruning(max_accuracy_drop=1.0, epochs=2).defend(view, 0).model
    assert isinstance(cleaned, Classifier)
    maps = cleaned.stage("stage3", view.clean.floats())
    dead = dict(cleaned.named_buffers())["network.stage3.mask.keep"] == 0
    assert dead.sum() == 15
    assert maps[:, dead].abs().max() == 0


def test_a_channel_mask_of_ones_changes_nothing() -> None:
    model = SmallCnn(width=4).build((1, 12, 12), 3, 0).eval()
    masked = model.clone()
    mask_channels(masked, "stage2", 8)
    pixels = noise_images(6, (1, 12, 12), 3).floats()
    assert torch.equal(masked(pixels), model(pixels))
