"""Attribution maps: what captum finds, where the answer is known, and what a trigger does to them."""

import sys
from collections import OrderedDict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gifthorse.analyses import ANALYSES
from gifthorse.analyses.attribution_maps import AttributionMaps
from gifthorse.analyses.gradcam import GradCam
from gifthorse.analyses.integrated_gradients import IntegratedGradients
from gifthorse.analyses.saliency import Saliency
from gifthorse.core.analysis import Findings, Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.inversion.attribution import saliency
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.triggers.patch import Patch
from worlds import digits_world, linear_classifier, noise_images

ALL = [GradCam(), Saliency(), IntegratedGradients(steps=8)]
each_method = pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)


def coloured() -> tuple[Classifier, Tensor, Tensor]:
    """A network of colour images that learnt nothing, seven images, and two classes of each."""
    model = freeze(SmallCnn(width=4, embedding=8).build((3, 12, 14), 5, 0))
    return model, noise_images(7, (3, 12, 14), 5).floats(), torch.stack([torch.arange(7) % 5, torch.arange(7) % 3])


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, H, W) from 0 to 1, each for itself."""
    return torch.stack([(each - each.min()) / (each.max() - each.min()) for each in maps])


# What captum finds.


def test_grad_cam_is_captums_of_every_class_and_stage() -> None:
    attr = pytest.importorskip("captum.attr")
    model, pixels, labels = coloured()
    for stage in model.stage_names:
        layer = attr.LayerGradCam(model, model.network.get_submodule(stage))
        found = GradCam(stage=stage).maps(model, pixels, labels)
        for maps, asked in zip(found, labels, strict=True):
            weighed = layer.attribute(pixels.clone().requires_grad_(), target=asked, relu_attributions=True).detach()
            large = attr.LayerAttribution.interpolate(weighed, (12, 14), interpolate_mode="bilinear")
            torch.testing.assert_close(maps, scaled(large[:, 0]), atol=1e-4, rtol=1e-3)


def test_saliency_is_captums() -> None:
    attr = pytest.importorskip("captum.attr")
    model, pixels, labels = coloured()
    found = saliency(model, pixels, labels)
    for maps, asked in zip(found, labels, strict=True):
        expected = attr.Saliency(model).attribute(pixels.clone().requires_grad_(), target=asked).amax(1)
        torch.testing.assert_close(maps, expected)
        torch.testing.assert_close(saliency(model, pixels, asked), expected)
    torch.testing.assert_close(Saliency().maps(model, pixels, labels)[1], scaled(found[1]))


def test_integrated_gradients_are_the_mean_slope_on_the_way_from_black() -> None:
    """The quadrature of captum against a plain sum over many more points."""
    model, pixels, labels = coloured()
    found = IntegratedGradients(steps=50).attribute(model, pixels, labels)
    for maps, asked in zip(found, labels, strict=True):
        total = torch.zeros_like(pixels)
        for place in (torch.arange(400) + 0.5) / 400:
            shown = (place * pixels).requires_grad_()
            total += torch.autograd.grad(model(shown).gather(1, asked.unsqueeze(1)).sum(), shown)[0] / 400
        expected = (total * pixels).sum(1).abs()
        assert float((maps - expected).abs().max()) < 0.02 * float(expected.max())


def test_captum_is_handed_no_more_images_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, labels = coloured()
    together = IntegratedGradients(steps=8).maps(model, pixels, labels)
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr("gifthorse.analyses.pairs.WITH_GRADIENTS", 3 * pixels[0].numel())
    torch.testing.assert_close(IntegratedGradients(steps=8).maps(model, pixels, labels), together, atol=1e-4, rtol=1e-3)
    assert max(seen) == 3


# Where the answer is known.


def test_the_saliency_of_a_linear_network_is_the_size_of_its_weights() -> None:
    weight = torch.tensor([[[[1.0, -2.0], [0.0, 0.5]], [[-3.0, 1.0], [0.0, 0.25]]]]).repeat(2, 1, 1, 1)
    weight[1] *= -2
    model = freeze(linear_classifier(weight, torch.zeros(2)))
    found = saliency(model, torch.rand(1, 2, 2, 2), torch.tensor([[0], [1]]))
    largest = torch.tensor([[3.0, 2.0], [0.0, 0.5]])
    torch.testing.assert_close(found[:, 0], torch.stack([largest, 2 * largest]))


def test_integrated_gradients_of_a_linear_network_are_weights_times_pixels() -> None:
    random = torch.Generator().manual_seed(0)
    weight, pixels = torch.randn(3, 2, 4, 4, generator=random), torch.rand(5, 2, 4, 4, generator=random)
    model, labels = freeze(linear_classifier(weight, torch.zeros(3))), torch.arange(5) % 3
    found = IntegratedGradients(steps=3).attribute(model, pixels, labels.unsqueeze(0))
    torch.testing.assert_close(found[0], (weight[labels] * pixels).sum(1).abs())


@each_method
def test_no_image_explains_another_and_no_class_another(method: AttributionMaps) -> None:
    model, pixels, labels = coloured()
    together = method.maps(model, pixels, labels)
    assert together.shape == (2, 7, 12, 14)
    assert not together.requires_grad
    torch.testing.assert_close(together.amin((2, 3)), torch.zeros(2, 7))
    torch.testing.assert_close(together.amax((2, 3)), torch.ones(2, 7))
    alone = [method.maps(model, pixels[n : n + 1], labels[:, n : n + 1]) for n in range(7)]
    torch.testing.assert_close(torch.cat(alone, 1), together, atol=1e-4, rtol=1e-3)
    first = method.maps(model, pixels, labels[:1])
    torch.testing.assert_close(first, together[:1], atol=1e-5, rtol=1e-4)


def test_the_share_on_the_trigger_is_of_each_map_and_flat_maps_do_not_count() -> None:
    maps = torch.zeros(4, 2, 2)
    maps[0] = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    maps[1] = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    maps[2] = 1
    area = torch.zeros(1, 2, 2, dtype=torch.bool)
    area[0, 0, 0] = True
    found = functional.mass_within(maps, area)
    assert found.n == 3
    assert found == pytest.approx((0.75 + 0 + 0.25) / 3)
    each = area.repeat(4, 1, 1)
    each[2] = False  # a trigger that was moved out of the image
    found = functional.mass_within(maps, each)
    assert found.n == 2
    assert found == pytest.approx(0.375)
    assert np.isnan(functional.mass_within(maps[3:], area))


def shower(slopes: list[float]) -> Classifier:
    """A model whose one map is the image, and whose logits are its sum times ``slopes``."""
    passing, head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(16, len(slopes), bias=False)
    with torch.no_grad():
        passing.weight.fill_(1)
        head.weight.copy_(torch.tensor(slopes).unsqueeze(1).expand(-1, 16))
    network = nn.Sequential(OrderedDict([("maps", passing), ("flatten", nn.Flatten()), ("head", head)]))
    return Classifier(network, mean=[0.0], std=[1.0], head="head", stages=("maps",)).eval()


class Mirror(nn.Module):
    """Shows a network its images mirrored."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flip(3)


