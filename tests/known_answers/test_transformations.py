"""Every transformation against torchvision's on one image at a time, or worked out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as torchvision

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import predict
from gifthorse.core.configuration import Configuration
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive
from gifthorse.core.transformation import Transformation, one_after_the_other, random_shares
from gifthorse.core.views import DataFreeView
from gifthorse.defenses import DEFENSES
from gifthorse.stampings import STAMPS
from gifthorse.transformations import TRANSFORMATIONS
from gifthorse.transformations.appearance import turn_hue
from worlds import linear_classifier, noise_images

SHARES = torch.tensor([[0.0], [0.1], [0.25], [0.5], [0.8], [0.999]])
OWN_FACTOR = {
    "color_contrast": torchvision.adjust_contrast,
    "color_brightness": torchvision.adjust_brightness,
    "color_saturation": torchvision.adjust_saturation,
}


def colours(count: int = len(SHARES)) -> Tensor:
    """Noise, with grey, black, white, pure and two-coloured pixels among it."""
    pixels = noise_images(count, (3, 7, 9), 2).floats()
    special = [[0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
    pixels[:, :, 0, :] = torch.tensor(special).T
    return pixels


def defended(request: str, shape: tuple[int, int, int], seed: int = 0, weight: Tensor | None = None) -> CleanModel:
    defense = DEFENSES.build(request)
    model = linear_classifier(torch.zeros(2, *shape) if weight is None else weight, torch.zeros(2))
    outcome = defense.defend(DataFreeView(model, shape=shape), seed)
    assert isinstance(outcome, CleanModel)
    return outcome


def reformed(request: str, pixels: Tensor, seed: int = 0) -> Tensor:
    reform = defended(request, tuple(pixels.shape[1:]), seed).reform  # type: ignore[arg-type]
    assert reform is not None
    return reform(pixels)


@pytest.mark.parametrize("most", [0.1, 0.4, 1.5])
@pytest.mark.parametrize("name", OWN_FACTOR)
def test_every_image_has_its_own_factor_and_looks_as_torchvision_makes_it_look(name: str, most: float) -> None:
    """Factors go evenly from 1 − m, but not below 0, to 1 + m."""
    found = TRANSFORMATIONS.build(f"{name}[max_change={most}]").apply(colours(), SHARES)
    for image, before, share in zip(found, colours(), SHARES.squeeze(1).tolist(), strict=True):
        least = max(0, 1 - most)
        factor = least + share * (1 + most - least)
        torch.testing.assert_close(image, OWN_FACTOR[name](before, factor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("most", [0.1, 0.5])
def test_every_image_has_its_own_turn_of_hue_and_looks_as_torchvision_makes_it_look(most: float) -> None:
    found = TRANSFORMATIONS.build(f"color_hue[max_change={most}]").apply(colours(), SHARES)
    for image, before, share in zip(found, colours(), SHARES.squeeze(1).tolist(), strict=True):
        expected = torchvision.adjust_hue(before, most * (2 * share - 1))
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


def test_a_third_of_the_circle_makes_red_green() -> None:
    red = torch.tensor([0.9, 0.2, 0.2]).view(1, 3, 1, 1)
    green = torch.tensor([0.2, 0.9, 0.2]).view(1, 3, 1, 1)
    torch.testing.assert_close(turn_hue(red, torch.tensor([[1 / 3]])), green)
    torch.testing.assert_close(turn_hue(green, torch.tensor([[-1 / 3]])), red)


def test_the_contrast_of_a_grey_image_is_about_its_mean() -> None:
    pixels = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2)
    found = TRANSFORMATIONS.build("color_contrast[max_change=1.0]").apply(pixels, torch.tensor([[0.25]]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.3, 0.5]))


def test_resizing_is_torchvisions_down_and_up() -> None:
    pixels = noise_images(4, (3, 12, 17), 2).floats()
    small = torchvision.resize(pixels, [6, 8], antialias=True)
    torch.testing.assert_close(reformed("resize", pixels), torchvision.resize(small, [12, 17]), atol=1e-5, rtol=0)


def test_a_crop_is_a_window_of_the_padded_image_at_every_place() -> None:
    pixels = 0.1 + 0.9 * noise_images(500, (1, 5, 6), 2).floats()
    padded = torch.nn.functional.pad(pixels, [2, 2, 2, 2])
    found, places = reformed("crop[padding=2]", pixels), []
    for image, source in zip(found, padded, strict=True):
        windows = [source[:, top : top + 5, left : left + 6] for top in range(5) for left in range(5)]
        (place,) = [number for number, window in enumerate(windows) if torch.equal(window, image)]
        places.append(place)
    counts = torch.tensor(places).bincount(minlength=25)
    assert counts.min() > 5
    assert counts.max() < 45


def test_noise_has_the_deviation_that_is_said_in_levels_of_255_and_is_another_in_every_image() -> None:
    pixels = 0.4 + 0.2 * noise_images(6, (3, 40, 40), 2).floats()
    noise = reformed("gaussian_noise[std=10]", pixels) - pixels
    assert float(noise.std() * 255) == pytest.approx(10, rel=0.02)
    assert abs(float(noise.mean() * 255)) < 0.3
    assert float((noise.abs() * 255 > 20).float().mean()) == pytest.approx(0.0455, abs=0.006)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.05
    bright = reformed("gaussian_noise[std=20]", torch.ones(1, 1, 30, 30))
    assert bright.max() == 1
    assert bright.min() > 0.5


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_an_image_is_treated_alone_as_in_a_batch_and_otherwise_with_another_seed(name: str) -> None:
    pixels = noise_images(5, (3, 12, 10), 2).floats()
    together = reformed(name, pixels)
    torch.testing.assert_close(torch.cat([reformed(name, each) for each in pixels.split(1)]), together)
    assert torch.equal(reformed(name, pixels), together)
    assert torch.equal(reformed(name, pixels, 1), together) == (TRANSFORMATIONS[name]().draws((3, 12, 10)) == 0)
    assert together.shape == pixels.shape
    assert together.min() >= 0
    assert together.max() <= 1


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_transformation_is_a_defense_of_the_same_name_and_settings(name: str) -> None:
    assert TRANSFORMATIONS[name]().to_dict() == DEFENSES[name]().to_dict()
    assert isinstance(DEFENSES[name](), Transformation)


@pytest.mark.parametrize("order", [("resize", "crop"), ("crop", "resize")])
def test_a_compound_is_one_after_the_other(order: tuple[str, str]) -> None:
    pixels = noise_images(5, (1, 12, 12), 2).floats()
    first, second = map(TRANSFORMATIONS.build, order)
    shares = random_shares((first, second), pixels, derive(0, "transformation")).squeeze(1)
    expected = second.apply(first.apply(pixels, shares[:, : first.draws((1, 12, 12))]), shares[:, -2:])
    found = reformed(f"transformation[transforms=[{','.join(order)}]]", pixels)
    assert torch.equal(found, expected)
    assert not torch.equal(found, one_after_the_other((second, first), pixels, shares))


def test_parts_of_a_compound_draw_numbers_of_their_own() -> None:
    """Two crops by one pixel each move an image by two pixels in one case of nine, and leave it in its row in three."""
    pixels = torch.zeros(600, 1, 9, 9)
    pixels[:, 0, 4, 4] = torch.linspace(0.1, 1, 600)
    found = reformed("transformation[transforms=[crop[padding=1],crop[padding=1]]]", pixels)
    rows = found.sum((1, 3)).argmax(1) - 2
    assert rows.bincount(minlength=5).tolist() == pytest.approx([66.7, 133.3, 200, 133.3, 66.7], abs=40)


def test_votes_are_the_mean_probability_over_places() -> None:
    """A white pixel that a crop moves to one of nine places, each with a logit of its own."""
    weight = torch.zeros(2, 1, 5, 5)
    weight[1, 0, 1:4, 1:4] = torch.linspace(-4, 6, 9).view(3, 3)
    pixels = torch.zeros(1, 1, 5, 5)
    pixels[0, 0, 2, 2] = 1
    expected = float(weight[1, 0, 1:4, 1:4].sigmoid().mean())
    voting = defended("transformation[transforms=[crop[padding=1]],votes=3000]", (1, 5, 5), weight=weight)
    answer = voting.model(pixels).exp()
    assert float(answer.sum()) == pytest.approx(1, abs=1e-5)
    assert float(answer[0, 1]) == pytest.approx(expected, abs=0.03)
    once = defended("transformation[transforms=[crop[padding=1]]]", (1, 5, 5), weight=weight)
    assert voting.reform is not None
    assert once.reform is not None
    assert torch.equal(voting.reform(pixels), once.reform(pixels))
    assert abs(float(predict(once.model, pixels).softmax(1)[0, 1]) - expected) > 0.05


def test_many_votes_of_many_images_are_those_of_each_alone() -> None:
    pixels, weight = noise_images(70, (1, 6, 6), 2).floats(), torch.randn(2, 1, 6, 6, generator=torch.manual_seed(0))
    voting = defended("transformation[transforms=[crop[padding=2],color_contrast],votes=5]", (1, 6, 6), weight=weight)
    with torch.inference_mode():
        alone = torch.cat([voting.model(each) for each in pixels.split(1)])
        torch.testing.assert_close(voting.model(pixels), alone)


@pytest.mark.parametrize(
    ("request_", "shape", "reason"),
    [
        ("color_hue", (1, 12, 12), "images of 1 channel have no colours to change"),
        ("color_saturation", (1, 12, 12), "images of 1 channel have no colours to change"),
        ("transformation[transforms=[flip,color_hue]]", (2, 12, 12), "images of 2 channels have no colours to change"),
        ("crop", (3, 4, 12), "padding=4 leaves nothing of images of 4×12"),
        ("shrinkpad", (3, 12, 3), "shrink=4 leaves nothing of images of 12×3"),
        ("transformation", (3, 12, 12), None),
        ("color_hue", (3, 12, 12), None),
        ("color_contrast", (1, 12, 12), None),
    ],
)
def test_what_does_not_suit_the_images_is_skipped_in_a_sentence(
    request_: str, shape: tuple[int, int, int], reason: str | None
) -> None:
    defense: Defense[Any] = DEFENSES.build(request_)
    view = DataFreeView(linear_classifier(torch.zeros(2, *shape), torch.zeros(2)), shape=shape)
    assert defense.skip(view) == reason
    if reason is not None:
        compound = request_.startswith("transformation")
        stamp = STAMPS.build(
            request_.replace("transformation", "transformed") if compound else f"transformed[transforms=[{request_}]]"
        )
        with pytest.raises(RequestError, match=f"transformed.*: {reason}"):
            stamp.check(shape)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ("transformation[transforms=[flip,resize],votes=3]", "votes=3 of nothing random would all be the same"),
        ("transformation[transforms=[]]", "at least 1"),
        ("transformation[transforms=[flop]]", "no transformation is called 'flop'; did you mean 'flip'"),
        ("transformation[transforms=[crop[padding=0]]]", "greater than or equal to 1"),
        ("color_hue[max_change=0.6]", "less than or equal to 0.5"),
        ("gaussian_noise[std=0]", "greater than 0"),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence(request_: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        DEFENSES.build(request_)


def test_what_a_compound_leaves_open_is_asked_of_the_profile() -> None:
    found: Configuration | None = resolve(dataset="digits", defense="transformation", profile="laptop").defense
    assert str(found) == "transformation[transforms=[flip,shrinkpad[shrink=2]]]"
