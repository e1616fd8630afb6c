"""Sanitizers in worlds whose answer is known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.recipe import Recipe
from gifthorse.core.views import ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.sanitization import fine_pruning
from gifthorse.defenses.sanitization.adversarial_retraining import AdversarialRetraining
from gifthorse.defenses.sanitization.fine_pruning import FinePruning
from gifthorse.defenses.sanitization.finetuning import Finetuning
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training import finetuning
from worlds import linear_classifier, noise_images


def small_view(count: int = 64, classes: int = 3) -> ModelView:
    model = SmallCnn(width=4).build((1, 12, 12), classes, 0).eval()
    return ModelView(model, noise_images(count, (1, 12, 12), classes))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Images, Recipe]]:
    """What the common loop is asked to train on, and by which recipe; nothing is trained."""
    asked: list[tuple[Images, Recipe]] = []

    def fit(_: nn.Module, images: Images, recipe: Recipe, seed: int, **__: Any) -> None:
        asked.append((images, recipe))

    monkeypatch.setattr(finetuning, "fit", fit)
    return asked


@pytest.mark.parametrize("request_", ["finetuning", "fp_dhbe"])
@pytest.mark.parametrize(("clean", "least", "most"), [(20, 100, 100), (1500, 1, 2), (2400, 1, 1)])
def test_an_epoch_is_2000_samples_and_the_rate_falls_twice(
    request_: str, clean: int, least: int, most: int, trainings: list[tuple[Images, Recipe]]
) -> None:
    """DHBE, appendix C (a): fewer images are repeated; momentum alone."""
    view = small_view(clean)
    DEFENSES.build(request_).defend(view, 0)
    ((images, recipe),) = trainings
    assert len(images) == max(clean, 2000)
    same = (images.pixels[:, None] == view.clean.pixels[None, :8]).flatten(2).all(2).sum(0)
    assert least <= int(same.min()) <= int(same.max()) <= most
    settings = (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum, recipe.nesterov, recipe.schedule)
    assert settings == (20, 64, 0.01, 0.9, False, (10, 15))


def test_fine_tuning_trains_every_layer_on_the_labels_of_the_clean_images() -> None:
    """A network that knows nothing learns them by heart."""
    view = small_view(24)
    cleaned = Finetuning(epochs=12, schedule="cosine", samples=100, batch_size=20, lr=0.05).defend(view, 0).model
    assert (predict(view.model, view.clean).argmax(1) == view.clean.labels).float().mean() < 0.6
    assert (predict(cleaned, view.clean).argmax(1) == view.clean.labels).float().mean() > 0.9
    tuned = dict(cleaned.named_parameters())
    assert [name for name, before in view.model.named_parameters() if torch.equal(tuned[name], before)] == []


@pytest.mark.parametrize("cls", [Finetuning, AdversarialRetraining])
def test_four_images_are_enough_to_tune_on_and_three_are_refused(
    cls: type[Finetuning] | type[AdversarialRetraining],
) -> None:
    settings = cls.from_dict({"epochs": 2, "schedule": "cosine"})
    view = small_view(4)
    assert settings.skip(view) is None
    assert predict(settings.defend(view, 0).model, view.clean).isfinite().all()
    assert settings.skip(small_view(3)) == "needs 4 clean images to tune on; there are 3"


@pytest.mark.parametrize(
    "request_", ["finetuning", "adversarial_retraining", "fine_pruning", "nc_unlearning", "nad", "gdm", "mcr"]
)
def test_a_class_that_no_clean_image_is_of_would_be_unlearnt(request_: str) -> None:
    view = small_view(60)
    given = replace(view, clean=view.clean.take(view.clean.labels != 1))
    defense = DEFENSES.build(request_)
    assert defense.skip(view) is None
    assert defense.skip(given) == "needs clean images of every class to tune on; there are none of 1"
    assert FinePruning(epochs=0).skip(given) is None


def strong_and_faint(count: int) -> Images:
    """One pixel tells the class by 100 levels; a hundred others tell it by three levels each."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    pixels = torch.randint(110, 116, (count, 1, 11, 11), generator=random, dtype=torch.uint8)
    pixels[:, 0, 1:] += (3 * labels).view(-1, 1, 1).to(torch.uint8)
    pixels[:, 0, 0, 0] = (80 + 100 * labels).to(torch.uint8)
    return Images(pixels, labels, 2)


def test_retraining_against_an_adversary_turns_to_what_a_small_change_cannot_hide() -> None:
    """Both kinds of pixels tell the class; against steps within 8/255 the many faint ones are worth nothing."""
    images = strong_and_faint(200)
    weight = torch.zeros(2, 1, 11, 11)
    weight[1, 0, 1:] = 0.2
    model = linear_classifier(weight, torch.tensor([0.0, -0.2 * 110 * 114 / 255]))
    view = ModelView(model, images)

    def parts(classifier: nn.Module) -> tuple[float, float]:
        assert isinstance(classifier, Classifier)
        rows = classifier.head.weight.detach().view(2, 11, 11)
        margin = rows[1] - rows[0]
        return float(margin[0, 0]), float(margin[1:].sum())

    strong, faint = parts(AdversarialRetraining(lr=0.1).defend(view, 0).model)
    plain_strong, plain_faint = parts(Finetuning(lr=0.1, epochs=50, samples=0).defend(view, 0).model)
    assert plain_faint > 15
    assert faint < 0.5 * plain_faint
    assert strong > 1.5 * plain_strong


def test_pruning_by_search_validates_on_other_images_than_it_ranks_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Li et al. 2020, appendix B: half of the images choose the fraction."""
    view, seen = small_view(80), list[Images]()

    def watched(work: Callable[..., Any], place: int) -> Callable[..., Any]:
        def and_noted(*given: Any) -> Any:
            seen.append(given[place])
            return work(*given)

        return and_noted

    for name, place in (("mean_activation", 2), ("pruned_accuracies", 4)):
        monkeypatch.setattr(fine_pruning, name, watched(getattr(fine_pruning, name), place))
    DEFENSES.build("fp_rethink").defend(view, 0)
    ranked, validated = seen
    assert (len(ranked), len(validated)) == (40, 40)
    together = torch.cat([ranked.pixels, validated.pixels]).flatten(1)
    assert len(together.unique(dim=0)) == 80


def test_pruning_by_search_tunes_nothing_and_may_prune_all_channels_but_one() -> None:
    """Even one epoch of fine-tuning may bring the backdoor back."""
    view = small_view(64)
    outcome = DEFENSES.build("fp_rethink[max_accuracy_drop=1.0]").defend(view, 0)
    assert isinstance(outcome, CleanModel)
    found = outcome.model
    kept = dict(found.named_buffers())["network.stage3.mask.keep"]
    assert int(kept.sum()) == 1
    before = dict(view.model.named_parameters())
    after = {name.replace("stage3.stage.", "stage3."): weight for name, weight in found.named_parameters()}
    assert after.keys() == before.keys()
    assert [name for name, weight in after.items() if not torch.equal(weight, before[name])] == []


def test_half_of_the_images_has_to_suffice_to_rank_by() -> None:
    rethink = DEFENSES.build("fp_rethink")
    assert isinstance(rethink, FinePruning)
    assert rethink.skip(small_view(32)) is None
    assert rethink.skip(small_view(31)) == "needs 32 clean images; there are 31"