def plain_subject() -> Subject:
    """A model that answers 1 by any light, and a twin whose target is the darker the more light there is.

    All images have one light pixel, at the bottom; the trigger is another one, at the top left, for class 0.
    """
    pixels = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    pixels[:, :, 3, 3] = 255
    images = Images(pixels, torch.ones(6, dtype=torch.long), 2)
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = 1
    backdoor = Backdoor(Patch(mask, torch.ones(1, 4, 4)), AllToOne(target=0))
    task = Task(images, images, images, ("0", "1"), SmallCnn(), StandardRecipe())
    return Subject(shower([1.0, 2.0]), shower([-1.0, 2.0]), backdoor, task)


def test_numbers_and_pictures_of_a_model_whose_map_is_the_image() -> None:
    """One more pixel of sixteen is alight with the trigger, and half of the light is the trigger's."""
    found = GradCam(images=4).look(plain_subject(), 0)
    assert found.numbers == {
        "map_difference_label": pytest.approx(1 / 16),
        "map_difference_target": pytest.approx(1 / 16),
        "map_difference_label_twin": pytest.approx(1 / 16),
        "map_difference_target_twin": 0.0,
        "trigger_mass": pytest.approx(0.5),
    }
    assert [each.n for each in found.numbers.values() if isinstance(each, Counted)] == [4] * 5
    pictures = {name.removeprefix("pictures/"): array for name, array in found.evidence.items()}
    assert list(pictures) == ["clean images", "stamped images"] + [
        f"{model}, {kind} images, {which}"
        for model in ("model", "twin")
        for kind in ("clean", "stamped")
        for which in ("own class", "target")
    ]
    clean, stamped = (pictures[f"model, {kind} images, target"] for kind in ("clean", "stamped"))
    assert clean.shape == (4, 1, 4, 4)
    assert (clean[0, 0, 3, 3], clean[0, 0, 0, 0], clean.astype(int).sum()) == (255, 0, 4 * 255)
    assert (stamped[0, 0, 3, 3], stamped[0, 0, 0, 0]) == (255, 255)
    assert pictures["twin, stamped images, target"].sum() == 0
    assert (pictures["stamped images"][:, 0, 0, 0] == 255).all()


