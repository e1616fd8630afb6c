"""What is compared of features: similarities, active units, and points in two dimensions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from gifthorse.analyses.activation_tracing import ActivationTracing
from gifthorse.analyses.feature_points import stamped_silhouette
from gifthorse.analyses.feature_similarity import FeatureSimilarity
from gifthorse.analyses.layers import PENULTIMATE, activity
from gifthorse.analyses.nsr import Nsr
from gifthorse.analyses.pca import Pca
from gifthorse.analyses.tsne import Tsne
from gifthorse.contracts.worlds import noise_world
from gifthorse.core.analysis import Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.findings import profile_name
from gifthorse.core.images import Images
from gifthorse.core.trojan import Backdoor
from gifthorse.metrics.functional import linear_cka, most_active, separation_by_image
from worlds import digits_world, linear_classifier, noise_images


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subject_of_digits() -> Subject:
    world = digits_world()
    return Subject(world.trojan.model, world.trojan.twin, world.trojan.backdoor, world.task)


def cka_by_kernels(first: Tensor, second: Tensor) -> float:
    """HSIC of the N × N matrices of inner products, centred on both sides (Kornblith et al., equations 2 to 4)."""
    n = len(first)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = (centring @ each.double() @ each.double().T @ centring for each in (first, second))
    return float((k * m).sum() / (k.square().sum() * m.square().sum()).sqrt())


def test_cka_in_feature_space_is_that_of_the_kernels() -> None:
    for shapes in ((40, 5, 7), (10, 30, 4), (6, 20, 50)):
        first = randn(shapes[0], shapes[1], seed=1) + 3
        second = first[:, :1] * randn(1, shapes[2], seed=2) + randn(shapes[0], shapes[2], seed=3)
        assert linear_cka(first, second) == pytest.approx(cka_by_kernels(first, second), abs=1e-9)


def test_cka_sees_no_rotation_scale_or_shift_and_sees_everything_else() -> None:
    first = randn(200, 6) * torch.tensor([5.0, 3, 2, 1, 1, 1])
    rotation = torch.linalg.qr(randn(6, 6, seed=4)).Q
    assert linear_cka(first, first @ rotation * 7 - 2) == pytest.approx(1, abs=1e-6)
    assert linear_cka(first, randn(200, 6, seed=5)) < 0.1
    stretched = linear_cka(first, first * torch.tensor([1.0, 1, 1, 9, 9, 9]))
    assert stretched < 0.9
    assert linear_cka(first, randn(200, 3, seed=6)) == pytest.approx(linear_cka(randn(200, 3, seed=6), first))
    assert np.isnan(linear_cka(first, torch.ones(200, 2)))


def two_stages() -> Classifier:
    """A network whose first stage is the image itself and whose second is twice that; two pixels, two classes."""
    network = nn.Sequential(nn.Identity(), nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 2))
    convolution = network[1]
    assert isinstance(convolution, nn.Conv2d)
    with torch.no_grad():
        convolution.weight[:] = torch.tensor([2.0, -1]).view(2, 1, 1, 1)
    return Classifier(network, mean=[0.0], std=[1.0], head="3", stages=("0", "1"))


def test_activities_are_means_over_places_and_what_the_head_receives() -> None:
    images = noise_images(150, (1, 1, 2), 2)
    model = two_stages().train()
    found = activity(model, images)
    pixels = images.floats()[:, 0, 0]
    assert list(found) == ["0", "1", PENULTIMATE]
    torch.testing.assert_close(found["0"], pixels.mean(1, keepdim=True))
    torch.testing.assert_close(found["1"], torch.stack([2 * pixels.mean(1), -pixels.mean(1)], 1))
    torch.testing.assert_close(found[PENULTIMATE], torch.cat([2 * pixels, -pixels], 1))
    assert model.training
    assert not model.head._forward_hooks


def test_of_a_model_that_is_its_own_twin_nothing_differs() -> None:
    subject = subject_of_digits()
    found = FeatureSimilarity(images=120).look(replace(subject, model=subject.twin.clone()), 0)
    stages = [*subject.twin.stage_names, PENULTIMATE]
    by_stage = found.numbers["cka_twin_by_stage"]
    assert isinstance(by_stage, list)
    assert [*by_stage, found.numbers["cka_twin"], found.numbers["cka_twin_stamped"]] == pytest.approx([1] * 5)
    assert found.numbers["cka_clean_stamped"] == pytest.approx(found.numbers["cka_clean_stamped_twin"])
    series = profile_name("Similarity of features (CKA)", stages, "clean and stamped images, model")
    assert len(stages) == 4
    expected = [*found.numbers["cka_clean_stamped_by_stage"], found.numbers["cka_clean_stamped"]]  # type: ignore[misc]
    assert found.evidence[series].tolist() == expected


def test_the_most_active_units_are_those_of_each_image() -> None:
    activities = torch.tensor([[1.0, 5, 3, 0], [2, 2, 2, 2], [0, 0, 1, 9]])
    assert [flags.nonzero().flatten().tolist() for flags in most_active(activities, 2)] == [[1, 2], [0, 1], [2, 3]]
    stamped = torch.tensor([[9.0, 5, 3, 0], [0, 0, 2, 2], [0, 0, 1, 9]])
    # One unit in common of three, none, both.
    assert separation_by_image(activities, stamped, 2).tolist() == pytest.approx([2 / 3, 1, 0])


class LastPixel(nn.Module):
    """Lights the last pixel, which no clean image does."""

    def stamp(self, pixels: Tensor, *_: Any) -> Tensor:
        stamped = pixels.clone()
        stamped[..., -1] = 1
        return stamped


def pixels_as_units() -> Subject:
    """A linear model of eight pixels; clean images light the first two, and the trigger the last."""
    world = noise_world((1, 12, 12))
    assert world.trojan.backdoor is not None
    levels = torch.tensor([200, 190, 9, 8, 7, 6, 5, 4], dtype=torch.uint8).expand(12, 1, 1, 8)
    images = Images(levels.clone(), torch.arange(12) % 3 + 1, 4)
    backdoor = Backdoor(LastPixel(), world.trojan.backdoor.goal)  # type: ignore[arg-type]
    model = linear_classifier(torch.zeros(4, 1, 1, 8), torch.zeros(4))
    return Subject(model, model, backdoor, replace(world.task, test=images))


def test_units_are_traced_image_by_image() -> None:
    found = ActivationTracing(active_share=0.25).look(pixels_as_units(), 0)
    # Two of eight: pixels 0 and 1 without the trigger, 7 and 0 with it.
    assert found.numbers == {"nsr_by_image": pytest.approx(2 / 3), "shared_units": 1, "trigger_units": 1}
    title = "against/How often units of the penultimate layer of the model are active"
    across = "share of clean images/share of stamped images"
    assert found.evidence[f"{title}/{across}/shared"].tolist() == [[1], [1]]
    assert found.evidence[f"{title}/{across}/the trigger's"].tolist() == [[0], [1]]
    assert found.evidence[f"{title}/{across}/others"].tolist() == [[1, 0, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize(("share", "separation"), [(0.125, 1.0), (0.25, 2 / 3), (0.5, 2 / 5), (0.875, 2 / 8)])
def test_how_many_units_count_as_active_is_the_share_asked_for(share: float, separation: float) -> None:
    """Eight pixels, ever darker; the trigger lights the last, which takes the place of the darkest active one.

    Shared are none of two, one of three, three of five, six of eight.
    """
    found = Nsr(active_share=share).look(pixels_as_units(), 0)
    assert found.numbers["nsr"] == pytest.approx(separation)


def test_what_counts_as_often_and_seldom_can_be_said() -> None:
    strict = ActivationTracing(active_share=0.25, often=1.0).look(pixels_as_units(), 0)
    assert (strict.numbers["shared_units"], strict.numbers["trigger_units"]) == (0, 0)
    none_is_seldom = ActivationTracing(active_share=0.25, seldom=0.0).look(pixels_as_units(), 0)
    assert none_is_seldom.numbers["trigger_units"] == 0


def test_a_stage_is_traced_where_it_is_asked_for_and_an_unknown_one_refused() -> None:
    subject = subject_of_digits()
    found = ActivationTracing(stage="stage2", images=20).look(subject, 0)
    assert {name.split("/")[1] for name in found.evidence} == {
        f"How often units of the stage2 of the {model} are active" for model in ("model", "twin")
    }
    channels = activity(subject.model, subject.task.test.take(slice(2)))["stage2"].shape[1]
    assert sum(array.shape[1] for name, array in found.evidence.items() if "the model" in name) == channels
    with pytest.raises(RequestError, match="activation_tracing: the network has no stage 'stage9'; it has stage1, "):
        ActivationTracing(stage="stage9").check(subject.model, subject.task)


def test_the_silhouette_is_scikit_learns_of_stamped_images_and_of_their_targets_own() -> None:
    clean, labels = randn(30, 4), torch.arange(30) % 3
    stamped, targets = randn(20, 4, seed=1) + 1.5, torch.arange(20) % 2
    expected = [
        silhouette_score(torch.cat([clean[labels == t], stamped[targets == t]]).numpy(), [0] * 10 + [1] * 10)
        for t in (0, 1)
    ]
    assert stamped_silhouette(clean, labels, stamped, targets) == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert stamped_silhouette(clean, labels, clean, labels) < 0.1
    assert stamped_silhouette(clean, labels, clean + 100, labels) > 0.9
    assert np.isnan(stamped_silhouette(clean, labels, stamped, targets + 3))


def test_stamped_points_are_where_the_trigger_moves_features() -> None:
    """Features are the pixels: clean ones differ in the first, the trigger lights the last.

    So all points lie in a plane, which keeps distances: a stamped one is as far from its clean one as its last pixel.
    """
    subject = pixels_as_units()
    levels = subject.task.test.pixels.clone()
    levels[..., 0] = torch.arange(12, dtype=torch.uint8).view(12, 1, 1) * 10
    subject = replace(subject, task=replace(subject.task, test=Images(levels, torch.arange(12) % 4, 4)))
    found = Pca(images=3).look(subject, 0)
    groups = {name.rpartition("/")[2]: array for name, array in found.evidence.items()}
    moved = (255 - 4) / 255
    assert subject.backdoor is not None
    target = subject.backdoor.goal.classes()[0]
    # Of each class the first three images, stamped those that are not of the target, in their order.
    clean = np.stack([groups[str(label)][number] for number in range(3) for label in range(4) if label != target][:3])
    assert np.linalg.norm(groups["stamped"] - clean, axis=1) == pytest.approx([moved] * 3, abs=1e-4)
    apart = found.numbers["stamped_silhouette"]
    assert isinstance(apart, float)
    assert apart > 0.4


def test_every_class_and_the_stamped_images_are_points_and_the_same_seed_gives_the_same() -> None:
    subject = subject_of_digits()
    found, again, other = (Tsne(images=12, perplexity=10).look(subject, seed) for seed in (0, 0, 1))
    of_each = (*map(str, range(10)), "stamped")
    groups = {f"points/Features of the {model}/{group}" for model in ("model", "twin") for group in of_each}
    assert found.evidence.keys() == groups
    assert all(points.shape == (12, 2) for points in found.evidence.values())
    assert all(np.array_equal(found.evidence[name], again.evidence[name]) for name in groups)
    assert found.numbers == again.numbers == other.numbers


def test_pca_finds_the_plane_in_which_points_lie() -> None:
    """Images of two pixels: features are the pixels, so that the plane is the whole space and distances are kept."""
    subject = pixels_as_units()
    levels = torch.randint(0, 256, (24, 1, 1, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    levels[..., 2:] = 7
    images = Images(levels, torch.arange(24) % 4, 4)
    subject = replace(subject, backdoor=None, task=replace(subject.task, test=images))
    found = Pca().look(subject, 0)
    assert found.numbers == {}
    flat = np.concatenate([found.evidence[f"points/Features of the model/{group}"] for group in range(4)])
    features = torch.cat([images.floats()[images.labels == group].flatten(1) for group in range(4)])
    torch.testing.assert_close(
        torch.cdist(torch.from_numpy(flat), torch.from_numpy(flat)),
        torch.cdist(features.double(), features.double()),
        atol=1e-5,
        rtol=1e-4,
    )


def test_of_many_classes_the_targets_come_first() -> None:
    subject = subject_of_digits()
    assert subject.backdoor is not None
    goal = subject.backdoor.goal.changed(target=7)
    found = Pca(classes=3, images=5).look(replace(subject, backdoor=Backdoor(subject.backdoor.trigger, goal)), 0)
    assert {name.rpartition("/")[2] for name in found.evidence} == {"0", "1", "7", "stamped"}


def test_too_few_points_are_said_with_their_numbers() -> None:
    subject = subject_of_digits()
    with pytest.raises(NotApplicableError, match="t-SNE with perplexity 30 needs more points than that: 22"):
        Tsne(images=2).look(subject, 0)
    test = subject.task.test
    lonely = test.take((test.labels != 3) | (torch.arange(len(test)) == int((test.labels == 3).nonzero()[0])))
    with pytest.raises(NotApplicableError, match="class '3' has too few test images to be a group of points: 1"):
        Pca().look(replace(subject, task=replace(subject.task, test=lonely)), 0)
