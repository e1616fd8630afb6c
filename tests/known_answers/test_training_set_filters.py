"""Filters of training sets where it is known which images were planted: the latents are the images' own pixels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen, SuspectSamples
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.views import SuspectAndCleanView, SuspectDataView
from gifthorse.defenses.training_set_filtering.activation_clustering import (
    ActivationClustering,
    ActivationClusteringScreen,
)
from gifthorse.defenses.training_set_filtering.spectral_signatures import SpectralSignatures, SpectralSignaturesScreen
from gifthorse.inversion.suspects import train_without
from gifthorse.models.small_cnn import SmallCnn
from worlds import linear_classifier

CLASSES, EACH, PLANTED = 3, 60, 20
CENTRES = torch.tensor([[200.0, 60, 60, 120], [60, 200, 60, 120], [60, 60, 200, 120]])


class Taught:
    """A trainer that remembers what it was asked to train on."""

    architecture, recipe = SmallCnn(), StandardRecipe()

    def __init__(self) -> None:
        self.seen: list[Images] = []

    def train(self, images: Images, seed: int) -> Classifier:
        self.seen.append(images)
        return linear_classifier(torch.full((images.classes, 1, 2, 2), 0.5), torch.zeros(images.classes))


def world(
    place: tuple[float, ...] = (190, 60, 60, 20), planted: int = PLANTED, seed: int = 0
) -> tuple[SuspectDataView, Tensor]:
    """Three classes around a centre each, class 0 with so many images elsewhere; and which these are."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(EACH)
    labels = torch.cat([labels, torch.zeros(planted, dtype=torch.long)])
    stamped = torch.arange(len(labels)) >= CLASSES * EACH
    middle = torch.where(stamped[:, None], torch.tensor(place), CENTRES[labels])
    pixels = (middle + 8 * torch.randn(len(labels), 4, generator=random)).clamp(0, 255).to(torch.uint8)
    order = torch.randperm(len(labels), generator=random)
    images = Images(pixels.view(-1, 1, 2, 2)[order], labels[order], CLASSES)
    model = linear_classifier(torch.eye(4)[:3].view(3, 1, 2, 2), torch.zeros(3))
    return SuspectDataView(model, images, trainer=Taught()), stamped[order]


def trained_on(view: SuspectDataView) -> list[Images]:
    assert isinstance(view.trainer, Taught)
    return view.trainer.seen


def defended(defense: Any, view: SuspectDataView) -> SuspectSamples:
    outcome = defense.defend(view, 0)
    assert isinstance(outcome, SuspectSamples)
    return outcome


def share_of(removed: Tensor, labels: Tensor) -> list[int]:
    return torch.bincount(labels[removed], minlength=CLASSES).tolist()


def test_a_spectral_signature_is_the_squared_projection_of_centred_latents_on_their_first_singular_vector() -> None:
    view, _ = world()
    found = defended(SpectralSignatures(), view)
    latents = view.suspect.floats().flatten(1)
    for label in range(CLASSES):
        own = view.suspect.labels == label
        left, size, _ = torch.linalg.svd(latents[own] - latents[own].mean(0), full_matrices=False)
        torch.testing.assert_close(found.scores[own], (left[:, 0] * size[0]).square(), atol=1e-5, rtol=1e-3)


def test_spectral_signatures_rank_what_was_planted_first_and_remove_one_and_a_half_times_the_assumed_rate() -> None:
    view, stamped = world()
    found = defended(SpectralSignatures(assumed_rate=0.2), view)
    own = view.suspect.labels == 0
    assert found.scores[stamped].min() > found.scores[own & ~stamped].max()
    assert share_of(found.removed, view.suspect.labels) == [24, 18, 18]
    assert found.removed[stamped].all()
    (kept,) = trained_on(view)
    assert torch.equal(kept.pixels, view.suspect.pixels[~found.removed])
    assert torch.equal(kept.labels, view.suspect.labels[~found.removed])
    assert (predict(found.model, kept) == predict(view.trainer.train(kept, 0), kept)).all()


def test_the_default_rate_and_the_authors_percentile_remove_as_much_of_every_class() -> None:
    view, _ = world()
    by_rate, by_percentile = (
        defended(each, view) for each in (SpectralSignatures(), SpectralSignatures(percentile=85.0))
    )
    assert share_of(by_rate.removed, view.suspect.labels) == [12, 9, 9]
    assert torch.equal(by_rate.removed, by_percentile.removed)