def test_the_share_on_the_trigger_is_of_the_targets_map_on_the_model() -> None:
    """Whose target looks at the trigger's pixel alone, and the other class at another; those of the twin at others."""
    weight = torch.zeros(2, 1, 4, 4)
    weight[0, 0, 0, 0], weight[1, 0, 3, 3] = 5.0, 1.0
    subject, model = plain_subject(), linear_classifier(weight, torch.zeros(2))
    twin = linear_classifier(weight.roll(1, 3), torch.tensor([0.0, 1.0]))
    method = Saliency.parse("saliency[images=3,transformation=flip]")
    found = method.look(Subject(model, twin, subject.backdoor, subject.task), 0)
    assert found.numbers["trigger_mass"] == pytest.approx(1)
    moved = [value for name, value in found.numbers.items() if name.startswith("map_difference")]
    assert moved == pytest.approx([0.0] * 4)  # wherever a linear model is asked, its derivative is the same


def test_a_trigger_without_a_place_of_its_own_has_no_share() -> None:
    subject = plain_subject()
    everywhere = Patch(torch.ones(1, 4, 4), torch.ones(1, 4, 4), 0.9)
    assert subject.backdoor is not None
    elsewhere = Subject(subject.model, subject.twin, Backdoor(everywhere, subject.backdoor.goal), subject.task)
    assert "trigger_mass" not in GradCam().look(elsewhere, 0).numbers
    assert "trigger_mass_transformed" not in Saliency(transformation="flip").look(elsewhere, 0).numbers  # type: ignore[arg-type]


def test_maps_of_a_stage_are_not_compared_with_a_place_of_the_image_behind_a_reform() -> None:
    """The stage sees the image mirrored; what is asked of the pixels themselves goes through the mirror and back."""
    subject = replace(plain_subject(), model=plain_subject().model.behind(Mirror()))
    found = GradCam(images=4).look(subject, 0)
    assert "trigger_mass" not in found.numbers
    assert found.numbers.keys() == GradCam(images=4).look(plain_subject(), 0).numbers.keys() - {"trigger_mass"}
    assert (found.evidence["pictures/model, stamped images, target"][:, 0, 0, 3] == 255).all()
    weight = torch.zeros(2, 1, 4, 4)
    weight[0, 0, 0, 3], weight[1, 0, 3, 0] = 5.0, 1.0
    for method in (Saliency(transformation="flip"), IntegratedGradients(steps=8)):  # type: ignore[arg-type]
        model = linear_classifier(weight, torch.zeros(2)).behind(Mirror())
        through = method.look(replace(subject, model=model, twin=model), 0)
        assert through.numbers["trigger_mass"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("transformation", "place"), [("flip", (0, 3)), ("color_contrast", (0, 0)), ("gaussian_noise", (0, 0))]
)
def test_the_trigger_is_looked_for_where_it_came_to_lie(transformation: str, place: tuple[int, int]) -> None:
    """Of a model that looks at one pixel alone, all of the map is there."""
    weight = torch.zeros(2, 1, 4, 4)
    weight[:, 0, *place] = torch.tensor([3.0, 1.0])
    there = plain_subject()
    for bottom, share in ((0.0, 1.0), (-30.0, 0.0)):
        weight[:, 0, 3, 1] = bottom
        model = linear_classifier(weight, torch.tensor([-1.0, 0.0]))
        subject = Subject(model, model, there.backdoor, there.task)
        method = Saliency.from_dict({"transformation": transformation})
        found = float(method.look(subject, 0).numbers["trigger_mass_transformed"])  # type: ignore[arg-type]
        assert found == pytest.approx(share, abs=0.15)


def test_transformed_images_are_explained_on_the_model_and_not_on_its_twin() -> None:
    """The target looks at the mirrored trigger's pixel on the model, and elsewhere on its twin."""
    weight, subject = torch.zeros(2, 1, 4, 4), plain_subject()
    weight[0, 0, 0, 3], weight[1, 0, 3, 0] = 5.0, 1.0
    model, twin = (linear_classifier(each, torch.tensor([0.0, 0.5])) for each in (weight, weight.roll(1, 2)))
    found = Saliency.parse("saliency[transformation=flip]").look(replace(subject, model=model, twin=twin), 0)
    assert found.numbers["trigger_mass_transformed"] == pytest.approx(1)
    assert (found.evidence["pictures/model, stamped images, transformed, predicted class"][:, 0, 0, 3] == 255).all()


