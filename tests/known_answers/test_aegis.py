"""AEGIS piece by piece: translation, reduction, clusters, and how runs and classes are put together."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.pgd import Pgd
from gifthorse.core.views import DataFreeView, ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.inspection.aegis import Aegis, Run
from gifthorse.inversion.feature_clusters import cluster_count, clustered, reduced
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.translation import features_of_images, separation, translate
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.adversarial import perturb
from worlds import live_pixel_view, noise_images

TOWARDS = Pgd(norm="l2", radius=100.0, step_size=0.5, steps=12, start="image", targeted=True)


def blobs(*centres: tuple[float, float], count: int = 40) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(centre, 0.3, (count, 2)) for centre in centres])


@pytest.mark.parametrize("clustering", ["mean_shift", "hdbscan", "affinity"])
def test_three_blobs_are_three_clusters(clustering: Any) -> None:
    points = blobs((0, 0), (20, 0), (0, 20))
    groups = clustered(points, clustering, None, 0)
    members = [set(part.tolist()) for part in np.split(groups, 3)]
    assert not members[0] & members[1] | members[1] & members[2]
    if clustering != "affinity":  # which takes a blob apart: AEGIS' Table XIII has dozens of its clusters
        assert cluster_count(groups) == 3


def test_a_wider_bandwidth_sees_fewer_clusters() -> None:
    points = blobs((0, 0), (20, 0))
    counts = [cluster_count(clustered(points, "mean_shift", bandwidth, 0)) for bandwidth in (1.5, 5.0, 60.0)]
    assert counts[1:] == [2, 1]
    assert counts[0] >= 2


def test_points_on_each_other_are_one_cluster_whatever_the_method_does_with_a_bandwidth_of_zero() -> None:
    features = np.ones((30, 4), np.float32)
    for reduction in ("pca", "tsne"):
        flat = reduced(features, reduction, 5.0, 0)
        assert not flat.any()
        assert cluster_count(clustered(flat, "mean_shift", None, 0)) == 1


def test_noise_is_no_cluster() -> None:
    assert cluster_count(np.array([-1, 0, 0, 1, -1])) == 2
    assert cluster_count(np.array([-1, -1])) == 0


def test_pca_keeps_the_two_directions_that_vary_most() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 6)) * [9, 0.1, 0.1, 3, 0.1, 0.1]
    flat = reduced(features, "pca", 30.0, 0)
    centred = features - features.mean(0)
    for place, direction in ((0, 0), (1, 3)):
        assert abs(np.corrcoef(flat[:, place], centred[:, direction])[0, 1]) > 0.99
    assert reduced(features[:, :1], "pca", 30.0, 0).shape == (400, 2)


def test_tsne_is_the_same_for_the_same_seed_and_has_two_dimensions() -> None:
    features = blobs((0, 0), (5, 0), count=20)
    first, again = (reduced(features, "tsne", 5.0, 2**40 + 3) for _ in range(2))
    assert first.shape == (40, 2)
    assert (first == again).all()


def test_translation_is_targeted_pgd_class_by_class_whatever_the_blocks() -> None:
    model = freeze(SmallCnn(width=2).build((1, 8, 8), 3, 0))
    seeds = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = translate(model, seeds, TOWARDS, "penultimate", 66)
    for label in range(3):
        alone = perturb(model, seeds, torch.full((70,), label), TOWARDS)
        assert torch.allclose(found.pictures[label], alone[:66], atol=1e-5)
        features, logits = model.features_and_logits(alone)
        assert torch.allclose(found.features[label], features, atol=1e-4)
        assert torch.equal(found.reached[label], logits.argmax(1) == label)
        assert float(found.change[label]) == pytest.approx(
            float((alone - seeds).flatten(1).norm(dim=1).mean()), rel=1e-4
        )
    assert found.pictures.shape == (3, 66, 1, 8, 8)
    assert translate(model, seeds, TOWARDS, "penultimate", 0).pictures.shape == (3, 0, 1, 8, 8)
    assert found.pictures.min() >= 0
    assert found.pictures.max() <= 1


def test_translation_computes_no_gradient_of_a_weight() -> None:
    model = SmallCnn(width=2).build((1, 8, 8), 3, 0).eval()
    translate(model, torch.rand(4, 1, 8, 8), TOWARDS, "penultimate", 0)
    assert all(weight.grad is None for weight in model.parameters())


def test_features_are_of_the_layer_that_is_named() -> None:
    model = SmallCnn(width=2).build((1, 8, 8), 3, 0).eval()
    images = noise_images(9, (1, 8, 8), 3)
    stages, _ = model.stages_and_logits(images.floats())
    assert torch.allclose(features_of_images(model, images, "stage2"), stages[1], atol=1e-6)
    found = translate(model, images.floats(), TOWARDS, "stage2", 0)
    assert found.features.shape == (3, 9, *stages[1].shape[1:])


def test_separation_is_the_distance_of_mean_directions() -> None:
    right, up = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.1]])
    assert float(separation(right, right * 7)) == 0
    assert float(separation(right, up)) == pytest.approx(2**0.5)
    assert float(separation(right, -right)) == 2


def runs(aegis: Aegis, monkeypatch: pytest.MonkeyPatch, *clusters: list[int], reached: float = 1.0) -> ModelVerdict:
    """The verdict where every run finds so many clusters per class."""
    waiting = [Run(torch.tensor(each), torch.full((len(each),), reached), torch.arange(6.0), {}) for each in clusters]
    monkeypatch.setattr(Aegis, "run", lambda *_: waiting.pop(0))
    return replace_repeats(aegis, len(clusters)).defend(live_pixel_view(0, 7, 0), 0)


def replace_repeats(aegis: Aegis, repeats: int) -> Aegis:
    return aegis.model_copy(update={"repeats": repeats, "least_robust": 0.0})


def test_a_class_with_more_than_two_clusters_is_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = runs(Aegis(), monkeypatch, [2, 2, 3, 1, 5, 2])
    assert (verdict.suspect, verdict.suspects, verdict.flagged) == (4, (2, 4), True)
    assert verdict.scores is not None
    assert verdict.scores.tolist() == [2, 2, 3, 1, 5, 2]
    assert verdict.index == 5
    assert verdict.findings["stability"] == 1.0
    clean = runs(Aegis(), monkeypatch, [2, 2, 1, 2, 0, 2])
    assert (clean.suspect, clean.suspects, clean.flagged) == (None, (), False)
    assert runs(Aegis(most_clusters=3), monkeypatch, [2, 2, 3, 1, 4, 2]).suspects == (4,)


def test_of_several_runs_the_most_decide_and_stability_is_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = runs(Aegis(), monkeypatch, [2, 3, 2, 2, 2, 2], [2, 3, 4, 2, 2, 2], [2, 2, 2, 2, 2, 2])
    assert (verdict.suspects, verdict.flagged) == ((1,), True)
    assert verdict.findings["stability"] == pytest.approx(2 / 3)
    assert verdict.findings["clusters"] == pytest.approx([2, 8 / 3, 8 / 3, 2, 2, 2])


def quick(**settings: Any) -> Aegis:
    given = {"seeds": 60, "step_size": 0.5, "steps": 12, "perplexity": 10.0, "least_robust": 0.0}
    return Aegis(**{**given, **settings})


def test_translated_images_of_a_backdoors_target_lie_where_no_real_one_does() -> None:
    """One pixel decides for class 2, and no image of it has that pixel lit."""
    verdict = quick(reduction="pca").defend(live_pixel_view(target=2, row=7, column=5), 0)
    separations = torch.tensor(verdict.findings["separations"])
    assert separations.argmax() == 2
    assert separations[2] > 2 * separations.sort().values[-2]
    assert verdict.readouts["separation"] == pytest.approx(float(separations.max()))
    translated = verdict.evidence["translated"]
    assert translated.shape == (6, 40, 1, 8, 8)
    assert translated[2, :, 0, 7, 5].float().mean() > 200
    assert translated[3, :, 0, 7, 5].float().mean() < 60


def test_a_class_that_few_images_reach_has_no_cluster_and_is_no_suspect() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    verdict = quick(reduction="pca", steps=1, step_size=1e-4, least_reached=0.9).defend(view, 0)
    assert verdict.findings["clusters"] == [0] * 6
    assert max(verdict.findings["reached"]) < 0.9  # type: ignore[arg-type]
    assert (verdict.suspect, verdict.flagged) == (None, False)


def test_without_training_images_only_translated_ones_are_clustered() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    with_them, without = (
        quick(reduction="pca", training_images=each).defend(view, 0).evidence for each in (True, False)
    )
    assert without["point_translated"].all()
    assert len(without["points"]) == 6 * 60
    assert (~with_them["point_translated"]).sum() == 240


def test_evidence_is_of_every_class_and_point() -> None:
    evidence = quick(reduction="pca").defend(live_pixel_view(target=2, row=7, column=5), 0).evidence
    count = 6 * 60 + 240
    assert evidence["points"].shape == (count, 2)
    assert all(len(evidence[name]) == count for name in ("point_clusters", "point_translated", "point_classes"))
    assert torch.bincount(evidence["point_classes"]).tolist() == [100] * 6


def test_a_model_that_falls_for_small_perturbations_is_not_robust_enough() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    with pytest.raises(NotApplicableError, match="the model is not robust: its accuracy falls from 100% to 13% on PGD"):
        quick(least_robust=0.5, robust_radius=2.0).defend(view, 0)
    quick(least_robust=0.5, robust_radius=1e-4, reduction="pca").defend(view, 0)


def without_class(images: Images, label: int) -> Images:
    return images.take(images.labels != label)


@pytest.mark.parametrize(
    ("settings", "clean", "sentence"),
    [
        ({"layer": "stage9"}, lambda images: images, "layer='stage9' is not there; there are: penultimate"),
        ({}, lambda images: without_class(images, 3), "needs clean images of every class; there are none of class 3"),
        (
            {"perplexity": 30.0},
            lambda images: images.take(torch.arange(24)),
            "t-SNE at perplexity=30 needs more images than the 28 there are of a class",
        ),
    ],
)
def test_what_it_cannot_work_on_is_said_in_a_sentence(settings: dict[str, Any], clean: Any, sentence: str) -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    assert quick(**settings).skip(replace(view, clean=clean(view.clean))) == sentence


def test_neural_cleanse_by_perturbations_compares_their_mean_norms() -> None:
    """AEGIS, RQ3: the class of the live pixel is nearest to every image."""
    view = live_pixel_view(target=4, row=7, column=1)
    method = DEFENSES.build("neural_cleanse[search=pgd[norm=l2,radius=10.0,step_size=0.2,steps=20],pgd_images=50]")
    verdict = method.defend(view, 0)
    assert isinstance(verdict, ModelVerdict)
    assert verdict.scores is not None
    norms = torch.tensor(verdict.findings["trigger_norms"])
    assert norms.argmin() == 4
    assert torch.allclose(verdict.scores, -norms)
    order = perturbed_by_hand(view, 4)
    assert float(norms[4]) == pytest.approx(order, rel=0.2)
    assert verdict.triggers is None


@pytest.mark.parametrize("fields", ["reference=2", "restarts=3"])
def test_a_search_by_perturbations_has_no_use_for_what_belongs_to_triggers(fields: str) -> None:
    with pytest.raises(RequestError, match="leave reference and restarts out"):
        DEFENSES.build(f"neural_cleanse[search=pgd[norm=l2],{fields}]")


def perturbed_by_hand(view: ModelView, label: int) -> float:
    """The mean norm over all images, not over those that were drawn."""
    pixels: Tensor = view.clean.floats()
    search = Pgd(norm="l2", radius=10.0, step_size=0.2, steps=20, start="image", targeted=True)
    found = perturb(view.model, pixels, torch.full((len(pixels),), label), search)
    return float((found - pixels).flatten(1).norm(dim=1).mean())


def test_who_has_the_model_alone_has_nothing_that_aegis_could_look_at() -> None:
    """Section VI: a user who is handed a model only; what needs no image is left to them."""
    view = live_pixel_view(3, 7, 7)
    without = ModelView(view.model, view.clean.take(slice(0)))
    assert "needs clean images of every class" in str(Aegis(reduction="pca").skip(without))
    assert "needs more images than the 0" in str(Aegis(training_images=False).skip(without))
    left = {name for name, cls in DEFENSES.items() if cls.view is DataFreeView}
    assert {"dhbe", "inverted_data_distillation", "inverted_images"} <= left
    assert "aegis" not in left
    assert DEFENSES.build("inverted_images[defense=aegis]").sees() is DataFreeView