@pytest.mark.parametrize("reduction", ["pca", "ica"])
@pytest.mark.parametrize("analysis", ["relative_size", "silhouette"])
def test_activation_clustering_removes_the_planted_cluster_and_no_other(analysis: str, reduction: str) -> None:
    view, stamped = world()
    found = defended(ActivationClustering.from_dict({"analysis": analysis, "reduction": reduction}), view)
    assert torch.equal(found.removed, stamped)
    own = view.suspect.labels == 0
    assert found.scores[stamped].min() > found.scores[own & ~stamped].max()
    if reduction == "pca":
        assert found.scores[stamped].min() > found.scores[~stamped].max()
    (kept,) = trained_on(view)
    assert torch.equal(kept.pixels, view.suspect.pixels[~stamped])


def test_independent_components_are_as_wide_in_every_direction() -> None:
    """Which is why they lose what separates the clusters of a class that is spread mostly along it."""
    view, _ = world()
    latents = view.suspect.floats().flatten(1)[view.suspect.labels == 0]
    centred = latents - latents.mean(0)
    reduced = centred @ ActivationClustering(reduction="ica", components=3).reduce(centred, 0).mT
    torch.testing.assert_close(reduced.mT @ reduced / len(reduced), torch.eye(3), atol=1e-3, rtol=0)
    plain = centred @ ActivationClustering(components=3).reduce(centred, 0).mT
    assert plain.std(0)[0] > 3 * plain.std(0)[1]


def test_the_smaller_cluster_of_every_class_goes_where_that_is_asked_for() -> None:
    view, stamped = world()
    found = defended(ActivationClustering(analysis="smaller"), view)
    assert found.removed[stamped].all()
    lost = share_of(found.removed, view.suspect.labels)
    assert lost[0] == PLANTED
    assert all(10 < each <= 30 for each in lost[1:])


@pytest.mark.parametrize(("place", "found_there"), [((60.0, 190, 60, 120), True), ((190.0, 60, 60, 20), False)])
def test_by_distance_a_cluster_is_poisoned_that_is_nearer_to_another_class(
    place: tuple[float, ...], found_there: bool
) -> None:
    view, stamped = world(place)
    found = defended(ActivationClustering(analysis="distance"), view)
    assert torch.equal(found.removed, stamped & found_there)
    if found_there:
        assert found.scores[stamped].min() > found.scores[~stamped].max()


def test_a_large_or_an_indistinct_cluster_is_left_alone_and_then_the_model_stays_as_it_was() -> None:
    """34 of 94 are more than 0.35 of a class, which the published rule lets pass."""
    many, _ = world(planted=34)
    assert not defended(ActivationClustering(), many).removed.any()
    few, stamped = world()
    assert torch.equal(defended(ActivationClustering(min_silhouette=0.3), few).removed, stamped)
    strict = defended(ActivationClustering(min_silhouette=0.95), few)
    assert not strict.removed.any()
    assert torch.equal(predict(strict.model, few.suspect), predict(few.model, few.suspect))
    assert trained_on(many) == []


def test_of_a_class_that_lies_elsewhere_with_both_clusters_one_is_left() -> None:
    """Most of class 0 lies where class 1 does, the rest where class 2 does."""
    view, _ = world()
    labels, pixels = view.suspect.labels, view.suspect.pixels.clone()
    own = (labels == 0).nonzero().squeeze(1)
    for label, moved in ((1, own[:50]), (2, own[50:])):
        pixels[moved] = view.suspect.pixels[labels == label][: len(moved)]
    there = SuspectDataView(view.model, Images(pixels, labels, CLASSES), trainer=Taught())
    found = defended(ActivationClustering(analysis="distance"), there)
    assert share_of(found.removed, labels)[0] == 30


def test_a_class_that_would_be_emptied_stops_the_defense() -> None:
    view, _ = world()
    with pytest.raises(NotApplicableError, match="all images of class 1 would be removed from the training set"):
        train_without(view, torch.zeros(len(view.suspect)), view.suspect.labels == 1, 0)
    assert trained_on(view) == []