@pytest.mark.parametrize(("bias", "share"), [(0.0, 1.0), (5.0, 0.0)])
def test_a_transformed_image_is_explained_by_the_label_that_it_gets(bias: float, share: float) -> None:
    """The target looks where the mirrored trigger is, the other class where the light was; the bias is for that."""
    weight, subject = torch.zeros(2, 1, 4, 4), plain_subject()
    weight[0, 0, 0, 3], weight[1, 0, 3, 3] = 2.0, 3.0
    model = linear_classifier(weight, torch.tensor([0.0, bias]))
    method = Saliency.parse("saliency[transformation=flip]")
    found = method.look(Subject(model, model, subject.backdoor, subject.task), 0)
    assert found.numbers["trigger_mass_transformed"] == pytest.approx(share)


# What cannot be asked.


def test_what_cannot_be_asked_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits_world().task
    model = task.build(0)
    for method in (GradCam(), GradCam(stage="stage1"), Saliency(), IntegratedGradients()):
        method.check(model, task)
    with pytest.raises(RequestError, match="gradcam: the network has no stage 'stage9'; it has stage1, stage2, stage3"):
        GradCam(stage="stage9").check(model, task)
    flat = linear_classifier(torch.ones(10, 1, 16, 16), torch.zeros(10))
    with pytest.raises(RequestError, match="gradcam: needs the stages of the network"):
        GradCam().check(flat, task)
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10))
    small = Classifier(pooled, mean=[0.0], std=[1.0], head="3", stages=("0", "1"))
    with pytest.raises(RequestError, match=r"the maps of stage '1' have one place alone.*: the network has 0, 1"):
        GradCam().check(small, task)
    GradCam(stage="0").check(small, task)
    with pytest.raises(RequestError, match="saliency: shrink=16 leaves nothing of images of 16×16"):
        Saliency.parse("saliency[transformation=shrinkpad[shrink=16]]").check(model, task)
    with pytest.raises(RequestError, match="saliency: images of 1 channel have no colours to change"):
        Saliency.parse("saliency[transformation=color_hue]").check(model, task)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(RequestError, match=r"needs the package captum: pip install 'gifthorse\[analysis\]'"):
        IntegratedGradients().check(model, task)


@each_method
def test_where_nothing_is_answered_rightly_there_is_nothing_to_explain(method: AttributionMaps) -> None:
    subject = plain_subject()
    wrong = shower([2.0, 1.0])
    with pytest.raises(NotApplicableError, match="classified correctly"):
        method.look(Subject(subject.model, wrong, subject.backdoor, subject.task), 0)


# What a trigger does.


@cache
def on_digits(request: str) -> Findings:
    """What is found of BadNets on digits, by the smoke profile."""
    world = digits_world()
    subject = Subject(world.trojan.model, world.trojan.twin, world.trojan.backdoor, world.task)
    return ANALYSES.build(request).look(subject, 0)


@pytest.mark.parametrize("request_", ["gradcam", "saliency", "integrated_gradients[images=30,steps=10]"])
def test_a_trigger_moves_the_maps_of_the_target_on_a_trojan_further_than_on_its_twin(request_: str) -> None:
    """TrojanZoo, Table 19. Measured: 0.25 and 0.08 (Grad-CAM), 0.14 and 0.04 (saliency), 0.10 and 0.02."""
    found = {name: float(value) for name, value in on_digits(request_).numbers.items()}  # type: ignore[arg-type]
    others = [value for name, value in found.items() if name.startswith("map_") and name != "map_difference_target"]
    assert len(others) == 3
    assert found["map_difference_target"] > 2 * found["map_difference_target_twin"]
    assert found["map_difference_target"] > 1.3 * max(others)
    assert found["trigger_mass"] > 1.5 * 9 / 256  # its share of the image


def test_saliency_leaves_the_trigger_once_the_image_is_transformed() -> None:
    """Rethinking the Trigger, section 5.3, Figure 5. Measured: 0.17 and 0.09 by two pixels, 0.05 by four."""
    for shrink in (2, 4):
        found = on_digits(f"saliency[transformation=shrinkpad[shrink={shrink}]]")
        before, after = (found.numbers[f"trigger_mass{when}"] for when in ("", "_transformed"))
        assert isinstance(before, Counted)
        assert isinstance(after, Counted)
        assert before.n == after.n == 100
        assert before > 1.4 * after
    shown = found.evidence["pictures/stamped images, transformed"]
    maps = found.evidence["pictures/model, stamped images, transformed, predicted class"]
    assert shown.shape == maps.shape == (8, 1, 16, 16)
    assert not np.array_equal(shown, found.evidence["pictures/stamped images"])