def test_images_that_are_all_the_same_are_no_clusters() -> None:
    view, _ = world()
    pixels = view.suspect.pixels.clone()
    pixels[view.suspect.labels == 1] = 7
    same = SuspectDataView(view.model, Images(pixels, view.suspect.labels, CLASSES), trainer=Taught())
    for defense in (ActivationClustering(analysis="smaller"), ActivationClustering(reduction="ica")):
        found = defended(defense, same)
        assert not found.removed[view.suspect.labels == 1].any()
        assert (found.scores[view.suspect.labels == 1] == 0).all()


@pytest.mark.parametrize("defense", [ActivationClustering(), SpectralSignatures()])
def test_a_class_with_one_image_cannot_be_looked_at(defense: Any) -> None:
    view, _ = world()
    first = (view.suspect.labels == 2).nonzero()[0, 0]
    keep = (view.suspect.labels != 2) | (torch.arange(len(view.suspect)) == first)
    lonely = SuspectDataView(view.model, view.suspect.take(keep), trainer=Taught())
    assert defense.skip(lonely) == "needs two images of every class in the training set; class 2 has 1"
    only = Images(view.suspect.pixels, torch.zeros_like(view.suspect.labels), 1)
    assert "there is one" in str(defense.skip(SuspectDataView(view.model, only, trainer=Taught())))
    assert defense.skip(view) is None


def with_clean_images(view: SuspectDataView, clean: Images) -> SuspectAndCleanView:
    return SuspectAndCleanView(view.model, clean, view.suspect, trainer=view.trainer)


def screened(defense: Any) -> tuple[InputScreen, SuspectDataView, Tensor, Tensor]:
    """The screen that was fitted to the planted world, and other images of it, clean and planted."""
    view, _ = world()
    unseen, stamped = world(seed=1)
    clean, planted = unseen.suspect.take(~stamped), unseen.suspect.take(stamped).floats()
    screen = defense.defend(with_clean_images(view, clean.take(slice(100))), 0)
    assert isinstance(screen, InputScreen)
    assert (predict(view.model, planted).argmax(1) == 0).all()
    return screen, view, clean.take(slice(100, None)).floats(), planted


@pytest.mark.parametrize("defense", [ActivationClusteringScreen(), SpectralSignaturesScreen()])
def test_inputs_are_flagged_that_lie_where_the_planted_training_images_do_however_many_they_are(defense: Any) -> None:
    """As most of the inputs of a class the planted ones would themselves be what is normal for it."""
    screen, _, clean, planted = screened(defense)
    assert screen.score(planted).min() > screen.score(clean).max()
    assert (screen.score(planted) > screen.threshold).all()
    assert (screen.score(clean) > screen.threshold).float().mean() <= 0.15
    stream = torch.cat([planted, planted, clean[:10]])
    torch.testing.assert_close(screen.score(stream)[: len(planted)], screen.score(planted))


def test_an_input_is_projected_on_the_vector_of_the_class_that_it_is_given() -> None:
    screen, view, clean, _ = screened(SpectralSignaturesScreen())
    latents, given = view.suspect.floats().flatten(1), predict(view.model, clean).argmax(1)
    for label in range(CLASSES):
        own = latents[view.suspect.labels == label]
        axis = torch.linalg.svd(own - own.mean(0), full_matrices=False).Vh[0]
        expected = ((clean[given == label].flatten(1) - own.mean(0)) @ axis).square()
        torch.testing.assert_close(screen.score(clean[given == label]), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("defense", [ActivationClusteringScreen(fpr=0.1), SpectralSignaturesScreen(fpr=0.1)])
def test_the_threshold_is_the_quantile_of_clean_images(defense: Any) -> None:
    view, _ = world()
    clean = world(planted=0, seed=2)[0].suspect
    screen = defense.defend(with_clean_images(view, clean), 0)
    assert screen.threshold == float(screen.score(clean.floats()).quantile(0.9, interpolation="higher"))
    few = with_clean_images(view, clean.take(slice(9)))
    assert defense.skip(few) == "needs 10 clean images at fpr=0.1; there are 9"
    emptied = SuspectAndCleanView(view.model, clean, view.suspect.take(slice(0)), trainer=view.trainer)
    assert "there are none" in str(defense.skip(emptied))
